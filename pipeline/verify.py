"""Read everything a catalog points at and list what is wrong; nothing is changed.

``scan`` looks at a shard as a file and as a tar; then every image is held against its checksum and decoded. The work is
spread over processes in runs of rows.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from mmap import mmap
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from drawstream.pipeline.catalogs import MemberCatalog
from drawstream.pipeline.decoding import dali_image, judge, probe
from drawstream.pipeline.fields import ABSENT, decode_value
from drawstream.pipeline.labels import Label, says_other
from drawstream.pipeline.reading import WHOLE, CachedShards, Finding, Headers
from drawstream.pipeline.shards import (
    BLOCK,
    CLEAN,
    ENCODINGS,
    FILE,
    RAW,
    Catalog,
    DamagedTarError,
    Member,
    Remote,
    RemoteError,
    Sample,
    Selection,
    checksum_of,
    given_labels,
    hash_file,
    is_header,
    mapped,
    read_label,
    split_name,
    survey,
)
from drawstream.pipeline.workers import spread, suitable_workers
from drawstream.samplers.files import raise_unless_file

_COPY = "copy the shard again"
_INDEX = "index the shard anew"
RUN = 1000  # rows of a task: seconds of decoding, so that cores are busy to the end and progress is seen


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


@dataclass(frozen=True, slots=True)
class _Task:
    """Rows of one shard, int64 (n,), in its own catalog; the first of a shard also looks at the shard itself."""

    member: MemberCatalog
    shard: int
    rows: NDArray[np.int64]
    first: bool
    pixels: bool


def verify(
    catalog: Catalog,
    /,
    *,
    where: NDArray[np.bool_] | None = None,
    pixels: bool = True,
    workers: int | None = 1,
    progress: Callable[[int, int], None] | None = None,
    note: Callable[[Note], None] | None = None,
) -> list[Finding]:
    """Check every shard's hash, headers, members and labels, and all checksums; decode every image and field.

    Images are judged as the loader does, by DALI's parser and decoder, and must have Pillow's pixels. Where DALI is not
    installed Pillow judges alone.

    Args:
        catalog: The catalog. ``Catalog.open`` refuses missing and truncated shards; ``Catalog.open_rows`` leaves them
            to this function.
        where: bool (rows,), whether a row is checked; shards without such a row are not looked at. None: all are.
        pixels: Decode images and fields too, which finds those that were damaged before they were packed.
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
    tasks = list(_tasks(catalog, where, pixels))
    total = sum(task.rows.size for task in tasks)
    _opened.cache_clear()
    _cache.cache_clear()
    found: dict[int, list[Finding]] = {}
    done = ignored = 0
    for task, (findings, others) in zip(tasks, spread(_check, tasks, workers=workers), strict=True):
        ignored += others
        whole = _of_whole(findings, task.member)
        if where is not None:
            whole = [each for each in whole if each.row is None or where[each.row]]
        found.setdefault(task.member.first_shard + task.shard, []).extend(whole)
        done += task.rows.size
        if progress:
            progress(done, total)
    if note and ignored:
        text = f"{ignored} images have an orientation in XMP or a raw profile, which turns no image"
        note(Note("metadata", ignored, text))
    if note and pixels and dali_image.parser() is None:
        encoded = catalog.encoding_codes != RAW
        note(Note("decoder", int((encoded if where is None else encoded & where).sum()), dali_image.WITHOUT))
    _opened.cache_clear()  # a catalog of a million rows is 100 MB
    return [finding for shard in found.values() for finding in _settled(shard)]


def _tasks(catalog: Catalog, where: NDArray[np.bool_] | None, pixels: bool) -> Iterator[_Task]:
    for shard in range(len(catalog.shards)):
        member = catalog.member_of(shard)
        start, stop = catalog.shard_rows(shard)
        rows = np.arange(start, stop) if where is None else start + np.flatnonzero(where[start:stop])
        for begin in range(0, max(rows.size, where is None), RUN):
            run = rows[begin : begin + RUN] - member.first_row
            yield _Task(member, shard - member.first_shard, run, begin == 0, pixels)


