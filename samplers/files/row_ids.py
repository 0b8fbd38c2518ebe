"""Rows of a user's file found by their ids: `sample_id`, or `key` through the catalog, and `crop`.

ids = sample_ids(table, catalog)                 # int64 (n,), -1 where the catalog has no such key; None without ids
rows, extra = match_rows(ids, wanted)            # row of the file for each wanted sample
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from drawstream.samplers.files.table_arrays import listed
from drawstream.samplers.files.table_file import TableFile, to_floats, to_text

__all__ = ["Keyed", "by_row_order", "integers", "match_rows", "sample_ids"]

_SHOWN = 3  # examples in an error


class Keyed(Protocol):
    """Interface of a catalog that finds rows by key."""

    @property
    def fingerprint(self) -> str:
        """Hash of its data."""

    def __len__(self) -> int: ...

    def key(self, row: int, /) -> str:
        """The key of one row."""

    def rows_of(self, keys: Any, /) -> NDArray[np.int64]:
        """Rows of keys, int64 (n,), -1 for those it does not have."""


def sample_ids(table: TableFile, catalog: Keyed | None, /) -> NDArray[np.int64] | None:
    """Return the sample of each row, int64 (n,), -1 where the catalog has no such key; None where there are no ids.

    Raises:
        ValueError: Ids of the wrong type, keys without a catalog, an ambiguous key, or `sample_id` and `key` disagree.
    """
    by_key = None
    if "key" in table.kinds and (catalog is not None or "sample_id" not in table.kinds):
        by_key = _by_key(table, catalog, ambiguous="sample_id" in table.kinds)
    if "sample_id" not in table.kinds:
        return by_key
    given = integers(table, "sample_id")
    if by_key is not None and catalog is not None:
        table.require_rows("key", by_key.size, given.size)
        elsewhere = (by_key < 0) & ((given < 0) | (given >= len(catalog)))  # of another split
        differ = np.flatnonzero((given != by_key) & ~elsewhere)
        if differ.size:
            row = int(differ[0])
            raise ValueError(
                f"{table.path}: `sample_id` and `key` must mean the same sample, but {differ.size} rows disagree, "
                f"first row {row} (from 0), {given[row]} and {table.column('key')[row].as_py()!r}: leave one column out"
            )
    return given


def _by_key(table: TableFile, catalog: Keyed | None, *, ambiguous: bool) -> NDArray[np.int64] | None:
    """Samples of the keys; None where keys are ambiguous and may be."""
    if catalog is None:
        raise ValueError(f"{table.path}: its rows are named by `key`, which the catalog knows: give the catalog too")
    keys = table.column("key")
    if table.kinds["key"] != "text":
        raise ValueError(f"{table.path}: column `key` must be text, but is {keys.type}")
    keys = to_text(keys)
    if keys.null_count:
        row = int(np.argmax(keys.is_null().to_numpy(zero_copy_only=False)))
        raise ValueError(
            f"{table.path}: column `key` must have no nulls, but row {row} (from 0) has none: leave it out"
        )
    try:
        return catalog.rows_of(keys)
    except ValueError as error:
        if ambiguous:
            return None
        raise ValueError(f"{table.path}: {error}") from None


def integers(table: TableFile, name: str, /) -> NDArray[np.int64]:
    """A column of whole numbers, int64 (n,).

    Raises:
        ValueError: It has another type, or nulls; in text, a value that is none.
    """
    column = table.column(name)
    if pa.types.is_large_string(column.type):  # CSV
        return _whole(column, f"{table.path}: column `{name}`")
    if not pa.types.is_integer(column.type) or column.null_count:
        raise ValueError(
            f"{table.path}: column `{name}` must be integers without nulls, but is {column.type} with "
            f"{column.null_count} nulls"
        )
    return column.to_numpy().astype(np.int64)  # type: ignore[no-any-return]


def _whole(column: Any, what: str) -> NDArray[np.int64]:
    column = pc.utf8_trim_whitespace(column)
    try:
        return column.cast(pa.int64()).to_numpy().astype(np.int64)  # type: ignore[no-any-return]
    except pa.ArrowInvalid:
        for row, text in enumerate(column.to_pylist()):
            try:
                pa.scalar(text).cast(pa.int64())
            except pa.ArrowInvalid:
                raise ValueError(
                    f"{what} must be integers, but row {row} (from 0) has {text!r}: write its number"
                ) from None
        raise


def by_row_order(table: TableFile, value: str, catalog: Keyed | None, /) -> str:
    """Return a note: the rows of this file without ids are taken in their order.

    That is so only where nothing in the file could name its rows: its columns but `value`, which is read, are numbers
    with fractions, and pandas' index is 0, 1, 2, ….

    Raises:
        ValueError: Another column could name the rows (the catalog knows which holds keys), or the index is another.
    """
    text = f"{table.path}: without a column `sample_id` or `key` its rows are taken in their order"
    others = [name for name in table.kinds if name not in (value, *table.index)]
    naming = [] if table.reordered else [name for name in others if not _has_fractions(table, name)]
    if not table.reordered and not naming:
        return text
    keys = next((name for name in table.kinds if catalog is not None and _holds_keys(table, name, catalog)), None)
    if keys is not None:
        raise ValueError(f"{text}, but its column {keys!r} holds keys of the catalog: call it `key`")
    if table.reordered:
        raise ValueError(
            f"{text}, but its pandas index is not 0, 1, 2, …: they were sorted or filtered; write `sample_id` or `key` "
            "as a column, or the file with index=False"
        )
    raise ValueError(
        f"{text}, but {listed(naming)} may name them: add `key` or `sample_id` (0, 1, 2, … if the rows are in the "
        "catalog's order), or leave such columns out"
    )


def _has_fractions(table: TableFile, name: str) -> bool:
    """Whether a column holds measured values: numbers, not all of them whole."""
    if table.kinds[name] != "number":
        return False
    values = to_floats(table.column(name), f"{table.path}: column {name!r}")
    return bool((np.isfinite(values) & (values != np.floor(values))).any())


def _holds_keys(table: TableFile, name: str, catalog: Keyed) -> bool:
    """Whether the first text of a column is a key."""
    column = table.column(name)
    if table.kinds[name] != "text" and not pa.types.is_large_string(column.type):  # digits in CSV
        return False
    try:
        return bool((catalog.rows_of(to_text(column)[:1]) >= 0).any())
    except ValueError:  # a key of several shards
        return False


def match_rows(
    path: Path,
    ids: NDArray[np.int64],
    wanted: NDArray[np.int64],
    /,
    *,
    every: str,
    name: Callable[[int], str],
    hint: str = "",
) -> tuple[NDArray[np.int64], int]:
    """Return the row of the file for each wanted id, int64 (rows,), and how many rows of the file are left over.

    Args:
        path: The file.
        ids: Of its rows, int64 (n,); negative ones belong to nothing.
        wanted: int64 (rows,), >= 0.
        every: What has these ids, for messages: "row of the table".
        name: Calls the i-th wanted id by a name, for messages.
        hint: What to do where ids repeat.

    Raises:
        ValueError: An id that two rows have, or that none has.
    """
    order = np.argsort(ids, kind="stable")
    ordered = ids[order]
    twice = np.flatnonzero((ordered[1:] == ordered[:-1]) & (ordered[1:] >= 0))
    if twice.size:
        first, second = np.sort(order[twice[0] : twice[0] + 2]).tolist()
        raise ValueError(
            f"{path}: every sample must have one row, but {twice.size} rows name one that an earlier row names: first "
            f"rows {first} and {second} (from 0): {hint or 'leave one of them out'}"
        )
    places = np.minimum(np.searchsorted(ordered, wanted), max(0, ordered.size - 1))
    missing = np.flatnonzero(ordered[places] != wanted) if ordered.size else np.arange(wanted.size)
    if missing.size:
        some = ", ".join(name(int(row)) for row in missing[:_SHOWN])
        raise ValueError(
            f"{path}: every {every} must have its row here, but {missing.size} of {wanted.size} have none: "
            f"{some}{', …' if missing.size > _SHOWN else ''}"
        )
    rows = order[places]
    used = np.zeros(ids.size, bool)
    used[rows] = True
    return rows, int(ids.size - used.sum())
