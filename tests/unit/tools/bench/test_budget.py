"""The budget benchmark on a few digits: its rows, its controls, and that neither a kill nor processes change them."""

import json
import math
from dataclasses import replace

import pytest

from drawstream.pipeline import Catalog
from drawstream.tools import demo
from drawstream.tools.bench.budget import bench
from drawstream.tools.bench.budget import grid as budget_grid
from drawstream.tools.bench.budget.bench import common_of, remaining, remember, run
from drawstream.tools.bench.budget.grid import METHODS, Grid, Point, Task, run_point
from drawstream.tools.cli.app import main
from drawstream.tools.training.loop import Recipe

KEYS = {"method", "budget", "augment", "schedule", "seed", "last", "best", "seconds", "forward", "backward"}
KEYS |= {"count_entropy"}
ROWS, EPOCHS = 400, 2


@pytest.fixture(autouse=True)
def small_plan(monkeypatch):
    """2 epochs on 400 digits."""
    plan = replace(demo.PLANS["digits"], limit=500, holdout=100, recipe=Recipe(EPOCHS, 0.05))
    monkeypatch.setitem(demo.PLANS, "digits", plan)


def results(result):
    """The rows without times."""
    return [{key: value for key, value in row.items() if key != "seconds"} for row in result["rows"]]


def test_every_method_at_the_command_line(tmp_path, capsys):
    path = tmp_path / "budget.json"
    arguments = ["--data", "digits", "--methods", "all", "--budgets", "0.5", "--schedules", "linear", "--seeds", "3"]
    out = tmp_path / "out"
    assert main(["bench", "budget", *arguments, "--processes", "1", "-o", str(out), "--json", str(path)]) == 0
    result = json.loads(path.read_text())
    assert all(set(row) >= KEYS for row in result["rows"])
    grid = [row for row in result["rows"] if row["budget"] in (0.5, 1.0)]
    assert sorted(row["method"] for row in grid) == sorted(METHODS)
    rows = {row["method"]: row for row in grid}
    full, half = ROWS * EPOCHS, ROWS * EPOCHS // 2
    assert (rows["full"]["forward"], rows["full"]["backward"]) == (full, full)
    for name in ("unif", "scan", "p", "c", "p-paper", "c-paper", "osgd", "coreset-random", "coreset-forgetting"):
        assert abs(rows[name]["backward"] - half) <= 32 * EPOCHS  # fill of the last batches
    assert rows["full"]["count_entropy"] == pytest.approx(math.log(ROWS))
    assert rows["coreset-random"]["count_entropy"] == pytest.approx(math.log(ROWS / 2))
    assert rows["coreset-k_center"]["effective_rows"] == pytest.approx(0.5)
    assert rows["coreset-random"]["count_entropy"] < min(rows["p"]["count_entropy"], rows["unif"]["count_entropy"])
    assert rows["sb"]["forward"] >= full  # all rows are scored
    assert rows["sb"]["effective_budget"] > rows["unif"]["effective_budget"]
    for name, least in (("coreset-forgetting", 1.0), ("coreset-k_center", 1.0), ("rho", 100 / ROWS), ("unif", 0.0)):
        assert rows[name]["prepare_budget"] == pytest.approx(least, abs=0.2)
    controls = [row for row in result["rows"] if row["method"] == "unif" and row["budget"] != 0.5]
    assert controls
    assert all(each["control"] in ("unif", "full") for each in result["comparisons"])
    assert len(result["comparisons"]) == len(METHODS) - 2
    shown = capsys.readouterr().out
    assert "no augmentation, linear schedule, 1 seed(s)" in shown
    assert "One seed has no standard deviation" in shown
    assert "training time of p relative to unif" in shown
    page = (out / "budget.html").read_text()
    assert ">unif</th>" in page
    assert "One seed has no standard deviation" in page
    assert json.loads((out / "budget.json").read_text())["rows"] == result["rows"]


def test_a_killed_benchmark_goes_on_to_the_same_rows(tmp_path, monkeypatch):
    grid = Grid(("p", "coreset-forgetting"), (0.5,), schedules=("step",), seeds=(0, 1))
    whole = run(common_of("digits", tmp_path / "whole"), grid, tmp_path / "whole")
    train_job = budget_grid.train_job
    calls = 0

    def killed(*arguments, **keywords):
        """Stops before the fourth run."""
        nonlocal calls
        calls += 1
        if calls == 4:
            raise KeyboardInterrupt
        return train_job(*arguments, **keywords)

    monkeypatch.setattr(budget_grid, "train_job", killed)
    common = common_of("digits", tmp_path / "part")
    with pytest.raises(KeyboardInterrupt):
        run(common, grid, tmp_path / "part")
    assert len(remaining(grid, tmp_path / "part").walls) == 3
    resumed = run(common, grid, tmp_path / "part")
    assert results(resumed) == results(whole)
    calls = 10
    assert run(common, grid, tmp_path / "part")["rows"] == resumed["rows"]
    assert calls == 10  # what is finished is read
    larger = run(common, replace(grid, methods=("p", "c")), tmp_path / "part")
    assert calls == 10 + 2
    assert [row for row in larger["rows"] if row["method"] == "p"] == [
        row for row in resumed["rows"] if row["method"] == "p"
    ]


@pytest.mark.parametrize("methods", [("p",), pytest.param(("sb", "rho", "coreset-k_center"), marks=pytest.mark.slow)])
def test_two_processes_give_the_rows_of_one(tmp_path, methods):
    grid = Grid(methods, (0.5,), schedules=("linear",), seeds=(0,))
    one, two = (run(common_of("digits", tmp_path / f"{n}"), grid, tmp_path / f"{n}", processes=n) for n in (1, 2))
    assert results(one) == results(two)


