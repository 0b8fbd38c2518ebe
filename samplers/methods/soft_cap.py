"""Soft-cap sampling: draw by a score that falls by a constant each time a row is drawn.

Notation
    N     rows
    s_i   score of row i, high where it is wanted
    n_i   times row i was drawn in the epochs ended by `reduce`
    α     fall of the score per draw
    P_i   exp(s_i − α n_i), divided by the sum

Soft Cap Sampling of Shechter and Carmon, "Filter Like You Test" (2025): the best rows come first and often, and no row
can crowd out the others. They draw in batches; here the scores fall between epochs, and an epoch in mode 'subset' draws
no row twice. With α = 0 it is a softmax of the scores; as α grows each row tends to be drawn equally often. Rows whose
score lies more than 600 below the highest one are drawn as if it lay 600 below.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from drawstream.samplers import digest_array
from drawstream.samplers.methods.state import Stateful
from drawstream.samplers.methods.visits import Total, to_array

__all__ = ["SoftCap"]

_LOWEST = -600.0  # logarithm; lower ones are no normal float64


class SoftCap(Stateful):
    """Rows drawn by exp(score), which falls with each draw. A row sampler for `IndexStream`.

        >>> from drawstream import IndexStream
        >>> sampler = SoftCap(scores, fall=0.5)
        >>> stream = IndexStream(sampler, mode="subset", draws=round(0.3 * len(scores)), seed=0)

    In the loop: `sampler.observe(ids, logits, labels, weights)` after each step, of which ids and weights count, and
    `sampler.reduce()` after each epoch. With several ranks all of them call `reduce(total)` with a function that adds
    an int64 array up over the ranks: every rank then draws the same epoch. Memory: 24 bytes per row.

    Args:
        scores: finite numbers (N,); a difference of 1 is a factor of e in P.
        fall: α >= 0.

    Raises:
        ValueError: scores are not finite or not (N >= 1,), or fall is negative or not finite.
    """

    _kept: ClassVar[Mapping[str, str]] = {"drawn": "_drawn", "pending": "_pending"}

    def __init__(self, scores: ArrayLike, /, *, fall: float) -> None:
        x = to_array(scores, np.float64)
        if x.ndim != 1 or not x.size or not np.isfinite(x).all():
            raise ValueError(f"scores must be finite numbers (N >= 1,), but got {x.shape}")
        if not 0 <= fall < np.inf:
            raise ValueError(f"`fall >= 0` must hold, but got {fall}")
        self.rows, self.fall, self.scores = x.size, float(fall), x.copy()
        self._drawn: NDArray[np.int64] = np.zeros(self.rows, dtype=np.int64)
        self._pending: NDArray[np.int64] = np.zeros(self.rows, dtype=np.int64)

    def __repr__(self) -> str:
        return f"SoftCap({self.rows} rows, fall {self.fall})"

    def observe(self, ids: Any, _logits: Any, _labels: Any, weights: Any = None, /) -> None:
        """Count the draws of a batch of this rank; they count from `reduce` on.

        Args:
            ids: int64 (n,), in [0, N); a row that comes twice was drawn twice.
            _logits: not read.
            _labels: not read.
            weights: float (n,); rows of weight 0 only fill up the batch.

        Raises:
            ValueError: an id is out of range, or shapes do not fit.
        """
        rows = to_array(ids, np.int64)
        if weights is not None:
            counted = to_array(weights, np.float32)
            if counted.shape != rows.shape:
                raise ValueError(f"ids (n,) and weights (n,) must fit, but got {rows.shape} and {counted.shape}")
            rows = rows[counted > 0]
        if rows.ndim != 1 or (rows.size and not 0 <= rows.min() <= rows.max() < self.rows):
            raise ValueError(f"ids (n,) must be in [0, {self.rows}), but got {rows}: is this another catalog?")
        np.add.at(self._pending, rows, 1)

    def reduce(self, total: Total | None = None, /) -> None:
        """End an epoch: add up what all ranks drew.

        Args:
            total: adds an int64 array up over the ranks, a collective call; None for one process.

        Raises:
            ValueError: `total` gave an array of another shape or type.
        """
        found = self._pending if total is None else np.asarray(total(self._pending))
        if found.shape != self._drawn.shape or found.dtype != np.int64:
            raise ValueError(f"`total` must give int64 {self._drawn.shape}, but gave {found.dtype} {found.shape}")
        self._drawn = self._drawn + found
        self._pending = np.zeros_like(self._drawn)

    def probabilities(self, _epoch: int, /) -> NDArray[np.float64]:
        """Return the probabilities of rows, float64 (rows,), sum 1; they depend on the draws, not on the epoch."""
        weights = self.scores - self.fall * self._drawn
        weights -= weights.max()
        np.exp(np.maximum(weights, _LOWEST, out=weights), out=weights)
        result: NDArray[np.float64] = weights / weights.sum()
        return result

    def _identity(self) -> dict[str, Any]:
        scores = digest_array(self.scores)
        return {"format": 1, "sampler": "soft-cap", "rows": self.rows, "fall": self.fall, "scores": scores}
