"""Files and samples that a command left out, counted by reason, so that the user sees each omission."""

from dataclasses import dataclass, field
from typing import Any

SHOWN = 3  # examples in a line
KEPT = 20  # examples in a record


@dataclass(slots=True)
class LeftOut:
    """Counts by reason.

    Attributes:
        reasons: Reason → count, and the first examples.
    """

    reasons: dict[str, tuple[int, list[str]]] = field(default_factory=dict)

    def add(self, reason: str, example: str, /, count: int = 1) -> None:
        """Count something that is left out."""
        before, examples = self.reasons.get(reason, (0, []))
        self.reasons[reason] = before + count, examples if len(examples) >= KEPT else [*examples, example]

    def merge(self, other: "LeftOut", /) -> None:
        """Add the counts of another part of the data."""
        for reason, (count, examples) in other.reasons.items():
            before, own = self.reasons.get(reason, (0, []))
            self.reasons[reason] = before + count, [*own, *examples][:KEPT]

    @property
    def lines(self) -> list[str]:
        """A line for each reason: ``3 hidden files: ._a.jpg, ._b.jpg, ._c.jpg``."""
        lines = []
        for reason, (count, examples) in self.reasons.items():
            more = ", …" if count > min(SHOWN, len(examples)) else ""
            lines.append(f"{count} {reason}: {', '.join(examples[:SHOWN])}{more}")
        return lines

    def as_json(self) -> list[dict[str, Any]]:
        """Return reason, count and examples of each, for a record."""
        return [{"reason": reason, "count": n, "examples": some} for reason, (n, some) in self.reasons.items()]
