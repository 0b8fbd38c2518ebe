"""Checkpoints of the training loop: one file with the state of all its parts after an epoch."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from drawstream.pipeline import ANOTHER, describe_error, refuse_other
from drawstream.search import load_tensors, save_tensors
from drawstream.tools.training.accounting import Epoch, Run


class Stateful(Protocol):
    """A part of a run: model, optimizer, tracker, loss, sampler or selector."""

    def state_dict(self) -> dict[str, Any]:
        """Return the current state."""

    def load_state_dict(self, state: Any, /) -> Any:
        """Restore a state."""


Parts = Mapping[str, Stateful | None]
FORMAT = 2


def save_checkpoint(
    path: Path | None, identity: Mapping[str, Any], run: Run, parts: Parts, /, *, writes: bool = True
) -> None:
    """Write the state of a run; collective where a part's `state_dict` is, and then only one rank `writes`.

    Args:
        path: The file; None writes none.
        identity: Of the run.
        run: What it gave so far.
        parts: By name; what is not there is None.
        writes: Whether this process writes the file.
    """
    if path is None:
        return
    states = {name: None if part is None else part.state_dict() for name, part in parts.items()}
    if not writes:
        return
    history, counts = [asdict(epoch) for epoch in run.history], run.counts.cpu()
    content = {"format": FORMAT, "identity": json.dumps(dict(identity)), "history": history, "counts": counts}
    save_tensors(path, content | {"best_epoch": run.best_epoch, "best_state": run.best_state, "parts": states})


def load_checkpoint(path: Path | None, identity: Mapping[str, Any], parts: Parts, /) -> Run | None:
    """Bring the parts to where a checkpoint left them; None where there is no file.

    Raises:
        ValueError: The file is damaged, or of a run of another identity; both sides are shown.
    """
    if path is None or not path.exists():
        return None
    content = load_tensors(path)
    try:
        found = content.get("format")
        if isinstance(found, int) and found > FORMAT:
            raise ValueError(f"{path}: format {found} is newer than {FORMAT}, which this drawstream reads: upgrade")
        refuse_other(path, json.loads(content["identity"]) if found == FORMAT else None, identity)
        for name, part in parts.items():
            if part is not None:
                part.load_state_dict(content["parts"][name])
        epochs = [Epoch(**epoch) for epoch in content["history"]]
        return Run(epochs, content["best_epoch"], content["best_state"], content["counts"])
    except (KeyError, TypeError, AttributeError, IndexError, RuntimeError) as error:
        raise ValueError(f"{path}: damaged checkpoint ({describe_error(error)}): {ANOTHER}") from None


@dataclass(frozen=True, slots=True)
class AsTensors:
    """A sampler or selector, whose state is of arrays, as a part whose state is of tensors."""

    part: Stateful

    def state_dict(self) -> dict[str, Any]:
        """Its state; a file without pickled code can hold it."""
        state = {k: v.item() if isinstance(v, np.generic) else v for k, v in self.part.state_dict().items()}
        return {k: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for k, v in state.items()}

    def load_state_dict(self, state: Mapping[str, Any], /) -> None:
        """Restore a state."""
        self.part.load_state_dict({k: v.numpy() if isinstance(v, Tensor) else v for k, v in state.items()})
