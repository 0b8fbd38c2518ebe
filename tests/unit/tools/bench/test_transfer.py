"""The transfer study: whose sampler each run follows, its table, and that a killed one goes on."""

import json
from dataclasses import replace

import numpy as np
import pytest

from drawstream.features import FeatureTable
from drawstream.samplers import IndexStream, SwiftSampler
from drawstream.tools import demo
from drawstream.tools.bench.noise import bench as noise
from drawstream.tools.bench.transfer import METHODS, format_table, run, summarise
from drawstream.tools.cli.app import main
from drawstream.tools.training.loop import Recipe
from drawstream.tools.training.transfer import carry


@pytest.fixture(scope="module")
def studied(tmp_path_factory):
    """One seed of a small plan, the folder and the result: 400 digits, two epochs, four candidates."""
    with pytest.MonkeyPatch.context() as patch:
        few = {"limit": 500, "holdout": 100, "confirm_top": 1, "fine_tune": Recipe(1, 0.02), "confirm": Recipe(1, 0.02)}
        patch.setitem(demo.PLANS, "digits", replace(demo.PLANS["digits"], recipe=Recipe(2, 0.05), **few))
        patch.setitem(noise.CHANGED, "digits", {"trials": 4, "confirm_seeds": 2})
        out = tmp_path_factory.mktemp("transfer")
        yield out, run("digits", out, targets=["mlp-64"], seeds=[3])


def test_rows(studied):
    out, result = studied
    rows = result["rows"]
    assert [(row["target"], row["method"]) for row in rows] == [
        ("mlp", "uniform"), ("mlp", "own"), *(("mlp-64", method) for method in METHODS)
    ]  # fmt: skip
    assert [row["gain"] for row in rows if row["method"] == "uniform"] == [0, 0]
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
    again = run("digits", out, targets=["mlp-64"], seeds=[3])
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    timeless = [{key: row[key] for key in row if key != "train_seconds"} for row in again["rows"]]
    assert timeless == [{key: row[key] for key in row if key != "train_seconds"} for row in result["rows"]]
    assert "frozen" in capsys.readouterr().out


def test_summary_and_table():
    rows = [
        {"source": "a", "target": "b", "method": method, "seed": seed, "last": last, "best": 80.0, "gain": last - 70,
         "ess": 0.5, "wrong": 10.0, "winner": winner, "search_seconds": 1.0, "train_seconds": 2.0}
        for method, values, winner in (("uniform", (70, 70), None), ("refit", (72, 78), "uniform"))
        for seed, last in enumerate(values)
    ]  # fmt: skip
    summary = summarise(rows)
    assert (summary[1]["last"], summary[1]["gain"], summary[1]["better"]) == (75, 5, 2)
    assert summary[1]["gain_std"] == pytest.approx(np.std([2, 8], ddof=1))
    text = format_table(summary)
    assert "75.00 ± 4.24" in text and "+5.00 ± 4.24" in text and "2/2" in text
    assert "refit *" in text and "their sampler is the uniform one" in text
    assert "±" not in format_table(summarise(rows[::2]))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--data", "letters"], "no plan for 'letters'"),
        (["--targets", "mlp"], "also from the source mlp"),
        (["--seeds", "0,0"], "distinct `seeds >= 0`"),
        (["--noise", "1"], "`0 <= noise < 1`"),
    ],
)
def test_bad_options(options, text, capsys, tmp_path):
    assert main(["bench", "transfer", "-o", str(tmp_path / "out"), *options]) == 2
    assert text in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
