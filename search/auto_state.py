"""Checkpoints of a population search: the best child's state, and how far the recorded schedule counts."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from drawstream.pipeline.identity import refuse_other
from drawstream.search.plain_file import read_plain, write_plain

__all__ = ["Progressed", "fields_of", "load_checkpoint", "save_checkpoint"]


FORMAT = 1


@dataclass(slots=True)
class Progressed:
    """A search after a whole number of epochs.

    Attributes:
        epoch: Epochs done.
        state: State of the best child, which all have.
        rewards: Of all children, per interval.
        winners: The recorded child, per interval.
        length: Rows of the recorded schedule.
        checksum: Of these.
        seconds: What took how long.
    """

    epoch: int = 0
    state: dict[str, Any] = field(default_factory=dict)
    rewards: list[list[float]] = field(default_factory=list)
    winners: list[int] = field(default_factory=list)
    length: int = 0
    checksum: int = 0
    seconds: dict[str, float] = field(default_factory=dict)


def fields_of(done: Progressed, /) -> dict[str, Any]:
    """The fields as they are: `asdict` would copy every tensor."""
    return {each.name: getattr(done, each.name) for each in fields(done)}


def save_checkpoint(path: Path, settings: Mapping[str, Any], done: Progressed, /) -> None:
    """Write a checkpoint under a temporary name, and sync it; settings are JSON-able."""
    write_plain(path, {"format": FORMAT, "settings": json.dumps(dict(settings)), **fields_of(done)})


def load_checkpoint(path: Path, settings: Mapping[str, Any], /) -> Progressed:
    """Read a checkpoint of the same search; a fresh start if there is none.

    Raises:
        ValueError: It is of a search with other settings, or is not readable.
    """
    if not path.exists():
        return Progressed()
    try:
        content = read_plain(path)
        version = content.pop("format", 1)  # the first checkpoints had none
        if version > FORMAT:
            raise ValueError(f"format {version} is newer than {FORMAT}, which this drawstream reads: upgrade, or")
        theirs = json.loads(content.pop("settings"))
        done = Progressed(**content)
    except OSError:
        raise
    except Exception as error:
        raise ValueError(f"{path}: not a checkpoint of a search ({error}): start in another folder") from None
    refuse_other(path, theirs, settings)
    return done
