"""Shards of a remote catalog, kept whole in a folder on local disk that processes share.

    <hash>-<bytes>.tar       a whole shard: renamed to this name after its bytes matched the hash in the catalog
    <hash>-<bytes>.partial   one on its way; who downloads it holds flock on it, so the lock dies with its owner
    lock                     held for the moment in which files are claimed or removed

The folder is all the state there is, so a process may be killed at any point: a `.partial` without an owner is gone on
with from where it ends. Room is counted by the sizes in the names, those on their way included; the time of a file is
when it was last opened, and the oldest go first. Who has a shard open keeps it: unlinking takes only the name.
"""

import fcntl
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Lock, Thread

from drawstream.pipeline.shards.catalog import Catalog, Shard, hash_file
from drawstream.pipeline.shards.remote import Remote, RemoteError, Transfer, cache_folder
from drawstream.samplers.files.system import fault_of, system_fault

CHUNK = 8 << 20  # bytes per request: long enough to hide its latency, short enough to repeat
AHEAD = 8  # chunks in flight per shard, so at most 64 MiB of memory
LARGEST = 100 << 30  # default bound, bytes
WAIT = 0.05  # seconds between looks for room that other downloads hold
_NAME = re.compile(r"[0-9a-f]{32}-(\d+)\.(tar|partial)")


class CachedShards:
    """Opens the shards of a remote catalog, downloading those that are not there. Safe with threads and processes.

    Args:
        catalog: A remote catalog.
        remote: Folder, bound, retries.

    Raises:
        RemoteError: The folder cannot be made.
    """

    def __init__(self, catalog: Catalog, remote: Remote) -> None:
        assert catalog.remote is not None
        self._catalog = catalog
        self._folder = remote.folder or cache_folder() / "shards"
        self._window = min(remote.connections, AHEAD)
        self._transfer = Transfer(catalog.remote, remote)
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
        """Shards opened that were there, perhaps after a wait; shards, bytes downloaded here; requests repeated."""
        with self._lock:
            return {**self._counts, **self._transfer.counts}

    def open(self, shard: int, /) -> int:
        """A descriptor of a whole shard, for the caller to close. Who opens shards in order gets the next one ahead.

        Raises:
            RemoteError: It cannot be downloaded, is not what the catalog describes, or there is no room for it.
            SystemFault: The process lacks descriptors or memory, or the disk of the cache fails.
        """
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
        """Whether to fetch a shard ahead: it is missing, and will hardly push out one that is being read."""
        shards = self._catalog.shards
        return shard < len(shards) and 4 * shards[shard].size <= self._limit and not self._path(shard).exists()

    def discard(self, shard: int, /) -> None:
        """Remove the kept copy of a shard, which turned out to be damaged."""
        self._path(shard).unlink(missing_ok=True)

    def _open(self, shard: int) -> int:
        entry, path = self._catalog.shards[shard], self._path(shard)
        outcome = "hits"
        try:
            while (descriptor := _open_whole(path, entry.size)) < 0:
                partial = self._claim(path.with_suffix(".partial"), entry, shard)
                if partial is not None:
                    descriptor, outcome = self._complete(partial, path, entry, shard), "misses"
                    break
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

    def _path(self, shard: int) -> Path:
        entry = self._catalog.shards[shard]
        path = self._folder / f"{entry.hash}-{entry.size}.tar"
        if not _NAME.fullmatch(path.name):
            raise RemoteError(
                f"{self._catalog.shard_name(shard)}: its catalog gives {entry.hash!r} as hash, which must be 32 hex "
                "digits: pack or index the data anew"
            )
        return path

    def _prefetch(self, shard: int) -> None:
        with suppress(RemoteError, OSError):  # who opens that shard will be told
            os.close(self._open(shard))

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        """Keep other processes and threads from claiming and removing files."""
        self._folder.mkdir(parents=True, exist_ok=True)  # somebody may have cleared the cache
        descriptor = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _claim(self, partial: Path, entry: Shard, shard: int) -> int | None:
        """The partial file of a shard, locked by the caller; None after a wait: then it is time to look again."""
        if entry.size > self._limit:
            raise RemoteError(
                f"{self._catalog.shard_name(shard)}: has {entry.size} bytes, more than the {self._limit} that the "
                f"cache {self._folder} may hold: raise `limit`, or read with mode 'ranges'"
            )
        with self._exclusive():
            try:
                descriptor = os.open(partial, os.O_RDWR | os.O_CLOEXEC)
            except FileNotFoundError:
                if partial.with_suffix(".tar").exists():
                    return None
                if self._make_room(entry.size):
                    descriptor = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
                    fcntl.flock(descriptor, fcntl.LOCK_EX)
                    return descriptor
                descriptor = -1
            if descriptor >= 0 and _try_lock(descriptor) and _is_same(descriptor, partial):
                return descriptor
        if descriptor < 0:
            time.sleep(WAIT)
            return None
        fcntl.flock(descriptor, fcntl.LOCK_EX)  # until who downloads it is done
        os.close(descriptor)
        return None

    def _make_room(self, size: int) -> bool:
        """Remove what was not used for longest until a new file of this size fits; whether it does."""
        files = sorted(_files(self._folder))
        used = sum(each for _, each, _ in files)
        for _, each, path in files:
            if used + size <= self._limit:
                break
            if _remove_idle(path):
                used -= each
        return used + size <= self._limit

    def _complete(self, descriptor: int, path: Path, entry: Shard, shard: int) -> int:
        """Download what a locked partial file lacks, check it and give it its name; its descriptor, unlocked."""
        partial = path.with_suffix(".partial")
        try:
            for _ in range(2):
                self._fill(descriptor, entry.size, shard)
                os.lseek(descriptor, 0, os.SEEK_SET)
                actual = hash_file(descriptor)
                os.lseek(descriptor, 0, os.SEEK_SET)  # the caller's begins there, too
                if actual == entry.hash:
                    os.fsync(descriptor)  # else a power cut could leave the name with zeros behind it
                    os.utime(descriptor)
                    with self._exclusive():  # so that who counts sees either name
                        partial.rename(path)
                    fcntl.flock(descriptor, fcntl.LOCK_UN)
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
        url = self._catalog.shard_url(shard)
        done, window = os.fstat(descriptor).st_size, 1  # one chunk first: it shows whether the server serves ranges
        while done < size:
            starts = range(done, min(done + window * CHUNK, size), CHUNK)
            parts = [(url, start, min(start + CHUNK, size)) for start in starts]
            for data in self._transfer.get(parts, most=size):
                asked = min(CHUNK, size - done)
                if len(data) > asked:
                    if len(data) != size:
                        raise RemoteError(
                            f"{self._catalog.shard_name(shard)}: has {'more' if len(data) > size else len(data)} "
                            f"bytes, its catalog says {size}: "
                            "upload it again"
                        )
                    done = 0
                _write(descriptor, data, done)
                done += len(data)
                if done == size:
                    break
            window = self._window


