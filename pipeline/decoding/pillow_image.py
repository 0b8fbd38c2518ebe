"""Pillow's parser and decoder for the loader, one image at a time: no warning and no filter, for many threads.

What `judge` let into a catalog, Pillow and DALI decode alike.
"""

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import JpegImagePlugin, PngImagePlugin, WebPImagePlugin

from drawstream.samplers.files import fault_behind

_READERS: dict[bytes, tuple[str, Any]] = {  # by the first bytes; `Image.open` would try several, and warn of odd ones
    b"\xff\xd8": ("jpeg", JpegImagePlugin.JpegImageFile),
    b"\x89P": ("png", PngImagePlugin.PngImageFile),
    b"RI": ("webp", WebPImagePlugin.WebPImageFile),
}


def parse_header(data: memoryview, /) -> tuple[str, int, int]:
    """Codec, height and width as stored.

    Raises:
        ValueError: Pillow cannot parse it.
    """
    codec, image = _opened(data)
    return codec, image.height, image.width


def decode_window(
    data: memoryview, channels: int, window: tuple[int, int, int, int] | None = None, /
) -> NDArray[np.uint8]:
    """Decode a file, or a window of it (top, left, height, width), not turned: uint8 (height, width, channels).

    Raises:
        ValueError: Pillow cannot decode it, or the window is not within it.
    """
    _, image = _opened(data)
    if window is not None:
        top, left, height, width = window
        if top < 0 or left < 0 or top + height > image.height or left + width > image.width:
            raise ValueError(f"window {window} is not within {image.height} × {image.width} pixels")
    try:
        image.load()
        image.info.pop("transparency", None)  # Pillow warns of some, and none is used
        if window is not None:
            image = image.crop((left, top, left + width, top + height))
        mode = "RGB" if channels == 3 else "L"
        pixels = np.asarray(image if image.mode == mode else image.convert(mode))
    except Exception as error:  # Pillow's readers raise anything on bytes that mislead them
        raise _refusal(error, "decode") from None
    return pixels if channels == 3 else pixels[..., None]


def decode_levels(data: memoryview, /) -> NDArray[np.uint16]:
    """Decode a gray PNG to levels of 16 bits, as DALI scales those of fewer: uint16 (height, width, 1).

    Raises:
        ValueError: Pillow cannot decode it.
    """
    _, image = _opened(data)
    try:
        levels = np.asarray(image)
    except Exception as error:  # as above
        raise _refusal(error, "decode") from None
    factor = {np.dtype(np.bool_): 65535, np.dtype(np.uint8): 257}.get(levels.dtype, 1)
    return (levels.astype(np.uint16) * np.uint16(factor))[..., None]


def _opened(data: memoryview) -> tuple[str, Any]:
    codec, reader = _READERS.get(bytes(data[:2]), ("", None))
    if reader is None:
        raise ValueError("not a JPEG, PNG or WebP image")
    try:
        return codec, reader(io.BytesIO(data))
    except Exception as error:
        raise _refusal(error, "parse its header") from None


def _refusal(error: Exception, act: str) -> Exception:
    """Return the error for what Pillow raised; that of the system where it is at fault."""
    return fault_behind(error) or ValueError(f"Pillow cannot {act} ({(str(error) or type(error).__name__)})")
