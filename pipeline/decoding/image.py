"""One image as bytes: its size, depth and orientation from the header, and conversion to what a shard stores.

Pillow reads the header, and DALI's own parser and decoder have the last word where DALI is installed: what they refuse
or see otherwise, a loader could not give, so it is refused here (`pack`, `index`, `verify`).

Raw pixels are stored as binary Netpbm (``.pgm`` gray, ``.ppm`` RGB): a header of about 13 bytes, then uint8 pixels row
by row. WebDataset and DALI read that as an image; a catalog points past the header, at the pixels themselves.
"""

import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from drawstream.pipeline import describe_bytes
from drawstream.pipeline.decoding import dali_image
from drawstream.pipeline.decoding.exif import SIDEWAYS, UPRIGHT, check_rule, elsewhere, orientation, png_chunks, turn
from drawstream.pipeline.decoding.quiet import no_warnings
from drawstream.samplers.files import fault_behind

T = TypeVar("T")
EXTENSIONS = {"jpg": "jpeg", "jpeg": "jpeg", "png": "png", "webp": "webp", "pgm": "raw", "ppm": "raw"}
GRAY_MODES = ("1", "L")
MOST_PIXELS = 178_956_970
"""Of one image, everywhere: half a GiB as RGB, and what Pillow, hence most of the field's tools, takes at most."""
_OBJECT = re.compile(r"<[\w.]+ object at 0x[0-9a-f]+>")  # no address in a message
_NETPBM = re.compile(rb"P([56])" + rb"(?:\s+(?:#[^\n]*\n\s*)*)(\d{1,9})" * 2 + rb"(?:\s+(?:#[^\n]*\n\s*)*)(\d{1,9})\s")


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """Format and size of an image, read from its header.

    Attributes:
        encoding: ``jpeg``, ``png``, ``webp`` or ``raw`` (binary Netpbm).
        height: Pixels, as decoded and turned.
        width: Pixels, as decoded and turned.
        channels: 1 for grayscale, else 3.
        start: Where the bytes begin that a catalog points at: after the header for raw, else 0.
        orientation: EXIF orientation by which the stored pixels are turned: 1 (not at all) … 8.
    """

    encoding: str
    height: int
    width: int
    channels: int
    start: int = 0
    orientation: int = UPRIGHT


def probe(data: bytes | memoryview, /, *, rule: str = "exif") -> ImageInfo:
    """Read an image's header; the pixels are not decoded, except of animations and images of four colours.

    Args:
        data: The file.
        rule: Of orientation: ``exif`` (see ``pipeline.exif``), or ``stored``: nothing is turned.

    Raises:
        ValueError: Not a JPEG, PNG, WebP or binary 8-bit Netpbm image, a damaged header, more than ``MOST_PIXELS``, or
            what Pillow and DALI do not decode alike: gray with 16 bits, some animations and JPEGs of four colours.
    """
    check_rule(rule)
    if bytes(data[:2]) in (b"P5", b"P6"):
        return _probe_netpbm(bytes(data[:4096]), len(data))
    kind, mode, width, height, turned, doubt = with_pillow(data, lambda image: _header(image, data, rule))
    _check_size(height, width)
    if mode.startswith(("I", "F")):
        raise ValueError(f"gray with 16 bits (mode {mode}): DALI scales it and Pillow clips it: store it with 8 bits")
    encoding = "jpeg" if kind == "MPO" else kind.lower()  # MPO: a JPEG with further pictures behind it
    size = (width, height) if turned >= SIDEWAYS else (height, width)
    info = ImageInfo(encoding, *size, 1 if mode in GRAY_MODES else 3, orientation=turned)
    _check_parser(data, info, (encoding, height, width))
    if doubt:
        try:
            judge(data, info)
        except ValueError as error:
            raise ValueError(f"{doubt}: {error}") from None
    return info


def decode(data: bytes | memoryview, /, *, rule: str = "exif") -> NDArray[np.uint8]:
    """Decode an image file as the loader does on the CPU, or with Pillow where DALI is not installed.

    Pixels are uint8 (height, width) for grayscale, else (height, width, 3); ``rule`` is that of ``probe``.

    Raises:
        ValueError: The file is damaged or of another kind.
    """
    return judge(data, probe(data, rule=rule))[0]


def judge(data: bytes | memoryview, info: ImageInfo, /) -> tuple[NDArray[np.uint8], bool]:
    """Decode an image file as the loader does on the CPU, and hold the pixels against Pillow's.

    Returns:
        The pixels of ``decode``. Whether metadata that are passed over (XMP, a raw profile) would turn them otherwise.

    Raises:
        ValueError: It does not decode, or to other pixels: more than one level apart (16-bit colour is rounded).
    """
    if info.encoding == "raw":
        shape = (info.height, info.width, 3)[: 2 if info.channels == 1 else 3]
        return np.frombuffer(data, np.uint8, offset=info.start).reshape(shape), False
    ours, ignored = with_pillow(data, lambda image: (_pixels(image, info), elsewhere(image, data)))
    stored = ours
    if dali_image.parser():
        try:
            stored = dali_image.pixels(data, info.channels)
        except ValueError as error:
            raise ValueError(f"image does not decode ({error}; Pillow can): store it anew") from None
        if not _alike(stored, ours):
            raise ValueError("DALI and Pillow decode it to different pixels: store it anew, as a still RGB image")
    return np.ascontiguousarray(turn(stored, info.orientation)), ignored


