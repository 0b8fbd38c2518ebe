"""Image files of the kinds that loaders do not decode, as PNG without loss."""

import io
import re
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image, UnidentifiedImageError

from drawstream.pipeline.decoding import GRAY_MODES, MOST_PIXELS, ORIENTATION, UPRIGHT, no_warnings, orientation
from drawstream.samplers.files import fault_behind

ENDINGS = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".bmp", ".dib", ".gif", ".tif", ".tiff",
    ".ppm", ".pgm", ".pbm", ".pnm", ".pfm", ".tga", ".pcx", ".sgi", ".qoi", ".jp2", ".j2k", ".j2c", ".jpc", ".jpf",
    ".jpx", ".avif", ".ico", ".icns", ".cur", ".dds", ".xbm", ".xpm", ".psd", ".msp", ".blp", ".heic", ".heif", ".jxl",
)  # fmt: skip  # a file of such a name is taken for an image, and is a bad one where it cannot be read
FOREIGN = (
    ".pam", ".eps", ".ps", ".svg", ".wmf", ".emf", ".fit", ".fits", ".exr", ".hdr", ".dcx", ".fli", ".flc", ".pcd",
    ".pxr", ".ftc", ".ftu", ".im", ".spi", ".spider", ".dcm", ".cr2", ".cr3", ".nef", ".arw", ".dng", ".raf",
    ".orf", ".rw2",
)  # fmt: skip  # images that are not taken, whatever is in them: those of cameras begin as a TIFF of a preview
_FORMATS = (  # of Pillow
    "BMP", "DIB", "GIF", "TIFF", "PPM", "PCX", "SGI", "QOI", "JPEG2000", "AVIF",
    "ICO", "ICNS", "CUR", "DDS", "XBM", "XPM", "PSD", "MSP", "BLP", "SUN",
)  # fmt: skip
_FOREIGN_FORMATS = ("DCX", "EPS", "FITS", "FLI", "FTEX", "GBR", "PIXAR", "WMF", "XVTHUMB")
_UNMARKED = {".tga": "TGA", ".icb": "TGA", ".vda": "TGA", ".vst": "TGA"}  # known by their endings alone
_SUBFILE, _BITS_PER_SAMPLE, _COMPRESSION = 254, 258, 259  # TIFF tags
_CHECKED = {1, 5, 8, 32773, 32946, 34925, 50000}  # compressions of TIFF whose decoders report damage, or none
_NETPBM = re.compile(rb"P([1-6])" + rb"\s+(?:#[^\n]*\n\s*)*(\d+)" * 2)
_MAXIMUM = re.compile(rb"\s+(?:#[^\n]*\n\s*)*(\d+)\s")
_NEXT = re.compile(rb"\sP[1-6]\s")  # of a plain (ASCII) Netpbm file
_MARKS = (b"\xff\xd8\xff", b"\x89PNG\r\n", b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*", b"\xff\x4f\xff\x51", b"qoif")
_BOXES = (b"jP  \r\n", b"ftypavif", b"ftyphei", b"ftypmif1")  # behind four bytes of length
HEAD = 32  # bytes that say whether a file is an image


def looks_like_image(head: bytes, /) -> bool:
    """Whether a file is an image by its first ``HEAD`` bytes; text never is."""
    bitmap = head[:2] == b"BM" and head[6:10] == bytes(4)
    netpbm = re.match(rb"P[1-6]\s+(#|\d+\s+\d+\s)", head)
    return bool(head.startswith(_MARKS) or is_webp(head) or head[4:].startswith(_BOXES) or bitmap or netpbm)


def kind_of(file: Path, head: bytes, suffix: str, /) -> Literal["taken", "foreign", ""]:
    """Say whether a file, with these first ``HEAD`` bytes, is an image that is taken, one of another kind, or none."""
    if suffix in FOREIGN:
        return "foreign"
    if looks_like_image(head):
        return "taken"
    Image.init()
    tests = {name: Image.OPEN[name][1] for name in (*_FORMATS, *_FOREIGN_FORMATS) if name in Image.OPEN}
    formats = [name for name, test in tests.items() if test and test((head + bytes(16))[:16])]
    formats += [_UNMARKED[suffix]] if suffix in _UNMARKED else []
    if not formats:
        return ""
    try:
        with no_warnings(), Image.open(file, formats=formats) as image:
            return "foreign" if image.format in _FOREIGN_FORMATS else "taken"
    except Exception as error:  # no such image
        if fault := fault_behind(error, file):
            raise fault from None
        return ""


def is_webp(head: bytes, /) -> bool:
    """Whether a file is a WebP by its first bytes."""
    return head[:4] == b"RIFF" and head[8:12] == b"WEBP"


def as_known(data: bytes, /, *, suffix: str = "") -> bytes:
    """Return a JPEG, PNG or WebP as it is, another image that Pillow reads as PNG, and anything else as it is.

    The PNG has the same pixels, without alpha and not turned; the orientation is kept as EXIF. ``.tga`` files have no
    mark of their own and are known by their ``suffix``.

    Raises:
        ValueError: Several frames or pages, other than 8 bits a channel, too many pixels, or damaged.
    """
    if data.startswith((b"\xff\xd8", b"\x89PNG")) or is_webp(data[:12]):
        return data
    unmarked = _UNMARKED.get(suffix.lower())
    formats = [*_FORMATS, *([unmarked] if unmarked else [])]
    try:
        with no_warnings(), Image.open(io.BytesIO(data), formats=formats) as image:  # Pillow warns of odd metadata
            _check(image, data)
            turned = orientation(image, data)
            image.getexif()[ORIENTATION] = UPRIGHT  # else Pillow turns a TIFF while it loads it
            pixels = np.asarray(image.convert("L" if image.mode in GRAY_MODES else "RGB"))
    except UnidentifiedImageError:
        return data
    except Exception as error:  # Pillow's readers raise anything on bytes that mislead them
        if fault := fault_behind(error):
            raise fault from None
        raise ValueError((str(error) or type(error).__name__).splitlines()[0]) from None
    exif = Image.Exif()
    exif[ORIENTATION] = turned
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "png", **({"exif": exif} if turned != UPRIGHT else {}))
    return buffer.getvalue()


