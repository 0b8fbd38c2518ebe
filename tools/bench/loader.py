"""The loader beside bare DALI: raw 28×28 images per second, the same graph, in one process.

Bare DALI gets one constant batch over and over from its external source: no stream, no reads, no checksums, no torch
tensors. That is the bound for any loader on this graph. It is run at the loader's batch sizes, and at 2048, the images
that the loader hands to DALI at once whatever the batch size. All systems run in alternating rounds and the median
counts, so a busy machine hurts them alike; the ratio is what to look at.
"""

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits

from drawstream.pipeline import ArraySource, Catalog, Loader, Source, Transform, open_source
from drawstream.pipeline.graph import build_pipeline
from drawstream.pipeline.loader import RUN, graph_spec
from drawstream.pipeline.pack import pack
from drawstream.samplers import IndexStream

__all__ = ["run"]

Round = Callable[[int], int]  # number of the round -> images delivered


def run(
    data: Path | None = None,
    *,
    batch_sizes: Sequence[int] = (128, 512),
    images: int = 60_000,
    rounds: int = 7,
    threads: int = 2,
    show: bool = True,
) -> dict[str, Any]:
    """Measure every system, print a table, and return it.

    Args:
        data: Folder of small images (IDX files such as Fashion-MNIST's); by default scikit-learn's digits, brought to
            28×28 and repeated.
        batch_sizes: Of the loader.
        images: Images of the data set, at most; a round is one epoch.
        rounds: Alternating rounds after one that does not count.
        threads: DALI's worker threads, for all systems.
        show: Print the table.

    Returns:
        `rows`: a dict per system with `system`, `batch_size`, `images_per_second` (median) and `rounds` (each);
        `ratio_to_bare_dali`: the loader at the first batch size over the fastest bare DALI.
    """
    torch_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory() as folder:
            source = open_source(data) if data else _digits(images)
            catalog = Catalog.open(pack(source, Path(folder) / "images", limit=min(images, len(source))).train)
            table = _compare(catalog, batch_sizes, rounds, threads)
    finally:
        torch.set_num_threads(torch_threads)
    bare = max(row["images_per_second"] for row in table if row["system"] != "drawstream")
    result = {"rows": table, "ratio_to_bare_dali": table[0]["images_per_second"] / bare}
    if show:
        print(format_table(result))
    return result


def _digits(images: int) -> Source:
    """Scikit-learn's 1 797 digits at 28×28 (pixels tripled, a border of 2), repeated to the wanted number."""
    digits = load_digits()
    pixels = np.pad(np.kron((digits.images * 15.9375).astype(np.uint8), np.ones((1, 3, 3), np.uint8)), _BORDER)
    return ArraySource(np.resize(pixels, (images, 28, 28)), np.resize(digits.target, images))


_BORDER = ((0, 0), (2, 2), (2, 2))


def _compare(catalog: Catalog, batch_sizes: Sequence[int], rounds: int, threads: int) -> list[dict[str, Any]]:
    height, width = int(catalog.height[0]), int(catalog.width[0])
    transform = Transform.small((height, width), catalog.channels)
    whole_run = max(1, RUN // (height * width * catalog.channels))
    systems: list[tuple[str, int, Round]] = []
    for batch_size in batch_sizes:
        loader = Loader(catalog, IndexStream(len(catalog)), transform=transform, batch_size=batch_size, threads=threads)
        systems.append(("drawstream", batch_size, _loader_round(loader)))
    systems += [
        ("dali external_source", batch_size, _bare_round(catalog, transform, batch_size, threads))
        for batch_size in (*batch_sizes, whole_run)
    ]
    speeds: list[list[float]] = [[] for _ in systems]
    for number in range(rounds + 1):
        for (_, _, deliver), speed in zip(systems, speeds, strict=True):
            began = time.perf_counter()
            count = deliver(number)
            speed.append(count / (time.perf_counter() - began))
    return [
        {
            "system": system,
            "batch_size": batch_size,
            "images_per_second": statistics.median(speed[1:]),
            "rounds": speed[1:],
        }
        for (system, batch_size, _), speed in zip(systems, speeds, strict=True)
    ]


def _loader_round(loader: Loader) -> Round:
    def deliver(number: int) -> int:
        loader.set_epoch(number)
        return sum(len(batch.ids) for batch in loader)

    return deliver


def _bare_round(catalog: Catalog, transform: Transform, batch_size: int, threads: int) -> Round:
    shape = (batch_size, int(catalog.height[0]), int(catalog.width[0]), catalog.channels)
    batch = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    pipeline = build_pipeline(
        lambda _: (batch,),
        graph_spec(catalog, None, transform),
        batch_size=batch_size,
        device="cpu",
        device_id=0,
        threads=threads,
        prefetch=2,
    )

    def deliver(_: int) -> int:
        runs = -(-len(catalog) // batch_size)
        for _ in range(runs):
            pipeline.run()
        return runs * batch_size

    return deliver


def format_table(result: dict[str, Any]) -> str:
    """The result as lines of text, speeds also as parts of the fastest bare DALI."""
    rows = result["rows"]
    bare = max(row["images_per_second"] for row in rows if row["system"] != "drawstream")
    lines = [f"{'system':<22} {'batch':>6} {'images/s':>10} {'slowest':>10} {'fastest':>10} {'of bare DALI':>13}"]
    for row in rows:
        speed = row["images_per_second"]
        lines.append(
            f"{row['system']:<22} {row['batch_size']:>6} {speed:>10,.0f} {min(row['rounds']):>10,.0f} "
            f"{max(row['rounds']):>10,.0f} {speed / bare:>13.2f}"
        )
    return "\n".join(lines)
