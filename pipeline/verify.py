"""Read everything a catalog points at and list what is wrong; nothing is changed.

What one shard is as a file and as a tar is looked at in ``scan``; here every image is held against its checksum and
decoded, and the work is spread over processes in runs of rows.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from mmap import mmap
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from drawstream.pipeline.decoding import dali_image
from drawstream.pipeline.decoding.image import judge, probe
from drawstream.pipeline.reading.cache import CachedShards
from drawstream.pipeline.reading.quarantine import WHOLE, Finding
from drawstream.pipeline.reading.refused import Headers
from drawstream.pipeline.shards.catalog import ENCODINGS, FILE, RAW, Catalog, checksum_of, hash_file
from drawstream.pipeline.shards.labels import CLEAN, Label, Selection, read_label
from drawstream.pipeline.shards.remote import Remote, RemoteError
from drawstream.pipeline.shards.tar import BLOCK, DamagedTarError, Member, Sample, is_header, mapped, split_name, survey
from drawstream.pipeline.workers.engines import spread, suitable_workers
from drawstream.samplers.files.system import raise_unless_file


def scan(catalog: Catalog, shard: int, /) -> list[Finding]:
    """Find what is wrong with a shard, its headers, members and labels.

    Args:
        catalog: The catalog, opened without a look at its shards.
        shard: Number of the shard.

    Returns:
        Findings about the shard first; one alone if no row of it can be used.

    Raises:
        OSError: The file cannot be read.
    """
    path = catalog.shard_path(shard)

    def whole(kind: str, text: str) -> list[Finding]:
        return [Finding(kind, shard, None, None, f"{path}: {text}")]

    if not path.is_file():
        return whole("missing", "shard is missing: copy it there, or index anew without it")
    length, expected = path.stat().st_size, catalog.shards[shard]
    if length == 0:
        text = f"shard is empty, its catalog says {expected.size} bytes: copy it again"
        return [*whole("truncated", text), *_lost(catalog, shard, length)]
    actual = hash_file(path)
    twins = [other.path for other in catalog.shards if other.hash == actual != expected.hash]
    if twins:
        return whole("swapped", f"holds the content of shard {twins[0]}: swapped? Give the files their names back")
    try:
        with mapped(path) as data:
            members, damage = survey(data, path)
            if not members and not is_header(data[:BLOCK]):
                return whole("not-a-tar", "not a tar, no header in it: copy the shard again")
            samples = _grouped(members)
            rows = [*_lost(catalog, shard, length), *_members(catalog, shard, samples, data)]
            rows += _labels(catalog, shard, samples, data)
    except ValueError as error:  # compressed
        return [Finding("not-a-tar", shard, None, None, str(error))]
    findings = [_damage(catalog, shard, error) for error in damage]
    others = any(finding.kind in ("member", "extra") for finding in rows)
    if actual != expected.hash and length < expected.size and (damage or not others):
        findings = whole("truncated", f"truncated: {length} bytes, its catalog says {expected.size}: copy it again")
    elif actual != expected.hash and not damage:
        law = f"hash must be {expected.hash}, but got {actual}"
        if others:
            findings = whole("stale", f"{law}: written anew after its catalog was made? Index it anew, or copy it back")
        else:
            where = "an image, a label or what lies between was altered"
            findings = whole("bytes", f"{law}: {where}: copy the shard again")
    return findings + rows


def _lost(catalog: Catalog, shard: int, length: int) -> Iterator[Finding]:
    """Rows that lie past the end of a file of that many bytes."""
    for row in range(*catalog.shard_rows(shard)):
        if int(catalog.offset[row] + catalog.size[row]) > length:
            key = catalog.key(row)
            text = f"{catalog.shard_path(shard)}: sample {key!r} (row {row}): lies past the end: copy the shard again"
            yield Finding("lost", shard, row, key, text)


def _grouped(members: list[Member]) -> dict[str, Sample]:
    """Samples by their key, wherever their members are; of two members with one name the first."""
    samples: dict[str, Sample] = {}
    for member in members:
        parts = split_name(member.name)
        if parts is not None:
            key, extension = parts
            samples.setdefault(key, Sample(key, {})).members.setdefault(extension, member)
    return samples


def _damage(catalog: Catalog, shard: int, error: DamagedTarError) -> Finding:
    """A damaged place, with the key of the image that follows, or else of the last one."""
    start, stop = catalog.shard_rows(shard)
    row = start + int(np.searchsorted(catalog.offset[start:stop], error.at, side="right"))
    near = f" (near sample {catalog.key(min(row, stop - 1))!r})"
    return Finding("header", shard, None, catalog.key(min(row, stop - 1)), f"{error}{near}")


def _members(catalog: Catalog, shard: int, samples: Mapping[str, Sample], data: mmap) -> Iterator[Finding]:
    """Rows whose image is not a member of that name, place and length; samples that are no rows."""
    path = catalog.shard_path(shard)
    start, stop = catalog.shard_rows(shard)
    known = set()
    for row in range(start, stop):
        key = catalog.member_key(row)
        known.add(key)
        if int(catalog.offset[row] + catalog.size[row]) > len(data):
            continue  # lost
        problem = _member_problem(catalog, row, samples.get(key), data)
        if problem:
            text = f"{path}: sample {key!r} (row {row}): {problem}: copy the shard again, or index it anew"
            yield Finding("member", shard, row, catalog.key(row), text)
    selection = Selection.of(catalog.provenance)
    for key, sample in samples.items():
        if key not in known and not selection.leaves_out(sample, data):
            text = f"{path}: sample {key!r}: its catalog does not know it: index the shard anew"
            yield Finding("extra", shard, None, key, text)


def _member_problem(catalog: Catalog, row: int, sample: Sample | None, data: mmap) -> str | None:
    if sample is None:
        return "its shard has no member of this name"
    begin, size = int(catalog.offset[row]), int(catalog.size[row])
    wanted = Selection.of(catalog.provenance).images
    images = [member for extension, member in sample.members.items() if extension in wanted]
    if len(images) != 1:
        return f"it must have one image in its shard, but has {len(images)}"
    member = images[0]
    raw = catalog.encoding_codes[row] == RAW
    head = begin - member.offset
    if member.offset + member.size != begin + size or head < 0 or (head > 0) != raw:
        got = f"{member.size} bytes at {member.offset}"
        return f"its image must be {size} bytes at {begin}, but member {member.name!r} has {got}"
    if not raw:
        return None
    try:
        info = probe(data[member.offset : member.offset + member.size])
    except ValueError as error:
        return str(error)
    same = (info.start, info.height, info.width) == (head, int(catalog.height[row]), int(catalog.width[row]))
    return None if same else f"its Netpbm header must be of {head} bytes and say the catalog's height and width"


def _labels(catalog: Catalog, shard: int, samples: Mapping[str, Sample], data: mmap) -> Iterator[Finding]:
    """Rows whose label members say something else than the catalog."""
    path = catalog.shard_path(shard)
    start, stop = catalog.shard_rows(shard)
    selection = Selection.of(catalog.provenance)
    for row in range(start, stop) if catalog.label_kind == "class" else ():
        key = catalog.key(row)
        sample = samples.get(catalog.member_key(row))
        if sample is None:
            continue
        try:
            _check_label("label", selection.label_of(sample, data), catalog.label, row, catalog.classes)
            if catalog.clean_label is not None:
                if CLEAN not in sample.members:
                    raise ValueError(f"must have a true label (.{CLEAN})")
                clean = read_label(sample, CLEAN, data)
                _check_label("true label", clean, catalog.clean_label, row, catalog.classes)
        except ValueError as error:
            text = f"{path}: sample {key!r} (row {row}): {error}"
            yield Finding("label", shard, row, key, text)


def _check_label(what: str, label: Label, column: NDArray[np.int64], row: int, classes: tuple[str, ...]) -> None:
    expected = int(column[row])
    if label not in (expected, classes[expected]):
        name = repr(classes[expected])
        raise ValueError(f"{what} must be {expected} ({name}), but its shard says {label!r}: copy the shard again")


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


@dataclass(frozen=True, slots=True)
class Note:
    """Something to know that is no damage.

    Attributes:
        kind: ``metadata`` (orientation that is passed over) or ``decoder`` (DALI is not installed).
        images: How many it is about.
        message: One line.
    """

    kind: str
    images: int
    message: str


def verify(
    catalog: Catalog,
    /,
    *,
    pixels: bool = True,
    workers: int | None = 1,
    progress: Callable[[int, int], None] | None = None,
    note: Callable[[Note], None] | None = None,
) -> list[Finding]:
    """Check every shard's hash, headers, members and labels, and every image's checksum; decode every image.

    Images are judged as the loader does, by DALI's parser and decoder, and must have Pillow's pixels. Where DALI is not
    installed Pillow judges alone.

    Args:
        catalog: The catalog. ``Catalog.open`` refuses missing and truncated shards; ``Catalog.open_rows`` leaves them
            to this function.
        pixels: Decode the images too, which finds those that were damaged before they were packed.
        workers: Processes; None: as many as there are cores and work for them. With more than one the main module of a
            program must be guarded by ``if __name__ == "__main__"``.
        progress: Called after every run of rows as ``progress(rows_done, rows_in_all)``.
        note: Called at the end for each thing that is no damage.

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
    done = ignored = 0
    for task, (findings, others) in zip(tasks, spread(_check, tasks, workers=workers), strict=True):
        ignored += others
        found.setdefault(task.shard, []).extend(findings)
        done += task.stop - task.start
        if progress:
            progress(done, len(catalog))
    if note:
        for each in _notes(catalog, pixels, ignored):
            note(each)
    _opened.cache_clear()  # a catalog of a million rows is 100 MB
    return [finding for shard in found.values() for finding in _settled(shard)]


