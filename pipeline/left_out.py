"""Files, samples and images that a command left out: counted by reason, or listed one by one."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from drawstream.samplers import DrawstreamError
from drawstream.samplers.files import write_atomically

SHOWN = 3  # examples in a line
KEPT = 20  # examples in a record
MOST_SHOWN = 20  # bad images in a message


@dataclass(slots=True)
class LeftOut:
    """Counts by reason.

    Attributes:
        reasons: Reason → count, and the first examples.
    """

    reasons: dict[str, tuple[int, list[str]]] = field(default_factory=dict)

    def add(self, reason: str, *examples: str, count: int = 1) -> None:
        """Count something that is left out."""
        before, own = self.reasons.get(reason, (0, []))
        self.reasons[reason] = before + count, [*own, *examples][:KEPT]

    def merge(self, other: "LeftOut", /) -> None:
        """Add the counts of another part of the data."""
        for reason, (count, examples) in other.reasons.items():
            self.add(reason, *examples, count=count)

    @property
    def lines(self) -> list[str]:
        """A line for each reason: ``3 hidden files: ._a.jpg, ._b.jpg, ._c.jpg``."""
        return [
            f"{count} {reason}: {', '.join(examples[:SHOWN])}{', …' if count > min(SHOWN, len(examples)) else ''}"
            for reason, (count, examples) in self.reasons.items()
        ]

    def as_json(self) -> list[dict[str, Any]]:
        """Return reason, count and examples of each, for a record."""
        return [{"reason": reason, "count": n, "examples": some} for reason, (n, some) in self.reasons.items()]


@dataclass(frozen=True, slots=True)
class BadImage:
    """An image that cannot be read.

    Attributes:
        key: Its key.
        path: Its file, where it is one; its shard, where it is a member; else its key.
        reason: What is wrong with it.
    """

    key: str
    path: str
    reason: str


class BadImagesError(DrawstreamError):
    """Images that cannot be read, all of them."""

    def __init__(self, source: str, bad: Sequence[BadImage], remedy: str, *, of_shards: bool = False) -> None:
        self.bad = tuple(bad)
        names = [f"{each.path}: sample {each.key!r}" if of_shards else f"image {each.key!r}" for each in bad]
        some = "; ".join(f"{name}: {each.reason}" for name, each in zip(names[:MOST_SHOWN], bad, strict=False))
        many = f"{len(bad)} images cannot be read: " if len(bad) > 1 else ""
        more = f"; and {len(bad) - MOST_SHOWN} others" if len(bad) > MOST_SHOWN else ""
        super().__init__(f"{source}: {many}{some}{more}: {remedy}")


def list_bad(path: Path, source: Path, bad: Sequence[BadImage], /) -> None:
    """Write the list of images that cannot be read: JSON with key, path and reason of each."""
    content = {"format": 1, "source": str(source), "bad": [asdict(each) for each in bad]}
    with write_atomically(path) as temporary:
        temporary.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
