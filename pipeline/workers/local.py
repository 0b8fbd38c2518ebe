"""Tasks spread over processes: threads would wait for each other, as headers and small images are Python's work."""

import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context, parent_process
from multiprocessing.connection import wait
from typing import Any, TypeVar

Task = TypeVar("Task")
Result = TypeVar("Result")
WORTH = 64 << 20  # bytes of shards that keep a process busy for longer than the 3 s in which it starts


def suitable_workers(size: int, /) -> int:
    """How many processes to use for so many bytes of shards: at most one per core."""
    return max(1, min(len(os.sched_getaffinity(0)), size // WORTH))


def spread(function: Callable[[Task], Result], tasks: Sequence[Task], /, *, workers: int) -> Iterator[Result]:
    """Call a function on every task, in processes of their own or, with one worker, in this one.

    The processes are spawned, so a program that asks for several must have its main module guarded by
    ``if __name__ == "__main__"``. They end with this process, even when it is killed.

    Args:
        function: Importable by its name, like what it takes and gives.
        tasks: What to call it on.
        workers: Most processes.

    Yields:
        Results in the order of the tasks. The first exception in that order is raised; what is not begun is dropped.

    Raises:
        ValueError: No worker.
        BrokenProcessPool: A process was killed, as the system does where memory runs out; a RuntimeError.
    """
    if workers < 1:
        raise ValueError(f"workers must be at least 1, but got {workers}")
    if min(workers, len(tasks)) == 1:
        yield from map(function, tasks)
        return
    pool = ProcessPoolExecutor(
        min(workers, len(tasks)), mp_context=get_context("spawn"), initializer=_end_with_the_parent
    )
    try:
        futures = deque(pool.submit(function, task) for task in tasks)
        while futures:
            yield futures.popleft().result()
    except (KeyboardInterrupt, SystemExit):  # nobody waits for what is under way
        for process in pool._processes.values():
            process.kill()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _end_with_the_parent() -> None:
    """Watch the parent: the pool's pipes stay open when it is killed, and its processes would wait for ever.

    Ctrl-C, which the terminal sends to all of them, is for the parent.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent: Any = parent_process()

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
