"""The outer loop: proposes the candidates of a round, has them run, and notes what they gave.

A candidate is opened when all rounds before its own are settled, and when it is sure to be needed: completed and
running candidates together are fewer than the budget. So the candidates of a finished search do not depend on who ran
them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import count
from typing import Any

import numpy as np
import optuna
from optuna.distributions import FloatDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from drawstream.pipeline import describe_error
from drawstream.pipeline.workers import Pool
from drawstream.samplers.swift import (
    DegenerateSampler,
    SwiftFit,
    SwiftParams,
    SwiftSampler,
    effective_share,
    require_share,
)
from drawstream.search import Outcome, Trial, usable
from drawstream.search.swift.agent import History, SwiftAgent
from drawstream.search.swift.space import Point, Space
from drawstream.search.swift.study import TWICE, StudyMismatch, by_candidate, fail_orphans, is_settled, owner, record_of

Progress = Callable[[dict[str, Any]], None]
MOST_FRUITLESS = 100  # candidates in a row without a score before the search gives up
PATIENCE = 0.1  # seconds between looks at a study whose next candidates wait for other processes


def run_seed(seed: int, stream: int, index: int) -> int:
    """Seed of one run, below 2^32: stream 0 holds the search runs, stream 1 the confirmation runs."""
    return int(np.random.SeedSequence([seed, stream, index]).generate_state(1)[0])


@dataclass
class Rounds:
    """The search of one process in a study that it may share with others.

    Attributes:
        study: Opened.
        agent: Proposes.
        fit: Feature table: candidates to probabilities.
        pool: Runs the objective.
        samplers: The objective reads candidates as samplers.
        mark: Hash of the settings, which every trial carries: two processes that created a study at the same moment
            may have set different ones.
        progress: Called after every trial.
    """

    study: optuna.Study
    agent: SwiftAgent
    fit: SwiftFit
    pool: Pool
    samplers: bool = False
    mark: str = ""
    progress: Progress | None = None
    _running: dict[int, int] = field(default_factory=dict)  # candidate to trial number, of this process
    _round: tuple[int, list[Point], float] = (-1, [], 0.0)  # first candidate, points, seconds for each

    def run(self) -> None:
        """Go on until the study has the completed trials.

        Raises:
            ObjectiveError: The objective raised; its own trial and those that ran beside it are marked as failed.
            ValueError: 100 candidates in a row gave no score.
        """
        try:
            while True:
                fail_orphans(self.study)
                while len(self._running) < self.pool.size and self._open():
                    pass
                if self._running:
                    self._settle(self.pool.next().value)
                elif self._completed(self._taken()) >= self.agent.proposals.trials:
                    return
                else:
                    time.sleep(PATIENCE)
        except BaseException as error:
            for trial in self._running.values():
                self._fail(trial, "stopped", describe_error(error))
            raise

    def sampler(self, params: SwiftParams) -> SwiftSampler | None:
        """Return the sampler of some parameters, if the objective reads it: its tables cost a pass over the rows."""
        return self.fit.sampler(params) if self.samplers else None

    def _taken(self) -> dict[int, FrozenTrial]:
        taken = by_candidate(self.study.get_trials(deepcopy=False))
        for trial in taken.values():
            if trial.user_attrs["settings"] != self.mark:
                raise StudyMismatch(
                    f"study {self.study.study_name!r}: trial {trial.number} belongs to a search with other settings: "
                    "give another study name, or start all processes with the same options"
                )
        return taken

    def _completed(self, taken: Mapping[int, FrozenTrial]) -> int:
        return sum(trial.state == TrialState.COMPLETE for trial in taken.values())

    def _open(self) -> bool:
        """Take the next candidate, if there is one whose turn it is."""
        taken = self._taken()
        sure = sum(trial.state in (TrialState.COMPLETE, TrialState.RUNNING) for trial in taken.values())
        if sure >= self.agent.proposals.trials:
            return False
        number = next(k for k in count() if k not in taken)
        first, _ = self.agent.round_of(number)
        before = [trial for k, trial in taken.items() if k < first]
        if not all(map(is_settled, before)):
            return False
        _require_fruit(list(taken.values()))
        if self._round[0] != first:
            begin = time.perf_counter()
            points = self.agent.propose(number, history_of(before, self.agent.space))
            self._round = first, points, (time.perf_counter() - begin) / len(points)
        self._begin(number, self._round[1][number - first], self._round[2])
        return True

    def _begin(self, number: int, point: Point, seconds: float) -> None:
        """Create the trial of a candidate and have it run; one that is degenerate is settled at once."""
        names = self.agent.space.names
        notes: dict[str, Any] = {"candidate": number, "owner": owner(), "settings": self.mark}
        notes["propose_seconds"] = seconds
        state = TrialState.RUNNING
        try:
            params = self.agent.space.decode(point)
            notes["params"] = asdict(params)
            probabilities = self.fit.probabilities(params)
            notes["ess"] = effective_share(probabilities)
            require_share(probabilities, self.agent.proposals.min_ess)
        except DegenerateSampler as error:
            state = TrialState.PRUNED
            notes |= {"outcome": "degenerate", "note": str(error)}
        trial = create_trial(
            state=state,
            params=dict(zip(names, point.tolist(), strict=True)),
            distributions={name: FloatDistribution(0.0, 1.0) for name in names},
            user_attrs=notes,
        )
        storage = self.study._storage  # the public `add_trial` does not say which number the trial has
        trial = storage.get_trial(storage.create_new_trial(self.study._study_id, template_trial=trial))
        if self._taken()[number].number != trial.number:
            self._fail(trial.number, "twice", TWICE)
        elif state == TrialState.PRUNED:
            self._report(trial.number)
        else:
            self._running[number] = trial.number
            seed = run_seed(self.agent.proposals.seed, 0, number)
            self.pool.start((probabilities, Trial(number, seed, "search", self.sampler(params))))

    def _settle(self, outcome: Outcome) -> None:
        trial = self._running.pop(outcome.trial.number)
        self.study._storage.set_trial_user_attr(self._identity(trial), "seconds", outcome.seconds)
        if outcome.error is not None:
            self._fail(trial, "stopped", outcome.note)
            raise outcome.error
        assert outcome.score is not None
        if usable(outcome.score):
            self.study.tell(trial, outcome.score)
        else:
            note = f"the objective returned {outcome.score}: training diverged, or the score is not defined"
            self._fail(trial, "nan", note)
        self._report(trial)

    def _fail(self, trial: int, outcome: str, note: str) -> None:
        """Settle a trial without a score."""
        storage, identity = self.study._storage, self._identity(trial)
        if not storage.get_trial(identity).state.is_finished():  # else degenerate, and taken twice
            storage.set_trial_user_attr(identity, "outcome", outcome)
            storage.set_trial_user_attr(identity, "note", note)
            self.study.tell(trial, state=TrialState.FAIL)

    def _identity(self, trial: int) -> int:
        found: int = self.study._storage.get_trial_id_from_study_id_trial_number(self.study._study_id, trial)
        return found

    def _report(self, trial: int) -> None:
        if self.progress is None:
            return
        trials = self.study.get_trials(deepcopy=False)
        taken = by_candidate(trials)
        best = max((t.value for t in taken.values() if t.value is not None), default=None)
        event = {"stage": "search", "done": self._completed(taken), "trials": self.agent.proposals.trials, "best": best}
        self.progress(event | asdict(record_of(trials[trial])))


def history_of(before: Sequence[FrozenTrial], space: Space, /) -> History:
    """Points and scores of settled trials."""
    points = [[trial.params[name] for name in space.names] for trial in before]
    scores = [math.nan if trial.value is None else trial.value for trial in before]
    return History(np.array(points, np.float64).reshape(len(before), len(space.names)), np.array(scores, np.float64))


def _require_fruit(taken: Sequence[FrozenTrial]) -> None:
    """Refuse to go on where the last many candidates gave no score."""
    last = taken[-MOST_FRUITLESS:]
    if len(last) == MOST_FRUITLESS and all(is_settled(trial) and trial.value is None for trial in last):
        note = last[-1].user_attrs["note"]
        raise ValueError(f"{MOST_FRUITLESS} candidates in a row gave no score, the last because: {note}")
