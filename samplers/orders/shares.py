"""Turns of several sources: whose each unit is, by shares that hold to within one unit in every block.

Notation
    G     sources; a unit is a draw, or a batch of draws
    q_g   quota of source g in a block of units (1024 draws): the integral of its share, in parts of a unit
    C_g   units of source g before a block, int64 (G,)
    lag   the integral of the share so far less C_g, in parts of a unit, int64 (G,)

Each block gives source g either floor(q_g) or ceil(q_g) units, and the lag stays within one unit at every block's end
(`turns`). Within a block the units are shuffled; where the shares change inside one, each side of the change by itself.

While the share of a source is zero, its lag stays. Comparing sources in pairs cannot tell what the lag had better be
then: the blocks after each change are tried at set-up, with other values of `holes` until the law holds in them.

All is a pure function of shares, keys and unit. Counts are kept before every 256th block and found again from there;
shares with a small common denominator repeat, so that any block is as near as the first, and so it is after each step.
"""

from bisect import bisect_right
from collections.abc import Sequence
from fractions import Fraction
from math import gcd, lcm

import numpy as np
from numpy.typing import NDArray

from drawstream.samplers import random_bits
from drawstream.samplers.orders.turns import FAR, Segments, count_on, fill_turns, give, holds, rank_futures

__all__ = ["BLOCK", "Shares"]

BLOCK = 1024
_KEPT = 256  # blocks between two counts that are kept
_NEAR = 1024  # blocks before a change that look beyond it
_TRIED, _TRIES = 256, 100  # blocks after a change that are tried, and how many values of holes
_FAR = 1 << 26  # blocks that are counted, of shares that do not repeat: some seconds
_FINE, _SMALL = 1 << 40, 1 << 16  # parts of a unit, by default; the largest common denominator that is looked for
Whole = NDArray[np.int64]
Run = tuple[int, int, list[tuple[int, int]]]  # first block, last block, and the parts of each: units, row of shares


