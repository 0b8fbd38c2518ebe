"""Images of chosen rows as PNGs inside the page: the rows a sampler draws most and least.

A crop is shown where it lies: its window drawn on the whole image, what is outside of it darker.
"""

import base64
import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from drawstream.pipeline.decoding import decode
from drawstream.pipeline.images import pixel_windows
from drawstream.pipeline.reading import BadSampleError, ShardFiles
from drawstream.pipeline.shards import Catalog

THUMB = 96  # pixels of the longer side, at most: a page with a few hundred images stays small
FRAME = (255, 122, 26)  # of a window
DIMMED = 0.45  # brightness outside of it


@dataclass(frozen=True, slots=True)
class Picture:
    """One row to show."""

    png: str  # the image, base64
    width: int  # pixels of the PNG
    height: int  # pixels of the PNG
    key: str  # name of the sample; of a crop also whether it is mirrored
    label: str  # class name that the training sees
    true: str | None  # true class name where it differs, else None
    ratio: float | None  # N P, or another number below it; None: none


def extremes(ratio: NDArray[np.float64], count: int, /) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the rows with the largest and the smallest N P, `count` each; ties are broken by a fixed random order."""
    mixed = np.random.default_rng(0).permutation(ratio.size)
    order = mixed[np.argsort(ratio[mixed], kind="stable")]
    return order[::-1][:count], order[:count]


def pictures(
    catalog: Catalog,
    samples: NDArray[np.int64],
    ratio: NDArray[np.float64],
    /,
    *,
    windows: NDArray[np.float32] | None = None,
    flip: NDArray[np.bool_] | None = None,
) -> list[Picture]:
    """Read and shrink the images of some rows; of crops with their windows drawn.

    Args:
        catalog: The data.
        samples: Sample of each row, int64 (n,).
        ratio: N P of each row, float64 (n,).
        windows: y0 x0 y1 x1 in [0, 1], float32 (n, 4); None for whole images.
        flip: True for a mirrored crop, bool (n,); None for none.

    Raises:
        ValueError: An image is damaged or cannot be read.
    """
    try:
        data, bounds = ShardFiles(catalog).read(samples)
    except BadSampleError as error:
        raise ValueError(f"{catalog.path}: {error}") from None
    classes, true = catalog.classes, catalog.label if catalog.clean_label is None else catalog.clean_label
    found = []
    for i, sample in enumerate(samples.tolist()):
        image = _thumb(image_of(catalog, sample, data[bounds[i] : bounds[i + 1]]))
        name, label, clean = catalog.key(sample), catalog.label[sample], true[sample]
        if windows is not None:
            image = framed(image, windows[i])
            name += ", mirrored crop" if flip is not None and flip[i] else ", crop"
        wrong = classes[clean] if catalog.label_kind == "class" and clean != label else None
        found.append(Picture(_png(image), *image.size, name, label_text(catalog, sample), wrong, float(ratio[i])))
    return found


def label_text(catalog: Catalog, sample: int, /) -> str:
    """Return the label of a sample as text: its class, its classes, or its values by name."""
    label, names = catalog.label[sample], catalog.classes
    match catalog.label_kind:
        case "class":
            return str(names[label])
        case "multi":
            return ", ".join(name for name, mark in zip(names, label, strict=True) if mark) or "no class"
        case "value":
            return ", ".join(f"{name} {value:.4g}" for name, value in zip(names, label, strict=True))
    return ""


def image_of(catalog: Catalog, sample: int, data: NDArray[np.uint8], /) -> NDArray[np.uint8]:
    """Return the pixels (height, width, 1 or 3) of one member.

    Raises:
        ValueError: It is damaged.
    """
    if catalog.encodings[sample] == "raw":
        return data.reshape(int(catalog.height[sample]), int(catalog.width[sample]), -1)
    try:
        return np.atleast_3d(decode(data.tobytes(), rule=catalog.member_of(int(catalog.shard[sample])).orientation))
    except ValueError as error:
        raise ValueError(
            f"{catalog.path}: sample {catalog.key(sample)!r} ({catalog.row_name(sample)}): {error}"
        ) from None


def framed(image: Image.Image, window: NDArray[np.float32], /) -> Image.Image:
    """Return an image with a window (y0, x0, y1, x1 in [0, 1]) drawn on it, enlarged as far as `THUMB` allows."""
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
