"""The loader: an index stream in, batches of torch tensors out, through DALI or Pillow; resumable at any batch."""

import os
import reprlib
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from itertools import pairwise
from typing import Any, NoReturn

import numpy as np
import torch
import torch.utils.dlpack
from numpy.typing import ArrayLike
from torch import Tensor

from drawstream.pipeline.batch import Batch, to_device
from drawstream.pipeline.fields import NO_MASK, FieldReader, FieldRequest
from drawstream.pipeline.images import (
    Backend,
    Geometry,
    GraphSpec,
    Inputs,
    Rows,
    Transform,
    build_graph,
    choose_backend,
)
from drawstream.pipeline.numbers import MOST, whole
from drawstream.pipeline.place import Follower, Place, Stream, caller
from drawstream.pipeline.reading import (
    ENDING,
    LEAVE_OUT,
    BadSample,
    BadSampleError,
    BadSamples,
    Batching,
    Feed,
    Meter,
    Plan,
    Prepared,
    Reader,
    Reading,
    ShardFiles,
    interpreter_ends,
    name_sample,
    undecodable,
)
from drawstream.pipeline.shards import ENCODINGS, RAW, Catalog
from drawstream.samplers import check_groups, cores
from drawstream.samplers.orders import IndexStream, RowSampler

SMALL = 64  # pixels; catalogs with no side above it are taken whole by default
RUN = 2048 * 28 * 28  # raw values per DALI run: at 128 images of 28×28 a run's cost is half of the time, at 2048 none


