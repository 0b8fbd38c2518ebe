"""Stratified draws from weights that stay on disk: the same rows as in memory, for tables larger than memory.

Notation
    w        float32 or float64 (N,), memory-mapped
    page     128 consecutive rows, 8 blocks of 16; only its start on the cumulative widths is held, 0.25 bytes per row
    scale    M 2^k / sum w: a row's width is round(w scale), plus its share of the rounding residual

Two levels: a guide table finds the page of a point, then the page's widths are computed anew from its 128 weights. The
residual is shared row after row (`spread`), so each page stores how much of it was left where it begins, and gets the
very widths of `integer_widths`: the order equals that of the stream in memory, bit for bit. The points of a
request are sorted first, so a page is read once and pages are read in the order of the file. With a `window` a batch
lives on few pages; without, nearly every draw reads a page of its own.

Set-up reads the file three times in sequence: check and sum; round; cumulate.
"""

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from drawstream.samplers.hashing import derive_keys, random_bits
from drawstream.samplers.orders.guide import build_guide, locate
from drawstream.samplers.orders.shuffle import Shuffle
from drawstream.samplers.orders.stratified import BLOCK, ORDERS, PICK, draw_orders
from drawstream.samplers.orders.window import Windows, arrange
from drawstream.samplers.parallel import map_pieces
from drawstream.samplers.weights import (
    LARGEST_SUM,
    SMALLEST_SUM,
    TOO_LONG,
    check_values,
    spread,
    sum_exactly,
    unit_digits,
)

__all__ = ["Paged"]

_PAGE = 128
_HASHED_PAGES = 8192  # 8 MiB of widths at a time
_BATCH = 32  # draws worked on together: their pages fit the first-level cache
_LINE = 8  # values of a cache line


@dataclass(frozen=True, slots=True)
class PagedEpoch:
    """The draws of one epoch; see `Paged`.

    Attributes:
        law: tables of the law.
        slots: pi, which slot each position draws.
        offset: in [0, 2^k).
        keys: uint64 (2,), of the order within each block.
        orders: uint64 (1024,), orders of 16 rows, a four-bit place each.
    """

    law: "Paged"
    slots: Shuffle | Windows
    offset: int
    keys: NDArray[np.uint64]
    orders: NDArray[np.uint64]

    def fill(self, start: int, out: NDArray[np.int64], /) -> None:
        """Write the rows at positions start, start + 1, … into `out` (int64)."""
        self.slots.fill(start, out)
        law = self.law
        find_rows_by_page(
            self.offset, law.digits, law.scale, law.share, law.values, law.starts, law.residuals, law.extras, law.guide,
            law.shift, self.keys, self.orders, out,
        )  # fmt: skip

    def importance(self, _start: int, rows: NDArray[np.int64], /) -> NDArray[np.float32]:
        """1 / (N P) of the given rows, float32."""
        law = self.law
        widths = np.empty(rows.size, dtype=np.int64)
        widths_of_rows(rows, law.digits, law.scale, law.share, law.values, law.residuals, law.extras, widths)
        return ((law.draws << law.digits) / law.rows / widths).astype(np.float32)


