"""Weights that stay on disk: `.npy`, Arrow IPC (Feather), Parquet, or a folder with one such file per shard.

    weights = map_weights("weights.parquet", column="p")     # a numpy.memmap, float32 or float64 (N,)
    stream = IndexStream(weights, seed=0)                    # the stream of the same weights in memory, bit for bit

A `.npy` file, and an Arrow file of one uncompressed record batch, are mapped where they lie: nothing is copied.
Parquet pages are encoded, and an Arrow file of several batches is not one array: these are read once, a batch at a
time, into a nameless temporary file (4 or 8 bytes per row on disk, in `folder`), which the system removes with the last
use of the array. Where the temporary folder is kept in memory (tmpfs), give a `folder` on a disk.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from drawstream.samplers.system import raise_unless_file

__all__ = ["map_weights", "weights_catalog"]

_DISTRIBUTION = "1"  # format of the files of `drawstream search auto`
_BATCH = 1 << 20  # rows read at a time
_ARROW = (".arrow", ".feather", ".ipc")
_PARQUET = (".parquet", ".pq")
_REMEDY = "weights are read from .npy, .arrow, .feather, .parquet, or a folder of such files"

Mapped = np.memmap[Any, np.dtype[Any]]


def map_weights(path: str | Path, /, *, column: str | None = None, folder: str | Path | None = None) -> Mapped:
    """Map a file of weights, or the files of a folder one after another in the order of their names.

    Args:
        path: the file; or a folder of Arrow or Parquet files, one per shard.
        column: column of an Arrow or Parquet file; needed where it has several of floating point.
        folder: where a copy goes if one is needed; by default the system's temporary folder.

    Returns:
        float32 or float64 (N,), read-only; `IndexStream` leaves it on disk in mode 'stratified'.

    Raises:
        FileNotFoundError: no such file, or none in the folder.
        ValueError: not such a file, damaged, no rows, no such column, or one with nulls or not of floating point.
    """
    source = Path(path)
    files = _files(source)
    try:
        if files[0].suffix == ".npy":
            return _map_npy(files[0])
        column = _column(files[0], column)
        if len(files) == 1 and files[0].suffix in _ARROW:
            mapped = _map_arrow(files[0], column)
            if mapped is not None:
                return mapped
        return _copy(files, column, folder)
    except (pa.ArrowException, OSError) as error:
        raise_unless_file(error, source)
        if isinstance(error, FileNotFoundError):
            raise
        raise ValueError(f"{source}: {str(error).splitlines()[0]}: {_REMEDY}") from None


def weights_catalog(path: str | Path, /) -> str:
    """Return the fingerprint of the catalog that a file of weights says it belongs to; "" where it says nothing.

    Raises:
        FileNotFoundError, ValueError: As `map_weights`.
    """
    source = Path(path)
    file = _files(source)[0]
    if file.suffix == ".npy":
        return ""
    try:
        return str((_schema(file).metadata or {}).get(b"catalog", b"").decode(errors="replace"))
    except (pa.ArrowException, OSError) as error:
        raise_unless_file(error, source)
        raise ValueError(f"{source}: {str(error).splitlines()[0]}: {_REMEDY}") from None


def _files(source: Path) -> list[Path]:
    if source.is_dir():
        files = sorted(each for each in source.iterdir() if each.suffix in (*_ARROW, *_PARQUET))
        if not files:
            raise FileNotFoundError(f"{source}: no weights there: {_REMEDY}")
        return files
    if not source.is_file():
        raise FileNotFoundError(f"{source}: no such file: {_REMEDY}")
    if source.suffix not in (".npy", *_ARROW, *_PARQUET):
        raise ValueError(f"{source}: unknown kind of file {source.suffix!r}: {_REMEDY}")
    return [source]


def _map_npy(file: Path) -> Mapped:
    try:
        array = np.load(file, mmap_mode="r")
    except (ValueError, EOFError, OSError, SyntaxError, TokenError) as error:  # the header is a Python literal
        raise_unless_file(error, file)
        first = str(error).splitlines()[0]
        raise ValueError(f"{file}: not a readable .npy file ({first}): {_REMEDY}") from None
    if array.ndim != 1 or array.dtype not in (np.float32, np.float64):
        raise ValueError(
            f"{file}: weights must be float32 or float64 of shape (rows,), but got {array.dtype} {array.shape}"
        )
    return array  # type: ignore[no-any-return]


def _schema(file: Path) -> pa.Schema:
    if file.suffix in _PARQUET:
        return pq.read_schema(file)
    with pa.memory_map(str(file)) as data, pa.ipc.open_file(data) as reader:
        return reader.schema


def _column(file: Path, column: str | None) -> str:
    """The name of the weights' column, checked."""
    schema = _schema(file)
    found = (schema.metadata or {}).get(b"drawstream.distribution", b"1").decode(errors="replace")
    if found != _DISTRIBUTION:  # a file of somebody else has none, and is read by its columns alone
        raise ValueError(
            f"{file}: distribution format {found} is newer than {_DISTRIBUTION}, which this drawstream reads: upgrade"
        )
    floats = [field.name for field in schema if pa.types.is_floating(field.type)]
    if column is None:
        if len(floats) != 1:
            raise ValueError(
                f"{file}: one column of floating point must be named, but there are {', '.join(floats) or 'none'}: "
                "name the column of weights"
            )
        return str(floats[0])
    if column not in floats:
        kind = schema.field(column).type if column in schema.names else "missing"
        raise ValueError(
            f"{file}: column {column!r} must be floating point, but is {kind}; there are {', '.join(floats) or 'none'}"
        )
    return column


