"""Children stacked along a new first axis and trained by one set of kernels: `torch.func` instead of a loop.

Notation
    K        children
    theta    a parameter of all children, (K, *shape);  v  its momentum buffer, same shape
    g        (K, *shape), gradient of each child's own mean loss on its own batch, by vmap over grad

One step is that of `torch.optim.SGD` on each child:   g += wd theta;   v = m v + g;   theta -= lr (g + m v),
or theta -= lr v where momentum m is 0. Sums are taken in another order than in turn, so results agree to rounding only.

It pays where a child is too small to fill the device: on a GPU. On a CPU the batched kernels are the slower ones, see
docs/autosampling.md; `InTurn` is the default everywhere.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F

from drawstream.tools.training.child import Reward, reward_of
from drawstream.tools.training.loop import Recipe, autocast

__all__ = ["Stacked"]

Read = Callable[[NDArray[np.int64]], tuple[Tensor, Tensor]]  # rows (n,) to images (n, C, H, W) and labels (n,)


class Stacked:
    """All children of a process as one stack; a `Group` of the search.

    Args:
        model: Its parameters are where all children start. Models without running statistics or dropout only.
        children: K.
        read: Gives images and labels of rows, on the model's device; a `Kept` does.
        held_out: Images and labels that the reward is measured on.
        recipe: How to train; its learning rate runs over `steps`.
        batch_size: Rows of a step.
        steps: Of the whole run.
        reward: `accuracy`, per cent, or `loss`, the negative mean cross-entropy in nats.

    Raises:
        ValueError: The model keeps running statistics or draws random numbers, or there are no children.
    """

    def __init__(
        self,
        model: nn.Module,
        children: int,
        read: Read,
        held_out: tuple[Tensor, Tensor],
        recipe: Recipe,
        /,
        *,
        batch_size: int,
        steps: int,
        reward: Reward = "accuracy",
    ) -> None:
        if children < 1:
            raise ValueError(f"`children >= 1` must hold, but got {children}")
        require_stackable(model)
        self._read, self._held_out, self._recipe, self._reward = read, held_out, recipe, reward
        self._batch_size, self._steps, self._step = batch_size, steps, 0
        self._model = model
        self._buffers = {name: buffer.detach() for name, buffer in model.named_buffers()}
        self._theta = {name: _stack(value, children) for name, value in model.named_parameters()}
        self._velocity = {name: torch.zeros_like(value) for name, value in self._theta.items()}
        self._gradients = vmap(grad(self._loss))

    def _loss(self, theta: dict[str, Tensor], images: Tensor, labels: Tensor) -> Tensor:
        """Mean cross-entropy of one child on its batch, nats."""
        logits: Tensor = functional_call(self._model, (theta, self._buffers), (images,))
        return F.cross_entropy(logits, labels)

    def train(self, rows: NDArray[np.int64], /) -> None:
        """Train each child on its row of int64 (K, batches * batch size)."""
        self._model.train()
        for start in range(0, rows.shape[1], self._batch_size):
            part = rows[:, start : start + self._batch_size]
            images, labels = self._read(part.ravel())
            batches = images.reshape(*part.shape, *images.shape[1:]), labels.reshape(part.shape)
            with autocast(images.device, self._recipe.amp):
                gradients = self._gradients(self._theta, *batches)
            self._descend(gradients, self._recipe.lr_at(self._step / self._steps))
            self._step += 1

    @torch.no_grad()
    def _descend(self, gradients: dict[str, Tensor], lr: float) -> None:
        momentum, decay = self._recipe.momentum, self._recipe.weight_decay
        for name, theta in self._theta.items():
            g, v = gradients[name].add_(theta, alpha=decay), self._velocity[name]
            v.mul_(momentum).add_(g)
            theta.sub_(g.add_(v, alpha=momentum) if momentum else v, alpha=lr)

    def evaluate(self) -> NDArray[np.float64]:
        """Rewards, float64 (K,); the children in turn, for a held-out set fills the device by itself."""
        rewards = []
        for child in range(len(next(iter(self._theta.values())))):
            self._model.load_state_dict(self._pick(self._theta, child), strict=False)
            rewards.append(reward_of(self._model, self._held_out, self._reward, amp=self._recipe.amp))
        return np.array(rewards, dtype=np.float64)

    def state_dict(self, index: int, /) -> dict[str, Any]:
        """A copy of one child's weights and momentum, the buffers, and the step of all."""
        weights, momentum = (
            {name: value.clone() for name, value in self._pick(stack, index).items()}
            for stack in (self._theta, self._velocity)
        )
        return {"model": {**weights, **self._buffers}, "momentum": momentum, "step": self._step}

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        """Copy one state into all children."""
        for stack, given in ((self._theta, state["model"]), (self._velocity, state["momentum"])):
            for name, value in stack.items():
                value.copy_(given[name])  # broadcast over the children
        self._step = state["step"]

    @staticmethod
    def _pick(stack: dict[str, Tensor], index: int) -> dict[str, Tensor]:
        return {name: value[index] for name, value in stack.items()}


def require_stackable(model: nn.Module, /) -> None:
    """Refuse models whose children cannot share one call.

    Raises:
        ValueError: A layer keeps running statistics, which differ between children and change in the forward pass, or
            draws random numbers.
    """
    for name, layer in model.named_modules():
        if isinstance(layer, nn.modules.batchnorm._NormBase) and layer.track_running_stats:
            reason = "keeps running statistics"
        elif isinstance(layer, nn.modules.dropout._DropoutNd) and layer.p > 0:
            reason = "draws random numbers"
        else:
            continue
        raise ValueError(
            f"stacked children need layers without running statistics and dropout, but {name or 'the model'} "
            f"({type(layer).__name__}) {reason}: train the children in turn"
        )


def _stack(value: Tensor, children: int) -> Tensor:
    return value.detach().expand(children, *value.shape).clone()
