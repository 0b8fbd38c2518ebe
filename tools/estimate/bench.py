"""Cost estimate of the demo and the benchmarks: one run per kind is timed and multiplied by the missing runs."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drawstream.tools.bench.auto import cell as auto_cell
from drawstream.tools.bench.auto.cell import AutoCell, Settings
from drawstream.tools.bench.budget.bench import common_of, remaining, remember
from drawstream.tools.bench.budget.grid import Grid
from drawstream.tools.bench.noise import methods as noise_methods
from drawstream.tools.bench.noise.cell import Cell
from drawstream.tools.demo import Plan, pack_seed, search_of, start_demo
from drawstream.tools.estimate.clock import Clock
from drawstream.tools.estimate.probe import LIMIT, left, rehearsed
from drawstream.tools.estimate.search import estimate_auto, estimate_candidates
from drawstream.tools.estimate.stages import Estimate, Stage, budgeted, finished, folder_size, resident
from drawstream.tools.estimate.training import estimate_extraction, estimate_training, evaluation_seconds, state_bytes
from drawstream.tools.runs.record import read_record
from drawstream.tools.training.methods.sampling import Sampling
from drawstream.tools.training.models import save_weights
from drawstream.tools.training.setup import Setup

__all__ = ["estimate_budget", "estimate_demo", "estimate_noise", "estimate_schedules"]

PAGE = 6_000_000  # bytes of a report, most of them the plotting library's
LIKE_UNIFORM = ("uniform", "drop", "clean-only")  # methods of the noise benchmark that train as uniform does


@budgeted("demo")
def estimate_demo(data: str, out: Path, /, *, source: Path | None, noise: float, seeds: list[int]) -> Estimate:
    """The estimate of `run_demo`; arguments and errors are its own."""
    plan = start_demo(data, seeds)
    missing = [seed for seed in seeds if not (out / f"seed-{seed}/swift/run.json").exists()]
    if not missing:
        return finished("demo", out / "demo.json")
    with rehearsed(out) as scratch:
        (setup, recipe), packing = _packed(lambda: pack_seed(data, scratch, source, noise, missing[0]), scratch)
        start = scratch / "start.safetensors"
        save_weights(start, setup.build(missing[0]).state_dict())
        training = _renamed(estimate_training(setup, recipe, Sampling(), scratch / "uniform"), "train uniformly")
        scoring = _renamed(estimate_extraction(setup, start, scratch / "features"), "score")
        objective, options = search_of(plan, setup, start, missing[0])
        searching, notes = _searching(setup, objective, options, scratch / "search", missing[0])
        objective.loader.close()
    again = _renamed_stages(training[1:], "train with the sampler")  # what is opened is warm by then
    stages = [packing, *training, *scoring, *searching, *again]
    why = f"{len(missing)} seeds"
    page = Stage("report", 3.0, PAGE, resident(), "computed: as other reports; its figures take some seconds")
    kept = f"{len(seeds) - len(missing)} of {len(seeds)} seeds are finished and would be read"
    notes += [kept] if len(missing) < len(seeds) else []
    return Estimate("demo", out, (*(stage.times(len(missing), why) for stage in stages), page), tuple(notes))


@budgeted("bench noise")
def estimate_noise(
    plan: Plan,
    data: str,
    out: Path,
    /,
    *,
    noise: Sequence[float],
    methods: Sequence[str],
    seeds: Sequence[int],
    validation: Sequence[str],
    source: Path | None,
    candidates: int,
) -> Estimate:
    """The estimate of the benchmark of label noise; arguments are those of its `run`, checked."""
    cells = {(level, seed): out / f"noise-{level:g}" / f"seed-{seed}" for level in noise for seed in seeds}
    runs, searches = _left_of_noise(cells, methods, validation)
    notes = ["the rank study is not in the numbers"] if candidates else []
    if not (runs or searches):
        return Estimate("bench noise", out, (_page(),), tuple(notes))
    (level, seed), first = max(cells), min(cells)[1]
    unpacked = sum(not (folder / "data/train").exists() for folder in cells.values())
    with rehearsed(out) as scratch:
        cell = Cell(scratch, plan, level, seed)
        _, packing = _packed(lambda: cell.pack(data, source), scratch)
        setup = cell.setups["clean"]
        save_weights(scratch / "uniform/last.safetensors", setup.build(first).state_dict())
        stages = [packing.times(unpacked, f"{unpacked} levels and seeds")] if unpacked else []
        uniform = _run_stage(cell, lambda: cell.runs("uniform", "clean"), "uniform", plan.recipe.epochs)
        for method, count in runs.items():
            kept = method == "uniform" or method in noise_methods.SEARCHES  # the others' weights serve nobody
            alike = kept or method in LIKE_UNIFORM or left() < LIMIT  # no time to try another one
            one = uniform if alike else _run_stage(cell, _of(cell, method), method, plan.recipe.epochs)
            disk = one.disk if kept else one.disk - state_bytes(setup.build(first))
            stages.append(replace(one, name=method, disk=disk).times(count, f"{count} runs"))
        for method, count in searches.items():
            objective = cell.objective("clean", method)
            given = (setup, objective, cell.options(method), scratch / f"search-{method}", seed)
            found, told = _searching(*given)
            stages += [each.times(count, f"{count} searches") for each in found]
            notes += [f"{method}: {note}" for note in told]
            objective.loader.close()
            objective.held_out.close()
        cell.close()
    if searches:
        notes += ["a search that finds nothing better than uniform saves its training: the numbers have it"]
    return Estimate("bench noise", out, (*stages, _page()), tuple(notes))


def _left_of_noise(
    cells: Mapping[tuple[float, int], Path], methods: Sequence[str], validation: Sequence[str]
) -> tuple[dict[str, int], ...]:
    """How many runs and searches of each method are not there yet; those with some."""
    runs: dict[str, int] = {}
    searches: dict[str, int] = {}
    for (level, _), folder in cells.items():
        for judge in validation if level else ("clean",):
            for method in dict.fromkeys(("uniform", *methods)):
                names = noise_methods.folders(method, judge)
                shared = judge != validation[0] and names == noise_methods.folders(method, validation[0])
                count = 0 if shared else sum(not (folder / name / "run.json").exists() for name in names)
                search = folder / f"search-{method}-{judge}/search.json"
                if search.exists() and read_record(search, "search")["winner"] == "uniform":
                    count = 0  # uniform's run is its run
                runs[method] = runs.get(method, 0) + count
                if method in noise_methods.SEARCHES:
                    searches[method] = searches.get(method, 0) + (not search.exists())
    return tuple({name: count for name, count in each.items() if count} for each in (runs, searches))


@budgeted("bench auto")
def estimate_schedules(
    plan: Plan,
    data: str,
    out: Path,
    /,
    *,
    noise: Sequence[float],
    methods: Sequence[str],
    seeds: Sequence[int],
    settings: Settings,
    source: Path | None,
) -> Estimate:
    """The estimate of the benchmark of AutoSampling; arguments are those of its `run`, checked."""
    cells = [out / f"noise-{level:g}" / f"seed-{seed}" for level in noise for seed in seeds]
    needed = [auto_cell.folders(method, settings.population) for method in methods]
    trainings = dict.fromkeys(name for names, _ in needed for name in names)
    searches = dict.fromkeys(search for _, search in needed if search is not None)
    unpacked = sum(not (folder / "data/train").exists() for folder in cells)
    count = sum(not (folder / name / "run.json").exists() for folder in cells for name in trainings)
    with rehearsed(out) as scratch:
        cell = AutoCell(Cell(scratch, plan, max(noise), min(seeds)), settings)
        _, packing = _packed(lambda: cell.data.pack(data, source), scratch)
        stages = [packing.times(unpacked, f"{unpacked} levels and seeds")]
        one = _run_stage(cell.data, lambda: cell.uniform(0), "training", settings.epochs)
        stages.append(one.times(count, f"{count} trainings"))
        for name in searches:
            left = sum(not (folder / name / "auto.json").exists() for folder in cells)
            options = settings.options(name.removeprefix("search-"))
            rewards: dict[str, Any] = {"reward_rows": settings.reward_rows, "second_score": True}
            setup, recipe = cell.data.setups["clean"], cell.recipe(min(seeds))
            found = estimate_auto(setup, recipe, scratch / name, options=options, **rewards)
            stages += [stage.times(left, f"{left} {name}") for stage in _renamed(found, name)]
        cell.data.close()
    return Estimate("bench auto", out, (*stages, _page()), ())


@budgeted("bench budget")
def estimate_budget(
    data: str, grid: Grid, out: Path, /, *, processes: int, engine: str, threads: int, **given: Any
) -> Estimate:
    """The estimate of the benchmark of budgeted training; arguments are those of its `common_of` and `run`."""
    with rehearsed(out, ["common.json"]) as scratch:
        (common, packing) = _packed(lambda: common_of(data, scratch, threads=threads, **given), scratch)
        remember(common, scratch, processes=processes, engine=engine)
        left = remaining(grid, out)
        point = grid.points()[0]
        recipe = replace(common.recipe_of(point), epochs=common.recipe.epochs)
        full = estimate_training(common.setup(point.augment), recipe, Sampling(), scratch / "full")
    stages = [packing] if not (out / "data").exists() and packing.disk else []
    seconds = left.seconds(full.seconds)
    basis = f"computed: a full run of {full.seconds or 0:.3g} s × the budget of each" if not left.walls else left.basis
    basis += f"; {processes} at a time"
    disk = len(left.missing) * full.disk
    spare = processes * (full.most_disk - full.disk)
    name = f"{len(left.missing)} of {left.runs} runs"
    stages.append(Stage(name, None if seconds is None else seconds / processes, disk, full.memory, basis, spare))
    notes = ["controls at the measured compute come on top, one for each method and budget that took more or less"]
    notes += [f"memory is per process, of which there are {processes}"] if processes > 1 else []
    notes += ["with Ray: starting and network are not in the numbers"] if engine != "local" else []
    return Estimate("bench budget", out, (*stages, _page()), tuple(notes))


def _page() -> Stage:
    return Stage("page", 3.0, PAGE, resident(), "computed: as other reports")


def _packed(work: Callable[[], Any], folder: Path) -> tuple[Any, Stage]:
    """Pack the data, and return the result with its measured stage."""
    begin = perf_counter()
    made = work()
    seconds = perf_counter() - begin
    return made, Stage("pack", seconds, folder_size(folder), resident(), "measured: the data are really packed")


def _renamed(found: Estimate, name: str) -> list[Stage]:
    return [replace(stage, name=f"{name}: {stage.name}") for stage in found.stages]


def _renamed_stages(stages: Sequence[Stage], name: str) -> list[Stage]:
    return [replace(stage, name=f"{name}: {stage.name.partition(': ')[2]}") for stage in stages]


def _searching(
    setup: Setup, objective: Any, options: dict[str, Any], out: Path, seed: int
) -> tuple[list[Stage], list[str]]:
    """Stages of a search over columns that are made up: the real ones come from a run that is not there yet."""
    draw = np.random.default_rng(0)
    names = (*options.get("features", ("loss", "entropy")), "grad_norm")
    columns: Mapping[str, NDArray[np.float32]] = {
        name: draw.random(len(setup.data), dtype=np.float32) for name in names
    }
    stages, notes = estimate_candidates(columns, objective, out, {**options, "seed": seed}, running={})
    return [replace(stage, name=f"search: {stage.name}") for stage in stages], notes


def _of(cell: Cell, method: str) -> Callable[[], Any]:
    return lambda: cell.runs(method, "clean")


def _run_stage(cell: Cell, run: Callable[[], Any], name: str, epochs: int) -> Stage:
    """One training of a benchmark, tried for some seconds."""
    before = cell.loader.metrics["batches"]
    batches = epochs * len(cell.loader)
    with Clock(counted=lambda: cell.loader.metrics["batches"] - before, units=batches) as clock:
        run()
    seconds = clock.unit_seconds * batches
    basis = f"measured: {clock.units} batches, {1000 * clock.unit_seconds:.3g} ms each; × {batches}"
    model = cell.setups["clean"].build(0)
    if clock.units < 2 * len(cell.loader):  # whole epochs have their evaluations in them
        seconds += epochs * sum(evaluation_seconds(model, loader, False) for loader in cell.sets.values())
        basis += ", and evaluations"
    disk = state_bytes(model) + 400 * epochs
    spare = 2 * state_bytes(model, momentum=True, best=True)
    return Stage(name, seconds, disk, resident(), basis, spare)
