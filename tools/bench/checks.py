"""Checks of a grid, made before anything runs."""

from collections.abc import Collection, Sequence
from typing import Any


def check_names(name: str, given: Sequence[str], known: Collection[str], /) -> None:
    """Refuse unknown names, an empty list, and a name that stands twice (ValueError)."""
    unknown = [each for each in given if each not in known]
    if unknown:
        raise ValueError(f"unknown {name} {', '.join(map(repr, unknown))}: give some of {', '.join(known)}")
    check_distinct(**{name: given})


def check_distinct(**given: Sequence[Any]) -> None:
    """Refuse lists that are empty or hold a value twice (ValueError)."""
    for name, values in given.items():
        if not values or len(set(values)) < len(values):
            raise ValueError(f"{name} must be given and differ, but got {list(values)}")


def check_noise(noise: Sequence[float | str], seeds: Sequence[int], /) -> None:
    """Refuse shares of wrong labels outside [0, 1), negative seeds, and either twice or not at all (ValueError)."""
    check_distinct(noise=noise, seeds=seeds)
    if not all(isinstance(level, str) or 0 <= level < 1 for level in noise) or min(seeds) < 0:
        raise ValueError(f"`0 <= noise < 1` and `seeds >= 0` must hold, but got {list(noise)} and {list(seeds)}")
