"""Turns of several sources: whose each unit is, by shares that hold to within one unit in every block.

Notation
    G     sources; a unit is a draw, or a batch of draws
    q_g   quota of source g in a block of units (1024 draws): the integral of its share, in parts of a unit
    C_g   units of source g before a block, int64 (G,)
    lag   the integral of the share so far less C_g, in parts of a unit, int64 (G,)

Each block gives source g either floor(q_g) or ceil(q_g) units. Who gets one more is decided as for periodic tasks on
several processors (Baruah, Cohen, Plaxton and Varvel, Algorithmica 1996): of those that lag behind, the one whose lag
would reach a unit first. So the lag stays within one unit at every block's end; where the shares of four or more
sources jump, it can pass that for some blocks (by up to a third of a unit in 7 000 random schedules, in 5 of 1 000 of
them). Within a block the units are shuffled; where the shares change inside one, on each side of the change apart.

All is a pure function of shares, keys and unit. Counts are kept before every 256th block and found again from there;
shares with a small common denominator repeat, so that any block is as near as the first, and so it is after each step.
"""

from bisect import bisect_right
from collections.abc import Sequence
from fractions import Fraction
from math import gcd, lcm

import numpy as np
from numba import njit
from numpy.typing import NDArray

from drawstream.samplers import high_product, random_bits

__all__ = ["BLOCK", "Shares"]

BLOCK = 1024
_KEPT = 256  # blocks between two counts that are kept
_FAR = 1 << 26  # blocks that are counted, of shares that do not repeat: some seconds
_FINE, _SMALL = 1 << 40, 1 << 16  # parts of a unit, by default; the largest common denominator that is looked for
Whole = NDArray[np.int64]


