"""Columns of several catalogs as one: in memory, or mapped from local disk where there are many rows."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from drawstream.pipeline.catalogs.mapped import MappedColumns, whole_column
from drawstream.pipeline.decoding import UPRIGHT
from drawstream.pipeline.fields import FieldColumns

if TYPE_CHECKING:
    from drawstream.pipeline.shards import Catalog

PIECE = 1 << 16  # rows that are compared together
_PLAIN = ("offset", "size", "checksum", "encoding_codes", "height", "width", "shard", "label", "source")


@dataclass(frozen=True, slots=True)
class JoinedColumns:
    """The columns of joined catalogs, made a piece at a time from those of the members.

    Attributes:
        catalogs: The members.
        shards: First shard of each.
        maps: The class of the whole for each class of each member, int64 (classes of the member,); empty where they are
            the same.
        labels: Whether the whole has labels.
        fields: Those of all members; each has columns NAME.offset, NAME.size and NAME.checksum.
    """

    catalogs: Sequence["Catalog"]
    shards: Sequence[int]
    maps: Sequence[NDArray[np.int64]]
    labels: bool = True
    fields: tuple[str, ...] = ()

    @property
    def names(self) -> list[str]:
        """Columns that are there: true labels if a member has noise, turns if a member has turned images."""
        found = {
            name: any(getattr(each, name) is not None for each in self.catalogs) for name in ("clean_label", "turn")
        }
        found = {**dict.fromkeys(_PLAIN, True), **found}
        names = [name for name, there in found.items() if there and (self.labels or "label" not in name)]
        return names + [f"{name}.{part}" for name in self.fields for part in FieldColumns._fields]

    def piece(self, name: str, g: int, rows: slice, /) -> NDArray[Any]:
        """Return some rows of a member's column as they are in the whole."""
        each = self.catalogs[g]
        field, _, part = name.rpartition(".")
        if field:
            columns = each.field_columns.get(field) or FieldColumns.absent(len(each))
            found: NDArray[Any] = getattr(columns, part)[rows]
            return found
        if name == "shard":
            return each.shard[rows] + np.int32(self.shards[g])
        if name == "source":
            return np.full(len(each.shard[rows]), g, np.int16)
        if name == "turn" and each.turn is None:
            return np.full(len(each.shard[rows]), UPRIGHT, np.int8)
        labels = name == "clean_label" and each.clean_label is None
        values: NDArray[Any] = getattr(each, "label" if labels else name)[rows]
        if self.maps and "label" in name:
            count = max((int(one.max()) + 1 for one in self.maps if one.size), default=0)
            return merged_labels(values, self.maps[g], count)
        return values

    def whole(self, name: str, /) -> NDArray[Any]:
        """Return a column of all rows, in memory."""
        return np.concatenate([self.piece(name, g, slice(None)) for g in range(len(self.catalogs))])

    def keys(self) -> Any:
        """Return the keys of all rows: pyarrow large_string (rows,)."""
        return pa.concat_arrays([each._keys for each in self.catalogs])

    def held(self) -> dict[str, Any]:
        """Return all columns, and `_keys`, in the memory of this process."""
        return {name: _frozen(self.whole(name)) for name in self.names} | {"_keys": self.keys()}

    def mapped(self, folder: Path, /) -> dict[str, Any]:
        """Return the same mapped from a folder, which is written if it is not there, or not as the members say."""
        columns = MappedColumns(folder, pa.schema(list(self._fields())), self._load)
        with suppress(OSError, ValueError):
            return self._sound(columns.map())
        try:
            with columns.writing():
                with suppress(OSError, ValueError):
                    return self._sound(columns.map())
                columns.write()
                return self._sound(columns.map())
        except (OSError, ValueError) as error:
            law = (
                "each process holds the columns of the joined catalogs in its own memory, as they cannot be kept there"
            )
            remedy = "let XDG_CACHE_HOME name a folder with room that you may write to"
            warnings.warn(f"{folder}: {law} ({getattr(error, 'strerror', None) or error}): {remedy}", stacklevel=5)
            return self.held()

    def _fields(self) -> Iterator[pa.Field]:
        for name in self.names:
            few = self.piece(name, 0, slice(1))
            kind = pa.from_numpy_dtype(few.dtype)
            yield pa.field(name, kind if few.ndim == 1 else pa.list_(kind, few.shape[1]))
        yield pa.field("_keys", pa.large_string())

    def _load(self, name: str) -> Any:
        if name == "_keys":
            return self.keys()
        values = self.whole(name)
        plain = pa.array(values.reshape(-1))
        return plain if values.ndim == 1 else pa.FixedSizeListArray.from_arrays(plain, values.shape[1])

    def _sound(self, table: pa.Table) -> dict[str, Any]:
        """The columns of a table, if they are those of the members.

        Raises:
            ValueError: They are not.
        """
        arrays = {name: _numpy(whole_column(table[name])) for name in self.names}
        keys = whole_column(table["_keys"])
        firsts = list(accumulate((len(each) for each in self.catalogs), initial=0))
        for g, each in enumerate(self.catalogs):
            for start in range(0, len(each), PIECE):
                rows, own = (
                    slice(firsts[g] + start, firsts[g] + min(start + PIECE, len(each))),
                    slice(start, start + PIECE),
                )
                same = (np.array_equal(array[rows], self.piece(name, g, own)) for name, array in arrays.items())
                texts = keys.slice(rows.start, rows.stop - rows.start).equals(each._keys.slice(start, PIECE))
                if not (texts and all(same)):
                    raise ValueError("other rows than the catalogs'")
        if len(keys) != firsts[-1]:
            raise ValueError("more rows than the catalogs'")
        return {**arrays, "_keys": keys}


def merged_labels(labels: NDArray[Any], classes: NDArray[np.int64], count: int, /) -> NDArray[Any]:
    """Return labels of a member as those of the whole.

    Args:
        labels: Of kind ``class`` int64 (rows,), or ``multi`` uint8 (rows, classes of the member).
        classes: The class of the whole for each class of the member, int64.
        count: C.
    """
    if labels.ndim == 1:
        return np.take(classes, labels)
    wide = np.zeros((len(labels), count), labels.dtype)
    wide[:, classes] = labels
    return wide


def _numpy(array: Any) -> NDArray[Any]:
    """A column as a read-only array (rows,), or (rows, n) of lists of n items."""
    if not pa.types.is_fixed_size_list(array.type):
        return _frozen(array.to_numpy(zero_copy_only=False))
    return _frozen(array.flatten().to_numpy(zero_copy_only=False).reshape(-1, array.type.list_size))


def _frozen(array: NDArray[Any]) -> NDArray[Any]:
    array.flags.writeable = False
    return array
