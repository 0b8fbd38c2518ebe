"""The order of one epoch, its parts by step and rank, and the order of a file.

Notation
    M    draws     positions of an epoch
    G    global batch: step g holds the positions [g G, (g + 1) G); rank r of w takes the r-th of w equal parts
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
from numba import njit
from numpy.typing import NDArray

from drawstream.samplers import whole_number

__all__ = ["Batches", "Draws", "Order", "Sequential", "count_rows", "entropy", "histogram", "ones"]

_PIECE = 1 << 20  # positions that are counted at once


@dataclass(frozen=True, slots=True)
class Draws:
    """The draws of one epoch, made by a mode.

    Attributes:
        fill: called with a position and an array, writes the rows from that position on into it (int64).
        importance: called with a position and the rows from there on (int64), returns their 1 / (N P), float32.
    """

    fill: Callable[[int, NDArray[np.int64]], None]
    importance: Callable[[int, NDArray[np.int64]], NDArray[np.float32]]


def ones(_start: int, rows: NDArray[np.int64], /) -> NDArray[np.float32]:
    """Return the importance of rows (n,) that all have the same probability, float32 (n,)."""
    return np.ones(rows.size, dtype=np.float32)


class Order:
    """The order of one epoch: a view that cannot change, computed where it is looked at.

    `len(order)` is the epoch length M, `order[a:b]` the rows at positions a … b-1 (int64), `order[i]` one row (int).

    Args:
        draws: rows and weights of any positions.
        length: M.
        source: the weights drawn with, float (rows,), where a stream has others than it was made of.
    """

    __slots__ = ("__weakref__", "_draws", "_length", "source")

    def __init__(self, draws: Draws, length: int, /, source: NDArray[np.floating[Any]] | None = None) -> None:
        self._draws, self._length, self.source = draws, length, source

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, at: int, /) -> int: ...
    @overload
    def __getitem__(self, at: slice, /) -> NDArray[np.int64]: ...
    def __getitem__(self, at: int | slice, /) -> int | NDArray[np.int64]:
        if isinstance(at, slice):
            start, stop, step = at.indices(self._length)
            if step != 1:
                raise ValueError(f"an order is sliced with step 1, but got {step}: slice first, then stride the array")
            return self._rows(start, max(start, stop))
        position = whole_number(at, "position")
        if not -self._length <= position < self._length:
            raise IndexError(f"position must be in [0, {self._length}), but got {position}")
        position %= self._length
        return int(self._rows(position, position + 1)[0])

    def weights(self, start: int, stop: int, /) -> NDArray[np.float32]:
        """Return the importance weights 1 / (N P) of the rows at positions start … stop-1.

        Returns:
            float32 (stop - start,). Averaged over the draws of an epoch, weight times value is an unbiased estimate of
            the plain mean over all rows that have positive weight. In mode 'subset' P is the row's share of
            a draw without replacement (see `drawstream.samplers.orders.subset`).

        Raises:
            TypeError: start or stop is no whole number.
            ValueError: not 0 <= start <= stop <= M.
        """
        start, stop = whole_number(start, "start"), whole_number(stop, "stop")
        if not 0 <= start <= stop <= self._length:
            raise ValueError(f"0 <= start <= stop <= {self._length} must hold, but got {start=} and {stop=}")
        return self._draws.importance(start, self._rows(start, stop))

    def importance(self, start: int, rows: NDArray[np.int64], /) -> NDArray[np.float32]:
        """Return the weights of the rows (n,) at positions start … that are known already, float32 (n,)."""
        return self._draws.importance(start, rows)

    def _rows(self, start: int, stop: int) -> NDArray[np.int64]:
        out = np.empty(stop - start, dtype=np.int64)
        if out.size:
            self._draws.fill(start, out)
        return out


class Batches(ABC):
    """Slicing of epochs into the batches of ranks: what `IndexStream` and `Sequential` share."""

    draws: int

    @abstractmethod
    def epoch(self, epoch: int, /) -> Order:
        """Return the order of an epoch."""

    def batch(
        self, epoch: int, step: int, /, *, global_batch: int, rank: int = 0, world_size: int = 1
    ) -> NDArray[np.int64]:
        """Return the rows of one rank in one step.

        Args:
            epoch: number of the epoch, >= 0.
            step: number of the global batch in the epoch, >= 0.
            global_batch: G, rows of all ranks together, a multiple of world_size.
            rank: this rank, in [0, world_size).
            world_size: number of ranks.

        Returns:
            int64 (G / world_size,). The last batch of an epoch may be short: its g rows are then parted as
            evenly as they go, so ranks differ by at most one row.

        Raises:
            TypeError: a number is not whole, a bool or a float.
            ValueError: a number is out of its range.
        """
        return self.epoch(epoch)[slice(*self.span(step, global_batch=global_batch, rank=rank, world_size=world_size))]

    def span(self, step: int, /, *, global_batch: int, rank: int = 0, world_size: int = 1) -> tuple[int, int]:
        """Return the positions [start, stop) of one rank in one step; arguments and errors as `batch`."""
        step, global_batch = whole_number(step, "step"), whole_number(global_batch, "global_batch")
        rank, world_size = whole_number(rank, "rank"), whole_number(world_size, "world_size")
        if not 0 <= rank < world_size:
            raise ValueError(f"0 <= rank < world_size must hold, but got {rank=} and {world_size=}")
        if global_batch < 1 or global_batch % world_size:
            raise ValueError(
                f"global_batch must be a positive multiple of world_size, but got {global_batch=} and {world_size=}"
            )
        steps = -(-self.draws // global_batch)
        if not 0 <= step < steps:
            raise ValueError(f"0 <= step < {steps} must hold for {self.draws} draws, but got {step=}")
        first = step * global_batch
        size = min(global_batch, self.draws - first)
        return first + rank * size // world_size, first + (rank + 1) * size // world_size


class Sequential(Batches):
    """Rows start … stop-1 in file order, each once, in every epoch: for evaluation and extraction.

    The surface is that of `IndexStream`; weights are 1.

    Args:
        start: first row, >= 0.
        stop: one past the last row, > start.

    Raises:
        TypeError: start or stop is no whole number.
        ValueError: not 0 <= start < stop.
    """

    mode = "sequential"
    seed = 0
    nbytes = 0

    def __init__(self, start: int, stop: int, /) -> None:
        self.start, self.rows = whole_number(start, "start"), whole_number(stop, "stop")
        if not 0 <= self.start < self.rows:
            raise ValueError(f"0 <= start < stop must hold, but got {start=} and {stop=}")
        self.draws = self.rows - self.start

    @property
    def fingerprint(self) -> str:
        """Hash of mode and range."""
        return hashlib.blake2b(repr((self.mode, self.start, self.rows)).encode(), digest_size=16).hexdigest()

    def epoch(self, epoch: int, /) -> Order:  # noqa: ARG002 - the same for all
        """Return the order of an epoch: always the same."""
        return Order(Draws(self._fill, ones), self.draws)

    def _fill(self, start: int, out: NDArray[np.int64]) -> None:
        out[:] = np.arange(self.start + start, self.start + start + out.size)

    def __repr__(self) -> str:
        return f"Sequential({self.start}, {self.rows})"


def count_rows(order: Order, rows: int, /) -> NDArray[np.int64]:
    """Times each of `rows` rows comes in an order, int64 (rows,), read in pieces of 2^20 positions.

    Raises:
        ValueError: the order holds a row outside [0, rows).
    """
    counts = np.zeros(rows, dtype=np.int64)
    for start in range(0, len(order), _PIECE):
        outside = add_counts(order[start : start + _PIECE], counts)
        if outside >= 0:
            raise ValueError(f"rows must be in [0, {rows}), but row {outside} is drawn: is this another catalog?")
    return counts


def histogram(counts: NDArray[np.int64], /) -> NDArray[np.int64]:
    """How many rows come 0, 1, 2, … times, int64 (max count + 1,)."""
    return np.bincount(counts).astype(np.int64)


def entropy(counts: NDArray[np.int64], /) -> float:
    """Entropy H(c) of counts / sum in nats (0 for a single row, log N for equal counts).

    Raises:
        ValueError: nothing was counted.
    """
    total = int(counts.sum())
    if total < 1:
        raise ValueError("counts must hold at least one draw, but their sum is 0")
    share = counts[counts > 0] / total
    return float(-(share * np.log(share)).sum())


@njit(cache=True, nogil=True)
def add_counts(drawn: NDArray[np.int64], counts: NDArray[np.int64]) -> int:
    """Add to `counts` (N,); return a row outside [0, N), or -1."""
    for row in drawn:
        if row < 0 or row >= counts.size:
            return row if row >= 0 else counts.size
        counts[row] += 1
    return -1
