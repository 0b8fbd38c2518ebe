"""Budgeted training: does anything beat uniform draws at equal measured compute?

Every method trains from the same initial weights with the same model, batches and learning rates; budgets,
augmentations, schedules and seeds are crossed. The loop counts the rows that go forward and backward. After the grid
`unif` is run at the compute that the other methods turned out to take, so that each of them has a control of its own.

    last     test accuracy after the last epoch, per cent
    best     test accuracy at the evaluated epoch that the held-out rows chose, per cent
    seconds  of training; evaluation and what had to be trained beforehand left out
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from drawstream.pipeline import Catalog
from drawstream.pipeline.shards.catalog import FILE
from drawstream.pipeline.shards.pack import pack
from drawstream.tools.bench.budget.grid import (
    CONTROL,
    IRREDUCIBLE,
    METHODS,
    Common,
    Grid,
    Point,
    Record,
    Task,
    finished,
    run_tasks,
    stages,
)
from drawstream.tools.bench.budget.page import write_page
from drawstream.tools.bench.budget.verdict import checks, compare, control_budgets, summarise
from drawstream.tools.bench.budget.words import claims, format_table, headline
from drawstream.tools.demo import PLANS, hold_data, source_and_test
from drawstream.tools.runs.config import used_config
from drawstream.tools.runs.identity import model_identity
from drawstream.tools.runs.record import before, conclude, hold_identity
from drawstream.tools.training.setup import Device

__all__ = ["MAIN", "Remaining", "common_of", "remaining", "remember", "run"]

SLOW = ("p-paper", "c-paper", "rho", "coreset-k_center")  # variants, and what takes long for what it tells
MAIN = tuple(method for method in METHODS if method not in SLOW)

EVALUATIONS = 5  # of a run: the 15 000 rows that judge it cost as much as 5000 rows of training


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
    **changed: Any,
) -> Common:
    """Return the settings that all runs share, from a demo plan (its data is packed into `out`) or from a catalog.

    Args:
        data: Name of a plan, or the folder of a training catalog.
        out: Folder of the bench.
        source: Folder of Fashion-MNIST's files, where it is not Debian's.
        held_out: Catalog that chooses epochs, for a catalog.
        test: Catalog that reports, for a catalog; None: the held-out one.
        threads: Of torch, for every run.
        device: `cpu` or `gpu`.
        **changed: `model`, `batch_size`, `epochs` and `lr` where they are not None; by default the plan's, and for a
            catalog those of Fashion-MNIST's.

    Raises:
        ValueError: No such plan or catalog, or nothing to judge by.
    """
    plan = PLANS.get(data, PLANS["fashion-mnist"])
    if data in PLANS:
        _pack(data, out, source)
        judges: tuple[Path, Path, Path | None] = (out / "data/train", out / "data/holdout", out / "test")
    elif not (Path(data) / FILE).exists():
        raise ValueError(f"{data!r} is neither one of {', '.join(PLANS)} nor the folder of a catalog ({FILE})")
    elif held_out is None:
        raise ValueError(f"{data}: rows to judge by are missing: give --held-out, and --test if there is one")
    else:
        judges = Path(data), held_out, test
    given = {key: value for key, value in changed.items() if value is not None}
    recipe = replace(plan.recipe, **{key: given[key] for key in ("epochs", "lr") if key in given})
    model, batch_size = given.get("model", plan.model), given.get("batch_size", plan.batch_size)
    return Common(*judges, model, batch_size, recipe, min(EVALUATIONS, recipe.epochs), threads, device)


def run(common: Common, grid: Grid, out: Path, /, *, processes: int = 1, engine: str = "local") -> dict[str, Any]:
    """Make every run that is missing, print a table, and write `budget.json` and `budget.html` into `out`.

    What a killed benchmark finished is kept when it is started again, also with a larger grid; an unfinished run goes
    on after its last epoch.

    Args:
        common: Data and recipe.
        grid: What is run.
        out: Folder of all runs.
        processes: Runs at a time on this machine; the times depend on it.
        engine: Where the runs are made: `local`, `ray` or `ray:ADDRESS`.

    Returns:
        `rows`, one per run; `summary`: over the seeds; `comparisons` at equal measured compute, and the `verdict` in
        words; `checks` of times; `claims` of the paper beside what was found.

    Raises:
        ValueError: `out` holds a benchmark with other settings, or a bad engine.
    """
    remember(common, out, processes=processes, engine=engine)
    points = grid.points()
    rows: list[Record] = []
    for stage in stages(points):
        rows += [row for row in _make(common, stage, out, processes, engine) if "last" in row]
    wanted = control_budgets(summarise(rows))
    controls = [
        Point(CONTROL, budget, augment, schedule, seed) for seed in grid.seeds for augment, schedule, budget in wanted
    ]
    rows += _make(common, controls, out, processes, engine)
    return _conclude(common, rows, out, processes, engine)


@dataclass(frozen=True, slots=True)
class Remaining:
    """Missing runs of a grid, and the wall times of the finished ones in seconds."""

    missing: tuple[Point, ...]
    walls: dict[Point, float]

    @property
    def runs(self) -> int:
        """Runs of the grid; controls, whose budgets are not known before the rest is finished, are not among them."""
        return len(self.missing) + len(self.walls)

    @property
    def basis(self) -> str:
        """How the time is got."""
        return f"measured: {len(self.walls)} finished runs, by method and budget"

    def seconds(self, full: float | None = None, /) -> float | None:
        """Return the estimated seconds of the missing runs, one after the other; None without a measured run.

        A run is taken to last as long as the finished runs of its method and budget, or in proportion to its nominal
        budget.

        Args:
            full: Seconds of a run at B = 1, where none of the grid is finished.
        """
        alike: dict[tuple[str, float], list[float]] = {}
        for point, wall in self.walls.items():
            alike.setdefault((point.method, point.budget), []).append(wall)
        rate = fmean(wall / point.budget for point, wall in self.walls.items()) if self.walls else full
        if rate is None:
            return None if self.missing else 0.0
        return sum(fmean(alike.get((point.method, point.budget), [rate * point.budget])) for point in self.missing)


def remaining(grid: Grid, out: Path, /) -> Remaining:
    """Return the runs of a grid that are missing in `out`, with the wall times of the finished ones."""
    records = {point: finished(out, point) for point in grid.points()}
    walls = {point: record["wall_seconds"] for point, record in records.items() if record is not None}
    return Remaining(tuple(point for point in records if point not in walls), walls)


def _make(common: Common, points: Sequence[Point], out: Path, processes: int, engine: str) -> Iterable[Record]:
    """Rows of some points, made as far as they are missing; a line for each."""
    tasks = [Task(common, point, out, used_config().get("config", {})) for point in points]
    rows = run_tasks(tasks, processes=processes, engine=engine)
    for number, (point, row) in enumerate(zip(points, rows, strict=True), start=1):
        print(f"{number}/{len(points)} {_line(point, row)}", flush=True)
        yield row


def _line(point: Point, row: Record) -> str:
    """Return the line that is printed when a run is finished."""
    if point.method == IRREDUCIBLE:
        return f"seed {point.seed}: losses of a model that was trained on the held-out rows, for rho"
    return (
        f"{point.augment}, {point.schedule}, seed {point.seed}: {point.method} B = {point.budget:g}: last "
        f"{row['last']:.2f}, best {row['best']:.2f}, measured budget {row['effective_budget']:.3f}, "
        f"{row['seconds']:.1f} s"
    )


def _conclude(common: Common, rows: Sequence[Record], out: Path, processes: int, engine: str) -> dict[str, Any]:
    """Table, verdict, JSON and page of all rows."""
    entries = summarise(rows)
    comparisons, costs = compare(entries), checks(entries)
    print(format_table(entries, comparisons))
    for each in costs:
        print(each.line)
    print(f"times: {common.threads} thread(s) per run, {processes} run(s) at a time")
    stated = claims(entries, comparisons)
    for claim, ours in stated:
        print(f"paper: {claim}\n  here: {ours}")
    for line in headline(comparisons):
        print(line)
    settings = {"processes": processes, "engine": engine.partition(":")[0]}
    result: dict[str, Any] = {
        "rows": list(rows),
        "summary": [entry.as_dict() for entry in entries],
        "comparisons": [each.as_dict() for each in comparisons],
        "checks": [each.as_dict() for each in costs],
        "claims": [{"paper": claim, "here": ours} for claim, ours in stated],
        "verdict": headline(comparisons),
        **settings,
    }
    page = out / "budget.html"
    write_page(page, entries, comparisons, costs, common=common, processes=processes)
    record = conclude(out / "budget.json", "budget", {**result, "common": asdict(common), "page": page})
    return {**result, "page": str(page), **before(record)}


def remember(common: Common, out: Path, /, *, processes: int, engine: str) -> None:
    """Note in `out` what all its runs have in common, or compare with what is noted there.

    Device, threads, processes and engine are part of it: they decide the times, which are compared.
    """
    places = {"catalog": common.catalog, "held_out": common.held_out, "test": common.test}
    settings: dict[str, Any] = {key: value and Catalog.open(value).fingerprint for key, value in places.items()}
    settings |= model_identity(common.model)
    settings |= {key: getattr(common, key) for key in ("batch_size", "evaluations")} | {"recipe": asdict(common.recipe)}
    kind = engine.partition(":")[0]
    settings |= {"device": common.device, "threads": common.threads, "engine": kind}
    settings |= {"processes": processes if kind == "local" else None}  # Ray runs what it has room for
    hold_identity(out / "common.json", "budget-common", settings)


def _pack(data: str, out: Path, source: Path | None) -> None:
    """Write the catalogs of a named data set, as far as they are not there; one division for all seeds."""
    train, test = source_and_test(data, source, 0)
    hold_data(out, data, source, limit=PLANS[data].limit, holdout=PLANS[data].holdout)
    if not (out / "test" / FILE).exists():
        pack(test, out / "test", encoding="raw", seed=0)
    if not (out / "data/train" / FILE).exists():
        plan = PLANS[data]
        pack(train, out / "data", encoding="raw", limit=plan.limit, holdout=plan.holdout, seed=0)
