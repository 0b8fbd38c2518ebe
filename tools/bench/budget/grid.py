"""Budgeted training: does anything beat uniform draws at equal measured compute?

Every method trains from the same initial weights with the same model, batches and learning rates; budgets,
augmentations, schedules and seeds are crossed. The loop counts the rows that go forward and backward. After the grid
`unif` is run at the compute that the other methods turned out to take, so that each of them has a control of its own.

    last     test accuracy after the last epoch, per cent
    best     test accuracy at the evaluated epoch that the held-out rows chose, per cent
    seconds  of training; evaluation and what had to be trained beforehand left out
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from drawstream.pipeline.shards import FILE, Catalog
from drawstream.pipeline.workers import Workers, spread
from drawstream.tools import PLANS, pack_plan
from drawstream.tools.bench import check_distinct, check_names
from drawstream.tools.bench.budget.cell import (
    CONTROL,
    FULL,
    IRREDUCIBLE,
    METHODS,
    SCHEDULES,
    Common,
    Point,
    Task,
    finished,
    run_point,
)
from drawstream.tools.bench.budget.claims import claims
from drawstream.tools.bench.budget.page import headline, tables, write_page
from drawstream.tools.bench.budget.results import checks, control_budgets, findings_of
from drawstream.tools.cli import BudgetGrid
from drawstream.tools.experiments import Row
from drawstream.tools.runs import before, conclude, hold_identity, model_identity, pick, used_config
from drawstream.tools.training import AUGMENT
from drawstream.tools.training.methods import METHODS as TABLE

__all__ = ["EVALUATIONS", "common_of", "missing", "points_of", "remember", "run"]

MAIN = tuple(name for name in METHODS if not TABLE[name].slow)
EVALUATIONS = 5  # of a run: the 15 000 rows that judge it cost as much as 5000 rows of training


def methods_of(grid: BudgetGrid, /) -> Sequence[str]:
    """Return the methods of a grid, which is checked before anything runs.

    Raises:
        ValueError: An unknown name, or a value that comes twice or is out of range.
    """
    methods = METHODS if grid.methods == ("all",) else grid.methods or MAIN
    given = {
        "methods": (methods, METHODS),
        "augments": (grid.augments, AUGMENT),
        "schedules": (grid.schedules, SCHEDULES),
    }
    for name, (values, known) in given.items():
        check_names(name, values, known)
    check_distinct(budgets=grid.budgets, seeds=grid.seeds)
    if not all(0 < budget <= 1 for budget in grid.budgets):
        raise ValueError(f"`0 < budget <= 1` must hold, but got {list(grid.budgets)}")
    Workers(engine=grid.engine)  # refuses what is no engine
    return methods


def points_of(grid: BudgetGrid, /) -> list[Point]:
    """Return all points, seed by seed; errors as `methods_of`.

    The methods take turns in an order of its own for every seed, so that none always pays for its predecessor.
    """
    methods = [method for method in dict.fromkeys((CONTROL, *methods_of(grid))) if method != FULL]
    points = []
    for number, seed in enumerate(grid.seeds):
        order = [methods[at] for at in np.random.default_rng(number).permutation(len(methods))]
        for place in product(grid.augments, grid.schedules):
            points.append(Point(FULL, 1.0, *place, seed))
            points += [Point(method, budget, *place, seed) for budget in grid.budgets for method in order]
    return points


def missing(grid: BudgetGrid, /) -> list[Point]:
    """Return the points that are not finished in the grid's folder; controls are not among them."""
    return [point for point in points_of(grid) if finished(grid.folder, point) is None]


def _stages(points: Sequence[Point]) -> list[list[Point]]:
    """The points in parts: each needs at most what the parts before it leave behind."""
    others = dict.fromkeys(each.needs for each in points if each.needs and each.needs.method == IRREDUCIBLE)
    after = [each for each in points if each.needs and each.needs.method == FULL]
    return [list(others), [each for each in points if each not in after], after]


def common_of(grid: BudgetGrid, /) -> Common:
    """Return the settings that all runs share, from a demo plan (its data is packed into the folder) or a catalog.

    Raises:
        ValueError: No such plan or catalog, or nothing to judge by.
    """
    data, out, plan = grid.data, grid.folder, PLANS.get(grid.data, PLANS["fashion-mnist"])
    places: dict[str, Any] = {"catalog": Path(data)}
    if data in PLANS:
        pack_plan(out, data, grid.source, plan)
        places = {"catalog": out / "data/train", "held_out": out / "data/holdout", "test": out / "test"}
    elif not (Path(data) / FILE).exists():
        raise ValueError(f"{data!r} is neither one of {', '.join(PLANS)} nor the folder of a catalog ({FILE})")
    elif grid.held_out is None:
        raise ValueError(f"{data}: rows to judge by are missing: give --held-out, and --test if there is one")
    recipe = grid.recipe(plan.recipe, **({"schedule": "step"} if grid.milestones else {}))
    how: dict[str, Any] = {"recipe": recipe, "evaluations": min(EVALUATIONS, recipe.epochs)}
    how |= {"model": grid.model or plan.model, "global_batch": grid.global_batch or plan.batch_size}
    Catalog.open(places["catalog"]).require_labels("a benchmark of methods", "class")
    return pick(Common, grid, **places, **how)


