"""Estimated cost of the demo and the benchmarks: one training is probed and multiplied by the runs that are missing."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from drawstream.tools.bench.auto import cell as auto_cell
from drawstream.tools.bench.auto.cell import Settings
from drawstream.tools.bench.budget.bench import common_of, remaining
from drawstream.tools.bench.budget.grid import Grid
from drawstream.tools.bench.noise import methods as noise_methods
from drawstream.tools.demo import Plan, pack_seed, search_of, start_demo
from drawstream.tools.estimate.probe import scratch_folder
from drawstream.tools.estimate.search import estimate_candidates
from drawstream.tools.estimate.stages import Estimate, Stage, finished
from drawstream.tools.estimate.training import estimate_extraction, estimate_training
from drawstream.tools.training.loop import Recipe
from drawstream.tools.training.methods.sampling import Sampling
from drawstream.tools.training.models import save_weights
from drawstream.tools.training.setup import Setup

PAGE = Stage("page", 3.0, 6_000_000, 0, "computed: as other reports; most of it is the plotting library")


def estimate_runs(
    job: str, out: Path, setup: Setup, recipe: Recipe, runs: Mapping[str, float], /, *, at_once: int = 1
) -> Estimate:
    """Estimate missing runs as multiples of one training.

    Args:
        job: The command.
        out: Folder of all runs.
        setup: Data and model of the training that is probed.
        recipe: Of a full training.
        runs: By name, how many full trainings the missing runs of a kind are.
        at_once: Processes that share them.
    """
    with scratch_folder(out) as scratch:
        one = estimate_training(setup, recipe, Sampling(), scratch / "one")
    basis = f"one training of {one.seconds or 0:.3g} s; {at_once} at a time"
    training = Stage("", (one.seconds or 0.0) / at_once, one.disk, one.memory, basis, one.most_disk - one.disk)
    stages = [
        replace(training.times(count, f"{count:.3g} trainings"), name=name) for name, count in runs.items() if count
    ]
    return Estimate(job, out, (*stages, PAGE), one.notes)


@contextmanager
def _packed(data: str, out: Path, source: Path | None, noise: float) -> Iterator[tuple[Setup, Recipe]]:
    """Data and recipe of a plan of the demo, in a scratch folder."""
    with scratch_folder(out) as scratch:
        yield pack_seed(data, scratch, source, noise, 0)


def estimate_demo(data: str, out: Path, /, *, source: Path | None, noise: float, seeds: list[int]) -> Estimate:
    """Estimate `run_demo`; arguments and errors are its own."""
    plan = start_demo(data, seeds)
    missing = sum(not (out / f"seed-{seed}/swift/run.json").exists() for seed in seeds)
    if not missing:
        return finished("demo", out / "demo.json")
    with _packed(data, out, source, noise) as (setup, recipe), scratch_folder(out) as scratch:
        start = scratch / "start.safetensors"
        save_weights(start, setup.build(0).state_dict())
        training = estimate_training(setup, recipe, Sampling(), scratch / "uniform").stages
        scoring = estimate_extraction(setup, start, scratch / "features").stages
        objective, options = search_of(plan, setup, start, 0)
        draw = np.random.default_rng(0)
        columns = {name: draw.random(len(setup.data), dtype=np.float32) for name in ("loss", "entropy")}
        searching, notes = estimate_candidates(columns, objective, scratch / "search", options, running={})
        objective.loader.close()
        objective.held_out.close()
    parts = {"uniform": training, "features": scoring, "search": searching, "sampler": training}
    stages = [replace(stage, name=f"{name}: {stage.name}") for name, found in parts.items() for stage in found]
    notes += ["packing is not in the time"]
    return Estimate("demo", out, (*(stage.times(missing, f"{missing} seeds") for stage in stages), PAGE), tuple(notes))


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
    """Estimate the benchmark of label noise; arguments are those of its `run`, checked."""
    runs: dict[str, float] = {}
    share = plan.fine_tune.epochs * plan.share / plan.recipe.epochs  # of a training, for a candidate
    confirming = (plan.confirm or plan.recipe).epochs / plan.recipe.epochs * (plan.confirm_top + 1) * plan.confirm_seeds
    for level in noise:
        for folder in (out / f"noise-{level:g}" / f"seed-{seed}" for seed in seeds):
            for judge in validation if level else ("clean",):
                for method in dict.fromkeys(("uniform", *methods)):
                    names = noise_methods.folders(method, judge)
                    if judge == validation[0] or names != noise_methods.folders(method, validation[0]):
                        missing = sum(not (folder / name / "run.json").exists() for name in names)
                        runs[method] = runs.get(method, 0) + missing
                    if method in noise_methods.SEARCHES:
                        new = not (folder / f"search-{method}-{judge}/search.json").exists()
                        trials = noise_methods.SEARCHES[method].get("trials", plan.trials)
                        name = f"search of {method}"
                        runs[name] = runs.get(name, 0) + new * (trials * share + confirming)
    runs["rank study"] = len(noise) * len(seeds) * len(validation) * candidates * (1 + share)
    with _packed(data, out, source, max(noise)) as (setup, _):
        return estimate_runs("bench noise", out, setup, plan.recipe, runs)


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
    """Estimate the benchmark of AutoSampling; arguments are those of its `run`, checked."""
    cells = [out / f"noise-{level:g}" / f"seed-{seed}" for level in noise for seed in seeds]
    needed = [auto_cell.folders(method, settings.population) for method in methods]
    trainings = dict.fromkeys(name for names, _ in needed for name in names)
    searches = dict.fromkeys(search for _, search in needed if search is not None)
    runs: dict[str, float] = {
        "trainings": sum(not (folder / name / "run.json").exists() for folder in cells for name in trainings)
    }
    for name in searches:
        runs[name] = settings.population * sum(not (folder / name / "auto.json").exists() for folder in cells)
    with _packed(data, out, source, max(noise)) as (setup, _):
        return estimate_runs("bench auto", out, setup, replace(plan.recipe, epochs=settings.epochs), runs)


def estimate_budget(
    data: str, grid: Grid, out: Path, /, *, processes: int, engine: str, threads: int, **given: Any
) -> Estimate:
    """Estimate the benchmark of budgeted training; arguments are those of its `common_of` and `run`."""
    runs: dict[str, float] = {}
    for point in remaining(grid, out).missing:
        runs[point.method] = runs.get(point.method, 0) + point.budget
    with scratch_folder(out) as scratch:
        common = common_of(data, scratch, threads=threads, **given)
        point = grid.points()[0]
        found = estimate_runs("bench budget", out, common.setup(point.augment), common.recipe, runs, at_once=processes)
    notes = ["controls at the measured compute come on top, one for each method and budget that took more or less"]
    notes += [f"memory is per process, of which there are {processes}"] if processes > 1 else []
    notes += ["with Ray: starting and network are not in the numbers"] if engine != "local" else []
    return replace(found, notes=(*found.notes, *notes))
