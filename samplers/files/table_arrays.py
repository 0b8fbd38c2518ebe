"""Columns of NumPy and JSON files as Arrow arrays; `drawstream.samplers.files.table_file` opens them.

JSON is a list by row, of numbers or of objects; an object by key, of numbers or of objects; or an object of columns,
each a list or, as pandas writes it, an object by row or by key. Python objects (pickles) are never loaded.
"""

import math
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from drawstream.samplers.files.documents import read_json as read_document

__all__ = ["IDS", "INDEX", "listed", "read_json", "read_numpy", "usual_name"]

IDS = ("sample_id", "key", "crop")
INDEX = ("", "Unnamed: 0", "__index_level_0__", "index")  # what pandas calls an index without a name
_MOST = 4 << 30  # bytes of a JSON file; 100 million rows have some 2 GB

Columns = dict[str, Any]


def usual_name(name: str, /) -> str:
    """The name of a column, that of an id as we write it: `Key` and WebDataset's `__key__` are `key`."""
    lower = name.strip().lower()
    return "key" if lower == "__key__" else lower if lower in IDS else name


def listed(names: Collection[str], /) -> str:
    """The first names of columns, and how many there are in all, for messages."""
    some = ", ".join(name[:40] or repr(name) for name in list(names)[:8])
    return f"{some}, … ({len(names)} in all)" if len(names) > 8 else some or "none"


def read_numpy(path: Path, /) -> tuple[Columns, bool]:
    """Read an `.npy` or `.npz` file, whichever it is: Arrow arrays by name, and whether the file names them.

    A single array has the file's name; what is no column of numbers or text is null.

    Raises:
        ValueError: Python objects, or a single array that is no column.
        OSError, EOFError, SyntaxError, TokenError, BadZipFile: The file is damaged.
    """
    try:
        with path.open("rb") as file:
            if file.read(2) == b"PK":
                file.seek(0)
                arrays = np.load(file, allow_pickle=False)
                return _of_arrays({name: arrays[name] for name in arrays.files}), True
        loaded = np.load(path, mmap_mode="r", allow_pickle=False)
    except ValueError as error:
        if "allow_pickle" not in str(error) and "Python objects" not in str(error):
            raise
        raise ValueError("it holds Python objects: save arrays of numbers, or of text with dtype=str") from None
    if loaded.ndim != 1:
        raise ValueError(f"an array must have shape (rows,), but got {loaded.dtype} {loaded.shape}: save one column")
    if loaded.dtype.names is not None:
        return _of_arrays({name: loaded[name] for name in loaded.dtype.names}), True
    return _of_arrays({_stem(path): loaded}), False


def _of_arrays(arrays: Mapping[str, NDArray[Any]]) -> Columns:
    return {name: _of_array(array) for name, array in arrays.items()}


def _of_array(array: NDArray[Any]) -> Any:
    if array.ndim != 1 or array.dtype.kind not in "biufUS":
        return pa.nulls(len(array) if array.ndim else 0)
    if array.dtype.kind == "S":
        array = np.char.decode(array, "utf-8")
    if array.dtype.kind == "f" and array.dtype.itemsize > 8:
        array = array.astype(np.float64)
    return pa.array(array.astype(array.dtype.newbyteorder("="), copy=False))


def read_json(path: Path, /) -> tuple[Columns, bool]:
    """Read a JSON file; as `read_numpy`.

    Raises:
        ValueError: Not JSON, of another form, a name that stands twice, columns of several lengths or kinds.
    """
    document = read_document(path, remedy="give a list by row or an object by key", most=_MOST, finite=False)
    columns, named = _columns_of(document, _stem(path))
    if not any(columns.values()):
        raise ValueError("it must have rows, but has none")
    if len({len(values) for values in columns.values()}) > 1:
        sizes = listed([f"{name!r} {len(values)}" for name, values in columns.items()])
        raise ValueError(f"columns must have one value per row each, but their lengths are {sizes}")
    return {name: _of_list(values, name) for name, values in columns.items()}, named


def _columns_of(document: Any, stem: str) -> tuple[dict[str, list[Any]], bool]:
    """Columns of a document, and whether it names them."""
    if isinstance(document, list):
        if document and all(isinstance(row, dict) for row in document):
            return _columns_of_rows(document), True
        return {stem: document}, False
    if not isinstance(document, dict) or not document:
        raise ValueError(f"it must be a list by row or an object by key, but is {document!r:.50}")
    values = list(document.values())
    if all(isinstance(each, list) for each in values):
        if len(values) > 1 and all(len(each) == 1 for each in values) and not _has_names(document):
            key, value = next(iter(document.items()))
            raise ValueError(
                f'an object by key must have a number for each, as {{"{key:.40}": 0.5}}, but has {value!r:.50}'
            )
        return document, True
    if not all(isinstance(each, dict) for each in values):
        return {"key": list(document), stem: values}, True
    rows = list(values[0])
    by_column = _has_names(document) or (len(rows) > len(values) and not _has_names(rows))
    if by_column and all(list(each) == rows for each in values):  # pandas' to_json()
        numbered = all(row.isdecimal() and str(int(row)) == row for row in rows)
        names: Columns = {"": [int(row) for row in rows]} if numbered else {"key": rows}
        return names | {name: list(each.values()) for name, each in document.items()}, True
    return {"key": list(document)} | _columns_of_rows(values), True


def _has_names(names: Iterable[str]) -> bool:
    """Whether these are names of columns, rather than keys."""
    return any(usual_name(name) in ("sample_id", "key") or name.strip().lower() == "weight" for name in names)


def _columns_of_rows(rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}


def _of_list(values: list[Any], name: str) -> Any:
    """Text, int64 where all numbers are whole, or float64; null for other things."""
    first = next((value for value in values if value is not None), None)
    kind: Any = str if isinstance(first, str) else int | float
    if not isinstance(first, str | int | float):
        return pa.nulls(len(values))
    for row, value in enumerate(values):
        if value is not None and not isinstance(value, kind):
            holds = "text" if kind is str else "numbers"
            raise ValueError(f"column {name!r} must hold {holds}, but row {row} (from 0) has {value!r:.50}: mend it")
    if kind is str:
        return pa.array(values, pa.large_string())
    if all(value is None or (isinstance(value, int) and abs(value) < 1 << 63) for value in values):
        return pa.array([None if value is None else int(value) for value in values], pa.int64())
    return pa.array([None if value is None else _float(value) for value in values], pa.float64())


def _float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _stem(path: Path) -> str:
    """Return the column's name for a file that does not name its column."""
    stem = path.name.partition(".")[0]
    return "weight" if usual_name(stem) in IDS or stem in INDEX else stem
