"""Levels of a table at many float32 values: what `Knots.at` gives, without sorting the values.

Notation
    key    uint32          order of a float32: k(a) < k(b) just when a < b; -0 and +0 share one key
    guide  int32 (G + 1,)  number of knots whose key lies below g 2^14, G = 2^18
The first knot at or above a value lies between two neighbours of the guide; bisection finds it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from drawstream.samplers.swift.knots import Floats, Knots, level

__all__ = ["Lookup", "as_bits", "order_key"]

_SHIFT = 14  # 2^18 entries, 1 MiB: in the second-level cache; a few knots between neighbours
_Array = NDArray[Any]


@njit(cache=True, nogil=True, inline="always")
def order_key(bits: int) -> Any:
    """Key of the bits of a finite float32, in [0, 2^32)."""
    b = np.int64(bits)
    if b == 0x80000000:  # -0
        b = np.int64(0)
    return b ^ (0xFFFFFFFF if b >> 31 else 0x80000000)


def as_bits(values: NDArray[np.float32], /) -> NDArray[np.uint32]:
    """The bits of values (rows,)."""
    return np.ascontiguousarray(values, np.float32).view(np.uint32)


@njit(cache=True, nogil=True)
def _fill_guide(bits: _Array, guide: _Array) -> None:
    k = 0
    for g in range(guide.size):
        while k < bits.size and order_key(bits[k]) < (np.int64(g) << _SHIFT):
            k += 1
        guide[g] = k


@njit(cache=True, nogil=True, inline="always")
def _first_at_or_above(value: float, bits: int, knots: _Array, guide: _Array) -> Any:
    g = order_key(bits) >> _SHIFT
    low, high = guide[g], guide[g + 1]
    while low < high:
        middle = (low + high) >> 1
        if knots[middle] < value:
            low = middle + 1
        else:
            high = middle
    return low


@njit(cache=True, nogil=True)
def _positions(values: _Array, bits: _Array, knots: _Array, guide: _Array, out: _Array) -> None:
    for i in range(values.size):
        out[i] = _first_at_or_above(values[i], bits[i], knots, guide)


@njit(cache=True, nogil=True)
def _levels(values: _Array, bits: _Array, knots: _Array, guide: _Array, x: _Array, y: _Array, out: _Array) -> None:
    for i in range(values.size):
        out[i] = level(values[i], _first_at_or_above(values[i], bits[i], knots, guide), x, y)


class Lookup:
    """A table prepared for float32 values.

    Args:
        table: Its knots must be float32 values, as those of tables over float32 columns are.

    Raises:
        ValueError: A knot is no float32.
    """

    def __init__(self, table: Knots, /) -> None:
        self.table = table
        self._knots = table.x.astype(np.float32)
        if not np.array_equal(self._knots, table.x):
            raise ValueError("knots must be float32 values: make the table of a float32 column")
        self._guide = np.empty((1 << 32 - _SHIFT) + 1, np.int32)
        _fill_guide(as_bits(self._knots), self._guide)

    def positions(self, values: NDArray[np.float32], /) -> NDArray[np.int32]:
        """As `Knots.positions`."""
        out = np.empty(values.size, np.int32)
        _positions(values, as_bits(values), self._knots, self._guide, out)
        return out

    def at(self, values: NDArray[np.float32], /) -> Floats:
        """As `Knots.at`."""
        out = np.empty(values.size, np.float64)
        _levels(values, as_bits(values), self._knots, self._guide, self.table.x, self.table.y, out)
        return out
