"""Locality: the same draws, arranged so that neighbours in time come from few places of the catalog.

Notation
    n      slots of the epoch, in catalog order (rows, points of the cumulative weights, or ranks of a subset)
    L      run: neighbouring slots that are kept together, window // 16
    W      16 L: one window; its 16 runs come from anywhere, its positions are shuffled among one another

       slots    |--run 0--|--run 1--|--run 2--|-- … --|tail|       turned by a random amount, once per epoch
       windows  [run 7, run 311, run 52, … 16 of them][run 90, run 4, …][…]
       order     shuffled within each window

Every slot comes once, so counts, subsets and weights are those of the stream without a window. A reader needs the
shards of 16 runs at a time (32 where runs straddle two shards). The price: rows of one run share a window in that
epoch, so a batch mixes the catalog less evenly; tools/bench/README.md has figures. Compare the block shuffles
of Mosaic Streaming (py1b, py1e) and the two-stage shuffle of Meng et al. (Neurocomputing 2019).
"""

from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from drawstream.samplers import derive_keys, random_bits
from drawstream.samplers.orders.shuffle import ROUNDS, Shuffle, keyed_shuffle, permute

__all__ = ["MIN_WINDOW", "Windows", "arrange"]

MIN_WINDOW = 1024  # smaller ranges would need more rounds to be shuffled well
_RUNS = 16  # few enough to keep open at once, enough that a window mixes 1 / 16 of unrelated places each


@dataclass(frozen=True, slots=True)
class Windows:
    """One arrangement of [0, size) by windows, addressed by position as `Shuffle` is."""

    size: int  # number of slots n
    run: int  # slots per run L
    turn: int  # added to every slot, modulo n
    runs: Shuffle  # the order of the whole runs
    keys: NDArray[np.uint64]  # (2,): words from which each window derives its rounds

    def fill(self, start: int, out: NDArray[np.int64], /) -> None:
        """Write the slots of positions start, start + 1, … into `out` (int64)."""
        width = self.run * _RUNS
        last = self.size // width - 1  # the last window takes what is left over as well
        done = 0
        while done < out.size:
            window = min((start + done) // width, last)
            first = window * width
            size = self.size - first if window == last else width
            part = out[done : done + size - (start + done - first)]
            order = np.empty(min(-(-size // self.run), self.runs.size - window * _RUNS), dtype=np.int64)
            self.runs.fill(window * _RUNS, order)
            fill_window(start + done - first, size, window, self.keys, order, self.run, self.turn, self.size, part)
            done += part.size


def arrange(size: int, window: int, /, *parts: int | str) -> Shuffle | Windows:
    """Return the arrangement of [0, size) that belongs to key parts: by windows, or one shuffle when window is 0."""
    if not window or window >= size:
        return keyed_shuffle(size, *parts)
    run = window // _RUNS
    keys = derive_keys(3, "windows", *parts)
    return Windows(size, run, int(keys[2]) % size, keyed_shuffle(size // run, "runs", *parts), keys[:2])


@njit(cache=True, nogil=True)
def fill_window(
    start: int,
    size: int,
    window: int,
    keys: NDArray[np.uint64],
    order: NDArray[np.int64],
    run: int,
    turn: int,
    total: int,
    out: NDArray[np.int64],
) -> None:
    """Write the slots at places start, start + 1, … of one window of `size` slots into `out` (int64)."""
    rounds = np.empty((2, ROUNDS), dtype=np.uint64)
    for i in range(ROUNDS):
        rounds[0, i] = random_bits(window * 2 * ROUNDS + 2 * i, keys[0], keys[1]) | np.uint64(1)
        rounds[1, i] = random_bits(window * 2 * ROUNDS + 2 * i + 1, keys[0], keys[1])
    bits = 0
    while (size - 1) >> bits:
        bits += 1
    permute(start, size, bits, rounds, out)
    tail = total // run * run
    for i in range(out.size):
        which = out[i] // run
        first = order[which] * run if which < order.size else tail
        slot = first + out[i] - which * run + turn
        out[i] = slot - total if slot >= total else slot