class Loader(Follower):
    """Iterates the batches of one rank; the order is the stream's and does not depend on ranks, threads or prefetch.

    Global batch g holds positions [g·G, (g+1)·G) of the epoch with G = batch_size · world_size; a rank takes its
    contiguous part. The last global batch may be smaller: every rank then gets the same, smaller number of images,
    and what is missing to that is filled from the start of the epoch with weight 0 (`drop_last` leaves it out).

    Each `for` goes over the whole epoch, or over its rest right after `load_state_dict`. A loop may be left early, and
    several may run at once; `state_dict` speaks of the one begun last. A second pass over an epoch of a shuffled stream
    that `set_epoch` did not ask for warns.

        >>> loader = Loader(catalog, IndexStream(len(catalog), seed=0), batch_size=128)
        >>> for epoch in range(90):
        ...     loader.set_epoch(epoch)
        ...     for batch in loader:
        ...         loss = F.cross_entropy(model(batch.images), batch.labels)
        >>> validation = Loader(held_out, batch_size=512)  # no stream: every row once, in order, evaluation transform
    """

    @check_groups(
        {"read_ahead": "ahead"},
        {"device_id": "`device_id` is part of the device: give `device='gpu:N'`"},
        reading=Reading,
    )
    def __init__(
        self,
        catalog: Catalog,
        stream: Stream | RowSampler | ArrayLike | None = None,
        /,
        *,
        rows: Rows | None = None,
        transform: Transform | None = None,
        batch_size: int = 128,
        rank: int = 0,
        world_size: int = 1,
        drop_last: bool = False,
        device: str = "cpu",
        backend: Backend | None = None,
        fields: Sequence[str] = (),
        mask: str | None = None,
        boxes: str | None = None,
        reading: Reading = Reading(),
    ) -> None:
        """Prepare a loader; nothing is read before the first batch.

        Args:
            catalog: The samples.
            stream: Which row at which position. Of weights, float (rows,), or a row sampler an `IndexStream` is made.
                None is for validation: every row once, in order, with the transform for evaluation.
            rows: Feature table whose rows the stream draws (crops with windows); without it rows are samples.
            transform: Geometry and normalisation; by default whole small images, or ImageNet's crops (with a stream
                those for training, without one those for evaluation).
            batch_size: Images per batch of this rank.
            rank: This process, in [0, world_size).
            world_size: Number of processes.
            drop_last: Leave out the last global batch when it is not full.
            device: Where to decode and transform: `cpu`, `gpu`, or `gpu:1` for the GPU of that number.
            backend: `dali`, or `pillow` (threads of the CPU; the same rows, windows and flips, pixels within rounding).
                None: DALI, or Pillow where it is not installed. Like the device it is no part of the state.
            fields: Fields of the catalog to give with each batch, by name: `txt` as str, `json` as objects, `npy` as
                arrays, others as bytes; None where a sample has none. No other fields are read.
            mask: Field with PNGs of class numbers, which get the window, turn, size and flip of their images: int64
                (n, H, W), the nearest pixels, -100 outside of the image and in samples without one.
            boxes: Field with boxes, numbers (k, 4) as x0, y0, x1, y1 in pixels of the stored image: `boxes.npy`, or
                `json:PATH.TO.KEY`. They get the geometry of their images: lists of `Boxes`.
            reading: Threads, read-ahead, checksums, remote shards, and what to do with bad samples.

        Raises:
            TypeError: A number is not a whole one, the stream is none, or the catalog is none.
            ValueError: Stream, rows and catalog do not fit each other, or an option is out of range.
        """
        _check_catalog(catalog)
        if rows is not None:
            _check_rows(rows, catalog)
        whole("batch_size", batch_size, least=1, below=MOST)
        batching = Batching(batch_size, rank, world_size, drop_last)
        self._gpu = _gpu_number(device)
        self.backend = choose_backend(backend, level=caller()[1])
        self.catalog = catalog
        self.transform = transform or default_transform(catalog, train=stream is not None)
        self._rows, self._reading = rows, reading
        self._place = Place(
            "loader",
            stream,
            batching,
            rows=len(catalog) if rows is None else len(rows.sample_id),
            what="samples in the catalog" if rows is None else "rows in the feature table",
        )
        self._asked = FieldRequest.of(fields, mask, boxes)
        self._asked.check(catalog, self.transform)
        self._spec = replace(graph_spec(catalog, rows, self.transform), mask=self._asked.mask is not None)
        values = int(catalog.height[0]) * int(catalog.width[0]) * catalog.channels
        group = max(1, RUN // (values * batching.batch_size)) if self._spec.raw else 1
        self._run_size = batching.batch_size * group
        self._bad = BadSamples(catalog, reading)
        self._meter = Meter(nvtx=self._gpu is not None)
        asked = self._asked
        self._files = ShardFiles(catalog, fields=asked.members, checksum=reading.checksum, remote=reading.remote)
        source = Inputs(catalog, self._spec, rows, places=asked.boxes is not None)
        reader = FieldReader(catalog, asked, self.transform.size) if asked.members else None
        how: dict[str, Any] = {"threads": reading.read_threads, "backend": self.backend, "fields": reader}
        self._reader = Reader(source, self._files, self._bad, self._meter, group=group, **how)
        self._idle: list[tuple[Feed, Any]] = []  # a graph that has ended a pass and can begin another
        # the graphs under way: else one in garbage, with the loop that gives it back, would be destroyed as it is idle
        self._busy: dict[int, tuple[Feed, Any]] = {}
        self._process: int | None = None  # the one that has the threads and the graph
        self._closed = False

    def replace_stream(self, stream: Stream | RowSampler | ArrayLike | None) -> None:
        """Follow another stream over the same rows, from its epoch 0; the graph and the threads stay.

        Raises:
            ValueError: The stream draws from another number of rows.
        """
        self._place.follow(stream)
        self._place.go(0)

    @property
    def epoch(self) -> int:
        """Number of the epoch that the next iteration yields."""
        return self._place.epoch

    @property
    def plan(self) -> Plan | None:
        """Which positions the batches of the pass begun last hold; None while none is under way from here."""
        return self._place.plan

    @property
    def global_batch(self) -> int:
        """Rows of a step over all ranks."""
        return self._place.batching.global_batch

    def __len__(self) -> int:
        """Batches of a whole epoch, the same on every rank."""
        return self._place.steps

    def __iter__(self) -> Iterator[Batch]:
        """Yield the batches of the current epoch: all of them, or the rest right after a load.

        Raises:
            BadSampleError: An image is damaged or does not decode; the batches before its own are given first.
        """
        self._require_here()
        plan = self._place.begin()
        if isinstance(self.stream, IndexStream) and self.stream.sets_up_epochs:
            self.stream.prepare(plan.epoch + 1)
        step = 0
        began = asked = time.perf_counter()
        with self._place.leaving(plan), closing(self._delivered(plan)) as batches:
            for batch in batches:
                self._place.move(plan, step)
                step += 1
                waited = time.perf_counter() - asked
                self._meter.add(images=len(batch.ids), batches=1)
                yield batch
                self._place.go_on(plan)
                self._require_here()
                asked = time.perf_counter()
                self._meter.add(seconds=asked - began, wait_seconds=waited)
                began = asked

    @property
    def metrics(self) -> dict[str, Any]:
        """Counts and times of this loader, over all epochs, JSON-able.

        `images`, `batches`, `bytes_read`, `substituted` (positions that got another draw), `bad_samples` (distinct ones
        met); `seconds` in loops over it, `wait_seconds` of them waiting for a batch, `read_seconds` in its reading
        threads; `images_per_second` and `wait_share` follow from these. Of a remote catalog also `bytes_downloaded`
        and `retries` (requests), and with a cache `hits` and `misses` (shards).
        """
        return {**self._meter.as_dict(), "bad_samples": len(self._bad.met), **self._files.counts}

    @property
    def bad_samples(self) -> tuple[BadSample, ...]:
        """The samples that were found bad and replaced so far, by row; without those of the quarantine list."""
        return self._bad.met

    def close(self) -> None:
        """Stop the reading thread and free DALI's buffers; a closed loader gives no more batches."""
        self._closed = True
        self._idle.clear()
        self._reader.close()

    def _require_here(self) -> None:
        """Refuse a closed loader, and one whose threads are in the process that this one was forked from."""
        if self._closed:
            raise ValueError("this loader is closed: make a new one")
        self._process = self._process or os.getpid()
        if self._process != os.getpid():
            raise ValueError(
                f"this loader was used in process {self._process} before the fork, and its threads and its graph are "
                "there: make a new one in this process, or start processes with spawn"
            )

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a loader cannot be copied or sent to another process, for it holds threads and a graph: make a new "
            "one there, of the same catalog, stream and options"
        )

    @property
    def identity(self) -> dict[str, Any]:
        """Values that must be equal in a state and in the loader that loads it, JSON-able."""
        return {
            "format": 1,
            "catalog": self.catalog.fingerprint,
            "rows": None if self._rows is None else self._rows.fingerprint,
            "stream": self.stream.fingerprint,
            "transform": self.transform.as_dict(),
        }

    def _delivered(self, plan: Plan) -> Generator[Batch, None, None]:
        """The batches of a plan; where DALI refuses an image that may be replaced, it begins anew at that run."""
        run, count = 0, self._reader.runs(plan)
        while run < count:
            feed, pipeline = graph = self._idle.pop() if self._idle else self._new_graph()
            feed.begin(plan, run)
            self._busy[id(graph)] = graph
            try:
                while run < count:
                    yield from self._batches(feed, pipeline, run)
                    run += 1
            except _RefusedError as refused:
                self._bad.add(refused.args)
            finally:
                feed.stop()
                del self._busy[id(graph)]
                if self._process == os.getpid() and self._drain(feed, pipeline) and not self._closed:
                    self._idle[:] = [graph]

    def _new_graph(self) -> tuple[Feed, Any]:
        reading = self._reading
        feed = Feed(self._reader, read_ahead=reading.prefetch + reading.ahead)
        how: dict[str, Any] = {"threads": reading.threads or cores(), "prefetch": reading.prefetch}
        return feed, build_graph(self.backend, feed, self._spec, run_size=self._run_size, gpu=self._gpu, **how)

    def _batches(self, feed: Feed, pipeline: Any, run: int) -> Iterator[Batch]:
        """The batches of the next DALI run."""
        outputs: tuple[Any, ...] = ()
        # on a GPU, DALI's memory is given back in the order of torch's work on it
        stream = None if self._gpu is None else torch.cuda.current_stream(self._gpu)
        with self._meter.range("drawstream.run"):
            try:
                with suppress(StopIteration):  # its read failed: `take` raises why
                    outputs = pipeline.run(stream)
            except (RuntimeError, AttributeError) as error:  # the latter of a DALI that was shut down
                raise self._explain(error, feed.take(run)) from None
        prepared = feed.take(run)
        # the memory is torch's now: DALI's executor takes new for a run
        ours = isinstance(outputs[0], Tensor)
        made = outputs if ours else [torch.utils.dlpack.from_dlpack(each.as_tensor()) for each in outputs]
        if ours or stream is None:
            self._reader.buffers.give(prepared.buffer)  # on a GPU DALI's copies from it may still be under way
        else:
            made = [each.clone() for each in made]
        self._meter.add(substituted=prepared.substituted)
        around = prepared.labels, prepared.ids, prepared.weights
        labels, ids, weights = (to_device(each, made[0].device) for each in around)
        whole_run = Batch(made[0], labels, ids, weights, self._with_mask(prepared, made[1:]))
        for a, b in pairwise(prepared.bounds.tolist()):
            yield whole_run.rows(slice(a, b))

    def _with_mask(self, prepared: Prepared, masks: Sequence[Tensor]) -> dict[str, Any]:
        """The fields of a run, with the masks that the graph gave, int64 (n, H, W, 1), where it did."""
        if self._asked.mask is None:
            return prepared.fields
        mask = masks[0][..., 0]
        if len(prepared.unmasked):
            mask[to_device(prepared.unmasked, mask.device)] = NO_MASK
        return {**prepared.fields, self._asked.mask: mask}

    def _drain(self, feed: Feed, pipeline: Any) -> bool:
        """Let DALI finish the runs it has begun, for it reads the feed's arrays; whether it can serve another pass."""
        for _ in range(self._reading.prefetch + 2):
            try:
                pipeline.run()
            except StopIteration:
                pipeline.reset()
                feed.drop()
                return True
            except RuntimeError:  # one more image that does not decode
                continue
            except AttributeError:  # the interpreter exits, and DALI has shut down before this loop did
                return False
        return False  # dropped with its feed, which stays until DALI has let go of it

    def _explain(self, error: Exception, prepared: Prepared) -> Exception:
        """Name the samples behind a DALI error, which speaks of the whole run."""
        samples = undecodable(prepared.samples, prepared.inputs, self._spec, gpu=self._gpu, backend=self.backend)
        if interpreter_ends():  # DALI refuses every image then
            return ENDING
        named = [(sample, name_sample(self.catalog, sample)) for sample in samples]
        law = f"cannot be decoded: {LEAVE_OUT}"
        return _RefusedError(*(BadSampleError(f"{name} {law}", sample) for sample, name in named)) if named else error


