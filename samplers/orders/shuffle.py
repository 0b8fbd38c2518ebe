"""A keyed permutation of positions: any place of a shuffled epoch in O(1), with no list of the epoch.

Notation
    n      int              size of the permuted range [0, n)
    b      int              bits of n - 1; the bijection lives on [0, 2^b), and n > 2^(b-1)
    a, c   uint64 (R,)      odd multiplier and addend of each round
    x      uint64           a position on its way to its place

One round is x <- (a x + c) mod 2^b, then x <- x ^ (x >> ceil(b / 2)): the product carries low bits up, the shift
brings high bits down, and each step can be undone, so R rounds are a bijection of [0, 2^b). A place outside [0, n) is
sent through again until it falls inside (cycle walking, Black and Rogaway, CT-RSA 2002), which keeps the bijection
and costs fewer than two walks on average. Ranges of up to 1024 are shuffled exactly (Fisher-Yates) into a small
table instead: on few bits the rounds have too few outcomes to look like all n! orders.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from drawstream.samplers import derive_keys, high_product, random_bits

__all__ = ["Shuffle", "keyed_shuffle"]

EXACT_SIZE = 1024  # 8 KiB, within the first-level cache
ROUNDS = 6  # 3 and 4 fail chi-square tests on pairs and differences below 20 000 positions, 6 pass from 257 on
_BLOCK = 2048  # positions walked together, so that each loop is free of branches
_ONE = np.uint64(1)


@dataclass(frozen=True, slots=True)
class Shuffle:
    """One permutation of [0, size), addressed by position."""

    size: int  # number of positions
    keys: NDArray[np.uint64]  # (2, rounds): multipliers (odd) and addends; (2, 0) where a table holds the permutation
    table: NDArray[np.int64]  # (size,) for small sizes, else (0,)

    def fill(self, start: int, out: NDArray[np.int64], /) -> None:
        """Write the places of positions start, start + 1, … into `out` (int64)."""
        if self.table.size:
            out[:] = self.table[start : start + out.size]
        else:
            permute(start, self.size, (self.size - 1).bit_length(), self.keys, out)


def keyed_shuffle(size: int, /, *parts: int | str) -> Shuffle:
    """Return the permutation of [0, size) that belongs to key parts (see `derive_keys`)."""
    if size <= EXACT_SIZE:
        table = np.arange(size, dtype=np.int64)
        key0, key1 = derive_keys(2, "exact shuffle", *parts)
        shuffle_exactly(key0, key1, table)
        return Shuffle(size, np.empty((2, 0), dtype=np.uint64), table)
    keys = derive_keys(2 * ROUNDS, "shuffle", *parts).reshape(2, ROUNDS)
    keys[0] |= _ONE
    return Shuffle(size, keys, np.empty(0, dtype=np.int64))


@njit(cache=True, nogil=True)
def shuffle_exactly(key0: Any, key1: Any, table: NDArray[np.int64]) -> None:
    """Shuffle `table` (n,) in place, every order equally likely over the keys (Fisher-Yates, Durstenfeld 1964)."""
    for last in range(table.size - 1, 0, -1):
        other = np.int64(high_product(random_bits(last, key0, key1), np.uint64(last + 1)))
        table[last], table[other] = table[other], table[last]


@njit(cache=True, nogil=True)
def permute(start: int, size: int, bits: int, keys: NDArray[np.uint64], out: NDArray[np.int64]) -> None:
    """Write the places of positions start, start + 1, … under the rounds of `keys` (2, R) into `out` (int64)."""
    rounds = keys.shape[1]
    limit = np.uint64(size)
    mask = (_ONE << np.uint64(bits)) - _ONE
    fold = np.uint64((bits + 1) // 2)
    outside = np.empty(_BLOCK, dtype=np.int32)
    for low in range(0, out.size, _BLOCK):
        width = min(_BLOCK, out.size - low)
        x = out[low : low + width].view(np.uint64)
        for i in range(width):
            x[i] = np.uint64(start + low + i)
        for r in range(rounds):
            multiplier, addend = keys[0, r], keys[1, r]
            for i in range(width):
                y = (x[i] * multiplier + addend) & mask
                x[i] = y ^ (y >> fold)
        count = np.int64(0)
        for i in range(width):
            outside[count] = i
            count += np.int64(x[i] >= limit)
        while count > 0:
            still = np.int64(0)
            for j in range(count):
                i = outside[j]
                y = x[i]
                for r in range(rounds):
                    y = (y * keys[0, r] + keys[1, r]) & mask
                    y ^= y >> fold
                x[i] = y
                outside[still] = i
                still += np.int64(y >= limit)
            count = still
