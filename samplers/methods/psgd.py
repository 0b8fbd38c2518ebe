"""p-SGD and c-SGD: draw rows by how wrong or how undecided the model was on them (Chang et al., NeurIPS 2017).

Notation
    N     rows; B budget in (0, 1]: an epoch draws B N rows without replacement
    t     epochs ended by `reduce`
    S_i   Σ (1 − p_y) over the visits of row i in these epochs, n_i their number
    m_i   mean uncertainty S_i / n_i; unseen rows take the largest one of the others
    c_i   confusion m_i (1 − m_i)
    P_i   p-SGD: m_i + mean(m); c-SGD: c_i + mean(c); then divided by the sum

p_y comes from the training forward pass, so nothing is computed twice. This is the code of Arazo et al. ("How Important
is Importance Sampling for Deep Budgeted Training?", BMVC 2021). Their text (`paper=True`) divides by t in place of n_i
(by n_i where that is more, as of rows that come twice an epoch) and fills nothing in: a row seen rarely counts little,
one never seen has the smoothing alone. Taken literally, eq. 2 puts the smoothing inside c, which could make c negative:
here it is added afterwards in both. `last_only` is the ablation of their Fig. 1: m_i is the uncertainty in the last
epoch that drew the row, in place of the mean over its visits.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from numba import njit
from numpy.typing import NDArray

from drawstream.samplers import sum_exactly, whole_number
from drawstream.samplers.methods.visits import FULL, UNIT, Total, Visits

__all__ = ["CSGD", "PSGD"]

_LEAST = 1e-10  # probability, relative to the mean, of a row of importance 0: B N distinct rows can always be drawn
_FORMAT = 1


class PSGD(Visits):
    """p-SGD: rows drawn by their mean 1 − p_y. A row sampler for `IndexStream`.

        >>> from drawstream import IndexStream
        >>> sampler = PSGD(60_000)
        >>> stream = IndexStream(sampler, mode="subset", draws=round(0.3 * 60_000), seed=0)

    In the loop: `sampler.observe(ids, logits, labels, weights)` after each forward pass, `sampler.reduce()` after each
    epoch. With several ranks each observes its own rows, as many batches as the others or not, and all of them call
    `reduce(total)` with a function that adds an int64 array up over the ranks: every rank then holds the state of one
    process that saw all batches, bit for bit, and draws the same epoch. Memory: 40 bytes per row.

    Args:
        rows: N.
        uniform_epochs: leading epochs drawn uniformly. In epoch 0 nothing is known, so 0 and 1 are the same.
        paper: follow the paper's text instead of its authors' code (above).
        smoothing: add the mean of all importances to each.
        last_only: take the last epoch with the row in place of the mean over all visits; not with `paper`.

    Raises:
        ValueError: rows < 1, uniform_epochs < 0, or `last_only` with `paper`.
    """

    name = "p"
    _kept: ClassVar[Mapping[str, str]] = {"epochs": "_epochs", "totals": "_totals", "pending": "sums"}

    def __init__(
        self,
        rows: int,
        /,
        *,
        uniform_epochs: int = 1,
        paper: bool = False,
        smoothing: bool = True,
        last_only: bool = False,
    ) -> None:
        super().__init__(rows, measure="uncertainty")
        self.uniform_epochs, self.paper = whole_number(uniform_epochs, "uniform_epochs"), bool(paper)
        self.smoothing, self.last_only = bool(smoothing), bool(last_only) or None  # None: not in a state's identity
        if paper and last_only:
            raise ValueError("`paper` divides by all epochs, and `last_only` takes one: leave out one of them")
        if self.uniform_epochs < 0:
            raise ValueError(f"uniform_epochs >= 0 must hold, but got {uniform_epochs}")
        self._totals: NDArray[np.int64] = np.zeros((self.rows, 2), dtype=np.int64)
        self._epochs = 0

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.rows} rows, {self._epochs} epochs)"

    def reduce(self, total: Total | None = None, /) -> None:
        """End an epoch: add up what all ranks observed.

        Args:
            total: adds an int64 array up over the ranks, a collective call; None for one process.

        Raises:
            ValueError: `total` gave an array of another shape or type.
        """
        sums = self.take(total)
        if self.last_only:
            self._totals[sums[:, 1] > 0] = 0
        self._totals += sums
        np.minimum(self._totals, FULL, out=self._totals)
        self._epochs += 1

    def importance(self) -> NDArray[np.float64]:
        """Return the importance of each row before smoothing, float64 (rows,): m; 0 where nothing is known."""
        mean = np.empty(self.rows)
        fill_means(self._totals, self._epochs if self.paper else 0, mean)
        return mean

    def probabilities(self, epoch: int, /) -> NDArray[np.float64]:
        """Return the probabilities of rows in an epoch, float64 (rows,), sum 1; uniform while all importances are 0."""
        early = whole_number(epoch, "epoch") < self.uniform_epochs
        weights = np.zeros(self.rows) if early or self._epochs == 0 else self.importance()
        total = sum_exactly(weights)
        if total == 0.0:
            return np.full(self.rows, 1.0 / self.rows)
        smooth(weights, total / self.rows if self.smoothing else 0.0, 2.0 * total if self.smoothing else total)
        return weights

    def _identity(self) -> dict[str, Any]:
        options = {"uniform_epochs": self.uniform_epochs, "paper": self.paper, "smoothing": self.smoothing}
        name = self.name + ("-last" if self.last_only else "")
        return {"format": _FORMAT, "sampler": name, "rows": self.rows, **options}


class CSGD(PSGD):
    """c-SGD: rows drawn by m (1 − m), near the decision boundary. Everything else as `PSGD`.

    As in the authors' code unseen rows take the largest m and only then m (1 − m): where some row is near m = 1, unseen
    ones count little and come back through the smoothing.
    """

    name = "c"

    def importance(self) -> NDArray[np.float64]:
        """Return the importance of each row before smoothing, float64 (rows,): m (1 − m)."""
        mean = super().importance()
        mean *= 1.0 - mean
        return mean


@njit(cache=True, nogil=True)
def fill_means(totals: NDArray[np.int64], epochs: int, mean: NDArray[np.float64]) -> None:
    """Write the mean uncertainty of each row into `mean` (N,): per visit, or per epoch where `epochs` are more."""
    largest = 0.0
    for row in range(mean.size):
        visits = max(np.int64(epochs), totals[row, 1])
        mean[row] = totals[row, 0] * UNIT / visits if visits > 0 else -1.0
        largest = max(largest, mean[row])
    for row in range(mean.size):
        if mean[row] < 0.0:
            mean[row] = largest


@njit(cache=True, nogil=True)
def smooth(weights: NDArray[np.float64], constant: float, total: float) -> None:
    """Add the constant and divide by the total, in place; no weight stays 0."""
    for row in range(weights.size):
        weight = (weights[row] + constant) / total
        weights[row] = weight if weight > 0.0 else _LEAST / weights.size
