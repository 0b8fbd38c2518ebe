"""Stratified draws: each row floor(M P) or ceil(M P) times in an epoch of M (systematic resampling).

Notation
    width     int64 (N,)       M P_i in units of 2^-k (`integer_widths`)
    slot s    int in [0, M)    the interval [s 2^k, (s + 1) 2^k) of the cumulative widths
    offset    int in [0, 2^k)  one number per epoch
    block     int              16 consecutive rows

The epoch draws the rows that lie under the points s 2^k + offset: every row of width v is hit floor(v / 2^k) or
ceil(v / 2^k) times, and its expectation over offsets is v / 2^k exactly (Madow 1949; Kitagawa 1996). With P uniform
and M = N every row comes exactly once. Position t of the epoch draws slot pi(t), pi a keyed permutation.

Plain systematic resampling ties neighbours together: at M P = 1/2 the rows 2i and 2i + 1 would never meet in an
epoch, and only two epochs would exist at all. So within each block the rows lie in an order of their own, drawn anew
for every epoch from 1024 random orders. What remains tied: a block, and any run of blocks, holds the floor or the ceil
of its own M P draws in every epoch. In a catalog sorted by class this keeps the class shares steady; the
joint probability of two rows of one block is lower than that of strangers (at M P = 1/2: 0.233 against 0.25).

Memory: 8 bytes per row for widths, 0.5 for block starts, 0.5 for the guide table.
"""

from functools import partial
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from drawstream.samplers import derive_keys, digest_array, high_product, integer_widths, map_pieces, random_bits
from drawstream.samplers.orders.guide import build_guide, locate
from drawstream.samplers.orders.order import Draws
from drawstream.samplers.orders.shuffle import Shuffle
from drawstream.samplers.orders.window import Windows, arrange

__all__ = ["Stratified"]

BLOCK = 16  # rows per block: 16 four-bit places make one order a single word
ORDERS = 1024  # 8 KiB, within the first-level cache
PICK = np.uint64(64 - 10)  # the leading bits that choose one of them
Words = NDArray[np.uint64]
_BATCH = 128  # slots looked up together: their blocks fill 16 KiB


