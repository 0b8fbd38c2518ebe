"""Weighted subsets: M distinct rows an epoch, heavy rows first (an exponential race, known too as Gumbel top-M).

Notation
    E_i     float64   standard exponential, a function of (seed, epoch, row)
    key_i   float64   E_i / P_i: the time at which row i arrives; the first M to arrive are the epoch's rows
    tau     float64   arrival of the first row left out; infinite when every positive row is in
    chosen  uint64    bitmap (ceil(N / 512) * 8 words): bit i set when row i is in

The order of arrival is that of successive draws without replacement (Efraimidis and Spirakis 2006; Vieira 2014). Rows
are not kept as a list: position t of the epoch is a rank pi(t) under a keyed permutation, found in the bitmap through
block counts. Given tau, row i is in with probability 1 - exp(-P_i tau), so the weight (M / N) / (1 - exp(-P_i tau))
leaves means unbiased (rank conditioning: Cohen and Kaplan, PODC 2007; Duffield, Lund, Thorup 2007). It tends to
1 / (N P_i) for small M / N and to 1 when all rows are in. Single P_i cannot serve here: without replacement a row's
share of the epoch is capped at 1.

Set-up is two passes over the rows for every epoch: one counts arrivals by their leading float bits, one marks the early
ones and sorts the few at the limit. The logarithm is a series in +, *, / alone, so the order is the same everywhere.

Memory: 8 bytes per row for P, a quarter byte for bitmap and counts.
"""

from functools import partial
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from drawstream.samplers import count_ones, derive_keys, digest_array, map_pieces, random_bits, sum_exactly
from drawstream.samplers.orders.guide import build_guide, locate
from drawstream.samplers.orders.order import Draws
from drawstream.samplers.orders.shuffle import Shuffle
from drawstream.samplers.orders.window import Windows, arrange

__all__ = ["Subset"]

_Tables = tuple[NDArray[np.uint64], NDArray[np.int64], NDArray[np.int32], int]
_WORDS = 8  # words of the bitmap per block, one cache line
_MANY_ROWS = 1 << 16  # from here on bins of 1/64 octave (18 leading bits of a float64), below 1/4 octave (14 bits)
_MANTISSA = np.int64((1 << 52) - 1)
_EXPONENT_ONE = np.int64(1023 << 52)


