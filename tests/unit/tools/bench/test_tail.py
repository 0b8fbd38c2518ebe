"""The benchmark on long-tailed data: its methods, a grid that goes on, and the table of the guide."""

import json

import pytest

from drawstream.tools.bench.tail.grid import METHODS, methods_of, sampling_of
from drawstream.tools.bench.tail.page import guide_table, published, tables, verdict
from drawstream.tools.cli.app import main
from drawstream.tools.cli.grids import TailGrid
from drawstream.tools.experiments import Row, entries_of
from drawstream.tools.jobs import train as jobs
from shared.programs import cli
from shared.refusals import refused


def test_methods_and_what_they_draw():
    assert methods_of(TailGrid()) == METHODS and methods_of(TailGrid(methods=("drw",))) == ("uniform", "drw")
    assert sampling_of("balance-0.25").balance.balance == 0.25 and sampling_of("drw").sampler is None
    assert sampling_of("progressive").method == "progressive"
    refused("unknown methods 'balance-2'", methods_of, TailGrid(methods=("balance-2",)))
    refused("methods must be given and differ", methods_of, TailGrid(methods=("drw", "drw")))


def test_a_grid_is_run_once_and_compared_with_uniform(tmp_path, monkeypatch):
    line = ("bench", "tail", "--data", "digits", "--imbalance", 20, "--epochs", 2, "--seeds", "0,1", "-o", tmp_path)
    line = (*line, "--processes", 1)
    told = cli(*line, "--methods", "balanced", "--json", tmp_path / "out.json")
    assert "balanced accuracy less uniform's:" in told and "4/4 seed 1, balanced" in told
    found = json.loads((tmp_path / "out.json").read_text())
    assert [(row["method"], row["seed"]) for row in found["rows"]] == [
        (method, seed) for seed in (0, 1) for method in ("uniform", "balanced")
    ]
    uniform, balanced = found["rows"][:2]
    assert balanced["class_shares"] == pytest.approx([0.1] * 10, abs=0.05)
    assert uniform["class_shares"] == pytest.approx([n / sum(uniform["class_rows"]) for n in uniform["class_rows"]])
    assert uniform["class_rows"][0] > 15 * uniform["class_rows"][9]

    trained = []
    whole = jobs.prepare_training
    monkeypatch.setattr(jobs, "prepare_training", lambda job: trained.append(job.method) or whole(job))
    monkeypatch.setattr(jobs, "train", None)  # nothing is trained again
    assert main([*map(str, line), "--methods", "balanced"]) == 0 and len(trained) == 4
    assert "imbalance 20" in cli(*line, "--imbalance", 5, status=2)


def test_the_guide_shows_the_run_that_is_kept(request):
    guide = (request.config.rootpath / "docs/long-tail.md").read_text(encoding="utf-8")
    assert guide_table() in guide
    found = published()
    gains = {each["method"]: each["balanced"] for each in found["summary"]}
    assert max(gains.values()) >= gains["uniform"] + 5 and {row["seed"] for row in found["rows"]} == {0, 1, 2}


def test_the_table_has_the_gain_and_the_groups():
    def row(method, seed, balanced):
        groups = {"many": 90.0, "medium": None, "few": balanced - 5}
        values = {"balanced": balanced, "last": balanced, **groups, "seconds": 1.0, "shots": {"rule": "a rule"}}
        return Row(method, {"imbalance": 100.0}, seed, values)

    rows = [row("uniform", seed, 50.0 + seed) for seed in range(3)]
    rows += [row("balanced", seed, 60.0 + seed) for seed in range(3)]
    (table,) = tables(entries_of(rows))
    assert table.head == ("", "balanced accuracy", "less uniform (95 % interval)", "many", "few", "training s")
    assert table.rows[1][:3] == ("balanced", "61.00 ± 1.00", "+10.00 (+10.00 to +10.00)")
    assert table.title.endswith("per cent; a rule")
    assert verdict(entries_of(rows)) == [
        "imbalance 100, balanced accuracy less uniform's: better: balanced +10.00 (+10.00 to +10.00)"
    ]
