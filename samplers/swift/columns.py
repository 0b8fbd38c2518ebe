"""Named feature columns: taken by name, checked, and given back as plain float arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from drawstream.samplers.arguments import to_vector

SINGLE = ("bool", "int8", "uint8", "int16", "uint16", "float16", "float32")  # exact in float32


def numeric_column(columns: Mapping[str, ArrayLike], name: str, /) -> NDArray[np.floating]:
    """One column (rows,) as contiguous float32 where that is exact by type, else as float64.

    Raises:
        TypeError: It is no column of numbers at all.
        ValueError: The column is missing, not one-dimensional, not numeric, empty, or holds NaN or infinity.
    """
    if name not in columns:
        raise ValueError(f"no column {name!r}: the table has {', '.join(sorted(columns)) or 'no columns'}")
    given = to_vector(columns[name], f"values of column {name!r}", by_position=True)
    if given.ndim != 1:
        raise ValueError(f"column {name!r} must be one value per row, but its shape is {given.shape}")
    if not given.size:
        raise ValueError(f"column {name!r} is empty: a sampler needs at least one row")
    values: NDArray[np.floating] = np.ascontiguousarray(given, np.float32 if given.dtype.name in SINGLE else np.float64)
    finite = np.isfinite(values)
    if not finite.all():
        first = int(np.argmin(finite))
        bad = values.size - int(finite.sum())
        raise ValueError(
            f"column {name!r} must be finite, but {bad} of {values.size} rows are not, the first at row {first} "
            f"({values[first]}): drop those rows or compute the feature again"
        )
    return values


def numeric_columns(columns: Mapping[str, ArrayLike], names: Sequence[str], /) -> list[NDArray[np.floating]]:
    """Several columns of one length, as `numeric_column` gives each.

    Raises:
        ValueError: As `numeric_column`, or the columns differ in length.
    """
    taken = [numeric_column(columns, name) for name in names]
    if len({values.size for values in taken}) > 1:
        sizes = ", ".join(f"{name!r} {values.size}" for name, values in zip(names, taken, strict=True))
        raise ValueError(f"columns of one table must have one value per row each, but their lengths are {sizes}")
    return taken


def gradient_mass(values: NDArray[np.floating], name: str, /) -> NDArray[np.float64]:
    """A finite column of gradient norms (rows,) as float64, checked to be a mass: none negative, not all zero.

    Raises:
        ValueError: A value is negative, or all are zero.
    """
    if (values < 0).any():
        first = int(np.argmax(values < 0))
        bad = int((values < 0).sum())
        raise ValueError(
            f"column {name!r} must hold gradient norms >= 0, but {bad} of {values.size} rows are negative, the "
            f"first at row {first} ({values[first]})"
        )
    if not values.any():
        raise ValueError(
            f"column {name!r} is zero in all {values.size} rows, so there is no gradient mass to accumulate: "
            'use transform="cdf", or another mass column'
        )
    return values.astype(np.float64)
