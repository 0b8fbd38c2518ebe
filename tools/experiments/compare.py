"""The one comparison rule: paired by seed, with Student's t interval over the seeds.

Notation
    d_s   value of a method less that of its control at seed s, for the n seeds that both have
    95 % interval   mean d ± t s_d / sqrt(n), t the 97.5 % quantile of Student's law with n - 1 degrees of freedom
A method is better only where the interval lies above zero, and worse only where it lies below; one seed tells neither.
Two finished models are compared on the images of one set instead: by the exact sign test, `search.paired_test`.
"""

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any, Literal

from scipy.stats import t as student

__all__ = ["Difference", "Relation", "Spread", "by_seed", "difference", "relations", "signed"]

LEVEL = 0.95
Relation = Literal["better", "worse", "not shown to differ", "one seed"]


@dataclass(frozen=True, slots=True)
class Spread:
    """Mean of some values and their standard deviation (n - 1), None for a single value."""

    mean: float
    std: float | None

    @classmethod
    def of(cls, values: Iterable[float], /) -> "Spread":
        """Return mean and deviation of at least one value."""
        found = list(values)
        return cls(fmean(found), stdev(found) if len(found) > 1 else None)

    def __str__(self) -> str:
        return f"{self.mean:.2f}" + ("" if self.std is None else f" ± {self.std:.2f}")


@dataclass(frozen=True, slots=True)
class Difference:
    """A method less its control.

    Attributes:
        gaps: d, one per seed in common, by seed; at least one.
    """

    gaps: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Mean of d."""
        return fmean(self.gaps)

    @property
    def interval(self) -> tuple[float, float] | None:
        """95 % interval of the mean; None for one seed."""
        if len(self.gaps) < 2:
            return None
        half = float(student.ppf((1 + LEVEL) / 2, self.seeds - 1)) * stdev(self.gaps) / math.sqrt(self.seeds)
        return self.mean - half, self.mean + half

    @property
    def seeds(self) -> int:
        """Seeds in common."""
        return len(self.gaps)

    @property
    def higher(self) -> int:
        """Seeds at which the method is higher."""
        return sum(gap > 0 for gap in self.gaps)

    @property
    def relation(self) -> Relation:
        """How the method stands to its control, as far as the interval shows it."""
        if self.interval is None:
            return "one seed"
        low, high = self.interval
        return "better" if low > 0 else "worse" if high < 0 else "not shown to differ"

    def text(self, digits: int = 2) -> str:
        """Return the mean and its interval: `+0.41 (+0.10 to +0.72)`, `+0.41 (one seed)`."""
        ends = "one seed" if self.interval is None else " to ".join(signed(end, digits) for end in self.interval)
        return f"{signed(self.mean, digits)} ({ends})"

    def as_dict(self) -> dict[str, Any]:
        """Return the figures for a JSON result."""
        interval = None if self.interval is None else list(self.interval)
        found = {"points": self.mean, "interval": interval, "relation": self.relation}
        return found | {"higher": self.higher, "seeds": self.seeds}


def difference(
    method: Mapping[int, float], control: Mapping[int, float], /, *, leave: Collection[int] = ()
) -> Difference | None:
    """Compare values by seed; None where no seed is in common, those to `leave` out not counted."""
    common = sorted((method.keys() & control.keys()) - set(leave))
    return Difference(tuple(method[seed] - control[seed] for seed in common)) if common else None


def by_seed(values: Iterable[tuple[int, float]], /) -> dict[int, float]:
    """Return the value of each seed, in order; several values of a seed are averaged."""
    found: dict[int, list[float]] = {}
    for seed, value in values:
        found.setdefault(seed, []).append(value)
    return {seed: fmean(found[seed]) for seed in sorted(found)}


def relations(found: Mapping[str, Difference], /, digits: int = 2) -> str:
    """Return the methods by their relation to the control: `better: a (+0.41); worse: b (−0.20)`."""
    groups: dict[str, list[str]] = {}
    for name, each in found.items():
        told = signed(each.mean, digits) if each.interval is None else each.text(digits)
        groups.setdefault(each.relation, []).append(f"{name} {told}")
    return "; ".join(f"{relation}: {', '.join(names)}" for relation, names in groups.items())


def signed(value: float | None, /, digits: int = 2) -> str:
    """Return a difference with its sign; an empty text for None."""
    return "" if value is None else f"{value:+.{digits}f}".replace("-", "−")
