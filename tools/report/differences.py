"""Differences between runs, and the reasons why some cannot be compared."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from drawstream.tools.report import page
from drawstream.tools.report.groups import Group, controls_of, unlike_seeds

__all__ = ["cautions", "differences"]

COLUMNS = 6  # of the table; of more groups, each value with those that have it
APART = ("method", "seed", "sampler", "catalog", "features", "stream", "command", "join", "tracked", "config", "name")
RESULTS = ("history", "result", "loader", "bad_samples", "filtered", "forward", "backward", "effective_budget")
TIMES = ("seconds", "wall_seconds", "wait_share", "count_entropy", "finished", "machine", "format", "kind")
DATA = ("catalog_fingerprint", "evaluation", "mean", "std")  # these differ from seed to seed where the data do
LEAVE = frozenset((*APART, *RESULTS, *TIMES, *DATA))
PARTS = ("recipe", "sampling", "transform")  # of a record; their settings are known by their own names


def differences(groups: Sequence[Group], /) -> str:
    """A table of the settings and versions that the groups do not share, of nothing else; empty if they share all."""
    columns: dict[str, list[Group]] = {}
    for group in groups:
        columns.setdefault(group.folder or group.name, []).append(group)
    seen = {name: [_flat(run.document) for each in mine for run in each.runs] for name, mine in columns.items()}
    keys = dict.fromkeys(key for mine in seen.values() for each in mine for key in each)
    values = {key: {name: _values(key, mine) for name, mine in seen.items()} for key in keys}
    differing = {key: row for key, row in values.items() if len(set(row.values())) > 1}
    if len(columns) < 2 or not differing:
        return ""
    if len(columns) <= COLUMNS:
        rows = [[key, *row.values()] for key, row in differing.items()]
        return page.table(["Setting", *columns], rows, text=True, label="Settings that differ")
    rows = []
    for key, row in differing.items():
        usual, count = Counter(row.values()).most_common(1)[0]
        for value in sorted(set(row.values()), key=lambda value: (value == usual, value)):
            rest = value == usual and count > len(row) / 2
            rows.append([key, value, "all others" if rest else "; ".join(n for n, own in row.items() if own == value)])
    return page.table(["Setting", "Value", "Of"], rows, text=True, label="Settings that differ")


def _flat(document: Mapping[str, Any], before: str = "") -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in document.items():
        if name in LEAVE:
            continue
        if isinstance(value, Mapping):
            found |= _flat(value, before if name in PARTS else f"{before}{name}: ")
        else:
            found[before + name.replace("_", " ")] = f"{value:g}" if isinstance(value, float) else str(value)
    return found


def _values(key: str, runs: Sequence[Mapping[str, str]]) -> str:
    return ", ".join(dict.fromkeys(run.get(key, "–") for run in runs))


def cautions(groups: Sequence[Group], judged: Mapping[Path, str], /) -> list[str]:
    """Where runs cannot be compared, and why; a sentence each."""
    told = []
    values: dict[str, dict[str, None]] = {}
    for group in groups:
        for name, value in group.setting.items():
            values.setdefault(name, {})[value] = None
    unlike = [f"{name}: {', '.join(each)}" for name, each in values.items() if len(each) > 1]
    if unlike:
        told.append(
            f"The runs do not share all settings ({'; '.join(unlike)}). Only those that share them are averaged and "
            "compared."
        )
    for group in (each for each in groups if not each.controls):
        control = controls_of(group, groups)
        if control is None:
            told += _alone(group, groups)
            continue
        for seed, how in unlike_seeds(group, control, judged).items():
            told.append(
                f"{group.name} and {control.name} were {how} on other data at seed {seed}: their results there are not "
                "compared."
            )
    return told


def _alone(group: Group, groups: Sequence[Group]) -> list[str]:
    """Return a sentence with the settings in which a group differs from its nearest control."""
    found = [(other, _apart(group, other)) for other in groups if other.controls]
    if not found:
        return []
    other, names = min(found, key=lambda each: len(each[1]))
    gap = "; ".join(f"{name} {group.setting[name]} against {other.setting.get(name)}" for name in names)
    return [f"{group.name} has no uniform control: the nearest differs ({gap})."]


def _apart(group: Group, other: Group) -> list[str]:
    return [name for name, value in group.setting.items() if other.setting.get(name) != value]
