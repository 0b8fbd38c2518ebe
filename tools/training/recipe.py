"""How a model is trained: what a run is given, and what decides its learning rate."""

import contextlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from drawstream.pipeline import Loader


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a model is trained.

    Attributes:
        epochs: Passes over the stream (each as long as the stream's epoch).
        lr: Learning rate at the start.
        schedule: Learning rate over the run: `cosine` to 0, `linear` to 1e-6, `step` ÷10 at 1/3 and 2/3, `constant`.
        momentum: Of Nesterov's SGD; 0.9 in all papers.
        weight_decay: L2, on all parameters.
        seed: Of the initial weights.
        amp: bfloat16 autocast.
    """

    epochs: int = 20
    lr: float = 0.05
    schedule: Literal["cosine", "linear", "step", "constant"] = "cosine"
    momentum: float = 0.9
    weight_decay: float = 5e-4
    seed: int = 0
    amp: bool = False

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise ValueError(f"`epochs >= 1` must hold, but got {self.epochs}")
        if not (self.lr > 0 and math.isfinite(self.lr)):
            raise ValueError(f"`lr > 0` must hold, but got {self.lr}")
        if not (self.weight_decay >= 0 and math.isfinite(self.weight_decay)):
            raise ValueError(f"`weight_decay >= 0` must hold, but got {self.weight_decay}")
        if self.schedule not in ("cosine", "linear", "step", "constant"):
            raise ValueError(f"`schedule` must be cosine, linear, step or constant, but got {self.schedule!r}")

    def lr_at(self, progress: float) -> float:
        """Learning rate after a share `progress` in [0, 1] of all steps."""
        match self.schedule:
            case "cosine":
                return self.lr * (1 + math.cos(math.pi * progress)) / 2
            case "linear":
                return self.lr + (1e-6 - self.lr) * progress
            case "step":
                return float(self.lr * 0.1 ** int(progress * 3))
            case "constant":
                return self.lr


@dataclass(frozen=True, slots=True)
class Evaluation:
    """When a training is evaluated, and on what.

    Attributes:
        sets: Loaders of held-out sets by name; top-1 is taken on each. The first one decides the best epoch.
        every: Evaluate after each `every`-th epoch, and after the last.
    """

    sets: Mapping[str, Loader] = field(default_factory=dict)
    every: int = 1

    @property
    def select(self) -> str | None:
        """Name of the set that decides the best epoch."""
        return next(iter(self.sets), None)


NO_EVALUATION = Evaluation()


def autocast(device: torch.device, amp: bool, /) -> contextlib.AbstractContextManager[Any]:
    """bfloat16 where `amp` is on; else nothing."""
    return torch.autocast(device.type, torch.bfloat16) if amp else contextlib.nullcontext()
