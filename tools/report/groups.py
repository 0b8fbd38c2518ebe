"""Groups of runs that may be averaged: those that differ in their seed only; and the control of each group.

A group is a method under one setting. Its control is uniform sampling under the same setting: the same model, data,
epochs, batches, augmentation, budget and evaluation set; in the same folder, if several are given and it has one.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from drawstream.tools.experiments import METRICS, title_of
from drawstream.tools.report.records import TrainRecord
from drawstream.tools.training.methods import METHODS

__all__ = ["Group", "control_of", "groups_of", "unlike_seeds"]

DEPTH = 4  # folders above a run whose names may tell it from others
BARE = ("model", "data")  # settings whose values speak for themselves
OPTIONS: tuple[str, ...] = ("paper", "uniform_epochs", "column")  # of a method, in a record's sampling
OPTIONS += ("balance", "effective_beta", "defer_until", "repeat_threshold")


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """Runs that differ in their seed only."""

    method: str  # as in the records
    folder: str  # name of the folder given, if the groups of several are kept apart; else empty
    setting: Mapping[str, str]  # settings that a run must share to be compared, by name
    telling: str  # settings that tell the group from others, for people; empty if none need be
    runs: tuple[TrainRecord, ...]  # at least one, by seed

    @property
    def name(self) -> str:
        """Name on the page."""
        name = ", ".join(filter(None, (title_of(self.method), self.telling)))
        return f"{self.folder}: {name}" if self.folder else name

    @property
    def is_control(self) -> bool:
        """True for uniform sampling."""
        control = self.method in METHODS and METHODS[self.method].control
        return control and not self.runs[0].document.get("sampling", {}).get("balance")


@dataclass(frozen=True, slots=True)
class _Run:
    """A run with the settings that two runs must share to be compared, and the method's own options."""

    record: TrainRecord
    setting: Mapping[str, str]
    options: Mapping[str, str]
    folder: str

    @property
    def key(self) -> tuple[object, ...]:
        """Runs of one key are of one group, unless their folders tell them apart."""
        return self.folder, self.record.method, tuple(self.setting.items()), tuple(self.options.items())


def groups_of(runs: Sequence[TrainRecord], /, data: Mapping[str, str] | None = None) -> list[Group]:
    """Return the groups: settings in order of the runs, in each of them the control first.

    Args:
        runs: Records of one folder, or of several.
        data: Description of the training data by its fingerprint.
    """
    names = data or {}
    found = [
        _Run(run, _settings(run, names.get(str(run.document.get("catalog_fingerprint")), "")), _options(run), "")
        for run in runs
    ]
    if _are_experiments(found):
        found = [replace(each, folder=each.record.folder) for each in found]
    members: dict[tuple[object, ...], list[_Run]] = {}
    for each in found:
        members.setdefault(each.key, []).append(each)
    parts = [part for mine in members.values() for part in _by_place(mine)]
    firsts = [mine[0] for mine, _ in parts]  # the settings of one are those of all
    groups = []
    for mine, place in parts:
        first = mine[0]
        near = [each for each in firsts if each.folder == first.folder]
        alike = [each for each in near if each.record.method == first.record.method]
        told = [*_told(first.setting, [each.setting for each in near])]
        told += [*_told(first.options, [each.options for each in alike]), place]
        records = tuple(sorted((each.record for each in mine), key=lambda run: run.seed))
        groups.append(Group(first.record.method, first.folder, first.setting, ", ".join(filter(None, told)), records))
    order = list(dict.fromkeys(tuple(each.setting.items()) for each in firsts))
    rank = list(dict.fromkeys(each.folder for each in found))

    def place_of(group: Group) -> tuple[Any, ...]:
        setting = order.index(tuple(group.setting.items()))
        return setting, rank.index(group.folder), not group.is_control, group.method, group.telling

    return sorted(groups, key=place_of)


