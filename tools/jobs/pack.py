"""Messages of `drawstream pack` beside its result: skipped files and bad images."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from drawstream.pipeline import BadImage
from drawstream.pipeline.shards import PackResult, printable
from drawstream.pipeline.sources import ArraySource, FolderSource, Source
from drawstream.tools.runs import read_record

__all__ = ["finished_before", "tail_line", "tell_source"]


def tell_source(source: Source, /) -> dict[str, Any]:
    """Print what a folder or file holds that is not taken; return it for a record."""
    if not isinstance(source, FolderSource | ArraySource):
        return {}
    notes = source.notes if isinstance(source, FolderSource) else ()
    for line in (*notes, *(f"not taken: {line}" for line in source.left_out.lines)):
        print(printable(line))
    return {"left_out": source.left_out.as_json(), "notes": list(notes)}


def tail_line(imbalance: float | None, rows: Sequence[int], classes: Sequence[str], /) -> str:
    """Return the long tail as the end of a line, with its largest and smallest class; "" without one."""
    if imbalance is None:
        return ""
    most, least = max(range(len(rows)), key=rows.__getitem__), min(range(len(rows)), key=rows.__getitem__)
    sizes = " to ".join(f"{rows[each]} of {printable(classes[each])}" for each in (most, least))
    return f"; long tail of imbalance {imbalance:g}: {sizes}"


def finished_before(packed: PackResult, /) -> tuple[PackResult, str]:
    """Return the result of an earlier run with its bad images, and when it was finished, as its record says."""
    path = packed.train / "catalog.json"
    if not path.is_file():
        return packed, ""
    record = read_record(path, "pack")
    bad = tuple(BadImage(each["key"], each["path"], each["reason"]) for each in record.get("bad", []))
    return replace(packed, bad=bad), f" at {record['finished']}"
