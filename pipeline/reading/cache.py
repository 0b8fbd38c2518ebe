"""Shards of a remote catalog, kept whole in a folder on local disk that processes share.

    <hash>-<bytes>.tar       a whole shard: renamed to this name after its bytes matched the hash in the catalog
    <hash>-<bytes>.partial   one on its way
    <hash>-<bytes>.lock      held by the process that downloads it
    lock                     held for the moment in which files are added or removed

The folder is all the state there is, so a process may be killed at any point: the next download goes on with its
`.partial`. Room is counted by the sizes in the names, those on their way included; the time of a file is when it was
last opened, and the oldest go first. Unlinking takes only the name: a process that has a shard open keeps it.
"""

import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from threading import Lock, Thread

from filelock import FileLock, Timeout

from drawstream.pipeline.reading.ranges import total_counts
from drawstream.pipeline.shards import Catalog, Remote, RemoteError, Shard, Transfer, cache_folder, hash_file
from drawstream.samplers.files import fault_of, system_fault

CHUNK = 8 << 20  # bytes per request: long enough to hide its latency, short enough to repeat
AHEAD = 8  # chunks in flight per shard, so at most 64 MiB of memory
LARGEST = 100 << 30  # default bound, bytes
WAIT = 0.05  # seconds between looks for room that other downloads hold
_NAME = re.compile(r"[0-9a-f]{32}-(\d+)\.(tar|partial)")


class CachedShards:
    """Opens the shards of remote catalogs, downloading those that are not there. Safe with threads and processes."""

    def __init__(self, catalog: Catalog, remote: Remote) -> None:
        self._catalog = catalog
        self._folder = remote.folder or cache_folder() / "shards"
        self._window = min(remote.connections, AHEAD)
        self._transfers = {root: Transfer(root, remote) for member in catalog.members if (root := member.remote)}
        self._lock = Lock()
        self._counts = {"hits": 0, "misses": 0}
        self._last = -2  # shard opened last
        self._next: Thread | None = None
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RemoteError(f"{self._folder}: cannot be made ({error.strerror}): choose another `folder`") from None
        self._limit = remote.limit or default_limit(self._folder)

    @property
    def counts(self) -> dict[str, int]:
        """Shards found (perhaps after a wait) and not found, bytes downloaded here, requests repeated."""
        with self._lock:
            return {**self._counts, **total_counts(self._transfers)}

    def open(self, shard: int, /) -> int:
        """Return a descriptor of a whole shard, for the caller to close; shards opened in order are fetched ahead."""
        descriptor = self._open(shard)
        with self._lock:
            in_order, self._last = shard == self._last + 1, shard
            idle = self._next is None or not self._next.is_alive()
            if in_order and idle and self._is_wanted(shard + 1):
                self._next = Thread(target=self._prefetch, args=(shard + 1,), daemon=True)
                with suppress(RuntimeError):  # no thread to be had, as when the interpreter ends: it is not needed
                    self._next.start()
        return descriptor

    def _is_wanted(self, shard: int) -> bool:
        """Check that a shard is missing, and will hardly push out one that is being read."""
        shards = self._catalog.shards
        remote = shard < len(shards) and self._catalog.member_of(shard).remote is not None
        return remote and 4 * shards[shard].size <= self._limit and not self._path(shard).exists()

    def _prefetch(self, shard: int) -> None:
        with suppress(RemoteError, OSError):  # raised again for who opens that shard
            os.close(self._open(shard))

    def discard(self, shard: int, /) -> None:
        """Remove the kept copy of a shard, which turned out to be damaged."""
        self._path(shard).unlink(missing_ok=True)

    def _path(self, shard: int) -> Path:
        entry = self._catalog.shards[shard]
        path = self._folder / f"{entry.hash}-{entry.size}.tar"
        if not _NAME.fullmatch(path.name):
            raise RemoteError(
                f"{self._catalog.shard_name(shard)}: its catalog gives {entry.hash!r} as hash, which must be 32 hex "
                "digits: pack or index the data anew"
            )
        return path

    def _open(self, shard: int) -> int:
        entry, path = self._catalog.shards[shard], self._path(shard)
        outcome = "hits"
        try:
            while (descriptor := _open_whole(path, entry.size)) < 0:
                if entry.size > self._limit:
                    raise RemoteError(
                        f"{self._catalog.shard_name(shard)}: has {entry.size} bytes, more than the {self._limit} that "
                        f"the cache {self._folder} may hold: raise `limit`, or read with mode 'ranges'"
                    )
                self._folder.mkdir(parents=True, exist_ok=True)  # somebody may have cleared the cache
                partial, lock = path.with_suffix(".partial"), path.with_suffix(".lock")
                with _locked(lock):
                    try:
                        if not path.exists() and self._reserve(partial, entry.size):
                            descriptor, outcome = self._download(path, entry, shard), "misses"
                            break
                    finally:
                        if not partial.exists():
                            lock.unlink(missing_ok=True)
                if not path.exists():
                    time.sleep(WAIT)
        except OSError as error:
            if fault_of(error) in ("process", "device", "network"):
                raise system_fault(error, self._folder) from None
            raise RemoteError(
                f"{self._folder}: cannot keep {self._catalog.shard_name(shard)} of {entry.size} bytes "
                f"({error.strerror}): free some space, lower `limit` ({self._limit}), or choose another `folder`"
            ) from None
        with self._lock:
            self._counts[outcome] += 1
        return descriptor

    def _reserve(self, partial: Path, size: int) -> bool:
        """Make the file for a download if there is room, removing what was not used for longest; return whether."""
        with _locked(self._folder / "lock"):
            if not partial.exists():
                files = sorted(_files(self._folder))
                used = sum(each for _, each, _ in files)
                for _, each, path in files:
                    if used + size <= self._limit:
                        break
                    used -= each * _remove_idle(path)
                if used + size > self._limit:
                    return False
                partial.touch(0o666)
        return True

    def _download(self, path: Path, entry: Shard, shard: int) -> int:
        """Download what the partial file lacks, check it and give it its name; return its descriptor."""
        partial = path.with_suffix(".partial")
        descriptor = os.open(partial, os.O_RDWR | os.O_CLOEXEC)
        try:
            for _ in range(2):
                self._fill(descriptor, entry.size, shard)
                os.lseek(descriptor, 0, os.SEEK_SET)
                actual = hash_file(descriptor)
                os.lseek(descriptor, 0, os.SEEK_SET)  # the caller's begins there, too
                if actual == entry.hash:
                    os.fsync(descriptor)  # else a power cut could leave the name with zeros behind it
                    os.utime(descriptor)
                    with _locked(self._folder / "lock"):  # so that a count sees either name
                        partial.rename(path)
                    return descriptor
                os.ftruncate(descriptor, 0)
            partial.unlink()
            raise RemoteError(
                f"{self._catalog.shard_name(shard)}: hash must be {entry.hash}, but got {actual}, also when loaded "
                "anew: the shard was damaged or replaced: upload it again"
            )
        except BaseException as error:
            if isinstance(error, OSError) and fault_of(error) == "full":  # else the next download goes on with it
                partial.unlink(missing_ok=True)
            os.close(descriptor)
            raise

    def _fill(self, descriptor: int, size: int, shard: int) -> None:
        """Append to a partial file until it has all bytes."""
        url, transfer = self._catalog.shard_url(shard), self._transfers[self._catalog.member_of(shard).remote or ""]
        done, window = os.fstat(descriptor).st_size, 1  # one chunk first: it shows whether the server serves ranges
        while done < size:
            starts = range(done, min(done + window * CHUNK, size), CHUNK)
            parts = [(url, start, min(start + CHUNK, size)) for start in starts]
            for data in transfer.get(parts, most=size):
                if len(data) > min(CHUNK, size - done):
                    if len(data) != size:
                        raise RemoteError(
                            f"{self._catalog.shard_name(shard)}: has {'more' if len(data) > size else len(data)} "
                            f"bytes, its catalog says {size}: upload it again"
                        )
                    done = 0
                view = memoryview(data)
                while view:
                    count = os.pwrite(descriptor, view, done)
                    view, done = view[count:], done + count
                if done == size:
                    break
            window = self._window


