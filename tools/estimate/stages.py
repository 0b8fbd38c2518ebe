"""Estimated cost of a long job: time, disk and memory by stage, each with its basis.

The numbers of a stage:

seconds   None where a dry run cannot know it
disk      bytes that stay in OUT
spare     bytes that OUT's file system must hold besides while the job runs: checkpoints, temporary names
memory    bytes of the largest process at the end of the stage
"""

import resource
import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import psutil

from drawstream.tools.experiments import table_of
from drawstream.tools.runs import finish


@dataclass(frozen=True, slots=True)
class Stage:
    """One part of a job."""

    name: str
    seconds: float | None
    disk: int
    memory: int
    basis: str
    spare: int = 0

    def times(self, count: float, why: str, /) -> "Stage":
        """Return the stage done so often, one after the other; its spare disk is needed once."""
        if count == 1:
            return self
        seconds = None if self.seconds is None else count * self.seconds
        return replace(self, seconds=seconds, disk=round(count * self.disk), basis=f"{why} × ({self.basis})")


@dataclass(frozen=True, slots=True)
class Estimate:
    """Estimated cost of a job.

    Attributes:
        job: Its command.
        out: Folder or file that it writes.
        stages: In their order.
        notes: What is not in the numbers, what would be resumed or overwritten.
    """

    job: str
    out: Path
    stages: tuple[Stage, ...]
    notes: tuple[str, ...] = ()

    @property
    def seconds(self) -> float | None:
        """Seconds of all stages together; None if those of one stage are unknown."""
        known = [stage.seconds for stage in self.stages if stage.seconds is not None]
        return sum(known) if len(known) == len(self.stages) else None

    @property
    def disk(self) -> int:
        """Bytes that all stages leave in OUT."""
        return sum(stage.disk for stage in self.stages)

    @property
    def most_disk(self) -> int:
        """Bytes at the fullest moment."""
        return self.disk + max((stage.spare for stage in self.stages), default=0)

    @property
    def memory(self) -> int:
        """Bytes of the largest stage."""
        return max((stage.memory for stage in self.stages), default=0)

    def warnings(self) -> list[str]:
        """Return a line for each limit of disk or memory that the job would exceed."""
        found, free, available = [], free_disk(self.out), psutil.virtual_memory().available
        if self.most_disk > free:
            found.append(f"{self.out} needs up to {size(self.most_disk)}, but its file system has {size(free)} free")
        if self.memory - peak_rss() > available:
            found.append(f"the job needs up to {size(self.memory)} of memory, but {size(available)} are available")
        return found

    def as_dict(self) -> dict[str, Any]:
        """As `--json` writes it."""
        totals = {name: getattr(self, name) for name in ("seconds", "disk", "most_disk", "memory")}
        free = {"free_disk": free_disk(self.out), "available_memory": psutil.virtual_memory().available}
        told = {"stages": [asdict(stage) for stage in self.stages], "notes": list(self.notes)}
        return {"job": self.job, "dry_run": True, "out": str(self.out), **totals, **free, **told} | {
            "warnings": self.warnings()
        }

    def text(self) -> str:
        """Return the table, how its numbers were got, notes and warnings."""
        total = Stage("in all", self.seconds, self.disk, self.memory, "")
        columns = {
            "stage": lambda each: each.name,
            "time": lambda each: duration(each.seconds),
            "disk": lambda each: size(each.disk),
            "memory": lambda each: size(each.memory),
        }
        lines = [f"drawstream {self.job}: a dry run, nothing was written"]
        lines += [table_of([*self.stages, total], columns).text(), ""]
        lines += [f"{each.name}: {each.basis}" for each in self.stages]
        if self.most_disk > self.disk:
            lines.append(f"while it runs: {size(self.most_disk)} of disk")
        lines += [f"note: {note}" for note in self.notes] + [f"warning: {warning}" for warning in self.warnings()]
        return "\n".join(lines)


def tell(estimate: Estimate, json_path: Path | None) -> None:
    """Print an estimate, and write it as JSON where that is asked for."""
    finish(estimate.as_dict(), json_path, estimate.text())


def finished(job: str, record: Path, /) -> Estimate:
    """Return the estimate of a job that is finished already."""
    return Estimate(job, record.parent, (), (f"{record} is there: the job is finished, and would be read from it",))


def free_disk(path: Path, /) -> int:
    """Return the free bytes of the file system that holds a path, or will hold it."""
    path = path.absolute()
    return shutil.disk_usage(next(each for each in (path, *path.parents) if each.exists())).free


def folder_size(folder: Path, /) -> int:
    """Return the bytes of the files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def peak_rss() -> int:
    """Return the most bytes that this process has held so far."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def size(count: int) -> str:
    """Return bytes as people read them."""
    for unit, power in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= power:
            return f"{count / power:.3g} {unit}" if count < 1000 * power else f"{count / power:,.0f} {unit}"
    return f"{count} B" if count else "–"


def duration(seconds: float | None) -> str:
    """Return a time as people read it."""
    if seconds is None:
        return "unknown"
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02d} min"
