"""Who runs the objective: this process alone, or a crew of worker processes here or on a Ray cluster.

    engine "local", 1 worker     Alone       in this process
    engine "local", w workers    Processes   spawned, each with its own copy of the objective
    engine "ray[:address]"       Cluster     Ray actors
A run whose worker died is given to another worker.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from drawstream.pipeline.secrets import describe
from drawstream.search.objective import Objective, ObjectiveError, Trial, evaluate

ATTEMPTS = 3  # of a run: one may fall with its machine, and the next with the memory of another


@dataclass(frozen=True, slots=True)
class Outcome:
    """Outcome of a run.

    Attributes:
        trial: What the objective was told.
        score: It may be NaN; None where there is an error.
        seconds: Wall time of the objective.
        error: What the objective raised.
        note: The same in short.
    """

    trial: Trial
    score: float | None
    seconds: float
    error: ObjectiveError | None = None
    note: str = ""


class Crew(Protocol):
    """Runs objectives, up to `size` at once."""

    @property
    def size(self) -> int:
        """Runs that can be under way."""

    def start(self, probabilities: NDArray[np.float64], trial: Trial, /) -> None:
        """Take a run; fewer than `size` are under way."""

    def next(self) -> Outcome:
        """Wait for one of the runs to end."""


def run(objective: Objective, probabilities: NDArray[np.float64], trial: Trial, /) -> Outcome:
    """One run of the objective, timed; what it raises is kept."""
    begin = time.perf_counter()
    try:
        score = evaluate(objective, probabilities, trial)
    except ObjectiveError as error:
        return Outcome(trial, None, time.perf_counter() - begin, error, describe(error.__cause__ or error))
    return Outcome(trial, score, time.perf_counter() - begin)


def call(crew: Crew, probabilities: NDArray[np.float64], trial: Trial, /) -> float:
    """One run by a crew that has no other: an objective that its members evaluate.

    Raises:
        ObjectiveError: The objective raised.
    """
    crew.start(probabilities, trial)
    outcome = crew.next()
    if outcome.error is not None:
        raise outcome.error
    assert outcome.score is not None
    return outcome.score


class Losses:
    """How often the workers of each run died."""

    def __init__(self) -> None:
        self._deaths: Counter[Trial] = Counter()

    def count(self, trial: Trial, how: str) -> None:
        """Note a death.

        Raises:
            ObjectiveError: It was the last attempt.
        """
        self._deaths[trial] += 1
        if self._deaths[trial] >= ATTEMPTS:
            raise ObjectiveError(
                f"trial {trial.number} (stage {trial.stage!r}): its worker died {ATTEMPTS} times, the last time {how}; "
                "is there enough memory, and does a script that searches with workers begin under "
                "`if __name__ == '__main__':`?"
            )


class Alone:
    """This process runs the objective itself, one run after the other."""

    size = 1

    def __init__(self, objective: Objective) -> None:
        self._objective = objective
        self._waiting: deque[tuple[NDArray[np.float64], Trial]] = deque()

    def start(self, probabilities: NDArray[np.float64], trial: Trial, /) -> None:
        """Keep the run until `next`."""
        self._waiting.append((probabilities, trial))

    def next(self) -> Outcome:
        """Do the run that was taken."""
        return run(self._objective, *self._waiting.popleft())


def check_crew(engine: str, workers: int | None, /) -> tuple[str, str]:
    """Kind and address of an engine.

    Raises:
        ValueError: There is no such engine, or a bad number of workers.
    """
    kind, _, address = engine.partition(":")
    if kind not in ("local", "ray") or (kind == "local" and engine != "local"):
        raise ValueError(f"the engine must be local, ray or ray:ADDRESS, but got {engine!r}")
    if workers is not None and workers < 1:
        raise ValueError(f"workers >= 1 must hold, but got {workers}")
    return kind, address
