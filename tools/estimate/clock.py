"""A watch on a job's own training loop: when each step ended, and an end after a while."""

import time
from collections.abc import Callable
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self

import torch
import torch.distributed as dist
from torch.optim.optimizer import register_optimizer_step_post_hook

from drawstream.tools.estimate.probe import LIMIT, Enough, alarm, allowed, left
from drawstream.tools.training.ranks import Ranks

__all__ = ["Clock"]

FIRST = 4  # steps that count as warming up: kernels are chosen, buffers made, threads begun
TOGETHER = 40  # steps of several ranks, which must stop at the same one, at most
CLOCKED = 0.6  # of the dry run's time that is left; the rest is for what is not a step, such as evaluation


class Clock:
    """Notes when each step of an optimizer ends, and stops the work inside the block after a while.

    A step is any of `torch.optim`'s, in whatever loop; what is counted can be something else, such as batches that a
    loader gave. Marks are times in seconds; on a GPU the first and the last one wait for it.

    >>> with Clock() as clock:
    ...     train(model, loader, recipe)
    >>> clock.unit_seconds, clock.stopped
    """

    def __init__(
        self,
        limit: float | None = None,
        *,
        counted: Callable[[], int] | None = None,
        units: float | None = None,
        ranks: Ranks | None = None,
    ) -> None:
        """Stop after `limit` seconds (by default `LIMIT`), or the share of the whole job that a probe may take.

        Args:
            limit: Seconds.
            counted: Gives the number of units so far; by default steps are counted.
            units: Of the whole job; None where that is not known.
            ranks: Processes that step together, which stop at the same step.
        """
        self._ranks = Ranks() if ranks is None else ranks
        self._alone = self._ranks.world_size == 1
        self.limit = LIMIT if limit is None else limit
        self.began = self.ended = 0.0
        self.marks: list[tuple[float, int]] = []  # time, and units until then
        self._counted, self._units = counted, units
        self.epochs: list[float] = []
        self.stopped = False
        self._alarm: ExitStack = ExitStack()

    def __enter__(self) -> Self:
        self.began = time.perf_counter()
        self._handle = register_optimizer_step_post_hook(self._step)
        if self._alone:
            self._alarm.enter_context(alarm(CLOCKED * left()))
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: TracebackType | BaseException | None) -> bool:
        self._alarm.close()
        self._handle.remove()
        self.ended = _now()
        self.stopped = kind is Enough
        return self.stopped

    def epoch(self, *_: Any) -> None:
        """Note the end of an epoch, or of whatever unit the job counts; it stops there, too."""
        self.epochs.append(_now())
        if self._alone and len(self.epochs) > 1 and self.epochs[-1] - self._first > self._allowed():
            raise Enough

    def _step(self, *_: Any) -> None:
        count = len(self.marks) + 1 if self._counted is None else self._counted()
        self.marks.append((_now() if len(self.marks) == FIRST else time.perf_counter(), count))
        if self._is_enough():
            self.marks[-1] = (_now(), count)
            raise Enough

    def _is_enough(self) -> bool:
        steps = len(self.marks)
        if self._alone:
            return self._is_late()
        if steps >= TOGETHER:
            return True
        if steps & (steps - 1):  # they ask each other after 1, 2, 4, 8, … steps
            return False
        late = torch.tensor(float(self._is_late()), device="cuda" if dist.get_backend() == "nccl" else "cpu")
        return bool(self._ranks.total(late) > 0)

    def _is_late(self) -> bool:
        steps, now = len(self.marks), self.marks[-1][0]
        if left() <= 0:
            return True
        if steps > 2 * FIRST:
            return now - self._first > self._allowed()
        return steps > 1 and now - self.marks[0][0] > 2 * self._allowed()

    def _allowed(self) -> float:
        return allowed(None if self._units is None else self._units * self.unit_seconds, self.limit)

    @property
    def _first(self) -> float:
        return self.marks[FIRST][0] if len(self.marks) > FIRST else self.began

    @property
    def units(self) -> int:
        """Units done."""
        return self.marks[-1][1] if self.marks else 0

    @property
    def unit_seconds(self) -> float:
        """Seconds per unit, data waits included; warm-up steps are excluded if there are later ones."""
        marks = [*self.marks[FIRST:-1], *self.marks[:1]] or [(self.began, 0)]  # the first one that counts, if any
        begin, before = marks[0] if len(self.marks) > 1 else (self.began, 0)
        end, after = self.marks[-1] if self.marks else (self.ended, 1)
        return (end - begin) / max(after - before, 1)

    @property
    def start_seconds(self) -> float:
        """Until the first step ended."""
        return (self.marks[0][0] if self.marks else self.ended) - self.began

    @property
    def epoch_seconds(self) -> float | None:
        """Seconds per whole epoch after the first, with all its overhead; None for fewer than two epochs."""
        if len(self.epochs) < 2:
            return None
        return (self.epochs[-1] - self.epochs[0]) / (len(self.epochs) - 1)


def _now() -> float:
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.synchronize()
    return time.perf_counter()
