"""Masks and boxes of an image that is stored smaller or turned, as the image is then."""

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from drawstream.pipeline.decoding import SIDEWAYS, UPRIGHT, flips
from drawstream.pipeline.fields.boxes import parse_boxes
from drawstream.pipeline.fields.values import decode_value, encode_value, follow

_MASK_MODES = ("1", "L", "P", "I", "I;16")  # one channel; its levels are class numbers
BOXES = "boxes.npy"  # the field that holds boxes where no other is named


def move_field(
    name: str,
    data: bytes,
    before: tuple[int, int],
    after: tuple[int, int],
    /,
    *,
    boxes: str | None = None,
    turned: int = UPRIGHT,
) -> bytes:
    """Return a field of an image that is stored smaller, or whose pixels were turned as its EXIF block said.

    A PNG of one channel and of the image's size is a mask, of which the nearest pixels are kept; boxes are scaled and
    turned; other fields stay as they are.

    Args:
        name: The field.
        data: Its bytes.
        before: Height and width of the image as it came, pixels.
        after: Height and width in the new size, before it is turned.
        boxes: Field with boxes, as ``Loader`` takes it: ``boxes.npy`` or ``json:PATH.TO.KEY``; None: ``boxes.npy``.
        turned: EXIF orientation by which the pixels were turned, 1 … 8.

    Raises:
        ValueError: Boxes that are none.
    """
    if name.endswith("png"):
        return _move_mask(data, before, after, turned)
    where, _, path = (boxes or BOXES).partition(":")
    if name != where:
        return data
    value = decode_value(name, data)
    scale = np.array([after[1] / before[1], after[0] / before[0]] * 2)
    try:
        moved = _turned(parse_boxes(follow(value, path) if path else value) * scale, after, turned)
    except ValueError as error:
        raise ValueError(f".{name} {error}") from None
    if name.endswith("npy"):
        return encode_value(name, moved.astype(np.float32))
    return encode_value(name, _replaced(value, path, moved.tolist()))


def _replaced(value: Any, path: str, new: Any) -> Any:
    """Return a JSON value with another one behind keys."""
    if not path:
        return new
    *above, last = path.split(".")
    holder = follow(value, ".".join(above)) if above else value
    holder[int(last) if isinstance(holder, list) else last] = new
    return value


def _turned(boxes: NDArray[np.float64], size: tuple[int, int], turned: int) -> NDArray[np.float64]:
    """Turn boxes, (k, 4), of an image of this height and width."""
    height, width = size[::-1] if turned >= SIDEWAYS else size
    mirror, flip = flips(turned)
    x0, y0, x1, y1 = (boxes[:, [1, 0, 3, 2]] if turned >= SIDEWAYS else boxes).T
    x0, x1 = (width - x1, width - x0) if mirror else (x0, x1)
    y0, y1 = (height - y1, height - y0) if flip else (y0, y1)
    return np.stack([x0, y0, x1, y1], axis=1)


def _move_mask(data: bytes, before: tuple[int, int], after: tuple[int, int], turned: int) -> bytes:
    with Image.open(io.BytesIO(data), formats=("PNG",)) as mask:
        if mask.mode not in _MASK_MODES or mask.size != before[::-1]:
            return data
        buffer = io.BytesIO()
        moved = mask.resize(after[::-1], Image.Resampling.NEAREST)
        if turned >= SIDEWAYS:
            moved = moved.transpose(Image.Transpose.TRANSPOSE)
        mirror, flip = flips(turned)
        for wanted, way in ((mirror, Image.Transpose.FLIP_LEFT_RIGHT), (flip, Image.Transpose.FLIP_TOP_BOTTOM)):
            moved = moved.transpose(way) if wanted else moved
        moved.save(buffer, "png")
    return buffer.getvalue()
