"""Reads of tar members: one compiled call fetches and checks a whole batch, outside the GIL.

The kernel calls pread(2) for every member, so nothing is mapped: a shard cut short while it is in use is a short
read with a name, not a SIGBUS. Each member is hashed while it is still in the cache.
"""

import os
from collections import OrderedDict
from threading import Lock

import numpy as np
from numba import njit, types
from numpy.typing import NDArray


from drawstream.pipeline.catalog import Catalog
from drawstream.pipeline.checksum import xxh32

_pread = types.ExternalFunction("pread", types.intp(types.intc, types.voidptr, types.uintp, types.int64))

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


class ShardFiles:
    """File descriptors of a catalog's shards, opened when first needed; at most `limit` stay open."""

    def __init__(self, catalog: Catalog, *, limit: int = 256) -> None:
        self._catalog = catalog
        self._limit = limit  # well below the usual 1024 descriptors of a process
        self._open: OrderedDict[int, _File] = OrderedDict()
        self._lock = Lock()

    def descriptors(self, shards: NDArray[np.int32]) -> "list[_File]":
        """Open files of the given shards (distinct numbers), in that order; the caller keeps them while it reads."""
        with self._lock:
            files = [self._file(int(shard)) for shard in shards]
            while len(self._open) > self._limit:
                self._open.popitem(last=False)
            return files

    def _file(self, shard: int) -> "_File":
        if shard not in self._open:
            self._open[shard] = _File(os.open(self._catalog.shard_path(shard), os.O_RDONLY | os.O_CLOEXEC))
        self._open.move_to_end(shard)
        return self._open[shard]

    def read(self, samples: NDArray[np.int64]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Read and check the image members of some samples.

        Args:
            samples: Rows of the catalog, shape (n,), any order, repeats allowed.

        Returns:
            All bytes one after the other (uint8), and the n + 1 boundaries between them (int64).

        Raises:
            BadSampleError: A member is cut short, unreadable or differs from its checksum; names key and shard.
        """
        catalog = self._catalog
        shards, which = np.unique(catalog.shard[samples], return_inverse=True)
        files = self.descriptors(shards)
        fds = np.array([file.fd for file in files], np.int32)[which]
        bounds = np.zeros(len(samples) + 1, np.int64)
        sizes = catalog.size[samples]
        np.cumsum(sizes, out=bounds[1:])
        out = np.empty(bounds[-1], np.uint8)
        status = np.empty(len(samples), np.int64)
        read_members(fds, catalog.offset[samples], sizes, catalog.checksum[samples], bounds, out, status)
        if status.any():
            bad = int(np.flatnonzero(status)[0])
            raise self._error(int(samples[bad]), int(status[bad]))
        return out, bounds

    def _error(self, sample: int, status: int) -> BadSampleError:
        catalog = self._catalog
        size, offset = int(catalog.size[sample]), int(catalog.offset[sample])
        reason = {
            SHORT: f"the shard ends before byte {offset + size}",
            DAMAGED: f"its {size} bytes do not match the checksum of the catalog",
        }.get(status, "the operating system could not read it")
        where = catalog.shard_path(int(catalog.shard[sample]))
        message = (
            f"sample {catalog.key(sample)!r} (row {sample}) of {where}: {reason}; "
            "restore the shard, or run `drawstream verify` to list all damage"
        )
        return BadSampleError(message, sample)


class _File:
    """One open file, closed when nobody reads from it any more."""

    __slots__ = ("fd",)

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def __del__(self) -> None:
        os.close(self.fd)
