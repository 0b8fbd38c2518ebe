"""Tables of the benchmark of suspects: as it prints them, and in the guide."""

import json
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from drawstream.tools.experiments import Entry, Row, Table, blocks, entries_of, number, table_of

__all__ = ["calibration_table", "guide_table", "published", "tables"]

RESULT = "bench/results/cifar10n-suspects.json"  # below tools: the runs that the guide shows


def tables(entries: Sequence[Entry], /) -> list[Table]:
    """Return a table for each level of noise."""
    return [_table(block) for block in blocks(entries)]


def _table(block: Sequence[Entry]) -> Table:
    def spread(each: Entry, name: str) -> str:
        return str(each.spread(name)) if each.rows[0].values.get(name) is not None else number(None)

    first = block[0]
    columns = {
        "ranking": lambda each: each.method,
        "trainings": lambda each: str(each.rows[0].values["trainings"]),
        "seeds": lambda each: str(len(each.rows)),
        "AP": lambda each: spread(each, "ap"),
        "AUROC": lambda each: spread(each, "auroc"),
        "suggestion right": lambda each: spread(each, "suggested"),
        "share wrong": lambda each: spread(each, "share"),
        "ECE": lambda each: spread(each, "ece"),
        "training s": lambda each: f"{each.mean('seconds'):.0f}",
    }
    title = f"noise {first.setting['noise']}: {first.mean('true'):.1f} % of the labels are wrong; per cent"
    return table_of(block, columns, title)


def published() -> dict[str, Any]:
    """Return the runs that the guide shows, as `bench suspects --json` wrote them."""
    text = (files("drawstream.tools") / RESULT).read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(text)
    return found


def guide_table() -> str:
    """Return the tables of the guide, in Markdown."""
    made = [
        Row(
            row["method"],
            {"noise": row["noise"]},
            row["seed"],
            {name: value for name, value in row.items() if name not in ("method", "seed", "noise")},
        )
        for row in published()["rows"]
    ]
    return "\n\n".join(_markdown(table) for table in tables(entries_of(made)))


def calibration_table(row: dict[str, Any], /) -> Table:
    """Return the calibration curve of a row of the result: mean P(wrong) and share of wrong labels of each bin."""
    columns = {
        "P(wrong)": lambda each: f"{each['probability']:.2f}",
        "wrong": lambda each: f"{each['wrong']:.2f}",
        "rows": lambda each: f"{each['rows']}",
    }
    return table_of(row["calibration"], columns)


def _markdown(table: Table) -> str:
    lines = [table.head, ("---",) * len(table.head), *table.rows]
    text = ["|" + "|".join(f" {cell} " for cell in line) + "|" for line in lines]
    return "\n".join([table.title + ":", "", *text] if table.title else text)
