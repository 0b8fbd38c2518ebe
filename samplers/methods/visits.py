"""Measure rows during training: measures per visit, added up as integers until the epoch ends.

Notation
    z, y    logits, float32 (n, C), and targets, int64 (n,), of the n rows of a batch
    visit   one row in one batch with a weight > 0; rows of weight 0 (fill of the last batch) do not count
    e_j     exp(z_j − max z), in [0, 1]
    x       measure: uncertainty 1 − p_y = Σ_{j≠y} e_j / Σ e_j, loss −log p_y = max z − z_y + log Σ e_j, nats;
            or all four of METHODS §1, and p_j of every j ≠ y if asked for, from the largest wrong logit z_k:
            g_j = z_k − z_j, e_j = exp(−g_j), s = Σ_{j≠y,k} e_j, m = z_k − z_y + log(1 + s):
            loss = log(1 + exp(m)), 1 − p_y = 1 / (1 + exp(−m))
    a_c     of rows with several classes, y 0 or 1 (n, C): the log odds against the label of class c, z_c or −z_c. Their
            measures are those of METHODS for such labels: loss mean_c log(1 + exp(a_c)), uncertainty mean_c σ(a_c) (1 −
            the mean probability of the right side), entropy Σ_c H(σ(z_c)), gradient ‖σ(a)‖ / C
            of rows with values, y float (n, C): loss mean_c (z_c − y_c)², gradient 2 ‖z − y‖ / C, no others
    sums    int64 (N, K + 1): Σ x of a row for K measures in units of 2^-36 (1.5e-11), every x rounded to a unit; visits

Integers add up the same in any order: batches, ranks and restarts change no bit. A visit counts up to 2^14, a sum is
never above 2^61, so that the sums of two epochs fit an int64. Rows are measured one by one: torch gives the tail of a
tensor other last digits than its middle, so that a row would come out differently in a batch of another size.
"""

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from numba import njit
from numpy.typing import NDArray

from drawstream.samplers import whole_number
from drawstream.samplers.methods.state import Stateful

__all__ = [
    "FULL", "IGNORED", "MEASURES", "UNIT", "Total", "Visits", "add_visits", "measure", "measure_several",
    "measure_values", "to_array",
]  # fmt: skip

MEASURES = ("loss", "entropy", "grad_norm", "uncertainty")
UNIT = 2.0**-36
FULL = 1 << 61
IGNORED = -(1 << 62)  # id of a row that does not count
_ROUNDING = 1.5 * 2.0**52  # added to a float64, it leaves the nearest integer in the low bits
_WORK = 1 << 12  # exponentials at a time: 32 KiB
_CEILING = 2.0**14  # nats of one visit; training has diverged there

Array = NDArray[Any]
Total = Callable[[NDArray[np.int64]], NDArray[np.int64]]


def to_array(value: Any, dtype: Any, /) -> NDArray[Any]:
    """Return an array of the given type, in C order, from an array or a tensor; a tensor on a GPU is waited for.

    Raises:
        TypeError: whole numbers are wanted and others given.
    """
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        value = (value.float() if value.is_floating_point() else value).numpy()
    array = np.asarray(value)
    if np.dtype(dtype).kind == "i" and array.dtype.kind not in "biu" and array.size:
        raise TypeError(f"ids and labels must be whole numbers, but got {array.dtype}: cast them to int64")
    return np.ascontiguousarray(array, dtype=dtype)


def is_float(value: Any, /) -> bool:
    """Return whether an array or a tensor holds floating-point numbers."""
    kind = getattr(value, "is_floating_point", None)
    return bool(kind()) if kind is not None else np.asarray(value).dtype.kind == "f"


