"""Groups of runs beside their uniform control, and the sentences that the numbers bear out.

Differences are paired by seed, see `experiments.compare`: a method is better only if its interval lies above zero.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from drawstream.tools.experiments import METRICS, Difference, Spread, by_seed, difference, lower_is_better, signed
from drawstream.tools.report.groups import Group, control_of, unlike_seeds

__all__ = ["SENTENCES", "Entry", "Pair", "cautions", "compare", "pairs_of", "verdicts"]

Kind = Literal["last", "chosen", "best"]
KINDS: dict[Kind, str] = {"last": "last epoch", "chosen": "early stopping", "best": "best epoch (oracle)"}
SENTENCES = 4  # verdicts in full; of more, a summary


@dataclass(frozen=True, slots=True)
class Entry:
    """Accuracies of one group, read in one way."""

    group: Group  # the runs
    kind: Kind  # "last" epoch, the epoch "chosen" on the held-out set (early stopping), or the "best" one (an oracle)
    values: tuple[tuple[int, float], ...]  # seed and main metric of every run

    @property
    def name(self) -> str:
        """Name on the page."""
        return f"{self.group.name}, {KINDS[self.kind]}"

    @property
    def metric(self) -> str:
        """Name of the metric, the same in all runs of a group."""
        return metric_of(self.group)

    @property
    def spread(self) -> Spread:
        """Mean and standard deviation over all runs."""
        return Spread.of(value for _, value in self.values)


def metric_of(group: Group, /) -> str:
    """Return the metric of a group's evaluated runs."""
    return next((run.result.metric for run in group.runs if run.result is not None), "top1")


def compare(groups: Sequence[Group], /) -> list[Entry]:
    """Return the entries of every group with evaluated runs; "chosen" only if all its runs have one."""
    entries = []
    for group in groups:
        results = [(run.seed, run.result) for run in group.runs if run.result is not None]
        for kind in KINDS:
            values = [(seed, getattr(result, kind)) for seed, result in results]
            if values and all(value is not None for _, value in values):
                entries.append(Entry(group, kind, tuple(values)))
    return entries


@dataclass(frozen=True, slots=True)
class Pair:
    """A group beside its control."""

    group: Group  # any but a control
    control: Group | None  # uniform sampling under the same setting; None if there is none
    last: Difference | None  # last epoch of both compared; None without a control or a common seed
    best: Difference | None  # last epoch compared with the control's best one; None likewise
    means: Mapping[str, float]  # main metric of the group's last epoch ("group"), of the control by kind


def pairs_of(groups: Sequence[Group], judged: Mapping[Path, str], /) -> list[Pair]:
    """Return every evaluated group that is no control, beside its control; `judged` as in `Data`."""
    table: dict[Group, dict[Kind, Entry]] = {}
    for entry in compare(groups):
        table.setdefault(entry.group, {})[entry.kind] = entry
    pairs = []
    for group, mine in table.items():
        if group.is_control:
            continue
        control, last, best = control_of(group, list(table)), None, None
        means = {"group": mine["last"].spread.mean}
        if control is not None:
            theirs, leave = table[control], unlike_seeds(group, control, judged)
            last, best = (_gain(mine["last"], theirs[kind], leave) for kind in ("last", "best"))
            means |= {kind: entry.spread.mean for kind, entry in theirs.items()}
        pairs.append(Pair(group, control, last, best, means))
    return pairs


def _gain(mine: Entry, control: Entry, leave: Mapping[int, str]) -> Difference | None:
    """Return how much better a group is: higher, or of an error lower."""
    pair = by_seed(mine.values), by_seed(control.values)
    return difference(*(reversed(pair) if lower_is_better(mine.metric) else pair), leave=leave)


