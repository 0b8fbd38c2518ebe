"""Types that methods share: what a method is given, and the plan of a training that it returns.

Notation
    N, T   rows, and epochs of the full run
    B      budget in (0, 1]; M = round(B N), at least 1
    f      factor: rows that a crop filter is given for each row trained on
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import nn

from drawstream.features import Tracker
from drawstream.features.table import FeatureTable
from drawstream.pipeline import Stream
from drawstream.pipeline.images import RICAP, Mixup
from drawstream.samplers.methods import BatchSelector
from drawstream.samplers.orders import IndexStream, Schedule


class Learner(Protocol):
    """A row sampler that learns from the training passes: `PSGD`, `CSGD`, `InfoBatch`."""

    def observe(self, ids: Any, logits: Any, labels: Any, weights: Any = None, /) -> None:
        """Record a batch."""

    def reduce(self, total: Callable[[NDArray[np.int64]], NDArray[np.int64]] | None = None, /) -> None:
        """End an epoch, adding up over the ranks."""

    def state_dict(self) -> dict[str, Any]:
        """Return the learnt state."""

    def load_state_dict(self, state: Mapping[str, Any], /) -> None:
        """Restore a state."""


@dataclass(frozen=True, slots=True)
class LoopParts:
    """A method's parts in the training loop, beside its stream; uniform training has none.

    Attributes:
        learner: Watches the training passes; the loader's stream asks it for each epoch.
        selector: Chooses among the rows that the loader gives.
        global_batch: Rows of a step over all ranks, which a selector needs to know.
        weighted: Multiply the losses by the weights of the stream.
        mix: Mixes the images of a step. Learner and tracker then see the logits of the mixed image with the label of
            the row itself.
        mix_first: Mix a batch before a selector scores it, and not after.
        criterion: Called with (logits, batch, epoch), gives the loss of each row (n,), of which the mean is taken; its
            buffers are part of the checkpoint. None is cross-entropy; `robust` has others.
        tracker: Observes every step.
    """

    learner: Learner | None = None
    selector: BatchSelector | None = None
    global_batch: int = 0
    weighted: bool = False
    mix: Mixup | RICAP | None = None
    mix_first: bool = False
    criterion: nn.Module | None = None
    tracker: Tracker | None = None


NO_PARTS = LoopParts()


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    """A training as a method plans it.

    Attributes:
        stream: Of the loader.
        epochs: Of the run.
        parts: In the loop.
        forward: Rows that went forward for the choice of a core-set.
    """

    stream: Stream
    epochs: int
    parts: LoopParts = NO_PARTS
    forward: int = 0


@dataclass(frozen=True, slots=True)
class Budget:
    """How much of a full run is spent, and by which variant.

    Attributes:
        share: B.
        paper: Follow the text of the paper on p-SGD and c-SGD in place of its authors' code.
        uniform_epochs: Leading epochs that p-SGD, c-SGD and RAIS draw uniformly; None: 1.
        smoothing: Add the mean of all importances of p-SGD and c-SGD to each.
        last_only: Take the last epoch with a row for its importance, in place of the mean over its visits.
        full_epochs: Spend the budget of ordered SGD on M rows of T epochs, and not on all rows of round(B T) epochs.
    """

    share: float = 1.0
    paper: bool = False
    uniform_epochs: int | None = None
    smoothing: bool = True
    last_only: bool = False
    full_epochs: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ValueError(f"`0 < budget <= 1` must hold, but got {self.share}")

    def of(self, number: int, /) -> int:
        """Return B of a number, rounded, at least 1."""
        return max(1, round(self.share * number))


FULL = Budget()


def _no_table() -> FeatureTable | None:
    return None


def _refuse(*_: Any) -> Any:
    raise ValueError("the sampler needs an input that is not given")


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """Inputs of a method; a function is called only by the methods that need its value.

    Attributes:
        name: Of the method, or `module:factory`.
        rows: N.
        epochs: T.
        budget: B and variants.
        seed: Of streams and choices.
        global_batch: Rows of a step over all ranks.
        mode: Of a stream of weights: stratified, multinomial or subset.
        factor: f.
        capped: Rows that are drawn uniformly for each one that weights keep (`Capped`); 1: rows are drawn by weights.
        irreducible: Name of the column of RHO's irreducible losses.
        labels: int64 (N,).
        column: A column of the feature table, float32 (N,).
        embeddings: float32 (N, D), at the cost of a forward pass over all rows.
        table: The feature table, one row for each image; None where none is given.
        weights: Of a sampler.json or of a file of weights, float (rows,).
        schedule: The recorded orders.
    """

    name: str
    rows: int
    epochs: int
    budget: Budget = FULL
    seed: int = 0
    global_batch: int = 128
    mode: str = "stratified"
    factor: int = 1
    capped: int = 1
    irreducible: str = "loss"
    labels: Callable[[], ArrayLike] = _refuse
    column: Callable[[str], ArrayLike] = _refuse
    embeddings: Callable[[], ArrayLike] = _refuse
    table: Callable[[], FeatureTable | None] = _no_table
    weights: Callable[[], ArrayLike] = _refuse
    schedule: Callable[[], Schedule] = _refuse

    @property
    def draws(self) -> int:
        """Rows of an epoch, f M."""
        return self.factor * self.budget.of(self.rows)

    def uniform(self, factor: int = 1) -> IndexStream:
        """Return the stream of a part of a new permutation in every epoch, `factor` times as long."""
        return IndexStream(self.rows, seed=self.seed, draws=factor * self.draws)