def _notes(catalog: Catalog, pixels: bool, ignored: int) -> Iterator[Note]:
    if ignored:
        text = f"{ignored} images have an orientation in XMP or a raw profile, which turns no image"
        yield Note("metadata", ignored, text)
    if pixels and dali_image.parser() is None:
        encoded = int((catalog.encoding_codes != RAW).sum())
        yield Note("decoder", encoded, dali_image.WITHOUT)


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


def _check(task: _Task) -> tuple[list[Finding], int]:
    """Findings of some rows, and how many images have other orientations."""
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
                (findings, ignored), place = _look(here, task), str(here.shard_path(task.shard))
                findings = [replace(each, message=each.message.replace(place, name)) for each in findings]
                if not findings or hash_file(descriptor) == catalog.shards[task.shard].hash:
                    break
            cache.discard(task.shard)  # not the shard is damaged, but its copy in the cache
    except RemoteError as error:
        return [Finding("unreadable", task.shard, None, None, str(error))], 0
    return findings, ignored


def _with_shard_at(catalog: Catalog, shard: int, folder: Path, descriptor: int) -> Catalog:
    """The catalog with one of its shards in a folder, as a link to an open file."""
    (folder / "shard").symlink_to(f"/proc/self/fd/{descriptor}")
    shards = list(catalog.shards)
    shards[shard] = replace(shards[shard], path="shard")
    return replace(catalog, path=folder / FILE, shards=tuple(shards))


