"""ImageNet-like JPEGs for the loader benchmark, cut from the photographs that ship inside two packages' wheels.

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

from drawstream.pipeline import Catalog
from drawstream.pipeline.shards.pack import pack

__all__ = ["pack_photos"]

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


def pack_photos(folder: Path, *, images: int, seed: int = 0) -> Catalog:
    """Make the images and pack them as shards, each with a class of its own, so that a label says which image it is.

    Args:
        folder: Where the set goes; one that it holds already, of the same number and seed, is taken as it is.
        images: How many.
        seed: Of windows, scales, mirroring and noise.

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


@dataclass(frozen=True, slots=True, eq=False)
class _Photos:
    """A source of JPEG files in memory."""

    jpegs: list[bytes]
    name: str

    @property
    def labels(self) -> NDArray[np.int64]:
        return np.arange(len(self.jpegs))

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(str(i) for i in range(len(self.jpegs)))

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
