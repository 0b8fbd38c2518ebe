"""The kinds of labels, and arrays of each.

====== ================== =================================================================
class  int64 (rows,)      number of the class, 0 … C − 1
multi  uint8 (rows, C)    1 where a sample has the label, else 0
value  float32 (rows, k)  numbers, for regression
none   int64 (rows, 0)    samples have no labels: no value, but one shape for all that reads it
====== ================== =================================================================

An array says its kind by its type and shape.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Kind = Literal["class", "multi", "value", "none"]
KINDS: tuple[Kind, ...] = ("class", "multi", "value", "none")
TYPES: dict[Kind, np.dtype[Any]] = {
    "class": np.dtype(np.int64),
    "multi": np.dtype(np.uint8),
    "value": np.dtype(np.float32),
    "none": np.dtype(np.int64),
}
_CHOICE = "say which with --label-kind"


def kind_of(labels: NDArray[Any], /) -> Kind:
    """Return the kind of an array of labels as it is kept, see the table above."""
    if labels.ndim == 1:
        return "class"
    if labels.shape[1] == 0:
        return "none"
    return "multi" if labels.dtype == np.uint8 else "value"


def no_labels(rows: int, /) -> NDArray[np.int64]:
    """Return the labels of samples that have none: int64 (rows, 0)."""
    return np.zeros((rows, 0), np.int64)


def broken_law(labels: NDArray[Any], names: Sequence[str], /) -> str:
    """Return the law that labels as they are kept break, as a line; empty if they are sound."""
    kind, count = kind_of(labels), len(names)
    if kind == "class":
        known = labels.size == 0 or (labels.min() >= 0 and labels.max() < count)
        return "" if known else f"labels must lie in 0 … {count - 1}, but got {labels.min()} … {labels.max()}"
    if labels.shape[1] != count:
        return f"labels must have a column for each of {count} names, but have {labels.shape[1]}"
    if kind == "multi" and labels.size and labels.max() > 1:
        return f"labels of several classes must be 0 or 1, but got {labels.max()}"
    if kind == "value" and not np.isfinite(labels).all():
        row = int(np.flatnonzero(~np.isfinite(labels).all(axis=1))[0])
        return f"values must be finite float32, but row {row} has {labels[row].tolist()}"
    return ""


def as_kind(labels: Any, kind: Kind | None, /) -> tuple[NDArray[Any], str]:
    """Return labels of a user as they are kept, and a line that says the kind where it was guessed.

    Args:
        labels: Integers, booleans or floats, (rows,) or (rows, n); a column each of n classes or numbers.
        kind: What they are. None: integers (rows,) are classes; 0 and 1 (rows, n) are several classes of each row;
            floats are values. Where that may be wrong it must be said.

    Raises:
        ValueError: Another type or shape; values that cannot be of the kind; or an array of which no kind is likely.
    """
    array = np.asarray(labels)
    if kind == "none":
        return no_labels(len(array)), ""
    if array.dtype.kind not in "iubf" or array.ndim not in (1, 2) or 0 in array.shape[1:]:
        raise ValueError(f"labels must be integers (rows,), but got {array.dtype} {array.shape}: {_remedy(array)}")
    if kind is None:
        kind, told = _guessed(array)
        return _CONVERT[kind](array), told
    return _CONVERT[kind](array), ""


def _guessed(array: NDArray[Any]) -> tuple[Kind, str]:
    """Return the likely kind of numbers, and a line that says so where it is not the usual one."""
    got = f"{array.dtype} {array.shape}"
    if array.ndim == 1 and array.dtype.kind in "iu":
        return "class", ""
    if array.ndim == 2 and array.shape[1] > 1 and _are_marks(array):
        if (array.sum(axis=1) == 1).all():
            law = f"labels {got} have one 1 in each row: one class each (class), or several at once (multi)?"
            raise ValueError(f"{law} {_CHOICE}, or give the classes as argmax(1)")
        return "multi", f"labels {got} of 0 and 1 are taken as several classes of each row (--label-kind multi)"
    if array.dtype.kind == "f" and not (array.size and (array == np.floor(array)).all()):
        return "value", f"labels {got} have decimals: they are taken as values, for regression (--label-kind value)"
    law = f"labels must be integers (rows,), or it must be said what they are, but got {got}"
    remedy = "class numbers as integers (rows,), by reshape(-1) or astype(int)"
    raise ValueError(f"{law}: {_CHOICE} (class, multi, value), or give {remedy}")


def _remedy(array: NDArray[Any]) -> str:
    if array.dtype.kind == "O":
        return "they are Python objects: give numbers in an array of one type, such as np.array(labels, np.int64)"
    if array.dtype.kind in "US":
        return "number the classes from 0 by np.unique(labels, return_inverse=True)"
    return "give class numbers (rows,), or a column for each class or value (rows, n)"


def _are_marks(array: NDArray[Any]) -> bool:
    return bool(((array == 0) | (array == 1)).all())


def _as_classes(array: NDArray[Any]) -> NDArray[np.int64]:
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim == 2:
        if not (_are_marks(array) and (array.sum(axis=1) == 1).all()):
            raise ValueError(f"classes {array.shape} must have one 1 in each row: {_CHOICE}")
        array = array.argmax(axis=1)
    if array.dtype.kind == "f" and not (array == np.floor(array)).all():
        raise ValueError("class numbers must be whole, but some labels have decimals: are they values?")
    return array.astype(np.int64)


def _as_marks(array: NDArray[Any]) -> NDArray[np.uint8]:
    if array.ndim != 2 or not _are_marks(array):
        law = "labels of several classes must be 0 and 1 (rows, classes)"
        raise ValueError(f"{law}, but got {array.dtype} {array.shape}: make a column of 0 and 1 for each class")
    return array.astype(np.uint8)


def _as_values(array: NDArray[Any]) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(array.reshape(len(array), -1), np.float32)


_CONVERT: dict[Kind, Callable[[NDArray[Any]], NDArray[Any]]] = {
    "class": _as_classes,
    "multi": _as_marks,
    "value": _as_values,
}


def value_names(count: int, /) -> tuple[str, ...]:
    """Names of so many values that nobody named."""
    return ("value",) if count == 1 else tuple(f"value{i}" for i in range(count))
