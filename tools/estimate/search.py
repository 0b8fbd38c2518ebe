"""Cost estimate of a search: the search itself runs with a few real candidates, or for its first intervals."""

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from drawstream.pipeline.secrets import shown
from drawstream.search import Trial, children_of, search_swift
from drawstream.search.auto.plan import Plan
from drawstream.search.swift.guard import runs_of
from drawstream.search.swift.study import sqlite_url
from drawstream.search.workers.crew import check_crew
from drawstream.tools.estimate.clock import Clock
from drawstream.tools.estimate.probe import LIMIT, Enough, allowed, left, rehearsed
from drawstream.tools.estimate.stages import Estimate, Stage, budgeted, finished, folder_size, resident
from drawstream.tools.estimate.training import evaluation_seconds, place_notes, state_bytes
from drawstream.tools.jobs.auto import FILES, auto_job
from drawstream.tools.jobs.search import prepare_search
from drawstream.tools.training.child import Reward
from drawstream.tools.training.finetune import FineTune
from drawstream.tools.training.loop import Recipe
from drawstream.tools.training.ranks import Ranks
from drawstream.tools.training.setup import Setup

__all__ = ["estimate_auto", "estimate_candidates", "estimate_swift"]

TRIED = 4  # candidates that are really scored, at most; the first one warms up
QUICK = 1e-3  # seconds of proposing a candidate that is designed, or random
TRIAL_RECORD = 1500  # bytes of search.json for a trial


class _Probe:
    """An objective that scores a few candidates as the search will, and makes up the other scores."""

    def __init__(self, real: FineTune | None, trials: int) -> None:
        self._real, self._random, self._trials = real, np.random.default_rng(0), trials
        self.clock = Clock()
        self.tried: list[float] = []  # seconds of the candidates that were really scored, the last one maybe in part
        self.calls = {"search": 0, "confirm": 0}
        self.told: dict[str, Any] = {"done": 0, "propose_seconds": 0.0}
        self.began: float | None = None  # the first candidate, after all that is opened and imported before it

    @property
    def beside(self) -> float:
        """Seconds of everything but the objective since the first candidate."""
        return 0.0 if self.began is None else time.perf_counter() - self.began - sum(self.tried)

    def _allowed(self) -> float:
        return allowed(self._trials * min(self.tried), LIMIT)

    def tell(self, event: dict[str, Any], /) -> None:
        """Progress of the search."""
        self.told |= event

    def __call__(self, probabilities: NDArray[np.float64], trial: Trial, /) -> float:
        self.began = time.perf_counter() if self.began is None else self.began
        self.calls[trial.stage] += 1
        much = self.beside > LIMIT and (self.told["propose_seconds"] > QUICK or self.beside > 2 * LIMIT)
        if much or left() <= 0:
            raise Enough
        again = len(self.tried) < 2 or (len(self.tried) < TRIED and sum(self.tried[1:]) < self._allowed())
        if self._real is not None and again and not self.clock.stopped:
            begin = time.perf_counter()
            with Clock(units=self._trials * self._real.steps("search")) as self.clock:
                self._real(probabilities, trial)
            self.tried.append(time.perf_counter() - begin)
        return float(self._random.normal())