def _settings(run: TrainRecord, data: str) -> dict[str, str]:
    document = run.document
    recipe = {name: value for name, value in document.get("recipe", {}).items() if name not in ("seed", "loss")}
    fewer = run.method in METHODS and METHODS[run.method].fewer_epochs
    if run.budget < 1 and fewer and isinstance(recipe.get("epochs"), int):
        recipe["epochs"] = round(recipe["epochs"] / run.budget)
        if "milestones" in recipe:
            recipe["milestones"] = [each / run.budget for each in recipe["milestones"]]
    found = {"model": document.get("model"), "data": data, **recipe, "global batch": document.get("global_batch")}
    found |= {"augment": document.get("augment"), "budget": f"{run.budget:g}"}
    found |= {"where": document.get("sampling", {}).get("where", "")}
    found |= {"evaluated on": run.result.evaluated_on if run.result else "nothing"}
    found |= {"metric": METRICS[run.result.metric]} if run.result and run.result.metric != "top1" else {}
    return {name: f"{value:g}" if isinstance(value, float) else str(value) for name, value in found.items()}


def _options(run: TrainRecord) -> dict[str, str]:
    found = {name: run.document.get("sampling", {}).get(name) for name in OPTIONS}
    loss = run.document.get("recipe", {}).get("loss", "ce")
    found |= {"loss": None if loss in ("ce", run.method) else loss}
    found |= {"frozen": run.document.get("frozen"), "crop filter": bool(run.document.get("crop_filter"))}
    return {name: str(value) for name, value in found.items() if value}


def _are_experiments(runs: Sequence[_Run]) -> bool:
    """Return True if each folder given is an experiment: one has several runs, or two have the same seed."""
    folders = Counter(each.record.folder for each in runs)
    same = Counter((each.record.seed, each.key) for each in runs)
    return len(folders) > 1 and max(*folders.values(), *same.values()) > 1


def _by_place(runs: Sequence[_Run]) -> list[tuple[list[_Run], str]]:
    """Split runs by the nearest folder's name that tells the runs of every seed apart, and return it with them.

    The seed's number in a name does not count; runs stay together if no seed comes twice, or no name helps.
    """

    def twice(labels: Sequence[object]) -> bool:
        return max(Counter(zip((each.record.seed for each in runs), labels, strict=True)).values()) > 1

    if twice([""] * len(runs)):
        for parents in zip(*(list(each.record.path.parents)[:DEPTH] for each in runs), strict=False):
            seeds = [rf"(?<!\d){each.record.seed}(?!\d)" for each in runs]
            names = [re.sub(seed, "*", parent.name) for seed, parent in zip(seeds, parents, strict=True)]
            if not twice(names):
                pairs = list(zip(runs, names, strict=True))
                return [([each for each, own in pairs if own == name], name) for name in dict.fromkeys(names)]
    return [(list(runs), "")]


def _told(entry: Mapping[str, str], others: Sequence[Mapping[str, str]]) -> list[str]:
    """Return the settings that tell an entry from others, as words."""
    differing = [name for name in entry if len({other.get(name) for other in others}) > 1]
    return [
        entry[name] if name in BARE else name if entry[name] == "True" else f"{name.replace('_', ' ')} {entry[name]}"
        for name in differing
    ]


def control_of(group: Group, groups: Sequence[Group], /) -> Group | None:
    """Return the control of a group: under the same setting, of the same folder if that has one."""
    found = [each for each in groups if each.is_control and dict(each.setting) == dict(group.setting)]
    return min(found, key=lambda each: each.folder != group.folder, default=None)


def unlike_seeds(group: Group, control: Group, judged: Mapping[Path, str], /) -> dict[int, str]:
    """Return the seeds of both at which the data differ: "trained" on others, or "measured" on others."""
    found = {}
    for run in group.runs:
        for other in (each for each in control.runs if each.seed == run.seed):
            places = [judged.get(each.path, "") for each in (run, other)]
            if run.document.get("catalog_fingerprint") != other.document.get("catalog_fingerprint"):
                found[run.seed] = "trained"
            elif all(places) and places[0] != places[1]:
                found[run.seed] = "measured"
    return found