def _look(catalog: Catalog, task: _Task) -> tuple[list[Finding], int]:
    path = catalog.shard_path(task.shard)
    rows = _Rows(catalog, task, path)
    try:
        findings = scan(catalog, task.shard) if task.first else []
        if path.is_file() and not any(finding.kind in WHOLE for finding in findings):
            findings += rows.findings()
    except OSError as error:
        raise_unless_file(error, path)
        text = f"{path}: not readable ({error.strerror}): copy it again"
        return [Finding("unreadable", task.shard, None, None, text)], 0
    return findings, rows.ignored


class _Rows:
    """The rows of a task, image by image."""

    def __init__(self, catalog: Catalog, task: _Task, path: Path) -> None:
        self._catalog, self._task, self._path = catalog, task, path
        self._headers = Headers(catalog, once=False) if dali_image.parser() else None
        self.ignored = 0  # images that metadata turn which are passed over

    def findings(self) -> Iterator[Finding]:
        """Yield the findings of each row."""
        catalog, task = self._catalog, self._task
        with self._path.open("rb") as file:
            for row in range(task.start, task.stop):
                size = int(catalog.size[row])
                data = os.pread(file.fileno(), size, int(catalog.offset[row]))
                if len(data) < size:
                    continue  # lost, as the scan says
                if (actual := checksum_of(data)) != catalog.checksum[row]:
                    expected = f"{catalog.checksum[row]:08x}"
                    text = f"checksum must be {expected}, but got {actual:08x}: copy the shard again"
                    yield self._finding("checksum", row, text)
                elif task.pixels and catalog.encoding_codes[row] != RAW:
                    yield from self._image(row, data)

    def _image(self, row: int, data: bytes) -> Iterator[Finding]:
        catalog = self._catalog
        try:
            info = probe(data, rule=catalog.orientation)
            _, ignored = judge(data, info)
        except ValueError as error:
            yield self._finding("decode", row, f"{error}: replace the image or leave it out, and pack or index anew")
            return
        self.ignored += ignored and catalog.orientation == "exif"
        expected = ENCODINGS[catalog.encoding_codes[row]], int(catalog.height[row]), int(catalog.width[row])
        actual = info.encoding, info.height, info.width
        turned = 1 if catalog.turn is None else int(catalog.turn[row])
        if actual[0] != expected[0] or (actual, info.orientation) != (expected, turned):
            kind = "size" if actual[0] == expected[0] else "member"
            law = f"image must be {expected} (encoding, height, width), turned as EXIF {turned}"
            yield self._finding(kind, row, f"{law}, but got {actual}, as EXIF {info.orientation}: index the shard anew")
        elif reason := self._refused(row, data):
            yield self._finding("size", row, f"{reason}: index the shard anew")

    def _refused(self, row: int, data: bytes) -> str | None:
        """Why a loader would not take an image."""
        if self._headers is None:
            return None
        found = self._headers.refused(np.array([row]), np.array([0, len(data)]), np.frombuffer(data, np.uint8).copy())
        return found.get(0)

    def _finding(self, kind: str, row: int, text: str) -> Finding:
        key = self._catalog.key(row)
        where = f"{self._path}: sample {key!r} (row {row})"
        return Finding(kind, int(self._catalog.shard[row]), row, key, f"{where}: {text}")
