"""Folds of rows for out-of-sample predictions: each row is predicted by a model that was trained without its fold."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["fold_numbers"]

_PURPOSE = 3  # of the draws: label noise and the order of packs have others


def fold_numbers(labels: ArrayLike, folds: int, /, *, seed: int = 0) -> NDArray[np.int64]:
    """Return the fold of each row, int64 (rows,): of every class each fold has as many rows as the others, or one more.

    Args:
        labels: int (rows,), classes from 0.
        folds: K, in [2, rows].
        seed: Of the draw.

    Raises:
        ValueError: K is out of range.
    """
    y = np.asarray(labels)
    if not 2 <= folds <= y.size:
        raise ValueError(f"folds must be in [2, {y.size}], the rows, but got {folds}")
    drawn = np.random.default_rng(np.random.SeedSequence([seed, _PURPOSE])).random(y.size)
    found = np.empty(y.size, np.int64)
    found[np.lexsort((drawn, y))] = np.arange(y.size) % folds  # class after class
    return found
