"""Estimated time of a long job, by stage, each with its basis."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from drawstream.tools.experiments import table_of
from drawstream.tools.runs import finish


@dataclass(frozen=True, slots=True)
class Stage:
    """One part of a job: its seconds, None where a dry run cannot know them, and how they were got."""

    name: str
    seconds: float | None
    basis: str

    def times(self, count: float, why: str, /) -> "Stage":
        """Return the stage done so often, one after the other."""
        if count == 1:
            return self
        seconds = None if self.seconds is None else count * self.seconds
        return replace(self, seconds=seconds, basis=f"{why} × ({self.basis})")


@dataclass(frozen=True, slots=True)
class Estimate:
    """Estimated time of a job.

    Attributes:
        job: Its command.
        out: Folder or file that it writes.
        stages: In their order.
        notes: What is not in the numbers, what would be resumed.
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

    def as_dict(self) -> dict[str, Any]:
        """As `--json` writes it."""
        told = {"stages": [asdict(stage) for stage in self.stages], "notes": list(self.notes)}
        return {"job": self.job, "dry_run": True, "out": str(self.out), "seconds": self.seconds, **told}

    def text(self) -> str:
        """Return the table, how its numbers were got, and the notes."""
        columns = {"stage": lambda each: each.name, "time": lambda each: duration(each.seconds)}
        table = table_of([*self.stages, Stage("in all", self.seconds, "")], columns)
        bases = [f"{each.name}: {each.basis}" for each in self.stages]
        notes = [f"note: {note}" for note in self.notes]
        return "\n".join([f"drawstream {self.job}: a dry run, nothing was written", table.text(), "", *bases, *notes])


def tell(estimate: Estimate, json_path: Path | None) -> None:
    """Print an estimate, and write it as JSON where that is asked for."""
    finish(estimate.as_dict(), json_path, estimate.text())


def finished(job: str, record: Path, /) -> Estimate:
    """Return the estimate of a job that is finished already."""
    return Estimate(job, record.parent, (), (f"{record} is there: the job is finished, and would be read from it",))


def duration(seconds: float | None) -> str:
    """Return a time as people read it."""
    if seconds is None:
        return "unknown"
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02d} min"
