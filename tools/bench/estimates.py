"""Estimated time of the benchmarks: the missing cells of a grid, as parts of one training that is probed."""

from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

from drawstream.tools import DemoPlan
from drawstream.tools.bench.auto import AutoGrid
from drawstream.tools.bench.auto import folders as auto_folders
from drawstream.tools.bench.budget import Grid, common_of
from drawstream.tools.bench.noise import SEARCHES, NoiseGrid, expand, folders
from drawstream.tools.estimate import Estimate, estimate_runs, packed_plan, scratch_folder
from drawstream.tools.runs import read_record

__all__ = ["estimate_auto", "estimate_budget", "estimate_noise"]


def estimate_noise(plan: DemoPlan, data: str, out: Path, grid: NoiseGrid, /, *, source: Path | None) -> Estimate:
    """Estimate the benchmark of label noise; arguments are those of its `run`."""
    runs: defaultdict[str, float] = defaultdict(float)
    share = plan.fine_tune.epochs * plan.share / plan.recipe.epochs  # of a training, for a candidate
    confirming = (plan.confirm or plan.recipe).epochs / plan.recipe.epochs * (plan.confirm_top + 1) * plan.confirm_seeds
    for (level, _), folder in grid.folders(out).items():
        for method in dict.fromkeys(("uniform", *expand(grid.methods))):
            judges = grid.validation if level else ("clean",)
            names = dict.fromkeys(name for judge in judges for name in folders(method, judge))
            runs[method] += sum(_is_missing(folder, name) for name in names)
            if method in SEARCHES:
                new = sum(not (folder / f"search-{method}-{judge}/search.json").exists() for judge in judges)
                trials = SEARCHES[method].get("trials", plan.trials)
                runs[f"search of {method}"] += new * (trials * share + confirming)
    runs["rank study"] += len(grid.folders(out)) * len(grid.validation) * grid.candidates * (1 + share)
    with packed_plan(data, out, source, plan, max(grid.noise)) as setup:
        return estimate_runs("bench noise", out, setup, plan.recipe, runs)


def _is_missing(folder: Path, name: str) -> bool:
    """Tell whether a training is still to be run; none follows a search that kept uniform."""
    search = folder / f"search-{name}/search.json"
    kept = search.exists() and read_record(search, "search")["winner"] == "uniform"
    return not kept and not (folder / name / "run.json").exists()


def estimate_auto(plan: DemoPlan, data: str, out: Path, grid: AutoGrid, /, *, source: Path | None) -> Estimate:
    """Estimate the benchmark of AutoSampling; arguments are those of its `run`."""
    cells, population = grid.folders(out).values(), grid.settings.population
    needed = [auto_folders(method, population) for method in grid.methods]
    trainings = dict.fromkeys(name for names, _ in needed for name in names)
    runs = {"trainings": sum(not (folder / name / "run.json").exists() for folder in cells for name in trainings)}
    for search in dict.fromkeys(each for _, each in needed if each is not None):
        runs[search] = population * sum(not (folder / search / "auto.json").exists() for folder in cells)
    with packed_plan(data, out, source, plan, max(grid.noise)) as setup:
        return estimate_runs("bench auto", out, setup, replace(plan.recipe, epochs=grid.settings.epochs), runs)


def estimate_budget(data: str, grid: Grid, out: Path, /, *, processes: int, engine: str, **given: Any) -> Estimate:
    """Estimate the benchmark of budgeted training; arguments are those of its `common_of` and `run`."""
    runs: defaultdict[str, float] = defaultdict(float)
    for point in grid.missing(out):
        runs[point.method] += point.budget
    with scratch_folder(out) as scratch:
        common = common_of(data, scratch, **given)
        setup = common.setup(grid.augments[0])
        found = estimate_runs("bench budget", out, setup, common.recipe, runs, at_once=processes)
    notes = ["controls at the measured compute come on top, one for each method and budget that took more or less"]
    notes += ["with Ray: starting and network are not in the numbers"] if engine != "local" else []
    return replace(found, notes=(*found.notes, *notes))
