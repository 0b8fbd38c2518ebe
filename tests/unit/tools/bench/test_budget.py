"""The budget benchmark on a few digits: its rows, its controls, and that neither a kill nor processes change them."""

import json
import math
from dataclasses import replace
from itertools import pairwise

import pytest

from drawstream.pipeline.shards import Catalog
from drawstream.tools.bench.budget import cell as budget_cell
from drawstream.tools.bench.budget.cell import METHODS, Point, Task, run_point
from drawstream.tools.bench.budget.grid import EVALUATIONS, common_of, missing, points_of, remember, run
from drawstream.tools.cli import BudgetGrid
from drawstream.tools.cli.app import main
from drawstream.tools.training.loop import Recipe
from shared.programs import cli
from shared.refusals import refused

KEYS = {"method", "budget", "augment", "schedule", "seed", "last", "best", "seconds", "forward", "backward"}
ROWS, EPOCHS = 400, 2
DIGITS = BudgetGrid(data="digits", budgets=(0.5,), schedules=("linear",), seeds=(0,), processes=1)


@pytest.fixture(autouse=True)
def small_plan(shrink, monkeypatch):
    shrink(monkeypatch, recipe=Recipe(EPOCHS, 0.05))


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
    rows = {row["method"]: row for row in result["rows"] if row["budget"] in (0.5, 1.0)}
    assert sorted(rows) == sorted(METHODS)
    full, half = ROWS * EPOCHS, ROWS * EPOCHS // 2
    assert (rows["full"]["forward"], rows["full"]["backward"]) == (full, full)
    variants = [name for name in METHODS if name.startswith(("p-", "c-"))]
    for name in ("unif", "scan", "p", "c", *variants, "osgd", "rais", "coreset-random", "coreset-forgetting"):
        assert abs(rows[name]["backward"] - half) <= 32 * EPOCHS  # fill of the last batches
    assert rows["full"]["count_entropy"] == pytest.approx(math.log(ROWS))
    assert rows["coreset-random"]["count_entropy"] == pytest.approx(math.log(ROWS / 2))
    assert rows["coreset-k_center"]["effective_rows"] == pytest.approx(0.5)
    assert rows["coreset-random"]["count_entropy"] < min(rows["p"]["count_entropy"], rows["unif"]["count_entropy"])
    assert rows["sb"]["forward"] >= full  # all rows are scored
    assert rows["sb"]["effective_budget"] > rows["unif"]["effective_budget"]
    for name, least in (("coreset-forgetting", 1.0), ("coreset-k_center", 1.0), ("rho", 100 / ROWS), ("unif", 0.0)):
        assert rows[name]["prepare_budget"] == pytest.approx(least, abs=0.2)
    assert [row for row in result["rows"] if row["method"] == "unif" and row["budget"] != 0.5]  # controls
    assert all(each["control"] in ("unif", "full") for each in result["comparisons"])
    assert len(result["comparisons"]) == len(METHODS) - 2
    shown, page = capsys.readouterr().out, (out / "budget.html").read_text()
    assert "no augmentation, linear schedule, 1 seed(s)" in shown
    assert "training time of p relative to unif" in shown
    assert "One seed has no interval" in shown and "One seed has no interval" in page
    assert ">unif</th>" in page and "speed-up, %" in page and "Variability and accuracy at B = 0.5" in page
    assert json.loads((out / "budget.json").read_text())["rows"] == result["rows"]


def test_a_killed_benchmark_goes_on_to_the_same_rows(tmp_path, monkeypatch):
    grid = replace(DIGITS, methods=("p", "coreset-forgetting"), schedules=("step",), seeds=(0, 1))
    whole = run(replace(grid, out=tmp_path / "whole"))
    train_job, calls = budget_cell.train_job, 0

    def killed(*arguments, **keywords):
        """Stops before the fourth run."""
        nonlocal calls
        calls += 1
        if calls == 4:
            raise KeyboardInterrupt
        return train_job(*arguments, **keywords)

    monkeypatch.setattr(budget_cell, "train_job", killed)
    part = replace(grid, out=tmp_path / "part")
    with pytest.raises(KeyboardInterrupt):
        run(part)
    assert len(points_of(part)) - len(missing(part)) == 3
    resumed = run(part)
    assert results(resumed) == results(whole)
    calls = 10
    assert run(part)["rows"] == resumed["rows"]
    assert calls == 10  # what is finished is read
    larger = run(replace(part, methods=("p", "c")))
    assert calls == 10 + 2
    of_p = [[row for row in result["rows"] if row["method"] == "p"] for result in (larger, resumed)]
    assert of_p[0] == of_p[1]


