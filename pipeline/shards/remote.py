"""Remote files through fsspec: byte ranges, several at a time, retried with a bound; no credentials in any message."""

import asyncio
import errno
import os
import posixpath
import random
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Lock, get_ident
from typing import Any, Literal
from urllib.parse import quote

import xxhash

from drawstream.pipeline import shown as shown
from drawstream.samplers import DrawstreamError
from drawstream.samplers.files import fault_of, system_fault

MOST = 4 << 30  # bytes of one reply where nothing else is known: a catalog of 100 million rows
PAUSE, LONGEST_PAUSE = 0.25, 8.0  # seconds before the first retry, doubled each time, and the most; ± half by chance
_URL = re.compile(r"[a-z][a-z0-9+.:-]*://", re.IGNORECASE)


class RemoteError(DrawstreamError, RuntimeError):
    """A remote file could not be read, or not be kept; names its URL, without credentials."""


@dataclass(frozen=True, slots=True)
class Remote:
    """How a loader reads the shards of a remote catalog.

    Attributes:
        mode: `cache` fetches whole shards once and keeps them on local disk, which suits data that fit there and are
            read for several epochs. `ranges` fetches just the images of a batch and keeps nothing.
        folder: Where shards are kept; `drawstream` in `$XDG_CACHE_HOME` or `~/.cache` by default. On a local disk.
        limit: Bytes that the kept shards may take; those not used for longest go first. By default 100 GiB, or 80 % of
            what the disk has free when that is less.
        connections: Requests in flight per reading thread; 16 hide 50 ms of latency at 100 kB per image and 30 MB/s.
        retries: How often a request that failed for a passing reason (timeout, broken connection, 5xx) is repeated,
            after growing pauses; 6 bear about 15 s of failure.
        timeout: Seconds for one request, which is of 8 MiB at most.
    """

    mode: Literal["cache", "ranges"] = "cache"
    folder: Path | None = None
    limit: int | None = None
    connections: int = 16
    retries: int = 6
    timeout: float = 60.0

    def __post_init__(self) -> None:
        if self.mode not in ("cache", "ranges"):
            raise ValueError(f"`mode` must be cache or ranges, but got {self.mode!r}")
        for name, value in (("limit", self.limit), ("connections", self.connections)):
            if value is not None and value < 1:
                raise ValueError(f"`{name} >= 1` must hold, but got {value}")
        if self.retries < 0 or not self.timeout > 0:
            raise ValueError(f"`retries >= 0` and `timeout > 0` must hold, but got {self.retries} and {self.timeout}")


def is_url(path: str | os.PathLike[str], /) -> bool:
    """Whether this names something for fsspec, as `s3://bucket/train`, rather than a local file."""
    return isinstance(path, str) and _URL.match(path) is not None


def join(root: str, name: str, /) -> str:
    """URL of a file under a folder; a query string of an http folder (a token) is carried over."""
    scheme, rest = root.split("://", 1)
    query = ""
    if scheme.lower() in ("http", "https"):
        rest, mark, query = rest.partition("?")
        name, query = quote(name), mark + query
    return f"{scheme}://{posixpath.normpath(f'{rest}/{name}')}{query}"


def parent(url: str, /) -> str:
    """URL of the folder that a file is in."""
    return join(url, "..")


