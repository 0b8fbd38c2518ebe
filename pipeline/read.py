"""Reads of tar members: one compiled call fetches and checks a whole batch, outside the GIL.

The kernel calls pread(2) for every member, so nothing is mapped: a shard cut short while it is in use is a short
read with a name, not a SIGBUS. Each member is hashed while it is still in the cache.
"""

import os
from collections import OrderedDict
from threading import Lock
from typing import Any, Literal

import numpy as np
from numba import njit, types
from numpy.typing import NDArray

from drawstream.pipeline.bad import BadSampleError, name_sample
from drawstream.pipeline.cache import CachedShards
from drawstream.pipeline.catalog import Catalog
from drawstream.pipeline.checksum import checksum
from drawstream.pipeline.ranges import RangeShards
from drawstream.pipeline.remote import Remote

Checksum = Literal["always", "first", "never"]

_pread: Any = types.ExternalFunction("pread", types.intp(types.intc, types.voidptr, types.uintp, types.int64))

OK, DAMAGED, UNREADABLE, SHORT = 0, 1, 2, 3
"""Status of one member: read and right, hash differs, refused by the operating system, file ends too early."""
HELD = 16  # shards of a cache that one read holds open at a time: removed ones then take room beyond its bound


@njit(cache=True, nogil=True)
def read_members(
    descriptors: NDArray[np.int32],
    offsets: NDArray[np.int64],
    sizes: NDArray[np.int64],
    checksums: NDArray[np.uint32],
    check: NDArray[np.bool_],
    starts: NDArray[np.int64],
    out: NDArray[np.uint8],
    status: NDArray[np.int64],
    wide: int,
) -> None:
    """Fill `out[starts[i] : starts[i] + sizes[i]]` with member i of `descriptors[i]`; `status[i]` says how it went.

    Where `check[i]`, the bytes are held against `checksums[i]`.
    """
    for i in range(offsets.size):
        status[i] = OK
        done, size = 0, sizes[i]
        while done < size:
            got = _pread(descriptors[i], out[starts[i] + done :].ctypes.data, np.uintp(size - done), offsets[i] + done)
            if got <= 0:
                status[i] = SHORT if got == 0 else UNREADABLE
                break
            done += got
        if done == size and check[i] and checksum(out[starts[i] : starts[i] + size], wide) != checksums[i]:
            status[i] = DAMAGED


@njit(cache=True, nogil=True)
def check_members(
    sizes: NDArray[np.int64],
    checksums: NDArray[np.uint32],
    check: NDArray[np.bool_],
    starts: NDArray[np.int64],
    out: NDArray[np.uint8],
    status: NDArray[np.int64],
    wide: int,
) -> None:
    """Hold members that were fetched to `out[starts[i] : starts[i] + sizes[i]]` against their checksums."""
    for i in range(sizes.size):
        damaged = check[i] and checksum(out[starts[i] : starts[i] + sizes[i]], wide) != checksums[i]
        status[i] = DAMAGED if damaged else OK