class Subset:
    """The subset law of M draws over checked weights, float32 or float64 (N,); the race is run for each epoch.

    Raises:
        ValueError: M exceeds the number of rows with positive weight.
    """

    __slots__ = ("draws", "p", "positive", "rows", "window")

    def __init__(self, weights: NDArray[np.floating[Any]], draws: int, window: int = 0, /) -> None:
        self.rows, self.draws, self.window = weights.size, draws, window
        self.p: NDArray[np.float64] = np.divide(weights, float(weights.max()), dtype=np.float64)
        self.p /= sum_exactly(self.p)
        self.positive = int(np.count_nonzero(self.p))
        if draws > self.positive:
            raise ValueError(
                f"draws <= rows with positive weight must hold in mode 'subset', but got {draws} draws and "
                f"{self.positive} such rows (of {self.rows}): draw fewer, or use mode 'stratified'"
            )

    @property
    def nbytes(self) -> int:
        """Bytes held between epochs."""
        return self.p.nbytes

    def digest(self) -> str:
        """Return the hash of the law."""
        return digest_array(self.p)

    def draw_epoch(self, seed: int, epoch: int, /) -> Draws:
        """Run the race of one epoch."""
        keys = derive_keys(2, "subset", seed, epoch)
        chosen = np.zeros(-(-self.rows // (64 * _WORDS)) * _WORDS, dtype=np.uint64)
        tau = self._mark(keys, chosen)
        starts = np.empty(chosen.size // _WORDS, dtype=np.int64)
        count_blocks(chosen, starts)
        ranks = arrange(self.draws, self.window, "subset", seed, epoch)
        tables = chosen, starts, *build_guide(starts, self.draws)
        return Draws(partial(self._fill, ranks, tables), partial(self._importance, tau))

    def _fill(self, ranks: Shuffle | Windows, tables: _Tables, start: int, out: NDArray[np.int64]) -> None:
        ranks.fill(start, out)
        select_rows(*tables, out)

    def _importance(self, tau: float, _start: int, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return (M / N) / (probability that the row is in, given tau): 1 / (N P) of a draw without replacement."""
        return (self.draws / self.rows / -np.expm1(-self.p[rows] * tau)).astype(np.float32)

    def _mark(self, keys: NDArray[np.uint64], chosen: NDArray[np.uint64]) -> float:
        """Set the bits of the first M rows to arrive; return the arrival of the next one."""
        shift = 46 if self.rows >= _MANY_ROWS else 50
        counts = sum(map_pieces(self.rows, lambda i, j: count_arrivals(i, self.p[i:j], keys, shift)))
        assert isinstance(counts, np.ndarray)
        before = np.cumsum(counts)
        # The bin of the first row left out; past every bin when no positive row is left out.
        limit = int(np.searchsorted(before, self.draws, side="right"))
        late = map_pieces(self.rows, lambda i, j: mark_early(i, self.p[i:j], keys, shift, limit, chosen[i // 64 :]))
        if limit == counts.size:
            return np.inf
        rows, arrivals = np.concatenate([row for row, _ in late]), np.concatenate([arrival for _, arrival in late])
        missing = self.draws - (int(before[limit]) - rows.size)
        by_arrival = np.argsort(arrivals, kind="stable")
        early = rows[by_arrival[:missing]].astype(np.uint64)
        np.bitwise_or.at(chosen, early >> np.uint64(6), np.uint64(1) << (early & np.uint64(63)))
        return float(arrivals[by_arrival[missing]])


@njit(cache=True, nogil=True)
def exponential(row: int, keys: NDArray[np.uint64]) -> Any:
    """Return the standard exponential of a row: -log of a uniform number in (0, 1], to about 1e-15 relative."""
    bits = random_bits(row, keys[0], keys[1]) >> np.uint64(11)
    pattern = np.float64((np.float64(bits) + 1.0) * 2.0**-53).view(np.int64)
    exponent = (pattern >> np.int64(52)) - np.int64(1023)
    mantissa = np.int64((pattern & _MANTISSA) | _EXPONENT_ONE).view(np.float64)
    if mantissa > 1.4142135623730951:
        mantissa *= 0.5
        exponent += np.int64(1)
    s = (mantissa - 1.0) / (mantissa + 1.0)
    z = s * s
    series = 1.0 / 19.0
    for odd in (17.0, 15.0, 13.0, 11.0, 9.0, 7.0, 5.0, 3.0, 1.0):  # atanh(s) / s
        series = series * z + 1.0 / odd
    return -(exponent * 0.6931471805599453 + 2.0 * s * series)


@njit(cache=True, nogil=True)
def count_arrivals(first: int, p: NDArray[np.float64], keys: NDArray[np.uint64], shift: int) -> NDArray[np.int64]:
    """Count the positive rows first, first + 1, … by the leading bits of their arrival."""
    counts = np.zeros(1 << (63 - shift), dtype=np.int64)
    for i in range(p.size):
        if p[i] > 0.0:
            counts[np.float64(exponential(first + i, keys) / p[i]).view(np.int64) >> shift] += 1
    return counts


@njit(cache=True, nogil=True)
def mark_early(
    first: int, p: NDArray[np.float64], keys: NDArray[np.uint64], shift: int, limit: int, chosen: NDArray[np.uint64]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Set the bits of the rows first, first + 1, … that arrive in bins before `limit`; `first` is a multiple of 64.

    The bin of an arrival is its float bits, shifted right; that of the first row left out is `limit`. Return the rows
    of this bin, and their arrivals. The bitmap `chosen` begins with the word of the first row.
    """
    rows = np.empty(p.size, dtype=np.int64)
    arrivals = np.empty(p.size, dtype=np.float64)
    late = 0
    for i in range(p.size):
        if p[i] > 0.0:
            arrival = np.float64(exponential(first + i, keys) / p[i])
            leading = arrival.view(np.int64) >> shift
            if leading < limit:
                chosen[i >> 6] |= np.uint64(1) << np.uint64(i & 63)
            elif leading == limit:
                rows[late] = first + i
                arrivals[late] = arrival
                late += 1
    return rows[:late].copy(), arrivals[:late].copy()


@njit(cache=True, nogil=True)
def count_blocks(chosen: NDArray[np.uint64], starts: NDArray[np.int64]) -> None:
    """Write the number of chosen rows before each block of 512."""
    total = np.int64(0)
    for block in range(starts.size):
        starts[block] = total
        for word in range(block * _WORDS, (block + 1) * _WORDS):
            total += np.int64(count_ones(chosen[word]))


@njit(cache=True, nogil=True)
def select_rows(
    chosen: NDArray[np.uint64],
    starts: NDArray[np.int64],
    guide: NDArray[np.int32],
    shift: int,
    ranks: NDArray[np.int64],
) -> None:
    """Turn ranks (n,) among the chosen rows into row numbers, in place."""
    for i in range(ranks.size):
        block = locate(ranks[i], starts, guide, shift)
        left = np.uint64(ranks[i] - starts[block])
        at = block * _WORDS
        count = count_ones(chosen[at])
        while left >= count:
            left -= count
            at += 1
            count = count_ones(chosen[at])
        word = chosen[at]
        row = np.uint64(at) << np.uint64(6)
        half = np.uint64(32)
        while half > np.uint64(0):  # which half of the word holds the bit, and so on down
            count = count_ones(word & ((np.uint64(1) << half) - np.uint64(1)))
            if left >= count:
                left -= count
                word >>= half
                row += half
            half >>= np.uint64(1)
        ranks[i] = np.int64(row)
