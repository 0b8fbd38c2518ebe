"""Images of the benchmarks: digits, files, and JPEGs like ImageNet's from photographs inside two packages' wheels.

ImageNet's training images are about 500×375 pixels and 110 kB. These are of that size, and of about as many bytes:
windows of eight photographs (scikit-image's and scikit-learn's) at random places, scales and mirrorings. A window that
is enlarged is too smooth for a camera's picture, so noise like a sensor's is added, and each image gets the JPEG
quality that brings it nearest to its size. Nothing is padded. The same seed gives the same images.
"""

import io
import math
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from drawstream import pack
from drawstream.pipeline.shards import FILE, Catalog
from drawstream.pipeline.sources import FASHION_MNIST, ArraySource, Source, open_source

__all__ = ["digits", "open_catalog", "pack_photos", "pack_smaller", "small_images", "write_files"]

WIDTH, HEIGHT = 500, 375  # pixels
BYTES = 110_000  # of a JPEG: ImageNet's mean
SHARDS = 8
NOISE = (3.0, 9.0)  # standard deviation per image, grey levels
QUALITY = (60, 98)  # of the JPEGs; above 98 files grow without better pictures
_SCIKIT_IMAGE = (
    "astronaut.png",
    "chelsea.png",
    "coffee.png",
    "motorcycle_left.png",
    "motorcycle_right.png",
    "rocket.jpg",
)


def open_catalog(path: str | Path, what: str, /) -> Catalog | None:
    """Return the catalog of a folder, which must have labels for `what`; None where there is none."""
    if not (Path(path) / FILE).is_file():
        return None
    catalog = Catalog.open(path)
    catalog.require_labels(what)
    return catalog


def small_images(data: str | Path, images: int, /) -> Source:
    """Return `digits`, repeated to so many, `fashion-mnist` or the source of a path."""
    return digits(images) if data == "digits" else open_source(FASHION_MNIST if data == "fashion-mnist" else data)


def digits(images: int, /) -> Source:
    """Return scikit-learn's 1 797 digits at 28×28 (pixels tripled, a border of 2), repeated to the wanted number."""
    from sklearn.datasets import load_digits

    data = load_digits()
    tripled = np.kron((data.images * 15.9375).astype(np.uint8), np.ones((1, 3, 3), np.uint8))
    pixels = np.pad(tripled, ((0, 0), (2, 2), (2, 2)))
    return ArraySource(np.resize(pixels, (images, 28, 28)), np.resize(data.target, images))


def write_files(catalog: Catalog, folder: Path, /, *, copies: int = 1) -> Path:
    """Write the images as files in ten class folders, each `copies` times as links to one file; return the folder."""
    for row in range(len(catalog)):
        place = folder / f"class-{row % 10}"
        place.mkdir(parents=True, exist_ok=True)
        first = place / f"{row:06d}-0.jpg"
        with catalog.shard_path(int(catalog.shard[row])).open("rb") as shard:
            first.write_bytes(os.pread(shard.fileno(), int(catalog.size[row]), int(catalog.offset[row])))
        for copy in range(1, copies):
            first.with_name(f"{row:06d}-{copy}.jpg").hardlink_to(first)
    return folder


def pack_photos(folder: Path, *, images: int, seed: int = 0) -> Catalog:
    """Make the images and pack them as shards, each with a class of its own, so that a label says which image it is.

    Returns:
        The catalog of eight shards (fewer for fewer images).

    Raises:
        ValueError: scikit-image is not installed.
    """
    target = folder / f"photos-{images}-{seed}"  # pack renames a finished folder: one that is there is whole
    if not target.exists():
        folder.mkdir(parents=True, exist_ok=True)
        photographs = _photographs()
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            jpegs = list(pool.map(lambda i: _jpeg(photographs, seed, i), range(images)))
        pack(_Photos(jpegs, f"photos, seed {seed}"), target, seed=seed, shard_rows=-(-images // SHARDS))
    return Catalog.open(target)


def pack_smaller(catalog: Catalog, folder: Path, /, *, short_side: int, quality: int) -> Catalog:
    """Pack the images of a catalog once more, those with a longer shorter side smaller."""
    images = []
    for row in range(len(catalog)):
        with catalog.shard_path(int(catalog.shard[row])).open("rb") as shard:
            images.append(os.pread(shard.fileno(), int(catalog.size[row]), int(catalog.offset[row])))
    source = _Photos(images, str(catalog.path), (catalog.label, catalog.classes))
    rows = -(-len(catalog) // len(catalog.shards))
    done = pack(source, folder, short_side=short_side, quality=quality, shard_rows=rows)
    return Catalog.open(done.train)


@dataclass(frozen=True, slots=True, eq=False)
class _Photos:
    """A source of JPEG files in memory, each with a class of its own or those that are given."""

    jpegs: list[bytes]
    name: str
    given: tuple[NDArray[np.int64], tuple[str, ...]] | None = None

    @property
    def labels(self) -> NDArray[np.int64]:
        return self.given[0] if self.given else np.arange(len(self.jpegs))

    @property
    def classes(self) -> tuple[str, ...]:
        return self.given[1] if self.given else tuple(str(i) for i in range(len(self.jpegs)))

    def __len__(self) -> int:
        return len(self.jpegs)

    def key(self, row: int, /) -> str:
        return f"{row:08d}"

    def read(self, row: int, /) -> bytes:
        return self.jpegs[row]


def _photographs() -> list[Image.Image]:
    """Colour photographs that need no network."""
    from sklearn.datasets import load_sample_images

    package = find_spec("skimage")
    if package is None or package.origin is None:
        raise ValueError("the photographs need scikit-image: `pip install drawstream[bench]`, or give --data a folder")
    folder = Path(package.origin).parent / "data"
    return [
        *(Image.open(folder / name).convert("RGB") for name in _SCIKIT_IMAGE),
        *(Image.fromarray(image) for image in load_sample_images().images),
    ]


def _jpeg(photographs: list[Image.Image], seed: int, number: int) -> bytes:
    """Image `number` of the set."""
    rng = np.random.default_rng([seed, number])
    photograph = photographs[rng.integers(len(photographs))]
    most = min(photograph.width / WIDTH, photograph.height / HEIGHT)  # the largest window of the wanted aspect
    scale = most * rng.uniform(0.6, 1.0)
    width, height = scale * WIDTH, scale * HEIGHT
    x, y = rng.uniform(0, photograph.width - width), rng.uniform(0, photograph.height - height)
    image = photograph.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC, (x, y, x + width, y + height))
    if rng.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    noise = rng.standard_normal((HEIGHT, WIDTH, 3), np.float32) * np.float32(rng.uniform(*NOISE))
    return _encode(Image.fromarray((np.asarray(image) + noise).clip(0, 255).astype(np.uint8)))


def _encode(image: Image.Image) -> bytes:
    """The JPEG nearest to `BYTES`, by halving the range of qualities."""
    low, high = QUALITY
    best = b""
    while low <= high:
        quality = (low + high) // 2
        file = io.BytesIO()
        image.save(file, "JPEG", quality=quality)
        data = file.getvalue()
        if abs(math.log(len(data) / BYTES)) < abs(math.log(max(1, len(best)) / BYTES)):
            best = data
        low, high = (quality + 1, high) if len(data) < BYTES else (low, quality - 1)
    return best
