"""Weights to exact integer probabilities, and how much information a weighting keeps.

Notation
    w      float64 (N,)   weights as given, >= 0
    P      float64 (N,)   w / sum(w)
    M      int            draws of an epoch
    k      int            binary digits behind the point
    width  int64 (N,)     M P_i in units of 2^-k, an integer; the widths sum to M 2^k exactly

Every weighted mode draws from the widths, so its law is exact and the same on every machine: rounding happens once,
here, is at most a few 2^-k of a draw per row, and never carries a width across an integer: a row keeps
floor(M P) <= width / 2^k <= ceil(M P). k is 40 up to 4 million draws, 35 at 10^8, 29 at 5 10^9. A row whose share of
the epoch is below 2^-(k+1) draws gets width 0.
"""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import ArrayLike, NDArray

from drawstream.samplers.arguments import to_vector
from drawstream.samplers.parallel import PIECE, map_pieces

__all__ = ["check_weights", "effective_sample_size", "integer_widths"]

_DIGITS = 40  # rounding errors of a float64 quotient (2^-53) stay below half a unit for rows of up to 2^12 draws
_SUM_BLOCK = 4096
_NOWHERE = np.empty(0, dtype=np.int64)
TOO_LONG = "draws < 2**61 must hold, but got {draws}: draw shorter epochs"
SMALLEST_SUM, LARGEST_SUM = 1e-280, 1e280


def check_weights(weights: ArrayLike, /) -> NDArray[np.float64]:
    """Check sampling weights and return them as a contiguous float64 array (a copy only where needed).

    Args:
        weights: numbers (N,), finite and >= 0, not all zero; any scale, any column that `to_vector` takes.

    Raises:
        TypeError: they are no such column.
        ValueError: not numeric, not one-dimensional, empty, NaN, negative, infinite, or all zero; or as `to_vector`.
    """
    return np.ascontiguousarray(check_single(weights), dtype=np.float64)


def check_single(weights: ArrayLike, /) -> NDArray[np.floating[Any]]:
    """As `check_weights`, but float32 stays float32: half the memory, and the same stream."""
    given = to_vector(weights, "weights")
    kind: Any = np.float32 if given.dtype == np.float32 else np.float64
    with np.errstate(over="ignore"):  # a longdouble beyond float64: infinite, and refused
        array: NDArray[np.floating[Any]] = np.ascontiguousarray(given, dtype=kind)
    check_values(array)
    return array


def check_values(array: NDArray[np.floating[Any]], /) -> None:
    """Check sampling weights, float32 or float64, without copying them; errors as `check_weights`."""
    if array.ndim != 1 or array.size == 0:
        raise ValueError(f"weights must have shape (rows,) with rows >= 1, but got {array.shape}")
    found = map_pieces(array.size, lambda start, stop: find_bad(array[start:stop]))
    bad = sum(count for _, count, _ in found)
    if bad:
        first = next(PIECE * i + piece[0] for i, piece in enumerate(found) if piece[1])
        raise ValueError(
            f"weights must be finite and >= 0, but row {first} is {array[first]} ({bad} such of {array.size} rows): "
            "set their weights to 0 or leave these rows out"
        )
    if max(largest for _, _, largest in found) == 0:
        raise ValueError(f"at least one weight must be > 0, but all {array.size} are 0: there is no row to draw")


def effective_sample_size(p: ArrayLike, /) -> float:
    """Kish's effective sample size (sum p)^2 / sum p^2: N for uniform weights, 1 when one row holds all.

    Args:
        p: float (N,), weights >= 0 of any scale.

    Raises:
        TypeError, ValueError: as `check_weights`.
    """
    values = check_single(p)
    largest = float(values.max())
    sums = map_pieces(values.size, lambda i, j: _moments(values[i:j], largest))
    return math.fsum(total for total, _ in sums) ** 2 / math.fsum(squares for _, squares in sums)


def _moments(values: NDArray[np.floating[Any]], largest: float) -> tuple[float, float]:
    """Sum and sum of squares of values / largest."""
    scaled = np.divide(values, largest, dtype=np.float64)
    return float(scaled.sum()), float(np.einsum("i,i->", scaled, scaled))  # np.dot would start BLAS threads


def integer_widths(weights: NDArray[np.floating[Any]], draws: int, out: NDArray[np.int64], /) -> int:
    """Write M P_i in units of 2^-k into `out`, int64 (N,), summing to M 2^k exactly, and return k; weights are checked.

    Raises:
        ValueError: M >= 2^61.
    """
    total = sum_exactly(weights)
    if not SMALLEST_SUM < total < LARGEST_SUM:  # the scale is free: keep it away from the ends of float64
        weights = weights / weights.max()
        total = sum_exactly(weights)
    for rounding in roundings(weights, total, draws, out):
        if spread(rounding.residual, rounding.extra, rounding.share, rounding.digits, out)[0] == 0:
            break
    return rounding.digits


