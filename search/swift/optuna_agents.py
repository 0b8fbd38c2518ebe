"""Optuna's samplers as agents: each round a sampler anew, on a study in memory that holds the rounds before.

So they too are functions of the scores alone, which their use in a study of several processes would not be. Samplers
that keep a state of their own in the study (CMA-ES, NSGA-II, grid, quasi-random) cannot be used that way.
"""

from __future__ import annotations

import warnings

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.distributions import FloatDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.trial import create_trial

PREFIX = "optuna:"
STATELESS = ("TPESampler", "GPSampler")


def suggest(
    name: str, points: NDArray[np.float64], scores: NDArray[np.float64], /, *, seed: int, count: int
) -> NDArray[np.float64]:
    """The next points (count, d) of the cube by one of Optuna's samplers; each counts as running for those after it."""
    names = [f"x{k}" for k in range(points.shape[1])]
    cube = {each: FloatDistribution(0.0, 1.0) for each in names}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        liar = {"constant_liar": True} if name == "TPESampler" and count > 1 else {}
        sampler = getattr(optuna.samplers, name)(seed=seed, **liar)
        study = optuna.create_study(direction="maximize", sampler=sampler)
        for point, score in zip(points, scores, strict=True):
            params = dict(zip(names, point.tolist(), strict=True))
            study.add_trial(create_trial(params=params, distributions=dict(cube), value=float(score)))
        proposed = [study.ask(dict(cube)).params for _ in range(count)]
    return np.array([[params[each] for each in names] for params in proposed])
