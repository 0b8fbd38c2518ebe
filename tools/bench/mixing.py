"""A mixture of four catalogs beside one catalog of the same images, and seeks in a mixture of two vast sources.

python -m drawstream.tools.bench.mixing --images 4000 --rounds 9
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from drawstream import ArraySource, Catalog, IndexStream, Loader, MixedStream, Transform, index, pack
from drawstream.tools.bench.loader import pack_photos
from drawstream.tools.runs import machine

VAST = 10**9  # rows of each of two sources


def catalogs(folder: Path, images: int, /, *, raw: bool) -> tuple[Catalog, Catalog]:
    """Return one catalog, and one joined from four over the same shards; raw 28 × 28, or JPEGs of 500 × 375."""
    if raw:
        pixels = np.random.default_rng(0).integers(0, 256, (images, 28, 28), dtype=np.uint8)
        source = ArraySource(pixels, np.zeros(images, np.int64))
        whole = Catalog.open(pack(source, folder / "whole", shard_rows=-(-images // 8)).train)
    else:
        whole = pack_photos(folder / "whole", images=images)
    tars = [str(whole.shard_path(shard)) for shard in range(len(whole.shards))]
    parts = [index(tars[at : at + 2], out=folder / f"part-{at}").parent for at in range(0, len(tars), 2)]
    return whole, Catalog.open(*parts, classes="union")


def speeds_of_pass(loader: Loader, epoch: int, /) -> tuple[float, float]:
    """Return images per second of one pass, and per second of the processor: other work on the machine is not in it."""
    loader.set_epoch(epoch)
    begin, used, count = time.perf_counter(), time.process_time(), 0
    for batch in loader:
        count += len(batch.ids)
    return count / (time.perf_counter() - begin), count / (time.process_time() - used)


def compare(folder: Path, images: int, rounds: int, /, *, raw: bool) -> None:
    """Print the speeds in turns, and the median of the ratios of neighbours."""
    one, four = catalogs(folder, images, raw=raw)
    mixture = MixedStream([IndexStream(each.rows, seed=g) for g, each in enumerate(four.members)], [1, 1, 1, 1])
    transform = None if raw else Transform.large(train=True)
    loaders = [
        Loader(catalog, stream, transform=transform, batch_size=128)
        for catalog, stream in ((one, IndexStream(len(one))), (four, mixture))
    ]
    speeds: list[list[tuple[float, float]]] = [[], []]
    for epoch in range(rounds + 1):
        for which in (0, 1) if epoch % 2 else (1, 0):
            speed = speeds_of_pass(loaders[which], epoch)
            if epoch:  # the first one builds the graph
                speeds[which].append(speed)
    print(f"{'raw 28 × 28' if raw else 'JPEG 500 × 375'}, {rounds} pairs")
    for clock, name in enumerate(("second", "processor second")):
        single, mixed = ([each[clock] for each in side] for side in speeds)
        ratios = [four / one for one, four in zip(single, mixed, strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        one_speed, four_speed = statistics.median(single), statistics.median(mixed)
        print(
            f"  images a {name}: one catalog {one_speed:,.0f}, mixture of four {four_speed:,.0f}, "
            f"ratio {middle:.3f} (half of the pairs {low:.3f} … {high:.3f})"
        )


def seek() -> None:
    """Print set-up and the time of 1 024 rows at places far apart, of two sources of 10^9 rows."""
    for name, shares in (
        ("fixed", [0.3, 0.7]),
        ("steps", [[(0, 0.3), (0.5, 0.0)], [(0, 0.7), (0.5, 1.0)]]),
        ("single", [0.3, 0.7]),
    ):
        kind = {"batches": "single", "global_batch": 1024} if name == "single" else {}
        _ = MixedStream([IndexStream(9), IndexStream(9)], [1, 1], epochs=1).epoch(0)[:9]  # compiles
        begin = time.perf_counter()
        stream = MixedStream([IndexStream(VAST), IndexStream(VAST, seed=1)], shares, epochs=90, **kind)  # type: ignore[arg-type]
        stream.epoch(0)[:1]
        setup = time.perf_counter() - begin
        stream.epoch(89)[:1]
        rng, times = np.random.default_rng(0), []
        for place in rng.integers(0, stream.draws - 1024, 200).tolist():
            begin = time.perf_counter()
            stream.epoch(int(rng.integers(90)))[place : place + 1024]
            times.append(time.perf_counter() - begin)
        middle, most = 1e3 * statistics.median(times), 1e3 * max(times)
        print(f"{name}: set-up {1e3 * setup:.1f} ms, 1 024 rows {middle:.2f} ms in the middle, {most:.2f} ms at most")


def main() -> None:
    """Run both."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=4000)
    parser.add_argument("--rounds", type=int, default=9)
    given = parser.parse_args()
    print(machine(), time.strftime("%Y-%m-%d"))
    seek()
    for raw, images in ((True, 60 * given.images), (False, given.images)):
        with tempfile.TemporaryDirectory() as folder:
            compare(Path(folder), images, given.rounds, raw=raw)


if __name__ == "__main__":
    main()
