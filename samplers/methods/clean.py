"""P(clean): the probability that a row's label is right, by a mixture of two normal distributions of a score.

Notation
    x_i       score of row i, high where the label is suspect
    q         share of wrong labels, known from elsewhere (confident joint)
    μ, μ′, σ  means of the wrong and of the right labels' distribution, of shares q and 1 − q; their one deviation
    r_i       posterior of the wrong ones, of odds q φ(x_i; μ, σ) / ((1 − q) φ(x_i; μ′, σ)); the odds of all rows are
              then multiplied by one number, such that their mean is q

As in Arazo et al., "Unsupervised label noise modeling" (ICML 2019), with Gaussians as in DivideMix (Li et al., ICLR
2020). One deviation and a given share are not stated there: log r/(1 − r) is then a line that rises. With two of them
and data of few wrong labels, the rows that are right but hard become the second distribution.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["Mixture", "fit_mixture", "rescaled"]

_STEPS, _CLOSE, _BINS = 500, 1e-9, 4096


@dataclass(frozen=True, slots=True)
class Mixture:
    """Two normal distributions of one deviation; the first is that of the higher scores.

    Attributes:
        share: q, in (0, 1).
        means: μ and μ′.
        deviation: σ.
    """

    share: float
    means: tuple[float, float]
    deviation: float

    def density(self, scores: ArrayLike, /) -> NDArray[np.float64]:
        """Density of each component times its share, float64 (2, n)."""
        z = (np.asarray(scores, dtype=np.float64) - np.array(self.means)[:, None]) / self.deviation
        shares = np.array([[self.share], [1 - self.share]])
        found: NDArray[np.float64] = shares * np.exp(-0.5 * z * z) / (self.deviation * math.sqrt(2 * math.pi))
        return found

    def wrong(self, scores: ArrayLike, /) -> NDArray[np.float64]:
        """Posterior r of the first component, float64 (n,), which rises with the score."""
        x = np.asarray(scores, dtype=np.float64)
        high, low = self.means
        odds = math.log(self.share / (1 - self.share)) + (high - low) * (x - (high + low) / 2) / self.deviation**2
        found: NDArray[np.float64] = 1 / (1 + np.exp(-np.clip(odds, -40, 40)))
        return found

    def as_dict(self) -> dict[str, Any]:
        """Values as a record keeps them."""
        return {"share": self.share, "means": list(self.means), "deviation": self.deviation}


def fit_mixture(scores: ArrayLike, share: float, /) -> Mixture:
    """Fit means and deviation by expectation and maximisation, from the means above and below the share's quantile.

    Scores are counted in 4 096 bins of equal width.

    Args:
        scores: float (n,), n >= 2.
        share: q, in [0, 1]; taken as half a row or more, and half a row or more less than all.

    Raises:
        ValueError: There are fewer than two different scores, or some are not finite.
    """
    x = np.asarray(scores, dtype=np.float64)
    if x.ndim != 1 or not np.isfinite(x).all() or x.size < 2 or np.ptp(x) == 0:
        raise ValueError(f"a mixture needs two different finite scores, but got {x.size} of shape {x.shape}")
    q = min(max(share, 0.5 / x.size), 1 - 0.5 / x.size)
    counts, edges = np.histogram(x, _BINS)
    x, weight = ((edges[:-1] + edges[1:]) / 2)[counts > 0], counts[counts > 0] / counts.sum()
    cut = np.interp(1 - q, np.cumsum(weight), x)
    high, low = x >= min(cut, x[-1]), x < max(cut, x[1])
    mean = x @ weight
    found = Mixture(
        q,
        (x[high] @ weight[high] / weight[high].sum(), x[low] @ weight[low] / weight[low].sum()),
        math.sqrt((x - mean) ** 2 @ weight),
    )
    for _ in range(_STEPS):
        r = found.wrong(x) * weight
        rest = weight - r
        means = float(r @ x / r.sum()), float(rest @ x / rest.sum())
        variance = float(r @ (x - means[0]) ** 2 + rest @ (x - means[1]) ** 2)
        new = Mixture(q, means, math.sqrt(max(variance, (edges[1] - edges[0]) ** 2 / 12)))
        moved = max(
            abs(new.deviation - found.deviation), *(abs(a - b) for a, b in zip(means, found.means, strict=True))
        )
        found = new
        if moved < _CLOSE * (edges[-1] - edges[0]):
            break
    return found


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
