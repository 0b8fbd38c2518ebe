"""User columns beside the features: any Parquet file with one row per sample, or per crop, joined by its ids.

The file names its rows by `sample_id` (integer) or, where it has none, by `key` (text, looked up in the catalog), and
by `crop` where it has that column; without it every crop of a sample gets the sample's values. Every row of the table
must find exactly one row of the file. Rows of the file that the table does not have are allowed and noted: one file
may serve several splits. Its other columns become features if they are numbers (float32: integers beyond 2^24 are
rounded), and are passed over and noted if they are text or the like.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash
from numpy.typing import NDArray

from drawstream.pipeline import Catalog
from drawstream.samplers.system import raise_unless_file

_IDS = ("sample_id", "key", "crop")
_SHOWN = 3  # examples in an error


@dataclass(frozen=True, slots=True, eq=False)
class Joined:
    """What a file adds to a table.

    Attributes:
        path: The file.
        columns: Features, float32 (rows,), in the order of the table's rows, read-only.
        notes: What was passed over, one sentence each.
    """

    path: Path
    columns: Mapping[str, NDArray[np.float32]]
    notes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Names and hashes of the columns, which enter the fingerprint of the table; where they came from does not."""
        return {name: xxhash.xxh3_128_hexdigest(values.data) for name, values in self.columns.items()}


