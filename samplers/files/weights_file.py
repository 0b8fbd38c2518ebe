"""Weights of a user's file, one per row, in the order of the rows: mapped where the format allows it.

    weights = map_weights("weights.parquet", column="p")     # a numpy.memmap, float32 or float64 (N,)
    weights = map_weights("weights.csv", catalog=catalog)    # rows found by `sample_id` or `key`
    stream = IndexStream(weights, seed=0)                    # the stream of the same weights in memory, bit for bit

All formats of `drawstream.samplers.files.table_file` are taken, and folders of Arrow or Parquet files, one per shard.
Where a file says which row is which, by `sample_id` or `key`, its weights are put into the order of the rows, and each
row must have one. A file without ids whose other columns hold fractions goes by its order. Its `.npy` array, or Arrow
file of one uncompressed batch, is mapped where it lies: nothing is copied. All else is read once, Parquet and Arrow
without ids a batch at a time, into a nameless temporary file (4 or 8 bytes per row on disk, in `folder`), which the
system removes with the last use of the array. Where the temporary folder is kept in memory (tmpfs), give a `folder` on
a disk.
"""

import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from drawstream.samplers import check_values
from drawstream.samplers.files.row_ids import Keyed, by_row_order, match_rows, sample_ids
from drawstream.samplers.files.table_arrays import IDS, listed
from drawstream.samplers.files.table_file import (
    ARROW,
    FORMATS,
    PARQUET,
    TableFile,
    format_of,
    open_table,
    reading,
    to_floats,
)

__all__ = ["Weights", "map_weights", "read_weights"]

_DISTRIBUTION = "1"  # format of the files of `drawstream search auto`
_OTHERS = (*IDS, "label", "labels")  # numbers that are no weights unless named
_BATCH = 1 << 20  # rows read at a time
_REMEDY = f"weights are read from {FORMATS}, or a folder of Arrow or Parquet files"

Mapped = np.memmap[Any, np.dtype[Any]]


@dataclass(frozen=True, slots=True, eq=False)
class Weights:
    """Weights read from a file."""

    values: Mapped  # float32 or float64 (N,), read-only, in the order of the rows; checked
    catalog: str  # fingerprint of the catalog that the file says it belongs to; "" where it does not say
    notes: tuple[str, ...]  # what was assumed or left out, one sentence each


def map_weights(
    path: str | Path, /, *, column: str | None = None, folder: str | Path | None = None, catalog: Keyed | None = None
) -> Mapped:
    """Map a file of weights, or the files of a folder one after another in the order of their names.

    Args:
        path: the file; or a folder of Arrow or Parquet files, one per shard.
        column: column of a file that has several; by default `weight`, or the only one of numbers (floating point).
        folder: where a copy goes if one is needed; by default the system's temporary folder.
        catalog: whose rows are weighed; needed where the file names them by `key`.

    Returns:
        float32 or float64 (N,), read-only; `IndexStream` leaves it on disk in mode 'stratified'.

    Raises:
        FileNotFoundError: no such file, or none in the folder.
        ValueError: not such a file, damaged, no rows, no such column, values that are no weights, ids that do not fit,
            or of another catalog.
    """
    return read_weights(path, column=column, folder=folder, catalog=catalog).values


def read_weights(
    path: str | Path, /, *, column: str | None = None, folder: str | Path | None = None, catalog: Keyed | None = None
) -> Weights:
    """Read a file of weights, with what is to be said of it; arguments and errors as `map_weights`."""
    source = Path(path)
    tables = [open_table(file) for file in _files(source)]
    name = _column(tables[0], column)
    for table in tables[1:]:
        _column(table, name)
    owner = tables[0].catalog
    if catalog is not None and owner not in ("", catalog.fingerprint):
        raise ValueError(
            f"{source}: weights of catalog {owner[:12]}, but this is {catalog.fingerprint[:12]}: give weights that "
            "were made from it"
        )
    ids = [sample_ids(table, catalog) for table in tables]
    known = [each for each in ids if each is not None]
    if not known:
        _require_order(source, tables)
        ours = "drawstream.distribution" in tables[0].metadata
        notes = () if ours else tuple(by_row_order(table, name, catalog) for table in tables)  # each is looked at
        values = _by_order(source, tables, name, folder, None if catalog is None else len(catalog))
        return Weights(values, owner, notes[:1])
    if len(known) < len(ids):
        raise ValueError(f"{source}: all files or none must have `sample_id` or `key`, but {len(known)} have")
    return Weights(_by_ids(source, tables, name, known, folder, catalog), owner, ())


