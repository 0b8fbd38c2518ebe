"""The cumulative mass over the aggregate u: a histogram in two levels, of rows in memory or block after block.

Notation
    G(v)   sum of the mass at values <= v over the total mass (the paper's cumulative gradient function, Eq. 10)

Up to 65 536 rows the table is exact at every value (one sort). Beyond, bins of equal width are cut into parts, more
where more mass lies; each part that holds rows gives a knot, its largest value, where the level is exact.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from drawstream.samplers.swift.knots import MAX_KNOTS, Array, Floats, Knots, Positions
from drawstream.samplers.swift.tables import cdf_table

__all__ = ["MassHistogram", "mass_table"]

COARSE_BINS = 16_384  # first level of the histogram; the other MAX_KNOTS - COARSE_BINS bins go where the mass lies


def mass_table(values: NDArray[np.float32], mass: Floats | None, /) -> tuple[Knots, Positions]:
    """Return G, the cumulative mass over values, or F where mass is None.

    Args:
        values: Finite float32 (rows,).
        mass: Float64 (rows,), none negative, not all zero; None counts rows.

    Returns:
        The table, and the positions of the rows in it, int32 (rows,), as `Knots.positions(values)` finds them.
    """
    low, high = float(values.min()), float(values.max())
    if values.size > MAX_KNOTS and low < high:
        weights = np.ones(values.size) if mass is None else mass
        positions = np.empty(values.size, np.int32)
        histogram = MassHistogram(low, high)
        histogram.add_coarse(values, weights)
        histogram.refine()
        histogram.add_fine(values, weights, positions)
        _renumber(positions, np.cumsum(histogram.seen, dtype=np.int32) - np.int32(1))
        return histogram.table(counted=mass is None), positions
    if mass is None:
        table = cdf_table(values)[0]
    else:
        order = np.argsort(values, kind="stable")
        ordered = values[order]
        last = np.append(np.flatnonzero(ordered[1:] != ordered[:-1]), ordered.size - 1)
        table = Knots(ordered[last].astype(np.float64), _shares(np.cumsum(mass[order])[last]))
    return table, table.positions(values)


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
        """The parts that hold rows, bool (parts,)."""
        return self._top > -np.inf

    def table(self, *, counted: bool) -> Knots:
        """Return the table; `counted` where every mass is 1."""
        cumulative = np.cumsum(self._total[self.seen])
        if counted:
            return Knots.from_counts(self._top[self.seen], cumulative.astype(np.int64))
        return Knots(self._top[self.seen], _shares(cumulative))


def _shares(cumulative: Floats) -> Floats:
    """Cumulative mass as levels rounded to float32, which a sampler's file holds without loss."""
    shares: Floats = (cumulative / cumulative[-1]).astype(np.float32).astype(np.float64)
    return shares


@njit(cache=True, nogil=True)
def _coarse(values: Array, mass: Array, low: float, scale: float, out: Array) -> None:
    """Add the mass to bins of equal width."""
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
