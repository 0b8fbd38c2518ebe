"""Which runs may be averaged: those that differ in their seed only; and which runs a group may be compared with.

A group is a method under one setting. Its control is uniform sampling under the same setting: the same model, data,
epochs, batches, augmentation, budget and evaluation set; in the same folder, if several are given and it has one.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from drawstream.tools.report.records import TrainRecord

__all__ = ["CONTROL", "CONTROLS", "Group", "controls_of", "groups_of", "method_name", "settings_of", "unlike_seeds"]

CONTROL = "uniform"
CONTROLS = (CONTROL, "unif", "full")  # the last two: uniform draws of a budget, and all of it
NAMES = {CONTROL: "Uniform", "swift": "Swift Sampler"}
FEWER_EPOCHS = ("scan", "infobatch")  # these spend a budget B on B times the epochs
DEPTH = 4  # folders above a run whose names may tell it from others
BARE = ("model", "data")  # settings whose values speak for themselves


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """Runs that differ in their seed only.

    Attributes:
        method: As in the records.
        folder: Name of the folder given, where the groups of several are kept apart; else empty.
        setting: What a run must share to be compared, by name.
        telling: What tells the group from others of its method, for people; empty where nothing need.
        runs: At least one, by seed.
    """

    method: str
    folder: str
    setting: Mapping[str, str]
    telling: str
    runs: tuple[TrainRecord, ...]

    @property
    def name(self) -> str:
        """Return the group's name on the page."""
        name = ", ".join(filter(None, (method_name(self.method), self.telling)))
        return f"{self.folder}: {name}" if self.folder else name

    @property
    def controls(self) -> bool:
        """Whether it is uniform sampling."""
        return self.method in CONTROLS


def method_name(method: str, /) -> str:
    """Return a method's name on the page."""
    return NAMES.get(method, method)


def settings_of(run: TrainRecord, /, data: str = "") -> dict[str, str]:
    """Return the settings that two runs must share to be compared, by name; `data` describes the training data."""
    document = run.document
    recipe = {name: value for name, value in document.get("recipe", {}).items() if name != "seed"}
    if run.budget < 1 and run.method in FEWER_EPOCHS and isinstance(recipe.get("epochs"), int):
        recipe["epochs"] = round(recipe["epochs"] / run.budget)
    found = {"model": document.get("model"), "data": data, **recipe, "global batch": document.get("global_batch")}
    found |= {"augment": document.get("augment"), "budget": f"{run.budget:g}"}
    found |= {"evaluated on": run.result.evaluated_on if run.result else "nothing"}
    return {name: f"{value:g}" if isinstance(value, float) else str(value) for name, value in found.items()}


def _options_of(run: TrainRecord) -> dict[str, str]:
    """Options of the method itself: runs that differ in them are not averaged, but may be compared."""
    sampling = run.document.get("sampling", {})
    found = {name: sampling.get(name) for name in ("paper", "uniform_epochs", "column")}
    found |= {"frozen": run.document.get("frozen"), "crop filter": bool(run.document.get("crop_filter"))}
    return {name: str(value) for name, value in found.items() if value}


