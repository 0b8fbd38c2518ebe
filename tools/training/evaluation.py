"""When a training is evaluated, on what, and by which metrics.

Notation
    n_c     rows of class c
    r_c     of them, those whose label has the highest logit
    f_c     of them, those whose label has one of the five highest
    top1    100 Σ r_c / Σ n_c;  top5  100 Σ f_c / Σ n_c;  balanced  mean of 100 r_c / n_c over the classes with rows
    AP_c    Σ_i (R_i − R_{i−1}) P_i over the distinct scores of class c, falling; R, P recall and precision there
    map     mean of 100 AP_c over the classes that some row has
    e_c     error of value c: model − label;  mae  mean of |e|;  rmse  root of the mean of e², over rows and values

Language models, whose score is a perplexity, will have a `Scores` of their own with other names of `METRICS`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from drawstream.pipeline import Loader
from drawstream.tools.training.descent import autocast
from drawstream.tools.training.ranks import Ranks
from drawstream.tools.training.recipe import Amp

Metric = Literal["top1", "top5", "balanced", "map", "rmse", "mae"]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """When a training is evaluated, and on what.

    Attributes:
        sets: Loaders of held-out sets by name; the first one decides the best epoch, by the main metric of its labels.
        every: Evaluate after each `every`-th epoch, and after the last.
        dist_bn: Before it, statistics of BatchNorm become their mean over the ranks (`reduce`), or those of rank 0
            (`broadcast`); else (`off`) each rank scores its rows by its own.
        tta: `flip`: outputs are the mean of those of an image and of its mirror image.
    """

    sets: Mapping[str, Loader] = field(default_factory=dict)
    every: int = 1
    dist_bn: Literal["reduce", "broadcast", "off"] = "reduce"
    tta: Literal["none", "flip"] = "none"

    @property
    def select(self) -> str | None:
        """Name of the set that decides the best epoch."""
        return next(iter(self.sets), None)

    def identity(self) -> dict[str, Any]:
        """Return what differs from the defaults; None elsewhere, which is as good as not there."""
        return {
            "dist_bn": None if self.dist_bn == "reduce" else self.dist_bn,
            "tta": None if self.tta == "none" else self.tta,
        }


NO_EVALUATION = Evaluation()


class Scores(Protocol):
    """Result of an evaluation."""

    def metrics(self) -> dict[str, float]:
        """All metrics by name, the main one first: per cent, or errors."""

    def per_class(self) -> list[float | None]:
        """The main metric of each class or value; None where there is nothing to tell."""


@dataclass(frozen=True, slots=True, eq=False)
class ClassScores:
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


@dataclass(frozen=True, slots=True, eq=False)
class MarkScores:
    """Logits float32 (rows, classes) of an evaluation, and labels uint8 (rows, classes)."""

    logits: NDArray[np.float32]
    labels: NDArray[np.uint8]

    def metrics(self) -> dict[str, float]:
        """mAP, per cent."""
        known = [each for each in self.per_class() if each is not None]
        return {"map": float(np.mean(known)) if known else float("nan")}

    def per_class(self) -> list[float | None]:
        """Average precision of each class, per cent; None for a class that no row has."""
        return [average_precision(*pair) for pair in zip(self.logits.T, self.labels.T, strict=True)]


def average_precision(scores: NDArray[np.float32], marks: NDArray[np.uint8], /) -> float | None:
    """Return the average precision of one class, per cent; rows of one score count at once. None without a mark.

    Args:
        scores: float (rows,), higher for rows that are held to have the class.
        marks: 0 or 1 (rows,).
    """
    order = np.argsort(-scores, kind="stable")
    right = np.cumsum(marks[order], dtype=np.int64)
    if not right[-1]:
        return None
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(order) - 1)
    precision, gained = right[ends] / (ends + 1), np.diff(right[ends], prepend=0)
    return 100 * float(precision @ gained) / float(right[-1])


@dataclass(frozen=True, slots=True, eq=False)
class ValueScores:
    """Sums of an evaluation over the rows, float64 (values,) each: of |e| and e²; and the number of rows."""

    absolute: NDArray[np.float64]
    squared: NDArray[np.float64]
    rows: int

    def metrics(self) -> dict[str, float]:
        """RMSE and MAE, in the unit of the values."""
        rmse, mae = np.sqrt(self.squared.mean() / self.rows), self.absolute.mean() / self.rows
        return {"rmse": float(rmse), "mae": float(mae)}

    def per_class(self) -> list[float | None]:
        """RMSE of each value."""
        return np.sqrt(self.squared / self.rows).tolist()  # type: ignore[no-any-return]


def evaluate(
    model: nn.Module, loader: Loader, /, *, amp: Amp = "off", ranks: Ranks | None = None, flip: bool = False
) -> Scores:
    """Evaluate a model over one pass of the ranks' loaders, by the labels' kind; rows of weight 0 (fill) do not count.

    Args:
        model: Gives outputs (n, classes).
        loader: Rows in any order.
        amp: Autocast.
        ranks: The processes.
        flip: Take the mean of the outputs of each image and of its mirror image.

    Raises:
        ValueError: The samples have no labels.
    """
    kind = loader.catalog.label_kind
    loader.catalog.require_labels("evaluation")
    found: Scores = _BY_KIND[kind](_Mirrored(model) if flip else model, loader, amp, ranks or Ranks())
    return found


class _Mirrored(nn.Module):
    """The mean of a model's outputs of each image and of its mirror image."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        found: Tensor = (self.model(images) + self.model(images.flip(3))) / 2
        return found


