"""Results of `bench budget`: means, the comparison with uniform draws at equal measured compute, costs.

Notation
    f, b   rows that went forward and backward in a run, as the loop counted them
    W      compute (f + 2 b) / 3, in rows trained on: a backward pass costs as much as two forward passes
    e      effective budget (W + W of what had to be trained beforehand) / (N T), of N rows and T epochs
    s      standard deviation over the seeds (n - 1)
The control of a method is uniform drawing without replacement (`unif`, and `full` at e = 1) under the same augmentation
and schedule with the least e' >= e: it never has less compute, except beyond a full training, where there is no more to
be had and the comparison says so. A method beats its control if its mean over the seeds is higher by more than the
larger s of the two. How often equal methods would pass by chance is simulated and told with the result.
"""

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from typing import Any

import numpy as np

from drawstream.tools.bench.budget.grid import CONTROL, FULL, METHODS

__all__ = ["Check", "Comparison", "Entry", "chance", "checks", "compare", "control_budgets", "summarise"]

Row = dict[str, Any]
SAME = 1.002  # ratio of computes called equal: N B and T B are rounded to whole rows, batches and epochs
NEAR = 1.05  # a control has at most 5 % more compute than the method where one can be run
UNIFORM = (CONTROL, FULL)


@dataclass(frozen=True, slots=True)
class Entry:
    """The runs of one method at one budget, augmentation and schedule.

    Attributes:
        rows: One per seed.
    """

    method: str
    budget: float
    augment: str
    schedule: str
    rows: tuple[Row, ...]

    @property
    def effective(self) -> float:
        """e, mean over the seeds."""
        return self.mean("effective_budget") + self.mean("prepare_budget")

    def mean(self, key: str) -> float:
        """Mean over the seeds."""
        return statistics.fmean(row[key] for row in self.rows)

    def std(self, key: str) -> float | None:
        """s; None for one seed."""
        return statistics.stdev(row[key] for row in self.rows) if len(self.rows) > 1 else None

    def as_dict(self) -> Row:
        """For the JSON result."""
        numbers = {"seeds": len(self.rows)}
        spread = {f"{key}_std": self.std(key) for key in ("last", "best")}
        means = {key: self.mean(key) for key in ("last", "best", "seconds", "forward", "backward", "count_entropy")}
        means |= {key: self.mean(key) for key in ("effective_rows", "effective_budget", "prepare_budget")}
        where = {"method": self.method, "budget": self.budget, "augment": self.augment, "schedule": self.schedule}
        return where | numbers | means | spread


@dataclass(frozen=True, slots=True)
class Comparison:
    """A method beside uniform draws of no less compute.

    Attributes:
        entry: The method.
        control: Uniform draws.
        points: Mean difference of the last epoch's accuracy over the common seeds.
        deviation: The larger s of the two; None for one seed.
        higher: Seeds at which the method is higher.
        seeds: Seeds in common.
    """

    entry: Entry
    control: Entry
    points: float
    deviation: float | None
    higher: int
    seeds: int

    @property
    def beats(self) -> bool | None:
        """Whether the method is better by more than one deviation; None where one seed cannot say."""
        return None if self.deviation is None else self.points > self.deviation

    @property
    def short(self) -> bool:
        """Whether the method had more compute than any control can have."""
        return self.entry.effective > SAME * self.control.effective

    def as_dict(self) -> Row:
        """For the JSON result."""
        entry, control = self.entry, self.control
        where = {"method": entry.method, "budget": entry.budget, "augment": entry.augment, "schedule": entry.schedule}
        compute = {"effective_budget": entry.effective, "control_effective_budget": control.effective}
        control_name = {"control": control.method, "control_budget": control.budget, "control_has_less": self.short}
        found = {"points": self.points, "deviation": self.deviation, "beats": self.beats}
        return where | compute | control_name | found | {"higher": self.higher, "seeds": self.seeds}


@dataclass(frozen=True, slots=True)
class Check:
    """A number that must lie within bounds.

    Attributes:
        text: What it is.
        value: Median over the pairs of runs with the same seed, schedule, augmentation and budget.
        low: The smallest of them.
        high: The largest.
        pairs: How many.
        bounds: Where the median must lie.
    """

    text: str
    value: float
    low: float
    high: float
    pairs: int
    bounds: tuple[float, float]

    @property
    def met(self) -> bool:
        """Whether the median lies within the bounds."""
        return self.bounds[0] <= self.value <= self.bounds[1]

    @property
    def line(self) -> str:
        """For people."""
        least, most = self.bounds
        must = f"at most {most:g}" if least <= 0 else f"{least:g} to {most:g}"
        spread = f"{self.low:.3f} to {self.high:.3f} over {self.pairs} pairs" if self.pairs > 1 else "1 pair"
        return f"{self.text}: {self.value:.3f} ({spread}), must be {must}: {'met' if self.met else 'MISSED'}"

    def as_dict(self) -> Row:
        """For the JSON result."""
        found = {"value": self.value, "low": self.low, "high": self.high, "pairs": self.pairs}
        return {"check": self.text, **found, "bounds": list(self.bounds), "met": self.met}


