"""Prepare the inputs of DALI ahead of time, run by run: rows of the stream, their bytes, windows and coins.

    stream ──rows──▶ Reader (thread): pread + checksum, windows, coins ──Prepared──▶ Feed ──inputs──▶ DALI graph

DALI borrows the arrays of a `Prepared` without a copy, so a feed keeps it until DALI has given back that run.

A bad sample is replaced by another draw of the same epoch, a pure function of (seed, epoch, position): attempt
k = 1, 2, … takes the row at position hash(seed, epoch, position, k) mod M until one is good. So the replacement does
not depend on ranks, threads or read-ahead either, nor on when the sample was found to be bad.
"""

import concurrent.futures.thread
import os
import sys
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from drawstream.pipeline.fields import FieldReader, FieldValues
from drawstream.pipeline.images import Backend, Inputs
from drawstream.pipeline.reading.bad_samples import LEAVE_OUT, BadSamples
from drawstream.pipeline.reading.metrics import Meter
from drawstream.pipeline.reading.plan import Plan
from drawstream.pipeline.reading.read import Buffers, ShardFiles
from drawstream.pipeline.reading.refused import Headers

MEMORY = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")  # bytes of this machine
ENDING = RuntimeError(
    "the program ended while a thread of it still read batches: let the main thread wait for it (`Thread.join`)"
)
ATTEMPTS = 1000  # replacements tried for one position, before all the epoch is held to be bad


def interpreter_ends() -> bool:
    """Check whether the interpreter is shutting down: thread pools and DALI then refuse work, whatever the data."""
    pools_closed = getattr(concurrent.futures.thread, "_shutdown", False)  # the first step, and nothing else tells it
    return sys.is_finalizing() or pools_closed or not threading.main_thread().is_alive()


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """Inputs of one DALI run, made before it, with the values that bypass the graph; arrays of length n."""

    inputs: tuple[Any, ...]  # of the graph, in its order
    buffer: NDArray[np.uint8]  # (bytes,), which the inputs point into
    bounds: NDArray[np.int64]  # (batches + 1,), batch i of the run is [bounds[i], bounds[i + 1])
    samples: NDArray[np.int64]  # rows of the catalog to decode
    ids: NDArray[np.int64]  # rows of the stream
    labels: NDArray[Any]  # of the catalog's kind, (n,) or (n, columns)
    weights: NDArray[np.float32]  # 1/(N P); 0 if a row only fills up the batch
    substituted: int  # rows that were replaced
    fields: dict[str, list[Any]]  # n values of each, without the mask
    unmasked: NDArray[np.int64]  # those of the n samples that have no mask


class _Read(NamedTuple):
    """Bytes and fields of n samples; member i of `data` is [bounds[i], bounds[i + 1]), the images come first."""

    buffer: NDArray[np.uint8]
    data: NDArray[np.uint8]  # its part that was filled
    bounds: NDArray[np.int64]
    fields: FieldValues
    substituted: int


