"""Batch selectors: which rows of a batch are trained on, chosen from the batch's own scores.

Notation
    n, s   rows of the batch given, s where the method's paper says so
    l      scores, float64 (n,): losses in nats (`scores` = "loss"), or ‖p − onehot(y)‖₂ ("grad_norm")
    B      share of the rows kept; b = 1/B − 1, so that B = 1 / (b + 1)
    u      uniform number in [0, 1) of a place in the batch, a function of (seed, epoch, step) alone

Every selector has this surface, so that one loop serves all:

    factor      rows given per row trained, so the batches to ask the loader for
    scores      which scores to give
    before      whether they must come from a scoring pass before the training pass; else the training pass gives them
    select      the choice; the loss to train on is mean(weights * losses[indices])
    state_dict  what it has learnt, `load_state_dict` goes on from there

With several ranks the choice is one over the global batch: gather the scores of all ranks in rank order and give all
of them to `select` on every rank. Each then makes the same choice, bit for bit, and holds the same state.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numba import njit
from numpy.typing import NDArray

from drawstream.samplers import derive_keys, random_bits, whole_number
from drawstream.samplers.methods.state import Stateful, check_array
from drawstream.samplers.methods.visits import to_array

__all__ = ["BatchSelector", "OrderedSGD", "Selected", "SelectiveBackprop", "all_rows", "check_scores", "select_largest"]

_ACCURACIES = (80.0, 90.0, 95.0, 99.5)  # percent: default of Kawaguchi and Lu, AISTATS 2020


class Selected(NamedTuple):
    """The rows of a batch to train on.

    Attributes:
        indices: int64 (k,), places in the batch given, each in [0, n); rising but for DLIS, which draws.
        weights: float32 (k,), factors of their losses; all 1 but for DLIS.
    """

    indices: NDArray[np.int64]
    weights: NDArray[np.float32]


@runtime_checkable
class BatchSelector(Protocol):
    """Interface of a selector for a training loop; see the module."""

    @property
    def factor(self) -> int:
        """Number of rows given per row trained."""

    @property
    def scores(self) -> Literal["loss", "grad_norm"]:
        """Name of the scores to give."""

    @property
    def before(self) -> bool:
        """Return whether the scores must come from a pass before the training pass."""

    def select(self, scores: Any, /, *, epoch: int, step: int, ids: Any) -> Selected:
        """Choose rows of the global batch.

        Args:
            scores: float (n,), what `scores` names, of the n rows of the global batch in their order; nats.
            epoch: number of the epoch, from 0.
            step: number of the global batch in the epoch; with the epoch it keys the draws.
            ids: int (n,), rows of the stream; only RHO-Loss looks at them.
        """

    def state_dict(self) -> dict[str, Any]:
        """Return a copy of the state."""

    def load_state_dict(self, state: Mapping[str, Any], /) -> None:
        """Go on where `state_dict` was called."""


class SelectiveBackprop(Stateful):
    """Selective backprop: keep a row with probability F(loss)^b, F its rank among the last losses (Jiang et al., 2019).

        >>> from drawstream import SelectiveBackprop
        >>> selector = SelectiveBackprop(budget=0.3, seed=0)
        >>> kept = selector.select([0.1, 2.3, 0.7, 0.2], epoch=1, step=0).indices

    F(x) is the share of the last `history` losses that are strictly below x; the batch enters the history before it
    is judged. The first epoch keeps all rows, and its losses enter the history too. Kept rows are gathered until they
    fill a batch, which is then trained on. Over losses that come from one law 1 / (b + 1) = B of the rows are kept.

    Args:
        budget: B, in (0, 1]; at 1 all are kept.
        history: R, losses remembered; 1024 in the authors' code.
        seed: in [0, 2^64).

    Raises:
        ValueError: an argument is out of range.
    """

    factor = 1
    scores: Literal["loss"] = "loss"
    before = True

    def __init__(self, *, budget: float, history: int = 1024, seed: int = 0) -> None:
        history, seed = whole_number(history, "history"), whole_number(seed, "seed")
        if not 0 < budget <= 1 or history < 1:
            raise ValueError(f"0 < budget <= 1 and history >= 1 must hold, but got {budget=} and {history=}")
        derive_keys(1, seed)
        self.budget, self.history, self.seed = float(budget), history, seed
        self.power = 1.0 / self.budget - 1.0
        self._losses: NDArray[np.float64] = np.empty(history)
        self._seen = 0

    def __repr__(self) -> str:
        return f"SelectiveBackprop({self.budget})"

    def select(self, scores: Any, /, *, epoch: int, step: int, ids: Any = None) -> Selected:  # noqa: ARG002 - one surface
        """Choose rows of the global batch.

        Args:
            scores: losses, float (n,), of a forward pass on the batch; array or tensor.
            epoch: number of the epoch; all rows of epoch 0 are kept.
            step: number of the batch in the epoch.
            ids: not used.

        Raises:
            ValueError: losses are not finite or not (n,), or a number is negative.
        """
        losses = check_scores(scores)
        remember(losses, self._losses, self._seen)
        self._seen += losses.size
        if epoch == 0 or self.power == 0.0:
            return all_rows(losses.size)
        key0, key1 = derive_keys(2, "selective backprop", self.seed, epoch, step)
        known = self._losses[: min(self._seen, self.history)]
        indices = np.empty(losses.size, dtype=np.int64)
        kept = indices[: keep_by_rank(losses, known, self.power, key0, key1, indices)]
        return Selected(kept, np.ones(kept.size, dtype=np.float32))

    def state_dict(self) -> dict[str, Any]:
        """Return a copy of the state: numbers and a float64 array; the same on every rank."""
        return {**self._identity(), "seen": self._seen, "losses": self._losses[: min(self._seen, self.history)].copy()}

    def load_state_dict(self, state: Mapping[str, Any], /) -> None:
        """Go on where `state_dict` was called.

        Raises:
            ValueError: the state is of another selector (both sides are shown), or damaged.
        """
        super().load_state_dict(state)
        seen = int(state["seen"])
        known = self._losses[: min(seen, self.history)]
        known[:] = check_array(state, "losses", known)
        self._seen = seen

    def _identity(self) -> dict[str, Any]:
        return {"selector": "sb", "budget": self.budget, "history": self.history, "seed": self.seed}


class OrderedSGD(Stateful):
    """Ordered SGD: train on the q largest losses of the batch (Kawaguchi and Lu, AISTATS 2020).

        >>> from drawstream import OrderedSGD
        >>> selector = OrderedSGD()
        >>> selector.set_accuracy(92.5)          # after each epoch: accuracy on the training data so far, percent
        >>> selector.select([0.1, 2.3, 0.7, 0.2], epoch=0, step=0).indices.tolist()
        [1]

    q = s, and s/2, s/4, s/8, s/16 (rounded down, at least 1) once the training accuracy has reached 80, 90, 95, 99.5 %;
    it never rises again. Of a short last batch of n rows it is min(q, n). Equal losses: the first rows are taken.
    Losses come from the training pass itself, of which only the part back is smaller. Nothing is drawn.

    Args:
        batch_size: s, rows of a full global batch; None: those of each batch given.

    Raises:
        ValueError: batch_size < 1.
    """

    factor = 1
    scores: Literal["loss"] = "loss"
    before = False
    _kept: ClassVar[Mapping[str, str]] = {"halvings": "halvings"}

    def __init__(self, *, batch_size: int | None = None) -> None:
        self.batch_size = None if batch_size is None else whole_number(batch_size, "batch_size")
        if self.batch_size is not None and self.batch_size < 1:
            raise ValueError(f"batch_size >= 1 must hold, but got {batch_size}")
        self.halvings = 0

    def __repr__(self) -> str:
        return f"OrderedSGD(s/{1 << self.halvings})"

    def set_accuracy(self, percent: float, /) -> None:
        """Tell the accuracy on the training data.

        Args:
            percent: top-1; q is halved, for good, where it reaches 80, 90, 95 and 99.5.

        Raises:
            ValueError: not in [0, 100].
        """
        if not 0 <= percent <= 100:
            raise ValueError(f"0 <= accuracy <= 100 (percent) must hold, but got {percent}")
        self.halvings = max(self.halvings, sum(percent >= least for least in _ACCURACIES))

    def select(self, scores: Any, /, *, epoch: int = 0, step: int = 0, ids: Any = None) -> Selected:  # noqa: ARG002
        """Choose the q largest losses of the global batch, `scores`; `epoch`, `step` and `ids` count for nothing.

        Errors as `SelectiveBackprop`.
        """
        losses = check_scores(scores)
        return select_largest(losses, max(1, (self.batch_size or losses.size) >> self.halvings))

    def _identity(self) -> dict[str, Any]:
        return {"selector": "osgd"}


def check_scores(scores: Any, /) -> NDArray[np.float64]:
    """Return the scores of a batch, float64 (n,).

    Raises:
        ValueError: no scores, or not finite.
    """
    found = to_array(scores, np.float64)
    if found.ndim != 1 or not found.size:
        raise ValueError(f"scores must be (n,) with n >= 1, but got {found.shape}")
    at = first_unfit(found)
    if at >= 0:
        raise ValueError(f"scores must be finite, but place {at} has {found[at]}: lower the learning rate")
    return found


def select_largest(scores: NDArray[np.float64], count: int, /) -> Selected:
    """Return the `count` places with the largest scores, rising, all if there are fewer; of equal ones the first."""
    if count >= scores.size:
        return all_rows(scores.size)
    largest = np.sort(np.argsort(-scores, kind="stable")[:count])
    return Selected(largest, np.ones(largest.size, dtype=np.float32))


def all_rows(count: int, /) -> Selected:
    """Keep all places of a batch, with weight 1."""
    return Selected(np.arange(count, dtype=np.int64), np.ones(count, dtype=np.float32))


@njit(cache=True, nogil=True)
def first_unfit(scores: NDArray[np.float64]) -> int:
    """Return the first place that is not finite, or -1: one pass, where NumPy makes three."""
    for i in range(scores.size):
        if not np.isfinite(scores[i]):
            return i
    return -1


@njit(cache=True, nogil=True)
def remember(losses: NDArray[np.float64], history: NDArray[np.float64], seen: int) -> None:
    """Write losses into the ring `history` (R,), which has seen `seen` of them."""
    for i in range(losses.size):
        history[(seen + i) % history.size] = losses[i]


@njit(cache=True, nogil=True)
def keep_by_rank(
    losses: NDArray[np.float64],
    known: NDArray[np.float64],
    power: float,
    key0: Any,
    key1: Any,
    indices: NDArray[np.int64],
) -> int:
    """Write the places kept into `indices` (n,), rising; return how many."""
    kept = 0
    for i in range(losses.size):
        below = 0
        for j in range(known.size):
            below += known[j] < losses[i]
        u = np.float64(random_bits(i, key0, key1) >> np.uint64(11)) * 2.0**-53
        if u < (below / known.size) ** power:
            indices[kept] = i
            kept += 1
    return kept