def summarise(rows: Iterable[Row], /) -> list[Entry]:
    """Entries by augmentation and schedule as they first come, `full`, then budgets and methods in their order."""
    groups: dict[tuple[str, str], dict[tuple[float, str], list[Row]]] = {}
    for row in rows:
        block = groups.setdefault((row["augment"], row["schedule"]), {})
        block.setdefault((row["budget"], row["method"]), []).append(row)
    return [
        Entry(method, budget, augment, schedule, tuple(sorted(runs, key=lambda row: row["seed"])))
        for (augment, schedule), block in groups.items()
        for (budget, method), runs in sorted(block.items(), key=_place)
    ]


def control_budgets(entries: Sequence[Entry], /) -> list[tuple[str, str, float]]:
    """Augmentation, schedule and budget of the uniform runs that are still needed as controls.

    Budgets are effective ones rounded up to a hundredth, so that every method but those beyond a full training gets a
    control with e <= e' <= max(1.05 e, e + 0.01). One control serves several methods where these bounds allow it.
    """
    needed: list[tuple[str, str, float]] = []
    for (augment, schedule), block in groupby(
        sorted(entries, key=lambda entry: (entry.augment, entry.schedule)), key=lambda e: (e.augment, e.schedule)
    ):
        mine = list(block)
        have = [entry.effective for entry in mine if entry.method in UNIFORM]
        wanted = sorted((entry.effective for entry in mine if entry.method not in UNIFORM), reverse=True)
        for effective in wanted:
            if effective * SAME >= 1 or any(effective <= SAME * budget <= SAME * NEAR * effective for budget in have):
                continue
            have.append(min(1.0, math.ceil(effective * 100 - 1e-6) / 100))
            needed.append((augment, schedule, have[-1]))
    return needed


def compare(entries: Sequence[Entry], /) -> list[Comparison]:
    """Every method beside its control; those without a common seed are left out."""
    comparisons = []
    for entry in entries:
        controls = [
            each
            for each in entries
            if each.method in UNIFORM and (each.augment, each.schedule) == (entry.augment, entry.schedule)
        ]
        if entry.method in UNIFORM or not controls:
            continue
        enough = [each for each in controls if SAME * each.effective >= entry.effective]
        control = min(enough, key=lambda e: e.effective) if enough else max(controls, key=lambda e: e.effective)
        theirs = {row["seed"]: row["last"] for row in control.rows}
        gaps = [row["last"] - theirs[row["seed"]] for row in entry.rows if row["seed"] in theirs]
        if not gaps:
            continue
        deviations = [each for each in (entry.std("last"), control.std("last")) if each is not None]
        deviation = max(deviations) if len(deviations) == 2 else None
        higher = sum(gap > 0 for gap in gaps)
        comparisons.append(Comparison(entry, control, statistics.fmean(gaps), deviation, higher, len(gaps)))
    return comparisons


def _place(item: tuple[tuple[float, str], Any]) -> tuple[bool, float, int]:
    (budget, method), _ = item
    return method != FULL, budget, METHODS.index(method)


@cache
def chance(seeds: int, /) -> float:
    """How often a method that is equal to its control beats it, accuracies being normal: simulated, to ± 0.003."""
    draws = np.random.default_rng(0).standard_normal((2, 40_000, seeds))
    gap = draws[0].mean(1) - draws[1].mean(1)
    return float((gap > draws.std(2, ddof=1).max(0)).mean())


def checks(entries: Sequence[Entry], /) -> list[Check]:
    """Compare the time of each method with `unif` at the same seed, schedule, augmentation and budget."""
    by_method: dict[str, list[tuple[float, float]]] = {}  # seconds, and seconds per W, relative to unif
    times = {
        (row["budget"], row["augment"], row["schedule"], row["seed"]): row
        for entry in entries
        if entry.method == CONTROL
        for row in entry.rows
    }
    for entry in entries:
        for row in entry.rows:
            other = times.get((row["budget"], row["augment"], row["schedule"], row["seed"]))
            if entry.method in UNIFORM or other is None:
                continue
            ratio = row["seconds"] / other["seconds"]
            per_row = ratio * other["effective_budget"] / row["effective_budget"]
            by_method.setdefault(entry.method, []).append((ratio, per_row))
    return [
        check
        for method, ratios in by_method.items()
        for check in [_cost(method, [ratio for ratio, _ in ratios], [per_row for _, per_row in ratios])]
        if check is not None
    ]


def _cost(method: str, ratios: Sequence[float], per_row: Sequence[float]) -> Check | None:
    """Return the time check of a method; None for core-sets and scan, which are `unif` on other rows."""
    if method in ("p", "c", "p-paper", "c-paper"):
        text, values, bounds = f"training time of {method} relative to unif", ratios, (0.0, 1.02)
    elif method == "sb":
        text, values, bounds = "time of sb per counted row relative to unif", per_row, (0.9, 1.1)
    elif method in ("osgd", "dlis", "rho", "infobatch"):
        text, values, bounds = f"time of {method} per counted row relative to unif", per_row, (0.0, 1.02)
    else:
        return None
    return Check(text, statistics.median(values), min(values), max(values), len(values), bounds)
