"""Values of fields, by the last part of their names: text, JSON, arrays, pixels; other bytes stay as they are."""

import io
import json
import math
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from drawstream.pipeline.shards import shortened

_SHOWN = 12  # keys of an object in a message


def decode_value(name: str, data: bytes | memoryview, /) -> Any:
    """Return the value in a member.

    Args:
        name: The field: ``….txt`` is a str, ``….json`` what JSON gives, ``….npy`` an array; all others are bytes.
        data: Its bytes.

    Raises:
        ValueError: Text that is not UTF-8, no JSON, no array, or an array of Python objects, which would need pickle.
    """
    kind = name.rpartition(".")[2]
    if kind == "npy":
        return _array(name, data)
    if kind not in ("txt", "json"):
        return bytes(data)
    try:
        text = str(data, "utf-8-sig")  # a byte-order mark is no part of the text
    except UnicodeDecodeError as error:
        at = error.start + (3 if bytes(data[:3]) == b"\xef\xbb\xbf" else 0)
        raise ValueError(f".{name} must be UTF-8, but has byte 0x{data[at]:02x} at {at}") from None
    if kind == "txt":
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError(f".{name} must be JSON, but has {shortened(text[:60])}") from None


def is_text(name: str, /) -> bool:
    """Whether a field is text: ``txt`` or ``….txt``."""
    return name.rpartition(".")[2] == "txt"


def decode_texts(data: NDArray[np.uint8], bounds: NDArray[np.int64], /) -> list[str] | None:
    """Return the texts of n members that lie one after the other, as ``decode_value`` does; None where one has a fault.

    All are decoded at once, and then cut: a tenth of the time of one by one.

    Args:
        data: Their bytes, (bytes,).
        bounds: int64 (n + 1,): text i is ``data[bounds[i] : bounds[i + 1]]``.
    """
    part = data[bounds[0] : bounds[-1]]
    cuts = bounds - bounds[0]
    try:
        text = str(part.data, "utf-8")
    except UnicodeDecodeError:
        return None
    if "\ufeff" in text:  # a byte-order mark, which is no part of a text where it begins it
        return None
    if len(text) < len(part):
        begins = (part & 0xC0) != 0x80  # bytes that begin a character
        if not begins[cuts[:-1][cuts[:-1] < cuts[1:]]].all():
            return None
        cuts = np.concatenate([[0], np.cumsum(begins)])[cuts]
    return [text[a:b] for a, b in pairwise(cuts.tolist())]


def encode_value(name: str, value: Any, /) -> bytes:
    """Return the bytes of a member: the inverse of ``decode_value``, and PNG of integer pixels (height, width).

    Raises:
        ValueError: Bytes, text, an array, pixels or JSON of another type than the name asks for.
    """
    kind = name.rpartition(".")[2]
    if isinstance(value, bytes):
        return value
    try:
        if kind == "txt" and isinstance(value, str):
            return value.encode()
        if kind == "json":
            return json.dumps(value, ensure_ascii=False).encode()
        if kind == "npy":
            buffer = io.BytesIO()
            np.save(buffer, np.asarray(value), allow_pickle=False)
            return buffer.getvalue()
        if kind == "png":
            return _png(np.asarray(value))
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f".{name} cannot hold {shortened(repr(value)[:60])}: {error}") from None
    raise ValueError(f".{name} cannot hold {shortened(repr(value)[:60])}: give its bytes")


def follow(value: Any, path: str, /) -> Any:
    """Return what lies in a JSON value behind keys, and numbers of items, with dots between them.

    Raises:
        ValueError: There is no such key.
    """
    for key in path.split("."):
        if isinstance(value, dict) and key in value:
            value = value[key]
        elif isinstance(value, list) and key.isdecimal() and int(key) < len(value):
            value = value[int(key)]
        else:
            keys = ", ".join(shortened(each) for each in list(value)[:_SHOWN]) if isinstance(value, dict) else "none"
            raise ValueError(f"JSON must have a key {shortened(key)}, but its keys are {keys}")
    return value


def _array(name: str, data: bytes | memoryview) -> NDArray[Any]:
    try:
        wide = data[6] > 1  # version 1 has two bytes for the length of the header, others have four
        begin = 12 if wide else 10
        begin += int.from_bytes(data[8:begin], "little")
        shape, by_columns, kind = _array_header(bytes(data[:begin]))
        flat = np.frombuffer(data, kind, math.prod(shape), begin).copy()
        array: NDArray[Any] = flat.reshape(shape, order="F" if by_columns else "C")
    except Exception as error:  # NumPy's reader raises anything on bytes that mislead it
        text = "an array of Python objects, which needs pickle" if "object" in str(error) else "no array"
        raise ValueError(f".{name} must be an array as np.save writes it, but is {text}") from None
    return array


@lru_cache(maxsize=1024)
def _array_header(head: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether columns come first, and dtype: arrays of a field are often alike, and parsing takes a while."""
    file = io.BytesIO(head)
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, by_columns, kind = read(file)
    if kind.hasobject:
        raise ValueError("object")
    return shape, by_columns, kind


def _png(pixels: NDArray[Any]) -> bytes:
    if pixels.ndim != 2 or pixels.dtype.kind not in "bui":
        raise ValueError(f"pixels must be integers (height, width), but got {pixels.dtype} {pixels.shape}")
    low, high = int(pixels.min()), int(pixels.max())
    if low < 0 or high >= 1 << 16:
        raise ValueError(f"pixels must lie in 0 … 65535, but got {low} … {high}")
    buffer = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8 if high < 1 << 8 else np.uint16)).save(buffer, "PNG")
    return buffer.getvalue()
