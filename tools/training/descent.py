"""One step of a recipe: loss, gradient, clipping, learning rate, optimizer, average of the weights.

Notation
    l, v   losses and weights (n,) of this rank's rows; v = 0 marks those without a part in the step
    R, K   rows of all ranks with a part in the step, and ranks: the mean over the ranks of Σ v l · K / R is Σ v l / R
    w, a   weights and floating-point buffers of the model, and their moving average
    t, d   steps of the average so far; its decay min(ema, (1 + t) / (10 + t)): it follows at once in the beginning

R is a number of the host, and there is no boolean index: no rank waits here for its device or for another rank.
"""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from drawstream.features import label_losses
from drawstream.tools.training.recipe import Amp, Recipe

HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


def mean_loss(logits: Tensor, labels: Tensor, smoothing: float, /) -> Tensor:
    """Return the mean of the losses by the labels' kind, all rows alike."""
    if labels.ndim == 1:
        return F.cross_entropy(logits, labels, label_smoothing=smoothing)
    return label_losses(logits, labels).mean()


def row_losses(logits: Tensor, labels: Tensor, smoothing: float, /) -> Tensor:
    """Return the losses of rows (n,), with smoothed classes."""
    if smoothing:
        return F.cross_entropy(logits, labels, reduction="none", label_smoothing=smoothing)
    return label_losses(logits, labels)


def weighted_loss(losses: Tensor, weights: Tensor, rows: int, ranks: int, /) -> Tensor:
    """Return Σ v l · K / R."""
    return losses @ (weights * (ranks / rows)).to(losses.dtype)


def counted_loss(losses: Tensor, weights: Tensor, rows: int, ranks: int, /) -> Tensor:
    """Return Σ l · K / R over the rows with v > 0."""
    return torch.where(weights > 0, losses, 0).sum() * (ranks / rows)


class Descent:
    """Optimizer, loss scale and average of a model in training; their state is `state_dict`."""

    def __init__(self, model: nn.Module, recipe: Recipe, /) -> None:
        self._model, self._recipe = model, recipe
        self.optimizer = make_optimizer(model, recipe)
        device = next(model.parameters()).device.type
        self._scaler = torch.amp.GradScaler(device, enabled=recipe.amp == "fp16")
        self._average = _values(model) if recipe.ema else {}
        self._averaged = 0  # t

    def backward(self, loss: Tensor, /) -> None:
        """Add the gradient of a loss."""
        self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call]

    def step(self, lr: float, /) -> None:
        """Go down the gradient at a learning rate."""
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        if self._recipe.clip_grad:
            self._scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self._model.parameters(), self._recipe.clip_grad)
        self._scaler.step(self.optimizer)
        self._scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if self._average:
            self._follow()

    def descend(self, loss: Tensor, lr: float, /) -> None:
        """Do one step down the gradient of a loss."""
        self.backward(loss)
        self.step(lr)

    @torch.no_grad()
    def _follow(self) -> None:
        decay = min(self._recipe.ema, (1 + self._averaged) / (10 + self._averaged))
        self._averaged += 1
        for name, value in self._model.state_dict().items():
            if value.is_floating_point():
                self._average[name].lerp_(value, 1 - decay)
            else:
                self._average[name].copy_(value)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Let the model have the averaged weights inside the block, if there is an average."""
        own = _values(self._model) if self._average else {}
        _write(self._model, self._average)
        try:
            yield
        finally:
            _write(self._model, own)

    def buffers(self) -> dict[str, Tensor]:
        """Return the floating-point buffers of the model, and of its average: statistics of BatchNorm, by name."""
        found = {name: value for name, value in self._model.named_buffers() if value.is_floating_point()}
        return found | {f"average.{name}": self._average[name] for name in found if name in self._average}

    def finish(self) -> None:
        """Leave the averaged weights, if any, in the model."""
        _write(self._model, self._average)

    def state_dict(self) -> dict[str, Any]:
        """State of all parts."""
        parts = {"optimizer": self.optimizer.state_dict(), "scaler": self._scaler.state_dict()}
        return parts | {"average": self._average, "averaged": self._averaged}

    def load_state_dict(self, state: Mapping[str, Any], /) -> None:
        """Restore a state."""
        self.optimizer.load_state_dict(state["optimizer"])
        self._scaler.load_state_dict(state["scaler"])
        for name, value in self._average.items():
            value.copy_(state["average"][name])
        self._averaged = state["averaged"]


def make_optimizer(model: nn.Module, recipe: Recipe, /) -> torch.optim.Optimizer:
    """The recipe's optimizer over all parameters of a model; `Descent` sets its learning rate at every step."""
    parameters: Any = model.parameters()
    if recipe.no_decay_norm:
        kept = [each for each in model.parameters() if each.ndim > 1]
        free = [each for each in model.parameters() if each.ndim <= 1]
        parameters = [group for group in ({"params": kept}, {"params": free, "weight_decay": 0.0}) if group["params"]]
    shared: dict[str, Any] = {"lr": recipe.lr, "weight_decay": recipe.weight_decay, "fused": True}
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(parameters, betas=(recipe.momentum, 0.999), **shared)
    nesterov = recipe.nesterov and recipe.momentum > 0
    return torch.optim.SGD(parameters, momentum=recipe.momentum, nesterov=nesterov, **shared)


def _values(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


@torch.no_grad()
def _write(model: nn.Module, values: Mapping[str, Tensor]) -> None:
    for name, value in model.state_dict().items():
        if name in values:
            value.copy_(values[name])


def autocast(device: torch.device, amp: Amp, /) -> AbstractContextManager[Any]:
    """Half precision as `amp` says; else nothing."""
    return nullcontext() if amp == "off" else torch.autocast(device.type, HALF[amp])
