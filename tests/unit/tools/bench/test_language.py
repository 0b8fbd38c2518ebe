"""The benchmark of language modelling: rows of text, the model, a grid that goes on, and the table."""

import json

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from drawstream.tools.bench.language.grid import LanguageCell, perplexity, tables
from drawstream.tools.bench.language.model import GPT
from drawstream.tools.bench.language.text import read_text
from drawstream.tools.cli.app import main
from drawstream.tools.experiments.results import Row, entries_of
from shared.programs import cli

TINY = ("--width", "16", "--layers", "1", "--heads", "2", "--epochs", "2", "--trials", "4", "--length", "8")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A text in three files: a sentence that comes again and again."""
    out = tmp_path_factory.mktemp("text")
    for name, times in (("wiki.train.tokens", 120), ("wiki.valid.tokens", 20), ("wiki.test.tokens", 20)):
        (out / name).write_text("the cat sat on the mat . a dog ran by <unk> \n" * times)
    return out


def test_parts_are_files_and_words_have_numbers_of_the_training_part(folder):
    text = read_text(str(folder), length=8, vocabulary=6, shuffled=0.0, seed=0)
    assert [len(part) for part in (text.train, text.held_out, text.test)] == [179, 29, 29]
    assert text.words == 6 and int(text.train.max()) == 5 and not text.shuffled.any()
    assert text.train[0, -1] == text.train[1, 0]  # predicted in one, read in the next
    assert (text.train == 1).sum() >= (text.train == 2).sum()  # the most common word
    mixed = read_text(str(folder), length=8, vocabulary=6, shuffled=0.5, seed=1)
    assert 0.4 < mixed.shuffled.mean() < 0.6
    assert torch.equal(mixed.train.sort(1).values, text.train.sort(1).values)
    np.testing.assert_allclose(mixed.frequency, text.frequency, rtol=1e-5)
    assert mixed.fingerprint != text.fingerprint
    for length, law in ((5000, "train has 1440 words"), (8, "must hold one file")):
        with pytest.raises(ValueError, match=law):
            read_text(str(folder if length == 5000 else folder.parent), length=length, vocabulary=6, shuffled=0, seed=0)


def test_the_built_in_text_has_three_parts():
    text = read_text("python", length=32, vocabulary=500, shuffled=0.0, seed=0)
    assert len(text.train) > 7 * len(text.test) > 0 and len(text.held_out) > 0 and text.words == 500


def test_the_model_sees_no_word_ahead_and_its_blocks_differ():
    model, windows = GPT(50, 16, width=16, layers=2, heads=2, seed=0).eval(), torch.randint(0, 50, (2, 16))
    other = windows.clone()
    other[:, 9:] = 1
    torch.testing.assert_close(model(windows)[:, :9], model(other)[:, :9])
    first, second = (layer.linear1.weight for layer in model.blocks.layers)
    assert not torch.equal(first, second)


def test_perplexity_is_that_of_all_words():
    model, windows = GPT(50, 16, width=16, layers=1, heads=2, seed=0), torch.randint(0, 50, (300, 17))
    with torch.inference_mode():
        loss = F.cross_entropy(model.eval()(windows[:, :-1]).flatten(0, 1), windows[:, 1:].flatten())
    assert perplexity(model, windows) == pytest.approx(float(loss.exp()), rel=1e-5)


def test_the_command_trains_searches_and_goes_on(folder, tmp_path, monkeypatch):
    out, path = tmp_path / "out", tmp_path / "language.json"
    command = ["bench", "language", "--text", str(folder), *TINY, "--shuffled", ".4", "-o", str(out)]
    assert main([*command, "--dry-run"]) == 0 and not out.exists()
    assert "40% shuffled windows, 1 seed(s)" in cli(*command, "--json", path)
    result = json.loads(path.read_text())
    uniform, swift = result["rows"]
    assert (uniform["method"], swift["method"]) == ("uniform", "swift")
    assert 1 < uniform["test"] < 30 and uniform["ess"] == pytest.approx(1)
    assert 30 < uniform["shuffled_drawn"] < 50 and swift["search_seconds"] > 0
    if swift["winner"] == "uniform":
        assert swift["test"] == uniform["test"]
    monkeypatch.setattr(LanguageCell, "descend", lambda *_: pytest.fail("trained again"))
    (out / "language.json").unlink()
    assert main(command) == 0
    rows = json.loads((out / "language.json").read_text())["rows"]
    assert [each["test"] for each in rows] == [uniform["test"], swift["test"]]
    assert "started with length 8, not 9" in cli(*command, "--length", "9", status=2)


def test_lower_is_better_in_the_table():
    def row(method, seed, test):
        numbers = {"ess": 1.0, "shuffled_drawn": 0.0, "search_seconds": 0.0, "train_seconds": 1.0}
        return Row(method, {"text": "t", "shuffled": 0.0}, seed, numbers | {"validation": test, "test": test})

    rows = [row("uniform", 0, 24.0), row("uniform", 1, 25.0), row("swift", 0, 22.0), row("swift", 1, 22.5)]
    (table,) = tables(entries_of(rows))
    assert "+2.25" in table.text() and "22.25 ± 0.35" in table.text()