def _check(image: Any, data: bytes) -> None:
    """Refuse what has no single picture of 8 bits, or damage that would not be seen."""
    frames = _pictures(image, data)
    if frames > 1:
        what = {"TIFF": "pages", "GIF": "frames", "AVIF": "frames", "PSD": "layers"}.get(image.format, "pictures")
        raise ValueError(f"a {image.format} of {frames} {what}: store one of them as PNG")
    if not 1 <= image.width * image.height <= MOST_PIXELS:
        law = f"an image must have 1 … {MOST_PIXELS} pixels"
        raise ValueError(f"{law}, but its header says {image.height} × {image.width}")
    bits: Any = (8,)
    if image.format == "TIFF":
        bits = image.tag_v2.get(_BITS_PER_SAMPLE, (8,))
        if image.tag_v2.get(_SUBFILE, 0) & 1:
            raise ValueError("a TIFF that begins with a preview, as files of cameras do: store the picture as PNG")
        if image.tag_v2.get(_COMPRESSION, 1) not in _CHECKED:
            name = image.info.get("compression", image.tag_v2[_COMPRESSION])
            raise ValueError(f"a TIFF of compression {name}, whose damage would not be seen: store it as PNG")
    head = _NETPBM.match(data[:4096]) if image.format == "PPM" else None
    maximum = _MAXIMUM.match(data, head.end()) if head and head[1] not in b"14" else None
    top = int(maximum[1]) if maximum else 255
    if max(bits if isinstance(bits, tuple) else (bits,)) > 8 or image.mode.startswith(("I", "F")) or top > 255:
        raise ValueError(f"a {image.format} with other than 8 bits a channel (mode {image.mode}): store it with 8 bits")
    if top != 255:
        raise ValueError(f"Netpbm image must have maximum 255, but got maximum {top}: scale its values to 0 … 255")


def _pictures(image: Any, data: bytes) -> int:
    """How many pictures a file holds; 2 for all faces of a DDS."""
    if image.format in ("ICO", "CUR"):
        return int.from_bytes(data[4:6], "little")
    if image.format == "DDS":
        return 2 if data[113] & 0x02 or data[114] & 0x20 else 1  # faces of a cube, or a volume
    if image.format != "PPM":
        return max(getattr(image, "n_frames", 1), len(image.info.get("sizes", ())))
    head = _NETPBM.match(data[:4096])
    if head and _more(data, int(head[1]), head.end(), image.width, image.height):
        raise ValueError("a Netpbm file with more behind its first picture: store one whole picture in a file")
    return 1


def _more(data: bytes, kind: int, at: int, width: int, height: int) -> bool:
    """Whether there is more in a Netpbm file than its first picture; `at` is where its height ends."""
    if kind < 4:
        return bool(_NEXT.search(data, at))
    maximum = _MAXIMUM.match(data, at) if kind > 4 else None
    row = -(-width // 8) if kind == 4 else width * (3 if kind == 6 else 1)
    deep = 2 if maximum and int(maximum[1]) > 255 else 1
    return bool(data[(maximum.end() if maximum else at + 1) + row * height * deep :].strip())
