"""Data sets of Hugging Face on disk, read with pyarrow alone: Parquet files of the hub, Arrow files of `save_to_disk`.

A column holds the images as ``struct<bytes, path>``, another the labels, further ones captions or masks. Names of
classes and the kinds of the columns come from the schema's metadata, ``huggingface``. Images keep their bytes; those
without bytes are read from their path.
"""

import json
import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from drawstream.pipeline import LeftOut
from drawstream.pipeline.labels import Kind
from drawstream.pipeline.shards import FILE
from drawstream.pipeline.sources.columns import HeldFields, Value, ending_of, name_fields, try_encode
from drawstream.pipeline.sources.convert import as_known
from drawstream.pipeline.sources.given_labels import number_labels
from drawstream.samplers.files import fault_of, raise_unless_file, system_fault

_ENDINGS = (".parquet", ".arrow")
_SPLIT = re.compile(r"(?:^|[-_.])(train|test|validation|valid|val)(?=$|[-_.\d])")
_COUNTED = re.compile(r"-\d+-of-(\d+)")
_METADATA = b"huggingface"
_IMAGES, _LABELS = ("image", "img"), ("label", "labels")  # usual names of columns without metadata
_Columns = tuple[str | None, str | None]


def find_tables(path: Path, split: str, /) -> tuple[Path, ...]:
    """Return the Parquet or Arrow files of a split, in the order of their names; none where a path holds no data set.

    Raises:
        FileNotFoundError: There are files, but of other splits alone, or some of those that their names count are not.
    """
    if path.suffix in _ENDINGS and path.is_file():
        return (path,)
    if not path.is_dir() or (path / FILE).exists():
        return ()
    splits = [each.name for each in sorted(path.iterdir()) if each.is_dir() and (each / "state.json").is_file()]
    for folder in (path, path / "data", path / split, path / "default" / split):
        files = [each for each in _listed(folder) if each.suffix in _ENDINGS]
        if files and folder == path and not _holds_images(path, files[0]):
            continue
        named = {each: found[1] for each in files if (found := _SPLIT.search(each.stem))}
        if named and split not in (kinds := set(named.values())):
            raise FileNotFoundError(f"{folder}: has no files of split {split!r}: take --split {sorted(kinds)[0]}")
        if files:
            return _whole(tuple(each for each in files if not named or named.get(each) == split))
    if splits:
        raise FileNotFoundError(f"{path}: has no split {split!r}: give the folder of one, such as {path / splits[0]}")
    return ()


def _whole(files: tuple[Path, ...]) -> tuple[Path, ...]:
    """The files, if they are as many as their names say (`train-00000-of-00002`)."""
    counted = [int(found[1]) for each in files if (found := _COUNTED.search(each.stem))]
    if counted and len(counted) == len(files) and max(counted) != len(files):
        law = f"{files[0].parent}: has {len(files)} of {max(counted)} files, such as {files[0].name}"
        raise FileNotFoundError(f"{law}: fetch the others, or give one file")
    return files


def _holds_images(folder: Path, file: Path) -> bool:
    """Check that a table beside subfolders has images, and is no list of what lies in class folders."""
    if not any(each.is_dir() and not each.name.startswith(".") for each in folder.iterdir()):
        return True
    schema = _opened(file)[0]
    return bool(_image_columns(schema, _features(schema)))


def _listed(folder: Path) -> list[Path]:
    return sorted(each for each in folder.iterdir() if each.is_file()) if folder.is_dir() else []


