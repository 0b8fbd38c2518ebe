"""A short run of a job's own code: its steps are timed, and a scratch folder stands in for the job's own."""

import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any, Self

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

LIMIT = 3.0  # seconds of a probe, after the first steps
WARM_UP = 4  # steps that do not count: kernels are chosen, buffers made, threads started
TOGETHER = 20  # steps of a probe on several ranks, which must stop at the same one


class ProbeDone(BaseException):
    """Ends a probe; no handler of the job takes it for an error of its own."""


class Probe:
    """Times the steps inside the block, and ends the block `LIMIT` seconds after the first ones.

    A step is any optimizer's of torch, or (`steps=False`) a call of `step`.

    >>> with Probe() as probe:
    ...     train(model, loader, recipe)
    >>> probe.unit_seconds, probe.stopped
    """

    def __init__(self, *, steps: bool = True, ranks: int = 1) -> None:
        self._steps, self._ranks = steps, ranks
        self._marks: list[tuple[float, float]] = []  # time, and units until then
        self.stopped = False

    def __enter__(self) -> Self:
        self.began = time.perf_counter()
        hook = lambda *_: self.step(len(self._marks) + 1)  # noqa: E731
        self._handle = register_optimizer_step_post_hook(hook) if self._steps else None
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: BaseException | TracebackType | None) -> bool:
        if self._handle is not None:
            self._handle.remove()
        self.stopped = kind is ProbeDone
        return self.stopped

    def step(self, units: float, /) -> None:
        """Note that so many units are done."""
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            torch.cuda.synchronize()
        self._marks.append((time.perf_counter(), units))
        count = len(self._marks)
        late = count > 1 and self._marks[-1][0] - self._marks[min(WARM_UP, count // 2)][0] > LIMIT
        if count >= TOGETHER if self._ranks > 1 else late:
            raise ProbeDone

    @property
    def count(self) -> int:
        """Steps that were timed."""
        return len(self._marks)

    @property
    def start_seconds(self) -> float:
        """Seconds until the first step ended."""
        return self._marks[0][0] - self.began

    @property
    def unit_seconds(self) -> float:
        """Seconds per unit, data waits included, warm-up excluded."""
        begin, before = self._marks[min(WARM_UP, (self.count - 1) // 2)] if self.count > 1 else (self.began, 0.0)
        end, after = self._marks[-1]
        return (end - begin) / (after - before)


@contextmanager
def scratch_folder(out: Path, names: Sequence[str] = (), /) -> Iterator[Path]:
    """Give a temporary folder in place of `out`; errors that name it name `out` instead.

    Args:
        out: Folder of the job.
        names: Patterns of the files that the job looks at when it starts: they are copied.
    """
    with TemporaryDirectory(prefix="drawstream-dry-run-") as name:
        scratch = Path(name)
        for found in (path for pattern in names for path in out.glob(pattern)):
            shutil.copy2(found, scratch / found.name)
        try:
            yield scratch
        except ValueError as error:
            error.args = (str(error).replace(name, str(out)), *error.args[1:])
            raise


def seconds_of(work: Any, /, *given: Any, **options: Any) -> float:
    """Call a function twice, and return the seconds of the second call."""
    work(*given, **options)
    begin = time.perf_counter()
    work(*given, **options)
    return time.perf_counter() - begin
