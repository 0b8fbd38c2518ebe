"""Importance weights tamed: clipped, or scaled to mean 1.

Notation
    w   float32 (n,)   1 / (N P) of n draws, as `order.weights` gives them; E[mean(w x)] = mean of x over all rows
    c   float > 0      ceiling

Plain weights are unbiased, but their variance grows with max w. Clipping bounds it by c and adds bias only on rows with
w > c (truncated importance sampling: Ionides, J. Comput. Graph. Stat. 2008). Self-normalised weights keep the
scale of a loss, and with it the learning rate, the same from batch to batch; the bias is O(1 / n) (Hesterberg,
Technometrics 1995; Owen, "Monte Carlo theory, methods and examples", ch. 9.2). To do both: clip first, then normalise.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from drawstream.samplers.methods.visits import to_array

__all__ = ["clip_weights", "normalize_weights"]


def clip_weights(weights: ArrayLike, /, *, ceiling: float) -> NDArray[np.float32]:
    """Weights with a ceiling, min(w, c), float32 (n,).

    Args:
        weights: w, numbers (n,); any shape will do.
        ceiling: c.

    Raises:
        ValueError: the ceiling is not > 0.
    """
    if not ceiling > 0:
        raise ValueError(f"ceiling > 0 must hold, but got {ceiling}: at 1 no row counts more than under plain sampling")
    values: NDArray[np.float32] = to_array(weights, np.float32)
    return np.minimum(values, np.float32(ceiling))


def normalize_weights(weights: ArrayLike, /) -> NDArray[np.float32]:
    """Weights scaled to mean 1, w / mean(w), float32 (n,).

    Args:
        weights: w, numbers (n,); any shape will do.

    Raises:
        ValueError: no weights, or they do not have a finite mean > 0.
    """
    values = to_array(weights, np.float64)
    mean = float(values.mean()) if values.size else 0.0
    if not 0 < mean < np.inf:
        raise ValueError(f"the mean of the weights must be finite and > 0, but got {mean} over {values.size} draws")
    return (values / mean).astype(np.float32)
