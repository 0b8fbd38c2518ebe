"""Store photographs smaller: larger ones are resized and encoded anew in their own format, all others stay as they are.

A smaller JPEG keeps its chroma subsampling, a lossless WebP stays lossless. Images keep their EXIF turn as a tag, so
masks and boxes beside them need none; other metadata and colour profiles, which no loader reads, are left out.
"""

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, JpegImagePlugin

from drawstream.pipeline.decoding.exif import ORIENTATION, SIDEWAYS, UPRIGHT, orientation
from drawstream.pipeline.decoding.image import ImageInfo, judge, probe, with_pillow


@dataclass(frozen=True, slots=True)
class Largest:
    """The largest size at which images are stored, pixels.

    Attributes:
        max_side: Of the longer side; None: any.
        short_side: Of the shorter side; None: any.

    Raises:
        ValueError: Both are given, or one is not positive.
    """

    max_side: int | None = None
    short_side: int | None = None

    def __post_init__(self) -> None:
        if self.max_side is not None and self.short_side is not None:
            raise ValueError(f"give max_side or short_side, not both, but got {self.max_side} and {self.short_side}")
        if (self.side or 1) < 1:
            raise ValueError(f"the largest side must be at least 1 pixel, but got {self.side}")

    @property
    def side(self) -> int | None:
        """Pixels of the side that counts; None: images stay as they are."""
        return self.short_side if self.max_side is None else self.max_side

    def fit(self, height: int, width: int, /) -> tuple[int, int]:
        """Return the size at which an image of this size is stored; its own if that is small enough."""
        longest = max(height, width) if self.max_side is not None else min(height, width)
        if self.side is None or longest <= self.side:
            return height, width
        scale = self.side / longest
        return max(1, round(height * scale)), max(1, round(width * scale))


def shrink(
    image: bytes | NDArray[np.uint8], largest: Largest, /, *, quality: int, rule: str = "exif"
) -> bytes | NDArray[np.uint8]:
    """Return an image file or pixels of at most this size; the same object if it is small enough.

    Args:
        image: An image file's bytes, or uint8 (height, width) or (height, width, 3).
        largest: The size.
        quality: Of a JPEG or lossy WebP that is encoded anew, 1 … 100.
        rule: Of orientation, as ``probe``.

    Raises:
        ValueError: The file is damaged or of another kind.
    """
    if isinstance(image, bytes):
        info = probe(image, rule=rule)
        size = largest.fit(info.height, info.width)
        if size == (info.height, info.width):
            return image
        if info.encoding != "raw":
            return with_pillow(image, lambda opened: _encoded_anew(opened, image, info, size, quality))
        pixels = judge(image, info)[0]
    else:
        pixels, size = image, largest.fit(*image.shape[:2])
        if size == image.shape[:2]:
            return image
    return np.asarray(Image.fromarray(pixels).resize(size[::-1], Image.Resampling.LANCZOS))


def _encoded_anew(opened: Any, data: bytes, info: ImageInfo, size: tuple[int, int], quality: int) -> bytes:
    """Return an opened file in a smaller size (height, width as it is turned), with its orientation."""
    stored = size if info.orientation >= SIDEWAYS else size[::-1]  # width, height before it is turned
    options: dict[str, Any] = {}
    tag = orientation(opened, data)
    if info.encoding == "jpeg":
        sampling = JpegImagePlugin.get_sampling(opened)
        options = {"quality": quality, "subsampling": 2 if sampling < 0 else sampling}
        opened.draft(None, (2 * stored[0], 2 * stored[1]))  # large ones are decoded in less than full size
    elif info.encoding == "webp":
        options = {"lossless": True} if _lossless(data) else {"quality": quality}
    image = opened.convert("L" if info.channels == 1 else "RGB").resize(stored, Image.Resampling.LANCZOS)
    if tag != UPRIGHT:
        exif = Image.Exif()
        exif[ORIENTATION] = tag
        options["exif"] = exif
    buffer = io.BytesIO()
    image.save(buffer, info.encoding, **options)
    return buffer.getvalue()


def _lossless(webp: bytes) -> bool:
    """Whether the picture of a WebP, its first chunk of pixels, is stored without loss."""
    at = 12
    while at + 8 <= len(webp):
        name, length = webp[at : at + 4], int.from_bytes(webp[at + 4 : at + 8], "little")
        if name in (b"VP8 ", b"VP8L"):
            return name == b"VP8L"
        at += 8 + length + length % 2
    return False
