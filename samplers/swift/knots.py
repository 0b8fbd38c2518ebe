"""Monotone tables: the cumulative functions of the Swift Sampler as knots with linear interpolation.

Notation
    x      knots, strictly increasing, float64 (K <= 65 536,), in the unit of the tabulated quantity
    y      levels at the knots, non-decreasing, float64 (K,), in [0, 1]
    key    uint64, order of a number: k(a) < k(b) just when a < b; -0 and +0 share one key
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from drawstream.samplers.orders import build_guide, locate

__all__ = ["MAX_KNOTS", "Floats", "Knots", "Positions", "level", "order_key"]

MAX_KNOTS = 65_536
_SIGN = np.uint64(1 << 63)

Array = NDArray[Any]
Floats = NDArray[np.float64]
Positions = NDArray[np.int32]
Counts = NDArray[np.int64]


@njit(cache=True, nogil=True, inline="always")
def order_key(bits: Any) -> Any:
    """Return the key of a finite number from its bits, uint64; those of a float32 are the upper half."""
    if bits == _SIGN:  # -0
        bits = np.uint64(0)
    return ~bits if bits >= _SIGN else bits | _SIGN


@njit(cache=True, nogil=True, inline="always")
def _half_key(value: float) -> Any:
    """Return the key of a number without its last bit: it fits an int64."""
    return np.int64(order_key(np.float64(value).view(np.uint64)) >> np.uint64(1))


@njit(cache=True, nogil=True)
def _half_keys(values: Array, out: Array) -> None:
    for i in range(values.size):
        out[i] = _half_key(values[i])


@njit(cache=True, nogil=True)
def _find(values: Array, x: Array, base: int, starts: Array, guide: Array, shift: int, out: Array) -> None:
    """Write the number of knots below each value; starts are the half keys of the knots, base is the first one."""
    for i in range(values.size):
        value = np.float64(values[i])
        if value <= x[0]:
            out[i] = 0
        elif value > x[-1]:
            out[i] = x.size
        else:
            k = locate(_half_key(value) - base, starts, guide, shift)
            while x[k] >= value:
                k -= 1
            out[i] = k + 1


@njit(cache=True, nogil=True, inline="always")
def level(v: float, k: int, x: Array, y: Array) -> Any:
    """Interpolate at one value, k being the first knot at or above it; outside the knots the end levels hold."""
    if k == x.size:
        return y[k - 1]
    if k == 0 or x[k] == v:
        return y[k]
    share = (v - x[k - 1]) / (x[k] - x[k - 1])
    reached = y[k - 1] + (y[k] - y[k - 1]) * share
    return min(reached, y[k])


@njit(cache=True, nogil=True)
def _levels(values: Array, positions: Array, x: Array, y: Array, out: Array) -> None:
    for i in range(values.size):
        out[i] = level(values[i], positions[i], x, y)


@dataclass(frozen=True, slots=True, eq=False)
class Knots:
    """A non-decreasing function given by knots, linear between them and constant outside.

    Attributes:
        x: Knots, strictly increasing, float64 (K,).
        y: Levels, non-decreasing, float64 (K,), in [0, 1].
        counts: Integer numerators of the levels (K,) where y = counts / counts[-1], else None.
    """

    x: Floats
    y: Floats
    counts: Counts | None = None

    def __post_init__(self) -> None:
        x, y = self.x, self.y
        if x.ndim != 1 or x.shape != y.shape or not x.size:
            raise ValueError(f"a table needs as many knots as levels and at least one: got {x.shape} and {y.shape}")
        if not (np.isfinite(x).all() and np.isfinite(y).all()):
            raise ValueError("knots and levels of a table must be finite")
        if (np.diff(x) <= 0).any():
            raise ValueError("knots of a table must increase strictly")
        if (np.diff(y) < 0).any() or y[0] < 0 or y[-1] > 1:
            raise ValueError("levels of a table must not decrease and must lie in [0, 1]")

    @classmethod
    def from_counts(cls, x: Floats, counts: Counts) -> Knots:
        """Make a table with levels counts / counts[-1]; `counts` are int64 (K,) at the knots `x`, float64 (K,).

        Raises:
            ValueError: the last count is not positive, or as the table itself.
        """
        if not counts.size or counts[-1] <= 0:
            raise ValueError("the last count of a table must be positive")
        return cls(x, counts / counts[-1], counts)

    def positions(self, values: NDArray[np.floating], /) -> Positions:
        """Return the number of knots below each of the values (rows,), int32 (rows,): the first knot at or above it."""
        if values.size <= MAX_KNOTS:
            return np.searchsorted(self.x, values).astype(np.int32)
        starts = np.empty(self.x.size, np.int64)
        _half_keys(self.x, starts)
        base = int(starts[0])
        starts -= base
        guide, shift = build_guide(starts, int(starts[-1]) + 1)
        out = np.empty(values.size, np.int32)
        _find(values, self.x, base, starts, guide, shift, out)
        return out

    def at(self, values: NDArray[np.floating], positions: Positions | None = None, /) -> Floats:
        """Return the levels at values (rows,), float64 (rows,), whose positions are found unless they are known."""
        out = np.empty(values.size, np.float64)
        _levels(values, self.positions(values) if positions is None else positions, self.x, self.y, out)
        return out