def default_limit(folder: Path, /) -> int:
    """Return the bytes that a folder may hold by default: 100 GiB, or 80 % of what the disk could give if less."""
    held = sum(path.stat().st_size for _, _, path in _files(folder) if path.exists())
    return min(LARGEST, (shutil.disk_usage(folder).free + held) * 4 // 5)


def _locked(path: Path) -> FileLock:
    return FileLock(path, mode=0o666, poll_interval=WAIT / 5)


def _files(folder: Path) -> Iterator[tuple[int, int, Path]]:
    """Yield when each shard in the folder was last used (ns), its bytes when whole, and its path."""
    for entry in os.scandir(folder):
        found = _NAME.fullmatch(entry.name)
        if found:
            with suppress(FileNotFoundError):  # renamed meanwhile
                yield entry.stat().st_mtime_ns, int(found[1]), Path(entry.path)


def _open_whole(path: Path, size: int) -> int:
    """Open a whole shard, which thereby counts as used; -1 if there is none."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return -1
    if os.fstat(descriptor).st_size == size:
        with suppress(PermissionError):  # another user's file
            os.utime(descriptor)
        return descriptor
    os.close(descriptor)
    path.unlink(missing_ok=True)  # somebody cut it short
    return -1


def _remove_idle(path: Path) -> bool:
    """Remove a whole shard, or a partial one that nobody downloads; return whether it is gone."""
    if path.suffix == ".tar":
        path.unlink(missing_ok=True)
        return True
    try:
        with _locked(path.with_suffix(".lock")).acquire(blocking=False):
            path.unlink(missing_ok=True)
            path.with_suffix(".lock").unlink(missing_ok=True)
    except Timeout:
        return False
    return True
