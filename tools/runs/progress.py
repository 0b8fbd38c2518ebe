"""Progress of long work: a bar on a terminal, plain lines in a log."""

import sys
import threading
import time
from collections.abc import Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from drawstream.pipeline.shards import printable

if TYPE_CHECKING:
    from drawstream.features.table import FeatureTable

EVERY = 10.0  # seconds between lines in a log
SILENCE = 30.0  # seconds without a line in a log, at most: an epoch of ImageNet takes hours


class Progress:
    """Shows how far a job is, on stderr; `quiet` shows nothing (all ranks but the first).

    >>> with Progress("features", "rows") as progress:
    ...     progress.update(128, 1000)
    """

    def __init__(self, title: str, unit: str, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._title, self._unit = title, unit
        self._begin = self._printed = time.monotonic()
        self._phase: tuple[float, float] = (0.0, 0)  # when the phase began, and what was done by then
        self._state: tuple[float, int] = (0, 0)
        self._note = ""
        self._over = threading.Event()
        self._alive: threading.Thread | None = None
        self._bar: Bar | None = None
        if sys.stderr.isatty() and not quiet:
            texts = [TextColumn(f"{{task.{name}}}") for name in ("description", "fields[rate]", "fields[note]")]
            columns = (texts[0], BarColumn(), MofNCompleteColumn(), *texts[1:], TimeRemainingColumn())
            self._bar = Bar(*columns, console=Console(stderr=True), transient=True)
            self._task = self._bar.add_task(title, total=None, rate="", note="")

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        elif not self._quiet:
            self._alive = threading.Thread(target=self._say_so, daemon=True)
            self._alive.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: TracebackType | BaseException | None) -> None:
        self._over.set()
        if self._alive is not None:
            self._alive.join()
        if self._bar is not None:
            self._bar.stop()
        if kind is None and self._state[1]:
            seconds = time.monotonic() - self._begin
            self._line(f"{_number(self._state[0])} {self._unit} in {seconds:.1f} s{self._note}")

    def update(self, done: float, total: int, note: str = "") -> None:
        """Say that `done` of `total` units are finished; a part of one is a fraction."""
        now = time.monotonic()
        # a new phase has its own rate; what a resumed job finds finished took no time
        if total != self._state[1] or done < self._state[0]:
            self._phase = (now, done)
        self._state, self._note = (done, total), f", {note}" if note else ""
        begin, before = self._phase
        rate = (done - before) / max(now - begin, 1e-9)
        if self._bar is not None:
            shown = self._speed(rate).removeprefix(", ")
            self._bar.update(self._task, completed=done, total=total, rate=shown, note=note)
            return
        if now - self._printed >= EVERY:
            self._printed = now
            left = f", {(total - done) / rate:.0f} s left" if rate > 0 else ""
            self._line(f"{_number(done)} of {total} {self._unit}{self._speed(rate)}{left}{self._note}")

    def _say_so(self) -> None:
        """Break a long silence: a job whose units take minutes is at work, not stuck."""
        while not self._over.wait(SILENCE / 10):
            now = time.monotonic()
            if now - self._printed >= SILENCE:
                self._printed = now
                done, total = self._state
                so_far = f"{_number(done)} of {total} {self._unit}, " if total else ""
                self._line(f"{so_far}at work for {now - self._begin:.0f} s{self._note}")

    def _speed(self, rate: float) -> str:
        """Units per second; where one takes longer than that, the time left says enough."""
        return f", {rate:,.0f} {self._unit}/s" if rate >= 1 else ""

    def _line(self, text: str) -> None:
        if not self._quiet:
            print(f"{self._title}: {text}", file=sys.stderr, flush=True)


def _number(done: float) -> str:
    return str(done) if isinstance(done, int) else f"{done:.2f}"


def notes_of(table: "FeatureTable") -> list[str]:
    """Return what was assumed of the joined files, or left out of them."""
    return [note for joined in table.joined for note in joined.notes]


def tell_notes(notes: Iterable[str]) -> None:
    """Say what was assumed of the user's files, or left out of them."""
    for note in notes:
        print(printable(f"note: {note}"), file=sys.stderr, flush=True)