def groups_of(runs: Sequence[TrainRecord], /, data: Mapping[str, str] | None = None) -> list[Group]:
    """Runs that differ in their seed only, together; settings in order of the runs, in each of them the control first.

    Args:
        runs: Of one folder, or of several.
        data: Description of the training data by its fingerprint.
    """
    described = data or {}
    settings = [settings_of(run, described.get(str(run.document.get("catalog_fingerprint")), "")) for run in runs]
    options = [_options_of(run) for run in runs]
    folders = [run.folder for run in runs] if _apart(runs, settings, options) else [""] * len(runs)
    found: dict[tuple[object, ...], list[int]] = {}
    for i, run in enumerate(runs):
        key = (tuple(settings[i].items()), folders[i], run.method, tuple(options[i].items()))
        found.setdefault(key, []).append(i)
    parts = [part for members in found.values() for part in _by_place(runs, members)]
    firsts = [members[0] for members, _ in parts]  # the settings of one are those of all
    groups = []
    for (members, place), at in zip(parts, firsts, strict=True):
        near = [i for i in firsts if folders[i] == folders[at]]
        alike = [i for i in near if runs[i].method == runs[at].method]
        told = [*_told(settings, at, near), *_told(options, at, alike), place]
        mine = tuple(sorted((runs[i] for i in members), key=lambda run: run.seed))
        groups.append(Group(runs[at].method, folders[at], settings[at], ", ".join(filter(None, told)), mine))
    order = list(dict.fromkeys(tuple(settings[i].items()) for i in firsts))
    rank = list(dict.fromkeys(folders))
    return sorted(
        groups,
        key=lambda g: (
            order.index(tuple(g.setting.items())),
            rank.index(g.folder),
            not g.controls,
            g.method,
            g.telling,
        ),
    )


def _told(entries: Sequence[Mapping[str, str]], at: int, others: Sequence[int]) -> list[str]:
    """Describe the settings that distinguish an entry from others."""
    return [
        _word(name, value) for name, value in entries[at].items() if len({entries[i].get(name) for i in others}) > 1
    ]


def _apart(
    runs: Sequence[TrainRecord], settings: Sequence[Mapping[str, str]], options: Sequence[Mapping[str, str]]
) -> bool:
    """Whether the folders given are experiments of their own: one has several runs, or two have the same seed."""
    if len({run.folder for run in runs}) < 2:
        return False
    if max(Counter(run.folder for run in runs).values()) > 1:
        return True
    same = Counter(
        (run.method, run.seed, tuple(a.items()), tuple(b.items()))
        for run, a, b in zip(runs, settings, options, strict=True)
    )
    return max(same.values()) > 1


def _by_place(runs: Sequence[TrainRecord], members: Sequence[int]) -> list[tuple[list[int], str]]:
    """Members apart by the nearest folder's name that tells the runs of every seed apart, with that name.

    The number of the seed in a name says nothing; members stay together where no seed comes twice, or no name helps.
    """
    if max(Counter(runs[i].seed for i in members).values()) < 2:
        return [(list(members), "")]
    for parents in zip(*(list(runs[i].path.parents)[:DEPTH] for i in members), strict=False):
        names = [
            re.sub(rf"(?<!\d){runs[i].seed}(?!\d)", "*", parent.name)
            for i, parent in zip(members, parents, strict=True)
        ]
        if max(Counter((runs[i].seed, name) for i, name in zip(members, names, strict=True)).values()) < 2:
            return [
                ([i for i, own in zip(members, names, strict=True) if own == name], name)
                for name in dict.fromkeys(names)
            ]
    return [(list(members), "")]


def _word(name: str, value: str) -> str:
    return value if name in BARE else name if value == "True" else f"{name.replace('_', ' ')} {value}"


def controls_of(group: Group, groups: Sequence[Group], /) -> Group | None:
    """The control of a group: uniform sampling under the same setting, of the same folder where that has one."""
    found = [each for each in groups if each.controls and dict(each.setting) == dict(group.setting)]
    return next((each for each in found if each.folder == group.folder), found[0] if found else None)


def unlike_seeds(group: Group, control: Group, judged: Mapping[Path, str], /) -> dict[int, str]:
    """Seeds of both at which the data differ: "trained" on others, or "measured" on others."""
    found = {}
    for run in group.runs:
        for other in (each for each in control.runs if each.seed == run.seed):
            prints = [each.document.get("catalog_fingerprint") for each in (run, other)]
            places = [judged.get(each.path, "") for each in (run, other)]
            if prints[0] != prints[1]:
                found[run.seed] = "trained"
            elif all(places) and places[0] != places[1]:
                found[run.seed] = "measured"
    return found