def join_file(
    path: Path,
    sample_id: NDArray[np.int64],
    crop: NDArray[np.int32],
    taken: Collection[str],
    catalog: Catalog | None,
    /,
) -> Joined:
    """Match the rows of a file to those of a table.

    Args:
        path: Parquet file.
        sample_id: Samples of the table's rows, int64 (rows,).
        crop: Their crops, int32 (rows,).
        taken: Names that the file's features must not have.
        catalog: The table's catalog; needed where the file has keys only.

    Raises:
        FileNotFoundError: No such file.
        ValueError: Not Parquet; no ids, or none that can be looked up; no numbers; a name that is taken; a row of the
            table without a partner or with several; a value that is missing or not finite.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file to join: give a Parquet file with `sample_id` or `key`")
    try:
        schema = pq.read_schema(path)
        ids = _read_ids(path, schema, catalog)
        crops = _integers(path, "crop") if "crop" in schema.names else None
    except (pa.ArrowException, OSError) as error:
        raise_unless_file(error, path)
        raise ValueError(f"{path}: not a readable Parquet file ({str(error).splitlines()[0]})") from None
    names = _features(path, schema, taken)
    rows, extra = _match(path, ids, crops, sample_id, crop, catalog)
    columns = {name: _numbers(path, name, rows, sample_id) for name in names}
    notes = []
    if extra:
        notes.append(f"{path}: {extra} of {ids.size} rows belong to no row of the table and are left out")
    if passed := [name for name in schema.names if name not in (*_IDS, *names)]:
        notes.append(f"{path}: columns that are no numbers are left out: {', '.join(passed)}")
    return Joined(path, columns, tuple(notes))


def _read_ids(path: Path, schema: pa.Schema, catalog: Catalog | None) -> NDArray[np.int64]:
    """Sample of each row of the file; -1 where the catalog has no such key."""
    if "sample_id" in schema.names:
        return _integers(path, "sample_id")
    if "key" not in schema.names:
        raise ValueError(
            f"{path}: a column `sample_id` or `key` must say which sample a row is, but there are "
            f"{', '.join(schema.names) or 'none'}"
        )
    if catalog is None:
        raise ValueError(f"{path}: its rows are named by `key`, which the catalog knows: give the catalog too")
    keys = _column(path, "key")
    if not (pa.types.is_string(keys.type) or pa.types.is_large_string(keys.type)):
        raise ValueError(f"{path}: column `key` must be text, but is {keys.type}")
    try:
        return catalog.rows_of(keys)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _features(path: Path, schema: pa.Schema, taken: Collection[str]) -> list[str]:
    """Names of the columns of numbers."""
    kinds = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean)
    names = [field.name for field in schema if field.name not in _IDS and any(kind(field.type) for kind in kinds)]
    if not names:
        raise ValueError(f"{path}: there must be a column of numbers to join, but there are {', '.join(schema.names)}")
    for name in names:
        if name in taken or names.count(name) > 1:
            raise ValueError(f"{path}: a column {name!r} is there already: rename it, or leave it out")
    return names


def _match(
    path: Path,
    ids: NDArray[np.int64],
    crops: NDArray[np.int64] | None,
    sample_id: NDArray[np.int64],
    crop: NDArray[np.int32],
    catalog: Catalog | None,
) -> tuple[NDArray[np.int64], int]:
    """Row of the file for each row of the table, int64 (rows,), and how many rows of the file are left over."""
    wanted = sample_id
    if crops is not None:
        width = 1 + max(int(crop.max(initial=0)), int(crops.max(initial=0)))
        wanted = sample_id * width + crop
        ids = np.where((ids < 0) | (crops < 0), -1, ids * width + crops)
    order = np.argsort(ids, kind="stable")
    ordered = ids[order]
    twice = np.flatnonzero((ordered[1:] == ordered[:-1]) & (ordered[1:] >= 0))
    if twice.size:
        first, second = np.sort(order[twice[0] : twice[0] + 2]).tolist()
        raise ValueError(
            f"{path}: every sample must have one row, but {twice.size} rows name one that an earlier row names: first "
            f"rows {first} and {second}: leave one of them out"
        )
    places = np.minimum(np.searchsorted(ordered, wanted), max(0, ordered.size - 1))
    missing = np.flatnonzero(ordered[places] != wanted) if ordered.size else np.arange(wanted.size)
    if missing.size:
        some = ", ".join(
            _name(row, sample_id, crop if crops is not None else None, catalog) for row in missing[:_SHOWN]
        )
        raise ValueError(
            f"{path}: every row of the table must have its row here, but {missing.size} of {wanted.size} have none: "
            f"{some}{', …' if missing.size > _SHOWN else ''}"
        )
    rows = order[places]
    used = np.zeros(ids.size, bool)
    used[rows] = True
    return rows, int(ids.size - used.sum())


def _numbers(path: Path, name: str, rows: NDArray[np.int64], sample_id: NDArray[np.int64]) -> NDArray[np.float32]:
    """A column in the order of the table, float32 (rows,)."""
    column = _column(path, name)
    with np.errstate(over="ignore"):  # beyond float32: infinite, and refused below
        given = column.cast(pa.float64(), safe=False).fill_null(np.nan) if column.null_count else column
        values = given.to_numpy(zero_copy_only=False)[rows].astype(np.float32)
    bad = np.flatnonzero(~np.isfinite(values))
    if bad.size:
        raise ValueError(
            f"{path}: column {name!r} must be finite, but {bad.size} of {values.size} rows are not, the first at row "
            f"{rows[bad[0]]} ({values[bad[0]]}, sample {sample_id[bad[0]]})"
        )
    values.setflags(write=False)
    return values  # type: ignore[no-any-return]


def _integers(path: Path, name: str) -> NDArray[np.int64]:
    column = _column(path, name)
    if not pa.types.is_integer(column.type) or column.null_count:
        raise ValueError(
            f"{path}: column `{name}` must be integers without nulls, but is {column.type} with "
            f"{column.null_count} nulls"
        )
    return column.to_numpy().astype(np.int64)  # type: ignore[no-any-return]


def _column(path: Path, name: str) -> Any:
    """One column as one Arrow array."""
    try:
        table = pq.read_table(path, columns=[name], partitioning=None, page_checksum_verification=True)
        column = table[name]
    except (pa.ArrowException, OSError) as error:
        raise_unless_file(error, path)
        raise ValueError(f"{path}: not a readable Parquet file ({str(error).splitlines()[0]})") from None
    return column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)


def _name(row: int, sample_id: NDArray[np.int64], crop: NDArray[np.int32] | None, catalog: Catalog | None) -> str:
    sample = int(sample_id[row])
    text = f"sample {sample}" if catalog is None else f"sample {sample} ({catalog.key(sample)!r})"
    return text if crop is None else f"{text} crop {crop[row]}"
