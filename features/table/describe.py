"""Describe the columns of a feature table: moments, quantiles, ties, a histogram."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from drawstream.features.table.table import FeatureTable

QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
BARS = 12


@dataclass(frozen=True, slots=True)
class Description:
    """One column; all but the first three are about its finite rows, and None or empty where there is none.

    Attributes:
        name: The column.
        rows: Number of rows.
        bad: Rows that are NaN or infinite.
        minimum, maximum, mean, deviation: In its unit; the deviation divides by the rows.
        quantiles: Share of rows to the smallest value that has at least that share at or below it.
        distinct: Number of distinct values.
        tied: Rows that share their value with another row.
        edges: Ends of the bars of the histogram, of equal width.
        counts: Rows in each bar, its upper end in the last bar only.
    """

    name: str
    rows: int
    bad: int
    minimum: float | None
    maximum: float | None
    mean: float | None
    deviation: float | None
    quantiles: dict[str, float]
    distinct: int
    tied: int
    edges: list[float]
    counts: list[int]


def describe_table(table: FeatureTable, /) -> Iterator[Description]:
    """Describe every feature of a table, one after another; two columns' worth of memory at a time."""
    for name in table.names:
        values = np.empty(len(table), np.float32)
        at = 0
        for block in table.blocks(name):
            values[at : at + block[name].size] = block[name]
            at += block[name].size
        yield describe_column(name, values)


def describe_column(name: str, values: NDArray[np.float32], /) -> Description:
    """Describe one column (rows,)."""
    ordered = values[np.isfinite(values)]
    ordered.sort()
    bad = values.size - ordered.size
    if not ordered.size:
        return Description(name, values.size, bad, None, None, None, None, {}, 0, 0, [], [])
    same = ordered[1:] == ordered[:-1]
    alone = np.ones(ordered.size, bool)
    alone[1:] &= ~same
    alone[:-1] &= ~same
    places = [min(int(np.ceil(share * ordered.size)), ordered.size) - 1 for share in QUANTILES]
    low, high = float(ordered[0]), float(ordered[-1])
    edges = np.linspace(low, high, BARS + 1) if low < high else np.array([low, high])
    below = np.searchsorted(ordered, edges[1:-1].astype(np.float32), side="left")
    mean = float(ordered.mean(dtype=np.float64))
    return Description(
        name=name,
        rows=values.size,
        bad=bad,
        minimum=low,
        maximum=high,
        mean=mean,
        deviation=float(np.sqrt(np.mean((ordered - mean) ** 2, dtype=np.float64))),
        quantiles={f"{share:g}": float(ordered[place]) for share, place in zip(QUANTILES, places, strict=True)},
        distinct=int(ordered.size - same.sum()),
        tied=int(ordered.size - alone.sum()),
        edges=edges.tolist(),
        counts=np.diff(below, prepend=0, append=ordered.size).tolist(),
    )
