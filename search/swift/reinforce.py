"""The REINFORCE agent, the comparator of the paper's Fig. 3; the paper states none of its details, so all are ours.

Notation: x in (0, 1)^d a point of the cube, z = logit(x); policy z ~ N(mu, diag(sigma^2)), a logistic-normal law of x;
y_i scores; b baseline, the moving average of the scores of earlier rounds; A_i = (y_i - b) / (std of y so far).
    mu        += STEP mean_i A_i (z_i - mu)                                    natural gradient of E[y], per round
    log sigma += SPREAD_STEP mean_i A_i ((z_i - mu)^2 / sigma^2 - 1) / 2        the same for the spread
    b          = (1 - RATE) b + RATE mean_i y_i                                 after the update
It begins with mu = 0, sigma = 1.5, nearly the uniform law. Round 0 is not drawn from the policy: it sets b alone.
The policy is rebuilt from the scores for every round, so nothing is kept in memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit

Array = NDArray[np.float64]
STEP = 0.5
SPREAD_STEP = 0.1
RATE = 0.3
SPREAD = 1.5
LEAST_SPREAD = 0.2  # the policy never stops exploring
EDGE = 1e-6  # points stay that far inside the cube


def policy(points: Array, scores: Array, rounds: Sequence[int], /) -> tuple[Array, Array]:
    """Mean and spread of z, each float64 (d,), after `rounds`: first candidate of each round after round 0, then n."""
    mean, spread = np.zeros(points.shape[1]), np.full(points.shape[1], SPREAD)
    z = logit(np.clip(points, EDGE, 1 - EDGE))
    baseline = scores[: rounds[0]].mean()
    for first, stop in pairwise(rounds):
        advantage = (scores[first:stop] - baseline)[:, None] / (scores[:stop].std() or 1.0)
        moved = z[first:stop] - mean
        curvature = np.square(moved / spread) - 1
        mean = mean + STEP * (advantage * moved).mean(axis=0)
        spread = np.maximum(spread * np.exp(SPREAD_STEP * (advantage * curvature).mean(axis=0) / 2), LEAST_SPREAD)
        baseline = (1 - RATE) * baseline + RATE * scores[first:stop].mean()
    return mean, spread


def draw(mean: Array, spread: Array, count: int, /, *, seed: Sequence[int]) -> Array:
    """Points (count, d) of the policy."""
    z = np.random.default_rng(seed).normal(mean, spread, (count, mean.size))
    points: Array = np.clip(expit(z), EDGE, 1 - EDGE)
    return points
