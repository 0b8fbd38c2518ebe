"""Count an epoch: how often each row comes, and how evenly.

Notation
    order   int64 (M,)   rows of an epoch; read in pieces, never as a whole
    counts  int64 (N,)   times each row comes; sum M
    H(c)    float, nats  entropy of counts / M: log N when every row comes equally often
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray

from drawstream.samplers.orders.order import Order

__all__ = ["count_rows", "entropy", "histogram"]

_PIECE = 1 << 20


def count_rows(order: Order, rows: int, /) -> NDArray[np.int64]:
    """Times each of `rows` rows comes in an order, int64 (rows,), read in pieces of 2^20 positions.

    Raises:
        ValueError: the order holds a row outside [0, rows).
    """
    counts = np.zeros(rows, dtype=np.int64)
    for start in range(0, len(order), _PIECE):
        outside = add_counts(order[start : start + _PIECE], counts)
        if outside >= 0:
            raise ValueError(f"rows must be in [0, {rows}), but row {outside} is drawn: is this another catalog?")
    return counts


def histogram(counts: NDArray[np.int64], /) -> NDArray[np.int64]:
    """How many rows come 0, 1, 2, … times, int64 (max count + 1,)."""
    return np.bincount(counts).astype(np.int64)


def entropy(counts: NDArray[np.int64], /) -> float:
    """Entropy H(c) of counts / sum in nats (0 for a single row, log N for equal counts).

    Raises:
        ValueError: nothing was counted.
    """
    total = int(counts.sum())
    if total < 1:
        raise ValueError("counts must hold at least one draw, but their sum is 0")
    share = counts[counts > 0] / total
    return float(-(share * np.log(share)).sum())


@njit(cache=True, nogil=True)
def add_counts(drawn: NDArray[np.int64], counts: NDArray[np.int64]) -> int:
    """Add to `counts` (N,); return a row outside [0, N), or -1."""
    for row in drawn:
        if row < 0 or row >= counts.size:
            return row if row >= 0 else counts.size
        counts[row] += 1
    return -1
