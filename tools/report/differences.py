"""The table of settings and versions that differ between runs."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from drawstream.tools.report import page
from drawstream.tools.report.groups import Group

__all__ = ["list_differences"]

COLUMNS = 6  # of the table; of more groups, each value with those that have it
APART = ("method", "seed", "sampler", "catalog", "features", "stream", "command", "join", "tracked", "config", "name")
RESULTS = ("history", "result", "loader", "bad_samples", "filtered", "forward", "backward", "effective_budget")
TIMES = ("seconds", "wall_seconds", "wait_share", "count_entropy", "finished", "machine", "format", "kind")
DATA = ("catalog_fingerprint", "evaluation", "mean", "std")  # these differ from seed to seed where the data do
LEAVE = frozenset((*APART, *RESULTS, *TIMES, *DATA))
PARTS = ("recipe", "sampling", "transform")  # of a record; their settings are known by their own names


def list_differences(groups: Sequence[Group], /) -> str:
    """Return a table of the settings that the groups do not share; empty if they share all."""
    columns: dict[str, list[dict[str, str]]] = {}
    for group in groups:
        columns.setdefault(group.folder or group.name, []).extend(_flat(run.document) for run in group.runs)
    keys = dict.fromkeys(key for runs in columns.values() for run in runs for key in run)
    values = {
        key: [", ".join(dict.fromkeys(run.get(key, "–") for run in runs)) for runs in columns.values()] for key in keys
    }
    differing = {key: row for key, row in values.items() if len(set(row)) > 1}
    if not differing:
        return ""
    if len(columns) <= COLUMNS:
        head, rows = ["Setting", *columns], [[key, *row] for key, row in differing.items()]
    else:
        head = ["Setting", "Value", "Runs"]
        rows = [line for key, row in differing.items() for line in _by_value(key, dict(zip(columns, row, strict=True)))]
    return page.table(head, rows, text=True, label="Settings that differ")


def _by_value(key: str, row: Mapping[str, str]) -> list[list[str]]:
    """Return a line per value of a setting with the groups that have it, the usual value last."""
    usual, count = Counter(row.values()).most_common(1)[0]
    lines = []
    for value in sorted(set(row.values()), key=lambda value: (value == usual, value)):
        rest = value == usual and count > len(row) / 2
        lines.append([key, value, "all others" if rest else "; ".join(name for name in row if row[name] == value)])
    return lines


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
