"""Cost estimate of a long job: time, disk and memory by stage, each with its basis.

`--dry-run` opens and checks what the real run opens and checks, lets its own code work for some seconds in a temporary
folder (`probe`), and scales that up. Nothing is written beside that folder.

    seconds   None where a dry run cannot know it
    disk      bytes that stay in OUT
    spare     bytes that OUT's file system must hold besides while the stage runs: checkpoints, temporary names
    memory    bytes of the largest process, its mapped files included, at the end of the stage
"""

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from drawstream.tools.estimate.probe import MOST, Enough, limited
from drawstream.tools.runs.record import finish

__all__ = ["Estimate", "Stage", "budgeted", "resident", "tell"]

Given = ParamSpec("Given")


@dataclass(frozen=True, slots=True)
class Stage:
    """One part of a job."""

    name: str
    seconds: float | None
    disk: int
    memory: int
    basis: str
    spare: int = 0

    def times(self, count: int, why: str, /) -> "Stage":
        """The stage done so often, one after the other; what it needs besides, it needs once."""
        if count == 1:
            return self
        seconds = None if self.seconds is None else count * self.seconds
        return replace(self, seconds=seconds, disk=count * self.disk, basis=f"{why} × ({self.basis})")


@dataclass(frozen=True, slots=True)
class Estimate:
    """Estimated cost of a job.

    Attributes:
        job: Its command.
        out: Folder or file that it writes; None where it writes none.
        stages: In their order.
        notes: What is not in the numbers, what would be resumed or overwritten.
        took: Seconds of the dry run itself.
    """

    job: str
    out: Path | None
    stages: tuple[Stage, ...]
    notes: tuple[str, ...] = field(default=())
    took: float | None = None

    @property
    def seconds(self) -> float | None:
        """Return the seconds of all stages together; None if those of one stage are unknown."""
        known = [stage.seconds for stage in self.stages if stage.seconds is not None]
        return sum(known) if len(known) == len(self.stages) else None

    @property
    def disk(self) -> int:
        """Bytes that all stages leave in OUT."""
        return sum(stage.disk for stage in self.stages)

    @property
    def most_disk(self) -> int:
        """Bytes at the fullest moment."""
        left, most = 0, 0
        for stage in self.stages:
            left += stage.disk
            most = max(most, left + stage.spare)
        return most

    @property
    def memory(self) -> int:
        """Bytes of the largest stage."""
        return max((stage.memory for stage in self.stages), default=0)

    def warnings(self) -> list[str]:
        """Return a line for each limit of disk or memory that the job would exceed."""
        found = []
        if self.out is not None and self.most_disk > (free := shutil.disk_usage(standing(self.out)).free):
            found.append(f"{self.out} needs up to {size(self.most_disk)}, but its file system has {size(free)} free")
        available = available_memory()
        if available is not None and self.memory - resident() > available:
            found.append(f"the job needs up to {size(self.memory)} of memory, but {size(available)} are available")
        return found

    def as_dict(self) -> dict[str, Any]:
        """As `--json` writes it."""
        totals = {name: getattr(self, name) for name in ("seconds", "disk", "most_disk", "memory")}
        places = {
            "free_disk": None if self.out is None else shutil.disk_usage(standing(self.out)).free,
            "available_memory": available_memory(),
        }
        out = None if self.out is None else str(self.out)
        stages = [asdict(stage) for stage in self.stages]
        rest = {"notes": list(self.notes), "warnings": self.warnings()}
        return {
            "job": self.job,
            "dry_run": True,
            "took": self.took,
            "out": out,
            **totals,
            **places,
            "stages": stages,
            **rest,
        }

    def text(self) -> str:
        """The table, notes and warnings."""
        table = Table(box=SIMPLE, pad_edge=False)
        for name in ("stage", "time", "disk", "memory"):
            table.add_column(name, justify="left" if name == "stage" else "right", no_wrap=True)
        table.add_column("how it was got", overflow="fold")
        for each in self.stages:
            table.add_row(each.name, duration(each.seconds), size(each.disk), size(each.memory), each.basis)
        besides = self.most_disk - self.disk
        more = f"; while it runs {size(self.most_disk)} of disk" if besides > 0 else ""
        table.add_section()
        table.add_row("in all", duration(self.seconds), size(self.disk), size(self.memory), f"memory: the most{more}")
        console = Console(width=140, color_system=None)
        with console.capture() as captured:
            console.print(table)
        body = "\n".join(line.rstrip() for line in captured.get().strip("\n").splitlines())
        said = [f"note: {note}" for note in self.notes] + [f"warning: {warning}" for warning in self.warnings()]
        head = f"drawstream {self.job}: a dry run, nothing was written"
        head += "" if self.took is None else f"; it took {duration(self.took)}, imports aside"
        return "\n".join([head, body, *said])


def budgeted(job: str, /) -> Callable[[Callable[Given, Estimate]], Callable[Given, Estimate]]:
    """Decorate the estimate of a job: it says what it cost, and ends after `MOST` seconds whatever it is at."""

    def decorate(estimate: Callable[Given, Estimate]) -> Callable[Given, Estimate]:
        @wraps(estimate)
        def run(*args: Given.args, **kwargs: Given.kwargs) -> Estimate:
            begin = time.perf_counter()
            try:
                with limited():
                    found = estimate(*args, **kwargs)
            except Enough:
                basis = f"unknown: not known within {MOST:g} s, the most that a dry run takes"
                found = Estimate(job, None, (Stage(job, None, 0, resident(), basis),))
            return replace(found, took=time.perf_counter() - begin)

        return run

    return decorate


def tell(estimate: Estimate, json_path: Path | None) -> None:
    """Print an estimate, and write it as JSON where that is asked for."""
    finish(estimate.as_dict(), json_path, estimate.text())


def finished(job: str, record: Path, /) -> Estimate:
    """The estimate of a job that is finished already."""
    return Estimate(job, record.parent, (), (f"{record} is there: the job is finished, and would be read from it",))


def standing(path: Path) -> Path:
    """The nearest folder at or above a path that exists."""
    path = path.absolute()
    return next(each for each in (path, *path.parents) if each.exists())


def folder_size(folder: Path, names: Sequence[str] = ("*",)) -> int:
    """Bytes of the files below a folder that match one of the patterns."""
    files = {path for name in names for path in folder.rglob(name) if path.is_file() and not path.is_symlink()}
    return sum(path.stat().st_size for path in files)


def resident() -> int:
    """Most bytes that this process has held so far; 0 where the system does not say."""
    return _of("/proc/self/status", "VmHWM") or 0


def available_memory() -> int | None:
    """Bytes that this machine can give to processes; None where it does not say."""
    return _of("/proc/meminfo", "MemAvailable")


def _of(path: str, name: str) -> int | None:
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:")), None)


def size(count: int) -> str:
    """Bytes for people."""
    for unit, power in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= power:
            return f"{count / power:.3g} {unit}" if count < 1000 * power else f"{count / power:,.0f} {unit}"
    return f"{count} B" if count else "–"


def duration(seconds: float | None) -> str:
    """A time for people."""
    if seconds is None:
        return "unknown"
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02d} min"
