"""Estimated time of many runs: one training is probed and multiplied by the runs that are missing; the demo's."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from drawstream.tools import DemoPlan, pack_plan, search_of, setup_of, start_plan
from drawstream.tools.estimate.probe import scratch_folder
from drawstream.tools.estimate.search import estimate_candidates
from drawstream.tools.estimate.stages import Estimate, Stage, finished
from drawstream.tools.estimate.training import estimate_extraction, estimate_training
from drawstream.tools.jobs import FeaturesJob, TrainingJob
from drawstream.tools.training import FineTune, Recipe, Setup, save_weights
from drawstream.tools.training.methods import Sampling

PAGE = Stage("page", 3.0, "as other reports")


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
        one = estimate_training(TrainingJob(setup, recipe, Sampling(), scratch / "one"))
    basis = f"one training of {one.seconds or 0:.3g} s; {at_once} at a time"
    training = Stage("", (one.seconds or 0.0) / at_once, basis)
    stages = [
        replace(training.times(count, f"{count:.3g} trainings"), name=name) for name, count in runs.items() if count
    ]
    return Estimate(job, out, (*stages, PAGE), one.notes)


@contextmanager
def packed_plan(data: str, out: Path, source: Path | None, plan: DemoPlan, noise: float | str) -> Iterator[Setup]:
    """Data and model of a plan of the demo, in a scratch folder."""
    with scratch_folder(out) as scratch:
        if plan.places is None:
            pack_plan(scratch, data, source, plan, noise=noise)
        yield setup_of(plan, scratch)


def estimate_demo(data: str, out: Path, /, *, source: Path | None, noise: float, seeds: list[int]) -> Estimate:
    """Estimate `run_demo`; arguments and errors are its own."""
    plan = start_plan(data, seeds)
    missing = sum(not (out / f"seed-{seed}/swift/run.json").exists() for seed in seeds)
    if not missing:
        return finished("demo", out / "demo.json")
    with packed_plan(data, out, source, plan, noise) as setup, scratch_folder(out) as scratch:
        job = search_of(plan, setup, scratch, 0)
        objective = job.objective
        assert isinstance(objective, FineTune)
        save_weights(objective.start, setup.build(0).state_dict())
        training = estimate_training(TrainingJob(setup, plan.recipe, Sampling(), scratch / "estimated")).stages
        scoring = estimate_extraction(FeaturesJob(setup, objective.start, job.table)).stages
        draw = np.random.default_rng(0)
        columns = {name: draw.random(len(setup.data), dtype=np.float32) for name in ("loss", "entropy")}
        searching, notes = estimate_candidates(job, columns)
        objective.close()
    parts = {"uniform": training, "features": scoring, "search": searching, "sampler": training}
    stages = [replace(stage, name=f"{name}: {stage.name}") for name, found in parts.items() for stage in found]
    notes += ["packing is not in the time"]
    return Estimate("demo", out, (*(stage.times(missing, f"{missing} seeds") for stage in stages), PAGE), tuple(notes))