class Shares:
    """Shares of G sources, constant between given units.

    Args:
        shares: float64 (K, G), finite, >= 0, each row with a positive sum.
        ends: The unit at which each row but the last one ends, increasing, (K - 1,).
        block: Units of a block.

    Attributes:
        block: Units of a block.
        shares: float64 (K, G), each row sums to 1.
        sound: Whether the law holds in all blocks that were tried.
    """

    def __init__(self, shares: NDArray[np.float64], ends: Sequence[int] = (), /, block: int = BLOCK) -> None:
        self.block = block
        self.shares = shares / shares.sum(1, keepdims=True)
        exact = [[Fraction(float(share)).limit_denominator(_SMALL) for share in row] for row in self.shares]
        parts = lcm(*(share.denominator for row in exact for share in row))
        near = np.abs(np.array(exact, dtype=np.float64) - self.shares).max() < 1e-15
        self._parts = parts if parts <= _SMALL and near and all(sum(row) == 1 for row in exact) else _FINE
        self._ends = np.array([*ends, np.iinfo(np.int64).max], dtype=np.int64)
        self._rates = np.stack([_whole_parts(row, self._parts) for row in self.shares])
        runs = _runs(self._ends[:-1].tolist(), block)
        self._rows = [parts_of[0][1] for _, _, parts_of in runs]
        self._begins, self._stops = [run[0] for run in runs], [run[1] for run in runs]
        self._segments = _segments(runs, self._rates, self._parts)
        self._periods = [
            self._parts // gcd(self._parts, *row) if far == FAR else FAR
            for row, far in zip(self._segments.quotas.tolist(), self._segments.lengths.tolist(), strict=True)
        ]
        self._forget()
        self.sound = self._settle()

    def _forget(self) -> None:
        self._starts = {0: np.zeros((2, self.shares.shape[1]), dtype=np.int64)}  # C and lag before each segment
        self._kept: dict[int, NDArray[np.int64]] = {}  # of each C and lag before its blocks 0, 256, …, (n, 2, G)
        self._cycles: dict[int, int | None] = {0: 0}  # of each the block from which on its lags repeat

    def _settle(self) -> bool:
        """Rank the futures behind each segment; choose values of holes with which the blocks that are tried hold."""
        segments = self._segments
        phases = np.zeros_like(segments.quotas)
        for k in range(len(phases) - 1):
            rest = (int(quota) * (self._stops[k] - self._begins[k]) % self._parts for quota in segments.quotas[k])
            phases[k + 1] = (phases[k] + np.array([*rest])) % self._parts
        certain = not ((segments.quotas == 0) & (phases > 0)).any() and (segments.rates[segments.sizes > 0] > 0).all()
        key = np.uint64(0)
        for attempt in [*range(_TRIES), 0]:
            bits = [random_bits(i, np.uint64(attempt), key) for i in range(self.shares.size)] if attempt else [1]
            drawn = np.broadcast_to(np.array(bits, dtype=np.uint64) % 3, self.shares.size).astype(np.int64) - 1
            holes, later = drawn.reshape(self.shares.shape)[self._rows], np.zeros_like(phases)
            self._segments = segments._replace(holes=holes, later=later)
            for k in range(len(phases) - 1, 0, -1):
                rank_futures(phases[k], self._segments, k, self._parts, later[k - 1])
            self._forget()
            if certain or self._tried():
                return True
        return False

    def _tried(self) -> bool:
        """Whether the first blocks of all segments keep the law."""
        for k, (begin, stop) in enumerate(zip(self._begins, self._stops, strict=True)):
            counts, lags = self._start(k).copy()
            last = min(stop, begin + _TRIED)
            if not holds(begin, last, k, counts, lags, self._segments, self._parts):
                return False
            if last == stop:
                self._starts[k + 1] = np.stack([counts, lags])
        return True

    def counts(self, block: int, /) -> tuple[Whole, Whole]:
        """Return C and lag before a block.

        Raises:
            ValueError: The block is too far to be counted up to, and the shares do not repeat.
        """
        k = bisect_right(self._begins, block) - 1
        at, period, turns = block - self._begins[k], self._periods[k], 0
        if period <= _SMALL and at > 2 * period and (start := self._cycle(k)) is not None:
            turns, at = divmod(at - start, period)
            at += start
        if at > _FAR:
            raise ValueError(
                f"a mixture of the shares {self.shares[self._rows[k]].tolist()}, which have no small common "
                f"denominator, is counted up to {_FAR * self.block} draws, "
                f"but got {block * self.block}: round the shares"
            )
        counts, lags = self._state(k, at)
        return counts + turns * (self._segments.quotas[k] // (self._parts // period) if turns else 0), lags

    def _cycle(self, k: int) -> int | None:
        """The block of a segment from which on its lags repeat with its period; None if they do not soon."""
        if k not in self._cycles:
            lags = [self._state(k, turn * self._periods[k])[1] for turn in range(3)]
            same = [i for i in range(2) if np.array_equal(lags[i], lags[i + 1])]
            self._cycles[k] = same[0] * self._periods[k] if same else None
        return self._cycles[k]

    def _start(self, k: int) -> NDArray[np.int64]:
        """C and lag before a segment, (2, G)."""
        for j in range(1, k + 1) if k not in self._starts else ():
            if j not in self._starts:
                counts, lags = self.counts(self._begins[j] - 1)
                give(self._begins[j] - 1, j - 1, counts, lags, self._segments, self._parts, np.empty_like(counts))
                self._starts[j] = np.stack([counts, lags])
        return self._starts[k]

    def _state(self, k: int, at: int) -> tuple[Whole, Whole]:
        """C and lag before a block of a segment, counted from its first."""
        begin, kept = self._begins[k], self._kept.get(k)
        kept = self._start(k)[None] if kept is None else kept
        missing = at // _KEPT + 1 - len(kept)
        if missing > 0:
            more = np.repeat(kept[-1:], missing, axis=0)
            count_on(more, begin + (len(kept) - 1) * _KEPT, _KEPT, k, self._segments, self._parts)
            kept = np.concatenate([kept, more])
        self._kept[k] = kept  # replaced, never changed: other threads read it
        counts, lags = kept[at // _KEPT].copy()
        given = np.empty_like(counts)
        for block in range(begin + at // _KEPT * _KEPT, begin + at):
            give(block, k, counts, lags, self._segments, self._parts, given)
        return counts, lags

    def fill(self, keys: NDArray[np.uint64], start: int, sources: NDArray[np.int32], numbers: Whole, /) -> None:
        """Write whose the units start, start + 1, … are, and their numbers among those of that source, both (n,)."""
        block = start // self.block
        counts, lags = self.counts(block)
        at = bisect_right(self._begins, block) - 1
        fill_turns(counts, lags, keys, start, at, self._segments, self._parts, sources, numbers)

    def before(self, keys: NDArray[np.uint64], unit: int, /) -> Whole:
        """Return the units that each source has before a unit, int64 (G,)."""
        counts, size = self.counts(unit // self.block)[0], unit % self.block
        sources, numbers = np.empty(size, dtype=np.int32), np.empty(size, dtype=np.int64)
        self.fill(keys, unit - size, sources, numbers)
        return counts + np.bincount(sources, minlength=counts.size)

    def at(self, units: Whole, /) -> NDArray[np.float64]:
        """Return the shares at units (n,), float64 (n, G)."""
        shares: NDArray[np.float64] = self.shares[self.rows_at(units)]
        return shares

    def rows_at(self, units: Whole, /) -> NDArray[np.int64]:
        """Return which row of `shares` holds at units (n,), int64 (n,)."""
        return np.searchsorted(self._ends, units, side="right")


def _whole_parts(shares: NDArray[np.float64], parts: int) -> Whole:
    """Shares (G,) as whole parts that sum to all: rounded down, what is left goes to the largest remainders."""
    exact = shares * parts
    whole = np.rint(exact).astype(np.int64) if parts < _FINE else np.floor(exact).astype(np.int64)
    largest = np.argsort(whole - exact, kind="stable")
    whole[largest[: parts - whole.sum()]] += 1
    return whole


def _runs(ends: list[int], size: int) -> list[Run]:
    """Blocks with the same parts, in order; the last ones of many before a change apart."""
    runs, start = list[Run](), 0
    opened: list[tuple[int, int]] = []  # parts of a block that is not full
    for k, end in enumerate([*ends, FAR * size]):
        if opened and end > start:
            units = min(end - start, size - sum(part[0] for part in opened))
            opened.append((units, k))
            start += units
            if start % size == 0:
                runs.append((start // size - 1, start // size, opened))
                opened = []
        first, last = start // size, max(start, end) // size
        if not opened and last > first:
            cut = last - _NEAR if last - first > 2 * _NEAR and k < len(ends) else last
            runs += [(a, b, [(size, k)]) for a, b in ((first, cut), (cut, last)) if b > a]
            start = last * size
        if not opened and end > start:
            opened, start = [(end - start, k)], end
    return runs


def _segments(runs: list[Run], rates: Whole, parts: int) -> Segments:
    """The runs as arrays; ranks and holes are zero."""
    most, groups = max(2, *(len(run[2]) for run in runs)), rates.shape[1]
    sizes = np.zeros((len(runs), most), dtype=np.int64)
    of_part = np.zeros((len(runs), most, groups), dtype=np.int64)
    lengths = np.array([stop - first for first, stop, _ in runs])
    for i, (_, _, each) in enumerate(runs):
        sizes[i, : len(each)] = [units for units, _ in each]
        of_part[i, : len(each)] = rates[[k for _, k in each]]
        if i + 1 == len(runs) or runs[i + 1][2] == each:
            lengths[i] = FAR
    quotas = (sizes[:, :, None] * of_part).sum(1)
    wholes, zero = quotas // parts, np.zeros_like(quotas)
    firsts = np.array([run[0] for run in runs])
    return Segments(firsts, lengths, quotas, wholes, quotas - wholes * parts, zero, zero, sizes, of_part)
