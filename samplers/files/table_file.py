"""A user's file of columns, in any usual format, read as Arrow columns: for weights, scores and ids of rows.

    table = open_table("scores.csv")        # .csv .tsv (.gz too), .parquet, .arrow, .feather, .npy, .npz, .json
    table.kinds                             # {"key": "text", "weight": "number"}
    table.numbers("weight")                 # float32 or float64 (rows,), NaN where there is nothing

CSV has a header; every field stays text until a number is wanted, so a key "00012" is not 12. What JSON may look like
is said in `drawstream.samplers.files.table_arrays`.
"""

import csv
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tokenize import TokenError
from typing import Any, Literal
from zipfile import BadZipFile
from zlib import error as ZlibError

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from drawstream.samplers.files.documents import parse_json
from drawstream.samplers.files.system import raise_unless_file
from drawstream.samplers.files.table_arrays import IDS, INDEX, read_json, read_numpy, usual_name

__all__ = [
    "ARROW",
    "FORMATS",
    "PARQUET",
    "TableFile",
    "format_of",
    "open_table",
    "reading",
    "to_floats",
    "to_text",
]

ARROW = (".arrow", ".feather", ".ipc")
PARQUET = (".parquet", ".pq")
_CSV = (".csv", ".tsv", ".csv.gz", ".tsv.gz")
_NUMPY = (".npy", ".npz")
FORMATS = f"{', '.join((*_CSV, *PARQUET, *ARROW, *_NUMPY))} and .json"
_NOTHING = ("", "na", "n/a", "nan", "null", "none", "<na>")  # fields of a CSV file without a value

_DAMAGE = (
    *(pa.ArrowException, ValueError, OSError, EOFError, TokenError, SyntaxError),
    *(BadZipFile, ZlibError, NotImplementedError),
)
_HEADER = 1 << 16  # bytes of a CSV file in which its header ends

Kind = Literal["number", "text", "other"]


@dataclass(frozen=True, slots=True, eq=False)
class TableFile:
    """An opened file of columns; ids are called `sample_id`, `key` and `crop` (`usual_name`)."""

    path: Path  # the file
    kinds: Mapping[str, Kind]  # of the columns, in order
    read: Callable[[str], Any] = field(repr=False)  # a column by its name
    metadata: Mapping[str, str] = field(default_factory=dict)  # of the file, text
    index: tuple[str, ...] = ()  # columns that are pandas' index without a name; they are no ids
    reordered: bool = False  # that index is not 0, 1, 2, …: rows were sorted or filtered
    floats: tuple[str, ...] = ()  # columns of floating point; none in CSV, whose fields are text
    named: bool = True  # columns have names of their own; that of a single array or list is the file's

    @property
    def catalog(self) -> str:
        """Fingerprint of the catalog that a file of ours says its rows belong to; "" where it says nothing."""
        if "drawstream.distribution" in self.metadata:
            return self.metadata.get("catalog", "")
        try:
            made = parse_json(self.metadata.get("drawstream", "{}").encode())  # a part of a feature table
        except ValueError:
            return ""
        return str(made.get("catalog", "")) if isinstance(made, dict) else ""

    def column(self, name: str, /) -> Any:
        """Return one column as one pyarrow array.

        Raises:
            ValueError: The file is damaged.
        """
        with reading(self.path):
            return self.read(name)

    def numbers(self, name: str, rows: int, /) -> NDArray[np.floating[Any]]:
        """Return one column as float32 (where it has no more than that) or float64 (rows,), NaN where there is nothing.

        Raises:
            ValueError: It does not hold numbers, a value is none, or there are not so many rows.
        """
        if self.kinds[name] == "other":
            raise ValueError(f"{self.path}: column {name!r} must hold numbers, but is {self.column(name).type}")
        values = to_floats(self.column(name), f"{self.path}: column {name!r}")
        self.require_rows(name, values.size, rows)
        return values

    def require_rows(self, name: str, found: int, rows: int, /) -> None:
        """Refuse a damaged file, whose columns differ in length.

        Raises:
            ValueError: A column has not so many rows as the ids.
        """
        if found != rows:
            raise ValueError(f"{self.path}: column {name!r} must have {rows} rows, but has {found}: it is damaged")


def to_floats(column: Any, what: str, /) -> NDArray[np.floating[Any]]:
    """Return the numbers of a pyarrow array, text too, as float32 or float64 (rows,), NaN where there is nothing.

    Raises:
        ValueError: A text is no number; `what` it is called, its row and value are shown.
    """
    if _kind_of(column.type) == "text":
        column = _parsed(to_text(column), what)
    single = pa.types.is_float32(column.type) or pa.types.is_float16(column.type)
    if column.type not in (pa.float32(), pa.float64()):
        column = column.cast(pa.float32() if single else pa.float64(), safe=False)
    values = column.to_numpy(zero_copy_only=False)
    return np.ascontiguousarray(values, np.float32 if single else np.float64)


