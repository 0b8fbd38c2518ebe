"""Image files of the kinds that loaders do not decode, as PNG without loss."""

import io
import re
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from drawstream.pipeline.decoding.exif import ORIENTATION, UNREADABLE
from drawstream.pipeline.decoding.image import GRAY_MODES, MOST_PIXELS
from drawstream.pipeline.decoding.quiet import no_warnings

ENDINGS = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp",
    ".bmp", ".dib", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".pcx", ".sgi", ".qoi",
    ".jp2", ".j2k", ".jpx", ".avif", ".ico", ".icns", ".dds", ".xbm", ".xpm", ".psd", ".heic", ".heif", ".jxl",
)  # fmt: skip  # a file of such a name is taken for an image, and is a bad one where it cannot be read
_FORMATS = (  # of Pillow
    "BMP", "DIB", "GIF", "TIFF", "PPM", "PCX", "SGI", "QOI", "JPEG2000", "AVIF",
    "ICO", "ICNS", "DDS", "XBM", "XPM", "PSD",
)  # fmt: skip
_BITS_PER_SAMPLE = 258  # TIFF tag
_PPM_MAXIMUM = re.compile(rb"P[2356](?:\s+(?:#[^\n]*\n\s*)*\d+){2}\s+(?:#[^\n]*\n\s*)*(\d+)\s")
_MARKS = (b"\xff\xd8\xff", b"\x89PNG\r\n", b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*", b"\xff\x4f\xff\x51", b"qoif")
_BOXES = (b"jP  \r\n", b"ftypavif", b"ftyphei", b"ftypmif1")  # behind four bytes of length
HEAD = 32  # bytes that say whether a file is an image


def looks_like_image(head: bytes, /) -> bool:
    """Whether a file is an image by its first ``HEAD`` bytes; text never is."""
    bitmap = head[:2] == b"BM" and head[6:10] == bytes(4)
    netpbm = re.match(rb"P[1-6]\s+(#|\d+\s+\d+\s)", head)
    return bool(head.startswith(_MARKS) or is_webp(head) or head[4:].startswith(_BOXES) or bitmap or netpbm)


def is_webp(head: bytes, /) -> bool:
    """Whether a file is a WebP by its first bytes."""
    return head[:4] == b"RIFF" and head[8:12] == b"WEBP"


def as_known(data: bytes, /, *, suffix: str = "") -> bytes:
    """Return a JPEG, PNG or WebP as it is, another image that Pillow reads as PNG, and anything else as it is.

    The PNG has the same pixels, without alpha; an EXIF orientation is kept.

    Args:
        data: The file.
        suffix: Of its name, with the dot; ``.tga`` files have no mark of their own.

    Raises:
        ValueError: Several frames or pages, more than 8 bits a channel, too many pixels, or damaged.
    """
    if data.startswith((b"\xff\xd8", b"\x89PNG")) or is_webp(data[:12]):
        return data
    formats = [*_FORMATS, "TGA"] if suffix.lower() == ".tga" else _FORMATS
    try:
        # Pillow warns of odd metadata, which leave the image as it is
        with no_warnings(), Image.open(io.BytesIO(data), formats=formats) as image:
            _check(image, data)
            pixels = np.asarray(image.convert("L" if image.mode in GRAY_MODES else "RGB"))
            exif = Image.Exif()
            turned = image.getexif().get(ORIENTATION, 1)
    except UnidentifiedImageError:
        return data
    except UNREADABLE as error:
        raise ValueError((str(error) or type(error).__name__).splitlines()[0]) from None
    if turned in range(2, 9):
        exif[ORIENTATION] = turned
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "png", **({"exif": exif} if len(exif) else {}))
    return buffer.getvalue()


def _check(image: Any, data: bytes) -> None:
    """Refuse what has no single picture of 8 bits."""
    frames = getattr(image, "n_frames", 1)
    if frames > 1:
        what = "pages" if image.format == "TIFF" else "frames"
        raise ValueError(f"a {image.format} of {frames} {what}: store one of them as PNG")
    if not 1 <= image.width * image.height <= MOST_PIXELS:
        raise ValueError(
            f"an image must have 1 … {MOST_PIXELS} pixels, but its header says {image.height} × {image.width}"
        )
    bits: Any = image.tag_v2.get(_BITS_PER_SAMPLE, (8,)) if image.format == "TIFF" else (8,)
    maximum = _PPM_MAXIMUM.match(data[:4096]) if image.format == "PPM" else None
    deep = max(bits if isinstance(bits, tuple) else (bits,)) > 8 or (maximum and int(maximum[1]) != 255)
    if deep or image.mode.startswith(("I", "F")):
        raise ValueError(f"a {image.format} with other than 8 bits a channel (mode {image.mode}): store it with 8 bits")
