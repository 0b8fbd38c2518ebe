"""Our loader in the benchmark: weighted draws, ids, weights, windows per row, with checksums and without."""

import statistics
import time
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from drawstream.pipeline import Loader
from drawstream.pipeline.images import draw_windows
from drawstream.pipeline.reading import Checksum, Reading
from drawstream.pipeline.shards import Catalog
from drawstream.samplers.orders import IndexStream
from drawstream.tools.bench.loader.rounds import Delivery, Setting, System

__all__ = ["Ours", "StoredWindows", "weighted_stream"]

STEP = 1.25  # length of a training step as a multiple of the time between batches


def weighted_stream(rows: int, draws: int, seed: int) -> IndexStream:
    """Stratified draws from weights between 1/2 and 3/2."""
    return IndexStream(row_weights(rows, seed), mode="stratified", draws=draws, seed=seed)


def row_weights(rows: int, seed: int) -> NDArray[np.float64]:
    """The weights of `weighted_stream`."""
    return np.random.default_rng(seed).uniform(0.5, 1.5, rows)


@dataclass(frozen=True, slots=True, eq=False)
class StoredWindows:
    """Rows like those of a feature table: two crops per sample, each with its window and its flip."""

    sample_id: NDArray[np.int64]
    windows: NDArray[np.float32]
    flip: NDArray[np.bool_]
    fingerprint: str

    @classmethod
    def draw(cls, catalog: Catalog, setting: Setting, seed: int) -> "StoredWindows":
        """Windows by the law of the transform."""
        ids = np.repeat(np.arange(len(catalog)), 2)
        sizes = catalog.height[ids], catalog.width[ids]
        law = setting.transform
        windows = draw_windows(seed, 0, 0, *sizes, scale=law.scale, ratio=law.ratio)
        return cls(ids, windows, np.arange(len(ids)) % 2 == 1, f"two crops, seed {seed}")

    def check(self, fingerprint: str, where: str, /) -> None:
        """They are of the catalog they were drawn for."""


@dataclass(slots=True)
class Ours:
    """A loader, and when its first batches came.

    Attributes:
        loader: The loader.
        samples: Row of the catalog by row of the stream, or None where they are the same.
        first: Seconds from the start of a round to its first batch.
    """

    loader: Loader
    samples: NDArray[np.int64] | None = None
    first: list[float] = field(default_factory=list)

    @classmethod
    def build(
        cls,
        catalog: Catalog,
        stream: IndexStream,
        setting: Setting,
        rows: StoredWindows | None = None,
        checksum: Checksum = "always",
    ) -> "Ours":
        """A loader of this setting; `checksum` as of `Reading`."""
        loader = Loader(
            catalog,
            stream,
            rows=rows,
            transform=setting.transform,
            batch_size=setting.batch_size,
            device=setting.device,
            reading=Reading(threads=setting.threads, prefetch=setting.prefetch, checksum=checksum),
        )
        return cls(loader, None if rows is None else rows.sample_id)

    def system(self, name: str, batch_size: int) -> System:
        """As a system, whose labels must be those of the stream's rows, in its order."""
        return System(name, batch_size, self._deliver, self._expected)

    def waiting(self, seconds_per_batch: float) -> float:
        """Share of an epoch that a training step waits for its next batch, when a step takes `STEP` as long as a batch.

        The step sleeps, like a process that waits for a GPU; the time to the first batch is not counted.
        """
        step = STEP * seconds_per_batch
        self.loader.set_epoch(self.loader.epoch + 1)
        batches = iter(self.loader)
        next(batches)
        began, waited = time.perf_counter(), 0.0
        while True:
            time.sleep(step)
            asked = time.perf_counter()
            if next(batches, None) is None:
                return waited / max(asked - began, step)
            waited += time.perf_counter() - asked

    def first_batch(self) -> float:
        """Median seconds to the first batch of an epoch, the first epoch left out."""
        return statistics.median(self.first[1:])

    def _deliver(self, number: int) -> Delivery:
        self.loader.set_epoch(number)
        labels, first = [], 0.0
        began = time.perf_counter()
        for batch in self.loader:
            first = first or time.perf_counter() - began
            labels.append(batch.labels)
        if labels[0].is_cuda:
            torch.cuda.synchronize()
        seconds = time.perf_counter() - began
        self.first.append(first)
        found = torch.cat(labels).cpu().numpy()
        return Delivery(seconds, len(found), found)

    def _expected(self, number: int) -> NDArray[np.int64]:
        rows = self.loader.stream.epoch(number)[:]
        labels: NDArray[np.int64] = self.loader.catalog.label[rows if self.samples is None else self.samples[rows]]
        return labels
