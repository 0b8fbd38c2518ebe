"""Units of a block given out to sources: who gets one more than the whole part of its quota.

Notation
    quota    units of a source in a block, in parts of a unit; its rest is what is beyond whole units
    lag      the integral of the share less the units given, in parts; within (-1, 1) units at every block's end
    phase    the integral of the share beyond whole units, in parts
    hole     blocks in which a source has no share; its lag stays as it is

In a block a source gets the whole part of its quota, or one more. One more may be given since the integral has passed a
whole number, and must be given when it reaches the next one; in one block at most one. Of those that may have it, one
goes first by its future: `1` for a block in which the integral passes a whole number, `0` where it meets one and `-1`
where neither; at the first difference the larger goes first (rule PF of Baruah, Cohen, Plaxton and Varvel, Algorithmica
1996, here for shares that change). Two sources can be exchanged up to that difference: this fails only where nothing
succeeds, and without holes the integrals themselves show that something does. In a hole `holes` takes the sign's place.
"""

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from drawstream.samplers import high_product, random_bits

__all__ = ["FAR", "Segments", "count_on", "fill_turns", "give", "holds", "rank_futures"]

FAR = 1 << 50  # blocks: without end
_DEEP = 64  # whole numbers that two futures are compared for
Whole = NDArray[np.int64]


class Segments(NamedTuple):
    """Runs of blocks whose quotas are alike; a block in which shares change is a segment of its own.

    Attributes:
        firsts: First block of each, (S,).
        lengths: Blocks for which futures are compared inside it, (S,): its own, or FAR.
        quotas: Units of a block in parts, (S, G).
        wholes: Whole units of them, (S, G).
        rests: What is beyond those, (S, G).
        holes: In {-1, 0, 1}, for sources without a quota, (S, G).
        later: Ranks of the futures behind it, the larger goes first, (S, G).
        sizes: Units of the parts of a block, between which shares change; 0 behind the last one, (S, P).
        rates: Shares of each part, in parts of a unit, (S, P, G).
    """

    firsts: Whole
    lengths: Whole
    quotas: Whole
    wholes: Whole
    rests: Whole
    holes: Whole
    later: Whole
    sizes: Whole
    rates: Whole


@njit(cache=True, nogil=True)
def _compare(x: int, y: int, phases: Whole, segments: Segments, at: int, blocks: int, parts: int) -> int:
    """Above 0 where the future of source x goes before that of y, below 0 the other way round, 0 for equal ones.

    Both begin with their phases in segment `at`, of which there are `blocks` to come.
    """
    rests, later = segments.rests[at], segments.later[at]
    hole, other_hole = segments.quotas[at, x] == 0, segments.quotas[at, y] == 0
    ahead = (segments.holes[at, x] if hole else 0) - (segments.holes[at, y] if other_hole else 0)
    if ahead and blocks:
        return ahead
    a, b = phases[x], phases[y]
    for _ in range(_DEEP):
        wait, passed = _next_whole(a, rests[x], hole and segments.holes[at, x] == 0, parts)
        other, other_passed = _next_whole(b, rests[y], other_hole and segments.holes[at, y] == 0, parts)
        if min(wait, other) > blocks:
            return int(later[x] - later[y])
        if wait != other:
            return other - wait
        if passed != other_passed:
            return passed - other_passed
        a += wait * rests[x] - parts if rests[x] else 0
        b += wait * rests[y] - parts if rests[y] else 0
        blocks -= wait
    return int(rests[x] - rests[y])


@njit(cache=True, nogil=True)
def _next_whole(phase: int, rest: int, hole: bool, parts: int) -> tuple[int, int]:
    """Blocks until the integral reaches the next whole number, and whether it is passed (1) or met (0) then."""
    if rest == 0:
        return 1 if hole else FAR, 0
    wait = 1 if phase + rest >= parts else (parts - phase + rest - 1) // rest
    return wait, 1 if phase + wait * rest > parts else 0


