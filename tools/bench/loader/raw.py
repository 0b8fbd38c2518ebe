"""The loader beside bare DALI on raw images: images per second, the same graph, in one process.

Bare DALI gets one constant batch over and over from its external source: no stream, no reads, no checksums, no torch
tensors. That is the bound for any loader on this graph. It is run at the loader's batch sizes, and at 2048, the images
that the loader hands to DALI at once whatever the batch size.
"""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from drawstream.pipeline import RUN, Loader, graph_spec
from drawstream.pipeline.images import Transform, build_pipeline
from drawstream.pipeline.reading import Reading
from drawstream.pipeline.shards import Catalog
from drawstream.samplers.orders import IndexStream
from drawstream.tools.bench.loader.rounds import SPEEDS, Delivery, System, alternate
from drawstream.tools.experiments import Columns, table_of

__all__ = ["compare_raw", "format_raw"]

OURS = "drawstream"


def compare_raw(catalog: Catalog, batch_sizes: Sequence[int], /, *, rounds: int, threads: int) -> dict[str, Any]:
    """Measure the loader and bare DALI.

    Returns:
        `rows`, one per system as of `alternate`, and `ratio_to_bare_dali`: the loader at the first batch size over the
        fastest bare DALI.
    """
    height, width = int(catalog.height[0]), int(catalog.width[0])
    transform = Transform.small((height, width), catalog.channels)
    whole_run = max(1, RUN // (height * width * catalog.channels))
    systems = [_ours(catalog, transform, batch_size, threads) for batch_size in batch_sizes]
    systems += [_bare(catalog, transform, batch_size, threads) for batch_size in (*batch_sizes, whole_run)]
    table = alternate(systems, rounds)
    bare = max(row["images_per_second"] for row in table if row["system"] != OURS)
    return {"rows": table, "ratio_to_bare_dali": table[0]["images_per_second"] / bare}


def _ours(catalog: Catalog, transform: Transform, batch_size: int, threads: int) -> System:
    reading = Reading(threads=threads)
    loader = Loader(catalog, IndexStream(len(catalog)), transform=transform, batch_size=batch_size, reading=reading)

    def deliver(number: int) -> Delivery:
        loader.set_epoch(number)
        began = time.perf_counter()
        images = sum(len(batch.ids) for batch in loader)
        return Delivery(time.perf_counter() - began, images)

    return System(OURS, batch_size, deliver)


def _bare(catalog: Catalog, transform: Transform, batch_size: int, threads: int) -> System:
    shape = (batch_size, int(catalog.height[0]), int(catalog.width[0]), catalog.channels)
    batch = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    pipeline = build_pipeline(
        lambda _: (batch,),
        graph_spec(catalog, None, transform),
        run_size=batch_size,
        gpu=None,
        threads=threads,
        prefetch=2,
    )
    runs = -(-len(catalog) // batch_size)

    def deliver(_: int) -> Delivery:
        began = time.perf_counter()
        for _ in range(runs):
            pipeline.run()
        return Delivery(time.perf_counter() - began, runs * batch_size)

    return System("dali external_source", batch_size, deliver)


def format_raw(result: dict[str, Any]) -> str:
    """Return the result as lines of text, speeds also as parts of the fastest bare DALI."""
    bare = result["rows"][0]["images_per_second"] / result["ratio_to_bare_dali"]
    columns: Columns[dict[str, Any]] = {
        "system": lambda row: row["system"],
        "batch": lambda row: str(row["batch_size"]),
        **SPEEDS,
        "of bare DALI": lambda row: f"{row['images_per_second'] / bare:.2f}",
    }
    return table_of(result["rows"], columns).text()
