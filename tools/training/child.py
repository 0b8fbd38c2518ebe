"""The reference child of a population search: the model, optimizer and step of `drawstream train`, on given rows.

    rows (n B,), step --> Kept or Streamed --> images, labels batch by batch --> Descent

Its batches, their order, learning rates and draws of the transform are those of `train` over the recorded schedule, so
on a CPU with the same number of threads that training ends with the same weights, bit for bit, where the model itself
draws nothing (dropout does).
"""

import time
from collections.abc import Iterator, Sequence
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from drawstream.features import label_losses
from drawstream.pipeline import Loader, to_device
from drawstream.pipeline.images import RICAP, Mixup
from drawstream.samplers.orders import Draws, Order, ones
from drawstream.search.auto import InTurn
from drawstream.tools.training.descent import Descent, autocast
from drawstream.tools.training.recipe import Amp, Recipe
from drawstream.tools.training.setup import EVAL_BATCH

__all__ = ["Kept", "ModelChild", "Reward", "Streamed", "TwoScores", "reward_of", "row_losses"]

Reward = Literal["accuracy", "loss"]


class Source(Protocol):
    """Images of rows."""

    def batches(self, rows: NDArray[np.int64], step: int, /) -> Iterator[tuple[Tensor, Tensor]]:
        """Images (B, C, H, W) and labels (B,) of int64 (n B,) rows, the first of which is trained on in step `step`."""


class Kept:
    """All images of a catalog, decoded once and kept in memory, on the device of the loader.

    Args:
        loader: Over the whole catalog in file order, with a transform that draws nothing.
        batch_size: B.
    """

    def __init__(self, loader: Loader, batch_size: int, /) -> None:
        self.images, self.labels = keep(loader)
        self.batch_size = batch_size

    def __call__(self, rows: NDArray[np.int64], /) -> tuple[Tensor, Tensor]:
        """Images and labels of any rows."""
        at = to_device(rows, self.images.device)
        return self.images[at], self.labels[at]

    def batches(self, rows: NDArray[np.int64], _step: int, /) -> Iterator[tuple[Tensor, Tensor]]:
        """Images and labels, batch by batch."""
        for start in range(0, rows.size, self.batch_size):
            yield self(rows[start : start + self.batch_size])


class Streamed:
    """Images read and transformed as they are needed: of large data, or where each draw is transformed anew.

    Args:
        loader: Over the training rows; its stream is replaced for every interval.
        batch_size: B, of the loader.
        steps: Batches of an epoch.
        seed: Keys the draws of the transform.
    """

    def __init__(self, loader: Loader, batch_size: int, steps: int, seed: int, /) -> None:
        self.loader, self.batch_size, self.steps, self.seed = loader, batch_size, steps, seed

    def batches(self, rows: NDArray[np.int64], step: int, /) -> Iterator[tuple[Tensor, Tensor]]:
        """Images and labels, batch by batch; the transform draws as in the epoch and at the positions of the run."""
        epoch, within = divmod(step, self.steps)
        start = within * self.batch_size
        self.loader.replace_stream(_Interval(len(self.loader.catalog), self.seed, start, rows))
        self.loader.load_state_dict({**self.loader.state_dict(), "epoch": epoch, "position": start})
        for batch in self.loader:
            yield batch.images, batch.labels


class _Interval:
    """A stream whose epochs end with the given rows, which begin at a position of their own."""

    fingerprint = "interval"

    def __init__(self, rows: int, seed: int, start: int, interval: NDArray[np.int64], /) -> None:
        self.rows, self.seed, self._start, self._interval = rows, seed, start, interval

    def epoch(self, _epoch: int, /) -> Order:
        """The order, of which only the interval is known."""
        return Order(Draws(self._fill, ones), self._start + self._interval.size)

    def _fill(self, start: int, out: NDArray[np.int64]) -> None:
        out[:] = self._interval[start - self._start :][: out.size]


