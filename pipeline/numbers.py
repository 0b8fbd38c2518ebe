"""Whole numbers that users give, within their bounds."""

from typing import SupportsIndex

from drawstream.samplers import whole_number

MOST = 1 << 24  # images of a batch, threads: DALI makes something for each of them


def whole(name: str, value: SupportsIndex, /, *, least: int, below: int | None = None) -> int:
    """Return a whole number of any integer type as an int.

    Raises:
        TypeError: It is of another type; a bool is one.
        ValueError: Not `least` <= number < `below`.
    """
    number = whole_number(value, f"`{name}`")
    if number < least:
        raise ValueError(f"`{name} >= {least}` must hold, but got {number}")
    if below is not None and number >= below:
        raise ValueError(f"`{name} < {below}` must hold, but got {number}")
    return number
