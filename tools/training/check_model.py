"""Try a model before anything else is done: it must take the images of a job and give logits for its classes."""

import torch
from torch import Tensor, nn

from drawstream.features import require_logits
from drawstream.pipeline import SMALL
from drawstream.tools.training.models import BUILT_IN, build_model

__all__ = ["check_built", "slow_on", "takes_gray"]

Size = tuple[int, int]


def check_built(
    model: nn.Module, name: str, /, *, num_classes: int, channels: int, size: Size, trained: bool = True
) -> None:
    """Run a model on two empty images, in evaluation mode and, where it will be trained, in training mode.

    Neither its parameters and buffers nor the global random state change.

    Args:
        model: On its device.
        name: As the user gave it.
        num_classes: Length of the logits.
        channels: Of the images.
        size: Height and width of the images, pixels.
        trained: Whether the training mode is tried, too.

    Raises:
        ValueError: It has no parameters, raises an error, or gives something else than logits (n, num_classes).
    """
    weight = next(model.parameters(), None)
    if weight is None:
        raise ValueError(f"model {name!r} has no parameters: there is nothing to train or to load")
    images = torch.zeros(2, channels, *size, device=weight.device)
    was = model.training
    try:
        require_logits(_forward(model.eval(), images), f"model {name!r}", 2, num_classes)
        if trained:
            kept = [buffer.clone() for buffer in model.buffers()]  # running means of batches
            require_logits(_forward(model.train(), images), f"model {name!r} in training mode", 2, num_classes)
            for buffer, value in zip(model.buffers(), kept, strict=True):
                buffer.copy_(value)
    except _ForwardError as error:
        raise ValueError(
            f"model {name!r} does not take images of {channels} channel{'s' if channels > 1 else ''} and {size[0]} × "
            f"{size[1]} pixels ({error}): {_remedy(name, channels)}"
        ) from None
    finally:
        model.train(was)


class _ForwardError(Exception):
    """An error raised by a model's forward, in one line."""


def _forward(model: nn.Module, images: Tensor) -> object:
    devices = [images.device.index] if images.device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices), torch.no_grad():
            return model(images)
    except Exception as error:  # of the user's model
        lines = str(error).splitlines() or [""]
        raise _ForwardError(f"{type(error).__name__}: {lines[0][:200]}") from None


def _remedy(name: str, channels: int) -> str:
    if ":" in name and not name.startswith("timm:"):
        gray = ", or load gray images as RGB with --channels 3" if channels == 1 else ""
        return f"let the factory take `channels` and `size`, it is called with them{gray}"
    return "give a model for this size, such as resnet18, or images of another size"


def takes_gray(name: str, /, *, num_classes: int, size: Size) -> bool:
    """Return True if a model gets gray images with one channel: all but factories of models for three channels only.

    Raises:
        ValueError: As `build_model`.
    """
    if name in BUILT_IN or name.startswith("timm:"):  # built for as many channels as there are
        return True
    return _passes(name, num_classes, 1, size) or not _passes(name, num_classes, 3, size)


def _passes(name: str, num_classes: int, channels: int, size: Size) -> bool:
    model = build_model(name, num_classes=num_classes, channels=channels, size=size, seed=0)
    try:
        _forward(model.eval(), torch.zeros(2, channels, *size))
    except _ForwardError:
        return False
    return True


def slow_on(name: str, size: Size, /) -> str | None:
    """A note where a built-in model gets images far larger than those it is made for; else None."""
    if name not in BUILT_IN or max(size) <= SMALL:
        return None
    return (
        f"--model {name} is made for images of up to {SMALL} pixels, and these are {size[0]} × {size[1]}: it will be "
        "slow and weak; give --model timm:NAME (such as timm:resnet18) or module:factory"
    )
