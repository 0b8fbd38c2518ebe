"""Kernels of the tracker: logits into measures, visits into the sums of an epoch, an epoch into the state of the rows.

Notation
    z, y    logits, float32 (n, C), and targets, int64 (n,), of n visits
    g_j     z_k − z_j >= 0 for j ≠ y, k the largest of them; e_j = exp(−g_j); s = Σ_{j≠y,k} e_j; q_j = e_j / (1 + s)
    m       margin z_k − z_y + log(1 + s), nats: loss = log(1 + exp(m)), 1 − p_y = 1 / (1 + exp(−m)), as in `measures`
    x       a measure of a visit, float64, at most 2^14; rounded to units of 2^-36 (1.5e-11), so that sums are integers
    sums    int64 (rows, K + 1)   Σ x in units for K measures, and the number of visits; never above 2^61
    last    int64 (rows,)         2 position + correct of the latest visit by position
    flags   uint8 (rows,)         bits LEARNED (correct in some epoch) and CORRECT (in the last epoch of a visit)

The measures are those of `measures`, row by row: torch gives the tail of a tensor other last digits than its middle, so
that a row would come out differently in a batch of another size.
"""

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

MEASURES = ("loss", "entropy", "grad_norm", "uncertainty")
UNIT = 2.0**-36
CEILING = 2.0**14  # nats of one visit; training has diverged there. 2^11 such visits fill a sum
FULL = 1 << 61  # two of them add up within int64
IGNORED = -(1 << 62)  # id of a row that does not count
LEARNED, CORRECT = 1, 2

Array = NDArray[Any]


@njit(cache=True, nogil=True)
def measure_visits(ids: Array, z: Array, y: Array, rows: int, values: Array) -> int:
    """Set values (5, n) to the measures and correct; the first visit that is out of range or NaN, or -1."""
    for i in range(ids.size):
        if ids[i] == IGNORED:
            continue
        if not (0 <= ids[i] < rows and 0 <= y[i] < z.shape[1]):
            return i
        k = 1 if y[i] == 0 else 0
        for j in range(z.shape[1]):
            if j != y[i] and z[i, j] > z[i, k]:
                k = j
        own, top = np.float64(z[i, y[i]]), np.float64(z[i, k])
        s, spread, squares = 0.0, 0.0, 1.0
        for j in range(z.shape[1]):
            if j != y[i] and j != k:
                g = top - z[i, j]
                e = np.exp(-g)
                s += e
                spread += e * g if e > 0.0 else 0.0
                squares += e * e
        m = top - own + np.log1p(s)
        small = np.exp(-abs(m))
        uncertainty = (1.0 if m > 0.0 else small) / (1.0 + small)
        values[0, i] = max(m, 0.0) + np.log1p(small)
        values[1, i] = np.log1p(s) + spread / (1.0 + s)
        values[2, i] = uncertainty * np.sqrt(1.0 + squares / (1.0 + s) ** 2)
        values[3, i] = uncertainty
        values[4, i] = own > top or (own == top and y[i] < k)
        if np.isnan(m) or np.isnan(values[1, i]):
            return i
    return -1


@njit(cache=True, nogil=True)
def scatter(ids: Array, values: Array, position: int, sums: Array, last: Array) -> None:
    """Add visits to the epoch; `position` is that of the first, the others follow."""
    measures = values.shape[0] - 1
    for i in range(ids.size):
        if ids[i] == IGNORED:
            continue
        row = ids[i]
        for k in range(measures):
            sums[row, k] = min(sums[row, k] + np.int64(min(values[k, i], CEILING) / UNIT + 0.5), FULL)
        sums[row, measures] += 1
        last[row] = max(last[row], (position + i) * 2 + np.int64(values[measures, i]))


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
