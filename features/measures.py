"""Measures of each row, from one forward pass of a model (METHODS: features of a row).

Notation
    n    rows of a batch             z    logits, float (n, C)          p = softmax(z)
    C    classes                     y    target class, int64 (n,)      q = softmax over the C − 1 logits j ≠ y
    h    input of the last linear layer, float (n, D)
    k    the largest logit but the target's
    m    margin log Σ_{j≠y} exp(z_j − z_y), the log odds against the target, nats, (n,)

All is computed in float32 from m and q: loss = log(1 + e^m), p_y = σ(−m), 1 − p_y = σ(m), p_j = (1 − p_y) q_j. So
nothing is lost where p_y goes to 1 (a loss of 1e-30 is not 0, and rows do not tie there) or where logits reach 1e4.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from drawstream.features.label_measures import KIND_MEASURES, REASONS, measure_kind
from drawstream.pipeline.labels import Kind

GradNorm = Literal["last", "logit", "full"]
MEASURES = KIND_MEASURES["class"]


def rivals(z: Tensor, y: Tensor, /) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the parts of m and q. The target is taken out first: dividing by 1 − p_y loses all digits near p_y = 1.

    Returns:
        m, (n,); the gaps g_j = z_k − z_j >= 0, ∞ at the target, (n, C); e_j = exp(−g_j), 0 at the target and at k,
        (n, C); and s = Σ_j e_j, (n,). All in the type of z, and differentiable.
    """
    rest = z.scatter(1, y[:, None], -torch.inf)
    top, k = rest.max(1, keepdim=True)
    g = top - rest
    e = (-g).exp().scatter(1, k, 0.0)
    s = e.sum(1)
    return (top - z.gather(1, y[:, None]))[:, 0] + s.log1p(), g, e, s


def sigmoid(x: Tensor, /) -> Tensor:
    """1 / (1 + e^-x), also where e^-x is no float32 (below −88, where torch's is 0)."""
    return torch.where(x < -80, x.clamp(max=0).exp(), x.sigmoid())


def grad_norm(m: Tensor, q2: Tensor, h: Tensor | None, /, *, bias: bool = True) -> Tensor:
    """Norm of the loss's gradient of each row, float32 (n,), nats per unit of weight.

    Args:
        m: Margins, (n,).
        q2: Σ_j q_j², (n,).
        h: Inputs of the last linear layer, (n, D): the exact norm over its weight and bias,
            ‖p − onehot(y)‖₂ · √(‖h‖² + 1); None: over the logits, ‖p − onehot(y)‖₂.
        bias: Whether that layer has a bias; without one the 1 is left out.
    """
    logit = sigmoid(m) * (1 + q2).sqrt()
    return logit if h is None else logit * (h.float().square().sum(1) + bias).sqrt()


def measure(z: Tensor, y: Tensor, h: Tensor | None, names: Sequence[str], /, *, bias: bool = True) -> dict[str, Tensor]:
    """The named measures of a batch, each float32 (n,); `h` None makes `grad_norm` that of the logits.

    Labels of other kinds than one class have those of `label_measures`.

    The entropy −Σ_{j≠y} q_j log q_j (Swift Sampler, Eq. 11) is log(1 + s) + Σ_j e_j g_j / (1 + s): no term is
    negative, so it keeps its digits near 0 too.
    """
    if y.ndim == 2:
        return measure_kind(z, y, h, names, bias=bias)
    z = z.float()
    m, g, e, s = rivals(z, y)
    compute = {
        "loss": lambda: F.softplus(m),
        "entropy": lambda: s.log1p() + (e * g.scatter(1, y[:, None], 0.0)).sum(1) / (1 + s),
        "grad_norm": lambda: grad_norm(m, (1 + e.square().sum(1)) / (1 + s).square(), h, bias=bias),
        "target_prob": lambda: sigmoid(m.neg()),
        "correct": lambda: (z.argmax(1) == y).float(),
    }
    return {name: compute[name]() for name in names}


def chosen_measures(names: Sequence[str] | None, classes: int, kind: Kind = "class") -> tuple[str, ...]:
    """Check the names of measures; None means all that are defined for that kind of labels and that many classes.

    Raises:
        ValueError: An unknown name, one that the kind cannot have, or renormed entropy with two classes, where it is 0
            for every row.
    """
    if names is None:
        return tuple(name for name in KIND_MEASURES[kind] if kind != "class" or classes > 2 or name != "entropy")
    unknown = [name for name in names if name not in MEASURES]
    if unknown:
        raise ValueError(f"unknown measure {unknown[0]!r}: give some of {', '.join(MEASURES)}")
    if lacking := [name for name in names if name not in KIND_MEASURES[kind]]:
        others = ", ".join(KIND_MEASURES[kind]) or "your own, --measure module:function"
        why = REASONS[kind][lacking[0]]
        raise ValueError(f"labels of kind {kind} have no measure {lacking[0]!r}, for {why}: take {others}")
    if kind == "class" and "entropy" in names and classes < 3:
        raise ValueError(
            f"the renormed entropy needs at least 3 classes, but there are {classes}: it would be 0 for every row"
        )
    return tuple(name for name in MEASURES if name in names)
