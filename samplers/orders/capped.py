"""Draws of capped contrast: of every m B rows that come uniformly, B are kept by their weights.

Notation
    B, m    rows of a batch that are kept, and factor: batch b is kept out of positions [m B b, m B (b + 1)) of a
            uniform order, in which every row comes once before one comes twice
    E_t     float64  standard exponential, a function of (seed, epoch, t) for position t of that order
    key_t   float64  E_t / P of the row at position t; the B smallest are kept, in the order in which they came

That is successive draws without replacement (`subset` has the sources), as by Gumbel-top-B with log P. Where fewer than
B rows of a batch have P > 0, rows of P = 0 fill it up uniformly. With m = 2 a ratio of 10 between two weights is
realised as about 5, one of 100 as about 22: the contrast that choosing crops in training has (Swift Sampler, Sec. 4.2).

Memory: 8 bytes per row for P.
"""

from functools import partial
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import ArrayLike, NDArray

from drawstream.samplers import check_single, derive_keys, digest_array, whole_number
from drawstream.samplers.orders.order import Draws, ones
from drawstream.samplers.orders.permutation import Permutation
from drawstream.samplers.orders.subset import exponential

__all__ = ["Capped"]


class Capped:
    """The law of capped draws; `IndexStream(Capped(weights, draws, batch=128), seed=0)` draws by it.

    Args:
        weights: Finite, >= 0, of any scale, numbers (rows,).
        draws: M, positions of an epoch.
        batch: B, rows of a step over all ranks.
        factor: m, at least 2.

    Raises:
        ValueError: A number is out of its range, or bad weights.
    """

    __slots__ = ("batch", "draws", "factor", "p", "rows")

    mode = "capped"

    def __init__(self, weights: ArrayLike, draws: int, /, *, batch: int, factor: int = 2) -> None:
        checked = check_single(weights)
        self.rows, self.draws, self.batch, self.factor = checked.size, draws, batch, whole_number(factor, "factor")
        if min(draws, batch) < 1:
            raise ValueError(f"draws, batch >= 1 must hold, but got {draws=} and {batch=}")
        if self.factor < 2:
            raise ValueError(f"factor >= 2 must hold, but got {factor}: with 1 there is nothing to choose")
        self.p: NDArray[np.float64] = np.divide(checked, float(checked.max()), dtype=np.float64)

    @property
    def nbytes(self) -> int:
        """Bytes held between epochs."""
        return self.p.nbytes

    def digest(self) -> str:
        """Return the hash of the law."""
        return f"{digest_array(self.p)} {self.batch} {self.factor}"

    def draw_epoch(self, seed: int, epoch: int, /) -> Draws:
        """Return the draws of one epoch."""
        given = Permutation(self.rows, self.factor * self.draws).draw_epoch(seed, epoch)
        return Draws(partial(self._fill, given, derive_keys(2, "capped", seed, epoch)), ones)

    def _fill(self, given: Draws, keys: NDArray[np.uint64], start: int, out: NDArray[np.int64]) -> None:
        done = 0
        while done < out.size:
            batch, within = divmod(start + done, self.batch)
            kept = self._keep(given, keys, batch)[within : within + out.size - done]
            out[done : done + kept.size] = kept
            done += kept.size

    def _keep(self, given: Draws, keys: NDArray[np.uint64], batch: int) -> NDArray[np.int64]:
        """Return the rows of a batch, int64 (B,), fewer in the last one."""
        first = batch * self.batch
        count = min(self.batch, self.draws - first)
        rows = np.empty(self.factor * count, dtype=np.int64)
        given.fill(self.factor * first, rows)
        wanted = self.p[rows]
        arrivals = np.empty(rows.size, dtype=np.float64)
        arrive(self.factor * first, wanted, keys, arrivals)
        order = np.lexsort((arrivals, wanted == 0))  # the last one decides first
        kept: NDArray[np.int64] = rows[np.sort(order[:count])]
        return kept


@njit(cache=True, nogil=True)
def arrive(start: int, p: NDArray[np.float64], keys: NDArray[np.uint64], out: NDArray[np.float64]) -> Any:
    """Write E / P at positions start, start + 1, … into `out` (n,); E alone where P is 0."""
    for i in range(p.size):
        e = exponential(start + i, keys)
        out[i] = e / p[i] if p[i] > 0.0 else e
