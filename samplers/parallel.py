"""Set-up over all cores: pieces of rows on threads, whose kernels release the interpreter lock.

Pieces are cut by the number of rows alone and their results come in order, so what is built does not depend on cores.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

__all__ = ["map_pieces"]

PIECE = 1 << 20  # rows; a multiple of every block and bitmap word in use, large enough to hide the hand-over
_Result = TypeVar("_Result")


def map_pieces(rows: int, work: Callable[[int, int], _Result], /) -> list[_Result]:
    """Results of work(start, stop) over consecutive pieces of [0, rows), in order."""
    pieces = [(start, min(start + PIECE, rows)) for start in range(0, rows, PIECE)]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if len(pieces) == 1 or cores == 1:
        return [work(*piece) for piece in pieces]
    with ThreadPoolExecutor(min(cores, len(pieces)), thread_name_prefix="drawstream-setup") as threads:
        return list(threads.map(lambda piece: work(*piece), pieces))
