"""Columns of a table, or entries of a data set's rows, that are packed as fields: captions, masks, boxes.

A field is asked for as ``COLUMN`` or as ``NAME=COLUMN``. Without a name it is called by its column, with an ending that
says what it holds: text ``caption.txt``, a file or an image ``mask.png``, an array of NumPy or torch ``boxes.npy``, all
else ``objects.json``.
"""

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from drawstream.pipeline import describe_bytes
from drawstream.pipeline.fields import check_fields, encode_value

_ENDINGS = ("txt", "json", "npy", "png")  # that say what a field holds
_FILES = {b"\x89PNG": "png", b"\xff\xd8\xff": "jpg", b"RIFF": "webp", b"\x93NUMPY": "npy"}
Value = bytes | ValueError | None  # of a field in a row; why it cannot be had; or there is none


def name_fields(
    asked: Sequence[str], columns: Sequence[str], kind: Callable[[str], str], source: str, /
) -> dict[str, str]:
    """Return the column of each field by the field's name.

    Args:
        asked: ``COLUMN`` or ``NAME=COLUMN`` each.
        columns: Those that are there.
        kind: Gives the ending of a column's values, without the dot.
        source: For messages.

    Raises:
        ValueError: There is no such column, or a name that cannot be or comes twice.
    """
    named: list[tuple[str, str]] = []
    for each in asked:
        name, mark, column = each.partition("=")
        column = column if mark else name
        if column not in columns:
            there = f"there are {', '.join(columns)}" if columns else "there are none"
            raise ValueError(f"{source}: no column {column!r} for a field, {there}: name one of them (--fields)")
        if not mark and column.rpartition(".")[2] not in _ENDINGS:
            name = f"{column}.{kind(column)}"
        named.append((name, column))
    names = check_fields([name for name, _ in named])
    return dict(zip(names, (column for _, column in named), strict=True))


def ending_of(value: Any, /) -> str:
    """Return the ending of a field that holds such values, without the dot.

    Raises:
        ValueError: Bytes of no kind that is known.
    """
    if isinstance(value, str):
        return "txt"
    if isinstance(value, Mapping) and isinstance(value.get("bytes"), bytes):
        value = value["bytes"]
    if isinstance(value, bytes):
        if found := next((ending for mark, ending in _FILES.items() if value.startswith(mark)), None):
            return found
        raise ValueError(f"holds bytes that say no kind ({describe_bytes(value)}): name the field, NAME.bin=COLUMN")
    if isinstance(value, Image.Image):
        return "png"
    return "npy" if isinstance(value, np.ndarray) or hasattr(value, "numpy") else "json"


def encode_field(name: str, value: Any, /) -> bytes | None:
    """Return the member that holds a value: a file as it is, an image as PNG; None where there is none.

    Raises:
        ValueError: The value cannot be held by a field of that name.
    """
    if isinstance(value, Mapping) and isinstance(value.get("bytes"), bytes) and not name.endswith("json"):
        value = value["bytes"]
    if value is None or isinstance(value, bytes):
        return value
    if isinstance(value, Image.Image):
        buffer = io.BytesIO()
        value.save(buffer, "png")
        return buffer.getvalue()
    if hasattr(value, "numpy"):
        value = value.numpy(force=True)
    if name.endswith("json") and isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    return encode_value(name, value)


def try_encode(name: str, value: Any, /) -> Value:
    """Return the member of a value, or why there is none."""
    try:
        return encode_field(name, value)
    except ValueError as error:
        return error


@dataclass(slots=True)
class HeldFields:
    """Fields that were read beside their images, until they are asked for."""

    _rows: dict[int, dict[str, Value]] = field(default_factory=dict)

    def keep(self, row: int, values: dict[str, Value], /) -> None:
        """Keep the fields of a row."""
        if values:
            self._rows[row] = values

    def take(self, row: int, name: str, read: Callable[[], object], /) -> bytes | None:
        """Give a field of a row away; `read` keeps the fields of the row where they are not here.

        Raises:
            ValueError: It cannot be read or stored.
        """
        if name not in self._rows.get(row, ()):
            read()
        values = self._rows.get(row, {})
        found = values.pop(name, None)
        if not values:
            self._rows.pop(row, None)
        if isinstance(found, ValueError):
            raise found
        return found