def cache_folder() -> Path:
    """`drawstream` in the user's cache folder."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "drawstream"


class Transfer:
    """Reads parts of files under one root. Safe with threads; a forked process opens connections of its own.

    Args:
        root: URL of the folder.
        remote: Its connections, retries and timeout are used.

    Raises:
        RemoteError: The package for this kind of URL is missing, or the URL is of no known kind.
    """

    def __init__(self, root: str, remote: Remote) -> None:
        self._root = root
        self._remote = remote
        self._system: Any = None
        self._process = 0
        self._lock = Lock()
        self._counts = {"bytes_downloaded": 0, "retries": 0}
        self._open()

    @property
    def counts(self) -> dict[str, int]:
        """Bytes that came, and requests that had to be repeated."""
        return dict(self._counts)

    def get(self, parts: Sequence[tuple[str, int | None, int | None]], /, *, most: int = MOST) -> list[bytes]:
        """Read bytes [start, stop) of files, given as (URL, start, stop); None is the beginning or the end.

        A server that serves no ranges sends more than was asked for: such replies are returned whole, and one byte of
        what exceeds `most`, for the caller to notice; the rest is not read.

        Raises:
            RemoteError: One of them cannot be had, at once or after all retries.
            SystemFault: The process lacks descriptors or memory for them.
        """
        from fsspec.asyn import get_loop, sync

        system = self._open()
        try:
            return sync(get_loop(), self._all, system, parts, most)  # type: ignore[no-any-return]
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from None

    def _open(self) -> Any:
        """The file system of this process."""
        with self._lock:
            if self._process != os.getpid():
                self._system, self._process = _file_system(self._root), os.getpid()
            return self._system

    async def _all(self, system: Any, parts: Sequence[tuple[str, int | None, int | None]], most: int) -> list[bytes]:
        gate = asyncio.Semaphore(self._remote.connections)
        async with asyncio.TaskGroup() as group:  # the first failure ends the others
            tasks = [group.create_task(self._one(system, gate, *part, most)) for part in parts]
        return [task.result() for task in tasks]

    async def _one(
        self, system: Any, gate: asyncio.Semaphore, url: str, start: int | None, stop: int | None, most: int
    ) -> bytes:
        path, attempts = system._strip_protocol(url), self._remote.retries + 1
        for attempt in range(attempts):
            if attempt:
                self._count("retries", 1)
                pause = min(PAUSE * 2 ** (attempt - 1), LONGEST_PAUSE)
                await asyncio.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311
            try:
                async with gate:
                    data = await asyncio.wait_for(_read(system, path, start, stop, most), self._remote.timeout)
                if stop is not None and len(data) < stop - (start or 0):
                    raise EOFError(f"{len(data)} of {stop - (start or 0)} bytes came")
            except Exception as error:
                if why := _permanent(error, url):
                    raise RemoteError(f"{shown(url)}: {why}") from None
                last = error
            else:
                self._count("bytes_downloaded", len(data))
                return data
        if isinstance(last, OSError) and fault_of(last) == "process":  # of this process, as one on its open files
            raise system_fault(last, shown(url)) from None
        law = f"could not be read in {attempts} attempts ({_brief(last, url)})"
        raise RemoteError(f"{shown(url)}: {law}: check the connection, then start again")

    def _count(self, name: str, more: int) -> None:
        with self._lock:
            self._counts[name] += more


async def _read(system: Any, path: str, start: int | None, stop: int | None, most: int) -> bytes:
    if "https" in system.protocol:
        return await _read_http(system, path, start, stop, most)
    if system.async_impl:
        return await system._cat_file(path, start=start, end=stop)  # type: ignore[no-any-return]
    return await asyncio.to_thread(system.cat_file, path, start=start, end=stop)


async def _read_http(system: Any, path: str, start: int | None, stop: int | None, most: int) -> bytes:
    """Read as fsspec does, but bounded: a server may never stop sending, or may send compressed zeros."""
    options = dict(system.kwargs)
    headers = {"Accept-Encoding": "identity", **options.pop("headers", {})}
    if start is not None or stop is not None:
        headers["Range"] = f"bytes={start or 0}-{'' if stop is None else stop - 1}"
    session = await system.set_session()
    data = bytearray()
    async with session.get(system.encode_url(path), headers=headers, **options) as reply:
        system._raise_not_found_for_status(reply, path)
        async for part in reply.content.iter_chunked(1 << 20):
            data += part
            if len(data) > most:
                break
    return bytes(memoryview(data)[: most + 1])


def _file_system(root: str) -> Any:
    import fsspec

    try:
        return fsspec.core.url_to_fs(root)[0]
    except ImportError as error:
        law = f"a package for such URLs is missing ({_brief(error, root)})"
        remedy = "`pip install 'drawstream[remote]'` brings those for http and s3"
        raise RemoteError(f"{shown(root)}: {law}: {remedy}") from None
    except ValueError as error:
        raise RemoteError(f"{shown(root)}: {_brief(error, root)}: use a URL that fsspec knows") from None


def _permanent(error: Exception, url: str) -> str | None:
    """Return the reason for an error that a retry would meet again; None for one that may pass."""
    status = getattr(error, "status", None)
    if isinstance(error, FileNotFoundError) or status in (404, 410):
        return "there is no such file: check the address"
    if isinstance(error, PermissionError) or status in (401, 403) or type(error).__name__ == "NoCredentialsError":
        return "access is denied: check address and credentials"
    refused = isinstance(status, int) and 400 <= status < 500 and status not in (408, 425, 429)
    if refused or getattr(error, "errno", None) == errno.EINVAL or isinstance(error, (ValueError, TypeError)):
        return f"the request is refused ({_brief(error, url)}): is the file the one that was packed?"
    return None


def _brief(error: Exception, url: str) -> str:
    """An error in a few words, without the secrets of the URL that was read."""
    status, message = getattr(error, "status", None), getattr(error, "message", None)
    text = f"{status} {message}" if status else str(error) or type(error).__name__
    return shown(text.splitlines()[0], url)[:200]


def download_catalog(url: str, name: str, /) -> tuple[Path, str]:
    """Copy a remote catalog file to the cache; return the copy and the URL of the folder that it came from.

    Args:
        url: Of the file, or of the folder that it lies in.
        name: Of the file in a folder.

    Raises:
        RemoteError: It cannot be downloaded, is too large, or cannot be kept.
    """
    is_file = url.partition("?")[0].endswith(".parquet")
    root = parent(url) if is_file else join(url, ".")
    url = url if is_file else join(url, name)
    place = xxhash.xxh3_64_hexdigest(shown(url).encode())
    (data,) = Transfer(root, Remote()).get([(url, None, None)])
    if len(data) > MOST:
        raise RemoteError(f"{shown(url)}: a catalog must have at most {MOST} bytes: check the address")
    file = cache_folder() / "catalogs" / place / name
    part = file.with_name(f"{name}.{os.getpid()}-{get_ident()}.part")  # threads may open one catalog at once
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(data)
        part.replace(file)
    except OSError as error:
        with suppress(OSError):
            part.unlink()
        law = f"the copy of {shown(url)} cannot be written ({error.strerror})"
        remedy = "let XDG_CACHE_HOME name a folder with room that you may write to"
        raise RemoteError(f"{file}: {law}: {remedy}") from None
    return file, root