class Stratified:
    """The stratified law of M draws, built from checked weights, float32 or float64 (N,); `window` as in `arrange`."""

    digits: int

    def __init__(self, weights: NDArray[np.floating[Any]], draws: int, window: int = 0, /) -> None:
        self.rows, self.draws, self.window = weights.size, draws, window
        self._build(weights)

    def _build(self, weights: NDArray[np.floating[Any]]) -> None:
        self.widths: NDArray[np.int64] = np.zeros(-(-self.rows // BLOCK) * BLOCK, dtype=np.int64)
        self.digits = integer_widths(weights, self.draws, self.widths[: self.rows])
        starts: NDArray[np.int64] = np.empty(self.widths.size // BLOCK, dtype=np.int64)
        map_pieces(self.widths.size, lambda i, j: sum_blocks(self.widths[i:j], starts[i // BLOCK : j // BLOCK]))
        starts[1:] = np.cumsum(starts[:-1])
        starts[0] = 0
        self._tables = self.widths, starts, *build_guide(starts, self.draws << self.digits)

    @property
    def nbytes(self) -> int:
        """Bytes held between epochs."""
        return sum(part.nbytes for part in self._tables if isinstance(part, np.ndarray))

    def digest(self) -> str:
        """Return the hash of the law."""
        return digest_array(self.widths)

    def draw_epoch(self, seed: int, epoch: int, /) -> Draws:
        """Return the draws of one epoch."""
        keys = derive_keys(5, "stratified", seed, epoch)
        orders = np.empty(ORDERS, dtype=np.uint64)
        draw_orders(keys[:2], orders)
        slots = arrange(self.draws, self.window, "stratified", seed, epoch)
        offset = int(keys[2]) & ((1 << self.digits) - 1)
        return Draws(partial(self._fill, slots, (offset, keys[3:], orders)), self._importance)

    def _fill(
        self, slots: Shuffle | Windows, drawn: tuple[int, Words, Words], start: int, out: NDArray[np.int64]
    ) -> None:
        slots.fill(start, out)
        self._find_rows(*drawn, out)

    def _importance(self, _start: int, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        return ((self.draws << self.digits) / self.rows / self._widths_of(rows)).astype(np.float32)

    def _find_rows(self, offset: int, keys: Words, orders: Words, slots: NDArray[np.int64]) -> None:
        """Turn slots (n,) into the rows under their points, in place."""
        find_rows(offset, self.digits, *self._tables, keys, orders, slots)

    def _widths_of(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        return self.widths[rows]


@njit(cache=True, nogil=True)
def sum_blocks(widths: NDArray[np.int64], sums: NDArray[np.int64]) -> None:
    """Write the sum of each block of 16 widths into `sums`."""
    for block in range(sums.size):
        total = np.int64(0)
        for i in range(block * BLOCK, (block + 1) * BLOCK):
            total += widths[i]
        sums[block] = total


@njit(cache=True, nogil=True)
def draw_orders(keys: NDArray[np.uint64], out: NDArray[np.uint64]) -> None:
    """Random orders of 16 places, one per word, four bits a place (Fisher-Yates on nibbles)."""
    four, low = np.uint64(4), np.uint64(15)
    for i in range(out.size):
        order = np.uint64(0xFEDCBA9876543210)
        for last in range(BLOCK - 1, 0, -1):
            bits = random_bits(i * BLOCK + last, keys[0], keys[1])
            a = four * high_product(bits, np.uint64(last + 1))
            b = four * np.uint64(last)
            differ = ((order >> a) ^ (order >> b)) & low
            order ^= (differ << a) | (differ << b) if a != b else np.uint64(0)
        out[i] = order


@njit(cache=True, nogil=True)
def find_rows(
    offset: int,
    digits: int,
    widths: NDArray[np.int64],
    starts: NDArray[np.int64],
    guide: NDArray[np.int32],
    shift: int,
    keys: NDArray[np.uint64],
    orders: NDArray[np.uint64],
    slots: NDArray[np.int64],
) -> Any:
    """Turn slots (n,) into the rows under their points, in place; returns a number without meaning.

    Each loop over a batch makes independent loads only, so the processor overlaps them; the places within a block are
    counted without a branch. One loop per slot instead is half as fast.
    """
    four, low = np.uint64(4), np.uint64(15)
    blocks = np.empty(_BATCH, dtype=np.int64)
    highs = np.empty(_BATCH, dtype=np.int64)
    lefts = np.empty(_BATCH, dtype=np.int64)
    touched = np.int64(0)
    for begin in range(0, slots.size, _BATCH):
        batch = slots[begin : begin + _BATCH]
        for i in range(batch.size):
            batch[i] = (batch[i] << digits) + offset
            blocks[i] = guide[batch[i] >> shift]
            highs[i] = guide[(batch[i] >> shift) + 1]
        for i in range(batch.size):
            block, high = blocks[i], highs[i]
            first, second = starts[block], starts[high]
            if high - block > 1:
                block = locate(batch[i], starts, guide, shift)
                first = starts[block]
            elif second <= batch[i]:
                block, first = high, second
            blocks[i], lefts[i] = block, batch[i] - first
        for i in range(batch.size):  # bring both cache lines of each block in
            touched += widths[blocks[i] * BLOCK] + widths[blocks[i] * BLOCK + BLOCK // 2]
        for i in range(batch.size):
            base, left = blocks[i] * BLOCK, lefts[i]
            order = orders[random_bits(blocks[i], keys[0], keys[1]) >> PICK]
            rest, place = order, np.uint64(0)
            for _ in range(BLOCK - 1):
                left -= widths[base + np.int64(rest & low)]
                rest >>= four
                place += four if left >= 0 else np.uint64(0)
            batch[i] = base + np.int64((order >> place) & low)
    return touched
