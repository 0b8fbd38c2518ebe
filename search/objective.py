"""Objectives: what a candidate sampler is worth, as any function of its probabilities."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from drawstream.features import load_factory, users_code
from drawstream.pipeline import describe_error
from drawstream.pipeline.workers import Pool, Workers, open_workers
from drawstream.samplers import DrawstreamError
from drawstream.samplers.swift import SwiftSampler

Stage = Literal["search", "confirm"]


@dataclass(frozen=True, slots=True)
class Trial:
    """Context that an objective gets besides the probabilities.

    Attributes:
        number: Number of the candidate's trial in the study; -1 for the uniform control of the confirmation.
        seed: Seed of this run, below 2^32. Search runs have one each; candidates share those of the confirmation.
        stage: "search", or "confirm" for the second, usually longer run.
        sampler: The candidate itself, for objectives whose attribute `reads_sampler` is true: it scores rows that are
            not in the table. None for others.
    """

    number: int
    seed: int
    stage: Stage
    sampler: SwiftSampler | None = None


Objective = Callable[[NDArray[np.float64], Trial], float]  # probabilities (rows,) -> score, higher is better


class ObjectiveError(DrawstreamError, RuntimeError):
    """The objective raised; the study is intact and goes on when started again."""


def load_objective(spec: str, /) -> Objective:
    """The function named by "module:function"; modules of the working folder are found too, after installed ones.

    Args:
        spec: That name.

    Raises:
        ValueError: As `load_factory` of features gives it.
    """
    objective: Objective = load_factory("objective", spec)
    return objective


def evaluate(objective: Objective, probabilities: NDArray[np.float64], trial: Trial, /) -> float:
    """One run of the objective; the score may be NaN or infinite, which the caller must handle.

    Raises:
        ObjectiveError: The objective raised, or returned something else than a number.
    """
    try:
        with users_code("the objective"):
            return float(objective(probabilities.copy(), trial))  # its own: an objective may work in place
    except Exception as error:
        raise ObjectiveError(
            f"the objective raised at trial {trial.number} (stage {trial.stage!r}, seed {trial.seed}): "
            f"{describe_error(error)}; the study is intact: mend the objective and start the same search again"
        ) from error


@dataclass(frozen=True, slots=True)
class Outcome:
    """Outcome of a run.

    Attributes:
        trial: The context that the objective got.
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


def run(objective: Objective, task: tuple[NDArray[np.float64], Trial], /) -> Outcome:
    """One run of the objective, timed; what it raises is kept."""
    probabilities, trial = task
    told = replace(trial, sampler=None)  # the way back is long for its tables
    begin = time.perf_counter()
    try:
        score = evaluate(objective, probabilities, trial)
    except ObjectiveError as error:
        return Outcome(told, None, time.perf_counter() - begin, error, describe_error(error.__cause__ or error))
    return Outcome(told, score, time.perf_counter() - begin)


def open_objective(objective: Objective, workers: Workers, /) -> AbstractContextManager[Pool]:
    """Open workers for an objective, as `open_workers`: tasks are (probabilities, trial), results `Outcome`."""
    device = str(getattr(objective, "device", "cpu"))
    return open_workers(partial(run, objective), workers, device=device, what="the objective", name=_name)


def _name(task: tuple[NDArray[np.float64], Trial]) -> str:
    return f"trial {task[1].number} (stage {task[1].stage!r})"


def usable(score: float) -> bool:
    """Whether a score can be compared: neither NaN nor infinite."""
    return math.isfinite(score)
