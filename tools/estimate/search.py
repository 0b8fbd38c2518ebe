"""Estimated cost of a search: the search itself runs with a few real candidates, or for its first steps."""

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from drawstream.pipeline import shown
from drawstream.pipeline.workers import Workers
from drawstream.search import Stage as SearchStage
from drawstream.search import Trial
from drawstream.search.auto import PopulationPlan, children_of
from drawstream.search.swift import runs_of, search_swift, sqlite_url
from drawstream.tools.estimate.probe import LIMIT, Probe, ProbeDone, scratch_folder
from drawstream.tools.estimate.stages import Estimate, Stage, finished, folder_size, peak_rss
from drawstream.tools.estimate.training import evaluation_seconds, place_notes, state_bytes
from drawstream.tools.jobs import FILES, auto_job, prepare_search, search_keywords
from drawstream.tools.training import FineTune, Ranks, Recipe, Reward, Setup

TRIAL_RECORD = 1500  # bytes of search.json for a trial


class _MadeUp:
    """An objective that fine-tunes for one candidate, and makes up the other scores."""

    def __init__(self, real: FineTune | None) -> None:
        self._real, self._random = real, np.random.default_rng(0)
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


def estimate_swift(
    setup: Setup,
    table_path: Path,
    objective: Any,
    out: Path,
    /,
    *,
    seed: int,
    options: dict[str, Any],
    join: Sequence[Path] = (),
    spec: str = "",
    running: Mapping[str, Any],
) -> Estimate:
    """Check and estimate `search_job`; arguments and errors are its own; an objective of one's own is not run."""
    prepared = prepare_search(setup, table_path, objective, out, seed=seed, options=options, join=join, spec=spec)
    Workers(running["workers"], running["engine"])  # refuses what is no engine
    if prepared.record is not None:
        return finished("search swift", out / "search.json")
    given = {**options, "seed": seed, "provenance": prepared.provenance, "identity": prepared.settings["identity"]}
    tuned = objective if isinstance(objective, FineTune) else None
    stages, notes = estimate_candidates(prepared.columns, tuned, out, given, running=running)
    return Estimate("search swift", out, stages, (*notes, *place_notes(setup, setup.ranks)))