def to_text(column: Any, /) -> Any:
    """Return text of any Arrow type, categories too, as large_string (rows,)."""
    if pa.types.is_dictionary(column.type):
        column = pa.DictionaryArray.from_arrays(column.indices, column.dictionary.cast(pa.large_string()))
    return column.cast(pa.large_string())


def _parsed(column: Any, what: str) -> Any:
    """Text as float64, null where there is nothing."""
    text = pc.utf8_trim_whitespace(column)
    lower = pc.utf8_lower(text)
    nothing = pc.is_in(lower, pa.array(_NOTHING, pa.large_string()))
    for word, number in (("true", "1"), ("false", "0")):
        text = pc.if_else(pc.equal(lower, word), number, text)
    text = pc.if_else(nothing, pa.scalar(None, pa.large_string()), text)
    try:
        return text.cast(pa.float64())
    except pa.ArrowInvalid:
        row = next(i for i, value in enumerate(text.to_pylist()) if value is not None and not is_number(value))
        shown = column[row].as_py()
        comma = "write 0.5, not 0,5" if "," in shown else "write a number there, or leave the row out"
        raise ValueError(f"{what} must hold numbers, but row {row} (from 0) has {shown!r}: {comma}") from None


def is_number(text: str, /) -> bool:
    """Return whether Arrow reads a text as a number."""
    try:
        pa.scalar(text).cast(pa.float64())
    except pa.ArrowInvalid:
        return False
    return True


def format_of(path: Path, /) -> str:
    """Return the ending of a file's name that says its format, in lower case; `.csv.gz` for one that is compressed."""
    endings = [each.lower() for each in path.suffixes]
    return "".join(endings[-2:]) if endings[-1:] == [".gz"] else "".join(endings[-1:])


def open_table(path: Path, /) -> TableFile:
    """Open a file of columns.

    Raises:
        FileNotFoundError: No such file.
        ValueError: An unknown format, a damaged file, or one without columns.
    """
    if path.exists() and not path.is_file():
        raise ValueError(f"{path}: it must be a regular file: write its content to one")
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file: tables are read from {FORMATS}")
    kind = format_of(path)
    with reading(path):
        if kind in PARQUET:
            return _open_parquet(path)
        if kind in ARROW:
            return _open_arrow(path)
        if kind in _CSV:
            return _open_csv(path)
        if kind in _NUMPY:
            return _of_arrays(path, *read_numpy(path))
        if kind == ".json":
            return _of_arrays(path, *read_json(path))
    raise ValueError(f"{path}: unknown kind of file {kind!r}: tables are read from {FORMATS}")


@contextmanager
def reading(path: Path, /) -> Iterator[None]:
    """Turn the errors of the readers into one line with the file's name; those of the system stay.

    Raises:
        ValueError: The file is not readable.
    """
    try:
        yield
    except _DAMAGE as error:
        if not isinstance(error, pa.ArrowMemoryError):  # a damaged length asks for any amount
            raise_unless_file(error, path)
        if isinstance(error, FileNotFoundError) or str(error).startswith(f"{path}: "):
            raise
        kind = format_of(path)
        label = "Parquet" if kind in PARQUET else "Arrow IPC" if kind in ARROW else kind
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        memory = isinstance(error, pa.ArrowMemoryError)
        known = "damaged, or larger than memory" if memory else f"not a readable {label} file"
        raise ValueError(f"{path}: {known} ({reason})") from None


def _of_schema(path: Path, schema: pa.Schema, read: Callable[[str], Any]) -> TableFile:
    told = {
        key.decode(errors="replace"): text.decode(errors="replace") for key, text in (schema.metadata or {}).items()
    }
    types = {each.name: each.type for each in schema}
    if len(types) != len(schema):
        twice = next(name for name in schema.names if schema.names.count(name) > 1)
        raise ValueError(f"{path}: a column must be there once, but {twice!r} is there several times: rename one")
    ranges = [each for each in (schema.pandas_metadata or {}).get("index_columns", ()) if isinstance(each, dict)]
    moved = any((each.get("start"), each.get("step")) != (0, 1) for each in ranges if each.get("kind") == "range")
    return _of_types(path, types, read, reordered=moved, metadata=told)


def _kind_of(kind: Any) -> Kind:
    types = pa.types
    if types.is_dictionary(kind):
        return "text" if _kind_of(kind.value_type) == "text" else "other"
    if types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind) or types.is_decimal(kind):
        return "number"
    text = types.is_string(kind) or types.is_large_string(kind) or str(kind) == "string_view"
    return "text" if text else "other"


def _of_types(path: Path, types: Mapping[str, Any], read: Callable[[str], Any], **told: Any) -> TableFile:
    """Return the table of columns of these Arrow types."""
    kinds = {name: _kind_of(kind) for name, kind in types.items()}
    floats = tuple(name for name, kind in types.items() if pa.types.is_floating(kind))
    return _checked(path, kinds, read, floats=floats, **told)


