"""Make a catalog for WebDataset shards that exist already.

Every sample needs one image member (.jpg, .jpeg, .png, .webp, or .pgm/.ppm for raw pixels) and a label: ``.cls``, else
``.json`` (a number, or an object with ``label`` or ``cls``), else ``.txt``. A label is a class number or a class name,
one kind throughout. ``.clean.cls`` is the label before noise, as ``pack`` writes it. Other members (captions, masks,
metadata) are left alone. The images are read once, for their checksums and headers; nothing is copied.
"""

import json
import mmap
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

import numpy as np
import xxhash
from numpy.typing import NDArray

from drawstream.pipeline.catalog import FILE, Catalog, Shard
from drawstream.pipeline.draft import Draft
from drawstream.pipeline.image import EXTENSIONS, probe
from drawstream.pipeline.names import check_name, number_names
from drawstream.pipeline.tar import Sample, mapped, samples
from drawstream.pipeline.workers import spread, suitable_workers

Label = int | str
Labels = NDArray[np.int64] | list[Label]  # a shard's: numbers where all are such
LABELS = ("cls", "json", "txt")
CLEAN = "clean.cls"
MOST_LABEL = 1 << 20  # bytes of a label member: a number or name, or a JSON object that also holds captions


@dataclass(frozen=True, slots=True)
class _Part:
    """What one shard adds to the catalog."""

    draft: Draft
    labels: Labels
    clean: Labels
    size: int
    hash: str


def index(
    shards: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    /,
    *,
    out: str | os.PathLike[str] | None = None,
    classes: Sequence[str] | None = None,
    overwrite: bool = False,
    workers: int | None = 1,
    progress: Callable[[int, int, int], None] | None = None,
    finish: Callable[[Path, int, int, int], None] | None = None,
) -> Path:
    """Write the catalog of existing shards.

    Args:
        shards: A folder, whose ``*.tar`` files are taken in sorted order; or tars, in their order.
        out: Folder for ``catalog.parquet``; by default the one that holds the shards.
        classes: Class names; by default the numbers, or the names found, sorted.
        overwrite: Replace an existing catalog.
        workers: Processes that read shards at once; None: as many as there are cores and work for them. The catalog is
            the same with any number. With more than one the main module of a program must be guarded by
            ``if __name__ == "__main__"``.
        progress: Called after every shard as ``progress(shards_done, shards_in_all, samples_done)``.
        finish: Called as ``finish(file, samples, shards, classes)``, right before the Parquet file is written.

    Returns:
        The Parquet file.

    Raises:
        FileNotFoundError: A shard is missing.
        ValueError: A damaged shard, a sample without image or label, a key that comes twice; shard and key are named.
    """
    paths, root = check_index(shards, out=out, overwrite=overwrite)
    file = root / FILE
    if workers is None:
        workers = suitable_workers(sum(path.stat().st_size for path in paths if path.is_file()))
    draft = Draft()
    found: list[Shard] = []
    labels: list[Labels] = []
    clean: list[Labels] = []
    tasks = [(path, i) for i, path in enumerate(paths)]
    for path, part in zip(paths, spread(_index_shard, tasks, workers=workers), strict=True):
        try:
            draft.append(part.draft)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
        found.append(Shard(Path(os.path.relpath(path, root)).as_posix(), part.size, part.hash))
        labels.append(part.labels)
        if len(part.clean):
            clean.append(part.clean)
        if progress:
            progress(len(found), len(paths), len(draft.keys))
    if clean and sum(map(len, clean)) != len(draft.keys):
        law = f".{CLEAN} must be in every sample or in none"
        raise ValueError(f"{root}: {law}, but got {sum(map(len, clean))} of {len(draft.keys)}")
    names = tuple(classes) if classes else _class_names([*labels, *clean], root)
    truth = _numbers(clean, names, draft, paths) if clean else None
    numbers = _numbers(labels, names, draft, paths)
    root.mkdir(parents=True, exist_ok=True)
    if finish:
        finish(file, len(draft.keys), len(found), len(names))
    draft.save(file, numbers, truth, shards=found, classes=names, provenance={"by": "index"})
    return file


