"""Kernels of the tracker: an epoch of visits (`samplers.methods.visits`) into the state of the rows.

Notation
    sums    int64 (rows, K + 1)   Σ x in units for K measures, and the number of visits; never above 2^61
    last    int64 (rows,)         2 position + correct of the latest visit by position
    flags   uint8 (rows,)         bits LEARNED (correct in some epoch) and CORRECT (in the last epoch of a visit)
"""

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from drawstream.samplers.methods import FULL, IGNORED, UNIT

LEARNED, CORRECT = 1, 2

Array = NDArray[Any]


@njit(cache=True, nogil=True)
def add_last(ids: Array, correct: Array, position: int, last: Array) -> None:
    """Note the latest visit of each row; `position` is that of the first, the others follow."""
    for i in range(ids.size):
        if ids[i] != IGNORED:
            last[ids[i]] = max(last[ids[i]], (position + i) * 2 + np.int64(correct[i]))


@njit(cache=True, nogil=True)
def fold(
    epoch: int,
    sums: Array,
    last: Array,
    totals: Array,
    forgotten: Array,
    last_epoch: Array,
    flags: Array,
    averages: Array,
    decay: float,
) -> None:
    """Add an epoch to the state and clear it; averages (rows, 4), or (0, 4) where none are kept."""
    measures = sums.shape[1] - 1
    for row in range(last.size):
        visits = sums[row, measures]
        if visits == 0:
            continue
        correct = last[row] & 1
        if flags[row] & CORRECT and not correct:
            forgotten[row] += 1
        flags[row] = LEARNED | CORRECT if correct else flags[row] & LEARNED
        last_epoch[row] = epoch
        for k in range(measures if averages.size else 0):
            mean = sums[row, k] * UNIT / visits
            first = totals[row, measures] == 0
            averages[row, k] = mean if first else decay * averages[row, k] + (1.0 - decay) * mean
        for k in range(measures + 1):
            totals[row, k] = min(totals[row, k] + sums[row, k], FULL)
            sums[row, k] = 0
        last[row] = 0
