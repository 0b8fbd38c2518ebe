"""The benchmark on classes that were never trained on: its tasks, its data, and a grid that goes on."""

import json

import numpy as np
import pytest

from drawstream.pipeline.shards import Catalog
from drawstream.pipeline.sources import ArraySource
from drawstream.tools.bench.novel.grid import SomeClasses, tables, verdicts
from drawstream.tools.bench.novel.tasks import _best_threshold, few_shot, unit, verification
from drawstream.tools.cli.app import main
from drawstream.tools.experiments.results import Row, entries_of
from drawstream.tools.jobs import train as jobs
from shared.programs import cli
from shared.refusals import refused


def clouds(spread, classes=4, rows=50, width=16):
    """Embeddings around a direction per class."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(classes), rows)
    centres = np.linalg.qr(rng.standard_normal((width, width)))[0][:classes]
    return unit((centres[labels] + spread * rng.standard_normal((labels.size, width))).astype(np.float32)), labels


def test_clear_classes_are_told_and_noise_is_chance():
    clear, labels = clouds(0.01)
    assert few_shot(clear, labels, ways=4, shots=1, seed=0) == verification(clear, labels, seed=0) == 100
    noise = unit(np.random.default_rng(1).standard_normal(clear.shape).astype(np.float32))
    assert few_shot(noise, labels, ways=4, shots=5, seed=0) == pytest.approx(25, abs=4)
    assert verification(noise, labels, seed=0) == pytest.approx(50, abs=4)


def test_more_shots_tell_more():
    e, labels = clouds(0.6)
    found = [few_shot(e, labels, ways=4, shots=shots, seed=0) for shots in (1, 5, 10)]
    assert 40 < found[0] < found[1] < found[2] < 100
    assert found[0] == few_shot(e, labels, ways=4, shots=1, seed=0)
    refused("5-way 1-shot needs more than 4 classes of 50 rows", few_shot, e, labels, ways=5, shots=1, seed=0)


def test_the_threshold_makes_the_fewest_errors():
    rng = np.random.default_rng(2)
    cosines, same = rng.random(101).astype(np.float32), rng.random(101) < 0.5
    errors = [((cosines > each) != same).sum() for each in np.r_[-1, cosines, 2]]
    assert ((cosines > _best_threshold(cosines, same)) != same).sum() == min(errors)


def test_classes_are_taken_with_their_names():
    source = ArraySource(np.arange(48, dtype=np.uint8).reshape(12, 2, 2), np.arange(12) % 4, tuple("abcd"))
    some = SomeClasses.of(source, np.array([1, 3]))
    assert some.classes == ("b", "d") and some.labels.tolist() == [0, 1] * 3 and len(some) == 6
    assert some.read(1).tolist() == source.images[3].tolist() and some.key(1) == source.key(3)


def test_the_command_holds_classes_out_and_goes_on(shrink, monkeypatch, tmp_path):
    shrink(monkeypatch)
    out, path = tmp_path / "out", tmp_path / "novel.json"
    command = ["bench", "novel", "--data", "digits", "--noise", "0.4", "--shots", "1,5", "-o", str(out)]
    assert main([*command, "--dry-run"]) == 0 and not out.exists()
    assert "40% wrong labels, 4 classes held out, 1 seed(s)" in cli(*command, "--json", path)
    uniform, swift = json.loads(path.read_text())["rows"]
    assert (uniform["method"], swift["method"]) == ("uniform", "swift")
    assert 25 < uniform["1-shot"] < uniform["5-shot"] <= 100 and 50 < uniform["verification"] <= 100
    cell = out / "noise-0.4/seed-0"
    trained, held = (Catalog.open(cell / name).classes for name in ("data/train", "novel"))
    assert len(trained) == 6 and len(held) == 4 and not set(trained) & set(held)
    monkeypatch.setattr(jobs, "train", lambda *_, **__: pytest.fail("trained again"))
    (out / "novel.json").unlink()
    assert main(command) == 0
    assert [each["verification"] for each in json.loads((out / "novel.json").read_text())["rows"]] == [
        uniform["verification"],
        swift["verification"],
    ]


def test_a_folder_of_two_sets_is_taken(shrink, monkeypatch, tmp_path):
    shrink(monkeypatch)
    rng = np.random.default_rng(0)
    for name, rows in (("train", 900), ("test", 300)):
        (tmp_path / name).mkdir()
        np.save(tmp_path / name / "images.npy", rng.integers(0, 256, (rows, 8, 8, 3), dtype=np.uint8))
        np.save(tmp_path / name / "labels.npy", np.arange(rows) % 10)
    command = ["bench", "novel", "--data", str(tmp_path), "--model", "mlp", "--epochs", "1", "--methods", "uniform"]
    assert main([*command, "-o", str(tmp_path / "out")]) == 0
    (row,) = json.loads((tmp_path / "out/novel.json").read_text())["rows"]
    assert 10 < row["5-shot"] < 50


def test_words_and_table():
    rows = [
        Row(method, {"noise": 0.0, "novel": 4}, seed, {"base": base + seed, "search_seconds": 0.0})
        for method, base in (("uniform", 70), ("swift", 72))
        for seed in (0, 1)
    ]
    (table,), (line,) = (kind(entries_of(rows), ["base"]) for kind in (tables, verdicts))
    assert "72.50 ± 0.71" in table.text() and "better: swift +2.00" in line
