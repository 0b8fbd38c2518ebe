"""One shard against its catalog, by its bytes as a file and its members as a tar; no image is decoded."""

from collections.abc import Iterator, Mapping
from mmap import mmap

import numpy as np
from numpy.typing import NDArray

from drawstream.pipeline.catalog import RAW, Catalog, hash_file
from drawstream.pipeline.finding import Finding
from drawstream.pipeline.image import probe
from drawstream.pipeline.labels import CLEAN, Label, Selection, read_label
from drawstream.pipeline.tar import BLOCK, DamagedTarError, Member, Sample, is_header, mapped, split_name, survey


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
        if key not in known and not (selection.skip_empty and selection.is_empty(sample, data)):
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
