"""Masks and boxes of an image that is stored smaller, in the image's new size."""

import io
from typing import Any

import numpy as np
from PIL import Image

from drawstream.pipeline.fields.boxes import parse_boxes
from drawstream.pipeline.fields.values import decode_value, encode_value, follow

_MASK_MODES = ("1", "L", "P", "I", "I;16")  # one channel; its levels are class numbers
BOXES = "boxes.npy"  # the field that holds boxes where no other is named


def shrink_field(
    name: str, data: bytes, before: tuple[int, int], after: tuple[int, int], /, *, boxes: str | None = None
) -> bytes:
    """Return a field of an image that is stored smaller.

    A PNG of one channel and of the image's size is a mask, of which the nearest pixels are kept; boxes are scaled;
    other fields stay as they are.

    Args:
        name: The field.
        data: Its bytes.
        before: Height and width of the image as it came, pixels.
        after: Height and width as it is stored.
        boxes: Field with boxes, as ``Loader`` takes it: ``boxes.npy`` or ``json:PATH.TO.KEY``; None: ``boxes.npy``.

    Raises:
        ValueError: Boxes that are none.
    """
    if name.endswith("png"):
        return _shrink_mask(data, before, after)
    where, _, path = (boxes or BOXES).partition(":")
    if name != where:
        return data
    value = decode_value(name, data)
    scale = np.array([after[1] / before[1], after[0] / before[0]] * 2)
    try:
        moved = parse_boxes(follow(value, path) if path else value) * scale
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


def _shrink_mask(data: bytes, before: tuple[int, int], after: tuple[int, int]) -> bytes:
    with Image.open(io.BytesIO(data), formats=("PNG",)) as mask:
        if mask.mode not in _MASK_MODES or mask.size != before[::-1]:
            return data
        buffer = io.BytesIO()
        mask.resize(after[::-1], Image.Resampling.NEAREST).save(buffer, "png")
    return buffer.getvalue()
