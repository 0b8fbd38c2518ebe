"""DLIS: draw a step's rows from a larger batch by a bound of their gradient norm (Katharopoulos, Fleuret, ICML 2018).

Notation
    f      factor, 3: a batch of n = f k rows is scored, k of them are trained on
    s_i    score, ‖p − onehot(y)‖₂: up to a constant no less than the norm of row i's gradient
    g_i    s_i / Σ s, the probability of row i in each of k independent draws; 1/n where all scores are 0
    w_i    1 / (n g_i): the mean of w times gradient over the draws is unbiased for the mean gradient of the batch
    τ      variance gain of a batch, (n Σ g²)^½ >= 1: plain batches would have to be τ² times as large to be as steady.
           Followed by a moving average, 0 at the start: τ ← a τ + (1 − a) (n Σ g²)^½
    cost   (f + 3) / 3: a drawn step costs f k forward passes and 3 k for the step, a plain one 3 k

Drawing is on while the average is above the cost ratio (algorithm 1 of the paper, with its τ_th = (B + 3b) / 3b).
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import numpy as np
from numba import njit
from numpy.typing import NDArray

from drawstream.samplers import derive_keys, random_words, whole_number
from drawstream.samplers.methods.selection import Selected, all_rows, check_scores
from drawstream.samplers.methods.state import Stateful

__all__ = ["DLIS"]


class DLIS(Stateful):
    """Importance sampling that switches itself on; a `BatchSelector`.

        >>> from drawstream import DLIS
        >>> selector = DLIS(seed=0)
        >>> rows, weights = selector.select([0.1, 1.2, 0.7], epoch=0, step=0)    # off at first: all rows, weight 1
        >>> selector.active, rows.tolist()
        (False, [0, 1, 2])

    While it is off, no scoring pass is due: train on plain batches and give `select` the scores of the training pass;
    it takes note of them and keeps all rows. While it is on (`active`, and `before` with it), give it the scores of
    `factor` times as many rows as a step trains.

    Args:
        factor: f >= 2.
        memory: a, in [0, 1); 0.9 in the authors' code.
        seed: in [0, 2^64).

    Raises:
        ValueError: an argument is out of range.
    """

    scores: Literal["grad_norm"] = "grad_norm"
    _kept: ClassVar[Mapping[str, str]] = {"gain": "gain"}

    def __init__(self, *, factor: int = 3, memory: float = 0.9, seed: int = 0) -> None:
        factor, seed = whole_number(factor, "factor"), whole_number(seed, "seed")
        if factor < 2 or not 0 <= memory < 1:
            raise ValueError(f"factor >= 2 and 0 <= memory < 1 must hold, but got {factor=} and {memory=}")
        derive_keys(1, seed)
        self.factor, self.memory, self.seed = factor, float(memory), seed
        self.gain = 0.0

    def __repr__(self) -> str:
        return f"DLIS(gain {self.gain:.3f}, {'on' if self.active else 'off'})"

    @property
    def cost(self) -> float:
        """Return the cost of a drawn step over that of a plain one, (f + 3) / 3."""
        return (self.factor + 3) / 3

    @property
    def active(self) -> bool:
        """Return whether the next batch is drawn from."""
        return self.gain > self.cost

    @property
    def before(self) -> bool:
        """Return whether the scores must come from a pass before the training pass: while active."""
        return self.active

    def select(self, scores: Any, /, *, epoch: int, step: int, ids: Any = None) -> Selected:  # noqa: ARG002 - one surface
        """Draw from the global batch with replacement, or keep all of it while off; then follow the gain.

        Args:
            scores: ‖p − onehot(y)‖₂, float (n,), >= 0; array or tensor.
            epoch: number of the epoch.
            step: number of the batch in the epoch.
            ids: not used.

        Raises:
            ValueError: scores are negative, not finite or not (n,), or a number is negative.
        """
        found = check_scores(scores)
        if found.min() < 0:
            raise ValueError(f"gradient norms must be >= 0, but got {found.min()}")
        shares = np.empty(found.size)
        gain = share_out(found, shares)
        drawn = self.active
        self.gain = self.memory * self.gain + (1.0 - self.memory) * gain
        if not drawn:
            return all_rows(found.size)
        keys, count = derive_keys(2, "dlis", self.seed, epoch, step), max(1, found.size // self.factor)
        numbers = (random_words(np.arange(count), keys) >> np.uint64(11)).astype(np.float64) * 2.0**-53
        return draw_weighted(shares, numbers)

    def _identity(self) -> dict[str, Any]:
        return {"selector": "dlis", "factor": self.factor, "memory": self.memory, "seed": self.seed}


def draw_weighted(shares: NDArray[np.float64], numbers: NDArray[np.float64], /) -> Selected:
    """Draw with replacement, one place per uniform number in [0, 1), by inversion of the cumulative shares."""
    indices = np.empty(numbers.size, dtype=np.int64)
    invert(shares, numbers, indices)
    return Selected(indices, (1.0 / (shares.size * shares[indices])).astype(np.float32))


@njit(cache=True, nogil=True)
def share_out(scores: NDArray[np.float64], shares: NDArray[np.float64]) -> float:
    """Write g into `shares` (n,); the variance gain."""
    total = 0.0
    for score in scores:
        total += score
    squares = 0.0
    for i in range(scores.size):
        shares[i] = scores[i] / total if total > 0.0 else 1.0 / scores.size
        squares += shares[i] * shares[i]
    return float(np.sqrt(scores.size * squares))


@njit(cache=True, nogil=True)
def invert(shares: NDArray[np.float64], numbers: NDArray[np.float64], indices: NDArray[np.int64]) -> None:
    """Write the place whose part of [0, 1) holds each number; never one of share 0."""
    ends = np.cumsum(shares)
    last = shares.size - 1
    while shares[last] == 0.0:
        last -= 1
    for i in range(numbers.size):
        indices[i] = min(np.searchsorted(ends, numbers[i] * ends[-1], side="right"), last)
