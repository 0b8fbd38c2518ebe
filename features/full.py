"""Gradient norms over all parameters, row by row: exact and slow, for small models and to check the others.

Notation
    n    rows of a batch             w    all parameters of the model, frozen ones too, float (P,)
    x    one image (C, H, W)         y    its target class
    m    margin of x (see measures), nats; loss = log(1 + e^m)
    g    ∇_w loss(x, y), nats per unit of weight, (P,)
"""

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F

from drawstream.features.measures import rivals


def full_grad_norms(model: nn.Module, images: Tensor, labels: Tensor, /, *, memory: int) -> Tensor:
    """‖g‖₂ of each row, float32 (n,); must not run under `inference_mode`.

    Args:
        model: In evaluation mode, so that norm layers use their running statistics and rows do not mix.
        images: (n, C, H, W).
        labels: int64 (n,).
        memory: Bytes that the gradients of the rows computed at once may take; at least one row is.

    Raises:
        ValueError: The model cannot be run by torch.func.
    """
    assert not model.training
    weights = {name: value.detach() for name, value in model.named_parameters()}
    buffers = dict(model.named_buffers())

    def loss(w: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        z: Tensor = functional_call(model, (w, buffers), (x[None],))
        return F.softplus(rivals(z, y[None])[0])[0]

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
