"""When a training is evaluated, on what, and by which metrics.

Notation
    n_c     rows of class c
    r_c     of them, those whose label has the highest logit
    f_c     of them, those whose label has one of the five highest
    top1    100 Σ r_c / Σ n_c;  top5  100 Σ f_c / Σ n_c;  balanced  mean of 100 r_c / n_c over the classes with rows

Language models, whose score is a perplexity, will have a `Scores` of their own with other names of `METRICS`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from drawstream.pipeline import Loader
from drawstream.tools.training.descent import autocast
from drawstream.tools.training.ranks import Ranks
from drawstream.tools.training.recipe import Amp

Metric = Literal["top1", "top5", "balanced"]
METRICS: dict[Metric, str] = {"top1": "top-1", "top5": "top-5", "balanced": "balanced accuracy"}


@dataclass(frozen=True, slots=True)
class Evaluation:
    """When a training is evaluated, and on what.

    Attributes:
        sets: Loaders of held-out sets by name; the first one decides the best epoch, by its top-1.
        every: Evaluate after each `every`-th epoch, and after the last.
    """

    sets: Mapping[str, Loader] = field(default_factory=dict)
    every: int = 1

    @property
    def select(self) -> str | None:
        """Name of the set that decides the best epoch."""
        return next(iter(self.sets), None)


NO_EVALUATION = Evaluation()


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """Counts of an evaluation by class, int64 (classes,) each: rows n, right r, and right among the first five f."""

    rows: NDArray[np.int64]
    right: NDArray[np.int64]
    near: NDArray[np.int64]

    def metrics(self) -> dict[str, float]:
        """All metrics by name, per cent."""
        rows, there = self.rows.sum(), self.rows > 0
        balanced = 100 * (self.right[there] / self.rows[there]).mean()
        top1, top5 = (100 * float(part.sum()) / float(rows) for part in (self.right, self.near))
        return {"top1": top1, "top5": top5, "balanced": float(balanced)}

    def per_class(self) -> list[float | None]:
        """Top-1 of each class, per cent; None for a class without rows."""
        pairs = zip(self.right.tolist(), self.rows.tolist(), strict=True)
        return [100 * right / rows if rows else None for right, rows in pairs]


@torch.inference_mode()
def evaluate(model: nn.Module, loader: Loader, /, *, amp: Amp = "off", ranks: Ranks | None = None) -> Scores:
    """Counts over one pass of the ranks' loaders; rows of weight 0 (fill) do not count."""
    device = next(model.parameters()).device
    model.eval()
    counted = torch.zeros(3, loader.catalog.num_classes, device=device, dtype=torch.int64)
    loader.set_epoch(0)
    for batch in loader:
        with autocast(device, amp):
            logits = model(batch.images)
        labels, real = batch.labels, batch.weights > 0
        first = logits.topk(min(5, logits.shape[1])).indices == labels[:, None]
        found = torch.stack([real, (logits.argmax(1) == labels) & real, first.any(1) & real])
        counted.index_add_(1, labels, found.long())
    return Scores(*(ranks or Ranks()).total(counted).cpu().numpy())


def top1(model: nn.Module, loader: Loader, /, *, amp: Amp = "off", ranks: Ranks | None = None) -> float:
    """Top-1 accuracy over one pass, per cent; arguments as of `evaluate`."""
    return evaluate(model, loader, amp=amp, ranks=ranks).metrics()["top1"]
