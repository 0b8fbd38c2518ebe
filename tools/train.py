"""The reference training loop: one model, one loader, any stream; read it from top to bottom.

Every method of this project is trained by `train`, the uniform control included, so that only the stream differs.
"""

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from drawstream.features.scorer import require_classes
from drawstream.features.tracker import Tracker
from drawstream.pipeline import Batch, CropFilter, Loader
from drawstream.tools.files import write_atomically
from drawstream.tools.ranks import Ranks


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
        amp: bfloat16 autocast, on a GPU.
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
class Epoch:
    """What one epoch gave.

    Attributes:
        epoch: Its number, from 0.
        loss: Mean training loss, nats.
        lr: Learning rate at its end.
        accuracy: Of each evaluation set, per cent.
        seconds: Training time, evaluation left out.
        wait: Part of `seconds` spent waiting for the loader.
    """

    epoch: int
    loss: float
    lr: float
    accuracy: dict[str, float]
    seconds: float
    wait: float


@dataclass(slots=True)
class Run:
    """A training run so far, and the weights at its best epoch on the set `select`."""

    history: list[Epoch] = field(default_factory=list)
    best_epoch: int = -1
    best_state: dict[str, Tensor] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """Training time of all epochs, evaluation left out."""
        return sum(epoch.seconds for epoch in self.history)

    @property
    def wait_share(self) -> float:
        """Share of the training time spent waiting for the loader."""
        return sum(epoch.wait for epoch in self.history) / max(self.seconds, 1e-9)

    def last(self, name: str) -> float:
        """Accuracy on a set after the last epoch, per cent."""
        return self.history[-1].accuracy[name]

    def best(self, name: str) -> float:
        """Accuracy on a set at the best epoch, per cent: early stopping by the set `select`."""
        return self.history[self.best_epoch].accuracy[name]


def train(
    model: nn.Module,
    loader: Loader | CropFilter,
    recipe: Recipe,
    /,
    *,
    evaluate: Mapping[str, Loader] | None = None,
    every: int = 1,
    select: str | None = None,
    checkpoint: Path | None = None,
    on_epoch: Callable[[Epoch], None] | None = None,
    ranks: Ranks | None = None,
    tracker: Tracker | None = None,
    criterion: nn.Module | None = None,
) -> Run:
    """Train a model in place.

    Under several ranks each loader gives its rank's part of the global batch, and the gradient is that of the mean loss
    over the global batch: the number of ranks changes nothing but the order of floating-point sums.

    Args:
        model: Gives logits (n, classes).
        loader: Batches of the training stream; its epoch is set here.
        recipe: How to train.
        evaluate: Loaders of held-out sets by name; top-1 is taken on each after an epoch.
        every: Evaluate after each `every`-th epoch, and after the last.
        select: Name of the set whose accuracy decides the best epoch.
        checkpoint: File that is rewritten after every epoch; if it is there, training goes on from it.
        on_epoch: Called after each epoch.
        ranks: The processes that train together; rank 0 writes the checkpoint.
        tracker: Observes every step; its state is part of the checkpoint.
        criterion: Called with (logits, batch, epoch), gives the loss of each row (n,), of which the mean is taken; its
            buffers are part of the checkpoint. None is cross-entropy; `robust` has others.

    Raises:
        ValueError: The model's class count is wrong, or the loss is no longer finite.
    """
    device = next(model.parameters()).device
    optimizer = make_optimizer(model, recipe)
    run = _load_checkpoint(checkpoint, model, optimizer, recipe, tracker, criterion)
    ranks = ranks or Ranks()
    parallel = DistributedDataParallel(model) if ranks.world_size > 1 else model
    steps = recipe.epochs * len(loader)
    for epoch in range(len(run.history), recipe.epochs):
        _set_epoch(epoch, loader, tracker)
        model.train()
        begin, wait, count = time.perf_counter(), 0.0, 0
        total = torch.zeros((), device=device)
        for step, (batch, waited) in enumerate(_timed(loader)):
            wait += waited
            with autocast(device, recipe.amp):
                logits = parallel(batch.images)
                if step == 0:
                    require_classes(logits, loader.catalog)
                losses = None if criterion is None else criterion(logits, batch, epoch)
                loss = _mean_loss(logits, batch, ranks) if losses is None else _mean_of(losses, batch, ranks)
            descend(optimizer, loss, recipe.lr_at((epoch * len(loader) + step) / steps))
            if tracker is not None:
                tracker.observe(batch.ids, logits, batch.labels, batch.weights)
            total += loss.detach() * len(batch.labels)
            count += len(batch.labels)
        if tracker is not None:
            tracker.reduce()
        mean = float(ranks.total(total)) / max(count * ranks.world_size, 1)
        seconds = time.perf_counter() - begin
        if not math.isfinite(mean):
            raise ValueError(f"the training loss is {mean} in epoch {epoch}: lower the learning rate (now {recipe.lr})")
        due = (epoch + 1) % every == 0 or epoch + 1 == recipe.epochs
        accuracy = {
            name: top1(model, held, amp=recipe.amp, ranks=ranks) for name, held in (evaluate or {}).items() if due
        }
        run.history.append(Epoch(epoch, mean, optimizer.param_groups[0]["lr"], accuracy, seconds, wait))
        if select in accuracy and _is_best(run, select):
            run.best_epoch = epoch
            run.best_state = {k: v.detach().cpu().clone() for k, v in model.state_dict().items()}
        _save_checkpoint(checkpoint if ranks.writes else None, model, optimizer, recipe, run, tracker, criterion)
        if on_epoch is not None:
            on_epoch(run.history[-1])
    return run


