"""Findings of `bench budget`: each method less uniform draws at equal measured compute, and what it costs.

Notation
    f, b   rows that went forward and backward in a run, as the loop counted them
    W      compute (f + 2 b) / 3, in rows trained on: a backward pass costs as much as two forward passes
    e      effective budget (W + W of what had to be trained beforehand) / (N T), of N rows and T epochs
The control of a method is uniform drawing without replacement (`unif`, and `full` at e = 1) under the same augmentation
and schedule with the least e' >= e: it never has less compute, except beyond a full training, where there is no more to
be had and the comparison says so.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from drawstream.tools.bench.budget.cell import CONTROL, FULL, METHODS
from drawstream.tools.experiments import Difference, Entry, Row, blocks, control_of, entries_of

__all__ = ["UNIFORM", "Check", "Finding", "checks", "control_budgets", "findings_of"]

SAME = 1.002  # ratio of computes called equal: N B and T B are rounded to whole rows, batches and epochs
NEAR = 1.05  # a control has at most 5 % more compute than the method where one can be run
UNIFORM = (CONTROL, FULL)
PLACE = ("augment", "schedule")
MEANS = ("seconds", "forward", "backward", "count_entropy", "effective_rows", "effective_budget", "prepare_budget")


@dataclass(frozen=True, slots=True)
class Finding:
    """The runs of one method at one budget, augmentation and schedule, and their control.

    Attributes:
        entry: The runs.
        control: Uniform draws of no less compute; None where none was run, and for uniform draws themselves.
    """

    entry: Entry
    control: Entry | None = None

    @property
    def method(self) -> str:
        """Name of the method."""
        return self.entry.method

    @property
    def budget(self) -> float:
        """B."""
        return float(self.entry.setting["budget"])

    @property
    def where(self) -> str:
        """Augmentation and schedule as text."""
        augment, schedule = (self.entry.setting[name] for name in PLACE)
        return f"{'no augmentation' if augment == 'none' else f'augmentation {augment}'}, {schedule} schedule"

    @property
    def effective(self) -> float:
        """e, mean over the seeds."""
        return effective(self.entry)

    @property
    def gain(self) -> Difference | None:
        """Last epoch less the control's; None without one, or without a seed in common."""
        return self.entry.less(self.control, "last")

    @property
    def short(self) -> bool:
        """Whether the method had more compute than any control can have."""
        return self.control is not None and self.effective > SAME * effective(self.control)

    def summary(self) -> dict[str, Any]:
        """Return means and deviations for the JSON result."""
        return self.entry.as_dict(MEANS)

    def comparison(self) -> dict[str, Any]:
        """Return the comparison with the control for the JSON result."""
        assert self.control is not None and self.gain is not None
        found = {"method": self.method, **self.entry.setting, "effective_budget": self.effective}
        found |= {"control": self.control.method, "control_budget": self.control.setting["budget"]}
        found |= {"control_effective_budget": effective(self.control), "control_has_less": self.short}
        return found | self.gain.as_dict()


def effective(entry: Entry, /) -> float:
    """Return e, mean over the seeds."""
    return entry.mean("effective_budget") + entry.mean("prepare_budget")


def findings_of(rows: Iterable[Row], /) -> list[Finding]:
    """Return the findings by augmentation and schedule as they come, `full`, then budgets and methods in order."""
    found = []
    for block in blocks(entries_of(rows), *PLACE):
        uniform = sorted((each for each in block if each.method in UNIFORM), key=effective)
        for entry in sorted(block, key=_order):
            enough = [each for each in uniform if SAME * effective(each) >= effective(entry)]
            control = None if entry.method in UNIFORM else next(iter([*enough, *uniform[::-1]]), None)
            found.append(Finding(entry, control))
    return found


def _order(entry: Entry) -> tuple[bool, float, int]:
    return entry.method != FULL, entry.setting["budget"], METHODS.index(entry.method)


