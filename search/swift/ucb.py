"""Points that maximise an upper confidence bound one after the other, for a Gaussian process that is fitted.

Notation: X points (n, d) of the unit cube; y standardised scores (n,), whose prior mean is 0; l length scales (d,);
s2 noise variance; k(x, x') = exp(-sum ((x - x') / l)^2 / 2); K = k(X, X) + s2 I.
    m(x)   k(x, X) K^-1 y                        posterior mean
    s(x)   sqrt(1 - k(x, X) K^-1 k(X, x))        posterior standard deviation
    a(x)   m(x) + kappa s(x), the bound that is maximised
A batch is chosen greedily (GP-BUCB; Desautels, Krause and Burdick, JMLR 2014): each chosen point joins X with its own
mean as its score, so m stays and s shrinks around it. All in closed form, with gradients; BoTorch's batch acquisition
takes ten times as long for the same at these sizes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve
from scipy.optimize import minimize
from scipy.stats import qmc

Array = NDArray[np.float64]
RAW = 256  # Sobol points of the cube that are tried
NEAR = 64  # points around the best mean that are tried
WIDTH = 0.05  # standard deviation of the latter
RESTARTS = 4  # of the best of both, ascended from; with 16 of 1024 searches ended with worse samplers (5 seeds)
LEAST = 1e-12  # of a variance: rounding may give less


@dataclass(frozen=True, slots=True)
class Process:
    """A Gaussian process with its hyper-parameters, on points and standardised scores.

    Attributes:
        points: X, float64 (n, d).
        scores: y, float64 (n,).
        lengths: l, float64 (d,).
        noise: s2.
    """

    points: Array
    scores: Array
    lengths: Array
    noise: float

    def kernel(self, a: Array, b: Array, /) -> Array:
        """K between points (p, d) and (q, d): float64 (p, q)."""
        scaled = (a[:, None, :] - b[None, :, :]) / self.lengths
        near: Array = np.exp(-0.5 * np.square(scaled).sum(axis=2))
        return near

    def weights(self) -> Array:
        """K^-1 y, float64 (n,): the posterior mean is k(x, X) times this."""
        solved: Array = cho_solve(self._factor(self.points), self.scores)
        return solved

    def posterior(self, x: Array, /, beside: Array | None = None) -> tuple[Array, Array]:
        """M and s at points (p, d), each float64 (p,); s as if the points `beside` (q, d) were observed too."""
        seen = self.points if beside is None else np.concatenate([self.points, beside])
        cross = self.kernel(x, seen)
        variance = 1 - (cross * cho_solve(self._factor(seen), cross.T).T).sum(axis=1)
        mean = cross[:, : len(self.points)] @ self.weights()
        return mean, np.sqrt(np.maximum(variance, LEAST))

    def _factor(self, seen: Array) -> tuple[Array, bool]:
        found: tuple[Array, bool] = cho_factor(self.kernel(seen, seen) + self.noise * np.eye(len(seen)))
        return found


def choose(process: Process, count: int, /, *, kappa: float, seed: int) -> Array:
    """The batch, float64 (count, d), in the order of the choice; `seed` is that of the points that are tried first."""
    rng = np.random.default_rng(seed)
    dimensions = process.points.shape[1]
    centre = process.points[int(np.argmax(process.posterior(process.points)[0]))]
    chosen = np.empty((0, dimensions))
    for _ in range(count):
        sobol = qmc.Sobol(dimensions, rng=rng).random(RAW)
        around = np.clip(centre + WIDTH * rng.standard_normal((NEAR, dimensions)), 0, 1)
        tried = np.concatenate([sobol, around])
        mean, deviation = process.posterior(tried, beside=chosen)
        best = np.argsort(-(mean + kappa * deviation), kind="stable")[:RESTARTS]
        chosen = np.concatenate([chosen, _ascend(process, chosen, tried[best], kappa)[None]])
    return chosen


def _ascend(process: Process, chosen: Array, starts: Array, kappa: float) -> Array:
    """The best point (d,) that gradient ascent of the bound reaches from some starts (r, d), within the cube."""
    seen = np.concatenate([process.points, chosen])
    inverse = cho_solve(process._factor(seen), np.eye(len(seen)))
    weights = np.zeros(len(seen))
    weights[: len(process.points)] = process.weights()

    def negative(x: Array) -> tuple[float, Array]:
        cross = process.kernel(x[None], seen)[0]
        slope = -cross[:, None] * (x - seen) / np.square(process.lengths)  # of the kernel, (n, d)
        solved = inverse @ cross
        deviation = np.sqrt(max(1 - cross @ solved, LEAST))
        value = cross @ weights + kappa * deviation
        return -float(value), -(weights - kappa * solved / deviation) @ slope

    bounds = [(0.0, 1.0)] * starts.shape[1]
    found = [minimize(negative, x, jac=True, method="L-BFGS-B", bounds=bounds) for x in starts]
    best: Array = min(found, key=lambda each: float(each.fun)).x
    return np.clip(best, 0, 1)