def run(grid: BudgetGrid, /) -> dict[str, Any]:
    """Make every run that is missing, print a table, and write `budget.json` and `budget.html` into `out`.

    What a killed benchmark finished is kept when it is started again, also with a larger grid; an unfinished run goes
    on after its last epoch.

    Returns:
        `rows`, one per run; `summary`: over the seeds; `comparisons` at equal measured compute, and the `verdict` in
        words; `checks` of times; `claims` of the paper beside what was found.

    Raises:
        ValueError: `out` holds a benchmark with other settings, or a bad engine.
        WorkerError: A run was lost again and again.
    """
    points, out, processes = points_of(grid), grid.folder, grid.at_once
    common = common_of(grid)
    remember(common, grid)
    rows = [row for stage in _stages(points) for row in _make(common, stage, grid)]
    controls = [
        Point(CONTROL, budget, augment, schedule, seed)
        for seed in grid.seeds
        for augment, schedule, budget in control_budgets(findings_of(rows))
    ]
    rows += _make(common, controls, grid)
    findings = findings_of(rows)
    costs, stated, verdict = checks(findings), claims(findings), headline(findings)
    print(*(table.text() for table in tables(findings)), sep="\n\n")
    print(*(each.line for each in costs), sep="\n")
    print(f"times: {common.threads} thread(s) per run, {processes} run(s) at a time")
    print(*(f"paper: {claim}\n  here: {ours}" for claim, ours in stated.items()), *verdict, sep="\n")
    page = out / "budget.html"
    write_page(page, findings, costs, common=common, processes=processes)
    result: dict[str, Any] = {
        "rows": [row.as_dict() for row in rows],
        "summary": [each.summary() for each in findings],
        "comparisons": [each.comparison() for each in findings if each.gain],
        "checks": [each.as_dict() for each in costs],
        "claims": [{"paper": claim, "here": ours} for claim, ours in stated.items()],
        "verdict": verdict,
        "processes": processes,
        "engine": grid.engine.partition(":")[0],
    }
    record = conclude(out / "budget.json", "budget", {**result, "common": asdict(common), "page": page})
    return {**result, "page": str(page), **before(record)}


def _make(common: Common, points: Sequence[Point], grid: BudgetGrid) -> Iterator[Row]:
    """Yield the rows of points, made as far as they are missing; a line is printed for each."""
    tasks = [Task(common, point, grid.folder, used_config().get("config", {})) for point in points]
    where: dict[str, Any] = {
        "workers": grid.at_once if grid.engine == "local" else None,
        "engine": grid.engine,
        "threads": common.threads,
        "device": common.device,
        "name": lambda task: str(task.point.folder),
    }
    found = spread(run_point, tasks, **where) if tasks else ()
    for number, (point, values) in enumerate(zip(points, found, strict=True), 1):
        told = f"{number}/{len(points)} {point.augment}, {point.schedule}, seed {point.seed}: {point.method}"
        if values:
            place = {"budget": point.budget, "augment": point.augment, "schedule": point.schedule}
            yield Row(point.method, place, point.seed, values)
            told += f" B = {point.budget:g}: last {values['last']:.2f}, best {values['best']:.2f}, measured budget "
            told += f"{values['effective_budget']:.3f}, {values['seconds']:.1f} s"
        print(told, flush=True)


def remember(common: Common, grid: BudgetGrid, /) -> None:
    """Note in the grid's folder what all its runs have in common, or compare with what is noted there.

    Device, threads, processes and engine are part of it: they decide the times, which are compared.
    """
    places = {"catalog": common.catalog, "held_out": common.held_out, "test": common.test}
    settings: dict[str, Any] = {key: value and Catalog.open(value).fingerprint for key, value in places.items()}
    settings |= model_identity(common.model) | {"recipe": common.recipe.settings()}
    settings |= {key: getattr(common, key) for key in ("global_batch", "evaluations", "device", "threads")}
    early, order = common.uniform_epochs, common.mix_order
    settings |= {} if common.flip else {"flip": False}
    settings |= {"jitter": list(common.recipe.jitter)} if common.recipe.jitter else {}
    settings |= {"uniform_epochs": None if early == 1 else early, "mix_order": None if order == "default" else order}
    kind = grid.engine.partition(":")[0]
    settings |= {
        "engine": kind,
        "processes": grid.at_once if kind == "local" else None,
    }  # Ray runs what it has room for
    hold_identity(grid.folder / "common.json", "budget-common", settings)
