"""Read everything a catalog points at and list what is wrong; nothing is changed.

What one shard is as a file and as a tar is looked at in ``scan``; here every image is held against its checksum and
decoded, and the work is spread over processes in runs of rows.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory

from drawstream.pipeline.cache import CachedShards
from drawstream.pipeline.catalog import ENCODINGS, FILE, RAW, Catalog, checksum_of, hash_file
from drawstream.pipeline.finding import WHOLE, Finding
from drawstream.pipeline.image import decode, probe
from drawstream.pipeline.remote import Remote, RemoteError
from drawstream.pipeline.scan import scan
from drawstream.pipeline.workers import spread, suitable_workers
from drawstream.samplers.system import raise_unless_file

RUN = 1000  # rows of a task: seconds of decoding, so that cores are busy to the end and progress is seen


@dataclass(frozen=True, slots=True)
class _Task:
    """Rows of one shard; the first of a shard also looks at the shard itself."""

    catalog: Path
    remote: str | None
    fingerprint: str
    shard: int
    start: int
    stop: int
    first: bool
    pixels: bool


def verify(
    catalog: Catalog,
    /,
    *,
    pixels: bool = True,
    workers: int | None = 1,
    progress: Callable[[int, int], None] | None = None,
) -> list[Finding]:
    """Check every shard's hash, headers, members and labels, and every image's checksum; decode every image.

    Args:
        catalog: The catalog. ``Catalog.open`` refuses missing and truncated shards; ``Catalog.open_rows`` leaves them
            to this function.
        pixels: Decode the images too, which finds those that were damaged before they were packed.
        workers: Processes; None: as many as there are cores and work for them. With more than one the main module of a
            program must be guarded by ``if __name__ == "__main__"``.
        progress: Called after every run of rows as ``progress(rows_done, rows_in_all)``.

    Returns:
        The findings in the order of the shards, a shard's own before its rows'. Empty when all is well. Remote shards
        are downloaded to the cache, which keeps them.

    Raises:
        OSError: A shard cannot be read through no fault of its own: a failing disk or network, a permission, no
            descriptors or memory. It is not a finding, so no row is listed for it.
    """
    if workers is None:
        size = sum(shard.size for shard in catalog.shards)
        workers = suitable_workers(size if pixels else size // 32)  # reading is that much faster than decoding
    tasks = list(_tasks(catalog, pixels))
    _opened.cache_clear()
    _cache.cache_clear()
    found: dict[int, list[Finding]] = {}
    done = 0
    for task, findings in zip(tasks, spread(_check, tasks, workers=workers), strict=True):
        found.setdefault(task.shard, []).extend(findings)
        done += task.stop - task.start
        if progress:
            progress(done, len(catalog))
    _opened.cache_clear()  # a catalog of a million rows is 100 MB
    return [finding for shard in found.values() for finding in _settled(shard)]


def _tasks(catalog: Catalog, pixels: bool) -> Iterator[_Task]:
    for shard in range(len(catalog.shards)):
        start, stop = catalog.shard_rows(shard)
        for begin in range(start, max(stop, start + 1), RUN):
            end = min(begin + RUN, stop)
            yield _Task(catalog.path, catalog.remote, catalog.fingerprint, shard, begin, end, begin == start, pixels)


def _settled(findings: list[Finding]) -> Iterator[Finding]:
    """A shard's findings, one line for each thing: nothing more of an unusable shard, no checksum of a lost image."""
    whole = [finding for finding in findings if finding.kind in WHOLE]
    if whole:
        yield whole[0]
        return
    gone = {finding.row for finding in findings if finding.kind in ("lost", "member")}
    kept = [finding for finding in findings if finding.kind != "checksum" or finding.row not in gone]
    yield from sorted(kept, key=lambda finding: -1 if finding.row is None else finding.row)