@budgeted("search swift")
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
    """The estimate of `search_job`; arguments and errors are its own; an objective of one's own is not run."""
    prepared = prepare_search(setup, table_path, objective, out, seed=seed, options=options, join=join, spec=spec)
    check_crew(running["engine"], running["workers"])
    if prepared.record is not None:
        return finished("search swift", out / "search.json")
    given = {**options, "seed": seed, "provenance": prepared.provenance}
    given["identity"] = prepared.settings["identity"]
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
    """Stages and notes of a search over these columns; `options` are keywords of `search_swift`."""
    notes, trials = [], options.get("trials", 40)
    probe = _Probe(objective, trials)
    storage, result = running.get("storage"), None
    if storage is not None:
        notes.append(f"the study in {shown(storage)} was not looked at: what it holds already would not be done again")
    with rehearsed(out, [] if storage else ["study.db"]) as scratch:
        study = {"storage": sqlite_url(scratch / "study.db"), "study_name": running.get("study_name", "swift")}
        with suppress(Enough):
            result = search_swift(columns, probe, progress=probe.tell, **options, **study)
        beside = probe.beside
        quick = {**options, "trials": 1, "agent": "random", "starts": False, "min_ess": 0.0, "confirm_top": 0}
        (result or search_swift(columns, lambda *_: 0.0, **quick)).sampler.save(scratch / "sampler.json")
        disk = folder_size(scratch, ["study.db", "sampler.json"])
    if result is not None:
        scored, runs = probe.calls["search"], probe.calls["confirm"]
        if scored < trials:
            notes.append(f"{out / 'study.db'}: {trials - scored} of {trials} candidates are there and would be kept")
        basis = f"measured: this search's own with made-up scores, {scored} candidates"
    else:
        before = max(0, probe.told["done"] - probe.calls["search"])
        scored, made = trials - before, max(1, probe.calls["search"])
        runs = runs_of(options.get("confirm_top", 3), options.get("confirm_seeds", 3))
        beside += max(probe.told["propose_seconds"], beside / made) * max(0, scored - made)
        basis = f"measured: {made} candidates with made-up scores, × {scored}"
    disk += TRIAL_RECORD * trials
    at_once = min(running.get("workers") or 1, options.get("batch", 4))
    stages = [Stage("proposals", beside, disk, resident(), f"{basis}; study, sampler and record", spare=disk // 2)]
    if objective is None:
        notes.append("your own objective is not called in a dry run: its time is not known")
        return (*stages, Stage(f"{scored} candidates, {runs} confirming", None, 0, resident(), "unknown")), notes
    unit, short = probe.clock.unit_seconds, objective.steps("search")
    whole = not probe.clock.stopped
    if whole:
        rest = max(0.0, min(probe.tried) - short * unit)
    else:
        rest = evaluation_seconds(objective.build(0), objective.held_out, objective.search.amp)
    one = f"{short} steps × {1000 * unit:.3g} ms + {rest:.3g} s for the held-out set"
    how = f"measured: {len(probe.tried)} candidates" if whole else f"measured: {probe.clock.units} steps of a candidate"
    stages.append(
        Stage(f"{scored} candidates", scored * (short * unit + rest) / at_once, 0, resident(), f"{how}; {one}")
    )
    long = objective.steps("confirm")
    basis = f"computed: {runs} runs of {long} steps at the same speed"
    stages.append(Stage("confirmation", runs * (long * unit + rest) / at_once, 0, resident(), basis))
    if at_once > 1:
        notes.append(f"{at_once} workers at a time, each taken to be as fast as one alone; memory is of one of them")
    if running.get("engine", "local") != "local":
        notes.append("with Ray: time of one worker on this machine; starting and network are not in it")
    return tuple(stages), notes


class _Intervals:
    """A hook that notes the intervals of a search."""

    def __init__(self, clock: Clock) -> None:
        self._clock, self.first, self.total = clock, 0, 0

    def begin(self, _kind: str, _settings: Mapping[str, Any], /) -> None:
        """Nothing to note."""

    def step(self, step: int, total: int, _values: Mapping[str, float], /) -> None:
        """An interval has ended."""
        self.first, self.total = self.first or step, total
        self._clock.epoch()

    def end(self, _record: Mapping[str, Any], /) -> None:
        """Nothing to note."""


@budgeted("search auto")
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
    """The estimate of `auto_job`; arguments and errors are its own."""
    ranks = ranks or Ranks()
    children_of(ranks, population=options["population"])  # refuses more processes than children
    mine = -(-options["population"] // ranks.world_size)  # of the process with the most
    alone = ranks.world_size == 1
    names = ["auto.json", "checkpoint.pt", "schedule.rows", *FILES] if alone else []
    probed = options if alone else {**options, "population": mine}
    rewards: dict[str, Any] = {"reward": reward, "reward_rows": reward_rows, "second_score": second_score}
    with rehearsed(out, names) as scratch, Clock() as clock:
        hook = _Intervals(clock)
        auto_job(setup, recipe, scratch, options=probed, **rewards, hooks=[hook])
    if (out / "auto.json").exists():
        return finished("search auto", out / "auto.json")
    about = {"rows": len(setup.data), "batch_size": setup.global_batch, "epochs": recipe.epochs}
    plan = Plan(**{**options, **about})
    intervals = plan.epochs * plan.intervals
    remaining = intervals - max(0, hook.first - 1)
    state = state_bytes(setup.build(0), momentum=True)
    stages = [Stage("start", clock.start_seconds, 0, resident(), "measured: this dry run's own, without imports")]
    each = clock.epoch_seconds
    if each is not None:
        basis = f"measured: {len(clock.epochs) - 1} whole intervals of {mine} children; × {remaining}"
    else:
        steps = mine * plan.epochs * plan.steps / intervals
        held = setup.evaluation_loaders()["held_out"]
        judged = evaluation_seconds(setup.build(0), held, recipe.amp) * min(1.0, reward_rows / len(held.catalog))
        held.close()
        each = steps * clock.unit_seconds + mine * judged
        basis = f"measured: {clock.units} steps, part of the held-out set; × {remaining} intervals of {mine} children"
    stages.append(Stage(f"{remaining} intervals", remaining * each, 0, resident(), basis))
    rows = plan.epochs * plan.draws
    disk = 12 * rows + 16 * plan.rows + state_bytes(setup.build(0)) + 120 * intervals * plan.population
    basis = f"computed: {rows} recorded rows, distribution, weights, record; checkpoint, two at a time"
    stages.append(Stage("files", 0.1, disk, resident() + 8 * plan.rows, basis, spare=2 * state + 8 * rows))
    notes = list(place_notes(replace(setup, ranks=ranks), ranks))
    if hook.first > 1:
        notes.append(f"{out / 'checkpoint.pt'}: {hook.first - 1} of {intervals} intervals are done already")
    return Estimate("search auto", out, tuple(stages), tuple(notes))