def estimate_candidates(
    columns: Mapping[str, ArrayLike],
    objective: FineTune | None,
    out: Path,
    options: dict[str, Any],
    /,
    *,
    running: Mapping[str, Any],
) -> tuple[tuple[Stage, ...], list[str]]:
    """Return stages and notes of a search over these columns; `options` are those of `search_keywords`."""
    notes, trials = [], options.get("trials", 40)
    storage, told = running.get("storage"), {"done": 0}
    if storage is not None:
        notes.append(f"the study in {shown(storage)} was not looked at: what it holds already would not be done again")
    made_up = _MadeUp(objective)
    with scratch_folder(out, [] if storage else ["study.db"]) as scratch:
        study = {"storage": sqlite_url(scratch / "study.db"), "study_name": running.get("study_name", "swift")}
        with suppress(ProbeDone):
            search_swift(columns, made_up, progress=told.update, **search_keywords({**options, **study}))
        quick = {**options, "trials": 1, "agent": "random", "starts": False, "min_ess": 0.0, "confirm_top": 0}
        search_swift(columns, lambda *_: 0.0, **search_keywords(quick)).sampler.save(scratch / "sampler.json")
        disk = folder_size(scratch) + TRIAL_RECORD * trials
    there = max(0, told["done"] - made_up.done) if made_up.done else trials
    left, runs = trials - there, runs_of(options.get("confirm_top", 3), options.get("confirm_seeds", 3))
    if there:
        notes.append(f"{out / 'study.db'}: {there} of {trials} candidates are there and would be kept")
    proposing = made_up.proposing / max(made_up.done, 1) * left
    basis = f"measured: {made_up.done} candidates with made-up scores; × {left}; study, sampler and record"
    stages = [Stage("proposals", proposing, disk, peak_rss(), basis, spare=disk // 2)]
    names = (f"{left} candidates", f"{runs} runs of the confirmation")
    stages_of_search: tuple[SearchStage, ...] = ("search", "confirm")
    if objective is None:
        notes.append("your own objective is not called in a dry run: its time is not known")
        return (*stages, *(Stage(name, None, 0, peak_rss(), "unknown") for name in names)), notes
    at_once = min(running.get("workers") or 1, options.get("round", 4))
    judged = evaluation_seconds(objective.setup.build(0), objective.held_out, objective.search.amp)
    for name, count, stage in zip(names, (left, runs), stages_of_search, strict=True):
        steps = objective.steps(stage)
        seconds = steps * made_up.probe.unit_seconds + judged if made_up.probe.count else None
        basis = f"measured: {made_up.probe.count} steps and the held-out set; {count} × {steps} steps"
        stages.append(Stage(name, seconds and count * seconds / at_once, 0, peak_rss(), basis))
    if at_once > 1:
        notes.append(f"{at_once} workers at a time, each taken to be as fast as one alone; memory is of one of them")
    if running.get("engine", "local") != "local":
        notes.append("with Ray: time of one worker on this machine; starting and network are not in it")
    return tuple(stages), notes


class _FirstInterval:
    """A hook that notes where a search resumed."""

    first = 1

    def begin(self, _kind: str, _settings: Mapping[str, Any], /) -> None:
        """Reset the count."""
        self.seen = False

    def step(self, step: int, _total: int, _values: Mapping[str, float], /) -> None:
        """Note the first interval that ended."""
        if not self.seen:
            self.first, self.seen = step, True

    def end(self, _record: Mapping[str, Any], /) -> None:
        """Ignore the record."""


def estimate_auto(
    setup: Setup,
    recipe: Recipe,
    out: Path,
    /,
    *,
    options: dict[str, Any],
    reward: Reward = "accuracy",
    reward_rows: int = 1000,
    second_score: bool = False,
    ranks: Ranks | None = None,
) -> Estimate:
    """Check and estimate `auto_job`; arguments and errors are its own."""
    ranks = ranks or Ranks()
    children_of(ranks, population=options["population"])  # refuses more processes than children
    mine = -(-options["population"] // ranks.world_size)  # of the process with the most
    alone = ranks.world_size == 1
    names = ["auto.json", "checkpoint.pt", "schedule.rows", *FILES] if alone else []
    hook = _FirstInterval()
    given: dict[str, Any] = {"reward": reward, "reward_rows": reward_rows, "second_score": second_score}
    with scratch_folder(out, names) as scratch, Probe() as probe:
        auto_job(setup, recipe, scratch, options=options | {"population": mine}, **given, hooks=[hook])
    if (out / "auto.json").exists():
        return finished("search auto", out / "auto.json")
    plan = PopulationPlan(**options, rows=len(setup.data), batch_size=setup.global_batch, epochs=recipe.epochs)
    intervals = plan.epochs * plan.intervals
    left = intervals - hook.first + 1
    model, held = setup.build(0), setup.evaluation_loaders()["held_out"]
    judged = evaluation_seconds(model, held, recipe.amp) * min(1.0, reward_rows / len(held.catalog))
    held.close()
    each = mine * (plan.epochs * plan.steps / intervals * probe.unit_seconds + judged)
    basis = f"measured: {probe.count} steps, part of the held-out set; × {left} intervals of {mine} children"
    rows = plan.epochs * plan.draws
    disk = 12 * rows + 16 * plan.rows + state_bytes(model) + 120 * intervals * plan.population
    spare = 2 * state_bytes(model, momentum=True) + 8 * rows
    stages = (
        Stage("start", probe.start_seconds, 0, peak_rss(), "measured: until the first step"),
        Stage(f"{left} intervals", left * each, 0, peak_rss(), basis),
        Stage("files", 0.1, disk, peak_rss() + 8 * plan.rows, "computed: schedule, weights, record", spare),
    )
    notes = place_notes(replace(setup, ranks=ranks), ranks)
    if hook.first > 1:
        notes.append(f"{out / 'checkpoint.pt'}: {hook.first - 1} of {intervals} intervals are done already")
    return Estimate("search auto", out, stages, tuple(notes))