class _RefusedError(Exception):
    """DALI refused the images of the errors in `args`."""


def default_transform(catalog: Catalog, *, train: bool) -> Transform:
    """Whole images, brought to the largest height and width, when no side exceeds 64 pixels; else ImageNet's recipe."""
    height, width = int(catalog.height.max()), int(catalog.width.max())
    if max(height, width) <= SMALL:
        return Transform.small((height, width), catalog.channels)
    return Transform.large(train=train, channels=catalog.channels)


def graph_spec(catalog: Catalog, rows: Rows | None, transform: Transform) -> GraphSpec:
    """Return the graph that these images need.

    Raises:
        ValueError: Colour is to be made gray, raw and encoded images are mixed, or raw images have several sizes.
    """
    codes = np.bincount(catalog.encoding_codes, minlength=len(ENCODINGS))
    raw = bool(codes[RAW])
    size = int(catalog.height[0]), int(catalog.width[0])
    one_size = bool((catalog.height == size[0]).all() and (catalog.width == size[1]).all())
    if raw and not (codes[RAW] == len(catalog) and one_size):
        raise ValueError(
            f"{catalog.path}: raw images cannot be mixed with encoded ones, or have several sizes; pack them as png"
        )
    channels = len(transform.mean)
    if channels < catalog.channels:
        raise ValueError(
            f"the transform normalises {channels} channels, but the images of {catalog.path} have "
            f"{catalog.channels}: give one mean and std per channel"
        )
    has_windows = rows is not None and rows.windows is not None
    names: dict[str, Geometry] = {"none": "whole", "pad": "pad", "random": "window", "center": "center"}
    geometry = "window" if has_windows else names[transform.crop]
    mirror = transform.flip or (rows is not None and rows.flip is not None)
    resize = geometry == "window" or not one_size or size != tuple(transform.size)
    widen = channels > catalog.channels
    return GraphSpec(transform, geometry, mirror, raw, resize, channels, catalog.turn is not None, widen)