class ModelChild:
    """A model in training; see `drawstream.search.Child`.

    Args:
        model: Gives logits (n, classes).
        source: Its training images.
        held_out: Images (n, C, H, W) and labels (n,) that the reward is taken on.
        recipe: How to train.
        steps: Of an epoch.
        mix: Mixes the images of a step, as in `train`.
        reward: `accuracy`, per cent, or `loss`, the negative mean cross-entropy in nats.
    """

    def __init__(
        self,
        model: nn.Module,
        source: Source,
        held_out: tuple[Tensor, Tensor],
        recipe: Recipe,
        /,
        *,
        steps: int,
        mix: Mixup | RICAP | None = None,
        reward: Reward = "accuracy",
    ) -> None:
        self.model, self._source, self._held_out, self._recipe = model, source, held_out, recipe
        if recipe.channels_last:
            model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._descent = Descent(model, recipe)
        self._device = next(model.parameters()).device
        self._steps, self._step, self._mix, self._reward = steps, 0, mix, reward

    def train(self, rows: NDArray[np.int64], /) -> None:
        """One step of `train` per batch of rows."""
        self.model.train()
        for images, labels in self._source.batches(rows, self._step):
            with autocast(self._device, self._recipe.amp):
                loss = self._loss(images, labels)
            self._descent.descend(loss, self._recipe.lr_at(self._step, self._recipe.epochs * self._steps))
            self._step += 1
        if self._device.type == "cuda":  # so that the seconds of training are not those of the evaluation
            torch.cuda.synchronize(self._device)

    def _loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """The mean loss of a batch."""
        smoothing, mixed = self._recipe.label_smoothing, None
        if self._mix is not None:
            epoch, step = divmod(self._step, self._steps)
            mixed = self._mix(images, labels, epoch=epoch, step=step)
            images = mixed.images
        if self._recipe.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        logits = self.model(images)
        if mixed is None:
            return F.cross_entropy(logits, labels, label_smoothing=smoothing)
        losses = mixed.loss(logits, reduction="none")
        if smoothing:
            losses = (1 - smoothing) * losses - smoothing * F.log_softmax(logits, 1).mean(1)
        return losses.mean()

    def evaluate(self) -> float:
        """The reward."""
        return reward_of(self.model, self._held_out, self._reward, amp=self._recipe.amp)

    def state_dict(self) -> dict[str, Any]:
        """Weights and buffers, state of the optimizer, steps done."""
        return {"model": self.model.state_dict(), "descent": self._descent.state_dict(), "step": self._step}

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        """Restore a state."""
        self.model.load_state_dict(state["model"])
        self._descent.load_state_dict(state["descent"])
        self._step = state["step"]


@torch.inference_mode()
def reward_of(model: nn.Module, held_out: tuple[Tensor, Tensor], reward: Reward, /, *, amp: Amp = "off") -> float:
    """Reward of a model on images (n, C, H, W) and labels (n,): top-1 per cent, or minus the mean loss in nats."""
    model.eval()
    images, labels = held_out
    total = torch.zeros((), dtype=torch.float64, device=labels.device)
    for start in range(0, len(labels), EVAL_BATCH):
        part, truth = images[start : start + EVAL_BATCH], labels[start : start + EVAL_BATCH]
        with autocast(labels.device, amp):
            logits = model(part)
        if reward == "accuracy":
            total += 100 * (logits.argmax(1) == truth).sum()
        else:
            total -= F.cross_entropy(logits.float(), truth, reduction="sum")
    return float(total / labels.numel())


def keep(loader: Loader, /) -> tuple[Tensor, Tensor]:
    """All images and labels of one pass, in its order."""
    loader.set_epoch(0)
    images, labels = zip(*((batch.images.clone(), batch.labels.clone()) for batch in loader), strict=True)
    return torch.cat(images), torch.cat(labels)


@torch.inference_mode()
def row_losses(model: nn.Module, loader: Loader, /, *, amp: Amp = "off") -> NDArray[np.float32]:
    """Loss of every row by its label, float32 (rows,), over one pass of a loader in file order."""
    model.eval()
    device, losses = next(model.parameters()).device, []
    loader.set_epoch(0)
    for batch in loader:
        with autocast(device, amp):
            logits = model(batch.images)
        losses.append(label_losses(logits.float(), batch.labels).cpu())
    found: NDArray[np.float32] = torch.cat(losses).numpy()
    return found


class TwoScores(InTurn):
    """Children in turn whose accuracy is also taken on a second set; a `Group` of the search.

    The second scores are part of the state, so a search that goes on after a kill has those of its first part. They
    are not for several processes: each would note its own children's.

    Args:
        children: Models in training.
        others: Images (n, C, H, W) and labels (n,) of the second set.

    Attributes:
        scores: Accuracy of every child after every interval so far, per cent.
        seconds: What they took.
    """

    def __init__(self, children: Sequence[ModelChild], others: tuple[Tensor, Tensor], /) -> None:
        super().__init__(children)
        self._others, self._models = others, [child.model for child in children]
        self.scores: list[list[float]] = []
        self.seconds = 0.0

    def evaluate(self) -> NDArray[np.float64]:
        """Rewards, float64 (children,); the second scores are noted."""
        rewards = super().evaluate()
        begin = time.perf_counter()
        self.scores.append([reward_of(model, self._others, "accuracy") for model in self._models])
        self.seconds += time.perf_counter() - begin
        return rewards

    def state_dict(self, index: int, /) -> dict[str, Any]:
        """A copy of one child's state, and the second scores so far."""
        second = {"scores": [list(interval) for interval in self.scores], "seconds": self.seconds}
        return {**super().state_dict(index), "second": second}

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        """Give one state to all children."""
        super().load_state_dict(state)
        self.scores, self.seconds = list(state["second"]["scores"]), state["second"]["seconds"]
