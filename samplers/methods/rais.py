"""RAIS: draw rows by the worst gradient norm that what was seen of them allows (Johnson and Guestrin, NeurIPS 2018).

The paper has no public code and leaves its set open; this is a reconstruction, not stated there:

Notation
    N      rows; v_i norm of row i's gradient, here ‖p − onehot(y)‖₂, which bounds it up to a constant
    s_i    features of a row, float64 (N, 4), all >= 0: its norm in the last epoch that saw it, its mean norm over all
           visits, epochs since it was seen (staleness), 1. Unseen rows have the mean over the others, and all epochs
    a, b   ⟨c, s_i⟩ and ⟨d, s_i⟩, with c, d >= 0 (4,)
    U      {v : (1/N) Σ (v_i − a_i)² / b_i <= 1}, the norms that are held possible
    k      √(N / Σ b)

The sampling that minimises max over v in U of Σ v_i² / p_i is p_i ∝ a_i + k b_i: by the minimax theorem v is then the
worst case of Σ v_i, where (v_i − a_i) / b_i is the same number k for all rows. After each epoch c and d are fitted to
the norms seen in it, weighted 1/(N p) and by visits: U holds them on average, and Σ b is the least that does so.
Training draws with replacement and multiplies each loss by 1/(N p), which leaves the mean gradient unbiased.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from numba import njit
from numpy.typing import NDArray

from drawstream.samplers import sum_exactly, whole_number
from drawstream.samplers.methods.visits import UNIT, Total, Visits

__all__ = ["RAIS", "fit_set", "robust_probabilities"]

_FORMAT = 1
_ROUNDS = 200  # of the fit, at most; each lowers its value
_SMALL = 1e-4  # part of its value: a pair of rounds that lowers it by less is the last
_START = 0.01  # least coefficient that a fit begins with: 0 stays 0
_LEAST = 1e-3  # share of the uniform distribution in P: a row's weight is at most 1000


class RAIS(Visits):
    """Robust approximate importance sampling. A row sampler for `IndexStream`; see the module.

        >>> from drawstream import IndexStream, RAIS
        >>> sampler = RAIS(60_000)
        >>> stream = IndexStream(sampler, mode="multinomial", draws=18_000, seed=0)

    In the loop: `sampler.observe(ids, logits, labels, weights)` after each forward pass, `sampler.reduce()` after each
    epoch, as `PSGD`; train on the mean of `weights` times loss. Memory: 56 bytes per row.

    Args:
        rows: N.
        uniform_epochs: Leading epochs drawn uniformly. In epoch 0 nothing is known, so 0 and 1 are the same.

    Raises:
        ValueError: rows < 1 or uniform_epochs < 0.
    """

    _kept: ClassVar[Mapping[str, str]] = {
        "epochs": "_epochs",
        "totals": "_totals",
        "last": "_last",
        "coefficients": "_coefficients",
        "pending": "sums",
    }

    def __init__(self, rows: int, /, *, uniform_epochs: int = 1) -> None:
        super().__init__(rows, measure="grad_norm")
        self.uniform_epochs = whole_number(uniform_epochs, "uniform_epochs")
        if self.uniform_epochs < 0:
            raise ValueError(f"uniform_epochs >= 0 must hold, but got {uniform_epochs}")
        self._totals: NDArray[np.int64] = np.zeros((self.rows, 2), dtype=np.int64)
        self._last: NDArray[np.int64] = np.full((self.rows, 2), -1, dtype=np.int64)
        self._coefficients: NDArray[np.float64] = np.array([[0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]])
        self._epochs = 0

    def __repr__(self) -> str:
        return f"RAIS({self.rows} rows, {self._epochs} epochs)"

    @property
    def coefficients(self) -> NDArray[np.float64]:
        """The fitted c and d, float64 (2, 4)."""
        return self._coefficients.copy()

    def features(self) -> NDArray[np.float64]:
        """Return s, float64 (rows, 4): last norm, mean norm, staleness in epochs, 1."""
        found = np.empty((self.rows, 4))
        fill_features(self._totals, self._last, self._epochs, found)
        return found

    def reduce(self, total: Total | None = None, /) -> None:
        """End an epoch: fit c and d to what it saw, then add it up; `total` and errors as `PSGD.reduce`."""
        sums = self.take(total)
        seen = np.flatnonzero(sums[:, 1])
        if self._epochs and seen.size:
            shares = sums[seen, 1] / (self.rows * self.probabilities(self._epochs)[seen])
            features = self.features()
            norms = sums[seen, 0] * UNIT / sums[seen, 1]
            given = (features[seen], norms, shares / shares.sum(), features.mean(axis=0))
            self._coefficients = fit_set(*given, start=self._coefficients)
        self._totals += sums
        self._last[seen, 0] = sums[seen, 0] // sums[seen, 1]
        self._last[seen, 1] = self._epochs
        self._epochs += 1

    def probabilities(self, epoch: int, /) -> NDArray[np.float64]:
        """Return the probabilities of the rows in an epoch, float64 (rows,), sum 1."""
        if whole_number(epoch, "epoch") < self.uniform_epochs or self._epochs == 0:
            return np.full(self.rows, 1.0 / self.rows)
        features = self.features()
        return robust_probabilities(features @ self._coefficients[0], features @ self._coefficients[1])

    def _identity(self) -> dict[str, Any]:
        return {"format": _FORMAT, "sampler": "rais", "rows": self.rows, "uniform_epochs": self.uniform_epochs}


def robust_probabilities(a: NDArray[np.float64], b: NDArray[np.float64], /) -> NDArray[np.float64]:
    """Return p ∝ a + k b, k = √(N / Σ b), float64 (N,), mixed with 1/1000 of the uniform distribution.

    Args:
        a: Centres of the set U, float64 (N,), >= 0.
        b: Widths, float64 (N,), >= 0.
    """
    width = sum_exactly(b)
    worst = a + np.sqrt(a.size / width) * b if width > 0.0 else a.copy()
    total = sum_exactly(worst)
    if total == 0.0:
        return np.full(a.size, 1.0 / a.size)
    return (1.0 - _LEAST) * worst / total + _LEAST / a.size


def fit_set(
    features: NDArray[np.float64],
    norms: NDArray[np.float64],
    shares: NDArray[np.float64],
    mean: NDArray[np.float64],
    /,
    *,
    start: NDArray[np.float64] | None = None,
) -> NDArray[np.float64]:
    """Fit c and d: minimise ⟨d, mean⟩ such that Σ share (v − ⟨c, s⟩)² / ⟨d, s⟩ = 1.

    Scaling d trades the two terms off, so their sum ⟨d, mean⟩ + Σ share (v − ⟨c, s⟩)² / ⟨d, s⟩, which is convex in
    (c, d), has its minimum at a multiple of the same d. It is lowered by multiplicative steps, which keep c, d >= 0:
    of least squares for c (Lee and Seung), of a majorant for d.

    Args:
        features: s of the rows seen, float64 (n, F), >= 0, the last one 1.
        norms: v, float64 (n,), >= 0.
        shares: Weights of the rows, float64 (n,), sum 1.
        mean: Mean of s over all rows, float64 (F,).
        start: c and d to begin with, float64 (2, F); None: ½ each. It saves rounds where they are of the epoch before.

    Returns:
        c and d, float64 (2, F).
    """
    c, d = np.full((2, features.shape[1]), 0.5) if start is None else np.maximum(start, _START)
    miss = descend(features, norms, shares, mean, c, d, _ROUNDS)
    return np.stack([c, d * miss])


@njit(cache=True, nogil=True)
def fill_features(
    totals: NDArray[np.int64], last: NDArray[np.int64], epochs: int, features: NDArray[np.float64]
) -> None:
    """Write s into `features` (N, 4)."""
    known, norms = 0, 0.0
    for row in range(totals.shape[0]):
        if totals[row, 1] > 0:
            known += 1
            norms += totals[row, 0] * UNIT / totals[row, 1]
    for row in range(totals.shape[0]):
        seen = totals[row, 1] > 0
        mean = norms / known if known > 0 else 1.0
        features[row, 0] = last[row, 0] * UNIT if seen else mean
        features[row, 1] = totals[row, 0] * UNIT / totals[row, 1] if seen else mean
        features[row, 2] = epochs - 1 - last[row, 1] if seen else epochs
        features[row, 3] = 1.0


@njit(cache=True, nogil=True)
def descend(
    features: NDArray[np.float64],
    norms: NDArray[np.float64],
    shares: NDArray[np.float64],
    mean: NDArray[np.float64],
    c: NDArray[np.float64],
    d: NDArray[np.float64],
    rounds: int,
) -> float:
    """Lower the sum of `fit_set` in place; return Σ share (v − ⟨c, s⟩)² / ⟨d, s⟩ at the end."""
    count = c.size
    miss, before = 0.0, np.inf
    for turn in range(rounds + 1):
        miss = 0.0
        up, down, pull = np.zeros(count), np.zeros(count), np.zeros(count)
        for i in range(norms.size):
            a = b = 0.0
            for f in range(count):
                a += c[f] * features[i, f]
                b += d[f] * features[i, f]
            b = max(b, 1e-12)
            gap = (norms[i] - a) * (norms[i] - a)
            miss += shares[i] * gap / b
            for f in range(count):
                up[f] += shares[i] * norms[i] * features[i, f] / b
                down[f] += shares[i] * a * features[i, f] / b
                pull[f] += shares[i] * gap * features[i, f] / (b * b)
        if turn % 2 == 0:
            value = miss + (d * mean).sum()
            if before - value < _SMALL * value:
                break
            before = value
        for f in range(count):
            if turn < rounds and turn % 2 == 0 and down[f] > 0.0:
                c[f] *= up[f] / down[f]
            elif turn < rounds and turn % 2 == 1 and mean[f] > 0.0:
                d[f] *= np.sqrt(pull[f] / mean[f])
    return miss
