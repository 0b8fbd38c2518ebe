"""Multinomial draws: M independent rows, each row i with probability P_i, in O(1) and without state.

Notation
    width   int64 (N,)    N P_i in units of 2^-k (`integer_widths`); they sum to N 2^k exactly
    column  int in [0, N) one of N equal boxes of the alias table, each holding at most two rows
    entry   uint64 (N,)   (threshold << b) | alias, b the bits of N - 1: below the threshold the column's own row,
                          from it on the alias

Alias method (Walker 1977) over integers, filled by two rising pointers without stacks (sweeping: Hübschle-Schneider
and Sanders, ACM TOMS 2022). Integers leave no remainder, so a row of weight 0 is never drawn. Position t draws from 64
bits of its own: their product with N gives the column (upper half) and the point within it (lower half), so no column
is favoured by more than N 2^-64, at 10^8 rows too.

Memory: 8 bytes per row for the table, which is made where the widths lay, 4 for the weights 1 / (N P).
"""

from functools import partial
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from drawstream.samplers import derive_keys, digest_array, integer_widths, map_pieces, random_bits
from drawstream.samplers.orders.order import Draws

__all__ = ["Multinomial"]

_BATCH = 256  # draws worked on together


class Multinomial:
    """Tables of the multinomial law of M draws, built once from checked weights, float32 or float64 (N,).

    Raises:
        ValueError: 2^32 rows or more.
    """

    __slots__ = ("bits", "digits", "draws", "inverse", "rows", "table")

    def __init__(self, weights: NDArray[np.floating[Any]], draws: int, /) -> None:
        self.rows, self.draws = weights.size, draws
        if self.rows >= 1 << 32:
            raise ValueError(
                f"rows < 2**32 must hold in mode 'multinomial', but got {self.rows}: use mode 'stratified'"
            )
        widths = np.empty(self.rows, dtype=np.int64)
        self.digits = integer_widths(weights, self.rows, widths)
        self.bits = (self.rows - 1).bit_length()
        self.inverse: NDArray[np.float32] = np.empty(self.rows, dtype=np.float32)
        map_pieces(self.rows, lambda i, j: invert(widths[i:j], self.digits, self.inverse[i:j]))
        self.table: NDArray[np.uint64] = widths.view(np.uint64)
        fill_table(self.digits, self.bits, self.inverse, self.table)
        np.abs(self.inverse, out=self.inverse)

    @property
    def nbytes(self) -> int:
        """Bytes held between epochs."""
        return self.table.nbytes + self.inverse.nbytes

    def digest(self) -> str:
        """Return the hash of the law."""
        return digest_array(self.table)

    def draw_epoch(self, seed: int, epoch: int, /) -> Draws:
        """Return the draws of one epoch."""
        return Draws(partial(self._fill, derive_keys(2, "multinomial", seed, epoch)), self._importance)

    def _fill(self, keys: NDArray[np.uint64], start: int, out: NDArray[np.int64]) -> None:
        draw_rows(start, keys, self.table, self.digits, self.bits, out)

    def _importance(self, _start: int, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        return self.inverse[rows]


@njit(cache=True, nogil=True)
def invert(widths: NDArray[np.int64], digits: int, out: NDArray[np.float32]) -> None:
    """Write 2^k / width into `out` (float32), infinite for rows never drawn, and negative to mark heavy rows."""
    unit = np.int64(1) << digits
    for i in range(widths.size):
        inverse = np.float64(unit) / widths[i] if widths[i] > 0 else np.inf
        out[i] = -inverse if widths[i] > unit else inverse


@njit(cache=True, nogil=True)
def fill_table(digits: int, bits: int, inverse: NDArray[np.float32], table: NDArray[np.uint64]) -> None:
    """Turn widths into the alias table in place (N,); the sign of `inverse` tells heavy rows, above one column.

    Each heavy row is poured over light columns, then closes its own. A column is written when its width has been used
    up, so no second array is needed.
    """
    rows = table.size
    column = np.int64(1) << digits
    shift = np.uint64(bits)
    light, heavy = 0, 0
    while heavy < rows and inverse[heavy] > 0:
        heavy += 1
    left = np.int64(table[heavy]) if heavy < rows else column
    while heavy < rows:
        if left > column:
            while inverse[light] < 0:
                light += 1
            width = np.int64(table[light])
            table[light] = (np.uint64(width) << shift) | np.uint64(heavy)
            left -= column - width
            light += 1
            continue
        following = heavy + 1
        while following < rows and inverse[following] > 0:
            following += 1
        if following == rows:  # the sum is exact: what is left fills this column, and the other columns are full
            table[heavy] = (np.uint64(left) << shift) | np.uint64(heavy)
        else:
            table[heavy] = (np.uint64(left) << shift) | np.uint64(following)
            left += np.int64(table[following]) - column
        heavy = following
    for i in range(light, rows):
        if inverse[i] > 0:
            table[i] = (np.uint64(column) << shift) | np.uint64(i)


@njit(cache=True, nogil=True)
def draw_rows(
    start: int, keys: NDArray[np.uint64], table: NDArray[np.uint64], digits: int, bits: int, out: NDArray[np.int64]
) -> None:
    """Write the rows drawn at positions start, start + 1, … into `out` (int64).

    The product of 64 random bits with N (below 2^32) is taken in halves: these loops run on vector registers, and the
    loads of the second overlap.
    """
    key0, key1 = keys[0], keys[1]
    rows, half, low = np.uint64(table.size), np.uint64(32), np.uint64(0xFFFFFFFF)
    shift, drop = np.uint64(bits), np.uint64(64 - digits)
    mask = (np.uint64(1) << shift) - np.uint64(1)
    columns = np.empty(_BATCH, dtype=np.uint64)
    points = np.empty(_BATCH, dtype=np.uint64)
    for begin in range(0, out.size, _BATCH):
        batch = out[begin : begin + _BATCH]
        for i in range(batch.size):
            random = random_bits(start + begin + i, key0, key1)
            columns[i] = ((random >> half) * rows + (((random & low) * rows) >> half)) >> half
            points[i] = (random * rows) >> drop
        for i in range(batch.size):
            entry = table[columns[i]]
            batch[i] = np.int64(columns[i] if points[i] < (entry >> shift) else entry & mask)
