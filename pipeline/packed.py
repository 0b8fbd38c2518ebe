"""States with arrays in them as plain JSON: an array is the base64 text of its compressed .npy bytes."""

import base64
import binascii
import io
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

_ARRAY, _TENSOR = "npy+zlib", "tensor npy+zlib"


def packed(value: Any, /) -> Any:
    """A state of dicts with string keys, lists, numbers, strings, None, arrays and tensors as JSON.

    Raises:
        TypeError: It holds something else.
    """
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, np.generic):
        return packed(value.item())
    if isinstance(value, np.ndarray):
        return {_ARRAY: _text(value)}
    if isinstance(value, Tensor):
        return {_TENSOR: _text(value.detach().cpu().numpy())}
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {key: packed(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [packed(part) for part in value]
    raise TypeError(
        f"a state is made of dicts with names, lists, numbers, strings, arrays and tensors, but holds {value!r:.80}: "
        "let the sampler's state_dict() give these only"
    )


def unpacked(value: Any, /) -> Any:
    """What `packed` was given; tuples are lists, tensors are on the CPU.

    Raises:
        ValueError: An array is damaged.
    """
    if isinstance(value, Mapping):
        if _ARRAY in value:
            return _array(value[_ARRAY])
        if _TENSOR in value:
            return torch.from_numpy(_array(value[_TENSOR]))
        return {key: unpacked(part) for key, part in value.items()}
    return [unpacked(part) for part in value] if isinstance(value, list) else value


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
