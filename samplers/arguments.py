"""Numbers, columns and groups of options that users give.

Numbers and columns are of any library, and become plain Python and NumPy.

No library is imported: tensors, Series and Arrow arrays are known by the methods they have.
"""

import inspect
import math
import numbers
import operator
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import fields
from decimal import Decimal
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import numpy as np
from numpy.typing import NDArray

__all__ = ["check_groups", "to_vector", "whole_number"]

P = ParamSpec("P")
Result = TypeVar("Result")


def whole_number(value: Any, name: str, /) -> int:
    """Return a whole number of any integer type, also a tensor of one element, as an `int`; messages call it `name`.

    Raises:
        TypeError: It is a bool, a float (2.0 too) or no number.
    """
    try:
        if not isinstance(value, bool) and "bool" not in str(getattr(value, "dtype", "")):
            return operator.index(value)
    except TypeError:
        pass
    raise TypeError(f"{name} must be a whole number, but got {_kind(value)} {value!r}: give an int")


def check_groups(
    renamed: Mapping[str, str], moved: Mapping[str, str] | None = None, /, **groups: type
) -> Callable[[Callable[P, Result]], Callable[P, Result]]:
    """Return a decorator that checks arguments which group options, and says where an option given beside them belongs.

    Args:
        renamed: Former names of options, and their names in the groups.
        moved: Former options that are in no group, and the message for each.
        **groups: Name of the argument, and the dataclass that it must be.
    """
    hints, former = dict(moved or {}), {new: old for old, new in renamed.items()}
    for name, kind in groups.items():
        for field in fields(kind):
            hint = f"is an option of {kind.__name__}: give `{name}={kind.__name__}({field.name}=…)`"
            hints |= {option: f"`{option}` {hint}" for option in (field.name, former.get(field.name, field.name))}

    def decorate(function: Callable[P, Result]) -> Callable[P, Result]:
        order = list(inspect.signature(function).parameters)

        @wraps(function)
        def checked(*args: P.args, **options: P.kwargs) -> Result:
            for option in options:
                if option in hints and option not in order:
                    raise TypeError(hints[option])
            for name, value in (dict(zip(order, args, strict=False)) | options).items():
                if name in groups and not isinstance(value, groups[name]):
                    kind = groups[name].__name__
                    got = f"{_kind(value)} {value!r}"
                    raise TypeError(f"`{name}` must be a {kind}, but got {got}: give `{name}={kind}(…)`")
            return function(*args, **options)

        return checked

    return decorate


def to_vector(values: Any, name: str, /, *, by_position: bool = False) -> NDArray[Any]:
    """Return a column as a NumPy array of numbers; the caller checks its shape.

    Args:
        values: Numbers (rows,): a list; a NumPy, Arrow or DLPack array; a tensor of any dtype on any device; a pandas
            or polars Series. Taken by position, and copied only where needed.
        name: What messages call the values, a plural.
        by_position: Take a pandas Series whose index is not 0, 1, 2, …, too.

    Raises:
        TypeError: Not such a column.
        ValueError: A value that is no number or masked; a pandas Series with an index of its own.
    """
    _require_column(values, name)
    if not by_position and hasattr(type(values), "iloc"):
        _require_plain_index(values, name)
    array = _to_array(values, name)
    if np.ma.is_masked(array):
        row = int(np.argmax(np.ma.getmaskarray(array)))
        raise ValueError(f"{name} must be numeric, but row {row} is masked: fill it, or leave the row out")
    if array.dtype.kind in "biuf":
        return np.asarray(array)
    if array.dtype.kind == "V" and "float" in array.dtype.name:  # bfloat16 of ml_dtypes
        return array.astype(np.float32)
    if array.dtype.kind not in "OSTU":
        raise ValueError(f"{name} must be numeric, but their type is {array.dtype}: give a number for each row")
    return _numbers(values if isinstance(values, list | tuple) else list(array), name)


def _require_column(values: Any, name: str) -> None:
    """Refuse what holds no numbers in a fixed order, with what to do."""
    if hasattr(type(values), "columns") or getattr(getattr(values, "dtype", None), "names", None):
        raise TypeError(f"{name} must be one column, but got {_kind(values)}: choose one, as table['weight']")
    ordered = isinstance(values, Sequence) and not isinstance(values, str | bytes | bytearray)
    if isinstance(values, Mapping | Set) or not (
        ordered or hasattr(values, "__array__") or hasattr(values, "__dlpack__") or hasattr(values, "detach")
    ):
        raise TypeError(f"{name} must be numbers (rows,), but got {_kind(values)}: give a list or an array")


def _require_plain_index(series: Any, name: str) -> None:
    if not np.array_equal(np.asarray(series.index), np.arange(len(series))):
        raise ValueError(
            f"{name} are taken by position, but the index of this Series is not 0, 1, 2, …: sort it into the order of "
            "the rows, then pass .to_numpy()"
        )


def _to_array(values: Any, name: str) -> NDArray[Any]:
    try:
        if hasattr(values, "detach"):  # a tensor
            values = values.detach().cpu().to_dense()
            try:
                return np.asarray(values)
            except TypeError:  # bfloat16 and the like
                return np.asarray(values.float())
        if not isinstance(values, Sequence) and not hasattr(values, "__array__"):
            return np.from_dlpack(values)
        return np.asanyarray(values)
    except Exception as error:  # of somebody else's library: whatever it raises
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise TypeError(f"{name} cannot be read from a {_kind(values)} ({reason}): give a list or an array") from None


def _numbers(items: Any, name: str) -> NDArray[np.float64]:
    """Python objects as float64 (rows,); beyond its range infinite."""
    found: NDArray[np.float64] = np.empty(len(items))
    for row, item in enumerate(items):
        if not isinstance(item, numbers.Real | Decimal | np.bool_):
            shown = str(item) if isinstance(item, np.ndarray | np.generic) else item
            raise ValueError(f"{name} must be numeric, but row {row} is {shown!r}: give a number for each row")
        try:
            found[row] = float(item)
        except OverflowError:
            found[row] = math.inf
    return found


def _kind(value: Any) -> str:
    kind = type(value)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
