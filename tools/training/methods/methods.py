"""Methods of budgeted training by name: what each draws, what it does in the loop, and for how many epochs.

Notation
    N, T   rows, and epochs of the full run
    B      budget in (0, 1]; M = round(B N), at least 1
    f      factor: rows that a selector is given for each row trained on

    name                rows of an epoch                         epochs        in the loop
    unif                M, a part of a new permutation           T
    scan                all N                                    round(B T)
    p, c                M distinct ones by importance            T             `PSGD`, `CSGD` observe
    infobatch           N but for the pruned                     round(B T)    `InfoBatch` observes; weighted losses
    coreset-…           the same M, in new orders                T
    sb                  all N, of which about B are kept         T             `SelectiveBackprop`
    osgd                as unif                                  T             `OrderedSGD`
    dlis, rho           f M, of which M are trained on           T             `DLIS`, `RHOLoss`

What a run costs is counted by the loop (`accounting`), for B says what is trained on and not what is scored for it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from drawstream.pipeline import RICAP, Mixup
from drawstream.pipeline.place import Stream
from drawstream.samplers import (
    CSGD,
    DLIS,
    PSGD,
    BatchSelector,
    IndexStream,
    InfoBatch,
    Order,
    OrderedSGD,
    RHOLoss,
    SelectiveBackprop,
    forgetting_coreset,
    k_center,
    random_coreset,
)

NAMES = (
    "unif",
    "scan",
    "p",
    "c",
    "infobatch",
    "coreset-random",
    "coreset-forgetting",
    "coreset-k_center",
    "sb",
    "osgd",
    "dlis",
    "rho",
)
WARMUP = 1  # leading epochs of p and c


class Learner(Protocol):
    """A row sampler that learns from the training passes: `PSGD`, `CSGD`, `InfoBatch`."""

    def observe(self, ids: Any, logits: Any, labels: Any, weights: Any = None, /) -> None:
        """Take note of a batch."""

    def reduce(self, total: Callable[[NDArray[np.int64]], NDArray[np.int64]] | None = None, /) -> None:
        """End an epoch, adding up over the ranks."""

    def state_dict(self) -> dict[str, Any]:
        """Return the learnt state."""

    def load_state_dict(self, state: Mapping[str, Any], /) -> None:
        """Go on from there."""


@dataclass(frozen=True, slots=True)
class Method:
    """A method's parts in the training loop, beside its stream; uniform training has none.

    Attributes:
        learner: Watches the training passes; the loader's stream asks it for each epoch.
        selector: Chooses among the rows that the loader gives.
        batch_size: Rows of a step over all ranks, which a selector needs to know.
        weighted: Whether the losses are multiplied by the weights of the stream.
        mix: Mixes the images of a step. Learner and tracker then see the logits of the mixed image with the label of
            the row itself.
    """

    learner: Learner | None = None
    selector: BatchSelector | None = None
    batch_size: int = 0
    weighted: bool = False
    mix: Mixup | RICAP | None = None


PLAIN = Method()


@dataclass(frozen=True, slots=True)
class Plan:
    """A budgeted run: what `train` is given.

    Attributes:
        stream: Of the loader.
        epochs: Of the run.
        method: What is done in the loop.
        forward: Rows that went forward for the choice of a core-set.
    """

    stream: Stream
    epochs: int
    method: Method = PLAIN
    forward: int = 0


@dataclass(frozen=True, slots=True)
class Inputs:
    """Inputs that a method may ask for; each is computed on request.

    Attributes:
        labels: int64 (N,).
        column: A column of the feature table, float32 (N,); an error of one line where there is none.
        embeddings: float32 (N, D), at the cost of a forward pass over all rows.
        irreducible: Name of the column of RHO's irreducible losses.
    """

    labels: Callable[[], ArrayLike]
    column: Callable[[str], ArrayLike]
    embeddings: Callable[[], ArrayLike]
    irreducible: str = "loss"


@dataclass(frozen=True, slots=True)
class Budget:
    """How much of a full run is spent, and by which variant.

    Attributes:
        share: B.
        paper: Follow the text of the paper on p-SGD and c-SGD in place of its authors' code.
        warmup: Leading epochs that p-SGD and c-SGD draw uniformly; None: `WARMUP`.
    """

    share: float = 1.0
    paper: bool = False
    warmup: int | None = None

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ValueError(f"`0 < budget <= 1` must hold, but got {self.share}")

    def require(self, name: str | None, /) -> None:
        """Refuse variants that the sampler of this name does not have.

        Raises:
            ValueError: `paper` or `warmup` without p or c.
        """
        if (self.paper or self.warmup is not None) and name not in ("p", "c"):
            raise ValueError(f"--paper and --warmup are for p and c, but the sampler is {name}: leave them out")

    def of(self, number: int, /) -> int:
        """B of a number, rounded, at least 1."""
        return max(1, round(self.share * number))


def plan(name: str, rows: int, epochs: int, budget: Budget, inputs: Inputs, /, *, batch_size: int, seed: int) -> Plan:
    """Plan the training of a method within a budget.

    Args:
        name: One of `NAMES`.
        rows: N.
        epochs: T.
        budget: B and variants.
        inputs: What the method may ask for.
        batch_size: Rows of a step over all ranks.
        seed: Of streams and choices.

    Raises:
        ValueError: An unknown name, or an option or input that does not fit the method.
    """
    draws = budget.of(rows)
    uniform = IndexStream(rows, seed=seed, draws=draws)
    match name:
        case "unif":
            return Plan(uniform, epochs)
        case "scan":
            return Plan(IndexStream(rows, seed=seed), budget.of(epochs))
        case "p" | "c":
            warmup = WARMUP if budget.warmup is None else budget.warmup
            learner = (PSGD if name == "p" else CSGD)(rows, warmup=warmup, paper=budget.paper)
            stream = IndexStream(learner, mode="subset", draws=draws, seed=seed)
            return Plan(stream, epochs, Method(learner))
        case "infobatch":
            pruning = InfoBatch(rows, epochs=budget.of(epochs), seed=seed)
            return Plan(Pruned(pruning), pruning.epochs, Method(pruning, weighted=True))
        case "coreset-random" | "coreset-forgetting" | "coreset-k_center":
            core = _coreset(name, budget.share, inputs, seed)
            weights = np.zeros(rows, np.float32)
            weights[core] = 1
            stream = IndexStream(weights, mode="subset", draws=core.size, seed=seed)
            return Plan(stream, epochs, forward=rows if name == "coreset-k_center" else 0)
        case "sb":
            selector: BatchSelector = SelectiveBackprop(budget=budget.share, seed=seed)
            return Plan(IndexStream(rows, seed=seed), epochs, Method(selector=selector, batch_size=batch_size))
        case "osgd":
            return Plan(uniform, epochs, Method(selector=OrderedSGD(), batch_size=batch_size))
        case "dlis" | "rho":
            selector = DLIS(seed=seed) if name == "dlis" else RHOLoss(inputs.column(inputs.irreducible))
            stream = IndexStream(rows, seed=seed, draws=selector.factor * draws)
            return Plan(stream, epochs, Method(selector=selector, batch_size=batch_size))
    raise ValueError(f"the sampler must be a file or one of {', '.join(NAMES)}, but got {name!r}")


def _coreset(name: str, share: float, inputs: Inputs, seed: int) -> NDArray[np.int64]:
    match name:
        case "coreset-random":
            return random_coreset(inputs.labels(), share, seed=seed)
        case "coreset-forgetting":
            return forgetting_coreset(inputs.column("forgetting"), inputs.column("learned"), share, seed=seed)
    return k_center(inputs.embeddings(), share, seed=seed)


@dataclass(slots=True)
class Pruned:
    """The epochs of `InfoBatch` as a stream; an epoch keeps its order while the next one is learnt."""

    pruning: InfoBatch
    _kept: tuple[int, Order] | None = field(default=None, init=False)

    @property
    def rows(self) -> int:
        """Number of rows that it draws from."""
        return self.pruning.rows

    @property
    def seed(self) -> int:
        """Keys the draws of the transform."""
        return self.pruning.seed

    @property
    def fingerprint(self) -> str:
        """Equal for runs with the same options; what was learnt is part of the sampler's own state."""
        pruning = self.pruning
        return f"infobatch {(pruning.rows, pruning.epochs, pruning.ratio, pruning.share, pruning.seed)}"

    def epoch(self, epoch: int, /) -> Order:
        """The order of an epoch, under the state when it was first asked for."""
        if self._kept is None or self._kept[0] != epoch:
            self._kept = epoch, self.pruning.stream(epoch).epoch(epoch)
        return self._kept[1]
