"""P(clean): the probability that a row's label is right, by a mixture of two normal distributions of its score.

Notation
    x_i     score of row i, high where the label is suspect: the averaged margin, or the loss
    π, μ, σ share, mean and deviation of the component of higher mean, the wrong labels; π′, μ′, σ′ of the other
    r_i     posterior of the wrong component: π φ(x_i; μ, σ) / (π φ(x_i; μ, σ) + π′ φ(x_i; μ′, σ′))
    q       share of wrong labels, where it is known from elsewhere (confident joint): the odds of all r_i are then
            multiplied by one number, such that their mean is q

As in Arazo et al., "Unsupervised label noise modeling" (ICML 2019), with Gaussians as in DivideMix (Li et al., ICLR
2020). The posterior of two normal distributions can fall again far out; it is made to rise, as the score says.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["Mixture", "fit_mixture", "rescaled"]

_STEPS, _CLOSE = 500, 1e-8
_BINS = 1 << 14  # of the scores, where there are more rows: moves a deviation by less than 1e-6
_LEAST = 1e-3  # deviation of a component, at least, as a part of that of all scores


@dataclass(frozen=True, slots=True)
class Mixture:
    """Two normal distributions; the first is that of the higher scores.

    Attributes:
        share: π, in [0, 1].
        means: μ and μ′.
        deviations: σ and σ′.
    """

    share: float
    means: tuple[float, float]
    deviations: tuple[float, float]

    def density(self, scores: ArrayLike, /) -> NDArray[np.float64]:
        """Density of each component times its share, float64 (2, n)."""
        x = np.asarray(scores, dtype=np.float64)
        shares = (self.share, 1 - self.share)
        parts = [
            share / sigma * np.exp(-0.5 * ((x - mu) / sigma) ** 2) / math.sqrt(2 * math.pi)
            for share, mu, sigma in zip(shares, self.means, self.deviations, strict=True)
        ]
        return np.stack(parts)

    def wrong(self, scores: ArrayLike, /) -> NDArray[np.float64]:
        """Posterior r of the first component, float64 (n,), which rises with the score."""
        x = np.asarray(scores, dtype=np.float64)
        grid = np.linspace(x.min(), x.max(), 2049)
        with np.errstate(divide="ignore"):
            logs = [
                math.log(max(share, 1e-300)) - math.log(sigma) - 0.5 * ((grid - mu) / sigma) ** 2
                for share, mu, sigma in zip((self.share, 1 - self.share), self.means, self.deviations, strict=True)
            ]
        odds = logs[0] - logs[1]
        middle = np.searchsorted(grid, (self.means[0] + self.means[1]) / 2)
        odds[middle:] = np.maximum.accumulate(odds[middle:])
        odds[: middle + 1] = np.minimum.accumulate(odds[: middle + 1][::-1])[::-1]
        return 1 / (1 + np.exp(-np.interp(x, grid, np.clip(odds, -40, 40))))

    def as_dict(self) -> dict[str, Any]:
        """Values as a record keeps them."""
        return {"share": self.share, "means": list(self.means), "deviations": list(self.deviations)}


def fit_mixture(scores: ArrayLike, /) -> Mixture:
    """Fit two normal distributions by expectation and maximisation, from the halves below and above the median.

    Args:
        scores: float (n,), n >= 2.

    Raises:
        ValueError: There are fewer than two different scores, or some are not finite.
    """
    x = np.asarray(scores, dtype=np.float64)
    if x.ndim != 1 or not np.isfinite(x).all() or (np.unique(x[:1000]).size < 2 and np.unique(x).size < 2):
        raise ValueError(f"a mixture needs two different finite scores, but got {x.size} of shape {x.shape}")
    centre, scale = x.mean(), x.std()
    z, count = _binned((x - centre) / scale)
    found = (0.5, (1.0, -1.0), (1.0, 1.0))
    for _ in range(_STEPS):
        r = Mixture(*found).density(z)
        r *= count / (r.sum(0) + 1e-300)
        mass = r.sum(1) + 1e-12
        mu = r @ z / mass
        sigma = np.sqrt(np.maximum((r * (z - mu[:, None]) ** 2).sum(1) / mass, _LEAST**2))
        new = (float(mass[0] / mass.sum()), (float(mu[0]), float(mu[1])), (float(sigma[0]), float(sigma[1])))
        moved = max(abs(new[0] - found[0]), *(abs(a - b) for a, b in zip(new[1], found[1], strict=True)))
        found = new
        if moved < _CLOSE:
            break
    share, means, sigmas = found
    if means[0] < means[1]:
        share, means, sigmas = 1 - share, (means[1], means[0]), (sigmas[1], sigmas[0])
    back = tuple(float(mu * scale + centre) for mu in means)
    spread = tuple(float(sigma * scale) for sigma in sigmas)
    return Mixture(share, (back[0], back[1]), (spread[0], spread[1]))


def _binned(z: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return values and how often each comes: means of many narrow bins where there are more rows than bins."""
    if z.size <= _BINS:
        return z, np.ones(z.size)
    low, high = z.min(), z.max()
    place = np.minimum(((z - low) * (_BINS / (high - low))).astype(np.int64), _BINS - 1)
    count = np.bincount(place, minlength=_BINS)
    means = np.bincount(place, z, minlength=_BINS) / np.maximum(count, 1)
    return means[count > 0], count[count > 0].astype(np.float64)


def rescaled(wrong: ArrayLike, share: float, /) -> NDArray[np.float64]:
    """Return probabilities whose odds are those of `wrong` (n,) times one number, such that their mean is `share`.

    Raises:
        ValueError: The share is not in [0, 1].
    """
    if not 0 <= share <= 1:
        raise ValueError(f"`0 <= share <= 1` must hold, but got {share}")
    r = np.clip(np.asarray(wrong, dtype=np.float64), 1e-12, 1 - 1e-12)
    odds, low, high = np.log(r / (1 - r)), -60.0, 60.0
    for _ in range(60):
        shift = (low + high) / 2
        if (1 / (1 + np.exp(-(odds + shift)))).mean() < share:
            low = shift
        else:
            high = shift
    result: NDArray[np.float64] = 1 / (1 + np.exp(-(odds + (low + high) / 2)))
    return result
