"""Estimated time of the benchmarks: the missing cells of a grid, as parts of one training that is probed."""

from collections import defaultdict
from dataclasses import replace
from pathlib import Path

from drawstream.tools.bench.auto import folders as auto_folders
from drawstream.tools.bench.auto import methods_of as auto_methods
from drawstream.tools.bench.auto import settings_of
from drawstream.tools.bench.budget import common_of, missing
from drawstream.tools.bench.cell import plan_of
from drawstream.tools.bench.noise import cells_of, folders, methods_of, search_options, start
from drawstream.tools.bench.transfer import METHODS as TRANSFERS
from drawstream.tools.bench.transfer import models_of, transfer_plan
from drawstream.tools.cli import AutoGrid, BudgetGrid, NoiseGrid, TransferGrid
from drawstream.tools.estimate import Estimate, estimate_runs, packed_plan, scratch_folder
from drawstream.tools.runs import read_record

__all__ = ["estimate_auto", "estimate_budget", "estimate_noise", "estimate_transfer"]


def estimate_noise(grid: NoiseGrid, /) -> Estimate:
    """Estimate the benchmark of label noise."""
    methods, plan, out, cells = methods_of(grid), start(grid), grid.folder, cells_of(grid)
    runs: defaultdict[str, float] = defaultdict(float)
    for (level, *_), folder in cells.items():
        for method in dict.fromkeys(("uniform", *methods)):
            judges = grid.validation if level else ("clean",)
            names = dict.fromkeys(name for judge in judges for name in folders(method, judge))
            runs[method] += sum(_is_missing(folder, name) for name in names)
            if (search := search_options(method)) is not None:
                new = sum(not (folder / f"search-{method}-{judge}/search.json").exists() for judge in judges)
                runs[f"search of {method}"] += new * plan.search_cost(search.get("trials", plan.trials))
    if grid.candidates:
        study = grid.candidates + plan.trials * plan.candidate_cost
        runs["rank study"] += len(cells) * len(grid.validation) * study
    with packed_plan(grid.data, out, grid.source, plan, grid.levels[-1]) as setup:
        return estimate_runs("bench noise", out, setup, plan.recipe, runs)


def _is_missing(folder: Path, name: str) -> bool:
    """Tell whether a training is still to be run; none follows a search that kept uniform."""
    search = folder / f"search-{name}/search.json"
    kept = search.exists() and read_record(search, "search")["winner"] == "uniform"
    return not kept and not (folder / name / "run.json").exists()


def estimate_auto(grid: AutoGrid, /) -> Estimate:
    """Estimate the benchmark of AutoSampling."""
    methods, settings, plan, out = auto_methods(grid), settings_of(grid), plan_of(grid), grid.folder
    cells, population = grid.cells.values(), settings.population
    needed = [auto_folders(method, population) for method in methods]
    trainings = dict.fromkeys(name for names, _ in needed for name in names)
    runs = {"trainings": sum(not (folder / name / "run.json").exists() for folder in cells for name in trainings)}
    for search in dict.fromkeys(each for _, each in needed if each is not None):
        runs[search] = population * sum(not (folder / search / "auto.json").exists() for folder in cells)
    with packed_plan(grid.data, out, grid.source, plan, grid.levels[-1]) as setup:
        return estimate_runs("bench auto", out, setup, replace(plan.recipe, epochs=settings.epochs), runs)


def estimate_transfer(grid: TransferGrid, /) -> Estimate:
    """Estimate the benchmark of transfer; a training of the source stands for those of the targets."""
    (_, targets), plan, out = models_of(grid), transfer_plan(grid), grid.folder
    seeds, search = len(grid.seeds), plan.search_cost(plan.trials)
    runs = {"source": seeds * (2 + search), "targets": seeds * len(targets) * (len(TRANSFERS) + search)}
    noise = 0.0 if grid.of_catalog else grid.noise
    with packed_plan(grid.data, out, grid.source, plan, noise) as setup:
        found = estimate_runs("bench transfer", out, setup, plan.recipe, runs)
    return replace(found, notes=(*found.notes, "what is finished in the folder already would not be done again"))


def estimate_budget(grid: BudgetGrid, /) -> Estimate:
    """Estimate the benchmark of budgeted training."""
    out, processes = grid.folder, grid.at_once
    runs: defaultdict[str, float] = defaultdict(float)
    for point in missing(grid):
        runs[point.method] += point.budget
    with scratch_folder(out) as scratch:
        common = common_of(replace(grid, out=scratch))
        setup = common.setup(grid.augments[0])
        found = estimate_runs("bench budget", out, setup, common.recipe, runs, at_once=processes)
    notes = ["controls at the measured compute come on top, one for each method and budget that took more or less"]
    notes += ["with Ray: starting and network are not in the numbers"] if grid.engine != "local" else []
    return replace(found, notes=(*found.notes, *notes))
