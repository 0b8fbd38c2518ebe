"""Estimated time of a search: the search itself runs with a few real candidates, or for its first steps."""

import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from drawstream.pipeline import shown
from drawstream.search import Stage as SearchStage
from drawstream.search import Trial
from drawstream.search.auto import children_of
from drawstream.search.swift import runs_of, search_swift, sqlite_url
from drawstream.tools.estimate.probe import LIMIT, Probe, ProbeDone, scratch_folder
from drawstream.tools.estimate.stages import Estimate, Stage, finished
from drawstream.tools.estimate.training import evaluation_seconds, place_notes
from drawstream.tools.jobs import FILES, AutoJob, SearchJob, auto_job, prepare_search
from drawstream.tools.training import FineTune, Ranks


class _MadeUp:
    """An objective that fine-tunes for one candidate, and makes up the other scores."""

    def __init__(self, real: FineTune | None) -> None:
        self._real, self._random = real, np.random.default_rng(0)
        self.reads_sampler = real is not None and real.reads_sampler
        self.probe = Probe()
        self.done = 0
        self.proposing = 0.0  # seconds of all but the candidate
        self._asked: float | None = None

    def __call__(self, probabilities: NDArray[np.float64], trial: Trial, /) -> float:
        if self._asked is not None:
            self.proposing += time.perf_counter() - self._asked
        if self._real is not None and self.done == 0:
            with self.probe:
                self._real(probabilities, trial)
        self.done += trial.stage == "search"
        if self.proposing > LIMIT:
            raise ProbeDone
        self._asked = time.perf_counter()
        return float(self._random.normal())


def estimate_swift(job: SearchJob, /) -> Estimate:
    """Check and estimate `search_job`; errors are its own; an objective of one's own is not run."""
    prepared = prepare_search(job)
    if prepared.record is not None:
        return finished("search swift", job.out / "search.json")
    stages, notes = estimate_candidates(replace(job, study=prepared.study), prepared.columns)
    return Estimate("search swift", job.out, stages, (*notes, *place_notes(job.setup, job.setup.ranks)))


def estimate_candidates(job: SearchJob, columns: Mapping[str, ArrayLike], /) -> tuple[tuple[Stage, ...], list[str]]:
    """Return stages and notes of a search over these columns, which stand in for those of the job's table."""
    notes, trials, out = [], job.proposals.trials, job.out
    objective = job.objective if isinstance(job.objective, FineTune) else None
    storage, told = job.study.storage, {"done": 0}
    if storage is not None:
        notes.append(f"the study in {shown(storage)} was not looked at: what it holds already would not be done again")
    made_up = _MadeUp(objective)
    with scratch_folder(out, [] if storage else ["study.db"]) as scratch:
        study = replace(job.study, storage=sqlite_url(scratch / "study.db"))
        with suppress(ProbeDone):
            search_swift(columns, made_up, **job.law, study=study, progress=told.update)
    there = max(0, told["done"] - made_up.done) if made_up.done else trials
    left, runs = trials - there, runs_of(job.guard.confirm_top, job.guard.confirm_seeds)
    if there:
        notes.append(f"{out / 'study.db'}: {there} of {trials} candidates are there and would be kept")
    basis = f"measured: {made_up.done} candidates with made-up scores; × {left}"
    stages = [Stage("proposals", made_up.proposing / max(made_up.done, 1) * left, basis)]
    counts: dict[SearchStage, tuple[str, int]] = {
        "search": (f"{left} candidates", left),
        "confirm": (f"{runs} runs of the confirmation", runs),
    }
    if objective is None:
        notes.append("your own objective is not called in a dry run: its time is not known")
        return (*stages, *(Stage(name, None, "unknown") for name, _ in counts.values())), notes
    at_once = min(job.workers.count or 1, job.proposals.round)
    judged = evaluation_seconds(objective.setup.build(0), objective.held_out, objective.search.amp)
    for stage, (name, count) in counts.items():
        steps = objective.steps(stage)
        seconds = steps * made_up.probe.unit_seconds + judged if made_up.probe.count else None
        basis = f"measured: {made_up.probe.count} steps and the held-out set; {count} × {steps} steps"
        stages.append(Stage(name, seconds and count * seconds / at_once, basis))
    if at_once > 1:
        notes.append(f"{at_once} workers at a time, each taken to be as fast as one alone")
    if not job.workers.local:
        notes.append("with Ray: time of one worker on this machine; starting and network are not in it")
    return tuple(stages), notes


def estimate_auto(job: AutoJob, /) -> Estimate:
    """Check and estimate `auto_job`; errors are its own."""
    setup, out, plan, ranks = job.setup, job.out, job.plan, job.ranks
    children_of(ranks, population=plan.population)  # refuses more processes than children
    mine = -(-plan.population // ranks.world_size)  # of the process with the most
    names = ["auto.json", "checkpoint.pt", "schedule.rows", *FILES] if ranks.world_size == 1 else []
    with scratch_folder(out, names) as scratch, Probe() as probe:
        auto_job(replace(job, out=scratch, plan=replace(plan, population=mine), ranks=Ranks()))
    if (out / "auto.json").exists():
        return finished("search auto", out / "auto.json")
    model, held = setup.build(0), setup.evaluation_loaders("held_out")["held_out"]
    judged = evaluation_seconds(model, held, job.recipe.amp) * min(1.0, job.reward_rows / len(held.catalog))
    held.close()
    intervals = plan.epochs * plan.intervals
    each = mine * (plan.epochs * plan.steps / intervals * probe.unit_seconds + judged)
    basis = f"measured: {probe.count} steps, part of the held-out set; × {intervals} intervals of {mine} children"
    notes = place_notes(replace(setup, ranks=ranks), ranks)
    if (out / "checkpoint.pt").exists():
        notes.append(f"{out / 'checkpoint.pt'} is there: the intervals up to it would not be done again")
    first = Stage("start", probe.start_seconds, "measured: until the first step")
    return Estimate("search auto", out, (first, Stage(f"{intervals} intervals", intervals * each, basis)), tuple(notes))
