"""Reads of tar members: one compiled call fetches and checks a whole batch, outside the GIL.

The kernel calls pread(2) for every member, so nothing is mapped: a shard cut short while it is in use is a short
read with a name, not a SIGBUS. Each member is hashed while it is still in the cache.
"""

import os
from collections import OrderedDict
from threading import Lock
from typing import Any

import numpy as np
from numba import njit, types
from numpy.typing import NDArray

from drawstream.pipeline.catalog import Catalog
from drawstream.pipeline.checksum import xxh32

_pread: Any = types.ExternalFunction("pread", types.intp(types.intc, types.voidptr, types.uintp, types.int64))

OK, DAMAGED, UNREADABLE, SHORT = 0, 1, 2, 3
"""Status of one member: read and right, hash differs, refused by the operating system, file ends too early."""


@njit(cache=True, nogil=True)
def read_members(
    descriptors: NDArray[np.int32],
    offsets: NDArray[np.int64],
    sizes: NDArray[np.int64],
    checksums: NDArray[np.uint32],
    starts: NDArray[np.int64],
    out: NDArray[np.uint8],
    status: NDArray[np.int64],
) -> None:
    """Fill `out[starts[i] : starts[i] + sizes[i]]` with member i of `descriptors[i]`; `status[i]` says how it went."""
    for i in range(offsets.size):
        status[i] = OK
        done, size = 0, sizes[i]
        while done < size:
            got = _pread(descriptors[i], out[starts[i] + done :].ctypes.data, np.uintp(size - done), offsets[i] + done)
            if got <= 0:
                status[i] = SHORT if got == 0 else UNREADABLE
                break
            done += got
        if done == size and xxh32(out[starts[i] : starts[i] + size]) != checksums[i]:
            status[i] = DAMAGED


class BadSampleError(RuntimeError):
    """A sample cannot be read as the catalog describes it. `sample_id` is its row in the catalog."""

    def __init__(self, message: str, sample_id: int) -> None:
        super().__init__(message)
        self.sample_id = sample_id


def name_sample(catalog: Catalog, sample: int, /) -> str:
    """Key, row and shard of a sample, for messages."""
    return f"sample {catalog.key(sample)!r} (row {sample}) of {catalog.shard_path(int(catalog.shard[sample]))}"


class ShardFiles:
    """File descriptors of a catalog's shards, opened when first needed; at most `limit` are open at a time."""

    def __init__(self, catalog: Catalog, *, limit: int = 256) -> None:
        self._catalog = catalog
        self._limit = limit  # well below the usual 1024 descriptors of a process
        self._open: OrderedDict[int, _File] = OrderedDict()
        self._lock = Lock()

    def read(self, samples: NDArray[np.int64], /) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Read and check the image members of some samples.

        Args:
            samples: Rows of the catalog, shape (n,), any order, repeats allowed.

        Returns:
            All bytes one after the other (uint8), and the n + 1 boundaries between them (int64).

        Raises:
            BadSampleError: A member is cut short, unreadable or differs from its checksum; names key and shard.
        """
        catalog = self._catalog
        bounds = np.zeros(len(samples) + 1, np.int64)
        sizes = catalog.size[samples]
        np.cumsum(sizes, out=bounds[1:])
        out = np.empty(bounds[-1], np.uint8)
        status = np.zeros(len(samples), np.int64)
        members = (catalog.shard[samples], catalog.offset[samples], sizes, catalog.checksum[samples], bounds[:-1])
        shards = np.unique(members[0])
        if len(shards) <= self._limit:
            self._read(samples, members, out, status)
        else:  # so many shards cannot be open at once: a part of them after the other
            for part in np.array_split(shards, -(-len(shards) // self._limit)):
                at = np.flatnonzero(np.isin(members[0], part))
                done = np.empty(len(at), np.int64)
                self._read(samples[at], tuple(column[at] for column in members), out, done)
                status[at] = done
        if status.any():
            bad = int(np.flatnonzero(status)[0])
            raise self._error(int(samples[bad]), int(status[bad]))
        return out, bounds

    def _read(
        self, samples: NDArray[np.int64], members: tuple[NDArray[Any], ...], out: NDArray[np.uint8], status: Any
    ) -> None:
        """Read members that lie in at most `limit` shards."""
        numbers, offsets, sizes, checksums, starts = members
        shards, first, which = np.unique(numbers, return_index=True, return_inverse=True)
        with self._lock:
            files = [self._file(int(shard), int(samples[at])) for shard, at in zip(shards, first, strict=True)]
        descriptors = np.array([file.fd for file in files], np.int32)[which]  # `files` keeps them open until the end
        read_members(descriptors, offsets, sizes, checksums, starts, out, status)

    def _file(self, shard: int, sample: int) -> "_File":
        """The open file of a shard; `sample` is one that is wanted of it."""
        if shard not in self._open:
            while len(self._open) >= self._limit:
                self._open.popitem(last=False)
            try:
                self._open[shard] = _File(os.open(self._catalog.shard_path(shard), os.O_RDONLY | os.O_CLOEXEC))
            except OSError as error:
                raise self._error(sample, UNREADABLE, f"it cannot be opened ({error.strerror})") from None
        self._open.move_to_end(shard)
        return self._open[shard]

    def close(self) -> None:
        """Close all files; they open again when they are needed."""
        with self._lock:
            self._open.clear()

    def _error(self, sample: int, status: int, reason: str = "") -> BadSampleError:
        catalog = self._catalog
        size, offset = int(catalog.size[sample]), int(catalog.offset[sample])
        reason = reason or {
            SHORT: f"the shard ends before byte {offset + size}",
            DAMAGED: f"its {size} bytes do not match the checksum of the catalog",
        }.get(status, "the operating system could not read it")
        remedy = "restore the shard, or run `drawstream verify` to list all damage"
        return BadSampleError(f"{name_sample(catalog, sample)}: {reason}; {remedy}", sample)


class _File:
    """One open file, closed when nobody reads from it any more."""

    __slots__ = ("fd",)

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def __del__(self) -> None:
        os.close(self.fd)
