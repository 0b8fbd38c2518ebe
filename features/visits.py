"""Kernels of the tracker: visits into the sums of an epoch, an epoch into the state of the rows.

Notation
    x       a measure of a visit, float64, at most 2^14; rounded to units of 2^-36 (1.5e-11), so that sums are integers
    sums    int64 (rows, K + 1)   Σ x in units for K measures, and the number of visits; never above 2^61
    last    int64 (rows,)         2 position + correct of the latest visit by position
    flags   uint8 (rows,)         bits LEARNED (correct in some epoch) and CORRECT (in the last epoch of a visit)
"""

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

UNIT = 2.0**-36
CEILING = 2.0**14  # nats of one visit; training has diverged there. 2^11 such visits fill a sum
FULL = 1 << 61  # two of them add up within int64
IGNORED = -(1 << 62)  # id of a row that does not count; exact as float64
LEARNED, CORRECT = 1, 2

Array = NDArray[Any]


@njit(cache=True, nogil=True)
def first_bad(ids: Array, values: Array, rows: int) -> int:
    """The first visit whose id is out of range or whose measures are NaN; -1 if there is none."""
    for i in range(ids.size):
        if ids[i] == IGNORED:
            continue
        if not 0 <= ids[i] < rows:
            return i
        for k in range(values.shape[0]):
            if values[k, i] != values[k, i]:
                return i
    return -1


@njit(cache=True, nogil=True)
def scatter(ids: Array, values: Array, positions: Array, sums: Array, last: Array) -> None:
    """Add visits to the epoch: values (5, n) are the measures and correct; sums (rows, 5) S and visits."""
    measures = values.shape[0] - 1
    for i in range(ids.size):
        if ids[i] == IGNORED:
            continue
        row = np.int64(ids[i])
        for k in range(measures):
            sums[row, k] = min(sums[row, k] + np.int64(min(values[k, i], CEILING) / UNIT + 0.5), FULL)
        sums[row, measures] += 1
        last[row] = max(last[row], positions[i] * 2 + np.int64(values[measures, i]))


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