def _checked(
    path: Path, kinds: Mapping[str, Kind], read: Callable[[str], Any], *, reordered: bool = False, **told: Any
) -> TableFile:
    """Return the table, with ids by their usual names; look at pandas' index."""
    if not kinds:
        raise ValueError(f"{path}: a table must have columns, but there are none")
    names = {name: usual_name(name) for name in kinds}
    if len(set(names.values())) != len(names):
        ids = [name for name, ours in names.items() if ours in IDS]
        raise ValueError(f"{path}: an id must be there once, but there are {', '.join(ids)}: rename one")
    given = {ours: theirs for theirs, ours in names.items()}
    index = tuple(name for i, name in enumerate(kinds) if name in INDEX and (name or i == 0))

    def sound(name: str) -> Any:
        column = read(given[name])
        column.validate(full=True)  # offsets and indices of a damaged file would be followed out of bounds
        if isinstance(column, pa.ChunkedArray):
            column = column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
        return column

    for name in index:
        column = sound(name)
        values = to_floats(column, f"{path}: column {name!r}") if kinds[name] == "number" else None
        reordered |= values is None or not np.array_equal(values, np.arange(len(values)))
    renamed = {names[name]: kind for name, kind in kinds.items()}
    return TableFile(path, renamed, sound, index=index, reordered=reordered, **told)


def _of_arrays(path: Path, columns: Mapping[str, Any], named: bool) -> TableFile:
    return _of_types(path, {name: each.type for name, each in columns.items()}, columns.__getitem__, named=named)


def _open_parquet(path: Path) -> TableFile:
    def read(name: str) -> Any:
        return pq.read_table(path, columns=[name], partitioning=None, page_checksum_verification=True)[name]

    return _of_schema(path, pq.read_schema(path), read)


def _open_arrow(path: Path) -> TableFile:
    def read(name: str) -> Any:
        with pa.memory_map(str(path)) as data, pa.ipc.open_file(data) as reader:
            batches = [reader.get_batch(i).column(name) for i in range(reader.num_record_batches)]
            return pa.chunked_array(batches, reader.schema.field(name).type)

    with pa.memory_map(str(path)) as data, pa.ipc.open_file(data) as reader:
        return _of_schema(path, reader.schema, read)


def _open_csv(path: Path) -> TableFile:
    names, above, delimiter = _header(path)
    parse = pa_csv.ParseOptions(delimiter=delimiter)
    types = pa_csv.ConvertOptions(column_types=dict.fromkeys(names, pa.large_string()), strings_can_be_null=False)
    serial = pa_csv.ReadOptions(column_names=names, skip_rows=above, use_threads=False)  # so that an error says its row
    table = pa_csv.read_csv(path, read_options=serial, parse_options=parse, convert_options=types).combine_chunks()
    kinds: dict[str, Kind] = {}
    for i, name in enumerate(names):
        if i and not name and not any(_texts(table[name])):
            continue  # each line ends in a comma
        first = next((text for text in _texts(table[name]) if text.strip().lower() not in _NOTHING), "")
        word = first.strip().lower()
        numeric = usual_name(name) != "key" and (word in ("true", "false") or is_number(word))
        kinds[name] = "number" if numeric else "text"
    return _checked(path, kinds, table.__getitem__)


def _header(path: Path) -> tuple[list[str], int, str]:
    """Names of the columns of a CSV file, the lines down to them, and what parts them."""
    delimiter = "\t" if format_of(path).startswith(".tsv") else ","
    with pa.input_stream(str(path), compression="detect") as data:
        text = data.read(_HEADER).decode(errors="replace").lstrip("\ufeff")
    lines = re.split("\r\n|\n|\r", text)
    filled = ((i, line) for i, line in enumerate(lines) if line.strip())
    above, line = next(filled, (0, ""))
    if told := re.fullmatch(r'"?sep=(.)"?[,;\s]*', line):  # Excel's
        delimiter = told[1]
        above, line = next(filled, (0, ""))
    if not line or "\0" in line:
        raise ValueError("it is empty" if not line else "it is no UTF-8 text: save it as UTF-8")
    if delimiter not in line and any(mark in line for mark in ",;\t|"):
        raise ValueError(
            f"{path}: columns must be parted by {delimiter!r}, but the header is {line[:200]!r}: save it so"
        )
    names = [name.strip() for name in next(csv.reader([line], delimiter=delimiter))]
    if any(is_number(name) for name in names):
        raise ValueError(f"{path}: the first line must name the columns, but is {line[:200]!r}: write a header there")
    if len(set(names)) < len(names):
        raise ValueError(f"{path}: a column must be there once, but the header is {line[:200]!r}: rename one")
    return names, above + 1, delimiter


def _texts(column: Any) -> Any:
    return (text.as_py() for chunk in column.chunks for text in chunk)
