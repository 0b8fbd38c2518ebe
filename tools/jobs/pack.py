"""Messages of `drawstream pack` beside its result: skipped files and bad images."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drawstream.pipeline import BadImage
from drawstream.pipeline.shards import PackResult, printable
from drawstream.pipeline.sources import ArraySource, FolderSource, Resized, Source, open_array
from drawstream.tools.runs import read_record

__all__ = ["finished_before", "label_noise", "tail_line", "tell_source"]


def tell_source(source: Source, /) -> dict[str, Any]:
    """Print what a folder or file holds that is not taken; return it for a record."""
    if not isinstance(source, FolderSource | ArraySource):
        return {}
    notes = source.notes
    for line in (*notes, *(f"not taken: {line}" for line in source.left_out.lines)):
        print(printable(line))
    return {"left_out": source.left_out.as_json(), "notes": list(notes)}


def label_noise(text: str, /) -> float | NDArray[Any]:
    """Return the label noise of an option: a rate, or the labels in a file, one of each row of the source.

    Raises:
        FileNotFoundError: No such file.
        ValueError: Neither a number nor a file of NumPy.
    """
    try:
        return float(text)
    except ValueError:
        pass
    if not text.endswith(".npy"):
        raise ValueError(f"label noise must be a rate such as 0.4 or a file such as labels.npy, but got {text!r}")
    return np.array(open_array(Path(text)))


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
    resized = Resized(**record.get("resized", {}))
    return replace(packed, bad=bad, resized=resized), f" at {record['finished']}"
