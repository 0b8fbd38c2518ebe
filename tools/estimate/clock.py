"""A watch on a job's own training loop: when each step ended, and an end after a while."""

import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from drawstream.tools.estimate.probe import LIMIT, Enough
from drawstream.tools.training.ranks import Ranks

__all__ = ["Clock"]

FIRST = 4  # steps that count as warming up: kernels are chosen, buffers made, threads begun
TOGETHER = 40  # steps of several ranks, which must stop at the same one


class Clock:
    """Notes when each step of an optimizer ends, and stops the work inside the block after a while.

    A step is any of `torch.optim`'s, in whatever loop; what is counted can be something else, such as batches that a
    loader gave. Marks are times in seconds; on a GPU the first and the last one wait for it.

    >>> with Clock() as clock:
    ...     train(model, loader, recipe)
    >>> clock.unit_seconds, clock.stopped
    """

    def __init__(
        self, limit: float | None = None, *, counted: Callable[[], int] | None = None, ranks: Ranks | None = None
    ) -> None:
        """Stop after `limit` seconds (by default `LIMIT`), several ranks after as many steps as each other.

        `counted` gives the number of units so far, by default steps.
        """
        self._alone = ranks is None or ranks.world_size == 1
        self.limit = LIMIT if limit is None else limit
        self.began = self.ended = 0.0
        self.marks: list[tuple[float, int]] = []  # time, and units until then
        self._counted = counted
        self.epochs: list[float] = []
        self.stopped = False

    def __enter__(self) -> Self:
        self.began = time.perf_counter()
        self._handle = register_optimizer_step_post_hook(self._step)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: TracebackType | BaseException | None) -> bool:
        self._handle.remove()
        self.ended = _now()
        self.stopped = kind is Enough
        return self.stopped

    def epoch(self, *_: Any) -> None:
        """Note the end of an epoch, or of whatever unit the job counts; it stops there, too."""
        self.epochs.append(_now())
        if self._alone and len(self.epochs) > 1 and self.epochs[-1] - self._first > self.limit:
            raise Enough

    def _step(self, *_: Any) -> None:
        count = len(self.marks) + 1 if self._counted is None else self._counted()
        self.marks.append((_now() if len(self.marks) == FIRST else time.perf_counter(), count))
        late = self.marks[-1][0] - self._first > self.limit if self._alone else len(self.marks) >= TOGETHER
        slow = self._alone and len(self.marks) > 1 and self.marks[-1][0] - self.marks[0][0] > 2 * self.limit
        if slow or (len(self.marks) > 2 * FIRST and late):
            self.marks[-1] = (_now(), count)
            raise Enough

    @property
    def _first(self) -> float:
        return self.marks[FIRST][0] if len(self.marks) > FIRST else self.began

    @property
    def units(self) -> int:
        """Units done."""
        return self.marks[-1][1] if self.marks else 0

    @property
    def unit_seconds(self) -> float:
        """Of a unit, its part of waiting for data included; without the first steps where there are others."""
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
        """Of a whole epoch after the first, all that belongs to it included; None where there were fewer than two."""
        if len(self.epochs) < 2:
            return None
        return (self.epochs[-1] - self.epochs[0]) / (len(self.epochs) - 1)


def _now() -> float:
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.synchronize()
    return time.perf_counter()
