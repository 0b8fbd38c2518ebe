"""What a model says of each row, from one forward pass (METHODS: features of a row).

Notation
    n    rows of a batch             z    logits, float (n, C)          p = softmax(z)
    C    classes                     y    target class, int64 (n,)      h    input of the last linear layer, float (n, D)

Everything is computed in float32 from log-probabilities, so that nothing is lost where p_y goes to 1 or logits reach 1e4.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

GradNorm = Literal["last", "logit"]
MEASURES = ("loss", "entropy", "grad_norm", "target_prob", "correct")


def loss(log_p: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy −log p_y, nats, float32 (n,)."""
    return -log_p.gather(1, y[:, None])[:, 0]


def renormed_entropy(z: Tensor, y: Tensor) -> Tensor:
    """Entropy of the softmax over the C − 1 non-target logits, nats, float32 (n,) (Swift Sampler, Eq. 11).

    The target is removed before the softmax; dividing by 1 − p_y would lose all digits where p_y is near 1.
    """
    others = z.scatter(1, y[:, None], -torch.inf)
    log_q = F.log_softmax(others, dim=1).scatter(1, y[:, None], 0.0)  # 0 · log 0 = 0: the target adds nothing
    q = log_q.exp().scatter(1, y[:, None], 0.0)
    return -(q * log_q).sum(1)


def grad_norm(log_p: Tensor, y: Tensor, h: Tensor | None) -> Tensor:
    """Norm of the loss's gradient of each row, float32 (n,), nats per unit of weight.

    Args:
        log_p: Log-probabilities, (n, C).
        y: Targets, (n,).
        h: Inputs of the last linear layer, (n, D): the exact norm over its weight and bias,
            ‖p − onehot(y)‖₂ · √(‖h‖² + 1); None: over the logits, ‖p − onehot(y)‖₂.
    """
    p = log_p.exp()
    missing = -torch.expm1(log_p.gather(1, y[:, None]))  # 1 − p_y without cancellation
    logit = p.scatter(1, y[:, None], missing).norm(dim=1)
    return logit if h is None else logit * (h.float().square().sum(1) + 1).sqrt()


def measure(z: Tensor, y: Tensor, h: Tensor | None, names: Sequence[str]) -> dict[str, Tensor]:
    """The named measures of a batch, each float32 (n,); `h` None makes `grad_norm` that of the logits."""
    z = z.float()
    log_p = F.log_softmax(z, dim=1)
    compute = {
        "loss": lambda: loss(log_p, y),
        "entropy": lambda: renormed_entropy(z, y),
        "grad_norm": lambda: grad_norm(log_p, y, h),
        "target_prob": lambda: log_p.gather(1, y[:, None])[:, 0].exp(),
        "correct": lambda: (z.argmax(1) == y).float(),
    }
    return {name: compute[name]() for name in names}


def chosen_measures(names: Sequence[str] | None, classes: int) -> tuple[str, ...]:
    """Check the names of measures; None means all that are defined for that many classes.

    Raises:
        ValueError: An unknown name, or renormed entropy with two classes, where it is 0 for every row.
    """
    if names is None:
        return tuple(name for name in MEASURES if classes > 2 or name != "entropy")
    unknown = [name for name in names if name not in MEASURES]
    if unknown:
        raise ValueError(f"unknown measure {unknown[0]!r}: give some of {', '.join(MEASURES)}")
    if "entropy" in names and classes == 2:
        raise ValueError("the renormed entropy needs at least 3 classes, but there are 2: it would be 0 for every row")
    return tuple(name for name in MEASURES if name in names)


class HeadInput:
    """Catches the input of a model's last linear layer while it runs (a context manager around forward passes)."""

    def __init__(self, model: nn.Module, /) -> None:
        self._layers = [m for m in model.modules() if isinstance(m, nn.Linear)]
        self._last: tuple[Tensor, Tensor] | None = None
        self._hooks: list[torch.utils.hooks.RemovableHandle] = []

    def __enter__(self) -> "HeadInput":
        self._hooks = [layer.register_forward_hook(self._keep) for layer in self._layers]
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()

    def _keep(self, _: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        self._last = (inputs[0], output)

    def of(self, logits: Tensor) -> Tensor:
        """Inputs (n, D) of the layer that made these logits.

        Raises:
            ValueError: The logits are not the output of a linear layer.
        """
        if self._last is None or self._last[1].data_ptr() != logits.data_ptr() or self._last[1].shape != logits.shape:
            raise ValueError(
                "the model does not end in a linear layer: choose the gradient norm of the logits (`logit`)"
            )
        return self._last[0]