class Visits(Stateful):
    """The visits of one epoch so far, of this rank.

    Args:
        rows: N, rows that ids number.
        measure: one of `MEASURES` but the entropy: `uncertainty`, `loss`, or `grad_norm` in the logits.

    Raises:
        ValueError: rows < 1.
    """

    def __init__(self, rows: int, /, *, measure: Literal["uncertainty", "loss", "grad_norm"]) -> None:
        self.rows, self._measure = whole_number(rows, "rows"), measure
        if self.rows < 1:
            raise ValueError(f"rows >= 1 must hold, but got {rows}")
        self.sums: NDArray[np.int64] = np.zeros((self.rows, 2), dtype=np.int64)

    def observe(self, ids: Any, logits: Any, labels: Any, weights: Any = None, /) -> None:
        """Take note of a batch of this rank, or of nothing where an error is raised; it counts from `reduce` on.

        Args:
            ids: int64 (n,), in [0, N); a row that comes twice is two visits.
            logits: float (n, C), of the training forward pass, C >= 2 with one class a row; arrays or tensors, here
                and below.
            labels: int64 (n,), in [0, C); several classes of a row, uint8 (n, C), 0 or 1; or values, float (n, C).
            weights: float (n,), 1/(N P) of the draws; rows of weight 0 only fill up the batch, all others count once.

        Raises:
            ValueError: shapes do not fit, ids or labels are out of range, logits are not finite, or values have no such
                measure.
        """
        rows, z = to_array(ids, np.int64), to_array(logits, np.float32)
        several = np.ndim(labels) == 2
        values = several and is_float(labels)
        y = to_array(labels, np.float32 if values else np.int64)
        n = rows.size
        counted = None if weights is None else to_array(weights, np.float32)
        fits = rows.shape == (n,) and z.ndim == 2 and len(z) == n and y.shape == (z.shape if several else (n,))
        fits &= z.ndim == 2 and z.shape[1] > (0 if several else 1)
        if not fits or (counted is not None and counted.shape != (n,)):
            raise ValueError(
                f"ids (n,), logits (n, C >= 2), labels (n,) or (n, C) and weights (n,) must fit, but got {rows.shape}, "
                f"{z.shape}, {y.shape} and {None if counted is None else counted.shape}"
            )
        if counted is not None:
            rows = np.where(counted > 0, rows, IGNORED)
        if several:
            self._observe_several(rows, z, y, values)
            return
        x = np.empty((5 if self._measure == "grad_norm" else 1, n))
        bad = measure(rows, z, y, self.rows, self._measure == "loss", x)
        if bad >= 0:
            raise ValueError(self._fault(int(rows[bad]), int(y[bad]), z.shape[1]))
        add_visits(rows, x[2:3] if len(x) > 1 else x, self.sums)

    def _observe_several(self, rows: Array, z: Array, y: Array, values: bool) -> None:
        """Take note of rows with several classes or values."""
        if values and self._measure == "uncertainty":
            name = type(self).__name__
            raise ValueError(f"{name} goes by the probability of the right class, but labels are values: take another")
        x = np.empty((len(MEASURES) + 1, len(rows)))
        bad = measure_values(rows, z, y, self.rows, x) if values else measure_several(rows, z, y, self.rows, x)
        if bad >= 0:
            wrong = [each for each in y[bad].tolist() if each not in (0, 1)] if not values else []
            fault = f"labels of several classes must be 0 or 1, but got {wrong[0]}" if wrong else None
            raise ValueError(fault or self._fault(int(rows[bad]), 0, z.shape[1]))
        k = MEASURES.index(self._measure)
        add_visits(rows, x[k : k + 1], self.sums)

    def take(self, total: Total | None = None, /) -> NDArray[np.int64]:
        """End the epoch: return the sums, int64 (N, 2), added up over the ranks by `total`, and begin a new one.

        Raises:
            ValueError: `total` gave an array of another shape or type.
        """
        mine = self.sums
        found = mine if total is None else np.asarray(total(mine))
        if found.shape != mine.shape or found.dtype != mine.dtype:
            raise ValueError(
                f"`total` must give the sums over ranks, int64 {mine.shape}, but gave {found.dtype} {found.shape}"
            )
        self.sums = np.zeros_like(mine)
        return found

    def _fault(self, row: int, label: int, classes: int) -> str:
        if not 0 <= row < self.rows:
            return f"ids must be in [0, {self.rows}), but got {row}: is this another catalog?"
        if not 0 <= label < classes:
            return f"labels must be in [0, {classes}), but got {label} for row {row}"
        return f"logits must be finite, but those of row {row} are not: lower the learning rate"