def _files(source: Path) -> list[Path]:
    if source.is_dir():
        files = sorted(each for each in source.iterdir() if format_of(each) in (*ARROW, *PARQUET))
        if not files:
            raise FileNotFoundError(f"{source}: no weights there: {_REMEDY}")
        return files
    if not source.exists():
        raise FileNotFoundError(f"{source}: no such file: {_REMEDY}")
    return [source]


def _require_order(source: Path, tables: Sequence[TableFile]) -> None:
    """Refuse files whose names have another order as text than by their numbers: part-10 comes before part-2."""
    names = [table.path.name for table in tables]
    numbered = sorted(names, key=lambda name: [int(x) if i % 2 else x for i, x in enumerate(re.split(r"(\d+)", name))])
    for name, other in zip(names, numbered, strict=True):
        if name != other:
            raise ValueError(
                f"{source}: without ids its files must have one order by name and by number, but {name!r} comes before "
                f"{other!r} by name only: pad the numbers with zeros in the order of the shards, or write `sample_id`"
            )


def _column(table: TableFile, column: str | None) -> str:
    """The name of the weights' column, checked."""
    found = table.metadata.get("drawstream.distribution", _DISTRIBUTION)
    if found != _DISTRIBUTION:  # a file of somebody else has none, and is read by its columns alone
        raise ValueError(
            f"{table.path}: distribution format {found} is newer than {_DISTRIBUTION}, which this drawstream reads: "
            "upgrade"
        )
    numbers = [name for name, kind in table.kinds.items() if kind == "number" and name not in (*_OTHERS, *table.index)]
    name = "weight" if column is None and "weight" in table.kinds else column
    if name is not None:
        kind: str = table.kinds.get(name, "missing")
        if kind in ("number", "text") and name not in IDS:
            return name
        kind = "an id" if name in IDS else kind
        raise ValueError(f"{table.path}: column {name!r} must hold numbers, but is {kind}; there are {listed(numbers)}")
    floats = [name for name in numbers if name in table.floats]
    for choice in (numbers, floats):
        if len(choice) == 1:
            return choice[0]
    raise ValueError(
        f"{table.path}: one column of numbers must be named, but there are {listed(numbers)}: name the "
        "column of weights (--column), or call it `weight`"
    )


def _by_order(
    source: Path, tables: Sequence[TableFile], name: str, folder: str | Path | None, rows: int | None
) -> Mapped:
    """The weights in the order of the file, mapped where they lie if that can be."""
    mapped = _map(tables[0], name) if len(tables) == 1 else None
    values = _copy(source, _all_pieces(tables, name), folder) if mapped is None else mapped
    if rows not in (None, values.size):
        raise ValueError(
            f"{source} has {values.size} weights, the catalog {rows} images: give one each, in catalog order, or with "
            "a column `sample_id` or `key`"
        )
    try:
        check_values(np.asarray(values))
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from None
    return values


def _by_ids(
    source: Path,
    tables: Sequence[TableFile],
    name: str,
    parts: Sequence[NDArray[np.int64]],
    folder: str | Path | None,
    catalog: Keyed | None,
) -> Mapped:
    """The weights in the order of their ids: one for each row of the catalog, or for 0, 1, 2, … without one."""
    values = np.concatenate([table.numbers(name, part.size) for table, part in zip(tables, parts, strict=True)])
    ids = np.concatenate(parts)
    rows = ids.size if catalog is None else len(catalog)
    strange = np.flatnonzero((ids < 0) | (ids >= rows))
    if strange.size:
        row = int(strange[0])
        like = "" if catalog is None else f" (its keys are like {catalog.key(0)!r})"
        raise ValueError(
            f"{source}: {strange.size} of {ids.size} rows belong to none of {rows} images{like}, first row {row} "
            f"(from 0), {_shown(tables, row)}: leave them out, or give their catalog"
        )
    crops = " (these are crops: join them to their feature table)" if "crop" in tables[0].kinds else ""
    place, _ = match_rows(
        source,
        ids,
        np.arange(rows),
        every="row" if catalog is None else "image of the catalog",
        name=lambda row: f"sample {row}" if catalog is None else f"sample {row} ({catalog.key(row)!r})",
        hint=f"leave one of them out{crops}",
    )
    bad = np.flatnonzero(~((values >= 0) & (values < np.inf)))
    if bad.size:
        row = int(bad[0])
        raise ValueError(
            f"{source}: weights must be finite and >= 0, but row {row} (from 0), {_shown(tables, row)}, is "
            f"{values[row]} ({bad.size} such of {values.size} rows): set their weights to 0"
        )
    if not values.any():
        raise ValueError(
            f"{source}: at least one weight must be > 0, but all {values.size} are 0: nothing can be drawn"
        )
    return _copy(source, [values[place]], folder)


