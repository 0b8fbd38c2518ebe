"""The cdf of more rows than memory holds: exact counts by the bits of a float32, block after block.

Notation
    key     uint32         order of a float32: k(a) < k(b) just when a < b; -0 and +0 share one key
    bin     int            the leading 16 bits of a key: 2^-7 of a power of two, 65 536 in all
    count   int64 (65536,) rows per bin; counts of blocks add up, in any order and on any thread
    window  bins whose values are counted one by one, within a budget of bytes

Two readings. The first counts rows per bin. The second tells the values of a bin apart: a bin of fewer than 131 072
rows keeps the low 16 bits of each (2 bytes a row), a fuller one a counter per value (256 KiB). Bins are taken in rising
order until the budget is spent; what is left waits for another reading. As a rule nothing is: 10^9 losses fill some
1500 bins, 400 MB. The counts are those of a sort of all rows, so the table equals `cdf_table` of them, knot for knot,
whatever the blocks and their order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from drawstream.samplers.parallel import cores, map_ahead
from drawstream.samplers.swift.knots import MAX_KNOTS, Knots
from drawstream.samplers.swift.lookup import as_bits, order_key

__all__ = ["MEMORY", "Blocks", "cdf_tables", "columns_of", "count_bins"]

MEMORY = 1 << 30  # bytes of counters, all features together: one reading for 10^9 rows of two ordinary features
BINS = 1 << 16
SORTED = 1 << 12  # shorter lists are sorted, longer ones counted: which is faster
_COUNTER_BYTES = 4 * BINS  # a uint32 per value of a bin: N < 2^32
_Array = NDArray[Any]

Blocks = Callable[..., Iterable[Mapping[str, NDArray[np.float32]]]]
"""Named columns, block by block, anew at every call: `FeatureTable.blocks`."""


def _bits(key: int) -> int:
    return key ^ (0x80000000 if key >> 31 else 0xFFFFFFFF)


@njit(cache=True, nogil=True)
def _count_bins(bits: _Array, counts: _Array) -> int:
    """Add the rows to their bins; return how many are not finite."""
    bad = 0
    for i in range(bits.size):
        bad += (bits[i] & 0x7F800000) == 0x7F800000
        counts[order_key(bits[i]) >> 16] += 1
    return bad


@njit(cache=True, nogil=True)
def _count_values(
    bits: _Array, low: int, high: int, place: _Array, counters: _Array, lows: _Array, filled: _Array, ends: _Array
) -> None:
    """Count the values of the bins low … high - 1; the arrays are those of `_Window`."""
    for i in range(bits.size):
        key = order_key(bits[i])
        b = key >> 16
        if low <= b < high:
            at = place[b]
            if at >= 0:
                counters[at, key & 0xFFFF] += 1
            elif filled[b] < ends[b]:
                lows[filled[b]] = key & 0xFFFF
                filled[b] += 1


@njit(cache=True, nogil=True)
def _pick(
    key: Any, rows: Any, before: int, below: int, number: int, state: _Array, gaps: _Array, keys: _Array, ranks: _Array
) -> int:
    """Let each walk pick among a value and the one before it, as `knots._spaced` does with its gap.

    Args:
        key: Key of the value.
        rows: Its rank, #{<= value}.
        before: Key of the value before.
        below: Its rank.
        number: Which distinct value it is, from 1.
        state: int64 (gaps, 3), of each walk: picks so far, rank and number of the last one.
        gaps: int64 (gaps,).
        keys: Picked keys, int64 (gaps, MAX_KNOTS + 2).
        ranks: Their ranks.

    Returns:
        The rank up to which no walk will pick anything.
    """
    idle = np.iinfo(np.int64).max
    for g in range(gaps.size):
        count = state[g, 0]
        if count > MAX_KNOTS:
            continue
        if count > 0 and rows - state[g, 1] > gaps[g] and number - 1 > state[g, 2]:
            keys[g, count], ranks[g, count] = before, below
            state[g, 1], state[g, 2] = below, number - 1
            count += 1
        if count <= MAX_KNOTS and (count == 0 or rows - state[g, 1] > gaps[g]):
            keys[g, count], ranks[g, count] = key, rows
            state[g, 1], state[g, 2] = rows, number
            count += 1
        state[g, 0] = count
        if count <= MAX_KNOTS:
            idle = min(idle, state[g, 1] + gaps[g])
    return idle


@njit(cache=True, nogil=True)
def _walk_bin(
    first: int, values: _Array, counts: _Array, last: _Array, state: _Array, gaps: _Array, keys: _Array, ranks: _Array
) -> None:
    """Go through distinct values first + values in rising order, or first, first + 1, … where there are none listed.

    last int64 (4,): key, rank and number of the value before, and the rank up to which no walk picks.
    """
    before, below, number, idle = last[0], last[1], last[2], last[3]
    for i in range(counts.size):
        if counts[i] == 0:
            continue
        key = first + (np.int64(values[i]) if values.size else i)
        rows = below + np.int64(counts[i])
        number += 1
        if rows > idle:
            idle = _pick(key, rows, before, below, number, state, gaps, keys, ranks)
        before, below = key, rows
    last[0], last[1], last[2], last[3] = before, below, number, idle


@njit(cache=True, nogil=True)
def _walk(
    low: int,
    high: int,
    place: _Array,
    counters: _Array,
    lows: _Array,
    ends: _Array,
    counts: _Array,
    last: _Array,
    state: _Array,
    gaps: _Array,
    keys: _Array,
    ranks: _Array,
) -> None:
    """Go through the distinct values of the bins low … high - 1 in rising order."""
    room = np.zeros(BINS, np.uint32)
    for b in range(low, high):
        listed = lows[ends[b] - counts[b] : ends[b]]
        if counts[b] == 0:
            continue
        if place[b] >= 0:
            _walk_bin(b << 16, lows[:0], counters[place[b]], last, state, gaps, keys, ranks)
        elif counts[b] < SORTED:
            rising = np.sort(listed)
            same = np.zeros(rising.size, np.uint32)  # rows of each distinct value, where it is met last
            begin = 0
            for i in range(rising.size):
                if i + 1 == rising.size or rising[i + 1] != rising[i]:
                    same[i] = i + 1 - begin
                    begin = i + 1
            _walk_bin(b << 16, rising, same, last, state, gaps, keys, ranks)
        else:
            for value in listed:
                room[value] += np.uint32(1)
            _walk_bin(b << 16, lows[:0], room, last, state, gaps, keys, ranks)
            room[:] = 0


def count_bins(values: NDArray[np.float32], /) -> tuple[NDArray[np.int64], int]:
    """Rows per bin, int64 (65536,), and how many of the values (rows,) are not finite."""
    counts = np.zeros(BINS, np.int64)
    return counts, int(_count_bins(as_bits(values), counts))


def columns_of(blocks: Blocks, names: Sequence[str], /) -> Iterator[tuple[int, list[NDArray[np.float32]]]]:
    """First row and named columns of each block, checked but for their values.

    Raises:
        ValueError: A column is missing, not float32 (rows,), or of another length than the rest.
    """
    start = 0
    for block in blocks(*names):
        for name in names:
            if name not in block:
                raise ValueError(f"no column {name!r} in a block: it has {', '.join(block) or 'no columns'}")
            if block[name].dtype != np.float32 or block[name].ndim != 1:
                found = f"{block[name].dtype} {block[name].shape}"
                raise ValueError(f"column {name!r} of a block must be float32 (rows,), but is {found}")
        columns = [np.ascontiguousarray(block[name]) for name in names]
        if len({values.size for values in columns}) > 1:
            sizes = ", ".join(f"{name!r} {values.size}" for name, values in zip(names, columns, strict=True))
            raise ValueError(f"columns of a block must have one value per row each, but their lengths are {sizes}")
        yield start, columns
        start += columns[0].size


def cdf_tables(blocks: Blocks, names: Sequence[str], /, *, memory: int = MEMORY) -> tuple[int, tuple[Knots, ...]]:
    """Number of rows, and the cdf of each column: the tables that `cdf_table` gives of all rows at once.

    Args:
        blocks: Called with names, gives those columns block by block, float32 (rows of the block,), finite. It is
            called twice, and once more for every further window.
        names: Columns.
        memory: Budget for counters in bytes. Besides, a few blocks and 2 MB per column are held.

    Raises:
        ValueError: A column is missing, not float32, not finite; there are no rows or 2^32 and more; or the second
            reading has other rows than the first.
    """
    counts = _first_reading(blocks, names)
    rows = int(counts[0].sum())
    if not 0 < rows < 1 << 32:
        raise ValueError(f"1 <= rows < 2^32 must hold, but the blocks have {rows}")
    walks = [_Walk(rows) for _ in names]
    spans = [_windows(each, max(1, memory // len(names))) for each in counts]
    for turn in range(max(map(len, spans))):
        due = [i for i, each in enumerate(spans) if turn < len(each)]
        windows = [_Window(counts[i], *spans[i][turn]) for i in due]
        _read_windows(blocks, [names[i] for i in due], windows)
        for i, window in zip(due, windows, strict=True):
            walks[i].follow(window)
    return rows, tuple(walk.table() for walk in walks)


def _first_reading(blocks: Blocks, names: Sequence[str]) -> list[NDArray[np.int64]]:
    """Rows per bin of each column."""

    def work(block: tuple[int, list[NDArray[np.float32]]]) -> list[NDArray[np.int64]]:
        found = []
        for name, values in zip(names, block[1], strict=True):
            counts, bad = count_bins(values)
            if bad:
                first = int(np.argmin(np.isfinite(values)))
                raise ValueError(
                    f"column {name!r} must be finite, but row {block[0] + first} is {values[first]} ({bad} such in its "
                    "block): drop those rows or compute the feature again"
                )
            found.append(counts)
        return found

    total = [np.zeros(BINS, np.int64) for _ in names]
    for found in map_ahead(work, columns_of(blocks, names)):
        for sums, counts in zip(total, found, strict=True):
            sums += counts
    return total


def _windows(counts: NDArray[np.int64], memory: int) -> list[tuple[int, int]]:
    """Ranges of bins, low … high - 1, that together hold every row, each within the budget or of one bin."""
    spans, low, spent = [], 0, 0
    for b in np.flatnonzero(counts).tolist():
        cost = min(2 * int(counts[b]), _COUNTER_BYTES)
        if spent and spent + cost > memory:
            spans.append((low, b))
            low, spent = b, 0
        spent += cost
    return [*spans, (low, BINS)]


class _Window:
    """Exact counts of the values within a range of bins.

    Attributes:
        low, high: The bins low … high - 1.
        counts: Rows per bin, int64 (65536,), of all of them.
        place: Row of `counters` of a bin, -1 where its values are listed, int32 (65536,).
        counters: uint32 (full bins, 65536), rows per value.
        lows: uint16 (rows of the other bins,), the low bits of their values, bin by bin.
        filled: int64 (65536,), where the next value of a bin goes in `lows`.
        ends: int64 (65536,), where the room of a bin in `lows` ends.
    """

    def __init__(self, counts: NDArray[np.int64], low: int, high: int) -> None:
        self.low, self.high, self.counts = low, high, counts
        inside = np.zeros(BINS, bool)
        inside[low:high] = True
        full = inside & (2 * counts >= _COUNTER_BYTES)
        self.place = np.full(BINS, -1, np.int32)
        self.place[full] = np.arange(full.sum())
        self.counters = np.zeros((int(full.sum()), BINS), np.uint32)
        listed = np.where(inside & ~full, counts, 0)
        self.lows = np.empty(int(listed.sum()), np.uint16)
        self.filled = np.cumsum(listed) - listed
        self.ends = self.filled + listed

    def shares(self, parts: int) -> list[tuple[int, int]]:
        """The bins cut into ranges of about equal rows, one per thread."""
        below = np.cumsum(self.counts[self.low : self.high])
        cuts = self.low + np.searchsorted(below, below[-1] * np.arange(1, parts) / parts, side="left") + 1
        edges = [self.low, *np.minimum(cuts, self.high).tolist(), self.high]
        return [(a, b) for a, b in pairwise(edges) if a < b]

    def add(self, values: NDArray[np.float32], low: int, high: int) -> None:
        """Count the values of a block that lie in the bins low … high - 1; one thread at a time per bin."""
        _count_values(as_bits(values), low, high, self.place, self.counters, self.lows, self.filled, self.ends)

    def whole(self) -> bool:
        """Whether every row of the first reading was met again."""
        full = np.flatnonzero(self.place >= 0)
        again = np.array_equal(self.counters.sum(1, dtype=np.int64), self.counts[full])
        return again and np.array_equal(self.filled, self.ends)


def _read_windows(blocks: Blocks, names: Sequence[str], windows: Sequence[_Window]) -> None:
    """Fill windows over one column each; a thread owns a range of bins, so none waits for another."""
    parts = -(-cores() // len(names))
    owned = [(window, i, share) for i, window in enumerate(windows) for share in window.shares(parts)]
    with ThreadPoolExecutor(len(owned), thread_name_prefix="drawstream-count") as threads:
        running: list[Future[None]] = []
        for _, columns in columns_of(blocks, names):  # the next block is read while this one is counted
            for each in running:
                each.result()
            running = [threads.submit(window.add, columns[i], *share) for window, i, share in owned]
        for each in running:
            each.result()
    if not all(window.whole() for window in windows):
        raise ValueError("every reading must give the same rows, but they changed between two: give data that stays")


class _Walk:
    """Picks knots along the rising distinct values, for every spacing that `cdf_table` might try, at once."""

    def __init__(self, rows: int) -> None:
        gaps = [0, -(-rows // (MAX_KNOTS - 1))]  # 0: every value is a knot
        while gaps[-1] * (MAX_KNOTS - 3) < 2 * rows:  # two picks always span more than a gap: the last one fits
            gaps.append(gaps[-1] + -(-gaps[-1] // 4))
        self._gaps = np.array(gaps)
        self._last = np.zeros(4, np.int64)
        self._state = np.zeros((len(gaps), 3), np.int64)
        self._keys = np.empty((len(gaps), MAX_KNOTS + 2), np.int64)
        self._ranks = np.empty((len(gaps), MAX_KNOTS + 2), np.int64)

    def follow(self, window: _Window) -> None:
        """Go on through the values of the next window."""
        _walk(
            window.low, window.high, window.place, window.counters, window.lows, window.ends, window.counts,
            self._last, self._state, self._gaps, self._keys, self._ranks,
        )  # fmt: skip

    def table(self) -> Knots:
        """The table, once every value was met."""
        largest, rows, number, _ = self._last.tolist()
        for (count, _, picked), keys, ranks in zip(self._state.tolist(), self._keys, self._ranks, strict=True):
            if picked < number and count < MAX_KNOTS:  # the largest value is always a knot
                keys[count], ranks[count] = largest, rows
                count += 1
                picked = number
            if picked == number and count <= MAX_KNOTS:
                bits = np.array([_bits(key) for key in keys[:count].tolist()], np.uint32)
                return Knots.from_counts(bits.view(np.float32).astype(np.float64), ranks[:count].copy())
        raise AssertionError("the widest spacing fits by construction")
