"""Methods side by side over seeds, and the sentence that says what the figures bear out.

Differences are paired by seed: d_s = sampler - uniform at seed s, with n seeds in common.
    interval   mean d ± t s_d / sqrt(n), t Student's 97.5 % quantile with n - 1 degrees of freedom
A sampler is called better only if this interval lies above zero; one seed has no interval and is never called better.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Literal

from scipy.stats import t as student

from drawstream.tools.report.groups import Group, controls_of, method_name, unlike_seeds

__all__ = ["Difference", "Entry", "Pair", "compare", "difference", "pairs_of", "signed", "verdicts"]

Kind = Literal["last", "chosen", "best"]
SENTENCES = 4  # verdicts in full; of more, a summary


@dataclass(frozen=True, slots=True)
class Entry:
    """Accuracies of one method, read off in one way.

    Attributes:
        method: As in the records.
        kind: "last" epoch, the epoch "chosen" on the held-out set (early stopping), or the "best" one (an oracle).
        values: Seed and accuracy in per cent of every run.
        group: Of the runs.
    """

    method: str
    kind: Kind
    values: tuple[tuple[int, float], ...]
    group: Group | None = None

    @property
    def name(self) -> str:
        """Return the entry's name on the page."""
        how = {"last": "last epoch", "chosen": "early stopping", "best": "best epoch (oracle)"}
        return f"{self.group.name if self.group else method_name(self.method)}, {how[self.kind]}"

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


def signed(value: float, /) -> str:
    """A difference with its sign, one decimal."""
    return f"{value:+.1f}".replace("-", "−")


def compare(groups: Sequence[Group], /) -> list[Entry]:
    """Entries of every group with evaluated runs: last, chosen where there is one, best epoch."""
    entries: list[Entry] = []
    for group in groups:
        mine = [(run.seed, run.result) for run in group.runs if run.result is not None]
        chosen = tuple((seed, result.chosen) for seed, result in mine if result.chosen is not None)
        if mine:
            last = tuple((seed, result.last) for seed, result in mine)
            entries.append(Entry(group.method, "last", last, group))
        if chosen and len(chosen) == len(mine):
            entries.append(Entry(group.method, "chosen", chosen, group))
        if mine:
            best = tuple((seed, result.best) for seed, result in mine)
            entries.append(Entry(group.method, "best", best, group))
    return entries


def difference(method: Entry, control: Entry, /, *, leave: Collection[int] = ()) -> Difference | None:
    """The paired difference of two entries, seeds to `leave` out; None where they have no other seed in common."""
    ours, theirs = method.by_seed(), control.by_seed()
    gaps = [ours[seed] - theirs[seed] for seed in sorted((ours.keys() & theirs.keys()) - set(leave))]
    if not gaps:
        return None
    centre = mean(gaps)
    interval = None
    if len(gaps) > 1:
        half = float(student.ppf(0.975, len(gaps) - 1)) * stdev(gaps) / math.sqrt(len(gaps))
        interval = (centre - half, centre + half)
    return Difference(centre, interval, sum(gap > 0 for gap in gaps), len(gaps))


@dataclass(frozen=True, slots=True)
class Pair:
    """A group beside its control.

    Attributes:
        group: Not uniform sampling.
        control: Uniform sampling under the same setting; None where there is none.
        last: After the last epoch less the control after its last one; None without a control or a common seed.
        best: After the last epoch less the control at its best one.
    """

    group: Group
    control: Group | None
    last: Difference | None
    best: Difference | None


def pairs_of(groups: Sequence[Group], judged: Mapping[Path, str], /) -> list[Pair]:
    """Every evaluated group other than the controls, beside its control; `judged` as in `Data`."""
    table = {(id(entry.group), entry.kind): entry for entry in compare(groups)}
    evaluated = [group for group in groups if (id(group), "last") in table]
    pairs = []
    for group in (each for each in evaluated if not each.controls):
        control = controls_of(group, evaluated)
        if control is None:
            pairs.append(Pair(group, None, None, None))
            continue
        ours = table[id(group), "last"]
        leave = unlike_seeds(group, control, judged)
        last, best = (difference(ours, table[id(control), kind], leave=leave) for kind in ("last", "best"))
        pairs.append(Pair(group, control, last, best))
    return pairs


def verdicts(groups: Sequence[Group], judged: Mapping[Path, str], /) -> list[str]:
    """One sentence per group other than the controls, a summary of many, or why nothing can be said."""
    pairs = pairs_of(groups, judged)
    if not any(group.controls and any(run.result for run in group.runs) for group in groups):
        return ["There is no uniform control among these runs, so they cannot say what a sampler is worth."]
    if not pairs:
        return ["These are runs with uniform sampling only; there is no sampler to compare them with."]
    if len(pairs) <= SENTENCES:
        return [_verdict(pair) for pair in pairs]
    return [_summary(pairs)]


def _verdict(pair: Pair) -> str:
    name = pair.group.name
    if pair.control is None:
        return f"{name} has no uniform control with the same settings here, so it is compared with nothing."
    if pair.last is None or pair.best is None:
        last = {id(entry.group): entry.mean for entry in compare([pair.group, pair.control]) if entry.kind == "last"}
        return (
            f"{name} reaches {last[id(pair.group)]:.1f} % after the last epoch and uniform "
            f"{last[id(pair.control)]:.1f} %, but they have no seed in common, so the two cannot be compared."
        )
    return (
        f"{name} after its last epoch is {pair.last.relation} uniform after its last epoch "
        f"({pair.last.figures}), and {pair.best.relation} uniform at its best epoch ({pair.best.figures})."
    )


def _summary(pairs: Sequence[Pair]) -> str:
    last = [pair.last.relation for pair in pairs if pair.last is not None]
    best = [pair.best.relation for pair in pairs if pair.best is not None]
    return (
        f"{len(pairs)} groups of runs stand beside uniform sampling. Better than uniform after its last epoch: "
        f"{last.count('better than')}; worse: {last.count('worse than')}; better than uniform at its best epoch: "
        f"{best.count('better than')}. So many comparisons yield some by chance: about one in forty where nothing "
        "differs."
    )