def control_budgets(findings: Sequence[Finding], /) -> list[tuple[str, str, float]]:
    """Return augmentation, schedule and budget of the uniform runs that are still needed as controls.

    Budgets are effective ones rounded up to a hundredth, so that every method but those beyond a full training gets a
    control with e <= e' <= max(1.05 e, e + 0.01). One control serves several methods where these bounds allow it.
    """
    needed: list[tuple[str, str, float]] = []
    for block in blocks([each.entry for each in findings], *PLACE):
        have = [effective(entry) for entry in block if entry.method in UNIFORM]
        for wanted in sorted((effective(entry) for entry in block if entry.method not in UNIFORM), reverse=True):
            if wanted * SAME >= 1 or any(wanted <= SAME * budget <= SAME * NEAR * wanted for budget in have):
                continue
            have.append(min(1.0, math.ceil(wanted * 100 - 1e-6) / 100))
            needed.append((*(block[0].setting[name] for name in PLACE), have[-1]))
    return needed


@dataclass(frozen=True, slots=True)
class Check:
    """A ratio of times whose median must lie within bounds.

    Attributes:
        text: What it is.
        ratios: One per pair of runs with the same seed, schedule, augmentation and budget.
        bounds: Where the median must lie.
    """

    text: str
    ratios: tuple[float, ...]
    bounds: tuple[float, float]

    @property
    def value(self) -> float:
        """The median."""
        return median(self.ratios)

    @property
    def met(self) -> bool:
        """Whether the median lies within the bounds."""
        return self.bounds[0] <= self.value <= self.bounds[1]

    @property
    def law(self) -> str:
        """The bounds as text."""
        least, most = self.bounds
        return f"at most {most:g}" if least <= 0 else f"{least:g} to {most:g}"

    @property
    def line(self) -> str:
        """The check as one line."""
        pairs = len(self.ratios)
        spread = f"{min(self.ratios):.3f} to {max(self.ratios):.3f} over {pairs} pairs" if pairs > 1 else "1 pair"
        return f"{self.text}: {self.value:.3f} ({spread}), must be {self.law}: {'met' if self.met else 'MISSED'}"

    def as_dict(self) -> dict[str, Any]:
        """Return the check for the JSON result."""
        found = {"value": self.value, "low": min(self.ratios), "high": max(self.ratios), "pairs": len(self.ratios)}
        return {"check": self.text, **found, "bounds": list(self.bounds), "met": self.met}


LIMITS = {  # bounds of a method's time, per counted row or of the whole training, relative to `unif`
    **dict.fromkeys(
        ("p", "c", "p-paper", "c-paper", "p-no-smoothing", "p-last"),
        ("training time of {} relative to unif", (0.0, 1.02)),
    ),
    "sb": ("time of {} per counted row relative to unif", (0.9, 1.1)),
    **dict.fromkeys(
        ("osgd", "dlis", "rais", "rho", "infobatch"), ("time of {} per counted row relative to unif", (0.0, 1.02))
    ),
}


def checks(findings: Sequence[Finding], /) -> list[Check]:
    """Compare the time of each method with `unif` at the same seed, schedule, augmentation and budget.

    Core-sets and scan have none: they are `unif` on other rows.
    """
    entries = [each.entry for each in findings]
    ratios: dict[str, list[float]] = {}
    for entry in entries:
        control = control_of(entry, entries, CONTROL)
        for row in entry.rows if entry.method in LIMITS else ():
            for other in (each for each in (control.rows if control else ()) if each.seed == row.seed):
                ratio = row.values["seconds"] / other.values["seconds"]
                if "per counted row" in LIMITS[entry.method][0]:
                    ratio *= other.values["effective_budget"] / row.values["effective_budget"]
                ratios.setdefault(entry.method, []).append(ratio)
    return [Check(LIMITS[name][0].format(name), tuple(found), LIMITS[name][1]) for name, found in ratios.items()]
