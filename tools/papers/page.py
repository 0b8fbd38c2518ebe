"""docs/papers.md: each table's numbers in the paper, its commands, and what was measured here."""

import json
import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from importlib.resources import files
from typing import Any

from drawstream.tools.papers.entry import PaperTable
from drawstream.tools.papers.tables import DATA, PAPERS, TABLES

__all__ = ["page", "results"]

EACH_RUN = re.compile(r"\bseed \d+: ")  # what a benchmark prints of each run; the tables have it too

OPENING = """# The papers' tables and figures

`make papers` writes this page; `drawstream papers` lists the same tables. Run one by

    drawstream papers run NAME --small -o runs/NAME

which goes on where it was when it is killed and started again. Without `--small` it has the paper's size: one GPU, and
the data below `--data` (`data` unless given). Numbers measured here are of the small size unless a line says otherwise:
other data, smaller nets and fewer epochs than the paper's, so only the order of the methods can be compared.
"""


def page() -> str:
    """Return the page, in Markdown."""
    return "\n".join(_lines()) + "\n"


def results() -> dict[str, dict[str, Any]]:
    """Records of the tables that were run here, by the table's name."""
    folder = files("drawstream.tools") / "bench/results/papers"
    names = sorted(each.name for each in folder.iterdir() if each.name.endswith(".json"))
    return {name.removesuffix(".json"): json.loads((folder / name).read_text(encoding="utf-8")) for name in names}


def _lines() -> Iterator[str]:
    yield OPENING
    yield "## Data\n"
    yield "From what the authors of the data publish, unpacked below `data/raw`:\n"
    yield "```bash"
    for lines in DATA.values():
        yield from (line.replace("$data", "data") for line in lines)
    yield "```"
    measured = results()
    for paper, title in PAPERS.items():
        yield f"\n## {title}"
        for table in TABLES.values():
            if table.name.startswith(f"{paper}-"):
                yield from _section(table, measured.get(table.name))


def _section(table: PaperTable, measured: Mapping[str, Any] | None) -> Iterator[str]:
    yield f"\n### {table.title}: {table.shows}\n"
    yield f"`{table.name}`. The paper: {table.paper}\n"
    yield "```bash"
    for small, size in ((False, "the paper's size"), (True, "two cores")):
        yield f"# {size}"
        yield from (f"drawstream {line}" for line in table.commands(f"runs/{table.name}", small=small))
    yield "```"
    if table.differs:
        yield f"\n{table.differs}"
    if measured is None:
        yield "\nNot run here yet."
        return
    machine, day = measured["machine"], datetime.fromisoformat(measured["finished"]).date()
    size = "at the small size" if measured["identity"]["size"] == "small" else "at the paper's size"
    place = machine.get("gpu") or f"{machine['cores']} cores of {machine['cpu']}"
    yield f"\nMeasured {size} on {place}, {day}, in {measured['seconds'] / 60:.1f} minutes:\n"
    lines = [line for line in measured["printed"].splitlines() if not EACH_RUN.search(line)]
    yield "\n".join(["```text", *lines, "```"])


if __name__ == "__main__":
    print(page(), end="")
