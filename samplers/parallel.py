"""Set-up over all cores: pieces of rows on threads, whose kernels release the interpreter lock.

Pieces are cut by the number of rows alone and their results come in order, so what is built does not depend on cores.
"""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

__all__ = ["cores", "map_ahead", "map_pieces"]

PIECE = 1 << 20  # rows; a multiple of every block and bitmap word in use, large enough to hide the hand-over
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def map_pieces(rows: int, work: Callable[[int, int], _Result], /) -> list[_Result]:
    """Results of work(start, stop) over consecutive pieces of [0, rows), in order."""
    pieces = [(start, min(start + PIECE, rows)) for start in range(0, rows, PIECE)]
    threads_wanted = min(cores(), len(pieces))
    if threads_wanted == 1:
        return [work(*piece) for piece in pieces]
    with ThreadPoolExecutor(threads_wanted, thread_name_prefix="drawstream-setup") as threads:
        return list(threads.map(lambda piece: work(*piece), pieces))


def map_ahead(work: Callable[[_Item], _Result], items: Iterable[_Item], /) -> Iterator[_Result]:
    """Results of work(item) in order, for items made one by one: at most one more than there are cores is in work."""
    with ThreadPoolExecutor(cores(), thread_name_prefix="drawstream-ahead") as threads:
        running: deque[Future[_Result]] = deque()
        for item in items:
            running.append(threads.submit(work, item))
            if len(running) > cores():
                yield running.popleft().result()
        while running:
            yield running.popleft().result()