def _gpu_number(device: Any) -> int | None:
    """Return the number of the GPU that a device names; None for the CPU."""
    kind, colon, number = str(device).partition(":")
    if kind not in ("cpu", "gpu") or (colon and (kind == "cpu" or not number.isdecimal())):
        raise ValueError(f"`device` must be cpu, gpu or gpu:N, but got {device!r}")
    if kind == "cpu":
        return None
    if not torch.cuda.is_available():
        raise ValueError(f"`device={device!r}` needs a CUDA device, but there is none: use cpu")
    return int(number or 0)


def _check_catalog(catalog: Any) -> None:
    if not isinstance(catalog, Catalog):
        path = isinstance(catalog, str | os.PathLike)
        remedy = (
            "open it with Catalog.open(path)" if path else "for a dataset with len() and [row] use StreamDataLoader"
        )
        raise TypeError(f"a loader takes a catalog, but got {reprlib.repr(catalog)}: {remedy}")


def _check_rows(rows: Rows, catalog: Catalog) -> None:
    rows.check(catalog.fingerprint, str(catalog.path))
    ids, windows = rows.sample_id, rows.windows
    if not len(ids):
        raise ValueError("the feature table has no rows: extract the features of a catalog that has some")
    if ids.min() < 0 or ids.max() >= len(catalog):
        raise ValueError(f"rows must be of samples in [0, {len(catalog)}), but got {ids.min()} … {ids.max()}")
    if windows is None:
        return
    if not ((windows[:, :2] < windows[:, 2:]).all() and windows.min() >= 0 and windows.max() <= 1):
        raise ValueError("`0 <= y0 < y1 <= 1` and `0 <= x0 < x1 <= 1` must hold for the window of every row")


