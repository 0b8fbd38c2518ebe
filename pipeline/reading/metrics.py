"""Count a loader's work where it happens. Reading threads and the loop count at the same time."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any

import torch


class Meter:
    """Counters of one loader.

    `seconds` run only while a loop is in the loader or in the user's step, `wait_seconds` only while the loop waits for
    a batch; `read_seconds` are those of the reading threads, which overlap with both.
    """

    def __init__(self, *, nvtx: bool) -> None:
        self._nvtx = nvtx
        self._lock = Lock()
        self._counts: dict[str, float] = dict.fromkeys(("images", "batches", "bytes_read", "substituted"), 0)
        self._counts |= dict.fromkeys(("seconds", "wait_seconds", "read_seconds"), 0.0)

    def add(self, **counts: float) -> None:
        """Add to counters."""
        with self._lock:
            for name, count in counts.items():
                self._counts[name] += count

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Time a read; a range of that name in torch's profiler, and in NVTX on a GPU."""
        began = time.perf_counter()
        with self.range("drawstream.read"):
            yield
        self.add(read_seconds=time.perf_counter() - began)

    @contextmanager
    def range(self, name: str, /) -> Iterator[None]:
        """Mark what happens inside for `torch.profiler`, and for NVTX on a GPU."""
        with torch.profiler.record_function(name):
            if self._nvtx:
                torch.cuda.nvtx.range_push(name)  # type: ignore[no-untyped-call]
            try:
                yield
            finally:
                if self._nvtx:
                    torch.cuda.nvtx.range_pop()  # type: ignore[no-untyped-call]

    def as_dict(self) -> dict[str, Any]:
        """Return all counters, with the rates that follow from them."""
        with self._lock:
            counts = dict(self._counts)
        seconds = counts["seconds"]
        return {
            **counts,
            "images_per_second": counts["images"] / seconds if seconds else 0.0,
            "wait_share": counts["wait_seconds"] / seconds if seconds else 0.0,
        }
