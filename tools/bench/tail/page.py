"""Tables of the benchmark on long-tailed data: as it prints them, and in the guide."""

import json
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from drawstream.tools.experiments import (
    Difference,
    Entry,
    Row,
    Table,
    blocks,
    control_of,
    entries_of,
    relations,
    table_of,
)

__all__ = ["guide_table", "published", "tables", "verdict"]

GROUPS = ("many", "medium", "few")
RESULT = "bench/results/cifar10-lt.json"  # below tools: the run that the guide shows


def _gains(entries: Sequence[Entry]) -> dict[str, Difference]:
    control = control_of(entries[0], entries, "uniform")
    found = {each.method: each.less(control, "balanced") for each in entries if each is not control}
    return {name: gain for name, gain in found.items() if gain is not None}


def tables(entries: Sequence[Entry], /) -> list[Table]:
    """Return a table for each imbalance."""
    return [_table(block) for block in blocks(entries)]


def _table(block: Sequence[Entry]) -> Table:
    gains, first = _gains(block), block[0].rows[0].values
    columns = {
        "": lambda each: each.method,
        "balanced accuracy": lambda each: str(each.spread("balanced")),
        "less uniform (95 % interval)": lambda each: gains[each.method].text() if each.method in gains else "",
        **{
            f"{name}": lambda each, name=name: str(each.spread(name))  # type: ignore[misc]
            for name in GROUPS
            if first.get(name) is not None
        },
        "training s": lambda each: f"{each.mean('seconds'):.0f}",
    }
    rule = f"; {first['shots']['rule']}" if first["shots"] else ""
    title = (
        f"imbalance {block[0].setting['imbalance']:g}, {len(block[0].rows)} seed(s), test accuracy in per cent{rule}"
    )
    return table_of(block, columns, title)


def verdict(entries: Sequence[Entry], /) -> list[str]:
    """Say what differs from uniform, a line for each imbalance."""
    return [
        f"imbalance {block[0].setting['imbalance']:g}, balanced accuracy less uniform's: {relations(gains)}"
        for block in blocks(entries)
        if (gains := _gains(block))
    ]


def published() -> dict[str, Any]:
    """Return the run that the guide shows, as `bench tail --json` wrote it."""
    text = (files("drawstream.tools") / RESULT).read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(text)
    return found


def guide_table() -> str:
    """Return the table of the guide, in Markdown."""
    rows = published()["rows"]
    setting = ("imbalance",)
    made = [
        Row(
            row["method"],
            {name: row[name] for name in setting},
            row["seed"],
            {name: value for name, value in row.items() if name not in ("method", "seed", *setting)},
        )
        for row in rows
    ]
    (table,) = tables(entries_of(made))
    lines = [table.head, ("---",) * len(table.head), *table.rows]
    return "\n".join("|" + "|".join(f" {cell} ".replace("   ", " ") for cell in line) + "|" for line in lines)
