"""Long-tailed data: builders of the class-balanced methods, and the loss that is deferred in their place.

Notation
    N, C   rows and classes; n_c rows of class c; E_n = (1 − β^n) / (1 − β), effective number (Cui et al. 2019)
    T, s   epochs; the first one of deferred methods: 0.8 T, at most T − 1, as in the paper's code (160 of 200)
    l, y   cross-entropy (n,) and labels (n,) of a batch
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from drawstream.pipeline import Batch
from drawstream.samplers.methods import (
    Deferred,
    Progressive,
    balanced,
    class_weights,
    effective_number,
    repeat_factors,
)
from drawstream.tools.training.methods.plan import Inputs, TrainingPlan

DEFERRED = 0.8  # part of the epochs before s
BETA = 0.9999  # of the loss (Cao et al. 2019, code)


def deferred_start(epochs: int, given: int | None = None, what: str = "--sampler deferred", /) -> int:
    """Return s for T epochs.

    Raises:
        ValueError: A given one never comes.
    """
    if given is not None and given >= epochs:
        law = f"--defer-until {given} never comes in {epochs} epochs"
        raise ValueError(f"{law}: give an earlier one, from 0 on, or leave out {what}")
    return min(round(DEFERRED * epochs), epochs - 1) if given is None else given


def class_balanced(inputs: Inputs, /) -> TrainingPlan:
    """Draw by the classes of the rows: `balanced`, `effective-number`, `progressive`, `deferred`, `repeat-factors`."""
    balance, labels = inputs.balance, np.asarray(inputs.labels())
    kept = slice(None) if inputs.where is None else inputs.where
    match inputs.name:
        case "effective-number":
            found = effective_number(labels[kept], balance.effective_beta)
        case "repeat-factors":
            found = repeat_factors(labels[kept], balance.repeat_threshold)
        case _:
            found = balanced(labels[kept])
    weights = np.zeros(len(labels))
    weights[kept] = found
    source: NDArray[np.float64] | Progressive | Deferred = weights
    if inputs.name == "progressive":
        source = Progressive(weights, inputs.epochs)
    elif inputs.name == "deferred":
        source = Deferred(weights, deferred_start(inputs.epochs, balance.defer_until))
    return TrainingPlan(inputs.stream(source, mode=inputs.mode), inputs.epochs)


class DeferredReweighting(nn.Module):
    """DRW: cross-entropy, from epoch s on each row times C / E_{n_y} / Σ_c 1 / E_{n_c}.

    Deferred re-weighting (Cao et al., NeurIPS 2019, §3.3), which balances the loss in place of the draws.
    The mean over a batch divides by the sum of these weights, as `torch.nn.functional.cross_entropy(weight=…)` does.
    """

    weight: Tensor

    def __init__(
        self, counts: NDArray[np.int64], /, *, epochs: int, beta: float = BETA, start: int | None = None
    ) -> None:
        """Make it.

        Args:
            counts: int64 (C,), n_c.
            epochs: T.
            beta: β in [0, 1).
            start: s; None: four fifths of T.

        Raises:
            ValueError: s never comes.
        """
        super().__init__()
        self.start, self.beta = deferred_start(epochs, start, "--loss drw"), beta
        found = class_weights(counts, beta)
        self.register_buffer("weight", torch.from_numpy(found / found.mean()).float(), persistent=False)

    def forward(self, logits: Tensor, batch: Batch, epoch: int) -> Tensor:
        """Losses (n,), nats; their mean over the rows of weight above 0 is the loss."""
        losses = F.cross_entropy(logits, batch.labels, reduction="none")
        if epoch < self.start:
            return losses
        weights = self.weight.to(losses)[batch.labels]
        real = (batch.weights > 0).to(losses)
        return losses * weights * (real.sum() / (weights @ real))

    def extra_repr(self) -> str:
        """Return the settings that a record stores."""
        return f"beta={self.beta}, start={self.start}"


def deferred_reweighting(counts: NDArray[np.int64], epochs: int, defer_until: int | None) -> DeferredReweighting:
    """Return DRW for a training of T epochs on classes of these sizes."""
    return DeferredReweighting(counts, epochs=epochs, start=defer_until)
