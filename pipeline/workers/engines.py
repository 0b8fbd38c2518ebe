"""Open workers by the name of an engine; spread one function over many tasks, with the results in order."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar

from drawstream.pipeline.workers.pool import Answer, Engine, Pool, ThisProcess
from drawstream.pipeline.workers.processes import Processes
from drawstream.pipeline.workers.ray import RayActors, joined
from drawstream.samplers import cores

Task = TypeVar("Task")
Result = TypeVar("Result")
WORTH = 64 << 20  # bytes of shards that keep a process busy for longer than the 3 s in which it starts


@dataclass(frozen=True, slots=True)
class Workers:
    """Where work is done.

    Attributes:
        count: Workers at once; by default 1, on Ray as many as there is room for.
        engine: "local", "ray" (the cluster that this program has joined, that of `RAY_ADDRESS`, or a new one on this
            machine) or "ray:ADDRESS".
        threads: Torch's, and cores, of each worker. By default those of this process divided among local workers; on
            Ray as many as torch uses here, or all of the smallest node if it has fewer. 0 leaves torch alone.

    Raises:
        ValueError: There is no such engine, or a bad number of workers.
    """

    count: int | None = None
    engine: str = "local"
    threads: int | None = None

    def __post_init__(self) -> None:
        if self.engine not in ("local", "ray") and not self.engine.startswith("ray:"):
            raise ValueError(f"the engine must be local, ray or ray:ADDRESS, but got {self.engine!r}")
        if self.count is not None and self.count < 1:
            raise ValueError(f"workers >= 1 must hold, but got {self.count}")

    @property
    def local(self) -> bool:
        """Whether they run on this machine."""
        return self.engine == "local"


@contextmanager
def open_workers(
    function: Callable[[Any], Any],
    workers: Workers,
    /,
    *,
    device: str = "cpu",
    what: str = "the function",
    name: Callable[[Any], str] = str,
) -> Iterator[Pool]:
    """Open workers; they end on leaving, also those at work.

    Args:
        function: Takes a task and returns its result; a generator yields progress before. For several workers it must
            be picklable, as its tasks and answers: a function of a module, or an object of a class of one.
        workers: How many, and where.
        device: "gpu" gives each worker on Ray a GPU.
        what: The function in messages.
        name: The name of a task in messages.

    Raises:
        ValueError: The function cannot be sent, or no cluster answers or has room.
    """
    engine: Engine
    with nullcontext() if workers.local else joined(workers.engine[4:] or None) as ray:
        if ray:
            engine = RayActors(ray, function, workers.count, workers.threads, device, what)
        elif workers.count is None or workers.count == 1:
            engine = ThisProcess(function)
        else:
            engine = Processes(function, workers.count, workers.threads, what)
        with closing(Pool(engine, name)) as pool:
            yield pool


def suitable_workers(size: int, /) -> int:
    """How many processes to use for so many bytes of shards: at most one per core."""
    return max(1, min(cores(), size // WORTH))


def spread(
    function: Callable[[Task], Result],
    tasks: Sequence[Task],
    /,
    *,
    workers: int | None,
    engine: str = "local",
    threads: int = 0,
    device: str = "cpu",
    name: Callable[[Task], str] = str,
) -> Iterator[Result]:
    """Call a function on every task, in processes of their own or, with one local worker, in this one.

    The processes are spawned, so a program that asks for several must have its main module guarded by
    ``if __name__ == "__main__"``. They end with this process, even when it is killed.

    Args:
        function: Importable by its name, like what it takes and gives.
        tasks: What to call it on.
        workers: Most workers; None: as `open_workers` chooses.
        engine: As for `open_workers`.
        threads: Torch's, and cores, of each worker; 0 leaves torch alone.
        device: As for `open_workers`.
        name: The name of a task in messages.

    Yields:
        Results in the order of the tasks. The first exception in that order is raised; all other work is dropped.

    Raises:
        ValueError: No worker, or no such engine.
        WorkerError: A task's workers died too often, as they do where memory runs out; a RuntimeError.
    """
    most = None if workers is None else min(workers, max(1, len(tasks)))
    with open_workers(function, Workers(most, engine, threads), device=device, name=name) as pool:
        for task in tasks:
            pool.start(task)
        ended: dict[int, Answer] = {}
        for number in range(len(tasks)):
            while number not in ended:
                answer = pool.next()
                ended |= {answer.number: answer} if answer.done else {}
            answer = ended.pop(number)
            if answer.error is not None:
                raise answer.error
            yield answer.value