def _map_arrow(file: Path, column: str) -> Mapped | None:
    """The column where it lies in the file; None when it is compressed or in several pieces."""
    with pa.memory_map(str(file)) as data:
        begin, size = data.read_buffer().address, file.stat().st_size
        with pa.ipc.open_file(data) as reader:
            if reader.num_record_batches != 1:
                return None
            values = reader.get_batch(0).column(column)
        kind = values.type.to_pandas_dtype()
        offset = values.buffers()[1].address - begin + values.offset * np.dtype(kind).itemsize
        if values.null_count or kind == np.float16 or not 0 <= offset < size or not len(values):
            return None
        return np.memmap(file, dtype=kind, mode="r", offset=offset, shape=(len(values),))


def _pieces(file: Path, column: str) -> Iterator[pa.Array]:
    """The column piece by piece."""
    if file.suffix in _PARQUET:
        with pq.ParquetFile(file, memory_map=True) as parquet:
            for batch in parquet.iter_batches(_BATCH, columns=[column]):
                yield batch.column(0)
        return
    with pa.memory_map(str(file)) as data, pa.ipc.open_file(data) as reader:
        for i in range(reader.num_record_batches):
            yield reader.get_batch(i).column(column)


def _copy(files: list[Path], column: str, folder: str | Path | None) -> Mapped:
    """All pieces in one temporary file."""
    kind: Any = None
    rows = 0
    with tempfile.TemporaryFile(dir=folder) as copy:
        for file in files:
            _column(file, column)
            for piece in _pieces(file, column):
                values = _numbers(piece, file, rows)
                kind = kind or values.dtype
                if values.dtype != kind:
                    raise ValueError(f"{file}: column {column!r} is {values.dtype}, but {kind} in {files[0]}")
                copy.write(values.data)
                rows += values.size
        if not rows:
            raise ValueError(f"{files[0]}: column {column!r} must have rows, but has none")
        copy.flush()
        return np.memmap(copy, dtype=kind, mode="r", shape=(rows,))


def _numbers(piece: pa.Array, file: Path, before: int) -> NDArray[np.floating[Any]]:
    if piece.null_count:
        first = before + int(np.argmax(piece.is_null().to_numpy(zero_copy_only=False)))
        raise ValueError(f"{file}: weights must not be null, but row {first} is: set it to 0 or leave the row out")
    values: NDArray[np.floating[Any]] = piece.to_numpy()
    return np.ascontiguousarray(values, dtype=np.float32 if values.dtype == np.float16 else values.dtype)
