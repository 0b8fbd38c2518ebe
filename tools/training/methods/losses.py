"""The loss of a training by name: cross-entropy, or one of the table's for wrong labels or long tails."""

from collections.abc import Callable, Mapping
from contextlib import closing
from inspect import signature
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from drawstream.features import accepted, load_factory, users_code
from drawstream.tools.training import Recipe, Setup
from drawstream.tools.training.methods.table import METHODS

TRUSTED = 1000  # rows of the held-out set that L2RW and MentorNet DD trust, as many as in L2RW's paper


def make_loss(
    name: str,
    model: nn.Module,
    setup: Setup,
    recipe: Recipe,
    /,
    *,
    labels: NDArray[Any] | None = None,
    defer_until: int | None = None,
) -> nn.Module | None:
    """Return the loss of a name of the table, for `LoopParts(criterion=…)`; None for `ce`, that of the labels' kind.

    A user's own is `module:factory`, called with those of these keywords that it takes: `model`, `epochs`, `seed`,
    `rows`, `classes`, `global_batch`. It gives a module that is called as `loss(outputs, batch, epoch)` and gives (n,).

    Args:
        name: Of the loss.
        model: The one that is trained.
        setup: Data.
        recipe: Of the training.
        labels: Of the rows that may be drawn, int64; by default of all images.
        defer_until: First epoch in which `drw` re-weights; by default four fifths of them.

    Raises:
        ValueError: It needs trusted rows, and there is no held-out set; it is not for several ranks, or for these
            labels; or a user's cannot be imported or made.
    """
    if name == "ce":
        return None
    if ":" not in name:
        setup.data.require_labels(f"--loss {name}", "class")
    if name == "mentornet-dd" and setup.ranks.world_size > 1:
        raise ValueError(f"--loss {name} keeps the losses of every row on one rank: leave out torchrun")
    given: dict[str, Callable[[], Any]] = {
        "model": lambda: model,
        "trusted": lambda: _trusted(name, setup, next(model.parameters()).device),
        "epochs": lambda: recipe.epochs,
        "global_batch": lambda: setup.global_batch,
        "seed": lambda: recipe.seed,
        "rows": lambda: len(setup.data),
        "classes": lambda: setup.data.num_classes,
        "defer_until": lambda: defer_until,
        "counts": lambda: np.bincount(setup.data.label if labels is None else labels, minlength=setup.data.num_classes),
    }
    if ":" in name:
        return _own(name, given)
    build = METHODS[name].builder()
    loss: nn.Module = build(**{each: given[each]() for each in signature(build).parameters})
    return loss


def _own(name: str, given: Mapping[str, Callable[[], Any]]) -> nn.Module:
    """The loss that a user names."""
    factory = load_factory("--loss", name)
    offered = {each: given[each]() for each in ("model", "epochs", "seed", "rows", "classes", "global_batch")}
    plain = getattr(factory, "__init__", None) is nn.Module.__init__  # which takes any keyword, and refuses it
    try:
        with users_code(f"--loss {name} cannot be made"):
            loss = factory(**({} if plain else accepted(factory, offered)))
    except TypeError as error:
        raise ValueError(
            f"--loss {name}: {error}: it is called with those of {', '.join(offered)} that it takes"
        ) from None
    if not isinstance(loss, nn.Module):
        law = "must give a torch.nn.Module that is called as loss(outputs, batch, epoch)"
        raise ValueError(f"--loss {name}: the factory {law}, but gives a {type(loss).__name__}")
    return loss


def _trusted(name: str, setup: Setup, device: torch.device) -> tuple[Tensor, Tensor]:
    """Images and labels of the first rows of the held-out set, which are balanced over the classes."""
    if setup.held_out is None:
        raise ValueError(f"--loss {name} trusts the labels of held-out rows: give --held-out")
    (loader,) = setup.evaluation_loaders("held_out").values()
    images, labels = [], []
    with closing(loader):
        for batch in loader:
            real = batch.weights > 0
            images.append(batch.images[real].to(device, copy=True))
            labels.append(batch.labels[real].to(device, copy=True))
            if sum(map(len, labels)) >= TRUSTED:
                break
    return torch.cat(images)[:TRUSTED], torch.cat(labels)[:TRUSTED]