def _of_whole(findings: list[Finding], member: MemberCatalog) -> list[Finding]:
    """Findings of a catalog as those of the whole that it is joined to."""
    rows = [None if each.row is None else member.first_row + each.row for each in findings]
    shard = member.first_shard
    return [replace(each, shard=shard + each.shard, row=row) for each, row in zip(findings, rows, strict=True)]


def _settled(findings: list[Finding]) -> list[Finding]:
    """Leave out what follows from another finding: rows of an unusable shard, checksums of a lost image."""
    if whole := [finding for finding in findings if finding.kind in WHOLE]:
        return whole[:1]
    gone = {finding.row for finding in findings if finding.kind in ("lost", "member")}
    kept = [finding for finding in findings if finding.kind != "checksum" or finding.row not in gone]
    return sorted(kept, key=lambda finding: -1 if finding.row is None else finding.row)


@lru_cache(maxsize=1)
def _opened(path: Path, fingerprint: str) -> Catalog:
    """The catalog in this process; each task names it anew."""
    catalog = Catalog.open_rows(path)
    if catalog.fingerprint != fingerprint:
        raise ValueError(f"{path}: catalog was changed while it was verified: start again")
    given = given_labels(catalog.path)  # labels are held against those of the shards
    return catalog if given is None else replace(catalog, label=given)


@lru_cache(maxsize=1)
def _cache(path: Path, remote: str, fingerprint: str) -> CachedShards:
    return CachedShards(replace(_opened(path, fingerprint), remote=remote), Remote())


def _check(task: _Task) -> tuple[list[Finding], int]:
    """Findings of some rows, and how many images have other orientations."""
    member = task.member
    catalog = _opened(member.path, member.fingerprint)
    if member.remote is None:
        return _look(catalog, task)
    name = replace(catalog, remote=member.remote).shard_name(task.shard)
    try:
        cache = _cache(member.path, member.remote, member.fingerprint)
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
    path, images = catalog.shard_path(task.shard), _Images(catalog)
    try:
        findings = scan(catalog, task.shard) if task.first else []
        if path.is_file() and not any(finding.kind in WHOLE for finding in findings):
            findings += images.findings(task.rows.tolist(), path, task.pixels)
    except OSError as error:
        raise_unless_file(error, path)
        text = f"{path}: not readable ({error.strerror}): copy it again"
        return [Finding("unreadable", task.shard, None, None, text)], 0
    return findings, images.ignored


def _of_row(catalog: Catalog, kind: str, row: int, text: str) -> Finding:
    key, shard = catalog.key(row), int(catalog.shard[row])
    return Finding(kind, shard, row, key, f"{catalog.shard_path(shard)}: sample {key!r} (row {row}): {text}")