@pytest.mark.parametrize(
    ("methods", "placed"),
    [
        (("p",), {"processes": 2}),
        pytest.param(("sb", "rho", "coreset-k_center"), {"processes": 2}, marks=pytest.mark.slow),
        pytest.param(("p",), {"engine": "ray"}, marks=pytest.mark.slow),
    ],
)
def test_other_processes_give_the_rows_of_this_one(tmp_path, methods, placed):
    grid = replace(DIGITS, methods=methods)
    other = run(replace(grid, out=tmp_path / "other", **placed))
    assert results(other) == results(run(replace(grid, out=tmp_path / "this")))


def test_a_row_says_what_its_run_recorded(tmp_path):
    task = Task(common_of(replace(DIGITS, out=tmp_path)), Point("p", 0.5, "none", "linear", 1), tmp_path)
    values = run_point(task)
    record = json.loads((tmp_path / "none-linear/p-0.5/seed-1/run.json").read_text())
    assert {key: values[key] for key in ("last", "best")} == {key: record["result"][key] for key in ("last", "best")}
    assert values["seconds"] == record["seconds"]
    assert values["effective_budget"] == pytest.approx(
        (values["forward"] + 2 * values["backward"]) / (3 * ROWS * EPOCHS)
    )
    assert values["effective_rows"] == pytest.approx(math.exp(values["count_entropy"]) / ROWS)
    assert run_point(task) == values


def test_a_dry_run_says_how_many_trainings_are_missing_and_writes_nothing(tmp_path):
    arguments = ["--data", "digits", "--methods", "scan", "--budgets", ".25,.5", "--schedules", "linear"]
    out = tmp_path / "bench"
    shown = cli("bench", "budget", *arguments, "--seeds", "0,1", "--epochs", "1", "--dry-run", "-o", out)
    assert "scan" in shown and "1.5 trainings" in shown
    assert not list(tmp_path.iterdir())


def test_other_settings_in_the_same_folder_are_refused(tmp_path):
    grid = replace(DIGITS, out=tmp_path, epochs=1)
    remember(common_of(grid), grid)
    remember(common_of(grid), grid)
    for changed, text in (
        ({"epochs": 2}, "recipe.epochs 1, not 2"),
        ({"threads": 2}, "threads 1, not 2"),
        ({"device": "gpu"}, "device 'cpu', not 'gpu'"),
        ({"processes": 2}, "processes 1, not 2"),
        ({"engine": "ray"}, "engine 'local', not 'ray'"),
    ):
        other = replace(grid, **changed)
        refused(rf"common\.json: .*{text}.*: give another output folder", remember, common_of(other), other)


def test_all_runs_have_the_recipe_and_steps_alone_its_milestones(digits, tmp_path):
    given = {"data": str(digits.train), "held_out": digits.held_out, "model": "mlp", "named": "ss-cifar", "epochs": 2}
    run(replace(DIGITS, methods=("unif",), budgets=(0.5,), schedules=("step", "linear"), out=tmp_path, **given))
    records = [json.loads(path.read_text())["recipe"] for path in tmp_path.glob("**/run.json")]
    assert {(each["weight_decay"], each["lr"], each["epochs"]) for each in records} == {(1e-3, 0.1, 2)}
    assert {each["schedule"]: each["milestones"] for each in records} == {"step": [1, 2], "linear": []}


def test_a_catalog_of_ones_own(digits, tmp_path):
    own = {"data": str(digits.train), "held_out": digits.held_out, "model": "mlp", "epochs": 1}
    grid = replace(DIGITS, methods=("scan",), out=tmp_path, **own)
    result = run(grid)
    assert {row["method"] for row in result["rows"]} == {"full", "unif", "scan"}
    assert Catalog.open(common_of(grid).catalog).fingerprint == Catalog.open(digits.train).fingerprint
    assert EVALUATIONS >= 1


def test_every_seed_has_an_order_of_its_own_and_the_same_points():
    crossed = {"budgets": (0.1, 0.3), "augments": ("none", "ricap"), "seeds": (0, 1, 2)}
    points = points_of(replace(DIGITS, methods=METHODS, **crossed))
    assert len(points) == len(set(points)) == 3 * 2 * (1 + 2 * 18)
    assert len({point.folder for point in points}) == len(points)
    orders = [[p.method for p in points if (p.seed, p.augment, p.budget) == (seed, "none", 0.3)] for seed in range(3)]
    assert sorted(orders[0]) == sorted(orders[1]) == sorted(orders[2])
    assert len({tuple(order) for order in orders}) == 3
    before = [{after: one for one, after in pairwise(order)} for order in orders]
    assert len({each.get("p") for each in before}) > 1  # p-SGD does not always follow the same method
    assert Point("full", 1.0, "none", "linear", 0) in points
