"""The transfer study: whose sampler each run follows, its table, and that a killed one goes on."""

import json
from dataclasses import replace

import pytest

from drawstream.features.table import FeatureTable
from drawstream.samplers.orders import IndexStream
from drawstream.samplers.swift import SwiftSampler
from drawstream.tools.bench.transfer import METHODS, run_transfer, summarise, tables
from drawstream.tools.cli import TransferGrid
from drawstream.tools.experiments.results import Row, entries_of
from drawstream.tools.training.loop import Recipe
from drawstream.tools.training.transfer import carry

GRID = TransferGrid(data="digits", model="mlp", targets=("mlp-64",), seeds=(3,))


@pytest.fixture(scope="module")
def studied(tmp_path_factory, shrink):
    """One seed of a small plan, the folder and the result: 400 digits, two epochs, four candidates."""
    with pytest.MonkeyPatch.context() as patch:
        shrink(patch, recipe=Recipe(2, 0.05))
        out = tmp_path_factory.mktemp("transfer")
        yield out, run_transfer(replace(GRID, out=out))


def test_rows(studied):
    out, result = studied
    rows = result["rows"]
    assert [(row["target"], row["method"]) for row in rows] == [
        ("mlp", "uniform"), ("mlp", "own"), *(("mlp-64", method) for method in METHODS)
    ]  # fmt: skip
    assert [each["gain"]["points"] for each in result["summary"] if each["method"] == "uniform"] == [0, 0]
    for row in rows:
        assert row["source"] == "mlp" and row["seed"] == 3 and row["noise"] == 0.4
        record = json.loads((out / f"seed-3/{row['target']}/{row['method']}/run.json").read_text())
        assert record["history"][-1]["accuracy"]["test"] == row["last"]
        assert (row["search_seconds"] > 0) == (row["method"] == "own")
    assert rows[0]["wrong"] == pytest.approx(40, abs=1)
    assert json.loads((out / "transfer.json").read_text())["rows"] == rows


def test_whose_sampler_and_whose_features(studied):
    """Every run followed the stream of P as the method says, and no other."""
    out, _ = studied
    source, target = out / "seed-3/mlp", out / "seed-3/mlp-64"
    sampler = SwiftSampler.load(source / "search-swift-clean/sampler.json")
    mine, theirs = FeatureTable.open(target / "features"), FeatureTable.open(source / "features")
    assert mine.fingerprint != theirs.fingerprint
    columns = mine.columns("loss", "entropy")
    wanted = {
        "refit": carry(sampler, mine).probabilities(columns),
        "frozen": sampler.probabilities(columns),
        "same-p": sampler.probabilities(theirs.columns("loss", "entropy")),
        "own": SwiftSampler.load(target / "search-swift-clean/sampler.json").probabilities(columns),
    }
    for method, p in wanted.items():
        followed = json.loads((target / method / "run.json").read_text())["stream"]
        assert followed == IndexStream(p, seed=3).fingerprint, method


def test_a_finished_study_is_read_and_an_unfinished_one_goes_on(studied, capsys):
    out, result = studied
    run_of_frozen = out / "seed-3/mlp-64/frozen/run.json"
    kept = {path: path.stat().st_mtime_ns for path in out.rglob("run.json") if path != run_of_frozen}
    run_of_frozen.unlink()
    again = run_transfer(replace(GRID, out=out))
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    timeless = [{key: row[key] for key in row if key != "train_seconds"} for row in again["rows"]]
    assert timeless == [{key: row[key] for key in row if key != "train_seconds"} for row in result["rows"]]
    assert "frozen" in capsys.readouterr().out


def test_summary_and_table():
    rows = [
        Row(method, {"source": "a", "target": "b", "noise": 0.4}, seed, {"last": last, "best": 80.0, "top5": 99.0,
            "ess": 0.5, "wrong": 10.0, "winner": winner, "search_seconds": 1.0, "train_seconds": 2.0})
        for method, values, winner in (("uniform", (70, 70), None), ("refit", (72, 78), "uniform"))
        for seed, last in enumerate(values)
    ]  # fmt: skip
    summary = summarise(entries_of(rows))
    assert (summary[1]["last"], summary[1]["gain"]["points"], summary[1]["gain"]["higher"]) == (75, 5, 2)
    assert summary[1]["kept_uniform"] == 2
    (table,) = tables(entries_of(rows))
    text = table.text()
    assert "75.00 ± 4.24" in text and "+5.00 (−33.12 to +43.12), higher at 2/2" in text
    assert "refit *" in text and "some searches kept uniform" in text
    assert "±" not in tables(entries_of(rows[::2]))[0].text()
