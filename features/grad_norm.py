"""The last linear layer of a model: its input, caught while the model runs."""

from typing import Self

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F

from drawstream.features.label_measures import label_losses
from drawstream.features.measures import rivals


def full_grad_norms(model: nn.Module, images: Tensor, labels: Tensor, /, *, memory: int) -> Tensor:
    """‖g‖₂ of each row, float32 (n,); must not run under `inference_mode`.

    The model is in evaluation mode: norm layers use their running statistics, and rows do not mix. `memory` bounds the
    bytes of the gradients that are computed at once; at least one row is.

    Raises:
        ValueError: The model cannot be run by torch.func.
    """
    assert not model.training
    weights = {name: value.detach() for name, value in model.named_parameters()}
    buffers = dict(model.named_buffers())

    def loss(w: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        z: Tensor = functional_call(model, (w, buffers), (x[None],))
        return F.softplus(rivals(z, y[None])[0])[0] if y.ndim == 0 else label_losses(z, y[None])[0]

    def norm(x: Tensor, y: Tensor) -> Tensor:
        g = grad(loss)(weights, x, y)
        wide = torch.float64  # squares of float32 gradients leave its range from 1e-19 down
        parts = [torch.linalg.vector_norm(part, dtype=wide) for part in g.values()]
        whole: Tensor = torch.linalg.vector_norm(torch.stack(parts))
        return whole

    rows = max(1, memory // sum(w.numel() * w.element_size() for w in weights.values()))
    try:
        return vmap(norm, chunk_size=min(rows, len(images)))(images, labels).float()
    except torch.OutOfMemoryError:
        raise ValueError(
            f"no memory for the gradients of {min(rows, len(images))} rows at once: lower `grad_memory` from {memory}"
        ) from None
    except (RuntimeError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"`full` gradient norms need a model that torch.func runs row by row, but it says: {reason}; "
            "choose the norm of the last layer (`last`) or of the logits (`logit`)"
        ) from error


SHOWN = 8  # linear layers listed in an error; a large model has hundreds


class HeadInput:
    """Catches the input of a model's last linear layer while it runs (a context manager around forward passes).

    The layer is the one whose output the logits are, value by value. The first batch shows which one that is; from then
    on only this layer is watched, and that it is used once in a forward pass is taken for granted.
    """

    def __init__(self, model: nn.Module, name: str | None = None, /) -> None:
        """Prepare to watch all linear layers, or the one with this name.

        Raises:
            ValueError: No linear layer has this name.
        """
        layers = {path: m for path, m in model.named_modules() if isinstance(m, nn.Linear)}
        if name is not None and name not in layers:
            raise ValueError(f"the model has no linear layer {name!r}: {_listed(list(layers))}")
        self._name = name
        self._layers = list(layers.values()) if name is None else [layers[name]]
        self._found: nn.Linear | None = None
        self._last: tuple[nn.Linear, Tensor, Tensor | None] | None = None
        self._hooks: dict[nn.Linear, torch.utils.hooks.RemovableHandle] = {}

    def __enter__(self) -> Self:
        self._hooks = {layer: layer.register_forward_hook(self._keep) for layer in self._layers}
        return self

    def __exit__(self, *_: object) -> None:
        self._watch(None)
        self._found = self._last = None

    def _watch(self, only: nn.Linear | None) -> None:
        """Remove the hooks of all other layers."""
        for layer in [layer for layer in self._hooks if layer is not only]:
            self._hooks.pop(layer).remove()

    def _keep(self, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if output.ndim == 2:  # as logits have; the copy shows whether something changed them in place afterwards
            assert isinstance(layer, nn.Linear)
            self._last = (layer, inputs[0], output.clone() if self._found is None else None)

    def find(self, logits: Tensor, /) -> tuple[Tensor, bool] | None:
        """Inputs (n, D) of the layer that made these logits, and whether it has a bias; None where there is none."""
        if self._last is None:
            return None
        layer, inputs, output = self._last
        if output is not None:
            if output.shape != logits.shape or not bool(((output == logits) | (logits != logits)).all()):
                return None
            self._watch(layer)  # NaN stays NaN, and is reported by the features' values
            self._found = layer
        return inputs, layer.bias is not None

    def of(self, logits: Tensor, /) -> tuple[Tensor, bool]:
        """As `find`, where there must be such a layer.

        Raises:
            ValueError: The logits are not the output of a linear layer, or not of the named one.
        """
        found = self.find(logits)
        if found is not None:
            return found
        remedy = "choose the gradient norm of the logits (`logit`)"
        if self._name is not None:
            raise ValueError(f"the logits are not the output of linear layer {self._name!r}: name another, or {remedy}")
        raise ValueError(f"the model does not end in a linear layer: {remedy}")


def _listed(names: list[str]) -> str:
    """The last of these layers, nearest to the logits."""
    if not names:
        return "it has none at all"
    more = f" and {len(names) - SHOWN} before them" if len(names) > SHOWN else ""
    return f"give one of {', '.join(repr(name) for name in names[-SHOWN:])}{more}"
