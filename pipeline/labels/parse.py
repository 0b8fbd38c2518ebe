"""The label of one sample, as a text, a JSON value or an array says it.

====== ====================================== ==================================================================
kind   Python                                 written as
====== ====================================== ==================================================================
class  int or str                             a number or a name
multi  tuple of int or of str, or bytes       names or numbers, in a list or with ``;`` between; bytes: 0 or 1 of
       of 0 and 1                             every class, from an array of booleans or uint8
value  tuple of float                         a number or a list of numbers
====== ====================================== ==================================================================
"""

import json
import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drawstream.pipeline.labels.kinds import Kind, value_names
from drawstream.pipeline.shards import check_name, number_names, shortened
from drawstream.samplers import DrawstreamError

Label = int | str
Marks = tuple[Label, ...] | bytes
Values = tuple[float, ...]
_INTEGER = re.compile(r"[+-]?[0-9]{1,4000}")
_LAW = "must hold a class number or name"
_REMEDY = (
    "give one whole number or a name, choose another source with --label, say that there are several or that they are "
    "values (--label-kind multi, value), or index without labels (--label none)"
)
_VALUES = "repair it, or choose another source with --label"
_APART = re.compile(r"[;,\n\t]")  # of several labels in a text; names may have blanks
_LARGEST = float(np.finfo(np.float32).max)
_NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?%?|0[xX][0-9a-fA-F]+")
_BETWEEN = re.compile(r"[\s,;:/|()]+")  # numbers of a list, a tuple, a ratio, a time
_MISSING = re.compile(r"(?i:[+-]?nan|none|null|nil|undefined|n/a|<na>)|NA|NaT")
_VALUE = re.compile(  # JSON, or what a program prints
    r"(?i:true|false|[+-]?inf(inity)?)|\[.*\]|\{.*\}|[bru]{0,2}([\"']).*\2|(tensor|array|(np|numpy)\.\w+)\(.*\)"
)


class EmptySampleError(DrawstreamError):
    """A sample that has no image, or no label."""


def as_label(value: Any, where: str, raw: bytes) -> Label:
    """Return a class number or name.

    Raises:
        EmptySampleError: Nothing there, or a missing value.
        ValueError: Neither a number nor a name.
    """
    value = value.strip() if isinstance(value, str) else value
    if value is None or value == "":
        raise EmptySampleError(f"{where} {_LAW}, but got {raw[:40]!r}: repair it, or leave it out (--skip-empty)")
    if value != value or (isinstance(value, str) and _MISSING.fullmatch(value)):  # NaN
        got = repr(value) if isinstance(value, str) else "NaN"
        remedy = "repair it (a class of that name needs another one), or leave such samples out (--skip-empty)"
        raise EmptySampleError(f"{where} {_LAW}, but got {got}, a missing value: {remedy}")
    if isinstance(value, str) and _INTEGER.fullmatch(value):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError(f"{where} {_LAW}, but got {json.dumps(value)[:60]}: {_REMEDY}")
    if isinstance(value, str):
        parts = [part for part in _BETWEEN.split(value) if part]
        if "\n" in value or _VALUE.fullmatch(value) or (parts and all(map(_NUMBER.fullmatch, parts))):
            raise ValueError(f"{where} {_LAW}, but got {shortened(value[:60])}: {_REMEDY}")
        check_name(value, what=where, remedy="repair it, or choose another source with --label")
        return value
    if value < 0:
        law = f"{where}: class numbers must be at least 0, but got {str(value)[:40]}"
        raise ValueError(f"{law}: number the classes from 0, or index without labels (--label none)")
    if value >= 1 << 63:
        raise ValueError(f"{where} must be a class number below 2⁶³, but got {str(value)[:40]}: repair it")
    return value


def as_marks(value: Any, where: str, raw: bytes) -> Marks:
    """Return the classes that a sample has, none of them too: names or numbers; of 0 and 1 for every class, bytes.

    Raises:
        EmptySampleError: Nothing there; a sample of no class has an empty list.
        ValueError: No names or numbers.
    """
    if isinstance(value, np.ndarray):
        if value.ndim == 1 and (value.dtype == np.bool_ or (value.dtype == np.uint8 and (value <= 1).all())):
            return value.astype(np.uint8).tobytes()
        value = value.tolist()
    if isinstance(value, str) and _APART.search(value.strip()):
        value = [part for part in _APART.split(value.strip()) if part.strip()]
    if isinstance(value, list) and value and all(isinstance(each, bool) for each in value):
        return bytes(value)
    parts = value if isinstance(value, list) else [value]
    return tuple(as_label(part, where, raw) for part in parts)