def check_index(
    shards: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    /,
    *,
    out: str | os.PathLike[str] | None,
    overwrite: bool,
) -> tuple[list[Path], Path]:
    """The shards that `index` would read, and the folder of the catalog; arguments are its own, errors as `index`."""
    paths = _paths(shards)
    root = Path(out) if out is not None else _common_folder(paths)
    if (root / FILE).exists() and not overwrite:
        raise ValueError(
            f"{root / FILE}: exists already: name another folder, or allow it to be overwritten (--overwrite)"
        )
    return paths, root


def write_idx(catalog: Catalog, shard: int, path: str | os.PathLike[str], /) -> None:
    """Export a shard's index in DALI's format v1.2, as ``wds2idx`` does, for ``fn.readers.webdataset``.

    Args:
        catalog: The catalog.
        shard: Which of its shards.
        path: The file to write.

    Raises:
        ValueError: A member name with white space, which the format cannot hold, or a damaged shard.
    """
    write_lines(Path(path), idx_lines(catalog, shard))


def idx_lines(catalog: Catalog, shard: int, /) -> list[str]:
    """The lines of a shard's index, one per row in the catalog's order; errors as `write_idx`."""
    tar = catalog.shard_path(shard)
    lines = []
    with mapped(tar) as data:
        for sample in samples(data, tar):
            parts = []
            for extension, member in sample.members.items():
                if re.search(r"\s", member.name):
                    raise ValueError(f"{tar}: member {member.name!r}: an .idx file cannot hold white space: rename it")
                parts.append(f"{extension} {member.offset} {member.size} {member.name}")
            lines.append(" ".join(parts))
    return lines


def write_lines(path: Path, lines: Sequence[str], /) -> None:
    """Write an index file of format v1.2."""
    path.write_text("\n".join([f"v1.2 {len(lines)}", *lines, ""]), encoding="utf-8")


