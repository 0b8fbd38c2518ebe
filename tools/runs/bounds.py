"""Bounds of every number that a command takes: beyond them no machine does the job, or a library fails.

What is too small for one job alone, the job says itself.
"""

from collections.abc import Iterator
from typing import Any

import typer

from drawstream.tools.runs.config import ConfigAnywhere

__all__ = ["BOUNDS", "Bounded", "check", "leaves", "numbers", "pair", "whole"]

_SEED = (0, 2**64 - 1)
_ROWS, _MANY, _SOME, _FEW = (0, 10**11), (0, 10**9), (0, 10**6), (0, 10**4)
BOUNDS: dict[str, tuple[float, float]] = {  # by parameter; of a comma list each number must keep them
    **dict.fromkeys(("seed", "seeds", "noise_seed", "crop_seed", "epoch"), _SEED),
    **dict.fromkeys(("rows", "draws", "window", "limit", "holdout"), _ROWS),
    **dict.fromkeys(("images", "reward_rows", "max_bad", "interval", "batch_size", "batch_sizes"), _MANY),
    **dict.fromkeys(("epochs", "trials", "warmup", "explore_after", "fine_tune_epochs", "first", "photos"), _SOME),
    **dict.fromkeys(("grad_memory", "kappa", "beta", "lr", "fine_tune_lr", "weight_decay", "confirm_top"), _SOME),
    **dict.fromkeys(("candidates", "batch", "confirm_seeds", "segments", "permutations", "crops", "crop_factor"), _FEW),
    **dict.fromkeys(("crop_scale", "crop_ratio", "noise", "label_noise", "min_ess", "budget", "budgets"), _FEW),
    **dict.fromkeys(("quality", "channels"), _FEW),
    **dict.fromkeys(("rounds", "population", "processes", "threads", "workers"), (1, 10**4)),
    "port": (0, 65535),
}


class Bounded(ConfigAnywhere):
    """The group of all commands; every number that one of them takes is held to its bounds."""

    def __init__(self, **given: Any) -> None:
        """Make it, as typer does."""
        super().__init__(**given)
        for _, command in leaves(self):
            for parameter in command.params:
                if parameter.name in BOUNDS and parameter.callback is None:
                    parameter.callback = _hold


def leaves(command: Any, above: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Name and command of all that do something."""
    if hasattr(command, "commands"):
        for name, each in command.commands.items():
            yield from leaves(each, (*above, name))
    else:
        yield " ".join(above), command


def _hold(_: typer.Context, parameter: Any, value: Any) -> Any:
    if isinstance(value, int | float):
        check(parameter.name, value, max(parameter.opts, key=len))
    return value


def check(name: str, value: float, /, option: str = "") -> None:
    """Refuse a number of a parameter that is out of bounds, or not a number.

    Raises:
        ValueError: It is; names the option.
    """
    low, high = BOUNDS[name.replace("-", "_")]
    if not low <= value <= high:
        law = ": 0 <= seed < 2**64 must hold" if "seed" in name else f" must be in [{low}, {high}]"
        raise ValueError(f"{option or '--' + name.replace('_', '-')}{law}, but got {value}")


def numbers(name: str, text: str, /) -> tuple[float, ...]:
    """Numbers of an option's comma list."""
    try:
        found = tuple(float(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"--{name} must be numbers separated by commas, but got {text!r}") from None
    for number in found if name.replace("-", "_") in BOUNDS else ():
        check(name, number)
    return found


def pair(name: str, text: str, /) -> tuple[float, float]:
    """Two numbers, from and to."""
    found = numbers(name, text)
    if len(found) != 2:
        raise ValueError(f"--{name} must be two numbers, from and to, but got {text!r}")
    return found[0], found[1]


def whole(name: str, text: str, /) -> list[int]:
    """Whole numbers of an option's comma list; 1e6 is one."""
    found = []
    for part in text.split(","):
        try:
            number = int(part) if part.strip().lstrip("+-").isdecimal() else float(part)
            if number != int(number):
                raise ValueError(part)
        except (ValueError, OverflowError):
            raise ValueError(f"--{name} must be whole numbers separated by commas, but got {text!r}") from None
        check(name, number)
        found.append(int(number))
    return found
