"""One pool of workers for extraction, search and benchmarks: tasks wait in a queue until a worker is idle.

    start(task) ──▶ queue ──▶ idle worker: function(task)
    next()      ◀──────────── Answer: progress …, then the result or the error

    engine "local", 1 worker     ThisProcess   in this process
    engine "local", w workers    Processes     spawned
    engine "ray[:address]"       RayActors     on the nodes of a cluster
Each worker has its own copy of the function. The task of a worker that died goes to another one.
"""

from __future__ import annotations

import copy
import pickle
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from drawstream.pipeline import describe_error
from drawstream.samplers import DrawstreamError

ATTEMPTS = 3  # of a task: one may fall with its machine, and the next with the memory of another
PATIENCE = 300.0  # seconds without any worker before giving up; a node that comes back needs less than a minute
READY = "ready"  # first message of a worker


class WorkerError(DrawstreamError, RuntimeError):
    """Workers cannot start, or died again and again; the same job started again goes on where it was."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Progress, result or error of a task.

    Attributes:
        value: What the function yielded as progress, or returned.
        error: What it raised.
        done: Whether the task has ended.
        number: That of the task, as `start` returned it.
        task: The task.
    """

    value: Any = None
    error: Exception | None = None
    done: bool = True
    number: int = -1
    task: Any = None


@dataclass(frozen=True, slots=True)
class Refused:
    """The message of a worker that cannot load the function.

    Attributes:
        reason: Why.
    """

    reason: str


@dataclass(frozen=True, slots=True)
class Died:
    """The message in place of a worker that is gone.

    Attributes:
        how: Its end, as a part of a sentence.
    """

    how: str


class Engine(Protocol):
    """Starts workers and carries messages; a message is READY, `Refused`, `Died` or an `Answer`."""

    size: int  # workers at once

    def start_worker(self) -> Any:
        """Start a worker; its first message is READY or `Refused`."""

    def send(self, worker: Any, task: Any, /) -> None:
        """Give an idle worker a task."""

    def receive(self, timeout: float | None, /) -> tuple[Any, Any] | None:
        """Wait for a message: the worker and what it says; None after `timeout` seconds."""

    def close(self, busy: list[Any], idle: list[Any], /) -> None:
        """End all workers."""


class Pool:
    """The workers of one function; they start when they are needed.

    Attributes:
        size: Most workers, so tasks under way at once.
    """

    def __init__(self, engine: Engine, name: Callable[[Any], str] = str, /) -> None:
        self.size = engine.size
        self._engine, self._name = engine, name
        self._queue: deque[tuple[int, Any]] = deque()
        self._idle: list[Any] = []
        self._busy: dict[Any, tuple[int, Any] | None] = {}  # a worker's task; None while it starts
        self._deaths: Counter[int | None] = Counter()  # by task; None: starts in a row
        self._count = 0

    def start(self, task: Any, /) -> int:
        """Take a task; return its number, counted from 0."""
        self._queue.append((self._count, task))
        self._count += 1
        self._dispatch()
        return self._count - 1

    def next(self) -> Answer:
        """Wait for the progress or the end of a task.

        Raises:
            WorkerError: A worker cannot start, or the workers of a task died too often.
        """
        while True:
            working = any(task is not None for task in self._busy.values())
            received = self._engine.receive(None if working else PATIENCE)
            if received is None:
                raise WorkerError(f"no worker could start within {PATIENCE:g} s: see `ray status` for what is missing")
            worker, message = received
            task = self._busy.pop(worker)
            if isinstance(message, Refused):
                raise WorkerError(f"a worker cannot start: {message.reason}")
            if isinstance(message, Died):
                self._count_death(task, message.how)
                self._queue.extend([task] if task else [])
            elif task is None or message.done:
                self._deaths[None] = 0
                self._idle.append(worker)
            else:
                self._busy[worker] = task
            self._dispatch()
            if task is not None and isinstance(message, Answer):
                return Answer(message.value, message.error, message.done, *task)

    def close(self) -> None:
        """End all workers, also those at work."""
        self._engine.close(list(self._busy), self._idle)
        self._idle, self._busy = [], {}
        self._queue.clear()

    def _dispatch(self) -> None:
        """Give tasks to idle workers, and start workers for those that are left."""
        while self._queue and self._idle:
            worker = self._idle.pop()
            task = self._queue.popleft()
            self._busy[worker] = task
            self._engine.send(worker, task[1])
        starting = sum(each is None for each in self._busy.values())
        for _ in range(min(len(self._queue) - starting, self.size - len(self._busy) - len(self._idle))):
            self._busy[self._engine.start_worker()] = None

    def _count_death(self, task: tuple[int, Any] | None, how: str) -> None:
        key = task and task[0]
        self._deaths[key] += 1
        if self._deaths[key] >= ATTEMPTS:
            what = f"{self._name(task[1])}: its worker died" if task else "starting a worker failed"
            raise WorkerError(
                f"{what} {ATTEMPTS} times, the last time {how}; is there enough memory, and does a script that starts "
                "workers begin under `if __name__ == '__main__':`?"
            )


def answers(function: Callable[[Any], Any], task: Any, /) -> Iterator[Answer]:
    """Call the function; one that is a generator yields its progress and returns its result."""
    try:
        result = function(task)
        while isinstance(result, Generator):
            try:
                progress = next(result)
            except StopIteration as end:
                result = end.value
            else:
                yield Answer(progress, done=False)
    except Exception as error:
        yield Answer(error=error)
    else:
        yield Answer(result)


def portable(answer: Answer, /) -> Answer:
    """The answer with an error that can be pickled: many exceptions cannot be, or not come back."""
    try:
        pickle.dumps(copy.deepcopy(answer.error))
    except Exception:
        kind = ValueError if isinstance(answer.error, ValueError) else RuntimeError
        return Answer(error=kind(str(answer.error)))
    return answer


def load(function: Callable[[], Callable[[Any], Any]], /) -> tuple[Callable[[Any], Any] | None, str | Refused]:
    """The function of a worker, and the worker's first message."""
    try:
        return function(), READY
    except Exception as error:
        return None, Refused(f"its function cannot be loaded there: {describe_error(error)}")


class ThisProcess:
    """The only worker is this process, which does a task while `receive` waits for it."""

    size = 1

    def __init__(self, function: Callable[[Any], Any], /) -> None:
        self._function = function
        self._messages: Iterator[Any] = iter(())

    def start_worker(self) -> Any:
        """Do nothing: the worker is there."""
        self._messages = iter([READY])
        return self

    def send(self, _worker: Any, task: Any, /) -> None:
        """Keep the task until `receive`."""
        self._messages = answers(self._function, task)

    def receive(self, _timeout: float | None, /) -> tuple[Any, Any]:
        """Do the task, to its next message."""
        return self, next(self._messages)

    def close(self, _busy: list[Any], _idle: list[Any], /) -> None:
        """Do nothing."""
