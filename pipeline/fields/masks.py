"""Masks: PNGs of class numbers, brought into the one form that every decoder reads alike.

A mask has one channel, gray or palette; its value at a pixel is what ``numpy.asarray(PIL.Image.open(mask))`` gives: the
index into a palette, the level of gray, 0 or 1 of one bit. Decoders differ on palettes and depths, so the file is
written anew around its compressed pixels: as gray, with no other chunk. Decoded to 16 bits, levels are then multiples
of a divisor of each file, which gives the values back.
"""

import io
import struct
import zlib
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from drawstream.pipeline.decoding import png_chunks

NO_MASK = -100
"""Value where there is no mask: outside of the image, and in samples without one. Losses of torch ignore it."""
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_GRAY, _PALETTE = 0, 3
_DEPTHS = (1, 2, 4, 8, 16)


def plain_mask(data: bytes | memoryview, height: int, width: int, /) -> tuple[NDArray[np.uint8], int]:
    """Return a mask as a gray PNG, uint8 (bytes,), and the divisor of its levels of 16 bits.

    Args:
        data: The file.
        height: Of the image as stored, pixels.
        width: Of the image as stored, pixels.

    Raises:
        ValueError: No PNG of one channel, or of another size than the image.
    """
    if bytes(data[:8]) != _SIGNATURE or bytes(data[12:16]) != b"IHDR" or len(data) < 33:
        raise ValueError("must be a PNG of class numbers: store it as png")
    columns, rows, depth, kind, *rest = struct.unpack(">IIBBBBB", data[16:29])
    if (rows, columns) != (height, width):
        law = f"must have {height} × {width} pixels, as the image has as stored"
        raise ValueError(f"{law}, but has {rows} × {columns}: store it in the image's size")
    if kind not in (_GRAY, _PALETTE) or depth not in _DEPTHS:
        raise ValueError("must have one channel, gray or palette, but has colours: store class numbers")
    head = b"IHDR" + struct.pack(">IIBBBBB", columns, rows, depth, _GRAY, *rest)
    parts = [_SIGNATURE, struct.pack(">I", 13), head, struct.pack(">I", zlib.crc32(head))]
    parts += [
        bytes(data[at - 8 : at + length + 4]) for name, at, length in png_chunks(data) if name in (b"IDAT", b"IEND")
    ]
    levels = (1 << depth) - 1 if kind == _PALETTE or depth in (1, 16) else 255  # gray of 2 and 4 bits is scaled to 8
    return np.frombuffer(b"".join(parts), np.uint8), 65535 // levels


@lru_cache(maxsize=256)
def no_mask(height: int, width: int, /) -> NDArray[np.uint8]:
    """Return the PNG of an empty mask, uint8 (bytes,), for a sample that has none."""
    buffer = io.BytesIO()
    Image.new("1", (width, height)).save(buffer, "PNG")
    return np.frombuffer(buffer.getvalue(), np.uint8)
