"""The example on text runs as its docstring says, and its parts do what they say."""

import runpy
import sys

import numpy as np
import pytest
import torch

from drawstream.features.custom import call_measure
from drawstream.tools.examples import text


def test_sides_share_no_window_and_shuffling_keeps_the_words():
    plain, shuffled = (text.read_text(1000, share, seed=1) for share in (0.0, 0.5))
    assert [len(side) for side in (plain.train, plain.held_out, plain.test)] == [800, 100, 100]
    assert not plain.shuffled.any() and 0.4 < shuffled.shuffled.mean() < 0.6
    kept = ~torch.from_numpy(shuffled.shuffled)
    assert torch.equal(shuffled.train[kept], plain.train[kept])
    assert torch.equal(shuffled.train.sort(1).values, plain.train.sort(1).values)
    assert not torch.equal(shuffled.train[~kept], plain.train[~kept])
    np.testing.assert_allclose(shuffled.frequency, plain.frequency, rtol=1e-5)  # blind to the order of words


def test_perplexity_is_a_measure_of_the_extraction():
    z, y = torch.zeros(5, 16, text.VOCABULARY), torch.zeros(5, 16, dtype=torch.int64)
    columns = call_measure(text.perplexity, z, y, None)
    assert columns["perplexity"].shape == (5,)
    assert columns["perplexity"].tolist() == pytest.approx([text.VOCABULARY] * 5, rel=1e-4)


def test_the_model_sees_no_word_ahead():
    model, windows = text.Model(0), torch.randint(0, text.VOCABULARY, (2, 16))
    other = windows.clone()
    other[:, 9:] = 1
    assert torch.equal(model(windows)[:, :9], model(other)[:, :9])


def test_a_short_run(monkeypatch, capsys):
    options = ["--limit", "500", "--epochs", "1", "--trials", "4", "--confirm-seeds", "2", "--seeds", "1"]
    monkeypatch.setattr(sys, "argv", ["text", *options])
    runpy.run_path(text.__file__, run_name="__main__")
    shown = capsys.readouterr().out
    assert "400 training windows of 16 words" in shown
    lines = {line.split()[2]: float(line.split()[-1]) for line in shown.splitlines() if "test perplexity" in line}
    assert set(lines) == {"uniform", "swift"}
    assert all(10 < value < text.VOCABULARY for value in lines.values())


@pytest.mark.slow
def test_the_default_run_is_never_worse_than_uniform():
    torch.set_num_threads(1)
    found = text.run(limit=6000, shuffled=0.4, epochs=4, trials=12, confirm_seeds=2, seeds=2)
    assert np.mean(found["swift"]) <= np.mean(found["uniform"])  # equal where uniform wins the confirmation
    if found["winner"] == "swift":
        assert found["shuffled_drawn"] < 0.4
