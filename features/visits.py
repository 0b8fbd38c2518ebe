"""Kernels of the tracker: an epoch of visits (`samplers.methods.visits`) into the state of the rows.

Notation
    sums    int64 (rows, K + 1)   Σ x in units for K measures, and the number of visits; never above 2^61
    last    int64 (rows,)         2 position + correct of the latest visit by position
    flags   uint8 (rows,)         bits LEARNED (correct in some epoch) and CORRECT (in the last epoch of a visit)
    grand   int64 (rows,)         Σ norm of the last layer's gradient in units: g √(‖h‖² + 1), g that over the logits,
                                  h the layer's input
    since   int16 (rows,)         epoch since which the row is correct, or -1
    other   int64 (rows,)         k << 32 | p_k, of the latest visit: the most probable class but the label's
    mass    uint32 (rows, 2)      Σ p_k in units of 2^-16 for two classes that were k, `named` (class + 1; 0: none)

Two counters follow a stream of weighted names (Misra, Gries, Science of Computer Programming 1982): each is below the
sum of its class by at most a third of the sum over all classes.
"""

from typing import Any

import numpy as np
import torch.distributed as dist
from numba import njit
from numpy.typing import NDArray

from drawstream.samplers.methods import FULL, IGNORED, UNIT, measure, measure_several, measure_values

LEARNED, CORRECT = 1, 2
P_UNIT, MASS_UNIT = 2.0**-31, 2.0**-16
_MOST = 32767  # epochs that are told apart
_CEILING = 2.0**20  # norm of the last layer's gradient at a visit

Array = NDArray[Any]


def first_position(step: int, n: int, /) -> int:
    """Return the position of a batch's first row: 28 bits of step, 14 of rank, 20 of place.

    Raises:
        ValueError: A batch has too many rows, or an epoch too many steps.
    """
    rank = dist.get_rank() if dist.is_initialized() else 0
    if n >= 1 << 20 or step >= 1 << 28:
        raise ValueError(f"batches have < 2^20 rows and epochs < 2^28 steps, but got {n} rows in step {step}")
    return (step << 34) + (rank << 20)


def measure_rows(ids: Array, z: Array, y: Array, rows: int, values: Array, where: str, /) -> str:
    """Write all measures and correctness of visits into `values` (5 + P, n), by the kind of their labels.

    Args:
        ids: int64 (n,), or `IGNORED`.
        z: float32 (n, C).
        y: int64 (n,); of several classes uint8 (n, C); of values float32 (n, C).
        rows: Rows that ids number.
        values: float64; see `samplers.methods.visits`.
        where: End of a message.

    Returns:
        What is wrong with a row, or nothing.
    """
    if y.ndim == 1:
        bad = measure(ids, z, y, rows, False, values)
    elif y.dtype.kind == "f":
        bad = measure_values(ids, z, y, rows, values)
    else:
        bad = measure_several(ids, z, y, rows, values)
    if bad < 0:
        return ""
    if not 0 <= ids[bad] < rows:
        return f"ids must lie in [0, {rows}), but got {ids[bad]} {where}"
    most = z.shape[1] if y.ndim == 1 else 2
    if y.dtype.kind != "f" and not (y[bad].min() >= 0 and y[bad].max() < most):
        return f"labels must lie in [0, {most}), but got {y[bad].tolist()} for row {ids[bad]} {where}"
    return f"the logits of row {ids[bad]} are not finite {where}: lower the learning rate"


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
    since: Array,
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
            forgotten[row] = min(forgotten[row] + 1, _MOST)
        if not correct or not flags[row] & CORRECT:
            since[row] = min(epoch, _MOST) if correct else -1
        flags[row] = LEARNED | CORRECT if correct else flags[row] & LEARNED
        last_epoch[row] = min(epoch, _MOST)
        for k in range(averages.shape[1] if averages.size else 0):
            mean = sums[row, k] * UNIT / visits
            first = totals[row, measures] == 0
            averages[row, k] = mean if first else decay * averages[row, k] + (1.0 - decay) * mean
        for k in range(measures + 1):
            totals[row, k] = min(totals[row, k] + sums[row, k], FULL)
            sums[row, k] = 0
        last[row] = 0


@njit(cache=True, nogil=True)
def add_scaled(ids: Array, norms: Array, h: Array, sums: Array) -> None:
    """Add norms of gradients over the last layer, from those over the logits (n,) and the layer's inputs (n, D)."""
    for i in range(ids.size):
        if ids[i] != IGNORED:
            squares = 1.0
            for value in h[i]:
                squares += np.float64(value) * np.float64(value)
            x = min(norms[i] * np.sqrt(squares), _CEILING)
            sums[ids[i]] = min(sums[ids[i]] + np.int64(x / UNIT + 0.5), FULL)


@njit(cache=True, nogil=True)
def fold_early(sums: Array, totals: Array, grand_sums: Array, el2n: Array, grand: Array) -> None:
    """Bring the means of gradient norms up to date before `fold`, and clear `grand_sums`, which may be empty."""
    for row in range(el2n.size):
        visits = sums[row, -1]
        if visits == 0:
            continue
        before = totals[row, -1]
        el2n[row] = (totals[row, 2] + sums[row, 2]) * UNIT / (before + visits)
        if grand.size:
            grand[row] = (max(grand[row], 0.0) * before + grand_sums[row] * UNIT) / (before + visits)
            grand_sums[row] = 0


@njit(cache=True, nogil=True)
def note_other(ids: Array, z: Array, y: Array, loss: Array, position: int, last: Array, other: Array) -> None:
    """Note the most probable class but the label's where a visit is its row's latest (`add_last` came before)."""
    for i in range(ids.size):
        if ids[i] == IGNORED or last[ids[i]] >> 1 != position + i:
            continue
        k = 1 if y[i] == 0 else 0
        for j in range(z.shape[1]):
            if j != y[i] and z[i, j] > z[i, k]:
                k = j
        p = min(np.exp(np.float64(z[i, k]) - np.float64(z[i, y[i]]) - loss[i]), 1.0)
        other[ids[i]] = (np.int64(k) << 32) | np.int64(p / P_UNIT)


@njit(cache=True, nogil=True)
def fold_others(other: Array, visits: Array, named: Array, mass: Array) -> None:
    """Add an epoch's other classes to the two counters of each row, once per visit of the epoch, and clear them."""
    for row in range(other.size):
        if visits[row] == 0:
            continue
        name = (other[row] >> 32) + 1
        left = np.int64((other[row] & 0xFFFFFFFF) * P_UNIT / MASS_UNIT * visits[row] + 0.5)
        other[row] = 0
        at = -1
        for slot in range(2):
            if named[row, slot] == name or (at < 0 and named[row, slot] == 0):
                at = slot
                if named[row, slot] == name:
                    break
        if at < 0:
            least = min(left, np.int64(mass[row].min()))
            left -= least
            for slot in range(2):
                mass[row, slot] -= least
                if mass[row, slot] == 0:
                    named[row, slot], at = 0, slot
        if at >= 0 and left > 0:
            named[row, at] = name
            mass[row, at] = min(np.int64(mass[row, at]) + left, 0xFFFFFFFF)