@dataclass(frozen=True, eq=False)
class TableSource:
    """Images and labels in columns of Parquet or Arrow files.

    Attributes:
        name: For messages and provenance.
        files: All of one kind.
        column: Name of the column with the images.
        labels: int64 (rows,), or of another kind (`pipeline.labels`).
        classes: Class names.
        left_out: The other columns.
        notes: What its user should know, a line each.
        fields: By name the column that is packed as a field.
    """

    name: str
    files: tuple[Path, ...]
    column: str
    labels: NDArray[Any]
    classes: tuple[str, ...]
    left_out: LeftOut = field(default_factory=LeftOut)
    notes: tuple[str, ...] = ()
    fields: Mapping[str, str] = field(default_factory=dict)
    _held: HeldFields = field(default_factory=HeldFields, init=False, repr=False)

    @classmethod
    def open(
        cls,
        name: str,
        files: Sequence[Path],
        /,
        *,
        columns: _Columns = (None, None),
        classes: Sequence[str] = (),
        label_kind: Kind | None = None,
        fields: Sequence[str] = (),
    ) -> Self:
        """Read the schema and the labels.

        Args:
            name: For messages.
            files: Parquet or Arrow files with the same columns.
            columns: Those of the images and of the labels; None: what the schema says.
            classes: Class names where the files have none.
            label_kind: What the labels are; None: what their type says. ``none``: they are not read.
            fields: Columns to pack as fields, ``COLUMN`` or ``NAME=COLUMN`` (`columns.name_fields`).

        Raises:
            ValueError: Damaged files, other columns, no or several columns of images or labels, no such field.
        """
        blocks = _Blocks(tuple(files))
        schema = blocks.schema
        known = _features(schema)
        beside = {each.partition("=")[2] or each for each in fields}
        found = [each for each in _image_columns(schema, known) if each not in beside]
        image = _chosen(columns[0], schema, found, f"{name}: images", "--image-column")
        label, values, names = None, None, tuple(classes)
        if label_kind != "none":
            found = _label_columns(schema, known, image)
            label = _chosen(columns[1], schema, found, f"{name}: labels", "--label-column", "--label-kind none")
            values, own = _label_values(blocks.column(label), known.get(label, {}), f"{name}: column {label!r}")
            names = names or own
        labels, found_classes, note = number_labels(values, len(blocks), label_kind, names, name)
        named = name_fields(fields, schema.names, lambda column: _ending(blocks, column, name), name)
        left_out = LeftOut()
        if others := [each for each in schema.names if each not in (image, label, *named.values())]:
            left_out.add("columns beside images and labels", *others, count=len(others))
        notes = (note,) if note else ()
        return cls(name, blocks.files, image, labels, found_classes, left_out, notes, named)

    def __len__(self) -> int:
        return len(self.labels)

    def key(self, row: int, /) -> str:
        """The row number, eight digits."""
        return f"{row:08d}"

    def read(self, row: int, /) -> bytes:
        """Image of a row, as a file's bytes.

        Raises:
            ValueError: It is null, its file cannot be read, or it cannot be stored.
        """
        found = next(self.read_rows(np.array([row]), Path(tempfile.gettempdir())))
        if isinstance(found, ValueError):
            raise found
        return found

    def read_rows(self, rows: NDArray[np.int64], scratch: Path, /) -> Iterator[bytes | ValueError]:
        """Yield the images of rows in their order, or why there is none.

        Parquet files are read once, from end to end, into a temporary file in `scratch`; Arrow files are mapped.
        """
        with tempfile.TemporaryFile(dir=scratch) as kept:
            places = {} if self._blocks.mapped else self._keep(np.sort(rows), kept)
            for row in rows.tolist():
                if place := places.get(row):
                    given = None if place.size < 0 else _pread(kept, place.at, place.size)
                    path, there = place.path, place.fields.items()
                    values = {name: _pread(kept, *each) if isinstance(each, tuple) else each for name, each in there}
                else:
                    given, path = _image(*self._blocks.mapped_value(self.column, row))
                    values = {
                        name: try_encode(name, self._blocks.value(each, row)) for name, each in self.fields.items()
                    }
                try:
                    image = as_known(self._file(row, path) if given is None else given, suffix=Path(path).suffix)
                except ValueError as error:
                    yield error
                    continue
                self._held.keep(row, values)
                yield image

    def _keep(self, order: NDArray[np.int64], kept: Any) -> "dict[int, _Place]":
        """Write images and fields of rising rows to a file; return where each lies."""
        places: dict[int, _Place] = {}
        at = 0
        for first, last, read in self._blocks.columns():
            wanted = order[np.searchsorted(order, first) : np.searchsorted(order, last)].tolist()
            images = read(self.column) if wanted else None
            for row in wanted:
                data, path = _image(images, row - first)
                places[row] = _Place(at, -1 if data is None else kept.write(data), path)
                at += max(0, places[row].size)
            for name, column in self.fields.items() if wanted else ():
                values = read(column)
                for row in wanted:
                    found = try_encode(name, values[row - first].as_py())
                    places[row].fields[name] = (at, kept.write(found)) if isinstance(found, bytes) else found
                    at += len(found) if isinstance(found, bytes) else 0
        kept.flush()
        return places

    def read_field(self, row: int, name: str, /) -> bytes | None:
        """The bytes of the field ``name`` of a ``row``, or None.

        Raises:
            ValueError: It holds what such a field cannot.
        """
        return self._held.take(row, name, lambda: self.read(row))

    @cached_property
    def _blocks(self) -> "_Blocks":
        return _Blocks(self.files)

    def _file(self, row: int, path: str) -> bytes:
        """Read an image that is stored beside the table."""
        if not path:
            raise ValueError(f"row {row} of column {self.column!r} has neither bytes nor a path: leave it out")
        file = self.files[0].parent / path
        try:
            return file.read_bytes()
        except OSError as error:
            if fault_of(error) not in ("file", "access"):
                raise system_fault(error, file) from None
            raise ValueError(f"row {row} has no bytes, and {file} cannot be read ({error.strerror})") from None


