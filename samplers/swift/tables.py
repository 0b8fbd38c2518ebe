"""The cdf of a feature, of rows in memory or block after block, by one tree of counters.

Notation
    F(v)   #{value <= v} / N, the cdf of METHODS; one rule for ties: equal values share the highest rank
    key    order of a number (`knots.order_key`); a node of the tree holds the keys with the same leading bits
    leaf   a node without children: its rows, its least and its largest value

Up to 65 536 rows a table is exact at every value (one sort). Beyond, the rows are read several times: the first reading
counts them by the 16 leading bits of their keys; each further one splits the leaves that hold more than one value and
more than 1 / 65 536 of the rows. As a rule two readings do, three where values repeat. Each leaf gives a knot, its
largest value, where the level is exact; past 65 536 knots neighbours are left out, so that the error stays below
1 / 32 768. A heavy tie (an atom) keeps a knot of its own and one just below it. Counts add up the same in any order, so
the table does not depend on the blocks. Memory: 22 bytes a node, some MB.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from drawstream.samplers.swift.knots import MAX_KNOTS, Array, Floats, Knots, Positions, order_key

__all__ = ["Pieces", "cdf_of_pieces", "cdf_table"]

_LEADING = 16
_LEAST = 6  # bits of a split: a leaf that is hardly too full takes no more readings than others

Pieces = Callable[[], Iterable[NDArray[np.floating]]]
"""A reading of one feature: its values (n,), piece by piece."""


def cdf_table(values: NDArray[np.floating], /) -> tuple[Knots, Floats]:
    """Return F, the cdf of finite values (rows,), and its levels at them, float64 (rows,)."""
    if values.size <= MAX_KNOTS:
        x, counts = np.unique(values, return_counts=True)
        table = Knots.from_counts(x.astype(np.float64), np.cumsum(counts))
        return table, table.at(values)
    leaves = np.zeros(values.size, np.int32)
    tree = _Tree(values.dtype)
    while tree.grow():
        tree.read(values, leaves)
    table, positions = tree.table()
    return table, table.at(values, positions[leaves])


def cdf_of_pieces(pieces: Pieces, /) -> Knots:
    """Return the table that `cdf_table` gives of all pieces, float32, at once, for more than 65 536 rows.

    Raises:
        ValueError: A reading gave other rows than the first.
    """
    tree = _Tree(np.dtype(np.float32))
    while tree.grow():
        for values in pieces():
            tree.read(values, np.zeros(values.size, np.int32))
    return tree.table()[0]


class _Tree:
    """Rows counted by the leading bits of their keys; see the module."""

    def __init__(self, kind: np.dtype[Any], /) -> None:
        self._first = np.zeros(1, np.int32)  # child of each node; 0 for a leaf
        self._bits = np.array([[8 * kind.itemsize, 0]], np.uint8)  # of a key: below a node, and below its children
        self._sums = np.zeros(1, np.dtype([("rows", "i8"), ("low", kind), ("top", kind)]))
        self._rows = self._fresh = 0

    def read(self, values: NDArray[np.floating], leaves: Positions, /) -> None:
        """Count values; `leaves` holds a node above the leaf of each, and then its leaf."""
        words = values.view(f"u{values.itemsize}")
        _count(values, words, self._first, self._bits, self._sums, self._fresh, leaves)

    def grow(self) -> bool:
        """Split the leaves that are too full; return whether there are any, so that another reading is due."""
        rows = int(self._sums["rows"].sum())
        if self._first.size == 1:
            heavy, bits = np.zeros(1, np.int64), np.full(1, _LEADING)
        else:
            self._rows = self._rows or rows
            if rows != self._rows:
                raise ValueError("every reading must give the same rows, but they changed: give data that stays")
            heavy = np.flatnonzero(self._sums["rows"] * MAX_KNOTS > rows)
            heavy = heavy[self._sums["low"][heavy] < self._sums["top"][heavy]]
            bits = np.ceil(np.log2(self._sums["rows"][heavy] * (MAX_KNOTS / rows))).astype(np.int64) + 1
            bits = np.minimum(np.maximum(bits, _LEAST), self._bits[heavy, 0])
        self._fresh = self._first.size
        sizes, below = 1 << bits, (self._bits[heavy, 0] - bits).astype(np.uint8)
        self._first[heavy] = self._fresh + np.cumsum(sizes) - sizes
        self._bits[heavy, 1], self._sums["rows"][heavy] = below, 0
        children = np.zeros(int(sizes.sum()), self._sums.dtype)
        children["low"], children["top"] = np.inf, -np.inf
        self._sums = np.concatenate([self._sums, children])
        self._first = np.append(self._first, np.zeros(children.size, np.int32))
        self._bits = np.concatenate([self._bits, np.repeat(np.stack([below, below], axis=1), sizes, axis=0)])
        return heavy.size > 0

    def table(self) -> tuple[Knots, Positions]:
        """Return the table, and the position in it of the values of each leaf, int32 (nodes,)."""
        leaves = np.empty(self._first.size, np.int32)
        leaves = leaves[: _rising(self._first, self._bits, self._sums, leaves)]
        counts = np.cumsum(self._sums["rows"][leaves])
        picked = np.empty(leaves.size, np.int64)
        gap = 0 if leaves.size <= MAX_KNOTS else -(-self._rows // (MAX_KNOTS - 1))
        while (size := _spaced(counts, gap, picked)) > MAX_KNOTS:
            gap += -(-gap // 4)  # many atoms take two knots each: widen the spacing of the rest
        picked = picked[:size]
        positions = np.zeros(self._first.size, np.int32)
        positions[leaves] = np.searchsorted(picked, np.arange(leaves.size))
        return Knots.from_counts(self._sums["top"][leaves[picked]].astype(np.float64), counts[picked]), positions


@njit(cache=True, nogil=True)
def _count(values: Array, words: Array, first: Array, bits: Array, sums: Array, fresh: int, leaves: Array) -> None:
    """Find the leaf of each value, and count it where the leaf is one of this reading's, `fresh` or later.

    words are the bits of the values; a fresh node has no children yet.
    """
    up = np.uint64(64 - 8 * words.itemsize)
    for i in range(values.size):
        at = np.int64(leaves[i])
        if first[at] > 0:
            key = order_key(np.uint64(words[i]) << up) >> up
            while at < fresh and first[at] > 0:
                mask = (np.uint64(1) << np.uint64(bits[at, 0] - bits[at, 1])) - np.uint64(1)
                at = first[at] + np.int64((key >> np.uint64(bits[at, 1])) & mask)
            leaves[i] = at
            if at >= fresh:
                leaf, value = sums[at], values[i]
                leaf.rows += 1
                leaf.low = value if value < leaf.low else leaf.low
                leaf.top = value if value > leaf.top else leaf.top


@njit(cache=True, nogil=True)
def _rising(first: Array, bits: Array, sums: Array, leaves: Array) -> int:
    """Write the leaves that hold rows, in the order of their values; return how many there are."""
    at, end = np.zeros(65, np.int64), np.ones(65, np.int64)
    depth, count = 0, 0
    while depth >= 0:
        node = at[depth]
        if node == end[depth]:
            depth -= 1
            continue
        at[depth] += 1
        if first[node] > 0:
            depth += 1
            at[depth] = first[node]
            end[depth] = at[depth] + (np.int64(1) << np.int64(bits[node, 0] - bits[node, 1]))
        elif sums[node].rows > 0:
            leaves[count] = node
            count += 1
    return count


@njit(cache=True, nogil=True)
def _spaced(counts: Array, gap: int, picked: Array) -> int:
    """Pick places so that neighbours are at most `gap` rows apart, or adjacent; return their number."""
    picked[0] = 0
    count = 1
    last = 0
    for j in range(1, counts.size):
        if counts[j] - counts[last] > gap and j - 1 > last:
            last = j - 1
            picked[count] = last
            count += 1
        if counts[j] - counts[last] > gap or j == counts.size - 1:
            last = j
            picked[count] = last
            count += 1
    return count