def make_optimizer(model: nn.Module, recipe: Recipe, /) -> torch.optim.Optimizer:
    """The recipe's SGD over all parameters of a model; `descend` sets its learning rate at every step."""
    return torch.optim.SGD(
        model.parameters(),
        lr=recipe.lr,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
        nesterov=recipe.momentum > 0,
        fused=True,
    )


def descend(optimizer: torch.optim.Optimizer, loss: Tensor, lr: float, /) -> None:
    """One step of the optimizer down the gradient of a loss, at a learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = lr
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()


@torch.inference_mode()
def top1(model: nn.Module, loader: Loader, /, *, amp: bool = False, ranks: Ranks | None = None) -> float:
    """Top-1 accuracy over one pass of the ranks' loaders, per cent; rows of weight 0 (fill) do not count."""
    device = next(model.parameters()).device
    model.eval()
    counted = torch.zeros(2, device=device, dtype=torch.float64)  # right, all
    loader.set_epoch(0)
    for batch in loader:
        with autocast(device, amp):
            logits = model(batch.images)
        real = batch.weights > 0
        counted += torch.stack([((logits.argmax(1) == batch.labels) & real).sum(), real.sum()])
    right, total = (ranks or Ranks()).total(counted).tolist()
    return 100 * float(right) / float(total)


def _mean_loss(logits: Tensor, batch: Batch, ranks: Ranks) -> Tensor:
    """Cross-entropy that averages over the ranks to the mean over the global batch; fill (weight 0) does not count."""
    if ranks.world_size == 1:
        return F.cross_entropy(logits, batch.labels)
    real = batch.weights > 0
    rows = ranks.total(real.sum())
    return F.cross_entropy(logits[real], batch.labels[real], reduction="sum") * ranks.world_size / rows


def _mean_of(losses: Tensor, batch: Batch, ranks: Ranks) -> Tensor:
    """The same mean of given losses (n,)."""
    if ranks.world_size == 1:
        return losses.mean()
    real = batch.weights > 0
    return losses[real].sum() * ranks.world_size / ranks.total(real.sum())


def _set_epoch(epoch: int, loader: Loader | CropFilter, tracker: Tracker | None) -> None:
    loader.set_epoch(epoch)
    if tracker is not None:
        tracker.set_epoch(epoch)


def _is_best(run: Run, select: str) -> bool:
    """Whether the epoch just recorded beats all before it."""
    earlier = [epoch.accuracy[select] for epoch in run.history[:-1] if select in epoch.accuracy]
    return not earlier or run.history[-1].accuracy[select] > max(earlier)


def _timed(loader: Loader | CropFilter) -> Iterator[tuple[Batch, float]]:
    """Batches with the seconds that the loop waited for each."""
    batches = iter(loader)
    while True:
        begin = time.perf_counter()
        batch = next(batches, None)
        if batch is None:
            return
        yield batch, time.perf_counter() - begin


def autocast(device: torch.device, amp: bool, /) -> contextlib.AbstractContextManager[Any]:
    """bfloat16 on a GPU where `amp` is on; else nothing."""
    return torch.autocast(device.type, torch.bfloat16) if amp and device.type == "cuda" else contextlib.nullcontext()


def _save_checkpoint(
    path: Path | None,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    recipe: Recipe,
    run: Run,
    tracker: Tracker | None,
    criterion: nn.Module | None,
) -> None:
    if path is None:
        return
    state = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "recipe": asdict(recipe),
        "history": [asdict(epoch) for epoch in run.history],
        "best_epoch": run.best_epoch,
        "best_state": run.best_state,
        "tracker": None if tracker is None else tracker.state_dict(),
        "criterion": repr(criterion),
        "criterion_state": {} if criterion is None else criterion.state_dict(),
    }
    with write_atomically(path) as temporary:
        torch.save(state, temporary)


def _load_checkpoint(
    path: Path | None,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    recipe: Recipe,
    tracker: Tracker | None,
    criterion: nn.Module | None,
) -> Run:
    if path is None or not path.exists():
        return Run()
    state = torch.load(path, map_location="cpu", weights_only=True)
    saved = Recipe(**state["recipe"])
    if saved != recipe:
        raise ValueError(f"{path}: this run was started with {saved}, not {recipe}: give another output folder")
    if tracker is not None:
        if state.get("tracker") is None:
            raise ValueError(f"{path}: this run was started without tracking: give another output folder")
        tracker.load_state_dict(state["tracker"])
    if state.get("criterion", "None") != repr(criterion):
        raise ValueError(
            f"{path}: this run was started with the loss {state.get('criterion')}, not {criterion!r}: "
            "give another output folder"
        )
    if criterion is not None:
        criterion.load_state_dict(state["criterion_state"])
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return Run([Epoch(**epoch) for epoch in state["history"]], state["best_epoch"], state["best_state"])
