"""One image as bytes: its size and depth from the header, and conversion to what a shard stores.

Raw pixels are stored as binary Netpbm (``.pgm`` gray, ``.ppm`` RGB): a header of about 13 bytes, then uint8 pixels row
by row. WebDataset and DALI read that as an image; a catalog points past the header, at the pixels themselves.
"""

import io
import re
import struct
import warnings
import zlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

EXTENSIONS = {"jpg": "jpeg", "jpeg": "jpeg", "png": "png", "webp": "webp", "pgm": "raw", "ppm": "raw"}
GRAY_MODES = ("1", "L")
ORIENTATION = 0x0112  # EXIF tag; values 5 … 8 swap height and width
MOST_PIXELS = 178_956_970
"""Of one image, everywhere: half a GiB as RGB, and what Pillow, hence most of the field's tools, takes at most."""
UNREADABLE = (  # all that Pillow's readers raise on bytes made to mislead them
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    ArithmeticError,
    LookupError,
    TypeError,
    AttributeError,
    MemoryError,
    RecursionError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
_NETPBM = re.compile(rb"P([56])" + rb"(?:\s+(?:#[^\n]*\n\s*)*)(\d{1,9})" * 2 + rb"(?:\s+(?:#[^\n]*\n\s*)*)(\d{1,9})\s")


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """What a header says.

    Attributes:
        encoding: ``jpeg``, ``png``, ``webp`` or ``raw`` (binary Netpbm).
        height: Pixels, as decoded.
        width: Pixels, as decoded.
        channels: 1 for grayscale, else 3.
        start: Where the bytes begin that a catalog points at: after the header for raw, else 0.
    """

    encoding: str
    height: int
    width: int
    channels: int
    start: int = 0


def probe(data: bytes | memoryview, /) -> ImageInfo:
    """Read an image's header; the pixels are not decoded.

    Raises:
        ValueError: Not a JPEG, PNG, WebP or binary 8-bit Netpbm image, a damaged header, more than ``MOST_PIXELS``, or
            what Pillow and DALI do not decode alike: gray with 16 bits, some WebP with EXIF.
    """
    if bytes(data[:2]) in (b"P5", b"P6"):
        return _probe_netpbm(bytes(data[:4096]), len(data))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of odd EXIF and MPO blocks, which leave the image as it is
            with Image.open(io.BytesIO(data), formats=("JPEG", "PNG", "WEBP")) as image:
                width, height = image.size
                turned = _orientation(image.info.get("exif")) in (5, 6, 7, 8)
                kind, mode = str(image.format), image.mode
    except Image.DecompressionBombError as error:
        raise ValueError(f"{_line(error).rstrip('.')}: store it smaller") from None
    except UNREADABLE as error:
        raise ValueError(f"not a readable JPEG, PNG, WebP or Netpbm image ({_line(error)})") from None
    _check_size(height, width)
    if mode.startswith(("I", "F")):
        raise ValueError(f"gray with 16 bits (mode {mode}): DALI scales it and Pillow clips it: store it with 8 bits")
    if kind == "WEBP" and _hides_exif(data):
        raise ValueError("EXIF behind a chunk of odd length: DALI cannot read such a WebP: store it without EXIF")
    channels = 1 if mode in GRAY_MODES else 3
    encoding = "jpeg" if kind == "MPO" else kind.lower()  # MPO: a JPEG with further pictures behind it
    return ImageInfo(encoding, *((width, height) if turned else (height, width)), channels)


def decode(data: bytes | memoryview, /) -> NDArray[np.uint8]:
    """Decode an image file, EXIF orientation applied.

    Returns:
        uint8 (height, width) for grayscale, else (height, width, 3).

    Raises:
        ValueError: The file is damaged or of another kind.
    """
    info = probe(data)
    if info.encoding == "raw":
        shape = (info.height, info.width, 3)[: 2 if info.channels == 1 else 3]
        return np.frombuffer(data, np.uint8, offset=info.start).reshape(shape)
    try:
        with warnings.catch_warnings(), Image.open(io.BytesIO(data)) as image:
            warnings.simplefilter("ignore")  # of transparency in palettes, which is dropped
            upright = ImageOps.exif_transpose(image)
            return np.asarray(upright.convert("L" if info.channels == 1 else "RGB"))
    except UNREADABLE as error:
        raise ValueError(f"image does not decode ({_line(error)})") from None


def encode(image: bytes | NDArray[np.uint8], encoding: str, /, *, quality: int) -> tuple[bytes, ImageInfo]:
    """Bring an image into the form a shard stores.

    A file that already has the encoding keeps its bytes, whatever its quality.

    Args:
        image: An image file's bytes, or uint8 (height, width) or (height, width, 3).
        encoding: ``raw``, ``png``, ``jpeg``, or ``keep``: files as they are, pixels as raw.
        quality: Of a new JPEG, 1 … 100.

    Returns:
        The member's bytes and what its header says.

    Raises:
        ValueError: Unreadable bytes.
    """
    if isinstance(image, bytes):
        info = probe(image)
        if encoding in ("keep", info.encoding):
            return image, info
        image = decode(image)
    elif encoding == "keep":
        encoding = "raw"
    data = _netpbm(image) if encoding == "raw" else _compressed(image, encoding, quality)
    return data, probe(data)


def _hides_exif(data: bytes | memoryview) -> bool:
    """Whether DALI 2.4 fails on a WebP: looking for EXIF it forgets the byte that pads a chunk of odd length."""
    at, odd = 12, False
    while at + 8 <= len(data):
        (length,) = struct.unpack_from("<I", data, at + 4)
        if bytes(data[at : at + 4]) == b"EXIF":
            return odd
        odd = odd or bool(length % 2)
        at += 8 + length + length % 2
    return False


def _orientation(exif: bytes | None) -> int:
    """The EXIF orientation that decoders apply, 1 (upright) where there is none or the block is damaged."""
    if not exif:
        return 1
    tags = Image.Exif()
    try:
        tags.load(exif)
        return int(tags.get(ORIENTATION, 1))
    except UNREADABLE:
        return 1


def _netpbm(image: NDArray[np.uint8]) -> bytes:
    kind = b"P5" if image.ndim == 2 else b"P6"
    return b"%s\n%d %d\n255\n%s" % (kind, image.shape[1], image.shape[0], image.tobytes())


def _compressed(image: NDArray[np.uint8], encoding: str, quality: int) -> bytes:
    buffer = io.BytesIO()
    options = {"quality": quality, "subsampling": 0 if quality >= 95 else 2} if encoding == "jpeg" else {}
    Image.fromarray(image).save(buffer, encoding, **options)
    return buffer.getvalue()


def _probe_netpbm(head: bytes, length: int) -> ImageInfo:
    match = _NETPBM.match(head)
    if not match:
        raise ValueError("damaged Netpbm header")
    kind, width, height, top = (int(text) for text in match.groups())
    _check_size(height, width)
    info = ImageInfo("raw", height, width, 1 if kind == 5 else 3, match.end())
    if top != 255 or length != info.start + height * width * info.channels:
        raise ValueError(
            f"Netpbm image must have 8 bits and {height} × {width} × {info.channels} pixels after its header, "
            f"but got maximum {top} and {length - info.start} bytes"
        )
    return info


def _check_size(height: int, width: int) -> None:
    if not 1 <= height * width <= MOST_PIXELS:
        law = f"an image must have 1 … {MOST_PIXELS} pixels"
        raise ValueError(f"{law}, but its header says {height} × {width}: store it smaller")


def _line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
