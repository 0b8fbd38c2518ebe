"""What DALI asks for, made ahead of time: rows of the stream, their bytes, windows and coins, batch by batch."""

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from drawstream.pipeline.catalog import Catalog
from drawstream.pipeline.graph import GraphSpec
from drawstream.pipeline.read import ShardFiles
from drawstream.pipeline.transform import draw_flips, draw_pad_offsets, draw_windows


class Order(Protocol):
    """One epoch of a stream: rows by position."""

    def __len__(self) -> int: ...
    def __getitem__(self, positions: slice, /) -> NDArray[np.int64]: ...
    def weights(self, a: int, b: int, /) -> NDArray[np.float32]: ...


class Rows(Protocol):
    """What a stream's rows are when they are not simply the samples of the catalog: a feature table."""

    @property
    def sample_id(self) -> NDArray[np.int64]: ...
    @property
    def windows(self) -> NDArray[np.float32] | None: ...
    @property
    def flip(self) -> NDArray[np.bool_] | None: ...


@dataclass(frozen=True, slots=True)
class Plan:
    """One pass over the rest of an epoch, for one rank.

    Attributes:
        order: The global order of the epoch.
        seed: Of the stream; keys the draws of the transform.
        epoch: Number of the epoch.
        start: Global position of the first batch.
        batch_size: Images of this rank per batch.
        drop_last: Leave out a last global batch that is not full.
    """

    order: Order
    seed: int
    epoch: int
    start: int
    batch_size: int
    rank: int
    world_size: int
    drop_last: bool

    @property
    def global_batch(self) -> int:
        """Positions that all ranks together use per batch."""
        return self.batch_size * self.world_size

    def __len__(self) -> int:
        """Batches of this rank; the same number on every rank."""
        left = len(self.order) - self.start
        return left // self.global_batch if self.drop_last else -(-left // self.global_batch)

    def positions(self, step: int) -> tuple[int, int]:
        """Global positions [a, b) of this rank's batch; those past the end of the epoch wrap around."""
        first = self.start + step * self.global_batch
        share = min(self.batch_size, -(-(len(self.order) - first) // self.world_size))
        return first + self.rank * share, first + (self.rank + 1) * share

    def end(self, step: int) -> int:
        """Global position after the batch."""
        return min(self.start + (step + 1) * self.global_batch, len(self.order))


@dataclass(frozen=True, slots=True)
class Prepared:
    """What DALI computes in one run, before it does: graph inputs and what goes around them, arrays of length n.

    `bounds` are the ends of the batches in it: batch i of the run is [bounds[i], bounds[i + 1]).
    """

    inputs: tuple[Any, ...]
    bounds: NDArray[np.int64]
    samples: NDArray[np.int64]
    ids: NDArray[np.int64]
    labels: NDArray[np.int64]
    weights: NDArray[np.float32]


class Feed:
    """DALI's source: run `i` of a plan, read by a thread a few runs before it is asked for.

    A run is `group` batches of the plan: DALI's cost per run would otherwise exceed its work on small images.
    """

    def __init__(self, catalog: Catalog, rows: Rows | None, spec: GraphSpec, *, group: int, read_ahead: int) -> None:
        self._catalog = catalog
        self._rows = rows
        self._spec = spec
        self._files = ShardFiles(catalog)
        self._group = group
        self._read_ahead = read_ahead
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="drawstream-read")
        self._runs: dict[int, Future[Prepared]] = {}
        self.plan: Plan | None = None

    @property
    def runs(self) -> int:
        """DALI runs of the current plan."""
        return 0 if self.plan is None else -(-len(self.plan) // self._group)

    def begin(self, plan: Plan) -> None:
        """Forget what was read ahead and start on a plan."""
        for future in self._runs.values():
            future.cancel()
        self._runs.clear()
        self.plan = plan
        for run in range(min(self._read_ahead, self.runs)):
            self._schedule(run)

    def __call__(self, info: Any) -> tuple[Any, ...]:
        """Graph inputs of run `info.iteration`; StopIteration past the last one."""
        run = info.iteration
        if run >= self.runs:
            raise StopIteration
        ahead = run + self._read_ahead
        if ahead < self.runs:
            self._schedule(ahead)
        return self._runs[run].result().inputs

    def take(self, run: int) -> Prepared:
        """The run that DALI has finished with; it is forgotten here."""
        return self._runs.pop(run).result()

    def waiting(self) -> list[Prepared]:
        """Runs that were read and not yet taken, in order."""
        done = ((run, f) for run, f in self._runs.items() if f.done() and not f.cancelled() and f.exception() is None)
        return [future.result() for _, future in sorted(done, key=lambda item: item[0])]

    def close(self) -> None:
        """Stop the thread."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _schedule(self, run: int) -> None:
        assert self.plan is not None
        self._runs[run] = self._pool.submit(self._prepare, self.plan, run)

    def _prepare(self, plan: Plan, run: int) -> Prepared:
        steps = range(run * self._group, min((run + 1) * self._group, len(plan)))
        spans = [plan.positions(step) for step in steps]
        drawn = [wrapped_rows(plan.order, a, b) for a, b in spans]
        ids = np.concatenate([rows for rows, _ in drawn])
        weights = np.concatenate([weights for _, weights in drawn])
        samples = ids if self._rows is None else self._rows.sample_id[ids]
        data, members = self._files.read(samples)
        bounds = np.cumsum([0, *(b - a for a, b in spans)])
        geometry = [
            self._geometry(plan, a, ids[i:j], samples[i:j])
            for (a, _), i, j in zip(spans, bounds[:-1], bounds[1:], strict=True)
        ]
        arguments = (np.concatenate(parts) for parts in zip(*geometry, strict=True))
        inputs = (self._images(data, members, len(samples)), *arguments)
        return Prepared(inputs, bounds, samples, ids, self._catalog.label[samples], weights)

    def _images(self, data: NDArray[np.uint8], members: NDArray[np.int64], n: int) -> Any:
        if not self._spec.raw:
            return [data[a:b] for a, b in zip(members[:-1].tolist(), members[1:].tolist(), strict=True)]
        return data.reshape(n, int(self._catalog.height[0]), int(self._catalog.width[0]), self._spec.channels)

    def _geometry(self, plan: Plan, a: int, ids: NDArray[np.int64], samples: NDArray[np.int64]) -> list[Any]:
        """Inputs after the image, in the order of `GraphSpec`, for the batch at positions a, a + 1, …"""
        transform, n = self._spec.transform, len(ids)
        given: list[Any] = []
        if self._spec.geometry == "pad":
            given.append(draw_pad_offsets(plan.seed, plan.epoch, a, n, transform.pad))
        elif self._spec.geometry == "window":
            windows = self._stored_windows(ids)
            if windows is None:
                heights, widths = self._catalog.height[samples], self._catalog.width[samples]
                windows = draw_windows(
                    plan.seed, plan.epoch, a, heights, widths, scale=transform.scale, ratio=transform.ratio
                )
            given += [windows[:, :2], windows[:, 2:] - windows[:, :2]]
        if self._spec.mirror:
            stored = None if self._rows is None else self._rows.flip
            coins = draw_flips(plan.seed, plan.epoch, a, n) if stored is None else stored[ids]
            given.append(coins.astype(np.int32))
        return given

    def _stored_windows(self, ids: NDArray[np.int64]) -> NDArray[np.float32] | None:
        stored = None if self._rows is None else self._rows.windows
        return None if stored is None else stored[ids]


def wrapped_rows(order: Order, a: int, b: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Rows and weights at positions [a, b); positions past the end repeat the first ones with weight 0."""
    m = len(order)
    if b <= m:
        return order[a:b], order.weights(a, b)
    inside = max(0, m - a)
    extra = np.array([order[p : p + 1][0] for p in (np.arange(a + inside, b) % m).tolist()], np.int64)
    rows = np.concatenate([order[a:m], extra]) if inside else extra
    weights = np.zeros(b - a, np.float32)
    if inside:
        weights[:inside] = order.weights(a, m)
    return rows, weights