@lru_cache(maxsize=1)
def _opened(path: Path, fingerprint: str) -> Catalog:
    """The catalog in this process; each task names it anew."""
    catalog = Catalog.open_rows(path)
    if catalog.fingerprint != fingerprint:
        raise ValueError(f"{path}: catalog was changed while it was verified: start again")
    return catalog


@lru_cache(maxsize=1)
def _cache(path: Path, remote: str, fingerprint: str) -> CachedShards:
    return CachedShards(replace(_opened(path, fingerprint), remote=remote), Remote())


def _check(task: _Task) -> list[Finding]:
    catalog = _opened(task.catalog, task.fingerprint)
    if task.remote is None:
        return _look(catalog, task)
    name = replace(catalog, remote=task.remote).shard_name(task.shard)
    try:
        cache = _cache(task.catalog, task.remote, task.fingerprint)
        for _ in range(2):
            descriptor = cache.open(task.shard)
            with os.fdopen(descriptor, "rb"), TemporaryDirectory() as folder:
                here = _with_shard_at(catalog, task.shard, Path(folder), descriptor)
                findings, place = _look(here, task), str(here.shard_path(task.shard))
                findings = [replace(each, message=each.message.replace(place, name)) for each in findings]
                if not findings or hash_file(descriptor) == catalog.shards[task.shard].hash:
                    break
            cache.discard(task.shard)  # not the shard is damaged, but its copy in the cache
    except RemoteError as error:
        return [Finding("unreadable", task.shard, None, None, str(error))]
    return findings


def _with_shard_at(catalog: Catalog, shard: int, folder: Path, descriptor: int) -> Catalog:
    """The catalog with one of its shards in a folder, as a link to an open file."""
    (folder / "shard").symlink_to(f"/proc/self/fd/{descriptor}")
    shards = list(catalog.shards)
    shards[shard] = replace(shards[shard], path="shard")
    return replace(catalog, path=folder / FILE, shards=tuple(shards))


def _look(catalog: Catalog, task: _Task) -> list[Finding]:
    path = catalog.shard_path(task.shard)
    try:
        findings = scan(catalog, task.shard) if task.first else []
        if path.is_file() and not any(finding.kind in WHOLE for finding in findings):
            findings += _rows(catalog, task, path)
    except OSError as error:
        raise_unless_file(error, path)
        text = f"{path}: not readable ({error.strerror}): copy it again"
        return [Finding("unreadable", task.shard, None, None, text)]
    return findings


def _rows(catalog: Catalog, task: _Task, path: Path) -> Iterator[Finding]:
    with path.open("rb") as file:
        for row in range(task.start, task.stop):
            size = int(catalog.size[row])
            data = os.pread(file.fileno(), size, int(catalog.offset[row]))
            where = f"{path}: sample {catalog.key(row)!r} (row {row})"
            if len(data) < size:
                continue  # lost, as the scan says
            if (actual := checksum_of(data, catalog.wide)) != catalog.checksum[row]:
                expected = f"{catalog.checksum[row]:08x}"
                message = f"{where}: checksum must be {expected}, but got {actual:08x}: copy the shard again"
                yield Finding("checksum", task.shard, row, catalog.key(row), message)
            elif task.pixels and catalog.encoding_codes[row] != RAW:
                yield from _image(catalog, row, data, where)


def _image(catalog: Catalog, row: int, data: bytes, where: str) -> Iterator[Finding]:
    shard, key = int(catalog.shard[row]), catalog.key(row)
    expected = ENCODINGS[catalog.encoding_codes[row]], int(catalog.height[row]), int(catalog.width[row])
    try:
        actual = probe(data).encoding, *decode(data).shape[:2]
    except ValueError as error:
        yield Finding("decode", shard, row, key, f"{where}: {error}: replace the image and pack anew")
        return
    if actual != expected:
        kind = "size" if actual[0] == expected[0] else "member"
        message = f"{where}: image must be {expected} (encoding, height, width), but got {actual}: index the shard anew"
        yield Finding(kind, shard, row, key, message)
