"""Who runs the objective: this process."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from drawstream.search.objective import Objective, ObjectiveError, Trial, evaluate


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a run.

    Attributes:
        trial: What the objective was told.
        score: It may be NaN; None where there is an error.
        seconds: Wall time of the objective.
        error: What the objective raised.
    """

    trial: Trial
    score: float | None
    seconds: float
    error: ObjectiveError | None = None


class Crew(Protocol):
    """Runs objectives, up to `size` at once."""

    size: int

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
        return Outcome(trial, None, time.perf_counter() - begin, error)
    return Outcome(trial, score, time.perf_counter() - begin)


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