ROWS = 10_000  # sampled rows: with 28×28 pixels each, the mean is known to about 0.2 of 255


def channel_statistics(
    catalog: Catalog, /, *, size: tuple[int, int], backend: Backend | None = None, reading: Reading = Reading()
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation per channel over at most 10 000 rows, in units of the stored 0..255.

    Images of another size are brought to `size` first, height and width in pixels. Values are rounded to 0.01; a
    constant channel gets the standard deviation 1.
    """
    zero, one = (0.0,) * catalog.channels, (1.0,) * catalog.channels
    stream = IndexStream(len(catalog), draws=min(len(catalog), ROWS))
    transform = Transform(size, zero, one)
    loader = Loader(catalog, stream, transform=transform, batch_size=256, backend=backend, reading=reading)
    total = torch.zeros(2, catalog.channels, dtype=torch.float64)
    pixels = 0
    for batch in loader:
        values = batch.images.double()
        total += torch.stack([values.sum((0, 2, 3)), values.square().sum((0, 2, 3))])
        pixels += values.shape[0] * values.shape[2] * values.shape[3]
    loader.close()
    mean, square = total / pixels
    std = (square - mean.square()).clamp_min(0).sqrt()
    std[std < 1e-3] = 1.0
    return tuple(round(m, 2) for m in mean.tolist()), tuple(round(max(s, 0.01), 2) for s in std.tolist())
