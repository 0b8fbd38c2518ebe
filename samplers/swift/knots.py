"""Monotone tables: the cumulative functions of the Swift Sampler as knots with linear interpolation.

Notation
    x      knots, strictly increasing, float64 (K,), in the unit of the tabulated quantity
    y      levels at the knots, non-decreasing, float64 (K,), in [0, 1]
    F(v)   #{value <= v} / N, the cdf of METHODS; one rule for ties: equal values share the highest rank
    G(v)   sum of the mass at values <= v over the total mass (the paper's cumulative gradient function, Eq. 10)
A table holds at most 65 536 knots. Up to so many distinct values it is exact at every one of them. Beyond,
knots are spaced by rank, so the error stays under about 1/65 536, and a heavy tie (an atom) keeps a
knot of its own and one at the value just below it: the jump is not smeared over its neighbours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

MAX_KNOTS = 65_536
COARSE_BINS = 16_384  # first level of the histogram; the other MAX_KNOTS - COARSE_BINS bins go where the mass lies

Array = NDArray[Any]
Floats = NDArray[np.float64]
Positions = NDArray[np.int32]
Counts = NDArray[np.int64]


@njit(cache=True, nogil=True)
def _distinct(ordered: Array, values: Array, cumulative: Array) -> int:
    """Write the distinct values of a sorted array and #{<= value}; return how many there are."""
    count = 0
    for i in range(ordered.size):
        if i + 1 == ordered.size or ordered[i + 1] != ordered[i]:
            values[count] = ordered[i]
            cumulative[count] = i + 1
            count += 1
    return count


@njit(cache=True, nogil=True)
def _spaced(cumulative: Array, gap: int, picked: Array) -> int:
    """Pick positions so that neighbours are at most `gap` ranks apart, or adjacent; return their number."""
    picked[0] = 0
    count = 1
    last = 0
    for j in range(1, cumulative.size):
        if cumulative[j] - cumulative[last] > gap and j - 1 > last:
            last = j - 1
            picked[count] = last
            count += 1
        if cumulative[j] - cumulative[last] > gap or j == cumulative.size - 1:
            last = j
            picked[count] = last
            count += 1
    return count


@njit(cache=True, nogil=True)
def _merge(values: Array, order: Array, x: Array, positions: Array) -> None:
    """positions[i] = the first knot at or above values[i], for all rows in one sweep along their sorted order."""
    k = 0
    for i in order:
        while k < x.size and x[k] < values[i]:
            k += 1
        positions[i] = k


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


@njit(cache=True, nogil=True)
def _coarse(values: Array, mass: Array, low: float, scale: float, out: Array) -> None:
    """Mass per bin of equal width."""
    last = out.size - 1
    for i in range(values.size):
        out[min(int((values[i] - low) * scale), last)] += mass[i]


@njit(cache=True, nogil=True)
def _fine(
    values: Array,
    mass: Array,
    low: float,
    scale: float,
    parts: Array,
    first: Array,
    total: Array,
    top: Array,
    positions: Array,
) -> None:
    """Part of each row, mass and largest value per part; coarse bin b holds parts[b] equal parts from first[b] on."""
    last = parts.size - 1
    for i in range(values.size):
        position = (values[i] - low) * scale
        b = min(int(position), last)
        j = first[b] + min(int((position - b) * parts[b]), parts[b] - 1)
        positions[i] = j
        total[j] += mass[i]
        top[j] = max(top[j], values[i])


@njit(cache=True, nogil=True)
def _renumber(positions: Array, number: Array) -> None:
    for i in range(positions.size):
        positions[i] = number[positions[i]]


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
        """Table with levels counts / counts[-1]; `counts` are int64 (K,) at the knots `x`, float64 (K,).

        Raises:
            ValueError: the last count is not positive, or as the table itself.
        """
        if not counts.size or counts[-1] <= 0:
            raise ValueError("the last count of a table must be positive")
        return cls(x, counts / counts[-1], counts)

    def positions(self, values: NDArray[np.floating], /) -> Positions:
        """Number of knots below each of the values (rows,), int32 (rows,): the first knot at or above it."""
        if values.size <= MAX_KNOTS:
            return np.searchsorted(self.x, values).astype(np.int32)
        out = np.empty(values.size, np.int32)
        _merge(values, np.argsort(values), self.x, out)
        return out

    def at(self, values: NDArray[np.floating], /) -> Floats:
        """Levels at values (rows,) as float64 (rows,)."""
        out = np.empty(values.size, np.float64)
        _levels(values, self.positions(values), self.x, self.y, out)
        return out


