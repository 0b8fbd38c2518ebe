"""Builders of the methods that `table` names: from `Inputs` to a `TrainingPlan`.

What a run costs is counted by the loop (`accounting`), for B says what is trained on and not what is scored for it.
"""

from dataclasses import dataclass, field, replace

import numpy as np

from drawstream.features import FEW_WRONG, CleanSampler, clean_probabilities, find_suspects
from drawstream.samplers.methods import (
    CSGD,
    DLIS,
    PSGD,
    RAIS,
    BatchSelector,
    InfoBatch,
    OrderedSGD,
    RHOLoss,
    SelectiveBackprop,
    SoftCap,
    forgetting_coreset,
    highest_coreset,
    k_center,
    random_coreset,
)
from drawstream.samplers.orders import Capped, IndexStream, Order
from drawstream.tools.training.methods.plan import REFRESH, Inputs, LoopParts, TrainingPlan


def uniform(inputs: Inputs, /) -> TrainingPlan:
    """Draw a part of a new permutation in every epoch."""
    return TrainingPlan(inputs.uniform(), inputs.epochs)


def scan(inputs: Inputs, /) -> TrainingPlan:
    """Draw all rows in fewer epochs."""
    return TrainingPlan(inputs.uniform(inputs.whole), inputs.budget.of(inputs.epochs))


def weighted(inputs: Inputs, /) -> TrainingPlan:
    """Draw by fixed weights: of a sampler.json, or of a file; or keep a part of each batch by them."""
    weights = inputs.balanced(inputs.weights())
    if inputs.capped != 1:
        law = Capped(weights, inputs.draws, batch=inputs.global_batch, factor=inputs.capped)
        return TrainingPlan(IndexStream(law, seed=inputs.seed), inputs.epochs)
    return TrainingPlan(inputs.stream(weights, mode=inputs.mode), inputs.epochs)


def replay(inputs: Inputs, /) -> TrainingPlan:
    """Replay the recorded orders of a schedule."""
    schedule = inputs.schedule()
    if inputs.budget.share < 1:
        raise ValueError(f"{schedule.path}: a schedule fixes what is drawn: leave out --budget")
    if inputs.epochs > schedule.epochs:
        raise ValueError(
            f"{schedule.path} holds {schedule.epochs} epochs, but --epochs is {inputs.epochs}: train fewer"
        )
    return TrainingPlan(IndexStream(schedule, seed=inputs.seed), inputs.epochs)


def importance(inputs: Inputs, /) -> TrainingPlan:
    """Draw different rows by the importance that p-SGD or c-SGD learns."""
    chosen = inputs.budget.uniform_epochs
    kind, budget = PSGD if inputs.name.startswith("p") else CSGD, inputs.budget
    variant = {name: getattr(budget, name) for name in ("paper", "smoothing", "last_only")}
    learner = kind(inputs.rows, uniform_epochs=1 if chosen is None else chosen, **variant)
    stream = inputs.stream(inputs.balanced_sampler(learner), mode="subset")
    return TrainingPlan(stream, inputs.epochs, LoopParts(learner))


def robust(inputs: Inputs, /) -> TrainingPlan:
    """Draw rows with replacement by the worst gradient norm that RAIS holds possible, weighted 1 / (N p)."""
    chosen = inputs.budget.uniform_epochs
    learner = RAIS(inputs.rows, uniform_epochs=1 if chosen is None else chosen)
    stream = inputs.stream(inputs.balanced_sampler(learner), mode="multinomial")
    return TrainingPlan(stream, inputs.epochs, LoopParts(learner, weighted=True))


def soft_cap(inputs: Inputs, /) -> TrainingPlan:
    """Draw different rows by a column, in standard deviations, which falls each time a row is drawn."""
    scores = np.asarray(inputs.named_column(), np.float64)
    spread = scores.std()
    fall = 1.0 if inputs.budget.fall is None else inputs.budget.fall
    learner = SoftCap((scores - scores.mean()) / (spread or 1.0), fall=fall)
    stream = inputs.stream(inputs.balanced_sampler(learner), mode="subset")
    return TrainingPlan(stream, inputs.epochs, LoopParts(learner))


