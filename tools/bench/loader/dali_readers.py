"""DALI on its own: its WebDataset reader, in the shards' order or replaying one of ours, and a plain Python source.

The graph does the work of `pipeline.graph` on the same operators. Windows and coins are DALI's own draws of the same
law: `decoders.image_random_crop` cuts while it decodes, as `decoders.image_slice` does in ours.

Every round is one epoch from an empty pipeline to an empty pipeline, with runs computed ahead in between, like a pass
of our loader. A pipeline that went on working between the rounds would begin with batches made at another's expense.
"""

import os
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from drawstream.pipeline import write_replay
from drawstream.pipeline.images import dali, fn, types
from drawstream.pipeline.shards import Catalog, write_idx
from drawstream.samplers.orders import IndexStream
from drawstream.tools.bench.loader.rounds import Delivery, Setting, System

__all__ = ["dali_systems"]

_IMAGE = "jpg;jpeg;png;webp"


def dali_systems(catalog: Catalog, stream: IndexStream, setting: Setting, folder: Path, /) -> list[System]:
    """The three of them; index files go into `folder`. Labels must be class numbers in `.cls` members."""
    order = stream.epoch(0)[:]
    by_shard = order[np.argsort(catalog.shard[order], kind="stable")]
    plain = _PlainReads(catalog, order, setting.batch_size)
    replayed = write_replay(catalog, order, folder / "replay", by_shard=True)
    return [
        _system("dali webdataset reader", _reader(_idx_files(catalog, folder / "idx")), catalog.label, setting),
        _system("dali webdataset reader, replay", _reader(replayed), catalog.label[by_shard], setting),
        _system("dali external_source, no read-ahead", plain.node, catalog.label[order], setting),
    ]


def _reader(files: dict[str, list[str]]) -> Callable[[], tuple[Any, Any]]:
    def node() -> tuple[Any, Any]:
        images, labels = fn.readers.webdataset(**files, ext=[_IMAGE, "cls"], missing_component_behavior="error")
        return images, labels

    return node


def _idx_files(catalog: Catalog, folder: Path) -> dict[str, list[str]]:
    folder.mkdir(parents=True, exist_ok=True)
    names = [folder / f"{shard:05d}.idx" for shard in range(len(catalog.shards))]
    for shard, name in enumerate(names):
        write_idx(catalog, shard, name)
    paths = [str(catalog.shard_path(shard)) for shard in range(len(names))]
    return {"paths": paths, "index_paths": [str(name) for name in names]}


class _PlainReads:
    """The usual first attempt: DALI calls a Python function that reads a batch file by file."""

    def __init__(self, catalog: Catalog, order: NDArray[np.int64], batch_size: int) -> None:
        self._catalog, self._order, self._batch_size = catalog, order, batch_size
        self._files = [os.open(catalog.shard_path(shard), os.O_RDONLY) for shard in range(len(catalog.shards))]
        for file in self._files:
            weakref.finalize(self, os.close, file)

    def node(self) -> tuple[Any, Any]:
        """Images and labels as DALI's source gives them."""
        images, labels = fn.external_source(
            source=self._read, num_outputs=2, dtype=[types.UINT8, types.UINT8], ndim=[1, 1], batch_info=True
        )
        return images, labels

    def _read(self, info: Any) -> tuple[list[NDArray[np.uint8]], list[NDArray[np.uint8]]]:
        catalog = self._catalog
        at = np.arange(info.iteration * self._batch_size, (info.iteration + 1) * self._batch_size)
        rows = self._order[at % len(self._order)].tolist()
        images = [
            os.pread(self._files[catalog.shard[row]], int(catalog.size[row]), int(catalog.offset[row])) for row in rows
        ]
        labels = [b"%d" % catalog.label[row] for row in rows]
        return [np.frombuffer(data, np.uint8) for data in images], [np.frombuffer(data, np.uint8) for data in labels]


def _system(name: str, source: Callable[[], tuple[Any, Any]], labels: NDArray[np.int64], setting: Setting) -> System:
    """A system over `labels` again and again; a round is an epoch, brought up to whole batches."""
    on_gpu = setting.device == "gpu"
    pipeline = dali.Pipeline(
        batch_size=setting.batch_size,
        num_threads=setting.threads,
        device_id=0 if on_gpu else None,
        prefetch_queue_depth=setting.prefetch,
    )
    with pipeline:
        data, classes = source()
        pipeline.set_outputs(_graph(data, setting), classes)
    pipeline.build()
    pipeline.schedule_run()  # the first call begins as many runs as are computed ahead, all others one
    for _ in range(setting.prefetch):
        pipeline.share_outputs()
        pipeline.release_outputs()
    runs = -(-len(labels) // setting.batch_size)

    def deliver(_: int) -> Delivery:
        began = time.perf_counter()
        found = [label for outputs in _runs(pipeline, runs, setting.prefetch) for label in _labels(outputs[1])]
        if on_gpu:
            torch.cuda.synchronize()
        return Delivery(time.perf_counter() - began, len(found), np.array(found))

    def expected(number: int) -> NDArray[np.int64]:
        batches = np.arange(runs) + setting.prefetch + number * runs
        positions = batches[:, None] * setting.batch_size + np.arange(setting.batch_size)
        chosen: NDArray[np.int64] = labels[positions.ravel() % len(labels)]
        return chosen

    return System(name, setting.batch_size, deliver, expected)


def _graph(data: Any, setting: Setting) -> Any:
    transform = setting.transform
    images = fn.decoders.image_random_crop(
        data,
        device="mixed" if setting.device == "gpu" else "cpu",
        output_type=types.RGB,
        random_area=list(transform.scale),
        random_aspect_ratio=list(transform.ratio),
        num_attempts=10,
    )
    images = fn.resize(images, size=transform.size, antialias=True)
    return fn.crop_mirror_normalize(
        images,
        dtype=types.FLOAT,
        output_layout="CHW",
        crop=transform.size,
        mean=list(transform.mean),
        std=list(transform.std),
        mirror=fn.random.coin_flip(),
    )


def _runs(pipeline: Any, count: int, prefetch: int) -> Iterator[Any]:
    """Outputs of exactly `count` runs, some of them computed ahead; nothing is left in the pipeline."""
    for _ in range(min(prefetch, count)):
        pipeline.schedule_run()
    for done in range(count):
        yield pipeline.share_outputs()
        pipeline.release_outputs()
        if done + prefetch < count:
            pipeline.schedule_run()


def _labels(classes: Any) -> Sequence[int]:
    return [int(classes.at(i).tobytes()) for i in range(len(classes))]