class Paged:
    """Pages of the stratified law over weights on disk.

    Args:
        weights: float32 or float64 (N,), memory-mapped, checked here.
        draws: M >= 1.
        window: positions shuffled among one another; 0 for all (`arrange`).

    Raises:
        TypeError, ValueError: as `check_weights`; or the sum of the weights is outside 1e-280 … 1e280.
    """

    __slots__ = (
        "digits", "draws", "extras", "guide", "residuals", "rows", "scale", "share", "shift", "starts", "values",
        "window",
    )  # fmt: skip

    def __init__(self, weights: NDArray[np.floating[Any]], draws: int, window: int = 0, /) -> None:
        self.values: NDArray[np.floating[Any]] = np.asarray(weights)  # a plain view of the mapped file
        check_values(self.values)
        self.rows, self.draws, self.window = self.values.size, draws, window
        total = sum_exactly(self.values)
        if not SMALLEST_SUM < total < LARGEST_SUM:
            raise ValueError(
                f"the weights on disk must sum to {SMALLEST_SUM} … {LARGEST_SUM}, but got {total}: scale them"
            )
        pages = -(-self.rows // _PAGE)
        self.starts: NDArray[np.int64] = np.empty(pages, dtype=np.int64)
        self.residuals: NDArray[np.int64] = np.empty(pages, dtype=np.int64)
        self.extras: NDArray[np.int64] = np.empty(pages, dtype=np.int64)
        for self.digits in unit_digits(draws):
            whole = draws << self.digits
            self.scale = whole / total
            sums = map_pieces(self.rows, lambda i, j: round_pages(self.values[i:j], self.scale, self.digits))
            residual = whole - sum(part for part, _ in sums)
            self.share, extra = divmod(abs(residual), max(1, sum(fractional for _, fractional in sums)))
            left = start_pages(
                residual,
                extra,
                self.share,
                self.digits,
                self.scale,
                self.values,
                self.starts,
                self.residuals,
                self.extras,
            )
            if left == 0:
                break
        else:
            raise ValueError(TOO_LONG.format(draws=draws))
        self.guide, self.shift = build_guide(self.starts, whole)

    @property
    def nbytes(self) -> int:
        """Bytes held between epochs."""
        return self.starts.nbytes + self.residuals.nbytes + self.extras.nbytes + self.guide.nbytes

    def digest(self) -> str:
        """Hash of the law, that of the same weights in memory: one more read of the file."""
        state = hashlib.blake2b(digest_size=16)
        padded = -(-self.rows // BLOCK) * BLOCK
        widths = np.empty(_HASHED_PAGES * _PAGE, dtype=np.int64)
        for first in range(0, self.starts.size, _HASHED_PAGES):
            residuals, extras = (part[first : first + _HASHED_PAGES] for part in (self.residuals, self.extras))
            fill_pages(first, residuals, extras, self.digits, self.scale, self.share, self.values, widths)
            state.update(widths[: min(widths.size, padded - first * _PAGE)].data)
        return state.hexdigest()

    def draw_epoch(self, seed: int, epoch: int, /) -> PagedEpoch:
        """The draws of one epoch."""
        keys = derive_keys(5, "stratified", seed, epoch)
        orders = np.empty(ORDERS, dtype=np.uint64)
        draw_orders(keys[:2], orders)
        offset = int(keys[2]) & ((1 << self.digits) - 1)
        slots = arrange(self.draws, self.window, "stratified", seed, epoch)
        return PagedEpoch(self, slots, offset, keys[3:], orders)


@njit(cache=True, nogil=True)
def round_pages(values: NDArray[np.floating[Any]], scale: float, digits: int) -> Any:
    """Sum of the rounded widths, and how many are no multiple of 2^digits."""
    mask = (np.int64(1) << digits) - np.int64(1)
    total, fractional = np.int64(0), np.int64(0)
    for i in range(values.size):
        width = np.int64(np.rint(np.float64(values[i]) * scale))
        total += width
        fractional += np.int64((width & mask) != 0)
    return total, fractional


@njit(cache=True, nogil=True)
def fill_page(
    page: int,
    residual: int,
    extra: int,
    digits: int,
    scale: float,
    share: int,
    values: NDArray[np.floating[Any]],
    widths: NDArray[np.int64],
) -> Any:
    """Write the widths of one page into `widths` (128,), 0 past the last row; return residual and extra behind it."""
    first = page * _PAGE
    rows = min(_PAGE, values.size - first)
    for i in range(rows):
        widths[i] = np.int64(np.rint(np.float64(values[first + i]) * scale))
    widths[rows:] = 0
    return spread(residual, extra, share, digits, widths[:rows])


@njit(cache=True, nogil=True)
def fill_pages(
    first: int,
    residuals: NDArray[np.int64],
    extras: NDArray[np.int64],
    digits: int,
    scale: float,
    share: int,
    values: NDArray[np.floating[Any]],
    widths: NDArray[np.int64],
) -> None:
    """Write the widths of the pages first, first + 1, … into `widths` (128 per page)."""
    for i in range(residuals.size):
        page = widths[i * _PAGE : (i + 1) * _PAGE]
        fill_page(first + i, residuals[i], extras[i], digits, scale, share, values, page)


@njit(cache=True, nogil=True)
def start_pages(
    residual: int,
    extra: int,
    share: int,
    digits: int,
    scale: float,
    values: NDArray[np.floating[Any]],
    starts: NDArray[np.int64],
    residuals: NDArray[np.int64],
    extras: NDArray[np.int64],
) -> int:
    """Write start, residual and extra of each page (pages,); return the residual no row could take."""
    widths = np.empty(_PAGE, dtype=np.int64)
    total = np.int64(0)
    for page in range(starts.size):
        starts[page], residuals[page], extras[page] = total, residual, extra
        residual, extra = fill_page(page, residual, extra, digits, scale, share, values, widths)
        total += widths.sum()
    return residual


@njit(cache=True, nogil=True)
def find_rows_by_page(
    offset: int,
    digits: int,
    scale: float,
    share: int,
    values: NDArray[np.floating[Any]],
    starts: NDArray[np.int64],
    residuals: NDArray[np.int64],
    extras: NDArray[np.int64],
    guide: NDArray[np.int32],
    shift: int,
    keys: NDArray[np.uint64],
    orders: NDArray[np.uint64],
    slots: NDArray[np.int64],
) -> Any:
    """Turn slots (n,) into the rows under their points, in place, page by page; returns a number without meaning.

    The pages of a batch are found and touched first: those loads do not depend on one another, so they overlap.
    """
    four, low = np.uint64(4), np.uint64(15)
    widths = np.empty(_PAGE, dtype=np.int64)
    pages = np.empty(_BATCH, dtype=np.int64)
    held = np.int64(-1)
    touched = 0.0
    rising = np.argsort(slots)
    for begin in range(0, slots.size, _BATCH):
        batch = rising[begin : begin + _BATCH]
        for n in range(batch.size):
            pages[n] = locate((slots[batch[n]] << digits) + offset, starts, guide, shift)
        for n in range(batch.size):
            first = pages[n] * _PAGE
            for at in range(first, min(first + _PAGE, values.size), _LINE):
                touched += values[at]
            touched += residuals[pages[n]] + extras[pages[n]]
        for n in range(batch.size):
            page = pages[n]
            if page != held:
                fill_page(page, residuals[page], extras[page], digits, scale, share, values, widths)
                held = page
            left = (slots[batch[n]] << digits) + offset - starts[page]
            base = np.int64(0)
            block = widths[base : base + BLOCK].sum()
            while left >= block:
                left -= block
                base += BLOCK
                block = widths[base : base + BLOCK].sum()
            order = orders[random_bits((page * _PAGE + base) // BLOCK, keys[0], keys[1]) >> PICK]
            row = base + np.int64(order & low)
            left -= widths[row]
            while left >= 0:
                order >>= four
                row = base + np.int64(order & low)
                left -= widths[row]
            slots[batch[n]] = page * _PAGE + row
    return touched


@njit(cache=True, nogil=True)
def widths_of_rows(
    rows: NDArray[np.int64],
    digits: int,
    scale: float,
    share: int,
    values: NDArray[np.floating[Any]],
    residuals: NDArray[np.int64],
    extras: NDArray[np.int64],
    out: NDArray[np.int64],
) -> None:
    """Write the widths of rows (n,) into `out` (int64)."""
    widths = np.empty(_PAGE, dtype=np.int64)
    held = np.int64(-1)
    for i in np.argsort(rows):
        page = rows[i] // _PAGE
        if page != held:
            fill_page(page, residuals[page], extras[page], digits, scale, share, values, widths)
            held = page
        out[i] = widths[rows[i] - page * _PAGE]
