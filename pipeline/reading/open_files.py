"""Files that this process has open for reading: those of all loaders together stay within its limit."""

import os
import resource
import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from threading import RLock

from drawstream.samplers.files import DESCRIPTORS

MOST = 1024  # files that are kept open; more save no time
SHARE = 4  # of the descriptors that a process may have, one in so many is for shards
PAUSES = (0.05, 0.1, 0.2, 0.4, 0.8)  # seconds before another try, while reads in other threads end


class OpenFile:
    """One open file, closed when nobody holds it any more: neither `OpenFiles` nor a read that is under way."""

    __slots__ = ("fd",)

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def __del__(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)


class OpenFiles:
    """Keeps the files that were used last open, within a limit (see `limit`). Safe with threads."""

    def __init__(self, limit: int | None = None) -> None:
        self._limit = limit
        self.reset()

    def reset(self) -> None:
        """Hold no file; a forked process begins so, for another thread may have held the lock."""
        self._lock = RLock()  # the same thread may come here again, when a loader is collected as garbage
        self._files: OrderedDict[tuple[int, int], OpenFile] = OrderedDict()

    @property
    def limit(self) -> int:
        """Most files kept open: by default a quarter of the descriptors of the process, and at most 1 024."""
        if self._limit is not None:
            return self._limit
        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        return MOST if soft == resource.RLIM_INFINITY else max(1, min(MOST, soft // SHARE))

    def open(self, owner: int, number: int, path: Path, /, *, wait: bool = False) -> OpenFile:
        """Return file `number` of an owner, open until the caller lets go of it; `wait` as of `patiently`."""
        key = owner, number
        with self._lock:
            if key in self._files:
                self._files.move_to_end(key)
                return self._files[key]
        file = OpenFile(self.patiently(lambda: os.open(path, os.O_RDONLY | os.O_CLOEXEC), wait=wait))
        with self._lock:
            self._files[key] = file
            while len(self._files) > self.limit:
                self._files.popitem(last=False)
        return file

    def patiently(self, opened: Callable[[], int], /, *, wait: bool = False) -> int:
        """Open something; without free descriptors close files that nobody reads, and try again (`wait`: for 1.5 s)."""
        for pause in (0.0, *(PAUSES if wait else ())):
            try:
                return opened()
            except OSError as error:
                if error.errno not in DESCRIPTORS:
                    raise
            self.close_all()
            time.sleep(pause)
        return opened()

    def close(self, owner: int, /) -> None:
        """Let go of the files of one owner."""
        with self._lock:
            for key in [key for key in self._files if key[0] == owner]:
                self._files.pop(key, None)

    def close_all(self) -> None:
        """Let go of all files; those that are being read are closed after it."""
        with self._lock:
            self._files.clear()


SHARED = OpenFiles()
os.register_at_fork(after_in_child=SHARED.reset)
