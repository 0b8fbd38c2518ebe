"""Columns of a catalog that say where further members of the samples lie.

A field is named by the extension of its member (``txt``, ``seg.png``) and has three columns, all of them null where a
sample has no such member:

============= ====== ===============================================================
NAME.offset   int64  byte in the row's shard where the member's bytes begin
NAME.size     int64  their number, perhaps 0
NAME.checksum uint32 ``checksum_of`` exactly these bytes
============= ====== ===============================================================
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from drawstream.pipeline.catalogs import whole_column
from drawstream.pipeline.shards import check_name

ABSENT = -1
_FILL = {"offset": ABSENT, "size": 0, "checksum": 0}
_TYPES = {"offset": pa.int64(), "size": pa.int64(), "checksum": pa.uint32()}


class FieldColumns(NamedTuple):
    """Where the members of one field lie; read-only arrays, an entry for each row.

    Attributes:
        offset: int64 (rows,), first byte of the member in the row's shard; ``ABSENT`` where there is none.
        size: int64 (rows,), bytes; 0 where there is none.
        checksum: uint32 (rows,), of these bytes; 0 where there is none.
    """

    offset: NDArray[np.int64]
    size: NDArray[np.int64]
    checksum: NDArray[np.uint32]

    @classmethod
    def absent(cls, rows: int, /) -> Self:
        """Return the columns of a field that none of the rows has; they take no memory."""
        none = np.broadcast_to(np.int64(0), rows)
        return cls(np.broadcast_to(np.int64(ABSENT), rows), none, np.broadcast_to(np.uint32(0), rows))

    def arrow(self) -> list[pa.Array]:
        """Return the columns of the file, in the order of ``field_schema``."""
        absent = self.offset == ABSENT
        return [pa.array(column, kind, mask=absent) for column, kind in zip(self, _TYPES.values(), strict=True)]

    def inside(self, ends: NDArray[np.int64], /) -> bool:
        """Check that every member lies in its shard, of which ``ends``, int64 (rows,), are the bytes."""
        there = self.offset != ABSENT
        offset, size, ends = self.offset[there], self.size[there], ends[there]
        return bool(((offset >= 0) & (size >= 0) & (size <= ends) & (offset <= ends - size)).all())


def check_fields(names: Sequence[str], /) -> tuple[str, ...]:
    """Return the names of fields without the dot before them, in lower case, as members are matched.

    Raises:
        ValueError: An empty name, one that comes twice, or one that acts where it is shown.
    """
    if wrong := [name for name in names if not isinstance(name, str)]:
        raise ValueError(f"a field is named by its extension, such as txt, json or seg.png, but got {wrong[0]!r}")
    found = tuple(name.strip().lstrip(".").lower() for name in names)
    for name in found:
        if not name or "/" in name:
            given = ", ".join(names)
            raise ValueError(f"a field is named by its extension, such as txt, json or seg.png, but got {given!r}")
        check_name(name, what="field")
    if twice := [name for name in found if found.count(name) > 1]:
        raise ValueError(f"field {twice[0]!r} is named twice: name it once")
    return found


def field_schema(name: str, /) -> list[pa.Field]:
    """Return the columns of a field."""
    return [pa.field(f"{name}.{part}", kind) for part, kind in _TYPES.items()]


def read_columns(table: pa.Table, name: str, /) -> FieldColumns:
    """Take the columns of a field out of a catalog's table.

    Raises:
        ValueError: One is missing or of another type, or they are null in different rows.
    """
    columns = []
    absent: NDArray[np.bool_] | None = None
    for column in field_schema(name):
        if column.name not in table.column_names or table.schema.field(column.name).type != column.type:
            raise ValueError(f"column {column.name!r} must be there, as {column.type}")
        array = whole_column(table[column.name])
        null = array.is_null().to_numpy(zero_copy_only=False)
        if absent is not None and not np.array_equal(null, absent):
            raise ValueError(f"the columns of field {name!r} must be null in the same rows")
        absent = null
        values = _under_nulls(array)
        if not (values[null] == _FILL[_part(column.name)]).all():
            values = _under_nulls(fill_nulls(array, column.name))
        values.flags.writeable = False
        columns.append(values)
    return FieldColumns(*columns)


def is_field_column(name: str, /) -> bool:
    """Check whether a column of a catalog is one of a field."""
    return "." in name and _part(name) in _TYPES


def fill_nulls(array: pa.Array, name: str, /) -> pa.Array:
    """Return a column of a field with the values of ``FieldColumns`` under its nulls: no copy is needed to read it."""
    valid = array.is_valid().to_numpy(zero_copy_only=False)
    values = array.fill_null(pa.scalar(_FILL[_part(name)], array.type)).to_numpy(zero_copy_only=False)
    buffers = [np.packbits(valid, bitorder="little"), np.ascontiguousarray(values)]
    return pa.Array.from_buffers(array.type, len(array), [pa.py_buffer(each) for each in buffers])


def _part(name: str) -> str:
    return name.rpartition(".")[2]


def _under_nulls(array: pa.Array) -> NDArray[Any]:
    """Return the values of a column of numbers, whatever stands where it is null."""
    kind = array.type.to_pandas_dtype()
    return np.frombuffer(array.buffers()[1], kind, len(array), array.offset * np.dtype(kind).itemsize)
