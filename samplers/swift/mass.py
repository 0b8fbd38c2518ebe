"""The cumulative mass over the aggregate u: a histogram in two levels, of rows in memory or block after block.

Notation
    G(v)   sum of the mass at values <= v over the total mass (the paper's cumulative gradient function, Eq. 10)

Up to 65 536 rows the table is exact at every value (one sort). Beyond, bins of equal width are cut into parts, more
where more mass lies; each part that holds rows gives a knot, its largest value, where the level is exact.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
from numba import njit
from numpy.typing import NDArray

from drawstream.samplers.swift.knots import MAX_KNOTS, Array, Floats, Knots, Positions
from drawstream.samplers.swift.tables import cdf_table

__all__ = ["MassPieces", "histogram_table", "mass_table"]

COARSE_BINS = 16_384  # first level of the histogram; the other MAX_KNOTS - COARSE_BINS bins go where the mass lies

MassPieces = Callable[[], Iterable[tuple[NDArray[np.float32], Floats, Positions]]]
"""A reading: values and masses (n,) piece by piece, and where the position of each row goes, int32 (n,)."""


def mass_table(values: NDArray[np.float32], mass: Floats | None, /) -> tuple[Knots, Positions]:
    """Return G, the cumulative mass over finite values (rows,), or F where mass is None, and the rows' positions in it.

    The positions, int32 (rows,), are those that `Knots.positions(values)` finds. No mass is negative, not all are zero.
    """
    low, high = float(values.min()), float(values.max())
    if values.size > MAX_KNOTS and low < high:
        weights, positions = np.ones(values.size) if mass is None else mass, np.empty(values.size, np.int32)
        table, numbers = histogram_table(low, high, lambda: [(values, weights, positions)], counted=mass is None)
        _renumber(positions, numbers)
        return table, positions
    if mass is None:
        table = cdf_table(values)[0]
    else:
        order = np.argsort(values, kind="stable")
        ordered = values[order]
        last = np.append(np.flatnonzero(ordered[1:] != ordered[:-1]), ordered.size - 1)
        table = Knots(ordered[last].astype(np.float64), _shares(np.cumsum(mass[order])[last]))
    return table, table.positions(values)


def histogram_table(low: float, high: float, pieces: MassPieces, /, *, counted: bool) -> tuple[Knots, Positions]:
    """Return the table of values in [low, high], low < high, and the position in it of each part.

    Sums run in the order of the rows, so how they were cut into pieces changes no bit; `counted` where every mass is 1.
    """
    scale, coarse = COARSE_BINS / (high - low), np.zeros(COARSE_BINS)
    for values, mass, _ in pieces():
        _coarse(values, mass, low, scale, coarse)
    parts = 1 + (coarse / coarse.sum() * (MAX_KNOTS - COARSE_BINS - 1)).astype(np.int64)
    first = np.cumsum(parts) - parts
    total = np.zeros(int(parts.sum()))
    top = np.full(total.size, -np.inf)
    for values, mass, positions in pieces():
        _fine(values, mass, low, scale, parts, first, total, top, positions)
    seen = top > -np.inf
    x, cumulative = top[seen], np.cumsum(total[seen])
    table = Knots.from_counts(x, cumulative.astype(np.int64)) if counted else Knots(x, _shares(cumulative))
    return table, np.cumsum(seen, dtype=np.int32) - np.int32(1)


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
