"""States with arrays in them as plain JSON: an array is the base64 text of its compressed .npy bytes."""

import base64
import binascii
import io
import math
import reprlib
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

_ARRAY, _TENSOR = "npy+zlib", "tensor npy+zlib"
_SCALAR, _BITS, _FLOAT, _TUPLE, _ITEMS = "scalar npy+zlib", "tensor bits", "float", "tuple", "items"
_MARKS = {_ARRAY, _TENSOR, _SCALAR, _BITS, _FLOAT, _TUPLE, _ITEMS}


def packed(value: Any, /) -> Any:
    """A state of dicts, lists, tuples, numbers, strings, None, arrays and dense tensors as JSON.

    Raises:
        TypeError: It holds something else.
    """
    if isinstance(value, np.generic) and not value.dtype.hasobject and not isinstance(value, str | bool | float):
        return {_SCALAR: _text(np.asarray(value))}
    if isinstance(value, float) and not math.isfinite(value):
        return {_FLOAT: str(float(value))}
    if value is None or isinstance(value, str | bool | int | float):
        return float(value) if isinstance(value, np.floating) else value
    if isinstance(value, np.ndarray):
        return {_ARRAY: _text(value)}
    if isinstance(value, Tensor) and value.layout is torch.strided and not value.is_quantized:
        return _packed_tensor(value.detach().cpu().resolve_conj().resolve_neg())
    if isinstance(value, Mapping):
        if all(isinstance(key, str) for key in value) and not value.keys() & _MARKS:
            return {key: packed(part) for key, part in value.items()}
        return {_ITEMS: [[packed(key), packed(part)] for key, part in value.items()]}
    if isinstance(value, tuple):
        return {_TUPLE: [packed(part) for part in value]}
    if isinstance(value, list):
        return [packed(part) for part in value]
    raise TypeError(
        "a state is made of dicts, lists, tuples, numbers, strings, arrays and dense tensors, but holds "
        f"{reprlib.repr(value)}: let the sampler's state_dict() give these only"
    )


def unpacked(value: Any, /) -> Any:
    """Return the value that `packed` was given, with tensors on the CPU.

    Raises:
        ValueError: An array or another part is damaged.
    """
    if isinstance(value, list):
        return [unpacked(part) for part in value]
    if not isinstance(value, Mapping):
        return value
    mark = next(iter(value)) if len(value) == 1 else ""
    if mark not in _MARKS:
        return {key: unpacked(part) for key, part in value.items()}
    part = value[mark]
    if mark in (_ARRAY, _SCALAR):
        array = _array(part)
        return array if mark == _ARRAY else array[()]
    try:
        if mark == _TENSOR:
            return torch.from_numpy(_array(part))
        if mark == _BITS:
            bits, kind, shape = part
            numbers = torch.from_numpy(_array(bits))
            kind = getattr(torch, kind)
            return (numbers.view(kind) if numbers.numel() else numbers.to(kind)).reshape(shape)
        if mark == _FLOAT:
            return float(part)
        parts = unpacked(part)
        return tuple(parts) if mark == _TUPLE else dict(parts)
    except (AttributeError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"a part of this state is damaged ({error}): take another checkpoint") from None


def _packed_tensor(tensor: Tensor) -> Any:
    """A tensor; as its bits where NumPy has no such numbers, as for bfloat16."""
    try:
        return {_TENSOR: _text(tensor.numpy())}
    except TypeError:
        bits = tensor.contiguous().reshape(-1).view(torch.uint8)
        return {_BITS: [_text(bits.numpy()), str(tensor.dtype).removeprefix("torch."), list(tensor.shape)]}


def _text(array: np.ndarray[Any, Any]) -> str:
    if array.dtype.hasobject:
        raise TypeError("a state cannot hold arrays of Python objects: give arrays of numbers")
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    return base64.b64encode(zlib.compress(file.getvalue(), 1)).decode()


def _array(text: Any) -> np.ndarray[Any, Any]:
    try:
        array = np.load(io.BytesIO(zlib.decompress(base64.b64decode(text, validate=True))), allow_pickle=False)
    except (TypeError, ValueError, EOFError, binascii.Error, zlib.error) as error:
        raise ValueError(f"an array of this state is damaged ({error}): take another checkpoint") from None
    assert isinstance(array, np.ndarray)
    return array
