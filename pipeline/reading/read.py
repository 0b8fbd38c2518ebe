"""Reads of tar members: one compiled call fetches and checks a whole batch, outside the GIL.

The kernel calls pread(2) for every member, so nothing is mapped: a shard cut short while it is in use is a short
read with a name, not a SIGBUS. Each member is hashed while it is still in the cache.
"""

import os
import weakref
from collections.abc import Sequence
from itertools import count
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
from numba import njit, types
from numpy.typing import NDArray

from drawstream.pipeline.fields import FieldColumns
from drawstream.pipeline.reading.bad_samples import BadSampleError, name_sample
from drawstream.pipeline.reading.cache import CachedShards
from drawstream.pipeline.reading.open_files import SHARED, OpenFile, OpenFiles
from drawstream.pipeline.reading.options import Checksum
from drawstream.pipeline.reading.ranges import RangeShards
from drawstream.pipeline.shards import Catalog, Remote, checksum_of, member_checksum
from drawstream.samplers.files import DESCRIPTORS, fault_of, system_fault

_pread: Any = types.ExternalFunction("pread", types.intp(types.intc, types.voidptr, types.uintp, types.int64))

OK, DAMAGED, UNREADABLE, SHORT = 0, 1, 2, 3
"""Status of one member: read and right, hash differs, refused by the operating system, file ends too early."""
HELD = 16  # shards of a cache that one read holds open at a time: removed ones then take room beyond its bound
_numbers = count()  # of objects that open files


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
) -> None:
    """Fill `out[starts[i] : starts[i] + sizes[i]]` with member i of `descriptors[i]`; `status[i]` says how it went.

    If `check[i]`, the bytes are compared with `checksums[i]`.
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
        if done == size and check[i] and member_checksum(out[starts[i] : starts[i] + size]) != checksums[i]:
            status[i] = DAMAGED


class Members(NamedTuple):
    """Members to read, images and fields, one entry each, (n,)."""

    shard: NDArray[Any]  # its number, int32
    offset: NDArray[Any]  # first byte in it, int64
    size: NDArray[Any]  # bytes, int64
    checksum: NDArray[Any]  # of the catalog, uint32
    check: NDArray[Any]  # whether to compare it
    start: NDArray[Any]  # first byte in the output, int64

    def at(self, index: NDArray[np.int64], /) -> "Members":
        """Return the members at some places, which rise; all of them without a copy."""
        return self if len(index) == len(self.shard) else Members(*(column[index] for column in self))


class Buffers:
    """Byte buffers that are used again: fresh memory costs a page fault for every 4 KiB that is read into it."""

    def __init__(self) -> None:
        self._free: list[NDArray[np.uint8]] = []
        self._lock = Lock()

    def take(self, size: int, /) -> NDArray[np.uint8]:
        """Return a buffer of at least `size` bytes, contents arbitrary."""
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
    """Reads a catalog's shards, which are opened when first needed; the process' limit on open files is respected.

    An error of the system that is not the file's own fault (no descriptors, no memory, a failing disk or network, no
    permission) is raised as OSError; it never counts as damage.
    """

    def __init__(
        self,
        catalog: Catalog,
        *,
        fields: Sequence[str] = (),
        images: bool = True,
        checksum: Checksum = "always",
        pool: OpenFiles = SHARED,
        remote: Remote | None = None,
    ) -> None:
        self._catalog = catalog
        image = {"": FieldColumns(catalog.offset, catalog.size, catalog.checksum)} if images else {}
        self._columns = image | {name: catalog.field_columns[name] for name in fields}
        self._policy = checksum
        self._seen = np.zeros(len(catalog) if checksum == "first" else 0, np.bool_)
        self._pool, self._number = pool, next(_numbers)
        weakref.finalize(self, pool.close, self._number).atexit = False
        self._refused: dict[int, str] = {}  # shard → why it could not be opened or read last
        self._cached: CachedShards | None = None
        self._ranges: RangeShards | None = None
        self._is_remote = np.zeros(len(catalog.shards), np.bool_)
        for member in catalog.members:
            self._is_remote[member.first_shard :] = member.remote is not None
        if self._is_remote.any():
            remote = remote or Remote()
            if remote.mode == "cache":
                self._cached = CachedShards(catalog, remote)
            else:
                self._ranges = RangeShards(catalog, remote)

    @property
    def checks_all(self) -> bool:
        """True if every read is compared with its checksum."""
        return self._policy == "always"

    @property
    def counts(self) -> dict[str, int]:
        """Downloads of a remote catalog, and hits and misses if it has a cache; empty for a local catalog."""
        source = self._cached or self._ranges
        return {} if source is None else source.counts

    def read(self, samples: NDArray[np.int64], /) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Return the bytes of samples (n,) one after the other (uint8), and the boundaries between them (int64).

        First come the n images, then n members of each field, of no bytes where a sample has none.

        Raises:
            BadSampleError: A member is cut short, unreadable or differs from its checksum; names key and shard.
        """
        bounds = self.bounds(samples)
        out = np.empty(bounds[-1], np.uint8)
        status = self.read_into(samples, bounds, out)
        if status.any():
            raise self.errors(samples, status)[0]
        return out, bounds

    def bounds(self, samples: NDArray[np.int64], /) -> NDArray[np.int64]:
        """Return the boundaries, int64, between members that lie one after the other, one more than there are."""
        bounds = np.zeros(len(samples) * len(self._columns) + 1, np.int64)
        np.cumsum(np.concatenate([columns.size[samples] for columns in self._columns.values()]), out=bounds[1:])
        return bounds

    def read_into(
        self, samples: NDArray[np.int64], bounds: NDArray[np.int64], out: NDArray[np.uint8], /
    ) -> NDArray[np.int64]:
        """Read members to `out[bounds[i] : bounds[i + 1]]`; return the status of each, int64."""
        catalog = self._catalog
        check = ~self._seen[samples] if self._policy == "first" else np.full(len(samples), self._policy == "always")
        count = len(self._columns)
        offset, size, checksum = (
            np.concatenate([columns[part][samples] for columns in self._columns.values()]) for part in range(3)
        )
        shard = np.tile(catalog.shard[samples], count)
        members = Members(shard, offset, size, checksum, np.tile(check, count), bounds[:-1])
        status = np.zeros(len(members.shard), np.int64)
        there = np.flatnonzero(members.size)
        status[there] = self._read(members.at(there), out)
        bad = np.flatnonzero(status)
        bad = bad[self._is_remote[members.shard[bad]]]
        if len(bad):  # fetched anew once
            if self._cached is not None:
                for shard in np.unique(members.shard[bad]):
                    self._cached.discard(int(shard))
            status[bad] = self._read(members.at(bad), out)
        if self._policy == "first":
            self._seen[samples[(status.reshape(count, -1) == OK).all(0)]] = True
        return status

    def _read(self, members: Members, out: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Read members, from files or by requests; return the status of each."""
        if self._ranges is None:
            return self._read_files(members, out)
        asked = self._is_remote[members.shard]
        if asked.all():
            return self._request(self._ranges, members, out)
        status = np.empty(len(asked), np.int64)
        status[asked] = self._request(self._ranges, members.at(np.flatnonzero(asked)), out)
        status[~asked] = self._read_files(members.at(np.flatnonzero(~asked)), out)
        return status

    def _request(self, source: RangeShards, members: Members, out: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Fetch members of remote catalogs; return the status of each."""
        status = np.zeros(len(members.shard), np.int64)
        source.fetch(members.shard, members.offset, members.size, members.start, out)
        for i in np.flatnonzero(members.check).tolist():
            start, stop = members.start[i], members.start[i] + members.size[i]
            status[i] = OK if checksum_of(out[start:stop].data) == members.checksum[i] else DAMAGED
        return status

    def _read_files(self, members: Members, out: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Read members, of so many shards at a time as may be open; return the status of each."""
        status = np.zeros(len(members.shard), np.int64)
        most = self._pool.limit if self._cached is None else min(self._pool.limit, HELD)
        needed = np.unique(members.shard)
        parts = np.array_split(needed, -(-len(needed) // most) or 1)
        while parts:
            shards = parts.pop(0)
            files = self._files(shards.tolist())
            if files is None:
                parts[:0] = np.array_split(shards, 2)
                continue
            several = len(shards) < len(needed)
            at = np.flatnonzero(np.isin(members.shard, shards)) if several else np.arange(len(members.shard))
            some, done = members.at(at), np.zeros(len(at), np.int64)
            descriptors = np.array([file.fd for file in files], np.int32)[np.searchsorted(shards, some.shard)]
            read_members(descriptors, *some[1:], out, done)
            self._read_again(descriptors, some, out, done)
            status[at] = done
        return status

    def _read_again(
        self, descriptors: NDArray[np.int32], members: Members, out: NDArray[np.uint8], status: NDArray[np.int64]
    ) -> None:
        """Read once more what the system refused to read; raise its error if it does so again."""
        for i in np.flatnonzero((status == UNREADABLE) & (descriptors >= 0)).tolist():
            shard, offset, size, checksum, check, start = (column[i].item() for column in members)
            place = out[start : start + size]
            done = 0
            try:
                while done < size and (data := os.pread(descriptors[i], size - done, offset + done)):
                    place[done : done + len(data)] = np.frombuffer(data, np.uint8)
                    done += len(data)
            except OSError as error:
                told = system_fault(error, self._catalog.shard_name(shard), at=offset + done)
                if fault_of(error) != "file":
                    raise told from None
                self._refused[shard] = f"it cannot be read ({told.strerror})"
                continue
            damaged = check and checksum_of(place.data) != checksum
            status[i] = SHORT if done < size else DAMAGED if damaged else OK

    def _files(self, shards: list[int]) -> list[OpenFile] | None:
        """Open shards, until the list is gone; None if the process may not open so many."""
        try:
            return [self._file(shard, wait=len(shards) == 1) for shard in shards]
        except OSError as error:
            if error.errno not in DESCRIPTORS or len(shards) == 1:
                raise
        return None  # here, where the files that were opened are closed

    def _file(self, shard: int, *, wait: bool) -> OpenFile:
        """Open a shard; without a descriptor if the file is at fault, so that its reads fail."""
        try:
            if (
                self._cached is not None and self._is_remote[shard]
            ):  # not held for later: what the cache removes would still take its room
                cached = self._cached
                return OpenFile(self._pool.patiently(lambda: cached.open(shard), wait=wait))
            file = self._pool.open(self._number, shard, self._catalog.shard_path(shard), wait=wait)
        except OSError as error:
            if fault_of(error) != "file":
                raise system_fault(error, self._catalog.shard_name(shard)) from None
            self._refused[shard] = f"it cannot be opened ({error.strerror})"
            return OpenFile(-1)
        self._refused.pop(shard, None)
        return file

    def close(self) -> None:
        """Close all files; they open again when they are needed."""
        self._pool.close(self._number)

    def errors(self, samples: NDArray[np.int64], status: NDArray[np.int64], /) -> list[BadSampleError]:
        """Return the errors of samples (n,) whose reads ended with these statuses: of each that of its first member."""
        found: dict[int, BadSampleError] = {}
        for i in np.flatnonzero(status).tolist():
            field, at = divmod(i, len(samples))
            name = list(self._columns)[field]
            found.setdefault(at, self.error(int(samples[at]), int(status[i]), name))
        return list(found.values())

    def error(self, sample: int, status: int, field: str = "", /) -> BadSampleError:
        """Return the error for a sample of which the read of a member, its image or a field, ended with this status."""
        catalog, columns = self._catalog, self._columns[field]
        size, offset = int(columns.size[sample]), int(columns.offset[sample])
        what = f"{size} bytes of .{field}" if field else f"{size} bytes"
        reason = {
            SHORT: f"the shard ends before byte {offset + size}",
            DAMAGED: f"its {what} do not match the checksum of the catalog",
        }.get(status) or self._refused.get(int(catalog.shard[sample]), "the operating system could not read it")
        return self.refusal(sample, reason, "restore the shard, or run `drawstream verify` to list all damage")

    def refusal(self, sample: int, reason: str, remedy: str, /) -> BadSampleError:
        """Return the error for a sample that cannot be used for this reason."""
        return BadSampleError(f"{name_sample(self._catalog, sample)}: {reason}; {remedy}", sample)
