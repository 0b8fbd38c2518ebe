"""A guide table: from a point of a cumulative sum to its block in O(1) on average (Chen and Asau, 1974).

Notation
    starts  int64 (B,)     where each block begins, rising from 0; equal starts mean an empty block
    total   int            end of the last block
    guide   int32 (G + 1,) guide[g] = last block that begins at or before the point g 2^shift
"""

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

__all__ = ["build_guide", "locate"]


def build_guide(starts: NDArray[np.int64], total: int, /) -> tuple[NDArray[np.int32], int]:
    """Return the guide table, with two to four entries per block, and its shift."""
    shift = max(0, total.bit_length() - (2 * starts.size).bit_length())
    guide = np.empty(((total - 1) >> shift) + 2, dtype=np.int32)
    _fill(starts, shift, guide)
    return guide, shift


@njit(cache=True, nogil=True)
def _fill(starts: NDArray[np.int64], shift: int, guide: NDArray[np.int32]) -> None:
    block = 0
    for g in range(guide.size):
        point = np.int64(g) << shift
        while block + 1 < starts.size and starts[block + 1] <= point:
            block += 1
        guide[g] = block


@njit(cache=True, nogil=True)
def locate(point: int, starts: NDArray[np.int64], guide: NDArray[np.int32], shift: int) -> Any:
    """Return the last block that begins at or before a point: bisection between two neighbouring guide entries."""
    g = point >> shift
    low, high = np.int64(guide[g]), np.int64(guide[g + 1])
    while low < high:
        middle = (low + high + 1) >> 1
        if starts[middle] <= point:
            low = middle
        else:
            high = middle - 1
    return low