class Shares:
    """Shares of G sources, constant between given units.

    Args:
        shares: float64 (K, G), finite, >= 0, each row with a positive sum.
        ends: The unit at which each row but the last one ends, increasing, (K - 1,).
        block: Units of a block.
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
        self._begins = [0, *(-(-int(end) // block) for end in ends)]  # first whole block of each row
        self._periods = [self._parts // gcd(self._parts, *(block * int(rate) for rate in row)) for row in self._rates]
        self._kept: dict[int, NDArray[np.int64]] = {}  # of each row C and lag before its blocks 0, 256, …, (n, 2, G)
        self._cycles: dict[int, int | None] = {0: 0}  # of each row the block from which on its lags repeat

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
                f"a mixture of the shares {self.shares[k].tolist()}, which have no small common denominator, is "
                f"counted up to {_FAR * self.block} draws, but got {block * self.block}: round the shares"
            )
        counts, lags = self._state(k, at)
        return counts + turns * (period * self.block * self._rates[k] // self._parts), lags

    def _cycle(self, k: int) -> int | None:
        """The block of a row of shares from which on its lags repeat with its period; None if they do not soon."""
        if k not in self._cycles:
            lags = [self._state(k, turn * self._periods[k])[1] for turn in range(3)]
            same = [i for i in range(2) if np.array_equal(lags[i], lags[i + 1])]
            self._cycles[k] = same[0] * self._periods[k] if same else None
        return self._cycles[k]

    def _state(self, k: int, at: int) -> tuple[Whole, Whole]:
        """C and lag before a block of a row of shares, counted from the row's first whole block."""
        begin, kept = self._begins[k], self._kept.get(k)
        if kept is None:
            counts, lags = np.zeros((2, self.shares.shape[1]), dtype=np.int64)
            if begin:
                counts, lags = self.counts(begin - 1)
                _pass(begin - 1, counts, lags, self.block, self._ends, self._rates, self._parts)
            kept = np.stack([counts, lags])[None]
        missing = at // _KEPT + 1 - len(kept)
        if missing > 0:
            more = np.repeat(kept[-1:], missing, axis=0)
            first = begin + (len(kept) - 1) * _KEPT
            _count_on(more, first, self.block, self._ends, self._rates, self._parts)
            kept = np.concatenate([kept, more])
        self._kept[k] = kept  # replaced, never changed: other threads read it
        counts, lags = kept[at // _KEPT].copy()
        for block in range(begin + at // _KEPT * _KEPT, begin + at):
            _pass(block, counts, lags, self.block, self._ends, self._rates, self._parts)
        return counts, lags

    def fill(self, keys: NDArray[np.uint64], start: int, sources: NDArray[np.int32], numbers: Whole, /) -> None:
        """Write whose the units start, start + 1, … are, and their numbers among those of that source, both (n,)."""
        counts, lags = self.counts(start // self.block)
        fill_turns(counts, lags, keys, start, self.block, self._ends, self._rates, self._parts, sources, numbers)

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


@njit(cache=True, nogil=True)
def _turn(counts: Whole, lags: Whole, size: int, rates: Whole, parts: int) -> Whole:
    """Give `size` units out by rates (G,); add them to C, and what is owed to the lags; return them, (G,)."""
    quota = size * rates
    given = quota // parts
    rest = quota - given * parts
    lags += rest
    for _ in range(size - given.sum()):
        best, soonest = -1, np.int64(0)
        for g in range(given.size):
            if rest[g] == 0:
                continue
            wait = (parts - lags[g] - 1) // rest[g] if lags[g] < parts else np.int64(-1)  # blocks until it lags by one
            if lags[g] <= 0:
                wait = np.int64(1) << 60
            if best < 0 or wait < soonest or (wait == soonest and rest[g] > rest[best]):
                best, soonest = g, wait
        given[best] += 1
        lags[best] -= parts
        rest[best] = 0  # at most one each
    counts += given
    return given


@njit(cache=True, nogil=True)
def _pass(block: int, counts: Whole, lags: Whole, size: int, ends: Whole, rates: Whole, parts: int) -> None:
    """Give the units of a block out; where shares change within it, each part by its own."""
    unit, stop = block * size, (block + 1) * size
    at = np.searchsorted(ends, unit, side="right")
    while unit < stop:
        until = min(stop, ends[at])
        _turn(counts, lags, until - unit, rates[at], parts)
        unit, at = until, at + 1


@njit(cache=True, nogil=True)
def _count_on(kept: NDArray[np.int64], first: int, size: int, ends: Whole, rates: Whole, parts: int) -> None:
    """Write C and lag before every 256th block after the block `first`, whose own all of `kept` (n, 2, G) hold."""
    counts, lags = kept[0, 0].copy(), kept[0, 1].copy()
    for i in range(len(kept)):
        for block in range(first + i * _KEPT, first + (i + 1) * _KEPT):
            _pass(block, counts, lags, size, ends, rates, parts)
        kept[i, 0], kept[i, 1] = counts, lags


@njit(cache=True, nogil=True)
def fill_turns(
    counts: Whole,
    lags: Whole,
    keys: NDArray[np.uint64],
    start: int,
    size: int,
    ends: Whole,
    rates: Whole,
    parts: int,
    sources: NDArray[np.int32],
    numbers: Whole,
) -> None:
    """Write sources and numbers (n,) of the units from `start` on; C and lag are those before its block."""
    order = np.empty(size, dtype=np.int32)
    unit, last = start // size * size, start + sources.size
    at = np.searchsorted(ends, unit, side="right")
    while unit < last:
        until = min((unit // size + 1) * size, ends[at])
        first = counts.copy()
        given = _turn(counts, lags, until - unit, rates[at], parts)
        done = 0
        for g in range(given.size):
            order[done : done + given[g]] = g
            done += given[g]
        for i in range(done - 1, 0, -1):
            other = np.int64(high_product(random_bits(unit + i, keys[0], keys[1]), np.uint64(i + 1)))
            order[i], order[other] = order[other], order[i]
        for i in range(done):
            place, g = unit + i - start, order[i]
            if 0 <= place < sources.size:
                sources[place], numbers[place] = g, first[g]
            first[g] += 1
        unit = until
        if until == ends[at]:
            at += 1