def cdf_table(values: NDArray[np.floating], /) -> Knots:
    """F, the cdf of finite values (rows,): one sort."""
    ordered = np.sort(values)
    x = np.empty(ordered.size, np.float64)
    cumulative = np.empty(ordered.size, np.int64)
    size = _distinct(ordered, x, cumulative)
    if size <= MAX_KNOTS:
        return Knots.from_counts(x[:size].copy(), cumulative[:size].copy())
    picked = np.empty(size, np.int64)
    gap = -(-values.size // (MAX_KNOTS - 1))
    while (count := _spaced(cumulative[:size], gap, picked)) > MAX_KNOTS:
        gap += -(-gap // 4)  # many atoms take two knots each: widen the spacing of the rest
    return Knots.from_counts(x[picked[:count]], cumulative[picked[:count]])


def mass_table(values: NDArray[np.float32], mass: Floats | None, /) -> tuple[Knots, Positions]:
    """G, the cumulative mass over values, or F where mass is None.

    Up to 65 536 rows the table is exact (one sort). Beyond, it is a histogram in two levels with more bins where
    more mass lies and no sort; each occupied bin gives one knot, its largest value, where the level is exact.

    Args:
        values: Finite float32 (rows,).
        mass: Float64 (rows,), none negative, not all zero; None counts rows.

    Returns:
        The table, and the positions of the rows in it, int32 (rows,), as `Knots.positions(values)` finds them.
    """
    low, high = float(values.min()), float(values.max())
    if values.size > MAX_KNOTS and low < high:
        return _histogram_table(values, mass, low, high)
    if mass is None:
        table = cdf_table(values)
    else:
        order = np.argsort(values, kind="stable")
        ordered = values[order]
        last = np.append(np.flatnonzero(ordered[1:] != ordered[:-1]), ordered.size - 1)
        table = Knots(ordered[last].astype(np.float64), _shares(np.cumsum(mass[order])[last]))
    return table, table.positions(values)


def _histogram_table(
    values: NDArray[np.float32], mass: Floats | None, low: float, high: float
) -> tuple[Knots, Positions]:
    weights = np.ones(values.size) if mass is None else mass
    positions = np.empty(values.size, np.int32)
    histogram = MassHistogram(low, high)
    histogram.add_coarse(values, weights)
    histogram.refine()
    histogram.add_fine(values, weights, positions)
    _renumber(positions, np.cumsum(histogram.seen, dtype=np.int32) - np.int32(1))
    return histogram.table(counted=mass is None), positions


class MassHistogram:
    """The two levels of `mass_table` over values in [low, high], low < high.

    Rows come in pieces, first all to `add_coarse`, then all again to `add_fine`; sums run in the order of the rows, so
    how they were cut into pieces changes no bit.
    """

    def __init__(self, low: float, high: float) -> None:
        self._low, self._scale = low, COARSE_BINS / (high - low)
        self.coarse = np.zeros(COARSE_BINS)

    def add_coarse(self, values: NDArray[np.float32], mass: Floats, /) -> None:
        """Add rows to bins of equal width."""
        _coarse(values, mass, self._low, self._scale, self.coarse)

    def refine(self) -> None:
        """Cut each bin into parts, more where more mass lies."""
        shares = self.coarse / self.coarse.sum()
        self._parts = 1 + (shares * (MAX_KNOTS - COARSE_BINS - 1)).astype(np.int64)
        self._first = np.cumsum(self._parts) - self._parts
        self._total = np.zeros(int(self._parts.sum()))
        self._top = np.full(self._total.size, -np.inf)

    def add_fine(self, values: NDArray[np.float32], mass: Floats, positions: Positions, /) -> None:
        """Add rows to parts, and write which one each is in, int32 (rows,)."""
        _fine(values, mass, self._low, self._scale, self._parts, self._first, self._total, self._top, positions)

    @property
    def seen(self) -> NDArray[np.bool_]:
        """Which parts hold rows, bool (parts,)."""
        return self._top > -np.inf

    def table(self, *, counted: bool) -> Knots:
        """One knot per part that holds rows, its largest value; `counted` where every mass is 1."""
        cumulative = np.cumsum(self._total[self.seen])
        if counted:
            return Knots.from_counts(self._top[self.seen], cumulative.astype(np.int64))
        return Knots(self._top[self.seen], _shares(cumulative))


def _shares(cumulative: Floats) -> Floats:
    """Cumulative mass as levels rounded to float32, which a sampler's file holds without loss."""
    shares: Floats = (cumulative / cumulative[-1]).astype(np.float32).astype(np.float64)
    return shares