@njit(cache=True, nogil=True)
def rank_futures(phases: Whole, segments: Segments, at: int, parts: int, ranks: Whole) -> None:
    """Write the rank of each source's future from segment `at` on into `ranks` (G,): how many it goes before."""
    for x in range(ranks.size):
        ranks[x] = 0
        for y in range(ranks.size):
            if x != y and _compare(x, y, phases, segments, at, segments.lengths[at], parts) > 0:
                ranks[x] += 1


@njit(cache=True, nogil=True)
def _spread(given: Whole, sizes: Whole, rates: Whole, parts: int) -> tuple[Whole, int]:
    """Spread the units of a block (G,) over its parts, (P, G); and how many stand where their source has no share."""
    spread, owed = np.zeros_like(rates), given.copy()
    for p in range(sizes.size):
        for g in range(given.size):
            ends = (rates[p + 1 :, g] * sizes[p + 1 :]).sum() == 0
            spread[p, g] = owed[g] if ends else min(sizes[p] * rates[p, g] // parts, owed[g])
        missing = sizes[p] - spread[p].sum()
        step = 1 if missing > 0 else -1
        for _ in range(abs(missing)):
            spread[p, _nearest(p, step, spread, owed, sizes, rates, parts)] += step
        owed -= spread[p]
    return spread, _mend(spread, rates)


@njit(cache=True, nogil=True)
def _nearest(p: int, step: int, spread: Whole, owed: Whole, sizes: Whole, rates: Whole, parts: int) -> int:
    """The source that had best get one unit more (or less) in part p: one with a share there, far from it."""
    best, most, own = -1, np.int64(0), False
    for g in range(owed.size):
        if spread[p, g] >= owed[g] if step > 0 else spread[p, g] <= 0:
            continue
        lag, shared = step * (sizes[p] * rates[p, g] - spread[p, g] * parts), rates[p, g] > 0
        if best < 0 or (shared and not own) or (shared == own and lag > most):
            best, most, own = g, lag, shared
    return best


@njit(cache=True, nogil=True)
def _mend(spread: Whole, rates: Whole) -> int:
    """Exchange units that stand where their source has no share with others; return how many are left."""
    wrong = 0
    parts, groups = spread.shape
    for p in range(parts):
        for g in range(groups):
            while rates[p, g] == 0 and spread[p, g]:
                found = False
                for other in range(parts):
                    for h in range(groups):
                        if not found and rates[p, h] and rates[other, g] and spread[other, h]:
                            spread[p, g], spread[other, g] = spread[p, g] - 1, spread[other, g] + 1
                            spread[p, h], spread[other, h] = spread[p, h] + 1, spread[other, h] - 1
                            found = True
                if not found:
                    wrong += spread[p, g]
                    break
    return wrong


@njit(cache=True, nogil=True)
def _fit(lags: Whole, wholes: Whole, sizes: Whole, rates: Whole, parts: int, given: Whole) -> None:
    """Let others have one unit more in a block with a change of shares, where the sources of a part cannot fill it."""
    wrong = _spread(given, sizes, rates, parts)[1]
    for g in range(given.size if wrong else 0):
        for h in range(given.size):
            if given[g] > wholes[g] and lags[g] < 0 and given[h] == wholes[h] and lags[h] > 0 and wrong:
                given[g], given[h] = given[g] - 1, given[h] + 1
                now = _spread(given, sizes, rates, parts)[1]
                if now < wrong:
                    wrong, lags[g], lags[h] = now, lags[g] + parts, lags[h] - parts
                else:
                    given[g], given[h] = given[g] + 1, given[h] - 1


@njit(cache=True, nogil=True)
def give(block: int, at: int, counts: Whole, lags: Whole, segments: Segments, parts: int, given: Whole) -> None:
    """Give the units of a block of segment `at` out: write them into `given` (G,), add them to counts and lags."""
    rests, left = segments.rests[at], 0
    for g in range(given.size):
        given[g] = segments.wholes[at, g]
        lags[g] += rests[g]
        left += rests[g]
    left //= parts
    blocks = segments.lengths[at]
    if blocks < FAR:
        blocks -= block - segments.firsts[at] + 1
    for _ in range(left):
        best = _next_source(at, blocks, lags, segments, parts, given)
        given[best] += 1
        lags[best] -= parts
    if segments.sizes[at, 1]:
        _fit(lags, segments.wholes[at], segments.sizes[at], segments.rates[at], parts, given)
    for g in range(given.size):
        counts[g] += given[g]


@njit(cache=True, nogil=True)
def _next_source(at: int, blocks: int, lags: Whole, segments: Segments, parts: int, given: Whole) -> int:
    """The source that is to have one unit more in a block of segment `at`, behind which `blocks` are compared."""
    quotas, wholes = segments.quotas[at], segments.wholes[at]
    best, soonest = -1, FAR
    for g in range(given.size):
        if lags[g] <= 0 or quotas[g] == 0 or given[g] > wholes[g]:
            continue
        if lags[g] >= parts:
            return g
        wait = _next_whole(lags[g], segments.rests[at, g], False, parts)[0]
        if wait != soonest and min(wait, soonest) <= blocks:
            ahead = wait < soonest
        else:
            ahead = best < 0 or _compare(g, best, lags, segments, at, blocks, parts) > 0
        if best < 0 or ahead:
            best, soonest = g, wait
    if best < 0:  # the law cannot hold: the least harm
        for g in range(given.size):
            if quotas[g] > 0 and (best < 0 or lags[g] > lags[best]):
                best = g
    return best


@njit(cache=True, nogil=True)
def count_on(kept: NDArray[np.int64], first: int, every: int, at: int, segments: Segments, parts: int) -> None:
    """Write counts and lags before each `every`-th block behind `first`, whose own all of `kept` (n, 2, G) hold."""
    counts, lags = kept[0, 0].copy(), kept[0, 1].copy()
    given = np.empty_like(counts)
    for i in range(len(kept)):
        for block in range(first + i * every, first + (i + 1) * every):
            give(block, at, counts, lags, segments, parts, given)
        kept[i, 0], kept[i, 1] = counts, lags


@njit(cache=True, nogil=True)
def holds(first: int, last: int, at: int, counts: Whole, lags: Whole, segments: Segments, parts: int) -> bool:
    """Whether the blocks first … last - 1 of a segment keep the law; they are added to counts and lags."""
    given = np.empty_like(counts)
    for block in range(first, last):
        give(block, at, counts, lags, segments, parts, given)
        for g in range(given.size):
            if abs(lags[g]) >= parts or abs(given[g] * parts - segments.quotas[at, g]) > parts:
                return False
        if segments.sizes[at, 1] and _spread(given, segments.sizes[at], segments.rates[at], parts)[1]:
            return False
    return True


@njit(cache=True, nogil=True)
def fill_turns(
    counts: Whole,
    lags: Whole,
    keys: NDArray[np.uint64],
    start: int,
    at: int,
    segments: Segments,
    parts: int,
    sources: NDArray[np.int32],
    numbers: Whole,
) -> None:
    """Write sources and numbers (n,) of the units from `start` on; counts and lags are those before its block."""
    size = segments.sizes[0].sum()
    order = np.empty(size, dtype=np.int32)
    given, last = np.empty_like(counts), start + sources.size
    for block in range(start // size, (last - 1) // size + 1):
        while at + 1 < len(segments.firsts) and segments.firsts[at + 1] <= block:
            at += 1
        first, unit = counts.copy(), block * size
        give(block, at, counts, lags, segments, parts, given)
        spread = given.reshape(1, -1)
        if segments.sizes[at, 1]:
            spread = _spread(given, segments.sizes[at], segments.rates[at], parts)[0]
        for p in range(len(spread)):
            done = 0
            for g in range(given.size):
                order[done : done + spread[p, g]] = g
                done += spread[p, g]
            for i in range(done - 1, 0, -1):
                other = np.int64(high_product(random_bits(unit + i, keys[0], keys[1]), np.uint64(i + 1)))
                order[i], order[other] = order[other], order[i]
            for i in range(done):
                place, g = unit + i - start, order[i]
                if 0 <= place < sources.size:
                    sources[place], numbers[place] = g, first[g]
                first[g] += 1
            unit += done
