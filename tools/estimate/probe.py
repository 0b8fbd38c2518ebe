"""Short rehearsals of a job's own code in a folder of its own, without torch: packing and indexing need none.

A probe takes at most a tenth of what it finds the job to take (`SHARE`; half a second at least, for less tells nothing)
and at most `LIMIT`; all probes together end with the dry run, after `MOST`. A probe asks `allowed` after each unit of
work; where one unit is longer than all of that, `alarm` ends it.
"""

import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType

from drawstream.tools.cli.signals import must_be_finished

__all__ = ["LIMIT", "MOST", "Enough", "alarm", "allowed", "left", "limited", "rehearsed"]

LIMIT = 3.0  # seconds of a probe, after the first steps
MOST = 15.0  # seconds of a dry run; with imports, which come before, it stays below 20
SHARE = 0.1  # of the time that a job is found to take
LEAST = 0.5  # seconds of a probe, however short the job is
AGAIN = 0.05  # seconds after which an alarm rings again that met what must be finished

_ends: list[float] = []  # when the dry run under way ends


class Enough(BaseException):
    """Ends a rehearsal; no handler of the job takes it for an error of its own."""


@contextmanager
def limited(seconds: float = MOST, /) -> Iterator[None]:
    """A dry run: what is within ends after `seconds`; one within another ends with it.

    Processes that step together must stop together: they ask each other (`Clock`), and no alarm ends one of them.

    Raises:
        Enough: The time was over before the work was.
    """
    if _ends:
        yield
        return
    _ends.append(time.perf_counter() + seconds)
    try:
        with nullcontext() if os.environ.get("WORLD_SIZE", "1") != "1" else alarm(seconds):
            yield
    finally:
        _ends.clear()


def left() -> float:
    """Seconds that the dry run under way still has; without one, as many as one has."""
    return max(0.0, _ends[0] - time.perf_counter()) if _ends else MOST


def allowed(estimated: float | None, /, limit: float) -> float:
    """Seconds that a probe may take.

    Args:
        estimated: What the job will take, as far as the probe knows, seconds; None where it does not.
        limit: Most of it.
    """
    share = limit if estimated is None else max(LEAST, SHARE * estimated)
    return min(limit, share, left())


@contextmanager
def alarm(seconds: float, /) -> Iterator[None]:
    """Raise `Enough` in the block after some seconds, also in the middle of a step; not in threads but the main one.

    An alarm around it rings when it is due, at once if that is meanwhile.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return

    def ring(_: int, frame: FrameType | None) -> None:
        if must_be_finished(frame):
            signal.setitimer(signal.ITIMER_REAL, AGAIN)
        else:
            rung.append(True)
            raise Enough

    rung: list[bool] = []
    began, usual = time.perf_counter(), signal.signal(signal.SIGALRM, ring)
    outer = signal.setitimer(signal.ITIMER_REAL, max(seconds, 1e-3))[0]
    try:
        yield
    except Exception as error:
        if rung:  # imports of extension modules make another error of it
            raise Enough from error
        raise
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, usual)
        if outer:
            signal.setitimer(signal.ITIMER_REAL, max(outer - (time.perf_counter() - began), 1e-3))


@contextmanager
def rehearsed(out: Path, names: Sequence[str] = (), /) -> Iterator[Path]:
    """A temporary folder in place of `out`, with copies of what the job would find there.

    Errors that name the temporary folder name `out` instead.

    Args:
        out: Folder of the job.
        names: Patterns of the files that it looks at when it starts.
    """
    with TemporaryDirectory(prefix="drawstream-dry-run-") as name:
        scratch = Path(name)
        for found in (path for pattern in names for path in out.glob(pattern)):
            shutil.copy2(found, scratch / found.name)
        try:
            yield scratch
        except ValueError as error:
            if str(scratch) not in str(error):
                raise
            error.args = (str(error).replace(str(scratch), str(out)),)
            raise