def scan(catalog: Catalog, shard: int, /) -> list[Finding]:
    """Find what is wrong with a shard, its headers, members and labels.

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
    ends = {row: _end(catalog, row) for row in range(*catalog.shard_rows(shard))}
    lost = [_of_row(catalog, "lost", row, f"lies past the end: {_COPY}") for row, end in ends.items() if end > length]
    if length == 0:
        text = f"shard is empty, its catalog says {expected.size} bytes: copy it again"
        return [*whole("truncated", text), *lost]
    actual = hash_file(path)
    twins = [other.path for other in catalog.shards if other.hash == actual != expected.hash]
    if twins:
        return whole("swapped", f"holds the content of shard {twins[0]}: swapped? Give the files their names back")
    try:
        with mapped(path) as data:
            members, damage = survey(data, path)
            if not members and not is_header(data[:BLOCK]):
                return whole("not-a-tar", f"not a tar, no header in it: {_COPY}")
            rows = [*lost, *_rows(catalog, shard, members, data)]
    except ValueError as error:  # compressed
        return [Finding("not-a-tar", shard, None, None, str(error))]
    others = any(finding.kind in ("member", "extra") for finding in rows)
    altered = actual != expected.hash
    if altered and length < expected.size and (damage or not others):
        text = f"truncated: {length} bytes, its catalog says {expected.size}: copy it again"
        return [*whole("truncated", text), *rows]
    if damage or not altered:
        return [*(_header(catalog, shard, error) for error in damage), *rows]
    law = f"hash must be {expected.hash}, but got {actual}"
    if others:
        text = f"{law}: written anew after its catalog was made? Index it anew, or copy it back"
        return [*whole("stale", text), *rows]
    return [*whole("bytes", f"{law}: an image, a label or what lies between was altered: {_COPY}"), *rows]


def _header(catalog: Catalog, shard: int, error: DamagedTarError) -> Finding:
    """Describe a damaged place, with the key of the image that follows, or else of the last one."""
    start, stop = catalog.shard_rows(shard)
    row = start + int(np.searchsorted(catalog.offset[start:stop], error.at, side="right"))
    key = catalog.key(min(row, stop - 1))
    return Finding("header", shard, None, key, f"{error} (near sample {key!r})")


def _rows(catalog: Catalog, shard: int, members: list[Member], data: mmap) -> Iterator[Finding]:
    """Find rows whose image or label is not in the shard as the catalog says, and samples that are no rows."""
    samples: dict[str, Sample] = {}  # wherever their members are; of two members with one name the first
    for member in members:
        if parts := split_name(member.name):
            samples.setdefault(parts[0], Sample(parts[0], {})).members.setdefault(parts[1], member)
    selection = Selection.of(catalog.provenance)
    relabel = catalog.provenance.get("relabel", {})
    known = {key for of, key in relabel.get("left_out", ()) if of == shard}  # samples that a review dropped
    for row in range(*catalog.shard_rows(shard)):
        key = catalog.member_key(row)
        known.add(key)
        sample = samples.get(key)
        inside = _end(catalog, row) <= len(data)  # else it is lost
        problem = _member_problem(catalog, row, sample, selection.images, data) if inside else None
        if inside and (problem := problem or _field_problem(catalog, row, sample)):
            yield _of_row(catalog, "member", row, f"{problem}: {_COPY}, or index it anew")
        if sample and catalog.label_kind != "none":
            try:
                _check_labels(catalog, row, sample, selection, data)
            except ValueError as error:
                yield _of_row(catalog, "label", row, str(error))
    for key, sample in samples.items():
        if key not in known and not selection.leaves_out(sample, data):
            text = f"{catalog.shard_path(shard)}: sample {key!r}: its catalog does not know it: {_INDEX}"
            yield Finding("extra", shard, None, key, text)


def _member_problem(
    catalog: Catalog, row: int, sample: Sample | None, extensions: tuple[str, ...], data: mmap
) -> str | None:
    if sample is None:
        return "its shard has no member of this name"
    begin, size = int(catalog.offset[row]), int(catalog.size[row])
    images = [member for extension, member in sample.members.items() if extension in extensions]
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


def _end(catalog: Catalog, row: int) -> int:
    """Return the byte behind the last member of a row."""
    fields = (int(columns.offset[row] + columns.size[row]) for columns in catalog.field_columns.values())
    return max(int(catalog.offset[row] + catalog.size[row]), *fields, 0)


def _field_problem(catalog: Catalog, row: int, sample: Sample | None) -> str | None:
    for name, columns in catalog.field_columns.items():
        member = None if sample is None else sample.members.get(name)
        found = (ABSENT, 0) if member is None else (member.offset, member.size)
        expected = int(columns.offset[row]), int(columns.size[row])
        if found != expected:
            due, got = (
                "none" if offset == ABSENT else f"{size} bytes at {offset}" for offset, size in (expected, found)
            )
            return f"its member .{name} must be {due}, but its shard has {got}"
    return None


def _check_labels(catalog: Catalog, row: int, sample: Sample, selection: Selection, data: mmap) -> None:
    """Refuse label members that say something else than the catalog."""
    if catalog.label_kind != "class":
        if other := says_other(selection.label_of(sample, data), catalog.label[row], catalog.classes):
            raise ValueError(f"label must be {catalog.label[row].tolist()}, but its shard says {other}: {_COPY}")
        return

    def check(what: str, label: Label, column: NDArray[np.int64]) -> None:
        expected = int(column[row])
        if label not in (expected, name := catalog.classes[expected]):
            raise ValueError(f"{what} must be {expected} ({name!r}), but its shard says {label!r}: {_COPY}")

    check("label", selection.label_of(sample, data), catalog.label)
    if catalog.clean_label is not None:
        if CLEAN not in sample.members:
            raise ValueError(f"must have a true label (.{CLEAN})")
        check("true label", read_label(sample, CLEAN, data), catalog.clean_label)


class _Images:
    """Holds images against checksum, decoder and catalog; ``ignored`` counts those that other metadata would turn."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._headers = Headers(catalog, once=False) if dali_image.parser() else None
        self.ignored = 0

    def findings(self, rows: Iterable[int], path: Path, pixels: bool) -> Iterator[Finding]:
        """Yield what is wrong with the images of some rows of a shard."""
        catalog = self._catalog
        with path.open("rb") as file:
            for row in rows:
                size = int(catalog.size[row])
                data = os.pread(file.fileno(), size, int(catalog.offset[row]))
                if len(data) < size:
                    continue  # lost, as the scan says
                yield from self._fields(row, file.fileno(), decoded=pixels)
                if (actual := checksum_of(data)) != catalog.checksum[row]:
                    law = f"checksum must be {catalog.checksum[row]:08x}, but got {actual:08x}"
                    yield _of_row(catalog, "checksum", row, f"{law}: {_COPY}")
                elif pixels and catalog.encoding_codes[row] != RAW and (problem := self._problem(row, data)):
                    yield _of_row(catalog, *problem)

    def _fields(self, row: int, descriptor: int, *, decoded: bool) -> Iterator[Finding]:
        """Yield what is wrong with the fields of a row."""
        for name, columns in self._catalog.field_columns.items():
            if columns.offset[row] == ABSENT:
                continue
            data = os.pread(descriptor, int(columns.size[row]), int(columns.offset[row]))
            if (actual := checksum_of(data)) != columns.checksum[row]:
                law = f"checksum of .{name} must be {columns.checksum[row]:08x}, but got {actual:08x}"
                yield _of_row(self._catalog, "checksum", row, f"{law}: {_COPY}")
            elif decoded:
                try:
                    decode_value(name, data)
                except ValueError as error:
                    yield _of_row(self._catalog, "decode", row, f"{error}: repair it, and {_INDEX}")

    def _problem(self, row: int, data: bytes) -> tuple[str, int, str] | None:
        catalog = self._catalog
        try:
            info = probe(data, rule=catalog.orientation)
            _, ignored = judge(data, info)
        except ValueError as error:
            return "decode", row, f"{error}: replace the image or leave it out, and pack or index anew"
        self.ignored += ignored and catalog.orientation == "exif"
        expected = ENCODINGS[catalog.encoding_codes[row]], int(catalog.height[row]), int(catalog.width[row])
        actual = info.encoding, info.height, info.width
        turned = 1 if catalog.turn is None else int(catalog.turn[row])
        if (actual, info.orientation) != (expected, turned):
            kind = "size" if actual[0] == expected[0] else "member"
            law = f"image must be {expected} (encoding, height, width), turned as EXIF {turned}"
            return kind, row, f"{law}, but got {actual}, as EXIF {info.orientation}: {_INDEX}"
        if self._headers is None:
            return None
        where, image = np.array([0, len(data)]), np.frombuffer(data, np.uint8).copy()
        refused = self._headers.refused(np.array([row]), where, image)  # what a loader would not take
        return ("size", row, f"{refused[0]}: {_INDEX}") if refused else None
