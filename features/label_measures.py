"""Losses and measures of rows whose labels are several classes or values; those of one class are in `measures`.

Notation
    n, C   rows of a batch, and classes or values
    z      outputs of the model, float (n, C): logits of classes, or values
    y      labels of the kind multi, 0 or 1, or of the kind value, (n, C)
    h      input of the last linear layer, float (n, D)

multi: loss = mean_c log(1 + exp((1 − 2 y_c) z_c)), the mean binary cross-entropy in nats; gradient over z
(σ(z_c) − y_c) / C; entropy = Σ_c H(σ(z_c)), the sum of the binary entropies. value: loss = mean_c (z_c − y_c)²,
gradient 2 (z_c − y_c) / C. Losses and gradients are those of `torch.nn.functional`'s means, which training takes.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from drawstream.pipeline.labels import Kind

KIND_MEASURES: dict[Kind, tuple[str, ...]] = {
    "class": ("loss", "entropy", "grad_norm", "target_prob", "correct"),
    "multi": ("loss", "entropy", "grad_norm", "correct"),
    "value": ("loss", "grad_norm"),
    "none": (),
}
REASONS: dict[Kind, dict[str, str]] = {
    "class": {},
    "multi": {"target_prob": "a row has several labels, not one"},
    "value": {
        "entropy": "a model of values gives no probabilities",
        "target_prob": "a model of values gives no probabilities",
        "correct": "a value is near its label, never right",
    },
    "none": dict.fromkeys(("loss", "entropy", "grad_norm", "target_prob", "correct"), "it compares with a label"),
}


def kind_of_batch(labels: Tensor, /) -> Kind:
    """Return the kind of a batch of labels by their shape and type, as `pipeline.labels` says."""
    if labels.ndim == 1:
        return "class"
    if labels.shape[1] == 0:
        return "none"
    return "multi" if labels.dtype == torch.uint8 else "value"


def label_losses(outputs: Tensor, labels: Tensor, /) -> Tensor:
    """Return the loss of each row by the kind of its label, (n,).

    Args:
        outputs: Of a model, float (n, C).
        labels: Of a batch: int64 (n,) gives cross-entropy, uint8 (n, C) the mean binary cross-entropy of the logits,
            float32 (n, C) the mean squared error.

    Raises:
        ValueError: There are no labels: the loss must be your own.
    """
    kind = kind_of_batch(labels)
    if kind == "class":
        return F.cross_entropy(outputs, labels, reduction="none")
    if kind == "none":
        raise ValueError("samples without labels have no loss: give your own, --loss module:factory")
    if kind == "multi":
        return F.binary_cross_entropy_with_logits(outputs, labels.to(outputs.dtype), reduction="none").mean(1)
    return F.mse_loss(outputs.float(), labels, reduction="none").mean(1)


def measure_kind(z: Tensor, y: Tensor, h: Tensor | None, names: Sequence[str], /, *, bias: bool) -> dict[str, Tensor]:
    """Return the named measures of rows with several classes or values, each float32 (n,); arguments as `measure`."""
    if not names:
        return {}
    z, count = z.float(), z.shape[1]
    layer = z.new_ones(()) if h is None else (h.float().square().sum(1) + bias).sqrt()
    if kind_of_batch(y) == "value":
        error = z - y
        norm: Tensor = torch.linalg.vector_norm(error, dim=1)
        found = {"loss": error.square().mean(1), "grad_norm": 2 / count * norm * layer}
        return {name: found[name] for name in names}
    against = torch.where(y > 0, -z, z)  # log odds against the label of each class
    size = z.abs()
    compute: dict[str, Callable[[], Tensor]] = {
        "loss": lambda: F.softplus(against).mean(1),
        "entropy": lambda: (F.softplus(-size) + size * (-size).sigmoid()).sum(1),
        "grad_norm": lambda: torch.linalg.vector_norm(against.sigmoid(), dim=1) / count * layer,
        "correct": lambda: torch.eq(z > 0, y > 0).all(1).float(),
    }
    return {name: compute[name]() for name in names}
