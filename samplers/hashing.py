"""Random bits without state: keys from names and numbers, and a generator addressed by position.

Notation
    key       (n,) uint64   words that stand for one use of one (seed, epoch)
    position  uint64        a counter: a place in an epoch, a row, a block
    bits      uint64        64 uniform bits, a function of (key, position) alone

Keys come from SHAKE-256 of the parts with their kinds and lengths, so (1, 0) and (0, 1) or ("a", "bc") and
("ab", "c") never meet. Bits are the SplitMix64 output function (Steele, Lea, Flood, OOPSLA 2014; constants:
Stafford's variant 13) with a second key word between its multiplications, so that two keys are not two windows
of one sequence. Everything is integer arithmetic: the same on every machine.
"""

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import config
from numba.extending import intrinsic
from numpy.typing import NDArray

from drawstream.samplers.arguments import whole_number

__all__ = ["count_ones", "derive_keys", "digest_array", "high_product", "random_bits", "random_words"]

if config.DISABLE_JIT:  # type: ignore[attr-defined]
    raise ImportError(
        "the kernels of drawstream must be compiled, but NUMBA_DISABLE_JIT forbids it: unset NUMBA_DISABLE_JIT"
    )

_GAMMA = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio, odd: consecutive positions land far apart
_MIX1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX2 = np.uint64(0x94D049BB133111EB)
_S30, _S27, _S31 = np.uint64(30), np.uint64(27), np.uint64(31)


def derive_keys(count: int, /, *parts: int | str) -> NDArray[np.uint64]:
    """Derive `count` uint64 key words from a sequence of names and of integers in [0, 2^64).

    Raises:
        TypeError: a part is neither text nor a whole number.
        ValueError: an integer part is outside [0, 2^64).
    """
    sponge = hashlib.shake_256()
    for part in parts:
        if isinstance(part, str):
            text = part.encode()
            sponge.update(b"s" + len(text).to_bytes(8, "little") + text)
        else:
            number = whole_number(part, "a seed or an epoch")
            if not 0 <= number < 1 << 64:
                raise ValueError(f"a seed or an epoch must be in [0, 2**64), but got {number}")
            sponge.update(b"i" + number.to_bytes(8, "little"))
    return np.frombuffer(sponge.digest(8 * count), dtype="<u8").astype(np.uint64)


def digest_array(array: NDArray[Any], /) -> str:
    """Hash of the bytes of an array, 32 hexadecimal characters."""
    return hashlib.blake2b(np.ascontiguousarray(array).view(np.uint8).data, digest_size=16).hexdigest()


def _high_product(typing: Any, a: Any, b: Any) -> tuple[Any, Callable[..., Any]]:  # noqa: ARG001 - Numba's signature
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:  # noqa: ARG001
        wide = ir.IntType(128)
        product = builder.mul(builder.zext(args[0], wide), builder.zext(args[1], wide))
        return builder.trunc(builder.lshr(product, ir.Constant(wide, 64)), ir.IntType(64))

    return types.uint64(types.uint64, types.uint64), codegen


def _count_ones(typing: Any, word: Any) -> tuple[Any, Callable[..., Any]]:  # noqa: ARG001 - Numba's signature
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:  # noqa: ARG001
        return builder.ctpop(args[0])

    return types.uint64(types.uint64), codegen


# Callable from kernels only; one machine instruction each where the processor has one.
# high_product(a, b): upper 64 bits of the 128-bit product; for uniform bits a, a number below b (Lemire 2019).
high_product: Any = intrinsic(_high_product)
# count_ones(word): number of set bits.
count_ones: Any = intrinsic(_count_ones)


@njit(cache=True, nogil=True)
def random_bits(position: Any, key0: Any, key1: Any) -> Any:
    """64 uniform bits at a position, under two uint64 key words."""
    z = np.uint64(position) * _GAMMA + key0
    z = (z ^ (z >> _S30)) * _MIX1 ^ key1
    z = (z ^ (z >> _S27)) * _MIX2
    return z ^ (z >> _S31)


def random_words(positions: NDArray[np.int64], keys: NDArray[np.uint64], /) -> NDArray[np.uint64]:
    """Return 64 uniform bits for each position (n,), uint64 (n,), under two key words."""
    words = np.empty(positions.size, dtype=np.uint64)
    _fill_words(positions, keys[0], keys[1], words)
    return words


@njit(cache=True, nogil=True)
def _fill_words(positions: NDArray[np.int64], key0: Any, key1: Any, words: NDArray[np.uint64]) -> None:
    for i in range(words.size):
        words[i] = random_bits(positions[i], key0, key1)
