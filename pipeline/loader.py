"""The loader: an index stream in, batches of torch tensors out, through DALI; resumable at any batch."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from drawstream.pipeline.catalog import ENCODINGS, Catalog
from drawstream.pipeline.decode import first_undecodable
from drawstream.pipeline.feed import Feed, Order, Plan, Rows
from drawstream.pipeline.graph import Geometry, GraphSpec, build_pipeline
from drawstream.pipeline.read import BadSampleError
from drawstream.pipeline.transform import Transform
from drawstream.samplers import Sequential

SMALL = 64  # pixels; catalogs with no side above it are taken whole by default
RUN = 2048  # small raw images per DALI run: at 128 the cost of a run is half of the time, at 2048 it is gone


class Stream(Protocol):
    """What a loader follows: `IndexStream`, `Sequential`, or anything with their surface."""

    @property
    def rows(self) -> int: ...
    @property
    def seed(self) -> int: ...
    @property
    def fingerprint(self) -> str: ...
    def epoch(self, epoch: int, /) -> Order: ...


@dataclass(frozen=True, slots=True)
class Batch:
    """n images of one step.

    Attributes:
        images: float32 (n, C, H, W), normalised.
        labels: int64 (n,).
        ids: int64 (n,), rows of the stream: samples of the catalog or rows of the feature table.
        weights: float32 (n,), 1/(N·P(row)); 0 marks rows that only fill up the last batch of a rank.
    """

    images: Tensor
    labels: Tensor
    ids: Tensor
    weights: Tensor


class Loader:
    """Iterates the batches of one rank; the order is the stream's and does not depend on ranks, threads or prefetch.

    Global batch g holds positions [g·G, (g+1)·G) of the epoch with G = batch_size · world_size; a rank takes its
    contiguous part. The last global batch may be smaller: every rank then gets the same, smaller number of images,
    and what is missing to that is filled from the start of the epoch with weight 0 (`drop_last` leaves it out).

        >>> loader = Loader(catalog, IndexStream(len(catalog), seed=0), batch_size=128)
        >>> for epoch in range(90):
        ...     loader.set_epoch(epoch)
        ...     for batch in loader:
        ...         loss = F.cross_entropy(model(batch.images), batch.labels)
    """

    def __init__(
        self,
        catalog: Catalog,
        stream: Stream,
        /,
        *,
        rows: Rows | None = None,
        transform: Transform | None = None,
        batch_size: int = 128,
        rank: int = 0,
        world_size: int = 1,
        drop_last: bool = False,
        device: Literal["cpu", "gpu"] = "cpu",
        device_id: int = 0,
        threads: int | None = None,
        prefetch: int = 2,
        read_ahead: int = 4,
    ) -> None:
        """Prepare a loader; nothing is read before the first batch.

        Args:
            catalog: The samples.
            stream: Which row at which position.
            rows: Feature table whose rows the stream draws (crops with windows); without it rows are samples.
            transform: Geometry and normalisation; by default whole small images, or ImageNet's training crops.
            batch_size: Images per batch of this rank.
            rank: This process, in [0, world_size).
            world_size: Number of processes.
            drop_last: Leave out the last global batch when it is not full.
            device: `cpu`, or `gpu` for decoding and transforms there.
            device_id: Which GPU.
            threads: DALI's worker threads; all cores of this process by default.
            prefetch: Runs that DALI computes ahead; a run is a batch, or for small raw images about 2048 images.
            read_ahead: Runs of DALI whose bytes are read ahead of it.

        Raises:
            ValueError: Stream, rows and catalog do not fit each other, or an option is out of range.
        """
        _check(batch_size=batch_size, rank=rank, world_size=world_size, prefetch=prefetch, read_ahead=read_ahead)
        self.catalog = catalog
        self.transform = transform or default_transform(catalog, train=True)
        self._rows = rows
        self._batch_size, self._rank, self._world_size = batch_size, rank, world_size
        self._drop_last = drop_last
        self._epoch, self._position, self._resumed = 0, 0, False
        spec = graph_spec(catalog, rows, self.transform)
        small = spec.raw and max(self.transform.size) <= SMALL
        group = max(1, RUN // batch_size) if small else 1
        self._feed = Feed(catalog, rows, spec, group=group, read_ahead=prefetch + read_ahead)
        self._spec = spec
        self._options: dict[str, Any] = {
            "batch_size": batch_size * group,
            "device": device,
            "device_id": device_id,
            "threads": threads or len(os.sched_getaffinity(0)),
            "prefetch": prefetch,
        }
        self._pipeline: Any = None
        self.stream: Stream
        self.replace_stream(stream)

    def replace_stream(self, stream: Stream) -> None:
        """Follow another stream over the same rows, from its epoch 0; the graph and the threads stay."""
        n = len(self.catalog) if self._rows is None else len(self._rows.sample_id)
        if stream.rows > n or (stream.rows < n and not isinstance(stream, Sequential)):
            what = "samples in the catalog" if self._rows is None else "rows in the feature table"
            raise ValueError(f"the stream draws from {stream.rows} rows, but there are {n} {what}: build it for these")
        self.stream = stream
        self._epoch, self._position, self._resumed = 0, 0, False

    @property
    def epoch(self) -> int:
        """Number of the epoch that the next iteration yields."""
        return self._epoch

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next iteration, from its start, or from the restored position right after a load."""
        if epoch < 0:
            raise ValueError(f"`epoch >= 0` must hold, but got {epoch}")
        if not (self._resumed and epoch == self._epoch):
            self._position = 0
        self._epoch, self._resumed = epoch, False

    def __len__(self) -> int:
        """Batches of a whole epoch, the same on every rank."""
        return len(self._plan(0))

    def __iter__(self) -> Iterator[Batch]:
        """Yield the batches of the current epoch from the current position on."""
        plan = self._plan(self._position)
        self._resumed = False
        self._feed.begin(plan)
        pipeline, self._pipeline = self._pipeline or build_pipeline(self._feed, self._spec, **self._options), None
        step = 0
        for run in range(self._feed.runs):
            try:
                (images,) = pipeline.run()
            except RuntimeError as error:
                raise self._explain(error) from None
            for batch in self._batches(images, run):
                self._position = plan.end(step)
                step += 1
                yield batch
        self._finish(pipeline)

    def state_dict(self) -> dict[str, Any]:
        """JSON-able position: what was seen up to the batch yielded last, and fingerprints of what it means."""
        return {**self._identity(), "epoch": self._epoch, "position": self._position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken, also with another batch size or number of ranks.

        Raises:
            ValueError: The state belongs to another catalog, stream, table or transform; both sides are shown.
        """
        for key, mine in self._identity().items():
            theirs = state.get(key)
            if theirs != mine:
                raise ValueError(f"this state is of another {key}: saved {theirs!r}, loader has {mine!r}")
        self._epoch, self._position, self._resumed = int(state["epoch"]), int(state["position"]), True

    def close(self) -> None:
        """Stop the reading threads and free DALI's buffers."""
        self._pipeline = None
        self._feed.close()

    def _identity(self) -> dict[str, Any]:
        transform = {k: list(v) if isinstance(v, tuple) else v for k, v in self.transform.as_dict().items()}
        return {
            "format": 1,
            "catalog": self.catalog.fingerprint,
            "rows": None if self._rows is None else getattr(self._rows, "fingerprint", None),
            "stream": self.stream.fingerprint,
            "transform": transform,
        }

    def _plan(self, start: int) -> Plan:
        order = self.stream.epoch(self._epoch)
        return Plan(
            order, self.stream.seed, self._epoch, start, self._batch_size, self._rank, self._world_size, self._drop_last
        )

    def _batches(self, images: Any, run: int) -> Iterator[Batch]:
        """The batches of a finished DALI run."""
        prepared = self._feed.take(run)
        pixels = torch.from_dlpack(images.as_tensor()).clone()  # DALI reuses its buffer for a later run
        around = (torch.from_numpy(a) for a in (prepared.labels, prepared.ids, prepared.weights))
        tensors = (pixels, *(t.to(pixels.device, non_blocking=True) for t in around))
        for a, b in pairwise(prepared.bounds.tolist()):
            yield Batch(*(t[a:b] for t in tensors))

    def _finish(self, pipeline: Any) -> None:
        """Take DALI past the end of the pass, so that the same graph serves the next one."""
        try:
            pipeline.run()
        except StopIteration:
            pipeline.reset()
            self._pipeline = pipeline

    def _explain(self, error: RuntimeError) -> Exception:
        """Name the sample behind a DALI error, which speaks of the whole batch."""
        if isinstance(error, BadSampleError) or self._spec.raw:
            return error
        for prepared in self._feed.waiting():
            sample = first_undecodable(prepared)
            if sample is not None:
                where = self.catalog.shard_path(int(self.catalog.shard[sample]))
                name = f"sample {self.catalog.key(sample)!r} (row {sample}) of {where}"
                return BadSampleError(f"{name} cannot be decoded: remove it from the data set, or replace it", sample)
        return error


def default_transform(catalog: Catalog, *, train: bool) -> Transform:
    """Whole images when no side of any image exceeds 64 pixels and all have one size, else ImageNet's recipe."""
    height, width = int(catalog.height.max()), int(catalog.width.max())
    if max(height, width) <= SMALL:
        return Transform.small((height, width), catalog.channels)
    return Transform.large(train=train)


def graph_spec(catalog: Catalog, rows: Rows | None, transform: Transform) -> GraphSpec:
    """Which graph these images need.

    Raises:
        ValueError: Channels differ, raw and encoded images are mixed, or raw images have several sizes.
    """
    kinds = np.bincount(catalog.encoding_codes, minlength=len(ENCODINGS))
    raw = bool(kinds[ENCODINGS.index("raw")])
    sizes = len(np.unique(catalog.height)) * len(np.unique(catalog.width))
    if raw and (kinds[ENCODINGS.index("raw")] < len(catalog) or sizes > 1):
        raise ValueError(
            f"{catalog.path}: raw images cannot be mixed with encoded ones, or have several sizes; pack them as png"
        )
    if len(transform.mean) != catalog.channels:
        raise ValueError(
            f"the transform normalises {len(transform.mean)} channels, but the images of {catalog.path} have "
            f"{catalog.channels}: give one mean and std per channel"
        )
    same = bool((catalog.height == transform.size[0]).all() and (catalog.width == transform.size[1]).all())
    has_windows = rows is not None and rows.windows is not None
    names: dict[str, Geometry] = {"none": "whole", "pad": "pad", "random": "window", "center": "center"}
    geometry = "window" if has_windows else names[transform.crop]
    mirror = transform.flip or (rows is not None and rows.flip is not None)
    return GraphSpec(transform, geometry, mirror, raw, geometry == "window" or not same, catalog.channels)


def _check(*, batch_size: int, rank: int, world_size: int, prefetch: int, read_ahead: int) -> None:
    for name, value in (("batch_size", batch_size), ("world_size", world_size), ("prefetch", prefetch)):
        if value < 1:
            raise ValueError(f"`{name} >= 1` must hold, but got {value}")
    if read_ahead < 0:
        raise ValueError(f"`read_ahead >= 0` must hold, but got {read_ahead}")
    if not 0 <= rank < world_size:
        raise ValueError(f"`0 <= rank < world_size` must hold, but got rank {rank} of {world_size}")
