"""The one rule of orientation: tag 0x0112 of the first EXIF block of a file, or none.

===== ============================================================================================================
JPEG  the first APP1 segment that begins with ``Exif`` and two zeros, in front of the scan
PNG   the first eXIf chunk, in front of the pixels or behind them
WebP  the EXIF chunk, with or without that beginning, where the flags of the header announce one
TIFF  the tag of the first page
AVIF  the turn of the container (irot, imir), else its EXIF item
===== ============================================================================================================

No other format is turned, and nothing else turns an image: XMP, a PNG's "Raw profile type exif", a second EXIF block.
A value outside of 1 … 8, one of another type, or a damaged block leaves the image upright.
"""

import struct
from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from drawstream.samplers.files import fault_behind

ORIENTATION = 0x0112
RULES = ("exif", "stored")
UPRIGHT = 1
_MIRRORED = frozenset({2, 3, 6, 7})  # left and right change places, after rows and columns did
_FLIPPED = frozenset({3, 4, 7, 8})  # top and bottom do
SIDEWAYS = 5  # from this value on rows and columns change places


def check_rule(rule: str, /) -> None:
    """Check that a rule of orientation is one of ``RULES``.

    Raises:
        ValueError: It is none.
    """
    if rule not in RULES:
        raise ValueError(f"orientation must be {' or '.join(RULES)}, but got {rule!r}")


def orientation(image: Image.Image, data: bytes | memoryview, /) -> int:
    """The EXIF orientation of an opened file: 1 (upright) … 8; see the rule above."""
    if image.format == "TIFF":
        return _value(lambda: cast("Any", image).tag_v2)
    block = _first_block(image, data)
    return _value(lambda: _tags(block)) if block else UPRIGHT


def elsewhere(image: Image.Image, data: bytes | memoryview, /) -> bool:
    """Whether other metadata than the first EXIF block turn an image, of which the pixels are loaded, otherwise."""
    return _value(image.getexif) != orientation(image, data)


def turn(pixels: NDArray[np.uint8], orientation: int, /) -> NDArray[np.uint8]:
    """Turn stored pixels, (height, width, …), upright; a view."""
    if orientation >= SIDEWAYS:
        pixels = pixels.swapaxes(0, 1)
    mirror, flip = flips(orientation)
    return pixels[:: -1 if flip else 1, :: -1 if mirror else 1]


def flips(orientation: int, /) -> tuple[bool, bool]:
    """Whether left and right, and whether top and bottom change places (after rows and columns did)."""
    return orientation in _MIRRORED, orientation in _FLIPPED


def png_chunks(data: bytes | memoryview, /) -> Iterator[tuple[bytes, int, int]]:
    """Chunks of a PNG up to its end, or to where it is cut: name, first byte and length of the content."""
    at = 8
    while at + 8 <= len(data):
        (length,), name = struct.unpack_from(">I", data, at), bytes(data[at + 4 : at + 8])
        yield name, at + 8, length
        if name == b"IEND":
            return
        at += 12 + length


def _first_block(image: Image.Image, data: bytes | memoryview) -> bytes | None:
    if image.format == "PNG":
        places = ((start, length) for name, start, length in png_chunks(data) if name == b"eXIf")
        start, length = next(places, (0, 0))
        return bytes(data[start : start + length])
    if image.format in ("WEBP", "AVIF"):
        return image.info.get("exif")
    segments = getattr(image, "applist", [])  # of a JPEG
    return next((block for name, block in segments if name == "APP1" and block.startswith(b"Exif\0\0")), None)


def _tags(block: bytes) -> Image.Exif:
    tags = Image.Exif()
    tags.load(block)
    return tags


def _value(read: Callable[[], Mapping[int, Any]]) -> int:
    """The orientation that tags have; 1 where they are damaged."""
    try:
        found = read().get(ORIENTATION, UPRIGHT)
        return int(found) if found in range(1, 9) else UPRIGHT
    except Exception as error:  # whatever a damaged block makes Pillow raise
        if fault := fault_behind(error):
            raise fault from None
        return UPRIGHT