@dataclass(slots=True)
class _Place:
    """Where the image of a row lies in the temporary file, of -1 bytes where it has none, and its fields."""

    at: int
    size: int
    path: str
    fields: dict[str, tuple[int, int] | Value] = field(default_factory=dict)


def _pread(file: Any, at: int, size: int) -> bytes:
    return os.pread(file.fileno(), size, at)


def _ending(blocks: "_Blocks", column: str, name: str) -> str:
    """Return the ending of a field that holds a column."""
    try:
        return ending_of(blocks.first_value(column))
    except ValueError as error:
        raise ValueError(f"{name}: column {column!r} {error}") from None


class _Blocks:
    """Row groups of Parquet files, or record batches of Arrow files, one after the other."""

    def __init__(self, files: tuple[Path, ...]) -> None:
        self.files, self.mapped = files, files[0].suffix == ".arrow"
        self._opened = [_opened(file) for file in files]
        self.schema: Any = self._opened[0][0]
        for file, (schema, _) in zip(files, self._opened, strict=True):
            if not schema.equals(self.schema):
                raise ValueError(f"{file}: has other columns than {files[0].name}: give files of one data set")
        self._starts = np.cumsum([0, *(size for _, parts in self._opened for size, _ in parts)])
        self._reads = [read for _, parts in self._opened for _, read in parts]
        if not len(self):
            raise ValueError(f"{files[0]}: has no rows: fetch it again")

    def __len__(self) -> int:
        return int(self._starts[-1])

    def columns(self) -> Iterator[tuple[int, int, Any]]:
        """Yield first row of each block and of the next one, and a function that reads a column of it."""
        for (first, last), read in zip(pairwise(self._starts.tolist()), self._reads, strict=True):
            yield first, last, read

    def column(self, name: str) -> Any:
        """Read a whole column, a pyarrow array."""
        return pa.chunked_array([read(name) for read in self._reads]).combine_chunks()

    def mapped_value(self, column: str, row: int) -> tuple[Any, int]:
        """Return the column of the block that has a row, and the place of the row in it."""
        block = int(np.searchsorted(self._starts, row, side="right")) - 1
        return self._reads[block](column), row - int(self._starts[block])

    def value(self, column: str, row: int) -> Any:
        """Return a value of a column as Python's."""
        values, at = self.mapped_value(column, row)
        return values[at].as_py()

    def first_value(self, column: str) -> Any:
        """Return the first value of a column that is not null; None where all are."""
        for _, _, read in self.columns():
            values = read(column).drop_null()
            if len(values):
                return values[0].as_py()
        return None


def _opened(file: Path) -> tuple[Any, list[tuple[int, Any]]]:
    """Return the schema of a file, and of each of its blocks the number of rows and a function that reads a column."""
    try:
        if file.suffix == ".parquet":
            found = pq.read_metadata(file)
            sizes = [found.row_group(group).num_rows for group in range(found.num_row_groups)]
            parts = [(size, lambda name, group=i: _read_group(file, group, name)) for i, size in enumerate(sizes)]
            return pq.read_schema(file), parts
        mapped = pa.memory_map(str(file))
        whole_file = mapped.read(6) == b"ARROW1"
        mapped.seek(0)
        if whole_file:
            reader = pa.ipc.open_file(mapped)
            batches = [reader.get_batch(i) for i in range(reader.num_record_batches)]
        else:
            reader = pa.ipc.open_stream(mapped)
            batches = list(reader)
        return reader.schema, [(each.num_rows, lambda name, each=each: each.column(name)) for each in batches]
    except (pa.ArrowException, OSError) as error:
        raise _damaged(file, error) from None