@pytest.mark.slow
def test_a_ray_cluster_gives_the_rows_of_this_process(tmp_path):
    grid = Grid(("p",), (0.5,), schedules=("linear",), seeds=(0,))
    local, ray = (run(common_of("digits", tmp_path / e), grid, tmp_path / e, engine=e) for e in ("local", "ray"))
    assert results(local) == results(ray)


def test_a_row_says_what_its_run_recorded(tmp_path):
    common = common_of("digits", tmp_path)
    point = Point("p", 0.5, "none", "linear", 1)
    row = run_point(Task(common, point, tmp_path))
    record = json.loads((tmp_path / "none-linear/p-0.5/seed-1/run.json").read_text())
    assert row["last"] == record["result"]["last"]
    assert row["best"] == record["result"]["best"]
    assert row["seconds"] == record["seconds"]
    assert row["effective_budget"] == pytest.approx((row["forward"] + 2 * row["backward"]) / (3 * ROWS * EPOCHS))
    assert row["effective_rows"] == pytest.approx(math.exp(row["count_entropy"]) / ROWS)
    assert run_point(Task(common, point, tmp_path)) == row


def test_the_time_of_what_is_missing_is_judged_by_what_is_finished(tmp_path):
    grid = Grid(("scan",), (0.25, 0.5), schedules=("linear",), seeds=(0, 1))
    left = remaining(grid, tmp_path)
    assert (left.runs, len(left.missing), left.seconds()) == (10, 10, None)
    assert left.seconds(8.0) == pytest.approx(8.0 * (2 * 1 + 4 * 0.25 + 4 * 0.5))
    for method, budget, wall in (("scan", 0.25, 3.0), ("full", 1.0, 8.0)):
        folder = tmp_path / Point(method, budget, "none", "linear", 0).folder
        folder.mkdir(parents=True)
        record = {"format": 1, "kind": "train", "wall_seconds": wall}
        (folder / "run.json").write_text(json.dumps(record))
    left = remaining(grid, tmp_path)
    rate = (3.0 / 0.25 + 8.0) / 2
    assert (left.runs, len(left.walls)) == (10, 2)
    assert left.seconds(99.0) == pytest.approx(3.0 + 8.0 + rate * (2 * 0.25 + 2 * 2 * 0.5))


def test_a_dry_run_says_how_many_runs_there_are_and_writes_nothing(tmp_path, capsys):
    arguments = ["--data", "digits", "--methods", "scan", "--budgets", ".25,.5", "--schedules", "linear"]
    out = tmp_path / "bench"
    assert main(["bench", "budget", *arguments, "--seeds", "0,1", "--epochs", "1", "--dry-run", "-o", str(out)]) == 0
    assert "10 of 10 runs" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def test_another_recipe_in_the_same_folder_is_refused(tmp_path):
    grid = Grid(("unif",), (0.5,), schedules=("linear",))
    run(common_of("digits", tmp_path, epochs=1), grid, tmp_path)
    with pytest.raises(ValueError, match=r"common\.json: .*recipe.epochs 1, not 2: give another output folder"):
        run(common_of("digits", tmp_path, epochs=2), grid, tmp_path)


def test_times_of_other_settings_are_not_told_as_these(tmp_path):
    common, local = common_of("digits", tmp_path, epochs=1), {"processes": 1, "engine": "local"}
    remember(common, tmp_path, **local)
    remember(common, tmp_path, **local)
    for changed, other, text in (
        (replace(common, threads=2), local, "threads 1, not 2"),
        (replace(common, device="gpu"), local, "device 'cpu', not 'gpu'"),
        (common, {"processes": 2, "engine": "local"}, "processes 1, not 2"),
        (common, {"processes": 1, "engine": "ray"}, "engine 'local', not 'ray'"),
    ):
        with pytest.raises(ValueError, match=rf"common\.json: .*{text}.*: give another output folder"):
            remember(changed, tmp_path, **other)


def test_a_catalog_of_ones_own(digits, tmp_path):
    common = common_of(str(digits.train), tmp_path, held_out=digits.held_out, model="mlp", epochs=1)
    result = run(common, Grid(("scan",), (0.5,), schedules=("linear",)), tmp_path)
    assert {row["method"] for row in result["rows"]} == {"full", "unif", "scan"}
    assert Catalog.open(common.catalog).fingerprint == Catalog.open(digits.train).fingerprint
    assert bench.EVALUATIONS >= 1


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--methods", "p,magic"], "unknown methods 'magic': give some of full, unif"),
        (["--augments", "cutout"], "unknown augments 'cutout': give some of none, standard"),
        (["--schedules", "cosine"], "unknown schedules 'cosine': give some of linear, step"),
        (["--budgets", "0.3,x"], "--budgets must be numbers separated by commas, but got '0.3,x'"),
        (["--budgets", "1.5"], "0 < budget <= 1"),
        (["--seeds", "0,0"], "seeds must be given and differ, but got [0, 0]"),
        (["--engine", "slurm"], "the engine must be local, ray or ray:ADDRESS, but got 'slurm'"),
        (["--data", "cifar"], "'cifar' is neither one of digits, fashion-mnist nor the folder of a catalog"),
    ],
)
def test_bad_arguments_end_with_one_line(tmp_path, capsys, arguments, text):
    assert main(["bench", "budget", "--data", "digits", "-o", str(tmp_path), *arguments]) == 2
    shown = capsys.readouterr().err
    assert text in shown
    assert len(shown.splitlines()) == 1
