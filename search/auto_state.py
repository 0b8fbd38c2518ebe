"""Checkpoints of a population search: the best child's state, and how far the recorded schedule counts."""

import os
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from drawstream.search.auto_plan import Plan

__all__ = ["Progressed", "fields_of", "load_checkpoint", "save_checkpoint"]


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


def save_checkpoint(path: Path, plan: Plan, catalog: str, done: Progressed, /) -> None:
    """Write a checkpoint under a temporary name, and sync it."""
    import torch

    content = {"plan": asdict(plan), "catalog": catalog, **fields_of(done)}
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        torch.save(content, draft)
        with draft.open("rb") as file:
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def load_checkpoint(path: Path, plan: Plan, catalog: str, /) -> Progressed:
    """Read a checkpoint of the same search; a fresh start if there is none.

    Raises:
        ValueError: It is of a search with other settings or data, or is not readable.
    """
    if not path.exists():
        return Progressed()
    import torch

    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        settings = {**content.pop("plan"), "catalog": content.pop("catalog")}
        done = Progressed(**content)
    except Exception as error:
        raise ValueError(f"{path}: not a checkpoint of a search ({error}): start in another folder") from None
    given = {**asdict(plan), "catalog": catalog}
    for name, mine in given.items():
        if settings.get(name) != mine:
            raise ValueError(
                f"{path}: this search was started with {name} {settings.get(name)!r}, not {mine!r}: "
                "give another output folder"
            )
    return done
