"""Messages of `drawstream pack` beside its result: skipped files and bad images."""

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drawstream.features import accepted, load_factory, users_code
from drawstream.pipeline import BadImage, LeftOut, describe_error
from drawstream.pipeline.labels import Kind
from drawstream.pipeline.shards import PackResult, printable
from drawstream.pipeline.sources import DatasetSource, Resized, Source, open_array, open_source
from drawstream.samplers import cores
from drawstream.tools.runs import read_record

__all__ = ["finished_before", "label_noise", "open_given", "tail_line", "tell_source"]

_SPEC = re.compile(r"[\w.]+:[\w.]+")
_MANY = 2000  # rows that keep processes busy for longer than they take to start


def open_given(
    source: Path,
    /,
    *,
    split: str,
    columns: tuple[str | None, str | None],
    workers: int | None,
    progress: Callable[[int, int], None],
    label_kind: Kind | None,
    fields: Sequence[str] = (),
    skip_bad: bool = False,
    **how: Any,
) -> Source:
    """Open what `pack` is given: a path, or a map-style data set that a user's `module:factory` makes.

    The factory gets `split` if it takes it; `fields` and `skip_bad` as `DatasetSource.open`. Errors as `open_source`,
    `load_factory` and `DatasetSource.open`.
    """
    spec = str(source)
    if source.exists() or not _SPEC.fullmatch(spec):
        if workers is not None:
            raise ValueError(
                f"{spec}: --workers is for data sets, module:factory: files are read in threads: leave it out"
            )
        return open_source(source, split=split, columns=columns, label_kind=label_kind, fields=fields, **how)
    if others := [f"--{name}" for name, value in how.items() if value]:
        raise ValueError(f"{spec}: {' and '.join(others)} are of folders: leave them out")
    factory = load_factory("data set", spec)
    with users_code(f"data set {spec!r}"):
        try:
            dataset = factory(**accepted(factory, {"split": split}))
        except Exception as error:  # of the user's code
            raise ValueError(f"data set {spec!r} cannot be made: {describe_error(error)}") from error
    if workers is None and hasattr(dataset, "__len__"):
        workers = cores() if len(dataset) >= _MANY else 1
    options: dict[str, Any] = {"columns": columns, "label_kind": label_kind, "fields": fields, "skip_bad": skip_bad}
    return DatasetSource.open(dataset, name=spec, workers=workers or 1, progress=progress, **options)


def tell_source(source: Source, /) -> dict[str, Any]:
    """Print what a folder or file holds that is not taken; return it for a record."""
    left_out, notes = getattr(source, "left_out", LeftOut()), getattr(source, "notes", ())
    for line in (*notes, *(f"not taken: {line}" for line in left_out.lines)):
        print(printable(line))
    return {"left_out": left_out.as_json(), "notes": list(notes)}


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