class Buffers:
    """Byte buffers that are used again: fresh memory costs a page fault for every 4 KiB that is read into it."""

    def __init__(self) -> None:
        self._free: list[NDArray[np.uint8]] = []
        self._lock = Lock()

    def take(self, size: int, /) -> NDArray[np.uint8]:
        """A buffer of at least `size` bytes, contents arbitrary."""
        with self._lock:
            for i, buffer in enumerate(self._free):
                if buffer.size >= size:
                    return self._free.pop(i)
            if self._free:
                self._free.pop()  # all are too small: a larger one takes its place
        return np.empty(size + size // 4, np.uint8)

    def give(self, buffer: NDArray[np.uint8], /) -> None:
        """Hand back a buffer that nothing reads from any more."""
        with self._lock:
            self._free.append(buffer)


class ShardFiles:
    """File descriptors of a catalog's shards, opened when first needed; at most `limit` are open at a time.

    Args:
        catalog: Whose shards.
        checksum: Which reads are held against the checksums of the catalog: `always` all, `first` the first one of each
            sample, `never` none.
        limit: Well below the usual 1024 descriptors of a process.
        remote: How the shards of a remote catalog are read; of no effect on a local one.

    Raises:
        ValueError: Another `checksum`.
    """

    def __init__(
        self, catalog: Catalog, *, checksum: Checksum = "always", limit: int = 256, remote: Remote | None = None
    ) -> None:
        if checksum not in ("always", "first", "never"):
            raise ValueError(f"`checksum` must be always, first or never, but got {checksum!r}")
        self._catalog = catalog
        self._limit = limit
        self._policy = checksum
        self._seen = np.zeros(len(catalog) if checksum == "first" else 0, np.bool_)
        self._open: OrderedDict[int, _File] = OrderedDict()
        self._refused: dict[int, str] = {}  # shard → why it could not be opened last
        self._lock = Lock()
        self._cached: CachedShards | None = None
        self._ranges: RangeShards | None = None
        if catalog.remote is not None:
            remote = remote or Remote()
            if remote.mode == "cache":
                self._cached = CachedShards(catalog, remote)
                self._limit = min(limit, HELD)
            else:
                self._ranges = RangeShards(catalog, remote)
                self._limit = len(catalog.shards)

    @property
    def checks_all(self) -> bool:
        """Whether every read is held against its checksum."""
        return self._policy == "always"

    @property
    def counts(self) -> dict[str, int]:
        """Of a remote catalog: what was downloaded, and from the cache whether shards were there."""
        source = self._cached or self._ranges
        return {} if source is None else source.counts

    def read(self, samples: NDArray[np.int64], /) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Read and check the image members of some samples.

        Args:
            samples: Rows of the catalog, shape (n,), any order, repeats allowed.

        Returns:
            All bytes one after the other (uint8), and the n + 1 boundaries between them (int64).

        Raises:
            BadSampleError: A member is cut short, unreadable or differs from its checksum; names key and shard.
        """
        bounds = self.bounds(samples)
        out = np.empty(bounds[-1], np.uint8)
        status = self.read_into(samples, bounds, out)
        if status.any():
            bad = int(np.flatnonzero(status)[0])
            raise self.error(int(samples[bad]), int(status[bad]))
        return out, bounds

    def bounds(self, samples: NDArray[np.int64], /) -> NDArray[np.int64]:
        """Where each member begins when they lie one after the other, and where the last one ends: int64 (n + 1,)."""
        bounds = np.zeros(len(samples) + 1, np.int64)
        np.cumsum(self._catalog.size[samples], out=bounds[1:])
        return bounds

    def read_into(
        self, samples: NDArray[np.int64], bounds: NDArray[np.int64], out: NDArray[np.uint8], /
    ) -> NDArray[np.int64]:
        """Read members to `out[bounds[i] : bounds[i + 1]]`; the status of each, int64 (n,)."""
        catalog = self._catalog
        status = np.zeros(len(samples), np.int64)
        check = np.full(len(samples), self._policy == "always")
        if self._policy == "first":
            check = ~self._seen[samples]
        members = (
            catalog.shard[samples],
            catalog.offset[samples],
            catalog.size[samples],
            catalog.checksum[samples],
            check,
            bounds[:-1],
        )
        shards = np.unique(members[0])
        if len(shards) <= self._limit:
            self._read(members, out, status)
        else:  # so many shards cannot be open at once: a part of them after the other
            for part in np.array_split(shards, -(-len(shards) // self._limit)):
                at = np.flatnonzero(np.isin(members[0], part))
                done = np.empty(len(at), np.int64)
                self._read(tuple(column[at] for column in members), out, done)
                status[at] = done
        if self._policy == "first":
            self._seen[samples[status == OK]] = True
        return status

    def _read(self, members: tuple[NDArray[Any], ...], out: NDArray[np.uint8], status: NDArray[np.int64]) -> None:
        """Read members that lie in at most `limit` shards; remote ones that came damaged are fetched anew once."""
        self._read_once(members, out, status)
        bad = np.flatnonzero(status)
        if len(bad) and self._catalog.remote is not None:
            if self._cached is not None:
                for shard in np.unique(members[0][bad]):
                    self._cached.discard(int(shard))
            again = np.empty(len(bad), np.int64)
            self._read_once(tuple(column[bad] for column in members), out, again)
            status[bad] = again

    def _read_once(self, members: tuple[NDArray[Any], ...], out: NDArray[np.uint8], status: NDArray[np.int64]) -> None:
        numbers, offsets, sizes, checksums, check, starts = members
        if self._ranges is not None:
            self._ranges.fetch(numbers, offsets, sizes, starts, out)
            check_members(sizes, checksums, check, starts, out, status, self._catalog.wide)
            return
        shards, which = np.unique(numbers, return_inverse=True)
        files = self._files(shards.tolist())
        descriptors = np.array([file.fd for file in files], np.int32)[which]  # `files` keeps them open until the end
        read_members(descriptors, offsets, sizes, checksums, check, starts, out, status, self._catalog.wide)

    def _files(self, shards: list[int]) -> "list[_File]":
        """Open files of shards. Those of a cache are not held for later: what it removes would still take its room."""
        if self._cached is not None:  # without the lock: a download takes long
            return [_File(self._cached.open(shard)) for shard in shards]
        with self._lock:
            return [self._file(shard) for shard in shards]

    def _file(self, shard: int) -> "_File":
        """The open file of a shard; without a descriptor where it cannot be opened, so that its reads fail."""
        if shard not in self._open:
            while len(self._open) >= self._limit:
                self._open.popitem(last=False)
            try:
                self._open[shard] = _File(os.open(self._catalog.shard_path(shard), os.O_RDONLY | os.O_CLOEXEC))
            except OSError as error:
                self._refused[shard] = f"it cannot be opened ({error.strerror})"
                return _File(-1)
            self._refused.pop(shard, None)
        self._open.move_to_end(shard)
        return self._open[shard]

    def close(self) -> None:
        """Close all files; they open again when they are needed."""
        with self._lock:
            self._open.clear()

    def error(self, sample: int, status: int, /) -> BadSampleError:
        """What to say of a sample whose read ended with this status."""
        catalog = self._catalog
        size, offset = int(catalog.size[sample]), int(catalog.offset[sample])
        reason = {
            SHORT: f"the shard ends before byte {offset + size}",
            DAMAGED: f"its {size} bytes do not match the checksum of the catalog",
        }.get(status) or self._refused.get(int(catalog.shard[sample]), "the operating system could not read it")
        return self.refusal(sample, reason)

    def refusal(self, sample: int, reason: str, /) -> BadSampleError:
        """What to say of a sample that cannot be used for this reason."""
        remedy = "restore the shard, or run `drawstream verify` to list all damage"
        return BadSampleError(f"{name_sample(self._catalog, sample)}: {reason}; {remedy}", sample)


class _File:
    """One open file, closed when nobody reads from it any more."""

    __slots__ = ("fd",)

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def __del__(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
