"""Findings of the label-noise benchmark: each method less uniform, and the cost of its search."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from drawstream.tools.experiments import Difference, Entry, Row, blocks, control_of, entries_of, title_of

__all__ = ["Finding", "findings_of"]


@dataclass(frozen=True, slots=True)
class Finding:
    """A method at one noise level under one validation set, over the seeds.

    Attributes:
        entry: Its rows.
        gain: `last` less that of `uniform`; None where that has no seed in common.
        best_gain: The same of `best`.
        gap_closed: Mean gain over that of `clean-only`; None without it, and where no label is wrong.
        speed: Epochs until uniform first has its own last test accuracy over those until this method has it, mean over
            the seeds; None where the method never has it.
        search_cost: Seconds of the searches over those of the uniform trainings of the same seeds; None without them.
        hindsight: It is the best of the shares of `drop`: the test labels chose it.
    """

    entry: Entry
    gain: Difference | None
    best_gain: Difference | None
    gap_closed: float | None
    speed: float | None
    search_cost: float | None
    hindsight: bool = False

    @property
    def name(self) -> str:
        """Name in tables."""
        return title_of(self.entry.method) + (" (best share in hindsight)" if self.hindsight else "")

    def as_dict(self) -> dict[str, Any]:
        """Return the figures for the JSON result."""
        found = self.entry.as_dict(("balanced", "search_seconds", "train_seconds"))
        for key, gain in (("gain", self.gain), ("best_gain", self.best_gain)):
            found[key] = None if gain is None else gain.as_dict()
        more = {
            "gap_closed": self.gap_closed,
            "speed": self.speed,
            "search_cost": self.search_cost,
            "hindsight": self.hindsight,
        }
        return found | more | {"extra_forward_backward": self.entry.rows[-1].values["extra_forward_backward"]}


def findings_of(rows: Sequence[Row], /) -> list[Finding]:
    """Return a finding per noise level, validation and method, settings in order, methods as they come."""
    findings = []
    for block in blocks(sorted(entries_of(rows), key=lambda each: each.setting["noise"])):
        control, oracle = (control_of(block[0], block, name) for name in ("uniform", "clean-only"))
        most = oracle and oracle.less(control, "last")
        dropping = [entry for entry in block if entry.method.startswith("drop-")]
        best = max(dropping, key=lambda entry: entry.mean("last"), default=None)
        for entry in block:
            gain, best_gain = (entry.less(control, key) for key in ("last", "best"))
            closed = gain.mean / most.mean if gain and most and most.mean and entry.setting["noise"] else None
            cost = _search_cost(entry, control)
            findings.append(Finding(entry, gain, best_gain, closed, _speed(entry, control), cost, entry is best))
    return findings


def _search_cost(entry: Entry, control: Entry | None) -> float | None:
    """Seconds of the searches over those of the uniform trainings at the common seeds."""
    trained, searched = control.values("train_seconds") if control else {}, entry.values("search_seconds")
    seconds = sum(trained[seed] for seed in searched if seed in trained)
    return sum(searched[seed] for seed in searched if seed in trained) / seconds if seconds else None


def _speed(entry: Entry, control: Entry | None) -> float | None:
    """Epochs until the control first has its own last accuracy, over those until the entry has it; mean over seeds."""
    mine, theirs = ({row.seed: row.values["curve"] for row in each.rows} for each in (entry, control or entry))
    if control is None or entry is control:
        return None
    ratios = []
    for seed in sorted(mine.keys() & theirs.keys()):
        epochs = [
            next((at for at, a in enumerate(c, 1) if a >= theirs[seed][-1]), None) for c in (theirs[seed], mine[seed])
        ]
        if epochs[0] is None or epochs[1] is None:
            return None
        ratios.append(epochs[0] / epochs[1])
    return fmean(ratios) if ratios else None
