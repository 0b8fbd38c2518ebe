"""Checksums of members in compiled code, so that a read can hash every member without holding the GIL.

A member of more than `WIDE` bytes has the low half of XXH3-64 (seed 0), which takes a third of the time; others XXH32
(seed 0), which is as fast on little data. The functions are those of the C library in the package `xxhash`, whose
Python side `catalog_file.checksum_of` calls.
"""

from importlib import import_module
from typing import Any

import numpy as np
from llvmlite import binding
from numba import njit, types
from numpy.typing import NDArray

from drawstream.pipeline.shards.catalog_file import WIDE

binding.load_library_permanently(import_module("xxhash._xxhash").__file__)
if not binding.address_of_symbol("XXH3_64bits"):  # LLVM would end the process
    raise ImportError("drawstream needs xxhash with its C functions: pip install --force-reinstall xxhash")
_xxh32: Any = types.ExternalFunction("XXH32", types.uint32(types.voidptr, types.uintp, types.uint32))
_xxh3: Any = types.ExternalFunction("XXH3_64bits", types.uint64(types.voidptr, types.uintp))


@njit(cache=True, nogil=True)
def member_checksum(data: NDArray[np.uint8]) -> Any:
    """Return the checksum of a member, a contiguous byte array, as uint32."""
    size = np.uintp(data.size)
    return np.uint32(_xxh3(data.ctypes.data, size) if size > WIDE else _xxh32(data.ctypes.data, size, np.uint32(0)))