def _read_group(file: Path, group: int, name: str) -> Any:
    """Read a column of a row group; the file is not kept open, for there may be thousands."""
    try:
        with pq.ParquetFile(file) as opened:
            return opened.read_row_group(group, columns=[name]).column(0).combine_chunks()
    except (pa.ArrowException, OSError) as error:
        raise _damaged(file, error) from None


def _damaged(file: Path, error: Exception) -> ValueError:
    raise_unless_file(error, file)
    kind = "Parquet" if file.suffix == ".parquet" else "Arrow"
    return ValueError(f"{file}: not a readable {kind} file ({(str(error) or 'empty').splitlines()[0]}): fetch it again")


def _image(images: Any, at: int) -> tuple[bytes | None, str]:
    """Return the bytes and the path of an image in a column."""
    if not pa.types.is_struct(images.type):
        return images[at].as_py(), ""
    value = images[at].as_py() or {}
    return value.get("bytes"), value.get("path") or ""


def _features(schema: Any) -> dict[str, dict[str, Any]]:
    """Return what Hugging Face's metadata say of the columns; nothing where there are none."""
    try:
        found = json.loads((schema.metadata or {})[_METADATA])["info"]["features"]
    except (KeyError, TypeError, ValueError):
        return {}
    return {name: each for name, each in found.items() if isinstance(each, dict)} if isinstance(found, dict) else {}


def _image_columns(schema: Any, known: dict[str, dict[str, Any]]) -> list[str]:
    if named := [name for name, each in known.items() if each.get("_type") == "Image" and name in schema.names]:
        return named
    structs = [each for each in schema if pa.types.is_struct(each.type) and each.type.get_field_index("bytes") >= 0]
    binary = [each for each in schema if each.type in (pa.binary(), pa.large_binary()) and each.name in _IMAGES]
    return [each.name for each in structs or binary]


def _label_columns(schema: Any, known: dict[str, dict[str, Any]], image: str) -> list[str]:
    named = [name for name, each in known.items() if _class_names(each) is not None and name in schema.names]
    return named or [name for name in _LABELS if name in schema.names and name != image]


def _class_names(feature: dict[str, Any]) -> tuple[str, ...] | None:
    """Return the names of a ClassLabel, or of a list of them; None of another feature."""
    if feature.get("_type") == "ClassLabel":
        return tuple(map(str, feature.get("names") or ()))
    inner = feature.get("feature")
    return _class_names(inner) if isinstance(inner, dict) and feature.get("_type") in ("Sequence", "List") else None


def _chosen(asked: str | None, schema: Any, found: list[str], what: str, option: str, other: str = "") -> str:
    """Return the column that is asked for, or the only one."""
    there = f"the columns are {', '.join(schema.names)}"
    if asked is not None:
        if asked not in schema.names:
            raise ValueError(f"{what}: no column {asked!r}: {there}")
        return asked
    if len(found) != 1:
        law = (
            f"several columns may hold them ({', '.join(found)})"
            if found
            else f"no column is known to hold them, {there}"
        )
        raise ValueError(f"{what}: {law}: name it with {option}{f', or give {other}' if other else ''}")
    return found[0]


def _label_values(column: Any, feature: dict[str, Any], where: str) -> tuple[Any, tuple[str, ...]]:
    """Return the labels of a column as numbers or texts, and the names of the classes."""
    names = _class_names(feature) or ()
    if column.null_count:
        raise ValueError(f"{where} has {column.null_count} nulls: each image needs a label")
    kind = column.type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        classes, rows = column.flatten().to_numpy(zero_copy_only=False), column.value_parent_indices()
        if classes.dtype.kind not in "iu" or (classes.size and classes.min() < 0):
            raise ValueError(f"{where}: lists must hold class numbers from 0, but they hold {kind.value_type}")
        marks = np.zeros((len(column), max(len(names), int(classes.max(initial=-1)) + 1)), np.uint8)
        marks[rows.to_numpy(), classes] = 1
        return marks, names
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind):
        return column.to_numpy(zero_copy_only=False), names
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return column.to_pylist(), names
    raise ValueError(f"{where} must hold numbers, texts or lists of class numbers, but holds {kind}: name another one")
