"""Budgeted training: does anything beat uniform draws at equal measured compute?

Every method trains from the same initial weights with the same model, batches and learning rates; budgets,
augmentations, schedules and seeds are crossed. The loop counts the rows that go forward and backward. After the grid
`unif` is run at the compute that the other methods turned out to take, so that each of them has a control of its own.

    last     test accuracy after the last epoch, per cent
    best     test accuracy at the evaluated epoch that the held-out rows chose, per cent
    seconds  of training; evaluation and what had to be trained beforehand left out
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from drawstream.pipeline.shards import FILE, Catalog
from drawstream.pipeline.workers import spread
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
from drawstream.tools.experiments import Row
from drawstream.tools.runs import before, conclude, hold_identity, model_identity, used_config
from drawstream.tools.training import AUGMENT, Device
from drawstream.tools.training.methods import METHODS as TABLE

__all__ = ["BUDGETS", "EVALUATIONS", "MAIN", "Grid", "common_of", "remember", "run"]

BUDGETS = (0.05, 0.1, 0.2, 0.3, 0.5)
MAIN = tuple(name for name in METHODS if not TABLE[name].slow)
EVALUATIONS = 5  # of a run: the 15 000 rows that judge it cost as much as 5000 rows of training


@dataclass(frozen=True, slots=True)
class Grid:
    """Grid of methods, budgets, augmentations, schedules and seeds; `full` and `unif` are always run, as controls."""

    methods: tuple[str, ...] = METHODS
    budgets: tuple[float, ...] = BUDGETS
    augments: tuple[str, ...] = ("none",)
    schedules: tuple[str, ...] = SCHEDULES
    seeds: tuple[int, ...] = (0,)

    def __post_init__(self) -> None:
        for name, known in (("methods", METHODS), ("augments", AUGMENT), ("schedules", SCHEDULES)):
            check_names(name, getattr(self, name), known)
        check_distinct(budgets=self.budgets, seeds=self.seeds)
        if not all(0 < budget <= 1 for budget in self.budgets) or min(self.seeds) < 0:
            raise ValueError(
                f"`0 < budget <= 1` and `seeds >= 0` must hold, but got {list(self.budgets)} and {list(self.seeds)}"
            )

    def points(self) -> list[Point]:
        """Return all points, seed by seed.

        The methods take turns in an order of its own for every seed, so that none always pays for its predecessor.
        """
        methods = [method for method in dict.fromkeys((CONTROL, *self.methods)) if method != FULL]
        points = []
        for number, seed in enumerate(self.seeds):
            order = [methods[at] for at in np.random.default_rng(number).permutation(len(methods))]
            for place in product(self.augments, self.schedules):
                points.append(Point(FULL, 1.0, *place, seed))
                points += [Point(method, budget, *place, seed) for budget in self.budgets for method in order]
        return points

    def missing(self, out: Path, /) -> list[Point]:
        """Return the points that are not finished in a folder; controls are not among them."""
        return [point for point in self.points() if finished(out, point) is None]

    def stages(self) -> list[list[Point]]:
        """Return the points in parts: each needs at most what the parts before it leave behind."""
        points = self.points()
        others = dict.fromkeys(each.needs for each in points if each.needs and each.needs.method == IRREDUCIBLE)
        after = [each for each in points if each.needs and each.needs.method == FULL]
        return [list(others), [each for each in points if each not in after], after]


def common_of(
    data: str,
    out: Path,
    /,
    *,
    source: Path | None = None,
    held_out: Path | None = None,
    test: Path | None = None,
    threads: int = 1,
    device: Device = "cpu",
    uniform_epochs: int | None = None,
    mix_order: str = "default",
    **changed: Any,
) -> Common:
    """Return the settings that all runs share, from a demo plan (its data is packed into `out`) or from a catalog.

    Raises:
        ValueError: No such plan or catalog, or nothing to judge by.
    """
    plan = PLANS.get(data, PLANS["fashion-mnist"])
    if data in PLANS:
        pack_plan(out, data, source, plan)
        judges: tuple[Path, Path, Path | None] = (out / "data/train", out / "data/holdout", out / "test")
    elif not (Path(data) / FILE).exists():
        raise ValueError(f"{data!r} is neither one of {', '.join(PLANS)} nor the folder of a catalog ({FILE})")
    elif held_out is None:
        raise ValueError(f"{data}: rows to judge by are missing: give --held-out, and --test if there is one")
    else:
        judges = Path(data), held_out, test
    given = {key: value for key, value in changed.items() if value is not None}
    recipe = replace(plan.recipe, **{key: given[key] for key in ("epochs", "lr") if key in given})
    model, batch = given.get("model", plan.model), given.get("global_batch", plan.batch_size)
    times = min(EVALUATIONS, recipe.epochs)
    return Common(*judges, model, batch, recipe, times, threads, device, uniform_epochs, mix_order)


def run(common: Common, grid: Grid, out: Path, /, *, processes: int = 1, engine: str = "local") -> dict[str, Any]:
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
    remember(common, out, processes=processes, engine=engine)
    placed = {"workers": processes if engine == "local" else None, "engine": engine}
    rows = [row for stage in grid.stages() for row in _make(common, stage, out, placed)]
    controls = [
        Point(CONTROL, budget, augment, schedule, seed)
        for seed in grid.seeds
        for augment, schedule, budget in control_budgets(findings_of(rows))
    ]
    rows += _make(common, controls, out, placed)
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
        "engine": engine.partition(":")[0],
    }
    record = conclude(out / "budget.json", "budget", {**result, "common": asdict(common), "page": page})
    return {**result, "page": str(page), **before(record)}


def _make(common: Common, points: Sequence[Point], out: Path, placed: dict[str, Any]) -> Iterator[Row]:
    """Yield the rows of points, made as far as they are missing; a line is printed for each."""
    tasks = [Task(common, point, out, used_config().get("config", {})) for point in points]
    where: dict[str, Any] = {
        "threads": common.threads,
        "device": common.device,
        "name": lambda task: str(task.point.folder),
    }
    found = spread(run_point, tasks, **placed, **where) if tasks else ()
    for number, (point, values) in enumerate(zip(points, found, strict=True), 1):
        told = f"{number}/{len(points)} {point.augment}, {point.schedule}, seed {point.seed}: {point.method}"
        if values:
            place = {"budget": point.budget, "augment": point.augment, "schedule": point.schedule}
            yield Row(point.method, place, point.seed, values)
            told += f" B = {point.budget:g}: last {values['last']:.2f}, best {values['best']:.2f}, measured budget "
            told += f"{values['effective_budget']:.3f}, {values['seconds']:.1f} s"
        print(told, flush=True)


def remember(common: Common, out: Path, /, *, processes: int, engine: str) -> None:
    """Note in `out` what all its runs have in common, or compare with what is noted there.

    Device, threads, processes and engine are part of it: they decide the times, which are compared.
    """
    places = {"catalog": common.catalog, "held_out": common.held_out, "test": common.test}
    settings: dict[str, Any] = {key: value and Catalog.open(value).fingerprint for key, value in places.items()}
    settings |= model_identity(common.model) | {"recipe": common.recipe.settings()}
    settings |= {key: getattr(common, key) for key in ("global_batch", "evaluations", "device", "threads")}
    early, order = common.uniform_epochs, common.mix_order
    settings |= {"uniform_epochs": None if early == 1 else early, "mix_order": None if order == "default" else order}
    kind = engine.partition(":")[0]
    settings |= {"engine": kind, "processes": processes if kind == "local" else None}  # Ray runs what it has room for
    hold_identity(out / "common.json", "budget-common", settings)
