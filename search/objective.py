"""Objectives: what a candidate sampler is worth, as any function of its probabilities."""

from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from drawstream.pipeline.secrets import shown
from drawstream.samplers.errors import DrawstreamError

Stage = Literal["search", "confirm"]


@dataclass(frozen=True, slots=True)
class Trial:
    """What an objective is told beside the probabilities.

    Attributes:
        number: Number of the candidate's trial in the study; -1 for the uniform control of the confirmation.
        seed: Seed of this run, below 2^32. Search runs have one each; candidates share those of the confirmation.
        stage: "search", or "confirm" for the second, usually longer run.
    """

    number: int
    seed: int
    stage: Stage


Objective = Callable[[NDArray[np.float64], Trial], float]  # probabilities (rows,) -> score, higher is better


class ObjectiveError(DrawstreamError, RuntimeError):
    """The objective raised; the study is intact and goes on when started again."""


def load_objective(spec: str, /) -> Objective:
    """The function named by "module:function".

    Args:
        spec: That name.

    Modules of the working folder are found too: it is appended to `sys.path`, also for what the function imports later.

    Raises:
        ValueError: The spec is malformed, the module cannot be imported, or it has no such function.
    """
    module_name, colon, name = spec.partition(":")
    if not (module_name and colon and name):
        raise ValueError(f'an objective is named "module:function", but got {spec!r}')
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)  # at the end: the working folder must not shadow an installed package
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        raise ValueError(f"cannot import {module_name!r} of objective {spec!r}: {describe(error)}") from error
    found = getattr(module, name, None)
    if not callable(found):
        raise ValueError(f"module {module_name!r} has no function {name!r} for objective {spec!r}")
    objective: Objective = found
    return objective


def evaluate(objective: Objective, probabilities: NDArray[np.float64], trial: Trial, /) -> float:
    """One run of the objective; the score may be NaN or infinite, which the caller must handle.

    Raises:
        ObjectiveError: The objective raised, or returned something else than a number.
    """
    try:
        return float(objective(probabilities.copy(), trial))  # its own: an objective may work in place
    except Exception as error:
        raise ObjectiveError(
            f"the objective raised at trial {trial.number} (stage {trial.stage!r}, seed {trial.seed}): "
            f"{describe(error)}; the study is intact: mend the objective and start the same search again"
        ) from error


def usable(score: float) -> bool:
    """Whether a score can be compared: neither NaN nor infinite."""
    return math.isfinite(score)


def describe(error: BaseException) -> str:
    """Type and first line of an error, without secrets of URLs."""
    lines = shown(error).splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}" if lines[0] else type(error).__name__