def verdicts(groups: Sequence[Group], pairs: Sequence[Pair], /) -> list[str]:
    """Return a sentence or two per pair, a summary of many, or why nothing can be said."""
    if not any(group.is_control and any(run.result for run in group.runs) for group in groups):
        return ["No uniform run lies here, so nothing tells what a sampler is worth: train one without --sampler."]
    if not pairs:
        return ["All runs draw uniformly; there is no sampler to compare them with."]
    if len(pairs) <= SENTENCES:
        return [_verdict(pair, groups) for pair in pairs]
    last = Counter(pair.last.relation for pair in pairs if pair.last is not None)
    best = Counter(pair.best.relation for pair in pairs if pair.best is not None)
    return [
        f"{len(pairs)} groups of runs are compared with uniform sampling. After the last epoch {last['better']} are "
        f"better and {last['worse']} worse; {best['better']} are better than the best epoch of uniform. About one "
        "comparison in forty looks better by chance where nothing differs."
    ]


def _verdict(pair: Pair, groups: Sequence[Group]) -> str:
    name, means = pair.group.name, pair.means
    if pair.control is None:
        return f"No uniform run with the settings of {name}{_nearest(pair.group, groups)}; {_remedy(pair.group)}."
    metric = metric_of(pair.group)

    def shown(value: float) -> str:
        return f"{METRICS[metric]} {value:.4g}" if lower_is_better(metric) else f"{value:.1f} %"

    stopped = f" ({shown(means['chosen'])} with early stopping)" if "chosen" in means else ""
    reached = f"With {name} {shown(means['group'])}, with uniform sampling {shown(means['last'])}{stopped}."
    if pair.last is None or pair.best is None:
        return f"{reached} They have no seed in common, so they are not compared."
    last, best = (_told(found, metric) for found in (pair.last, pair.best))
    return f"{reached} After the last epoch: {last}. Against the best epoch of uniform: {best}."


def _told(found: Difference, metric: str) -> str:
    """Return the relation and its numbers, which claim no more than the interval."""
    error = lower_is_better(metric)
    way = "lower" if found.mean >= 0 else "higher"
    points = f"{METRICS[metric]} {way} by {abs(found.mean):.3g}" if error else f"{signed(found.mean, 1)} points"
    if found.interval is None:
        return f"{points} at one seed, which cannot rule out chance"
    low, high = (f"{-end:+.3g}".replace("-", "−") if error else signed(end, 1) for end in reversed(found.interval))
    low, high = (low, high) if error else (high, low)
    where = f"{'lower' if error else 'higher'} at {found.higher} of {found.seeds} seeds"
    return f"{found.relation}, {points} (95 % interval {low} to {high}), {where}"


def _remedy(group: Group) -> str:
    change = "with --sampler unif" if group.runs[0].budget < 1 else "without --sampler"
    return f"train one: the same command {change}"


def _nearest(group: Group, groups: Sequence[Group]) -> str:
    """Return the settings in which a group differs from its nearest control."""
    gaps: list[list[str]] = []
    for other in (each for each in groups if each.is_control):
        differing = {name: value for name, value in group.setting.items() if other.setting.get(name) != value}
        gaps.append([f"{name} {value} against {other.setting.get(name)}" for name, value in differing.items()])
    gaps.sort(key=len)
    return f" (the nearest differs: {'; '.join(gaps[0])})" if gaps else ""


def cautions(groups: Sequence[Group], judged: Mapping[Path, str], /) -> list[str]:
    """Return a sentence for each reason why runs are not compared."""
    told = []
    names = dict.fromkeys(name for group in groups for name in group.setting)
    values = {name: dict.fromkeys(g.setting[name] for g in groups if name in g.setting) for name in names}
    unlike = [f"{name}: {', '.join(each)}" for name, each in values.items() if len(each) > 1]
    if unlike:
        told.append(
            f"The runs differ in settings ({'; '.join(unlike)}). Runs with equal settings are averaged over seeds and "
            "compared with uniform at the same settings."
        )
    for group in (each for each in groups if not each.is_control):
        control = control_of(group, groups)
        if control is not None:
            told += [
                f"{group.name} and {control.name} were {how} on other data at seed {seed}: their results there are not "
                "compared."
                for seed, how in unlike_seeds(group, control, judged).items()
            ]
    return told
