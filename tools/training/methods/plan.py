"""Types that methods share: what a method is given, and the plan of a training that it returns.

Notation
    N, T   rows, and epochs of the full run
    B      budget in (0, 1]; M = round(B N), at least 1
    f      factor: rows that a crop filter is given for each row trained on
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import nn

from drawstream.features import Tracker
from drawstream.features.table import FeatureTable
from drawstream.pipeline import Stream
from drawstream.pipeline.images import RICAP, Mixup
from drawstream.samplers.methods import Balanced, BatchSelector, balanced
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
        fall: Standard deviations by which the score of `soft-cap` falls per draw; None: 1.
        full_epochs: Spend the budget of ordered SGD on M rows of T epochs, and not on all rows of round(B T) epochs.
    """

    share: float = 1.0
    paper: bool = False
    uniform_epochs: int | None = None
    smoothing: bool = True
    last_only: bool = False
    full_epochs: bool = False
    fall: float | None = None

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ValueError(f"`0 < budget <= 1` must hold, but got {self.share}")

    def of(self, number: int, /) -> int:
        """Return B of a number, rounded, at least 1."""
        return max(1, round(self.share * number))


FULL = Budget()


@dataclass(frozen=True, slots=True)
class Balance:
    """How alike classes are drawn, see `samplers.methods.balance`.

    Attributes:
        balance: γ of any sampler: 0 as it is, 1 each class alike.
        effective_beta: β of `effective-number`, in [0, 1).
        defer_until: First balanced epoch of `deferred` and of the loss `drw`; None: four fifths of the epochs.
        repeat_threshold: Share of the rows below which `repeat-factors` repeats a class, in (0, 1].
    """

    balance: float = 0.0
    effective_beta: float = 0.9999
    defer_until: int | None = None
    repeat_threshold: float = 0.001

    def identity(self) -> dict[str, Any]:
        """Return what differs from the defaults; None elsewhere, which is as good as not there."""
        default = Balance()
        return {name: None if value == getattr(default, name) else value for name, value in asdict(self).items()}


AS_IT_IS = Balance()


@dataclass(frozen=True, slots=True)
class Clean:
    """How `clean` finds the rows whose label is right, see `features.CleanSampler`.

    Attributes:
        refresh: Epochs between refits; None: 3, and none with the table of an earlier training.
        clean_score: `margin` or `loss`; None: the margin.
        per_class: Fit a mixture to each class.
    """

    refresh: int | None = None
    clean_score: Literal["margin", "loss"] | None = None
    per_class: bool = False

    def identity(self) -> dict[str, Any]:
        """Return what differs from the defaults; None elsewhere, which is as good as not there."""
        return {"clean_score": self.clean_score, "refresh": self.refresh, "per_class": self.per_class or None}


REFRESH = 3  # epochs


def _no_table() -> FeatureTable | None:
    return None


def _refuse(*_: Any) -> Any:
    raise ValueError("the sampler needs an input that is not given")


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """Inputs of a method; a function is called only by the methods that need its value.

    Attributes:
        name: Of the method, or `module:factory`.
        rows: Images of the catalog.
        epochs: T.
        budget: B and variants.
        balance: Of the classes.
        where: Rows of the stream that may be drawn, bool; None: all.
        images: N, images that may be drawn; None: all.
        clean: Of `clean`.
        classes: Number of classes; None: as many as the labels name.
        tell: Takes a line for the user.
        seed: Of streams and choices.
        global_batch: Rows of a step over all ranks.
        mode: Of a stream of weights: stratified, multinomial or subset.
        factor: f.
        capped: Rows that are drawn uniformly for each one that weights keep (`Capped`); 1: rows are drawn by weights.
        labels: Of the rows of the stream, int64 (rows,); of several classes a row 0/1 (rows, C).
        column: A column of the feature table, float32 (N,).
        chosen: Name of the column that a user chose.
        embeddings: float32 (N, D), at the cost of a forward pass over all rows.
        table: The feature table, one row for each image; None where none is given.
        weights: Of a sampler.json or of a file of weights, float (rows,).
        schedule: The recorded orders.
    """

    name: str
    rows: int
    epochs: int
    budget: Budget = FULL
    balance: Balance = AS_IT_IS
    clean: Clean = field(default_factory=Clean)
    classes: int | None = None
    tell: Callable[[str], None] = lambda _: None
    where: NDArray[np.bool_] | None = None
    images: int | None = None
    seed: int = 0
    global_batch: int = 128
    mode: str = "stratified"
    factor: int = 1
    capped: int = 1
    labels: Callable[[], ArrayLike] = _refuse
    column: Callable[[str], ArrayLike] = _refuse
    chosen: str | None = None
    embeddings: Callable[[], ArrayLike] = _refuse
    table: Callable[[], FeatureTable | None] = _no_table
    weights: Callable[[], ArrayLike] = _refuse
    schedule: Callable[[], Schedule] = _refuse

    @property
    def draws(self) -> int:
        """Rows of an epoch, f M."""
        return self.factor * self.budget.of(self.whole)

    @property
    def whole(self) -> int:
        """Rows of a whole epoch, N."""
        return self.rows if self.images is None else self.images

    def named_column(self, usual: str | None = None, /) -> ArrayLike:
        """Return the column of the table that the user chose, or the usual one, float32 (N,).

        Raises:
            ValueError: None is chosen, and there is no usual one.
        """
        name = self.chosen or usual
        if name is None:
            raise ValueError(f"{self.name} reads a column of the --table: name it with --column")
        return self.column(name)

    def uniform(self, draws: int | None = None) -> IndexStream:
        """Return the stream of a part of a new permutation in every epoch, of f M rows by default; classes balanced."""
        source = self.balanced(np.ones(self.rows)) if self.balance.balance else self.rows
        return self.stream(source, draws=draws)

    def stream(self, source: Any, /, *, mode: str | None = None, draws: int | None = None) -> IndexStream:
        """Return the stream of weights or a row sampler over the rows that may be drawn, of f M draws by default."""
        length = self.draws if draws is None else draws
        return IndexStream(source, mode=mode, seed=self.seed, draws=length, where=self.where)

    def balanced(self, weights: ArrayLike, /) -> ArrayLike:
        """Return weights (rows,) under --balance, over the rows that may be drawn."""
        if not self.balance.balance:
            return weights
        kept = weights if self.where is None else np.where(self.where, weights, 0)
        return balanced(self.labels(), self.balance.balance, weights=kept)

    def balanced_sampler(self, sampler: Any, /) -> Any:
        """Return a row sampler under --balance, over the rows that may be drawn."""
        if not self.balance.balance:
            return sampler
        return Balanced(sampler, np.asarray(self.labels()), self.balance.balance, where=self.where)