class Reader:
    """Prepares the runs of plans in threads of its own.

    A run is `group` batches of the plan: DALI's cost per run would otherwise exceed its work on small images.
    """

    def __init__(
        self,
        source: Inputs,
        files: ShardFiles,
        bad: BadSamples,
        meter: Meter,
        /,
        *,
        group: int,
        threads: int,
        backend: Backend = "dali",
        fields: FieldReader | None = None,
    ) -> None:
        self._fields = fields
        self.group = group
        self.buffers = Buffers()
        self._source, self._files, self._bad, self._meter = source, files, bad, meter
        self._headers = Headers(source.catalog, once=files.checks_all, backend=backend)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="drawstream-read")

    def runs(self, plan: Plan) -> int:
        """DALI runs of a plan."""
        return -(-len(plan) // self.group)

    def submit(self, plan: Plan, run: int) -> Future[Prepared]:
        """Prepare a run in a thread; where none is to be had any more the future holds the reason."""
        try:
            return self._pool.submit(self.prepare, plan, run)
        except RuntimeError as error:  # the loader was closed, the interpreter ends, or there is no thread to be had
            refused: Future[Prepared] = Future()
            refused.set_exception(ENDING if interpreter_ends() else error)
            return refused

    def close(self) -> None:
        """Stop the threads and close the shards."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._files.close()

    def prepare(self, plan: Plan, run: int) -> Prepared:
        """Read a run; bad samples are replaced, or raise."""
        with self._meter.reading():
            steps = range(run * self.group, min((run + 1) * self.group, len(plan)))
            spans = [plan.positions(step) for step in steps]
            if plan.batching.world_size == 1:  # batches follow one another without a gap
                ends = np.array([spans[0][0], *(b for _, b in spans)])
                spans, bounds = [(spans[0][0], spans[-1][1])], ends - spans[0][0]
            else:
                bounds = np.cumsum([0, *(b - a for a, b in spans)])
            drawn = [plan.rows(a, b) for a, b in spans]
            ids = np.concatenate([rows for rows, _ in drawn])
            weights = np.concatenate([weights for _, weights in drawn])
            read = self._read(plan, spans, ids, weights)
            samples, members = self._source.samples(ids), read.bounds[: len(ids) + 1]
            images = read.data[: members[-1]]
            inputs, placement = self._source.of(plan, spans, ids, images, members, read.fields.inputs)
            fields = {} if self._fields is None else self._fields.placed(read.fields, placement)
            self._meter.add(bytes_read=len(read.data))
            labels = self._source.catalog.label[samples]
            own = (read.substituted, fields, read.fields.unmasked)
            return Prepared(inputs, read.buffer, bounds, samples, ids, labels, weights, *own)

    def _read(
        self, plan: Plan, spans: list[tuple[int, int]], ids: NDArray[np.int64], weights: NDArray[np.float32]
    ) -> _Read:
        """Read these rows.

        Rows of bad samples are replaced in `ids` and `weights`, which are the run's own.
        """
        attempts = np.zeros(len(ids), np.int64)
        while True:
            while len(at := self._bad.known(self._source.samples(ids))):
                attempts[at] += 1
                if attempts.max() > ATTEMPTS:
                    raise self._bad.exhausted(int(self._source.samples(ids)[at[0]]), ATTEMPTS)
                positions = np.concatenate([np.arange(a, b) for a, b in spans])[at]
                ids[at], other = plan.others(positions, attempts[at])
                weights[at] = np.where(weights[at] > 0, other, 0)  # rows that only fill up stay so
            samples = self._source.samples(ids)
            self._must_fit(samples)
            members = self._files.bounds(samples)
            buffer = self.buffers.take(int(members[-1]))
            data = buffer[: members[-1]]
            status = self._files.read_into(samples, members, data)
            failed = self._files.errors(samples, status)
            fields = FieldValues()
            if not failed:
                refused = {i: (why, "") for i, why in self._headers.refused(samples, members, data).items()}
                if self._fields is not None:
                    fields = self._fields.decode(samples, members, data)
                    refused = {**fields.problems, **refused}
                failed = [
                    self._files.refusal(int(samples[i]), why, remedy or LEAVE_OUT)
                    for i, (why, remedy) in refused.items()
                ]
            if not failed:
                return _Read(buffer, data, members, fields, int((attempts > 0).sum()))
            self.buffers.give(buffer)
            self._bad.add(failed)

    def _must_fit(self, samples: NDArray[np.int64]) -> None:
        """Refuse large images in small files, with which the system would kill the process."""
        catalog = self._source.catalog
        pixels = catalog.height[samples].astype(np.int64) * catalog.width[samples]
        size = int(pixels.sum()) * catalog.channels
        if size > MEMORY:
            raise ValueError(
                f"{catalog.path}: {len(samples)} images of a batch have {size >> 30} GiB of pixels, "
                f"this machine has {MEMORY >> 30} GiB of memory: lower the batch size, or store them smaller"
            )


class Feed:
    """DALI's source for one graph: run `i` of a plan, read a few runs ahead.

    A read that fails ends the runs, for an exception inside DALI's prefetch would come too early and take the batches
    before it along; `take` raises it when it is due.
    """

    def __init__(self, reader: Reader, *, read_ahead: int) -> None:
        self._reader = reader
        self._ahead = read_ahead
        self._runs: dict[int, Future[Prepared]] = {}
        self._plan: Plan | None = None
        self._first = self._count = 0

    def begin(self, plan: Plan, first: int = 0) -> None:
        """Start to read a plan from its run `first`; the last plan's runs must have been consumed or dropped."""
        assert not self._runs
        self._plan, self._first, self._count = plan, first, self._reader.runs(plan)
        for run in range(first, min(first + self._ahead, self._count)):
            self._runs[run] = self._reader.submit(plan, run)

    def __call__(self, info: Any) -> tuple[Any, ...]:
        """Graph inputs of DALI's next run; StopIteration past the last one, and where a read failed."""
        run = self._first + info.iteration
        if self._plan is None or run >= self._count or self._runs[run].exception() is not None:
            raise StopIteration
        ahead = run + self._ahead
        if ahead < self._count:
            self._runs[ahead] = self._reader.submit(self._plan, ahead)
        return self._runs[run].result().inputs

    def take(self, run: int) -> Prepared:
        """Return the run that DALI has finished with, and forget it; raise the error of its read."""
        return self._runs.pop(run).result()

    def stop(self) -> None:
        """Give DALI no further run."""
        self._plan = None
        for future in self._runs.values():
            future.cancel()

    def drop(self) -> None:
        """Forget all runs; DALI must be through with them."""
        self._runs.clear()