def clean(inputs: Inputs, /) -> TrainingPlan:
    """Draw by the probability that a row's label is right: by the table of an earlier training, or as this one goes."""
    given, table = inputs.clean, inputs.table()
    score, labels = given.clean_score or "margin", np.asarray(inputs.labels())
    if table is None:
        refresh = REFRESH if given.refresh is None else given.refresh
        learner = CleanSampler(labels, inputs.classes, refresh=refresh, score=score, per_class=given.per_class)
        return TrainingPlan(
            inputs.stream(inputs.balanced_sampler(learner), mode=inputs.mode), inputs.epochs, LoopParts(learner)
        )
    found = find_suspects(table, inputs.classes, method=score)
    few = f", fewer than {FEW_WRONG:.0%}: rows are drawn uniformly" if found.share < FEW_WRONG else ""
    inputs.tell(f"{found.share:.1%} of the labels are probably wrong{few}")
    p = clean_probabilities(found, labels, per_class=given.per_class)
    return TrainingPlan(inputs.stream(inputs.balanced(p), mode=inputs.mode), inputs.epochs)


def infobatch(inputs: Inputs, /) -> TrainingPlan:
    """Leave out some rows of low loss, and count the others of low loss for them."""
    pruning = InfoBatch(inputs.rows, epochs=inputs.budget.of(inputs.epochs), seed=inputs.seed)
    return TrainingPlan(Pruned(pruning), pruning.epochs, LoopParts(pruning, weighted=True))


def coreset(inputs: Inputs, /) -> TrainingPlan:
    """Draw the same part of the rows in every epoch, in new orders."""
    share, seed = inputs.budget.share, inputs.seed
    match inputs.name:
        case "coreset-random":
            core = random_coreset(inputs.labels(), share, seed=seed)
        case "coreset-forgetting":
            core = forgetting_coreset(inputs.column("forgetting"), inputs.column("learned"), share, seed=seed)
        case "coreset-el2n":
            core = highest_coreset(inputs.column("el2n"), share, seed=seed)
        case "coreset-column":
            core = highest_coreset(inputs.named_column(), share, seed=seed)
        case _:
            core = k_center(inputs.embeddings(), share, seed=seed)
    weights = np.zeros(inputs.rows, np.float32)
    weights[core] = 1
    stream = IndexStream(weights, mode="subset", draws=core.size, seed=seed)
    return TrainingPlan(stream, inputs.epochs, forward=inputs.rows if inputs.name == "coreset-k_center" else 0)


def selective_backprop(inputs: Inputs, /) -> TrainingPlan:
    """Score all rows, and train on about B of them, the higher their loss the likelier."""
    selector = SelectiveBackprop(budget=inputs.budget.share, seed=inputs.seed)
    stream = inputs.uniform(inputs.whole)
    return TrainingPlan(stream, inputs.epochs, LoopParts(selector=selector, global_batch=inputs.global_batch))


def ordered(inputs: Inputs, /) -> TrainingPlan:
    """Train on the largest losses of batches: all rows in fewer epochs, or M rows in each of all (`full_epochs`)."""
    parts = LoopParts(selector=OrderedSGD(batch_size=inputs.global_batch), global_batch=inputs.global_batch)
    if inputs.budget.full_epochs:
        return TrainingPlan(inputs.uniform(), inputs.epochs, parts)
    return replace(scan(inputs), parts=parts)


def selected(inputs: Inputs, /) -> TrainingPlan:
    """Draw as many rows for a step as DLIS or RHO-loss chooses from."""
    selector: BatchSelector = DLIS(seed=inputs.seed) if inputs.name == "dlis" else RHOLoss(inputs.named_column("loss"))
    parts = LoopParts(selector=selector, global_batch=inputs.global_batch)
    return TrainingPlan(inputs.uniform(selector.factor * inputs.draws), inputs.epochs, parts)


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
        """Key of the draws of the transform."""
        return self.pruning.seed

    @property
    def fingerprint(self) -> str:
        """Equal for runs with the same options; what was learnt is part of the sampler's own state."""
        pruning = self.pruning
        return f"infobatch {(pruning.rows, pruning.epochs, pruning.ratio, pruning.share, pruning.seed)}"

    def epoch(self, epoch: int, /) -> Order:
        """Return the order of an epoch, under the state when it was first asked for."""
        if self._kept is None or self._kept[0] != epoch:
            self._kept = epoch, self.pruning.stream(epoch).epoch(epoch)
        return self._kept[1]