def _shown(tables: Sequence[TableFile], row: int) -> str:
    """The id of a row of the files, as they have it."""
    for table in tables:
        name = "key" if "key" in table.kinds else "sample_id"
        column = table.column(name)
        if row < len(column):
            return f"{name} {column[row].as_py()!r}"
        row -= len(column)
    raise IndexError(row)


def _map(table: TableFile, column: str) -> Mapped | None:
    """The column where it lies in the file; None where it must be converted."""
    if format_of(table.path) in ARROW:
        return _map_arrow(table.path, column)
    if table.named or format_of(table.path) not in (".npy", ".npz"):
        return None
    array = np.load(table.path, mmap_mode="r")
    return array if array.dtype in (np.float32, np.float64) and array.size else None


def _map_arrow(file: Path, column: str) -> Mapped | None:
    """The column where it lies in the file; None when it is compressed, in several pieces or of another type."""
    with reading(file), pa.memory_map(str(file)) as data:
        begin, size = data.read_buffer().address, file.stat().st_size
        with pa.ipc.open_file(data) as reader:
            if reader.num_record_batches != 1:
                return None
            values = reader.get_batch(0).column(column)
            values.validate(full=True)
        if values.type not in (pa.float32(), pa.float64()) or values.null_count or not len(values):
            return None
        kind = values.type.to_pandas_dtype()
        offset = values.buffers()[1].address - begin + values.offset * np.dtype(kind).itemsize
        if not 0 <= offset < size:
            return None
        return np.memmap(file, dtype=kind, mode="r", offset=offset, shape=(len(values),))


def _all_pieces(tables: Sequence[TableFile], name: str) -> Iterator[NDArray[np.floating[Any]]]:
    """The column piece by piece, of one type."""
    kind: Any = None
    row = 0
    for table in tables:
        for piece in _pieces(table, name):
            if piece.null_count:
                first = row + int(np.argmax(piece.is_null().to_numpy(zero_copy_only=False)))
                raise ValueError(
                    f"{table.path}: weights must not be null, but row {first} is: set it to 0 or leave the row out"
                )
            values = to_floats(piece, f"{table.path}: column {name!r}")
            kind = kind or values.dtype
            if values.dtype != kind:
                raise ValueError(
                    f"{table.path}: column {name!r} is {values.dtype}, but {kind} in {tables[0].path}: write one type"
                )
            yield values
            row += values.size


def _pieces(table: TableFile, name: str) -> Iterator[pa.Array]:
    """The column as it comes from the file."""
    if format_of(table.path) in PARQUET:
        with (
            reading(table.path),
            pq.ParquetFile(table.path, memory_map=True, page_checksum_verification=True) as parquet,
        ):
            for batch in parquet.iter_batches(_BATCH, columns=[name]):
                yield batch.column(0)
    elif format_of(table.path) in ARROW:
        with reading(table.path), pa.memory_map(str(table.path)) as data, pa.ipc.open_file(data) as reader:
            for i in range(reader.num_record_batches):
                piece = reader.get_batch(i).column(name)
                piece.validate(full=True)
                yield piece
    else:
        yield table.column(name)


def _copy(source: Path, pieces: Iterable[NDArray[np.floating[Any]]], folder: str | Path | None) -> Mapped:
    """All pieces in one temporary file."""
    kind: Any = None
    rows = 0
    with tempfile.TemporaryFile(dir=folder) as copy:
        for values in pieces:
            kind = kind or values.dtype
            copy.write(values.data)
            rows += values.size
        if not rows:
            raise ValueError(f"{source}: a file of weights must have rows, but has none")
        copy.flush()
        return np.memmap(copy, dtype=kind, mode="r", shape=(rows,))
