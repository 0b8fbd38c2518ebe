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
from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from drawstream.samplers import LARGEST_SUM, SMALLEST_SUM, check_values, random_bits, roundings, spread, sum_exactly
from drawstream.samplers.orders.guide import build_guide, locate
from drawstream.samplers.orders.stratified import BLOCK, PICK, Stratified, Words

__all__ = ["StratifiedOnDisk"]

_PAGE = 128
_HASHED_PAGES = 8192  # 8 MiB of widths at a time
_BATCH = 32  # draws worked on together: their pages fit the first-level cache
_LINE = 8  # values of a cache line


class _Pages(NamedTuple):
    """Weights on disk, what is held of their pages, and how a weight becomes a width (`weights.Rounding`)."""

    values: Any
    starts: NDArray[np.int64]
    residuals: NDArray[np.int64]
    extras: NDArray[np.int64]
    digits: int
    scale: float
    share: int


class StratifiedOnDisk(Stratified):
    """The stratified law over memory-mapped weights, float32 or float64 (N,), checked here.

    Raises:
        TypeError, ValueError: as `check_weights`; or the sum of the weights is outside 1e-280 … 1e280.
    """

    def _build(self, weights: NDArray[np.floating[Any]]) -> None:
        values: NDArray[np.floating[Any]] = np.asarray(weights)  # a plain view of the mapped file
        check_values(values)
        total = sum_exactly(values)
        if not SMALLEST_SUM < total < LARGEST_SUM:
            raise ValueError(
                f"the weights on disk must sum to {SMALLEST_SUM} … {LARGEST_SUM}, but got {total}: scale them"
            )
        starts, residuals, extras = np.empty((3, -(-self.rows // _PAGE)), dtype=np.int64)
        for rounding in roundings(values, total, self.draws):
            self._pages = _Pages(values, starts, residuals, extras, rounding.digits, rounding.scale, rounding.share)
            if start_pages(self._pages, rounding.residual, rounding.extra) == 0:
                break
        self.digits = self._pages.digits
        self._guide, self._shift = build_guide(self._pages.starts, self.draws << self.digits)

    @property
    def nbytes(self) -> int:
        """Bytes held between epochs."""
        pages = self._pages
        return pages.starts.nbytes + pages.residuals.nbytes + pages.extras.nbytes + self._guide.nbytes

    def digest(self) -> str:
        """Return the hash of the law, that of the same weights in memory: one more read of the file."""
        state = hashlib.blake2b(digest_size=16)
        padded = -(-self.rows // BLOCK) * BLOCK
        widths = np.empty(_HASHED_PAGES * _PAGE, dtype=np.int64)
        for first in range(0, self._pages.starts.size, _HASHED_PAGES):
            fill_pages(self._pages, first, widths)
            state.update(widths[: min(widths.size, padded - first * _PAGE)].data)
        return state.hexdigest()

    def _find_rows(self, offset: int, keys: Words, orders: Words, slots: NDArray[np.int64]) -> None:
        find_rows_by_page(offset, self._pages, self._guide, self._shift, keys, orders, slots)

    def _widths_of(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        widths = np.empty(rows.size, dtype=np.int64)
        fill_widths(self._pages, rows, widths)
        return widths


@njit(cache=True, nogil=True)
def fill_page(pages: Any, page: int, residual: int, extra: int, widths: NDArray[np.int64]) -> Any:
    """Write the widths of one page into `widths` (128,), 0 past the last row; return residual and extra behind it."""
    first = page * _PAGE
    rows = min(_PAGE, pages.values.size - first)
    for i in range(rows):
        widths[i] = np.int64(np.rint(np.float64(pages.values[first + i]) * pages.scale))
    widths[rows:] = 0
    return spread(residual, extra, pages.share, pages.digits, widths[:rows])


@njit(cache=True, nogil=True)
def fill_pages(pages: Any, first: int, widths: NDArray[np.int64]) -> None:
    """Write the widths of the pages first, first + 1, … into `widths` (128 per page)."""
    for page in range(first, min(first + widths.size // _PAGE, pages.starts.size)):
        at = (page - first) * _PAGE
        fill_page(pages, page, pages.residuals[page], pages.extras[page], widths[at : at + _PAGE])


@njit(cache=True, nogil=True)
def start_pages(pages: Any, residual: int, extra: int) -> int:
    """Write start, residual and extra of each page; return the residual no row could take."""
    widths = np.empty(_PAGE, dtype=np.int64)
    total = np.int64(0)
    for page in range(pages.starts.size):
        pages.starts[page], pages.residuals[page], pages.extras[page] = total, residual, extra
        residual, extra = fill_page(pages, page, residual, extra, widths)
        total += widths.sum()
    return residual


@njit(cache=True, nogil=True)
def find_rows_by_page(
    offset: int,
    pages: Any,
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
    found = np.empty(_BATCH, dtype=np.int64)
    held = np.int64(-1)
    touched = 0.0
    rising = np.argsort(slots)
    for begin in range(0, slots.size, _BATCH):
        batch = rising[begin : begin + _BATCH]
        for n in range(batch.size):
            found[n] = locate((slots[batch[n]] << pages.digits) + offset, pages.starts, guide, shift)
        for n in range(batch.size):
            first = found[n] * _PAGE
            for at in range(first, min(first + _PAGE, pages.values.size), _LINE):
                touched += pages.values[at]
            touched += pages.residuals[found[n]] + pages.extras[found[n]]
        for n in range(batch.size):
            page = found[n]
            if page != held:
                fill_page(pages, page, pages.residuals[page], pages.extras[page], widths)
                held = page
            left = (slots[batch[n]] << pages.digits) + offset - pages.starts[page]
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
def fill_widths(pages: Any, rows: NDArray[np.int64], out: NDArray[np.int64]) -> None:
    """Write the widths of rows (n,) into `out` (int64)."""
    widths = np.empty(_PAGE, dtype=np.int64)
    held = np.int64(-1)
    for i in np.argsort(rows):
        page = rows[i] // _PAGE
        if page != held:
            fill_page(pages, page, pages.residuals[page], pages.extras[page], widths)
            held = page
        out[i] = widths[rows[i] - page * _PAGE]
