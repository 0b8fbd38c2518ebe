"""Named feature columns, of memory or block after block: taken by name and checked."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from drawstream.samplers import to_vector

__all__ = ["Blocks", "columns_of", "gradient_mass", "numeric_columns", "require_mass"]

_SINGLE = ("bool", "int8", "uint8", "int16", "uint16", "float16", "float32")  # exact in float32

Blocks = Callable[..., Iterable[Mapping[str, NDArray[np.float32]]]]
"""Named columns, block by block, anew at every call: `FeatureTable.blocks`."""


def numeric_columns(columns: Mapping[str, ArrayLike], names: Sequence[str], /) -> list[NDArray[np.floating]]:
    """Return columns (rows,) of one length as contiguous float32 where that is exact by type, else as float64.

    Raises:
        TypeError: One is no column of numbers at all.
        ValueError: One is missing, not one-dimensional, not numeric, empty, or holds NaN or infinity; or they differ in
            length.
    """
    taken = [_numeric(columns, name) for name in names]
    _require_one_length(taken, names, "one table")
    return taken


def _numeric(columns: Mapping[str, ArrayLike], name: str) -> NDArray[np.floating]:
    if name not in columns:
        raise ValueError(f"no column {name!r}: the table has {', '.join(sorted(columns)) or 'no columns'}")
    given = to_vector(columns[name], f"values of column {name!r}", by_position=True)
    if given.ndim != 1:
        raise ValueError(f"column {name!r} must be one value per row, but its shape is {given.shape}")
    if not given.size:
        raise ValueError(f"column {name!r} is empty: a sampler needs at least one row")
    values: NDArray[np.floating] = np.ascontiguousarray(
        given, np.float32 if given.dtype.name in _SINGLE else np.float64
    )
    _require(np.isfinite(values), values, f"column {name!r} must be finite", 0)
    return values


def columns_of(blocks: Blocks, names: Sequence[str], /) -> Iterator[tuple[int, list[NDArray[np.float32]]]]:
    """Yield the first row and the named columns of each block.

    Raises:
        ValueError: A column is missing, not float32 (rows,), not finite, or of another length than the rest.
    """
    start = 0
    for block in blocks(*names):
        for name in names:
            if name not in block:
                raise ValueError(f"no column {name!r} in a block: it has {', '.join(block) or 'no columns'}")
            if block[name].dtype != np.float32 or block[name].ndim != 1:
                found = f"{block[name].dtype} {block[name].shape}"
                raise ValueError(f"column {name!r} of a block must be float32 (rows,), but is {found}")
        columns = [np.ascontiguousarray(block[name]) for name in names]
        _require_one_length(columns, names, "a block")
        for name, values in zip(names, columns, strict=True):
            _require(np.isfinite(values), values, f"column {name!r} must be finite", start)
        yield start, columns
        start += columns[0].size


def gradient_mass(values: NDArray[np.floating], name: str, /, *, start: int | None = None) -> NDArray[np.float64]:
    """Return a finite column of gradient norms (rows,), or the block of it from row `start` on, as float64.

    Raises:
        ValueError: A value is negative, or all of a column are zero.
    """
    _require(values >= 0, values, f"column {name!r} must hold gradient norms >= 0", start or 0)
    if start is None:
        require_mass(bool(values.any()), name, values.size)
    return values.astype(np.float64)


def require_mass(some: bool, name: str, rows: int, /) -> None:
    """Refuse a column of gradient norms that are all zero.

    Raises:
        ValueError: There is not some mass.
    """
    if not some:
        raise ValueError(
            f"column {name!r} is zero in all {rows} rows, so there is no gradient mass to accumulate: "
            'use transform="cdf", or another mass column'
        )


def _require_one_length(columns: Sequence[NDArray[np.floating]], names: Sequence[str], whole: str) -> None:
    if len({values.size for values in columns}) > 1:
        sizes = ", ".join(f"{name!r} {values.size}" for name, values in zip(names, columns, strict=True))
        raise ValueError(f"columns of {whole} must have one value per row each, but their lengths are {sizes}")


def _require(good: NDArray[np.bool_], values: NDArray[np.floating], law: str, start: int) -> None:
    """Refuse values that break a law, with the first row of them; `start` is the row of the first value."""
    if not good.all():
        first = int(np.argmin(good))
        raise ValueError(
            f"{law}, but row {start + first} is {values[first]} ({good.size - int(good.sum())} such of {good.size} "
            "rows): drop those rows or compute the feature again"
        )
