"""Results of an experiment: a row per cell (method, setting, seed), and an entry per method and setting."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from drawstream.tools.experiments.compare import Difference, Spread, by_seed, difference

__all__ = ["Entry", "Row", "blocks", "control_of", "entries_of"]

Setting = dict[str, Any]  # what methods are compared under, by name: {"noise": 0.4, "validation": "clean"}


@dataclass(frozen=True, slots=True)
class Row:
    """Result of one cell.

    Attributes:
        method: Name of the method.
        setting: All that must be equal for two methods to be compared, but the seed.
        seed: Of the cell.
        values: What was measured, by name.
    """

    method: str
    setting: Setting
    seed: int
    values: dict[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """Return the row for a JSON result."""
        return {"method": self.method, **self.setting, "seed": self.seed, **self.values}


@dataclass(frozen=True, slots=True)
class Entry:
    """The rows of one method under one setting, at least one."""

    method: str
    setting: Setting
    rows: tuple[Row, ...]

    def values(self, key: str, /) -> dict[int, float]:
        """Return a value by seed."""
        return by_seed((row.seed, row.values[key]) for row in self.rows)

    def spread(self, key: str, /) -> Spread:
        """Return mean and deviation of a value over the seeds."""
        return Spread.of(self.values(key).values())

    def mean(self, key: str, /) -> float:
        """Return the mean of a value over the seeds."""
        return self.spread(key).mean

    def less(self, control: "Entry | None", key: str, /) -> Difference | None:
        """Return the difference to a control; None without one, or without a seed in common."""
        return None if control is None else difference(self.values(key), control.values(key))

    def as_dict(self, means: Iterable[str], spreads: Iterable[str] = ("last", "best"), /) -> dict[str, Any]:
        """Return method, setting, number of seeds, and the means of values, of `spreads` also the deviations."""
        found: dict[str, Any] = {"method": self.method, **self.setting, "seeds": len(self.rows)}
        for key in spreads:
            spread = self.spread(key)
            found |= {key: spread.mean, f"{key}_std": spread.std}
        return found | {key: self.mean(key) for key in means}


def entries_of(rows: Iterable[Row], /) -> list[Entry]:
    """Return the entries, settings in order of the rows, in each of them the methods."""
    found: dict[tuple[Any, ...], dict[str, list[Row]]] = {}
    for row in rows:
        found.setdefault(tuple(row.setting.items()), {}).setdefault(row.method, []).append(row)
    return [
        Entry(method, dict(setting), tuple(sorted(mine, key=lambda row: row.seed)))
        for setting, methods in found.items()
        for method, mine in methods.items()
    ]


def blocks(entries: Sequence[Entry], /, *names: str) -> list[list[Entry]]:
    """Return the entries with equal settings together, those of one place after the other; by `names`, or by all."""

    def key(entry: Entry) -> list[Any]:
        return [entry.setting[name] for name in names or entry.setting]

    places = list(map(list, dict.fromkeys(tuple(key(entry)) for entry in entries)))
    return [list(mine) for _, mine in groupby(sorted(entries, key=lambda each: places.index(key(each))), key=key)]


def control_of(entry: Entry, entries: Iterable[Entry], method: str, /) -> Entry | None:
    """Return the entry of a method under the same setting; None where it was not run."""
    same = (each for each in entries if each.method == method and each.setting == entry.setting)
    return next(same, None)
