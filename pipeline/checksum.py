"""xxHash32 (seed 0) in compiled code, so that a read can hash every member without holding the GIL.

The algorithm is the public specification of Yann Collet; the package `xxhash` is the reference in the tests.
"""

from typing import Any

import numpy as np
from numba import njit, uint32
from numpy.typing import NDArray

_P1, _P2, _P3, _P4, _P5 = (np.uint32(v) for v in (0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D, 0x27D4EB2F, 0x165667B1))


@njit(inline="always")
def _rotl(x: Any, r: int) -> Any:
    return uint32((x << uint32(r)) | (x >> uint32(32 - r)))


@njit(inline="always")
def _word(data: NDArray[np.uint8], i: int) -> Any:
    return uint32(data[i] | (data[i + 1] << 8) | (data[i + 2] << 16) | (data[i + 3] << 24))


@njit(inline="always")
def _round(acc: Any, word: Any) -> Any:
    return uint32(_rotl(uint32(acc + uint32(word * _P2)), 13) * _P1)


@njit(cache=True, nogil=True)
def xxh32(data: NDArray[np.uint8]) -> Any:
    """XxHash32 of a contiguous byte array, seed 0."""
    n, i = data.size, 0
    if n >= 16:
        a, b, c, d = uint32(_P1 + _P2), _P2, uint32(0), uint32(0 - _P1)
        words = data[: n - n % 16].view(np.uint32)
        for k in range(0, words.size, 4):
            a, b = _round(a, words[k]), _round(b, words[k + 1])
            c, d = _round(c, words[k + 2]), _round(d, words[k + 3])
        i = n - n % 16
        h = uint32(_rotl(a, 1) + _rotl(b, 7) + _rotl(c, 12) + _rotl(d, 18))
    else:
        h = _P5
    h = uint32(h + uint32(n))
    while i + 4 <= n:
        h = uint32(_rotl(uint32(h + uint32(_word(data, i) * _P3)), 17) * _P4)
        i += 4
    while i < n:
        h = uint32(_rotl(uint32(h + uint32(data[i] * _P5)), 11) * _P1)
        i += 1
    h = uint32((h ^ (h >> uint32(15))) * _P2)
    h = uint32((h ^ (h >> uint32(13))) * _P3)
    return uint32(h ^ (h >> uint32(16)))