def default_limit(folder: Path, /) -> int:
    """Bytes that a folder may hold when nothing is said: 100 GiB, or 80 % of what the disk could give if less."""
    held = sum(path.stat().st_size for _, _, path in _files(folder) if path.exists())
    return min(LARGEST, (shutil.disk_usage(folder).free + held) * 4 // 5)


def _files(folder: Path) -> Iterator[tuple[int, int, Path]]:
    """When each shard in the folder was last used (ns), its bytes when whole, and its path."""
    for entry in os.scandir(folder):
        found = _NAME.fullmatch(entry.name)
        if found:
            with suppress(FileNotFoundError):  # renamed meanwhile
                yield entry.stat().st_mtime_ns, int(found[1]), Path(entry.path)


def _open_whole(path: Path, size: int) -> int:
    """A descriptor of a whole shard, which thereby counts as used; -1 where there is none."""
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


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_same(descriptor: int, path: Path) -> bool:
    """Whether an open file still has this name."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _remove_idle(path: Path) -> bool:
    """Remove a whole shard, or a partial one that nobody downloads; whether it is gone."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    idle = path.suffix == ".tar" or (_try_lock(descriptor) and _is_same(descriptor, path))
    if idle:
        path.unlink(missing_ok=True)
    os.close(descriptor)
    return idle


def _write(descriptor: int, data: bytes, at: int) -> None:
    view = memoryview(data)
    while view:
        count = os.pwrite(descriptor, view, at)
        view, at = view[count:], at + count
