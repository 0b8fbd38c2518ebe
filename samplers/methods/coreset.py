"""Core-sets: one fixed part of the rows, chosen once, on which a whole training run is spent.

Notation
    N   rows;  M = round(share N), at least 1: rows kept
    x   embeddings, float32 (N, D); distances are Euclidean

Each function gives M sorted rows, int64. To train on them with the plain loop:

    weights = np.zeros(rows, np.float32)
    weights[core] = 1
    stream = IndexStream(weights, draws=core.size, seed=0)       # each of them once an epoch
"""

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import ArrayLike, NDArray

from drawstream.samplers import derive_keys, random_words, whole_number
from drawstream.samplers.methods.visits import to_array

__all__ = ["forgetting_coreset", "highest_coreset", "k_center", "random_coreset"]


def random_coreset(labels: ArrayLike, share: float, /, *, seed: int = 0) -> NDArray[np.int64]:
    """A random part of every class.

    A class of n rows keeps M n / N of them, rounded up or down, and every row is kept with probability M / N: rows are
    drawn at equal distances from a list sorted by class, in random order within each (systematic sampling).

    Args:
        labels: int (N,).
        share: of the rows, in (0, 1].
        seed: in [0, 2^64).

    Raises:
        ValueError: no rows, or the share is out of range.
    """
    y = to_array(labels, np.int64)
    kept = _kept(y.size, share)
    by_class = np.lexsort((_random(y.size, "random core-set", seed), y))
    offset = float(_random(1, "start of a core-set", seed)[0] >> np.uint64(11)) * 2.0**-53
    places = ((np.arange(kept) + offset) * (y.size / kept)).astype(np.int64)
    return np.sort(by_class[np.minimum(places, y.size - 1)])


def forgetting_coreset(
    forgotten: ArrayLike, learned: ArrayLike, share: float, /, *, seed: int = 0
) -> NDArray[np.int64]:
    """The rows forgotten most often (Toneva et al., ICLR 2019); never learned counts as most, ties fall at random.

    Args:
        forgotten: numbers (N,), times each row went from correct to incorrect: `forgetting` of a tracker's table.
        learned: bool or numbers (N,), whether it ever was correct: column `learned`.
        share: of the rows, in (0, 1].
        seed: of the ties, in [0, 2^64).

    Raises:
        ValueError: shapes differ, no rows, or the share is out of range.
    """
    events, ever = to_array(forgotten, np.float64), to_array(learned, np.float64) > 0
    if events.shape != ever.shape or events.ndim != 1:
        raise ValueError(f"forgotten (n,) and learned (n,) must fit, but got {events.shape} and {ever.shape}")
    return _highest(np.where(ever, events, np.inf), share, "ties of forgetting", seed)


def highest_coreset(scores: ArrayLike, share: float, /, *, seed: int = 0) -> NDArray[np.int64]:
    """The rows of the highest scores, as of EL2N or GraNd (Paul et al., NeurIPS 2021); ties fall at random.

    Where labels are wrong the highest scores are theirs: leave them out first (`drawstream suspects`).

    Args:
        scores: numbers (N,), finite: column `el2n` or `grand` of a tracker's table, or any other.
        share: of the rows, in (0, 1].
        seed: of the ties, in [0, 2^64).

    Raises:
        ValueError: scores are not finite or not (N,), no rows, or the share is out of range.
    """
    x = to_array(scores, np.float64)
    if x.ndim != 1 or not np.isfinite(x).all():
        raise ValueError(f"scores must be finite numbers (N,), but got {x.shape}")
    return _highest(x, share, "ties of a core-set", seed)


def k_center(embeddings: ArrayLike, share: float, /, *, seed: int = 0, first: int | None = None) -> NDArray[np.int64]:
    """Rows that leave no other far away: each next one is the farthest from those chosen (Sener, Savarese, ICLR 2018).

    The largest distance to a chosen row is at most twice the least possible one (Gonzalez 1985). Time O(N M D), memory
    that of the embeddings in float32 and 4 bytes per row. Of equally far rows the first is taken; where distances agree
    to 1e-6, another processor may take another one.

    Args:
        embeddings: float (N, D), finite.
        share: of the rows, in (0, 1].
        seed: chooses the first row, in [0, 2^64).
        first: the first row, in place of a random one.

    Raises:
        ValueError: no rows, embeddings not finite or not (N, D), the share or the first row out of range.
    """
    x = to_array(embeddings, np.float32)
    if x.ndim != 2 or not x.shape[1] or not np.isfinite(x).all():
        raise ValueError(f"embeddings must be finite, float (N, D >= 1), but got {x.shape}")
    kept = _kept(len(x), share)
    start = int(derive_keys(1, "k-center", seed)[0]) % len(x) if first is None else whole_number(first, "first")
    if not 0 <= start < len(x):
        raise ValueError(f"first must be in [0, {len(x)}), but got {first}")
    chosen = np.empty(kept, dtype=np.int64)
    choose_farthest(x, start, chosen)
    return np.sort(chosen)


def _kept(rows: int, share: float) -> int:
    if rows < 1 or not 0 < share <= 1:
        raise ValueError(f"rows >= 1 and 0 < share <= 1 must hold, but got {rows} rows and {share=}")
    return max(1, round(share * rows))


def _highest(scores: NDArray[np.float64], share: float, purpose: str, seed: int) -> NDArray[np.int64]:
    kept = _kept(scores.size, share)
    return np.sort(np.lexsort((_random(scores.size, purpose, seed), -scores))[:kept])


def _random(count: int, purpose: str, seed: int) -> NDArray[np.uint64]:
    return random_words(np.arange(count), derive_keys(2, purpose, seed))


@njit(cache=True, nogil=True)
def choose_farthest(x: NDArray[np.float32], start: int, chosen: NDArray[np.int64]) -> None:
    """Write the rows chosen one after another from `start` on into `chosen` (M,)."""
    nearest = np.full(x.shape[0], np.inf, dtype=np.float32)
    row = start
    for k in range(chosen.size):
        chosen[k] = row
        centre = x[row].copy()
        nearest[row] = -1.0  # never chosen again, also where other rows are equal to it
        farthest = np.float32(-1.0)
        for i in range(x.shape[0]):
            if nearest[i] < 0.0:
                continue
            nearest[i] = min(nearest[i], squared_distance(x[i], centre))
            if nearest[i] > farthest:
                farthest = nearest[i]
                row = i


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})  # summed in lanes: the last digit of a float32 may vary
def squared_distance(a: NDArray[np.float32], b: NDArray[np.float32]) -> Any:
    """Squared Euclidean distance of two rows (D,), float32."""
    total = np.float32(0.0)
    for d in range(a.size):
        gap = a[d] - b[d]
        total += gap * gap
    return total
