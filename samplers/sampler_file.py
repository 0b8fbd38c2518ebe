"""The file format of samplers: readable JSON whose numbers come back bit for bit.

Counts are integers; knots that float32 holds are written with the shortest digits that give the same float32,
all others with the shortest digits of float64 (Python's repr).
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drawstream.samplers.documents import MOST, parse_json, read_regular
from drawstream.samplers.files import write_atomically
from drawstream.samplers.knots import Knots

FORMAT = "drawstream-sampler"
VERSION = 1  # raise it when an older reader would misread the file


def table_to_json(table: Knots) -> dict[str, Any]:
    """A table as JSON-able lists; `table_from_json` gives the same bits back."""
    kind, knots = _numbers(table.x)
    if table.counts is not None:
        return {"dtype": kind, "knots": knots, "counts": table.counts.tolist()}
    return {"dtype": kind, "knots": knots, "levels": _numbers(table.y)[1]}


def table_from_json(entry: dict[str, Any]) -> Knots:
    """The table that `table_to_json` wrote.

    Raises:
        ValueError, KeyError, TypeError: The entry is no such table.
    """
    x = np.array(entry["knots"], entry["dtype"]).astype(np.float64)
    if "counts" in entry:
        return Knots.from_counts(x, np.array(entry["counts"], np.int64))
    return Knots(x, np.array(entry["levels"], np.float32).astype(np.float64))


def _numbers(values: NDArray[np.float64]) -> tuple[str, list[float]]:
    """Storage type and numbers whose repr is shortest."""
    with np.errstate(over="ignore"):
        single = values.astype(np.float32)
    if np.array_equal(single.astype(np.float64), values):
        short = [float(str(value)) for value in single]
        if np.array_equal(np.array(short, np.float32), single):
            return "float32", short
    return "float64", values.tolist()


def write_document(path: str | os.PathLike[str], document: dict[str, Any], /) -> None:
    """Write one JSON object, a key a line, under a temporary name and then rename it into place.

    Raises:
        ValueError: Something in the document is not JSON (provenance given by a caller).
    """
    target = Path(path)
    head = {"format": FORMAT, "version": VERSION} | document
    try:
        lines = [f"  {json.dumps(key)}: {_one_line(value)}" for key, value in head.items()]
    except (TypeError, ValueError) as error:
        raise ValueError(f"provenance must be plain JSON (strings, numbers, lists, dicts): {error}") from error
    with write_atomically(target) as temporary:
        temporary.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def _one_line(value: object) -> str:
    return json.dumps(value, allow_nan=False, ensure_ascii=False)


def read_document(path: str | os.PathLike[str], /) -> dict[str, Any]:
    """Read what `write_document` wrote.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is damaged, is something else, or was written by a newer version.
    """
    source = Path(path)
    try:
        document = parse_json(read_regular(source, most=MOST))
    except ValueError as error:
        raise ValueError(f"{source} is damaged, it is not valid JSON ({error}): write the sampler again") from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise ValueError(f"{source} is no sampler: it lacks the entry {FORMAT!r} under 'format'")
    version = document.get("version")
    if not isinstance(version, int) or version < 1:
        raise ValueError(f"{source} is damaged: its format version is {version!r}")
    if version > VERSION:
        raise ValueError(
            f"{source} has format version {version}, this drawstream reads versions up to {VERSION}: upgrade"
        )
    return document