def encode(
    image: bytes | NDArray[np.uint8], encoding: str, /, *, quality: int, rule: str = "exif"
) -> tuple[bytes, ImageInfo]:
    """Bring an image into the form a shard stores: the member's bytes and what its header says.

    A file that already has the encoding keeps its bytes, whatever its quality; it is decoded all the same, to find out
    whether it can be.

    Args:
        image: An image file's bytes, or uint8 (height, width) or (height, width, 3).
        encoding: ``raw``, ``png``, ``jpeg``, or ``keep``: files as they are, pixels as raw.
        quality: Of a new JPEG, 1 … 100.
        rule: Of orientation, as ``probe``.

    Raises:
        ValueError: Unreadable bytes.
    """
    if isinstance(image, bytes):
        info = probe(image, rule=rule)
        pixels, _ = judge(image, info)
        if encoding in ("keep", info.encoding):
            return image, info
        image = pixels
    elif encoding == "keep":
        encoding = "raw"
    if encoding == "raw":
        kind = b"P5" if image.ndim == 2 else b"P6"
        data = b"%s\n%d %d\n255\n%s" % (kind, image.shape[1], image.shape[0], image.tobytes())
    else:
        buffer = io.BytesIO()
        options = {"quality": quality, "subsampling": 0 if quality >= 95 else 2} if encoding == "jpeg" else {}
        Image.fromarray(image).save(buffer, encoding, **options)
        data = buffer.getvalue()
    return data, probe(data)


def with_pillow(data: bytes | memoryview, work: Callable[[Image.Image], T], /) -> T:
    """Do some work on a file as Pillow opens it.

    Raises:
        ValueError: Pillow's readers raise anything, or the file is none of the formats.
    """
    opened = False
    try:
        # Pillow warns of odd EXIF, MPO and palettes, which leave the image as it is
        with no_warnings(), Image.open(io.BytesIO(data), formats=("JPEG", "PNG", "WEBP")) as image:
            opened = True
            return work(image)
    except Image.DecompressionBombError as error:
        raise ValueError(f"{_line(error).rstrip('.')}: store it smaller") from None
    except Exception as error:  # Pillow's readers raise anything on bytes that mislead them
        if fault := fault_behind(error):
            raise fault from None
        if opened:
            raise ValueError(f"image does not decode ({_line(error)})") from None
        unsaid = isinstance(error, UnidentifiedImageError) or "decoder object" in str(error)
        reason = describe_bytes(data) if unsaid else _line(error)
        raise ValueError(f"not a readable JPEG, PNG, WebP or Netpbm image ({reason})") from None


def _header(image: Image.Image, data: bytes | memoryview, rule: str) -> tuple[str, str, int, int, int, str]:
    """Format, mode, width, height, orientation, and why decoders may give different pixels, or ""."""
    turned = orientation(image, data) if rule == "exif" else UPRIGHT
    animated = image.format != "MPO" and getattr(image, "is_animated", False)
    if image.format == "PNG" and not animated:
        animated = any(name == b"acTL" for name, _, _ in png_chunks(data))
    doubt = "an animation" if animated else "four colours" if image.mode == "CMYK" else ""
    return str(image.format), image.mode, *image.size, turned, doubt


def _pixels(image: Image.Image, info: ImageInfo) -> NDArray[np.uint8]:
    return np.asarray(image.convert("L" if info.channels == 1 else "RGB"))


def _alike(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> bool:
    """Whether pixels are equal, or one level apart, as those of 16-bit colour are."""
    return np.array_equal(a, b) or (a.shape == b.shape and int((np.maximum(a, b) - np.minimum(a, b)).max()) <= 1)


def _check_parser(data: bytes | memoryview, info: ImageInfo, expected: tuple[str, int, int]) -> None:
    """Refuse what DALI's parser refuses or sees otherwise."""
    if dali_image.parser() is None:
        return
    image = np.frombuffer(data, np.uint8).copy()
    dali_image.plain(image)
    try:
        found = dali_image.parse(image)
    except ValueError as error:
        with_pillow(data, lambda image: _pixels(image, info))  # which says more where it fails too
        raise ValueError(f"{error}, though Pillow can: store the image anew") from None
    if found != expected:
        law = "DALI and Pillow must see the same encoding, height and width"
        raise ValueError(f"{law}, but got {found} and {expected}: store the image anew")


def _probe_netpbm(head: bytes, length: int) -> ImageInfo:
    match = _NETPBM.match(head)
    if not match:
        raise ValueError("damaged Netpbm header")
    kind, width, height, top = (int(text) for text in match.groups())
    _check_size(height, width)
    info = ImageInfo("raw", height, width, 1 if kind == 5 else 3, match.end())
    if top != 255:
        raise ValueError(f"Netpbm image must have maximum 255, but got maximum {top}: scale its values to 0 … 255")
    if length != info.start + height * width * info.channels:
        law = f"Netpbm image must have {height} × {width} × {info.channels} bytes after its header"
        raise ValueError(f"{law}, but got {length - info.start}: store one whole picture in a file")
    return info


def _check_size(height: int, width: int) -> None:
    if not 1 <= height * width <= MOST_PIXELS:
        law = f"an image must have 1 … {MOST_PIXELS} pixels"
        raise ValueError(f"{law}, but its header says {height} × {width}: store it smaller")


def _line(error: Exception) -> str:
    return _OBJECT.sub("the file", (str(error) or type(error).__name__).splitlines()[0])