def _outputs(model: nn.Module, loader: Loader, amp: Amp) -> Iterator[tuple[Tensor, Tensor]]:
    """Outputs and labels of one pass, without fill."""
    device = next(model.parameters()).device
    loader.set_epoch(0)
    for batch in loader:
        with autocast(device, amp):
            outputs = model(batch.images)
        real = batch.weights > 0
        yield outputs.float()[real], batch.labels[real]


@torch.inference_mode()
def _evaluate_marks(model: nn.Module, loader: Loader, amp: Amp, ranks: Ranks) -> MarkScores:
    model.eval()
    pairs = [(z.cpu().numpy(), y.cpu().numpy()) for z, y in _outputs(model, loader, amp)]
    gathered = [each for rank in ranks.gather(pairs) for each in rank]
    logits, labels = (np.concatenate(each) for each in zip(*gathered, strict=True))
    return MarkScores(logits, labels)


@torch.inference_mode()
def _evaluate_values(model: nn.Module, loader: Loader, amp: Amp, ranks: Ranks) -> ValueScores:
    model.eval()
    device = next(model.parameters()).device
    sums = torch.zeros(3, loader.catalog.num_classes, device=device, dtype=torch.float64)
    for outputs, labels in _outputs(model, loader, amp):
        error = outputs.double() - labels
        sums += torch.stack([error.abs().sum(0), error.square().sum(0), torch.ones_like(error).sum(0)])
    absolute, squared, rows = ranks.total(sums).cpu().numpy()
    return ValueScores(absolute, squared, int(rows[0]))


@torch.inference_mode()
def _evaluate_classes(model: nn.Module, loader: Loader, amp: Amp, ranks: Ranks) -> ClassScores:
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
    return ClassScores(*ranks.total(counted).cpu().numpy())


_BY_KIND: dict[str, Any] = {"class": _evaluate_classes, "multi": _evaluate_marks, "value": _evaluate_values}


def top1(model: nn.Module, loader: Loader, /, *, amp: Amp = "off", ranks: Ranks | None = None) -> float:
    """Top-1 accuracy over one pass, per cent; arguments as of `evaluate`."""
    return evaluate(model, loader, amp=amp, ranks=ranks).metrics()["top1"]