class Rounding(NamedTuple):
    """A way to round weights to widths."""

    digits: int  # k
    scale: float  # width of a weight of 1, before it is rounded
    residual: int  # units that the rounded widths lack (negative: have too many)
    share: int  # units of the residual for each fractional width (`spread`)
    extra: int  # how many of them take one more


def roundings(
    weights: NDArray[np.floating[Any]], total: float, draws: int, out: NDArray[np.int64] | None = None, /
) -> Iterator[Rounding]:
    """Yield the roundings for M draws, finest unit first; ask for another where no row can take up the residual.

    `total` is the sum of the weights (N,). The rounded widths are written into `out`, int64 (N,), where it is given.

    Raises:
        ValueError: M >= 2^61.
    """
    for digits in range(min(_DIGITS, 62 - draws.bit_length()), 0, -1):
        whole = draws << digits
        scale = whole / total
        sums = map_pieces(
            weights.size,
            lambda i, j: round_widths(weights[i:j], scale, digits, _NOWHERE if out is None else out[i:j]),  # noqa: B023
        )
        residual = whole - sum(part for part, _ in sums)
        share, extra = divmod(abs(residual), max(1, sum(fractional for _, fractional in sums)))
        yield Rounding(digits, scale, residual, share, extra)
    raise ValueError(TOO_LONG.format(draws=draws))


def sum_exactly(values: NDArray[np.floating[Any]], /) -> float:
    """Sum in a fixed order, the same on every machine: plain within 4096 values, Neumaier's correction across them."""
    sums: NDArray[np.float64] = np.empty(-(-values.size // _SUM_BLOCK), dtype=np.float64)
    map_pieces(values.size, lambda i, j: sum_by_block(values[i:j], sums[i // _SUM_BLOCK : -(-j // _SUM_BLOCK)]))
    return float(add_corrected(sums))


@njit(cache=True, nogil=True)
def find_bad(weights: NDArray[np.floating[Any]]) -> tuple[int, int, float]:
    """First row that is NaN, infinite or negative (or -1), how many there are, and the largest good weight."""
    first, count, largest = -1, 0, 0.0
    for i in range(weights.size):
        if 0.0 <= weights[i] < np.inf:
            largest = max(largest, np.float64(weights[i]))
        else:
            if count == 0:
                first = i
            count += 1
    return first, count, largest


@njit(cache=True, nogil=True)
def sum_by_block(values: NDArray[np.floating[Any]], sums: NDArray[np.float64]) -> None:
    """Write the sums of 4096 values each into `sums`."""
    for block in range(sums.size):
        part = 0.0
        for i in range(block * _SUM_BLOCK, min((block + 1) * _SUM_BLOCK, values.size)):
            part += np.float64(values[i])
        sums[block] = part


@njit(cache=True, nogil=True)
def add_corrected(values: NDArray[np.float64]) -> Any:
    """Sum with Neumaier's correction, in order."""
    total, lost = 0.0, 0.0
    for value in values:
        after = total + value
        lost += (total - after) + value if abs(total) >= abs(value) else (value - after) + total
        total = after
    return total + lost


@njit(cache=True, nogil=True)
def round_widths(weights: NDArray[np.floating[Any]], scale: float, digits: int, out: NDArray[np.int64]) -> Any:
    """Round weights * scale, into `out` if it has room; return the sum and how many are no multiple of 2^digits."""
    mask = (np.int64(1) << digits) - np.int64(1)
    total, fractional = np.int64(0), 0
    for i in range(weights.size):
        width = np.int64(np.rint(np.float64(weights[i]) * scale))
        if out.size:
            out[i] = width
        total += width
        fractional += (width & mask) != 0
    return total, fractional


@njit(cache=True, nogil=True)
def spread(residual: int, extra: int, share: int, digits: int, widths: NDArray[np.int64]) -> Any:
    """Share a residual among the fractional widths, none crossing a multiple of 2^digits; return what is left of both.

    Each takes `share` units, the first `extra` of them one more, as far as it can.
    """
    unit = np.int64(1) << digits
    mask = unit - np.int64(1)
    for i in range(widths.size):
        if residual == 0:
            break
        part = widths[i] & mask
        if part == 0:
            continue
        wanted = share + (1 if extra > 0 else 0)
        extra -= 1
        if residual > 0:
            step = min(wanted, unit - part, residual)
            widths[i] += step
            residual -= step
        else:
            step = min(wanted, part, -residual)
            widths[i] -= step
            residual += step
    return residual, extra
