"""Images of chosen rows as PNGs inside the page: the rows a sampler draws most and least.

A crop is shown where it lies: its window drawn on the whole image, what is outside of it darker.
"""

import base64
import io
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from drawstream.pipeline import BadSampleError, Catalog
from drawstream.pipeline.decoding.image import decode
from drawstream.pipeline.images.draws import pixel_windows
from drawstream.pipeline.reading.read import ShardFiles

THUMB = 96  # pixels of the longer side, at most: a page with a few hundred images stays small
FRAME = (255, 122, 26)  # of a window
DIMMED = 0.45  # brightness outside of it


class Places(Protocol):
    """Where the images of rows lie, as in a `FeatureTable`: sample, and window and mirroring for crops."""

    @property
    def sample_id(self) -> NDArray[np.int64]:
        """Sample of each row, int64 (N,)."""

    @property
    def windows(self) -> NDArray[np.float32] | None:
        """Windows y0 x0 y1 x1 in [0, 1], float32 (N, 4); None for whole images."""

    @property
    def flip(self) -> NDArray[np.bool_] | None:
        """Whether the row is mirrored, bool (N,); None for whole images."""


class Weighted(Protocol):
    """Rows to show pictures of, as `SampledRows` has them."""

    @property
    def catalog(self) -> Catalog:
        """The data."""

    @property
    def table(self) -> Places:
        """The rows."""

    @property
    def ratio(self) -> NDArray[np.float64]:
        """N P, float64 (N,)."""

    @property
    def label(self) -> NDArray[np.int64]:
        """Class that the training sees, int64 (N,)."""

    @property
    def clean(self) -> NDArray[np.int64] | None:
        """True class, int64 (N,), where it is known."""


@dataclass(frozen=True, slots=True)
class Picture:
    """One row to show.

    Attributes:
        png: The image, base64.
        width: Pixels of the PNG.
        height: Pixels of the PNG.
        key: Name of the sample; of a crop also whether it is mirrored.
        label: Class name that the training sees.
        true: True class name where it differs, else None.
        ratio: N P.
    """

    png: str
    width: int
    height: int
    key: str
    label: str
    true: str | None
    ratio: float


def extremes(ratio: NDArray[np.float64], count: int, /) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The rows with the largest and the smallest N P, `count` each; rows that tie are taken by a fixed random order."""
    mixed = np.random.default_rng(0).permutation(ratio.size)
    order = mixed[np.argsort(ratio[mixed], kind="stable")]
    return order[::-1][:count], order[:count]


def pictures(sampling: Weighted, rows: NDArray[np.int64], /) -> list[Picture]:
    """Read and shrink the images of some rows; of crops with their windows drawn.

    Raises:
        ValueError: An image is damaged or cannot be read.
    """
    catalog = sampling.catalog
    samples = sampling.table.sample_id[rows]
    try:
        data, bounds = ShardFiles(catalog).read(samples)
    except BadSampleError as error:
        raise ValueError(f"{catalog.path}: {error}") from None
    found = []
    for i, (row, sample) in enumerate(zip(rows.tolist(), samples.tolist(), strict=True)):
        pixels = _pixels(sampling, sample, data[bounds[i] : bounds[i + 1]])
        image = _thumb(pixels)
        name, windows, flip = catalog.key(sample), sampling.table.windows, sampling.table.flip
        if windows is not None:
            image = framed(image, windows[row])
            name += ", mirrored crop" if flip is not None and flip[row] else ", crop"
        clean = sampling.clean
        wrong = clean is not None and clean[row] != sampling.label[row]
        found.append(
            Picture(
                png=_png(image),
                width=image.width,
                height=image.height,
                key=name,
                label=catalog.classes[sampling.label[row]],
                true=catalog.classes[clean[row]] if clean is not None and wrong else None,
                ratio=float(sampling.ratio[row]),
            )
        )
    return found


def _pixels(sampling: Weighted, sample: int, data: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Pixels (height, width, 1 or 3) of one member."""
    catalog = sampling.catalog
    if catalog.encodings[sample] == "raw":
        return data.reshape(int(catalog.height[sample]), int(catalog.width[sample]), -1)
    try:
        return np.atleast_3d(decode(data.tobytes(), rule=catalog.orientation))
    except ValueError as error:
        raise ValueError(f"{catalog.path}: sample {catalog.key(sample)!r} (row {sample}): {error}") from None


def framed(image: Image.Image, window: NDArray[np.float32], /) -> Image.Image:
    """An image with a window (y0, x0, y1, x1 in [0, 1]) drawn on it, enlarged as far as `THUMB` allows."""
    scale = max(1, THUMB // max(image.size))
    large = image.convert("RGB").resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)
    sides = np.array([image.height], np.int32), np.array([image.width], np.int32)
    top, left, height, width = (pixel_windows(window[None], *sides)[0] * scale).tolist()
    shown = large.point(lambda value: round(DIMMED * value))
    shown.paste(large.crop((left, top, left + width, top + height)), (left, top))
    far = (left + width - 1, top + height - 1)  # PIL draws the far edge too
    ImageDraw.Draw(shown).rectangle((left, top, *far), outline=FRAME, width=2)
    return shown


def _thumb(pixels: NDArray[np.uint8]) -> Image.Image:
    image = Image.fromarray(np.ascontiguousarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels))
    image.thumbnail((THUMB, THUMB))
    return image


def _png(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "png")
    return base64.b64encode(buffer.getvalue()).decode()
