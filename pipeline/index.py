"""Make a catalog for WebDataset shards that exist already.

Every sample needs one image member (.jpg, .jpeg, .png, .webp, or .pgm/.ppm for raw pixels) and a label: ``.cls``, else
``.json`` (a number, or an object with ``label`` or ``cls``), else ``.txt``. A label is a class number or a class name,
one kind throughout. ``.clean.cls`` is the label before noise, as ``pack`` writes it. The images are read once, for
their checksums and headers; nothing is copied.
"""

import json
import mmap
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import xxhash
from numpy.typing import NDArray

from drawstream.pipeline.catalog import FILE, Catalog, Shard
from drawstream.pipeline.draft import Draft
from drawstream.pipeline.image import EXTENSIONS, probe
from drawstream.pipeline.tar import Sample, mapped, samples

Label = int | str
LABELS = ("cls", "json", "txt")
CLEAN = "clean.cls"


def index(
    shards: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    /,
    *,
    out: str | os.PathLike[str] | None = None,
    classes: Sequence[str] | None = None,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write the catalog of existing shards.

    Args:
        shards: A folder, whose ``*.tar`` files are taken in sorted order; or tars, in their order.
        out: Folder for ``catalog.parquet``; by default the one that holds the shards.
        classes: Class names; by default the numbers, or the names found, sorted.
        overwrite: Replace an existing catalog.
        progress: Called after every shard as ``progress(shards_done, shards_in_all)``.

    Returns:
        The Parquet file.

    Raises:
        FileNotFoundError: A shard is missing.
        ValueError: A damaged shard, a sample without image or label, a key that comes twice; shard and key are named.
    """
    paths = _paths(shards)
    root = Path(out) if out is not None else _common_folder(paths)
    file = root / FILE
    if file.exists() and not overwrite:
        raise ValueError(f"{file}: exists already: name another folder, or allow it to be overwritten")
    draft = Draft()
    found: list[Shard] = []
    labels: list[Label] = []
    clean: list[Label] = []
    for i, path in enumerate(paths):
        with mapped(path) as data:
            rows = 0
            for sample in samples(data, path):
                try:
                    _add(draft, sample, i, data)
                    labels.append(_first_label(sample, data))
                    if CLEAN in sample.members:
                        clean.append(_label(sample, CLEAN, data))
                except ValueError as error:
                    raise ValueError(f"{path}: sample {sample.key!r}: {error}") from None
                rows += 1
            if not rows:
                raise ValueError(f"{path}: no samples in this shard: leave it out")
            relative = Path(os.path.relpath(path, root)).as_posix()
            found.append(Shard(relative, len(data), xxhash.xxh3_128_hexdigest(data)))
        if progress:
            progress(i + 1, len(paths))
    if clean and len(clean) != len(labels):
        raise ValueError(f"{root}: .{CLEAN} must be in every sample or in none, but got {len(clean)} of {len(labels)}")
    names = tuple(classes) if classes else _class_names(labels + clean, root)
    truth = _numbers(clean, names, draft, paths) if clean else None
    numbers = _numbers(labels, names, draft, paths)
    root.mkdir(parents=True, exist_ok=True)
    draft.save(file, numbers, truth, shards=found, classes=names, provenance={"by": "index"})
    return file


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


def _add(draft: Draft, sample: Sample, shard: int, data: mmap.mmap) -> None:
    images = [extension for extension in sample.members if extension in EXTENSIONS]
    if len(images) != 1:
        got = ", ".join(f".{name}" for name in images or sample.members)
        raise ValueError(f"must have one image (.{', .'.join(EXTENSIONS)}), but got {got}: pack it anew")
    member = sample.members[images[0]]
    image = data[member.offset : member.offset + member.size]
    draft.add(sample.key, shard, member.offset, image, probe(image))


def _first_label(sample: Sample, data: mmap.mmap) -> Label:
    for extension in LABELS:
        if extension in sample.members:
            return _label(sample, extension, data)
    raise ValueError(f"must have a label (.{', .'.join(LABELS)}), but got .{', .'.join(sample.members)}: pack it anew")


def _label(sample: Sample, extension: str, data: mmap.mmap) -> Label:
    """The label in one member: a class number or name."""
    member = sample.members[extension]
    text = data[member.offset : member.offset + member.size]
    try:
        value = json.loads(text) if extension == "json" else text.decode().strip()
    except ValueError:  # covers bad UTF-8 and bad JSON
        raise ValueError(f".{extension} is not readable: {text[:40]!r}: repair it") from None
    if isinstance(value, dict):
        value = value.get("label", value.get("cls"))
    if isinstance(value, str) and re.fullmatch(r"-?[0-9]+", value):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int | str) or value == "":
        raise ValueError(f".{extension} must hold a class number or name, but got {text[:40]!r}: repair it")
    return value


def _class_names(labels: Sequence[Label], root: Path) -> tuple[str, ...]:
    kinds = {type(label) for label in labels}
    if kinds == {int}:
        return tuple(str(c) for c in range(max(int(label) for label in labels) + 1))
    if kinds == {str}:
        return tuple(sorted({str(label) for label in labels}))
    raise ValueError(
        f"{root}: labels must all be numbers or all be names, but got both: say which class names there are"
    )


def _numbers(labels: Sequence[Label], classes: Sequence[str], draft: Draft, paths: Sequence[Path]) -> NDArray[np.int64]:
    """Labels as class numbers, each within the classes."""
    number: dict[Label, int] = {name: c for c, name in enumerate(classes)}
    for (key, shard), label in zip(draft.keys.items(), labels, strict=True):
        if not (0 <= label < len(classes) if isinstance(label, int) else label in number):
            law = f"must be one of {len(classes)} classes"
            raise ValueError(f"{paths[shard]}: sample {key!r}: label {law}, but got {label!r}: repair it or name more")
    return np.array([label if isinstance(label, int) else number[label] for label in labels], dtype=np.int64)
