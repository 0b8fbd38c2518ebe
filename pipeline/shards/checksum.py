"""Checksums of members, in compiled code, so that a read can hash every member without holding the GIL.

A member of more than `WIDE` bytes has the low half of XXH3-64 (seed 0), which takes a third of the time; others XXH32
(seed 0), which is as fast on little data. Both are public specifications of Yann Collet; the package `xxhash`, which
`catalog.checksum_of` calls, is the reference in the tests.

Notation of XXH3: data is cut into stripes of 64 bytes, 16 stripes are a block; 8 lanes (uint64) accumulate
data[lane ^ 1] + low32(data[lane] ^ secret) · high32(data[lane] ^ secret), and are scrambled after each block.
"""

from typing import Any

import numpy as np
from numba import njit, uint32, uint64
from numpy.typing import NDArray

from drawstream.pipeline.shards.catalog_file import WIDE

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


def _words(at: int, count: int) -> NDArray[np.uint64]:
    return np.frombuffer(_SECRET[at : at + 8 * count], np.uint64).copy()


_SECRET = bytes.fromhex(  # kSecret of the specification
    "b8fe6c3923a44bbe7c01812cf721ad1cded46de9839097db7240a4a4b7b3671fcb79e64eccc0e578825ad07dccff7221"
    "b8084674f743248ee03590e6813a264c3c2852bb91c300cb88d0658b1b532ea371644897a20df94e3819ef46a9deacd8"
    "a8fa763fe39c343ff9dcbbc7c70b4f1d8a51e04bcdb45931c89f7ec9d9787364eac5ac8334d3ebc3c581a0fffa1363eb"
    "170ddd51b7f0da49d316552629d4689e2b16be587d47a1fc8ff8b8d17ad031ce45cb3a8f95160428afd7fbcabb4b407e"
)
_BLOCK = np.concatenate([_words(8 * stripe, 8) for stripe in range(16)])
_SCRAMBLE, _TAIL, _MERGE = _words(128, 8), _words(121, 8), _words(11, 8)
_Q1, _Q2, _Q3, _Q4, _Q5 = (
    np.uint64(v)
    for v in (0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0x85EBCA77C2B2AE63, 0x27D4EB2F165667C5)
)
_LANES = np.array([_P3, _Q1, _Q2, _Q3, _Q4, _P2, _Q5, _P1], np.uint64)
_AVALANCHE, _FACTOR = np.uint64(0x165667919E3779F9), np.uint64(_P1)
_LOW, _32, _37, _47 = np.uint64(0xFFFFFFFF), np.uint64(32), np.uint64(37), np.uint64(47)


@njit(inline="always")
def _accumulate(lanes: Any, words: Any, at: int, secret: Any, key: int) -> None:
    """Take one stripe in."""
    for i in range(8):
        keyed = words[at + i] ^ secret[key + i]
        lanes[i ^ 1] += words[at + i]
        lanes[i] += (keyed & _LOW) * (keyed >> _32)


@njit(inline="always")
def _folded(a: Any, b: Any) -> Any:
    """The two halves of the product a · b (128 bits), one upon the other."""
    low, high, ah_bl, al_bh = (a & _LOW) * (b & _LOW), (a >> _32) * (b >> _32), (a >> _32) * (b & _LOW), 0
    al_bh = (a & _LOW) * (b >> _32)
    cross = (low >> _32) + (ah_bl & _LOW) + al_bh
    return ((ah_bl >> _32) + (cross >> _32) + high) ^ ((cross << _32) | (low & _LOW))


@njit(cache=True, nogil=True)
def xxh3(data: NDArray[np.uint8]) -> Any:
    """XXH3-64 of a contiguous array of more than 240 bytes, seed 0."""
    n = data.size
    words = data[: n - n % 8].view(np.uint64)
    lanes, products = _LANES.copy(), np.empty(128, np.uint64)
    blocks = (n - 1) // 1024
    for b in range(blocks):
        block = words[b * 128 : b * 128 + 128]
        for j in range(128):  # apart from the sums, so that it is done several words at a time
            keyed = block[j] ^ _BLOCK[j]
            products[j] = (keyed & _LOW) * (keyed >> _32)
        for i in range(8):
            lane = lanes[i]
            for s in range(0, 128, 8):
                lane += products[s + i] + block[s + (i ^ 1)]
            lanes[i] = ((lane ^ (lane >> _47)) ^ _SCRAMBLE[i]) * _FACTOR
    for s in range((n - 1 - blocks * 1024) // 64):
        _accumulate(lanes, words, blocks * 128 + s * 8, _BLOCK, s * 8)
    _accumulate(lanes, data[n - 64 :].copy().view(np.uint64), 0, _TAIL, 0)
    h = uint64(uint64(n) * _Q1)
    for i in range(0, 8, 2):
        h += _folded(lanes[i] ^ _MERGE[i], lanes[i + 1] ^ _MERGE[i + 1])
    h = uint64((h ^ (h >> _37)) * _AVALANCHE)
    return uint64(h ^ (h >> _32))


@njit(cache=True, nogil=True)
def checksum(data: NDArray[np.uint8]) -> Any:
    """The checksum of a member, a contiguous byte array, as uint32."""
    return uint32(xxh3(data) & _LOW) if data.size > WIDE else xxh32(data)