def _paths(shards: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> list[Path]:
    if not isinstance(shards, str | os.PathLike):
        paths = [Path(shard) for shard in shards]
    elif Path(shards).is_dir():
        paths = sorted(Path(shards).glob("*.tar"))
        if not paths and (packed := sorted(Path(shards).glob("*.tar.*")) + sorted(Path(shards).glob("*.tgz"))):
            raise ValueError(f"{packed[0]}: shard is compressed, its images cannot be reached by offset: decompress it")
    else:
        paths = [Path(shards)]
    if not paths:
        raise FileNotFoundError(f"{shards}: no shards: give a folder with .tar files, or the files")
    return paths


def _common_folder(paths: Sequence[Path]) -> Path:
    folders = sorted({path.parent for path in paths})
    if len(folders) > 1:
        raise ValueError(f"shards lie in several folders ({folders[0]}, {folders[1]}, …): say where the catalog goes")
    return folders[0]


def _index_shard(task: tuple[Path, int]) -> _Part:
    """Read one shard of that number."""
    path, number = task
    draft = Draft()
    labels: list[Label] = []
    clean: list[Label] = []
    with mapped(path) as data:
        for sample in samples(data, path):
            try:
                _add(draft, sample, number, data)
                labels.append(first_label(sample, data))
                if CLEAN in sample.members:
                    clean.append(read_label(sample, CLEAN, data))
            except ValueError as error:
                raise ValueError(f"{path}: sample {sample.key!r}: {error}") from None
        if not draft.keys:
            raise ValueError(f"{path}: no samples in this shard: leave it out")
        return _Part(draft, _compact(labels), _compact(clean), len(data), xxhash.xxh3_128_hexdigest(data))


def _add(draft: Draft, sample: Sample, shard: int, data: mmap.mmap) -> None:
    images = [extension for extension in sample.members if extension in EXTENSIONS]
    if len(images) != 1:
        got = ", ".join(f".{name}" for name in images or sample.members)
        raise ValueError(f"must have one image (.{', .'.join(EXTENSIONS)}), but got {got}: pack it anew")
    member = sample.members[images[0]]
    image = data[member.offset : member.offset + member.size]
    draft.add(sample.key, shard, member.offset, image, probe(image))


def _compact(labels: list[Label]) -> Labels:
    """Numbers as an array: eight bytes each, also on their way from one process to another."""
    if any(isinstance(label, str) for label in labels):
        return labels
    return np.array(labels, dtype=np.int64)


def first_label(sample: Sample, data: mmap.mmap, /) -> Label:
    """The label of a sample: from the first of ``LABELS`` that it has.

    Raises:
        ValueError: It has none, or none that can be read.
    """
    for extension in LABELS:
        if extension in sample.members:
            return read_label(sample, extension, data)
    raise ValueError(f"must have a label (.{', .'.join(LABELS)}), but got .{', .'.join(sample.members)}: pack it anew")


def read_label(sample: Sample, extension: str, data: mmap.mmap, /) -> Label:
    """The label in one member: a class number or name; errors as ``first_label``."""
    member = sample.members[extension]
    if member.size > MOST_LABEL:
        raise ValueError(f".{extension} must have at most {MOST_LABEL} bytes, but has {member.size}: repair it")
    text = data[member.offset : member.offset + member.size]
    try:
        value = json.loads(text) if extension == "json" else text.decode().strip()
    except (ValueError, RecursionError):  # covers bad UTF-8, bad JSON, and JSON that is nested too deep
        raise ValueError(f".{extension} is not readable: {text[:40]!r}: repair it") from None
    if isinstance(value, dict):
        value = value.get("label", value.get("cls"))
    if isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,4000}", value):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int | str) or value == "":
        raise ValueError(f".{extension} must hold a class number or name, but got {text[:40]!r}: repair it")
    if isinstance(value, int) and abs(value) >= 1 << 63:
        raise ValueError(f".{extension} must be a class number below 2⁶³, but got {str(value)[:40]}: repair it")
    if isinstance(value, str):
        check_name(value, what=f".{extension}")
    return value


def _class_names(labels: Sequence[Labels], root: Path) -> tuple[str, ...]:
    numbers = [part for part in labels if isinstance(part, np.ndarray)]
    names = [part for part in labels if not isinstance(part, np.ndarray)]
    if not names:
        try:
            return number_names(max(int(part.max()) for part in numbers), sum(map(len, numbers)))
        except ValueError as error:
            raise ValueError(f"{root}: {error}") from None
    if not numbers and all(isinstance(label, str) for part in names for label in part):
        return tuple(sorted({str(label) for part in names for label in part}))
    raise ValueError(
        f"{root}: labels must all be numbers or all be names, but got both: say which class names there are"
    )


def _numbers(parts: Sequence[Labels], classes: Sequence[str], draft: Draft, paths: Sequence[Path]) -> NDArray[np.int64]:
    """Labels as class numbers, each within the classes."""
    number: dict[Label, int] = {name: c for c, name in enumerate(classes)}
    numbers = np.concatenate([part if isinstance(part, np.ndarray) else _looked_up(part, number) for part in parts])
    (outside,) = np.nonzero((numbers < 0) | (numbers >= len(classes)))
    if len(outside):
        at = int(outside[0])
        key, shard = draft.keys[at], draft.shard(at)
        label = next(islice(chain.from_iterable(part for part in parts), at, None))
        law = f"label must be one of {len(classes)} classes"
        got = repr(label) if isinstance(label, str) else int(label)
        raise ValueError(f"{paths[shard]}: sample {key!r}: {law}, but got {got}: repair it or name more")
    return numbers


def _looked_up(labels: Sequence[Label], number: dict[Label, int]) -> NDArray[np.int64]:
    """Class numbers of names, -1 where a name is unknown."""
    looked_up = [label if isinstance(label, int) else number.get(label, -1) for label in labels]
    return np.array(looked_up, dtype=np.int64)
