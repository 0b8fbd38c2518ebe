"""Speed of a loader that gives captions, JSON, masks and boxes, beside the same loader without them.

    python -m drawstream.tools.bench.loader.fields --images 1000 --rounds 12 --json fields.json

Two catalogs are of the same shards, one of them with fields. Rounds alternate; a ratio is the median over the rounds of
the speed in a round against that of the catalog without fields. On a machine that does other work, too, `--clock cpu`
compares images per second of this process' CPU time in place of the time that goes by.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drawstream import ArraySource, Catalog, IndexStream, Loader, Source, Transform, index, pack
from drawstream.pipeline.fields import encode_value
from drawstream.tools.bench.loader.photos import HEIGHT, WIDTH, digits, pack_photos
from drawstream.tools.bench.loader.rounds import Delivery, System, alternate, median_ratio

CAPTION = "A photograph of something, number {}, seen from the side in the light of an afternoon in late summer"
ASKED: dict[str, dict[str, Any]] = {
    "without fields": {},
    "fields in the catalog": {},
    "captions": {"fields": ("txt",)},
    "captions, JSON": {"fields": ("txt", "json")},
    "masks": {"mask": "seg.png"},
    "boxes": {"boxes": "boxes.npy"},
}


class Photos:
    """The images of a catalog as a source, with fields.

    Args:
        catalog: Encoded images.
        fields: Their names.
    """

    name = "photos"

    def __init__(self, catalog: Catalog, fields: tuple[str, ...]) -> None:
        self.fields = fields
        self.labels, self.classes, self._catalog = catalog.label, catalog.classes, catalog

    def __len__(self) -> int:
        return len(self._catalog)

    def key(self, row: int) -> str:
        """The catalog's."""
        return self._catalog.key(row)

    def read(self, row: int) -> bytes:
        """The stored file."""
        with self._catalog.shard_path(self._catalog.shard[row]).open("rb") as file:
            file.seek(int(self._catalog.offset[row]))
            return file.read(int(self._catalog.size[row]))

    def read_field(self, row: int, name: str) -> bytes:
        """A caption, an object, a mask of eight classes in blocks, five boxes."""
        return encode_value(name, made(row, HEIGHT, WIDTH)[name]())


def made(row: int, height: int, width: int) -> dict[str, Callable[[], Any]]:
    """Values of the fields of a row."""
    rng = np.random.default_rng(row)
    corners = np.sort(rng.uniform(0, 1, (5, 2, 2)), axis=1) * (width, height)
    return {
        "txt": lambda: CAPTION.format(row),
        "json": lambda: {"caption": CAPTION.format(row), "url": f"https://example.org/{row}.jpg", "width": width},
        "seg.png": lambda: blocks(rng, height, width),
        "boxes.npy": lambda: corners.reshape(5, 4).astype(np.float32),
    }


def blocks(rng: np.random.Generator, height: int, width: int) -> NDArray[np.uint8]:
    """A mask whose classes lie in blocks, uint8 (height, width)."""
    coarse = rng.integers(0, 8, (-(-height // 25), -(-width // 25)), dtype=np.uint8)
    return np.kron(coarse, np.ones((25, 25), np.uint8))[:height, :width]


def system(
    name: str, catalog: Catalog, transform: Transform, options: dict[str, Any], clock: Callable[[], float]
) -> System:
    """A loader that delivers an epoch a round."""
    loader = Loader(catalog, IndexStream(len(catalog), seed=0), transform=transform, batch_size=128, **options)

    def deliver(number: int) -> Delivery:
        loader.set_epoch(number)
        began, images = clock(), 0
        for batch in loader:
            images += len(batch.ids)
        return Delivery(clock() - began, images)

    return System(name, 128, deliver)


def catalogs(folder: Path, kind: str, images: int) -> tuple[Catalog, Catalog, Transform]:
    """Two catalogs of the same shards, the second with fields, and the transform."""
    names = ("txt", "json", "seg.png", "boxes.npy")
    source: Source
    if kind == "photos":
        source, transform = Photos(pack_photos(folder / "photos", images=images), names), Transform.large(train=True)
    else:
        small = digits(images)
        values = [made(row, 28, 28) for row in range(images)]
        fields = {name: [each[name]() for each in values] for name in names}
        pixels = np.stack([small.read(row) for row in range(images)])
        source, transform = ArraySource(pixels, small.labels, fields=fields), Transform.small((28, 28), 1)
    rich = pack(source, folder / "fields").train
    return Catalog.open(index(rich, out=folder / "plain")), Catalog.open(rich), transform


def main() -> None:
    """Print the table, and write it with `--json`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", choices=("photos", "digits"), default="photos")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    given = parser.parse_args()
    clock = time.perf_counter if given.clock == "wall" else time.process_time
    with TemporaryDirectory() as folder:
        plain, rich, transform = catalogs(Path(folder), given.kind, given.images)
        systems = [
            system(name, plain if name == "without fields" else rich, transform, options, clock)
            for name, options in ASKED.items()
        ]
        rows = alternate(systems, given.rounds)
    for row in rows:
        row["ratio"] = median_ratio(row["rounds"], rows[0]["rounds"])
        print(f"{row['system']:24} {row['images_per_second']:10,.0f} images/s   ratio {row['ratio']:.3f}")
    if given.json:
        given.json.write_text(json.dumps({"kind": given.kind, "images": given.images, "rows": rows}))


if __name__ == "__main__":
    main()
