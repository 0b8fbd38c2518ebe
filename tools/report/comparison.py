"""Methods side by side over seeds, and the sentence that says what the figures bear out.

Differences are paired by seed: d_s = sampler - uniform at seed s, with n seeds in common.
    interval   mean d ± t s_d / sqrt(n), t Student's 97.5 % quantile with n - 1 degrees of freedom
A sampler is called better only if this interval lies above zero; one seed has no interval and is never called better.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Literal

from scipy.stats import t as student

from drawstream.tools.report.records import TrainRecord

Kind = Literal["last", "chosen", "best"]
CONTROL = "uniform"
NAMES = {"uniform": "Uniform", "swift": "Swift Sampler"}


@dataclass(frozen=True, slots=True)
class Entry:
    """Accuracies of one method, read off in one way.

    Attributes:
        method: As in the records.
        kind: "last" epoch, the epoch "chosen" on the held-out set (early stopping), or the "best" one (an oracle).
        values: Seed and accuracy in per cent of every run.
    """

    method: str
    kind: Kind
    values: tuple[tuple[int, float], ...]

    @property
    def name(self) -> str:
        """What the entry is called on the page."""
        how = {"last": "last epoch", "chosen": "early stopping", "best": "best epoch (oracle)"}
        return f"{method_name(self.method)}, {how[self.kind]}"

    @property
    def mean(self) -> float:
        """Mean over all runs, per cent."""
        return mean(value for _, value in self.values)

    @property
    def std(self) -> float | None:
        """Standard deviation over all runs (n - 1), points; None for a single run."""
        return stdev(value for _, value in self.values) if len(self.values) > 1 else None

    def by_seed(self) -> dict[int, float]:
        """Accuracy at every seed; several runs of one seed are averaged."""
        seeds = sorted({seed for seed, _ in self.values})
        return {seed: mean(value for other, value in self.values if other == seed) for seed in seeds}


@dataclass(frozen=True, slots=True)
class Difference:
    """A method less the control, paired by seed, in points.

    Attributes:
        mean: Over the seeds in common.
        interval: 95 %; None for one seed.
        above: Seeds at which the method is higher.
        seeds: Seeds in common.
    """

    mean: float
    interval: tuple[float, float] | None
    above: int
    seeds: int

    @property
    def relation(self) -> str:
        """How the method stands to the control, in words that claim no more than the interval."""
        if self.interval is None:
            return "above" if self.mean > 0 else "below" if self.mean < 0 else "level with"
        low, high = self.interval
        if low > 0:
            return "better than"
        if high < 0:
            return "worse than"
        return "not shown to be better than" if self.mean > 0 else "not better than"

    @property
    def figures(self) -> str:
        """The numbers behind the relation."""
        if self.interval is None:
            return f"{signed(self.mean)} points at one seed, which cannot rule out chance"
        low, high = self.interval
        return (
            f"{signed(self.mean)} points on average, 95 % interval {signed(low)} to {signed(high)}, "
            f"higher at {self.above} of {self.seeds} seeds"
        )


def method_name(method: str, /) -> str:
    """What a method is called on the page."""
    return NAMES.get(method, method)


def signed(value: float, /) -> str:
    """A difference with its sign, one decimal."""
    return f"{value:+.1f}".replace("-", "−")


def methods_of(runs: Sequence[TrainRecord], /) -> list[str]:
    """The methods of some runs, the control first."""
    return sorted({run.method for run in runs}, key=lambda method: (method != CONTROL, method))


def compare(runs: Sequence[TrainRecord], /) -> list[Entry]:
    """Entries of every method with evaluated runs, the control first: last, chosen where there is one, best epoch."""
    entries: list[Entry] = []
    for method in methods_of(runs):
        mine = [(run.seed, run.result) for run in runs if run.method == method and run.result is not None]
        chosen = tuple((seed, result.chosen) for seed, result in mine if result.chosen is not None)
        if mine:
            entries.append(Entry(method, "last", tuple((seed, result.last) for seed, result in mine)))
        if chosen and len(chosen) == len(mine):
            entries.append(Entry(method, "chosen", chosen))
        if mine:
            entries.append(Entry(method, "best", tuple((seed, result.best) for seed, result in mine)))
    return entries


def difference(method: Entry, control: Entry, /) -> Difference | None:
    """The paired difference of two entries; None where they have no seed in common."""
    ours, theirs = method.by_seed(), control.by_seed()
    gaps = [ours[seed] - theirs[seed] for seed in sorted(ours.keys() & theirs.keys())]
    if not gaps:
        return None
    centre = mean(gaps)
    interval = None
    if len(gaps) > 1:
        half = float(student.ppf(0.975, len(gaps) - 1)) * stdev(gaps) / math.sqrt(len(gaps))
        interval = (centre - half, centre + half)
    return Difference(centre, interval, sum(gap > 0 for gap in gaps), len(gaps))


def verdicts(entries: Sequence[Entry], /) -> list[str]:
    """One sentence per method other than the control, or why none can be said."""
    table: Mapping[tuple[str, str], Entry] = {(entry.method, entry.kind): entry for entry in entries}
    others = [method for method, kind in table if kind == "last" and method != CONTROL]
    if (CONTROL, "last") not in table:
        return ["There is no uniform control among these runs, so they cannot say what a sampler is worth."]
    if not others:
        return ["These are runs with uniform sampling only; there is no sampler to compare them with."]
    return [_verdict(table, method) for method in others]


def _verdict(table: Mapping[tuple[str, str], Entry], method: str) -> str:
    ours = table[method, "last"]
    at_last = difference(ours, table[CONTROL, "last"])
    at_best = difference(ours, table[CONTROL, "best"])
    if at_last is None or at_best is None:
        return (
            f"{method_name(method)} reaches {ours.mean:.1f} % after the last epoch and uniform "
            f"{table[CONTROL, 'last'].mean:.1f} %, but they have no seed in common, so the two cannot be compared."
        )
    return (
        f"{method_name(method)} after its last epoch is {at_last.relation} uniform after its last epoch "
        f"({at_last.figures}), and {at_best.relation} uniform at its best epoch ({at_best.figures})."
    )


def settings_that_differ(runs: Sequence[TrainRecord], /) -> list[str]:
    """Settings other than method and seed that the runs do not share, each with its values: "epochs: 20, 60"."""
    seen: dict[str, set[str]] = {}
    for run in runs:
        recipe = run.document.get("recipe", {})
        settings = {name: value for name, value in recipe.items() if name != "seed"}
        settings |= {"model": run.document.get("model"), "evaluated on": run.result and run.result.evaluated_on}
        for name, value in settings.items():
            seen.setdefault(name, set()).add(str(value))
    differing = [f"{name}: {', '.join(sorted(values))}" for name, values in seen.items() if len(values) > 1]
    prints: dict[int, set[str]] = {}
    for run in runs:
        prints.setdefault(run.seed, set()).add(str(run.document.get("catalog_fingerprint")))
    split = [str(seed) for seed, values in prints.items() if len(values) > 1]
    return differing + ([f"training data at seed {', '.join(split)}"] if split else [])
