"""User columns beside the features: a file with one row per sample, or per crop, joined by its ids.

Any format of `drawstream.samplers.files.table_file`. The file names its rows by `sample_id` (integer) or by `key`
(text, looked up in the catalog), and by `crop` where it has that column; without it every crop of a sample gets the
sample's values. Every row of the table must find exactly one row of the file. Rows of the file that the table does not
have are allowed and noted: one file may serve several splits. A file of one column, or of fractions, without ids goes
by the order of the table's rows, which must be whole images, and that is noted. Other columns become features if they
are numbers (float32: integers beyond 2^24 are rounded), and are passed over and noted if they are text or the like.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from drawstream.pipeline.shards import Catalog
from drawstream.samplers.files import IDS, TableFile, by_row_order, integers, listed, match_rows, open_table, sample_ids


@dataclass(frozen=True, slots=True, eq=False)
class Joined:
    """Columns that a file adds to a table.

    Attributes:
        path: The file.
        catalog: Fingerprint of the catalog that the file says its rows belong to; "" where it does not say.
        columns: Features, float32 (rows,), in the order of the table's rows, read-only.
        notes: What was passed over, one sentence each.
    """

    path: Path
    catalog: str
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
    """Match the rows of a file to those of a table, of samples and crops (rows,), and take its features.

    Raises:
        FileNotFoundError: No such file.
        ValueError: An unknown format or a damaged file; no ids, or none that can be looked up; no numbers; a name that
            is taken; a row of the table without a partner or with several; a value that is missing or not finite.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file to join: give a table with `sample_id` or `key`")
    file = open_table(path)
    names = _features(file, taken)
    ids = sample_ids(file, catalog)
    notes = []
    if ids is None:
        rows = _in_order(file, names, sample_id)
        notes.append(by_row_order(file, names[0] if len(names) == 1 else "", catalog))
    else:
        rows, extra = _match(file, ids, sample_id, crop, catalog)
        if extra:
            notes.append(f"{path}: {extra} of {ids.size} rows belong to no row of the table and are left out")
    size = (sample_id if ids is None else ids).size
    columns = {name: _numbers(file, name, size, rows, sample_id) for name in names}
    if passed := [name for name in file.kinds if name not in (*IDS, *file.index, *names)]:
        notes.append(f"{path}: columns that are no numbers are left out: {listed(passed)}")
    return Joined(path, file.catalog, columns, tuple(notes))


def _features(file: TableFile, taken: Collection[str]) -> list[str]:
    """Names of the columns of numbers."""
    names = [name for name, kind in file.kinds.items() if kind == "number" and name not in (*IDS, *file.index)]
    if not names:
        raise ValueError(f"{file.path}: there must be a column of numbers to join, but there are {listed(file.kinds)}")
    for name in names:
        if name in taken:
            raise ValueError(f"{file.path}: a column {name!r} is there already: rename it, or leave it out")
    return names


def _in_order(file: TableFile, names: list[str], sample_id: NDArray[np.int64]) -> NDArray[np.int64]:
    """Rows of a file without ids: those of the table, which must be one per image, in order."""
    if not np.array_equal(sample_id, np.arange(sample_id.size)):
        raise ValueError(
            f"{file.path}: a column `sample_id` or `key` must say which sample a row is, but there are "
            f"{listed(file.kinds)}"
        )
    rows = len(file.column(names[0]))
    if rows != sample_id.size:
        raise ValueError(
            f"{file.path} has {rows} rows, the table {sample_id.size}: give one each, in its order, or a column "
            "`sample_id` or `key`"
        )
    return sample_id


def _match(
    file: TableFile,
    ids: NDArray[np.int64],
    sample_id: NDArray[np.int64],
    crop: NDArray[np.int32],
    catalog: Catalog | None,
) -> tuple[NDArray[np.int64], int]:
    """Row of the file for each row of the table, int64 (rows,), and how many rows of the file are left over."""
    wanted = sample_id
    by_crop = "crop" in file.kinds
    if by_crop:
        crops = integers(file, "crop")
        file.require_rows("crop", crops.size, ids.size)
        width = 1 + int(crop.max(initial=0))
        wanted = sample_id * width + crop
        here = (ids >= 0) & (ids <= sample_id.max(initial=0)) & (crops >= 0) & (crops < width)
        ids = np.where(here, ids, -1) * width + np.where(here, crops, 0)

    def name(row: int) -> str:
        sample = int(sample_id[row])
        text = f"sample {sample}" if catalog is None else f"sample {sample} ({catalog.key(sample)!r})"
        return f"{text} crop {crop[row]}" if by_crop else text

    return match_rows(file.path, ids, wanted, every="row of the table", name=name)


def _numbers(
    file: TableFile, name: str, size: int, rows: NDArray[np.int64], sample_id: NDArray[np.int64]
) -> NDArray[np.float32]:
    """A column of `size` rows in the order of the table, float32 (rows,)."""
    with np.errstate(over="ignore"):  # beyond float32: infinite, and refused below
        values = file.numbers(name, size)[rows].astype(np.float32)
    bad = np.flatnonzero(~np.isfinite(values))
    if bad.size:
        raise ValueError(
            f"{file.path}: column {name!r} must be finite, but {bad.size} of {values.size} rows are not, the first at "
            f"row {rows[bad[0]]} ({values[bad[0]]}, sample {sample_id[bad[0]]})"
        )
    values.setflags(write=False)
    return values