def as_values(value: Any, where: str, raw: bytes) -> Values:
    """Return the numbers of a sample, as float32 holds them.

    Raises:
        EmptySampleError: Nothing there, or a missing value.
        ValueError: Something else than numbers.
    """
    law = f"{where} must hold a number or a list of numbers"
    value = value.tolist() if isinstance(value, np.ndarray) else value
    if isinstance(value, str):
        value = [part for part in re.split(r"[\s,;]+", value) if part]
    parts = value if isinstance(value, list) else [value]
    if not parts or None in parts or "" in parts:
        raise EmptySampleError(f"{law}, but got {raw[:40]!r}: repair it, or leave it out (--skip-empty)")
    try:
        if any(isinstance(part, bool | list | dict) for part in parts):
            raise ValueError("no number")
        numbers = tuple(float(part) for part in parts)
    except ValueError:
        raise ValueError(f"{law}, but got {raw[:40]!r}: {_VALUES}") from None
    if any(map(math.isnan, numbers)):
        raise EmptySampleError(f"{law}, but got NaN, a missing value: repair it, or leave it out (--skip-empty)")
    if any(abs(number) > _LARGEST for number in numbers):
        raise ValueError(f"{law} within float32, but got {raw[:40]!r}: scale the values")
    return numbers


def as_class(value: Any, where: str, raw: bytes) -> Label:
    """Return a class number or name; errors as `as_label`."""
    if isinstance(value, np.ndarray):
        value = value.item() if value.size == 1 else value.tolist()
    return as_label(value, where, raw)


PARSERS: dict[Kind, Callable[[Any, str, bytes], Any]] = {"class": as_class, "multi": as_marks, "value": as_values}


class RowError(DrawstreamError):
    """A label that does not go with the others; ``row`` is its row."""

    def __init__(self, row: int, text: str) -> None:
        super().__init__(text)
        self.row = row


def marks_array(labels: Sequence[Marks], names: Sequence[str] | None, /) -> tuple[tuple[str, ...], NDArray[np.uint8]]:
    """Return class names, and labels of the kind ``multi``, uint8 (rows, classes).

    Lists of one length, at least 2, that hold 0 and 1 alone are one number of each class, not class numbers.

    Args:
        labels: Of every row.
        names: Class names; None: the names found, sorted, or the numbers.

    Raises:
        RowError: A label of another form than the first, or of a class that is not named.
    """
    lengths = {len(each) for each in labels}
    flat = all(isinstance(each, bytes) or set(each) <= {0, 1} for each in labels) and len(lengths) == 1
    if flat and (max(lengths) > 1 or isinstance(labels[0], bytes)):
        array = np.array([list(each) for each in labels], np.uint8)
        return tuple(names) if names else tuple(map(str, range(array.shape[1]))), array
    odd = next((row for row, each in enumerate(labels) if isinstance(each, bytes)), None)
    if odd is not None:
        raise RowError(odd, f"0 and 1 of every class must be there in every row, of one length, but got {lengths}")
    pairs = [(row, each) for row, found in enumerate(labels) for each in found]
    kinds = {type(each) for _, each in pairs}
    if len(kinds) > 1:
        row, each = next(pair for pair in pairs if type(pair[1]) is not type(pairs[0][1]))
        raise RowError(row, f"labels must all be numbers or all be names, but got {each!r} after {pairs[0][1]!r}")
    if not pairs:
        raise RowError(0, "no row has a label: give the classes of each, or index without labels (--label none)")
    if names is None:
        found = {each for _, each in pairs}
        largest = max((each for each in found if isinstance(each, int)), default=0)
        names = number_names(largest, len(labels)) if kinds == {int} else sorted(map(str, found))
    number: dict[Label, int] = {name: c for c, name in enumerate(names)}
    array = np.zeros((len(labels), len(names)), np.uint8)
    for row, each in pairs:
        c = each if isinstance(each, int) else number.get(each, -1)
        if not 0 <= c < len(names):
            raise RowError(row, f"label must be one of {len(names)} classes, but got {each!r}: give more class names")
        array[row, c] = 1
    return tuple(names), array


def values_array(
    labels: Sequence[Values], names: Sequence[str] | None, /
) -> tuple[tuple[str, ...], NDArray[np.float32]]:
    """Return names of the values, and labels of the kind ``value``, float32 (rows, values).

    Raises:
        RowError: A row has another number of values than the first, or than there are names.
    """
    due = len(names) if names else len(labels[0])
    for row, each in enumerate(labels):
        if len(each) != due:
            raise RowError(row, f"every row must have {due} values, but this one has {len(each)}: repair it")
    return tuple(names) if names else value_names(due), np.array(labels, np.float32)


def says_other(label: Any, row: NDArray[Any], names: Sequence[str], /) -> str:
    """Return what a shard's label of a row says, if it is not what the catalog says; else nothing.

    Args:
        label: Of the row, as `PARSERS` give it.
        row: The catalog's, of the kind multi or value: (columns,).
        names: The catalog's classes.
    """
    if row.dtype == np.uint8:
        own = {c for c, mark in enumerate(row) if mark}
        marks = len(label) == len(row) and set(label) <= {0, 1} and list(label) == row.tolist()
        same = marks or (isinstance(label, tuple) and {own_number(each, names) for each in label} == own)
    else:
        same = np.array_equal(np.array(label, np.float32), row)
    return "" if same else repr(list(label))[:60]


def own_number(label: Label, names: Sequence[str]) -> int:
    """Return the number of a class that is given by number or name; -1 if there is none."""
    return label if isinstance(label, int) else names.index(label) if label in names else -1
