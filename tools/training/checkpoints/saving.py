"""When a training writes checkpoints between the ends of its epochs, and how it ends early."""

import re
import signal
from dataclasses import dataclass
from typing import Self

GO_ON = 75  # exit status of a training that saved and would go on: EX_TEMPFAIL of sysexits.h, "try again later"
_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0}
_TIME = re.compile(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s)?")


class Stopped(SystemExit):
    """A training that ended early, with a checkpoint; starting it again goes on.

    Attributes:
        text: One line: why it ended, where it stands.
    """

    def __init__(self, status: int, text: str) -> None:
        super().__init__(status)
        self.text = text

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True, kw_only=True)
class Saving:
    """When to write checkpoints between the ends of epochs.

    Attributes:
        seconds: After so many seconds since the last checkpoint; None: never.
        steps: After so many steps since the last checkpoint; None: never.
        longest: Seconds since the start of the process after which the training saves and ends; None: it goes on.
        signals: On SIGTERM and SIGUSR1 save and end: `Stopped` is raised.
    """

    seconds: float | None = None
    steps: int | None = None
    longest: float | None = None
    signals: bool = False

    @property
    def asks(self) -> bool:
        """Whether a clock or a signal may ask, on which ranks have to agree."""
        return self.signals or self.seconds is not None or self.longest is not None

    @classmethod
    def of(cls, every: str | None, longest: str | None, /, *, signals: bool) -> Self:
        """Return what `--save-every` and `--max-time` say.

        Args:
            every: A time as `10m`, or a number of steps as `500`; None: at the ends of epochs alone.
            longest: A time as `3h30m`.
            signals: As the attribute.

        Raises:
            ValueError: A text is neither, or is 0.
        """
        steps = int(every) if every is not None and every.isdecimal() else None
        if steps == 0:
            raise ValueError("`--save-every` must be at least one step, but got 0: leave it out for the ends of epochs")
        seconds = (
            None if every is None or steps is not None else seconds_of(every, "--save-every", "10m, or steps, 500")
        )
        limit = None if longest is None else seconds_of(longest, "--max-time", "3h30m")
        return cls(seconds=seconds, steps=steps, longest=limit, signals=signals)


AFTER_EPOCHS = Saving()


def seconds_of(text: str, option: str, example: str, /) -> float:
    """Return the seconds of a time as `3h30m`, `10m` or `90s`.

    Raises:
        ValueError: It is none, or 0.
    """
    found = _TIME.fullmatch(text)
    seconds = sum(float(n or 0) * unit for n, unit in zip(found.groups(), _UNITS.values(), strict=True)) if found else 0
    if seconds <= 0:
        raise ValueError(f"`{option}` must be a time as {example}, but got {text!r}")
    return seconds


def status_of(number: int, /) -> int:
    """Return the exit status after a signal: 143 after SIGTERM; SIGUSR1 announces the end of the time, as SLURM's."""
    return GO_ON if number == signal.SIGUSR1 else 128 + number
