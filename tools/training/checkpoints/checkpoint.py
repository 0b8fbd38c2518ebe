"""Checkpoints of the training loop: one file with the state of all its parts, and the one before it.

checkpoint.pt      the newest
checkpoint.pt.1    the one before: taken where the newest is missing or damaged, as after a power failure
"""

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from drawstream.pipeline import ANOTHER, describe_error, refuse_other
from drawstream.pipeline.shards import printable
from drawstream.search import load_tensors, save_tensors
from drawstream.search.auto import of_first
from drawstream.tools.training import Epoch, Ranks, Run
from drawstream.tools.training.checkpoints.parts import Stateful

Parts = Mapping[str, Stateful | None]
FORMAT = 3


def previous(path: Path, /) -> Path:
    """Return the name of the checkpoint before the newest."""
    return path.with_name(f"{path.name}.1")


def save_checkpoint(
    path: Path | None, identity: Mapping[str, Any], run: Run, parts: Parts, /, ranks: Ranks | None = None
) -> None:
    """Write the state of a run (a collective call); the checkpoint that was there is kept beside it.

    Args:
        path: The file; None writes none.
        identity: Of the run.
        run: What it gave so far.
        parts: By name; what is not there is None.
        ranks: The processes; rank 0 writes.
    """
    if path is None:
        return
    ranks = ranks or Ranks()
    states = {name: None if part is None else part.state_dict() for name, part in parts.items()}
    if not ranks.writes:
        return
    history, counts = [asdict(epoch) for epoch in run.history], run.counts.cpu()
    content = {"format": FORMAT, "identity": json.dumps(dict(identity)), "history": history, "counts": counts}
    content |= {"best_epoch": run.best_epoch, "best_state": run.best_state, "parts": states}
    save_tensors(path, content, kept=previous(path))


def load_checkpoint(
    path: Path | None, identity: Mapping[str, Any], parts: Parts, /, ranks: Ranks | None = None
) -> Run | None:
    """Bring the parts to where a checkpoint left them (a collective call); None where there is no file.

    Rank 0 reads it, so that other machines need no file of their own.

    Raises:
        ValueError: The file is damaged and there is none before it, or it is of a run of another identity; both sides
            are shown.
    """
    if path is None:
        return None
    content = of_first(ranks or Ranks(), lambda: _read(path, identity))
    if content is None:
        return None
    try:
        for name, part in parts.items():
            if part is not None:
                part.load_state_dict(content["parts"][name])
        epochs = [Epoch(**epoch) for epoch in content["history"]]
        return Run(epochs, content["best_epoch"], content["best_state"], content["counts"])
    except (KeyError, TypeError, AttributeError, IndexError, RuntimeError) as error:
        raise ValueError(f"{path}: damaged checkpoint ({describe_error(error)}): {ANOTHER}") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def remove_checkpoints(path: Path, /) -> None:
    """Remove both files of a run that is finished."""
    for each in (path, previous(path)):
        each.unlink(missing_ok=True)


def _read(path: Path, identity: Mapping[str, Any]) -> dict[str, Any] | None:
    """The newest content that is whole, of this identity."""
    found = [each for each in (path, previous(path)) if each.exists()]
    for each, others in zip(found, (found[1:], []), strict=False):
        try:
            content = load_tensors(each)
        except ValueError as error:
            if not others:
                raise
            print(f"note: {printable(error)}; going on from {printable(others[0])}", file=sys.stderr, flush=True)
            continue
        version = content.get("format")
        if isinstance(version, int) and version > FORMAT:
            raise ValueError(f"{each}: format {version} is newer than {FORMAT}, which this drawstream reads: upgrade")
        try:
            refuse_other(each, json.loads(content["identity"]) if version == FORMAT else None, identity)
        except (KeyError, TypeError) as error:
            raise ValueError(f"{each}: damaged checkpoint ({describe_error(error)}): {ANOTHER}") from None
        return content
    return None