@njit(cache=True, nogil=True)
def measure(ids: Array, z: Array, y: Array, rows: int, loss: bool, values: Array) -> int:
    """Write the measure of visits into `values` (1, n), or all four, p_j and correctness (5 + P, n).

    A row that does not count gets NaN; P is C (0 in place of p_y) or 0.

    Return the first faulty row, or -1.
    """
    n, classes = z.shape
    whole = len(values) > 1
    block = max(1, min(n, _WORK // classes))
    e = np.empty((block, classes))
    for first in range(0, n, block):
        last = min(n, first + block)
        for i in range(first, last):
            values[0, i] = 0.0 if ids[i] != IGNORED else np.nan
            if values[0, i] == 0.0:
                right = 0 <= ids[i] < rows and 0 <= y[i] < classes
                if not (right and (lower_wrong(z[i], y[i], e[i - first]) if whole else lower(z[i], e[i - first]))):
                    return i
        exponentiate(e.ravel())
        for i in range(first, last):
            if values[0, i] == 0.0 and whole:
                read_all(z[i], e[i - first], y[i], values[:, i])
            elif values[0, i] == 0.0:
                values[0, i] = read_loss(z[i], e[i - first], y[i]) if loss else read_uncertainty(e[i - first], y[i])
    return -1


@njit(cache=True, nogil=True)
def measure_several(ids: Array, z: Array, y: Array, rows: int, values: Array) -> int:
    """Write measures and correctness (all labels right) of visits with several classes, y (n, C), into `values` (5, n).

    Return the first faulty row, or -1. A row that does not count gets NaN.
    """
    n, classes = z.shape
    e = np.empty(classes)
    for i in range(n):
        values[:, i] = np.nan
        if ids[i] == IGNORED:
            continue
        if not 0 <= ids[i] < rows:
            return i
        for c in range(classes):
            if not (np.isfinite(z[i, c]) and 0 <= y[i, c] <= 1):
                return i
            e[c] = -abs(np.float64(z[i, c]))
        exponentiate(e)
        loss, entropy, squares, wrong, correct = 0.0, 0.0, 0.0, 0.0, 1.0
        for c in range(classes):
            size, against = abs(np.float64(z[i, c])), (z[i, c] > 0) != (y[i, c] > 0)
            small = e[c] / (1.0 + e[c])  # probability of the less probable side
            missing = 1.0 - small if against else small
            loss += np.log1p(e[c]) + (size if against else 0.0)
            entropy += np.log1p(e[c]) + size * small
            squares += missing * missing
            wrong += missing
            correct = 0.0 if against else correct
        values[0, i], values[1, i], values[2, i] = loss / classes, entropy, np.sqrt(squares) / classes
        values[3, i], values[4, i] = wrong / classes, correct
    return -1


@njit(cache=True, nogil=True)
def measure_values(ids: Array, z: Array, y: Array, rows: int, values: Array) -> int:
    """Write loss and gradient norm of visits with values, y (n, C), into `values` (5, n), where others are 0.

    Return the first faulty row, or -1. A row that does not count gets NaN.
    """
    n, count = z.shape
    for i in range(n):
        values[:, i] = np.nan
        if ids[i] == IGNORED:
            continue
        squares = 0.0
        for c in range(count):
            error = np.float64(z[i, c]) - np.float64(y[i, c])
            squares += error * error
        if not (0 <= ids[i] < rows and np.isfinite(squares)):
            return i
        values[:, i] = 0.0
        values[0, i], values[2, i] = squares / count, 2.0 * np.sqrt(squares) / count
    return -1


@njit(cache=True, nogil=True)
def lower(z: NDArray[np.float32], e: NDArray[np.float64]) -> bool:
    """Write z_j − max z into `e` (C,); return whether all are finite."""
    top, bottom = z[0], z[0]
    for value in z:
        top = max(top, value)
        bottom = min(bottom, value)
    finite = np.isfinite(top) and np.isfinite(bottom)
    for j in range(z.size):
        e[j] = np.float64(z[j]) - np.float64(top)
        finite &= e[j] == e[j]
    return bool(finite)


@njit(cache=True, nogil=True)
def lower_wrong(z: Array, y: int, e: Array) -> bool:
    """Write z_j − z_k into `e` (C,), k the largest logit but y, and 0 for y; return whether all are finite."""
    k = 1 if y == 0 else 0
    for j in range(z.size):
        if j != y and z[j] > z[k]:
            k = j
    finite = True
    for j in range(z.size):
        finite &= np.isfinite(z[j])
        e[j] = 0.0 if j == y else np.float64(z[j]) - np.float64(z[k])
    return bool(finite)


@njit(cache=True, nogil=True)
def read_all(z: Array, e: Array, y: int, values: Array) -> None:
    """Write loss, entropy over the wrong classes, norm of the logits' gradient, uncertainty, p and correctness."""
    k = 1 if y == 0 else 0
    while k == y or e[k] < 1.0:
        k += 1
    own, top = np.float64(z[y]), np.float64(z[k])
    s, spread, squares = 0.0, 0.0, 1.0
    for j in range(z.size):
        if j != y and j != k:
            s += e[j]
            spread += e[j] * (top - z[j])
            squares += e[j] * e[j]
    m = top - own + np.log1p(s)
    small = np.exp(-abs(m))
    uncertainty = (1.0 if m > 0.0 else small) / (1.0 + small)
    values[0] = max(m, 0.0) + np.log1p(small)
    values[1] = np.log1p(s) + spread / (1.0 + s)
    values[2] = uncertainty * np.sqrt(1.0 + squares / (1.0 + s) ** 2)
    values[3] = uncertainty
    for j in range(values.size - len(MEASURES) - 1):
        values[len(MEASURES) + j] = 0.0 if j == y else e[j] * (uncertainty / (1.0 + s))
    values[-1] = own > top or (own == top and y < k)


@njit(cache=True, nogil=True)
def read_uncertainty(e: NDArray[np.float64], y: int) -> float:
    """Return 1 − p_y from e_j = exp(z_j − max z) (C,), without a difference of near numbers."""
    rest = 0.0
    for j in range(e.size):
        rest += 0.0 if j == y else e[j]
    return float(rest / (rest + e[y]))


@njit(cache=True, nogil=True)
def read_loss(z: NDArray[np.float32], e: NDArray[np.float64], y: int) -> float:
    """Return −log p_y from logits and e_j = exp(z_j − max z) (C,), nats; precise near 0 too."""
    top = 0
    for j in range(z.size):
        if z[j] > z[top]:
            top = j
    rest = 0.0
    for j in range(e.size):
        rest += 0.0 if j == top else e[j]
    return float(np.float64(z[top]) - np.float64(z[y]) + np.log1p(rest))


@njit(cache=True, nogil=True)
def exponentiate(x: NDArray[np.float64]) -> None:
    """Replace numbers x <= 0 (n,) by exp(x), to 4e-13 relative; the same everywhere, and several at a time.

    x = k log 2 + r, |r| <= log(2) / 2: a Taylor series in r of degree 10, and 2^k through the exponent's bits.
    """
    for i in range(x.size):
        v = max(x[i], -700.0)
        shifted = v * 1.4426950408889634 + _ROUNDING
        k = shifted - _ROUNDING
        r = (v - k * 0.6931471803691238) - k * 1.9082149292705877e-10
        p = 1.0 / 3628800
        p = p * r + 1.0 / 362880
        p = p * r + 1.0 / 40320
        p = p * r + 1.0 / 5040
        p = p * r + 1.0 / 720
        p = p * r + 1.0 / 120
        p = p * r + 1.0 / 24
        p = p * r + 1.0 / 6
        p = p * r + 0.5
        p = p * r + 1.0
        p = p * r + 1.0
        bits = (np.float64(shifted).view(np.int64) + np.int64(1023)) << np.int64(52)
        x[i] = p * np.int64(bits).view(np.float64)


@njit(cache=True, nogil=True)
def add_visits(ids: Array, values: Array, sums: Array) -> None:
    """Add K measures (K or more, n) of visits to the sums of their rows (N, K + 1)."""
    for i in range(ids.size):
        if ids[i] != IGNORED:
            row = sums[ids[i]]
            for k in range(row.size - 1):
                row[k] = min(row[k] + np.int64(min(values[k, i], _CEILING) / UNIT + 0.5), FULL)
            row[-1] += 1
