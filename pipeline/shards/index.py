"""Make a catalog for WebDataset shards that exist already.

Every sample needs one image member (.jpg, .jpeg, .png, .webp, or .pgm/.ppm for raw pixels) and a label: ``.cls``, else
``.json`` (a number, or an object with ``label`` or ``cls``), else ``.txt`` of one word. A ``Selection`` names other
members. A label is a class number or a class name, one kind throughout. ``.clean.cls`` is the label before noise, as
``pack`` writes it. Other members (captions, masks, metadata) are left alone, and counted. The images are read once, for
their checksums and headers; nothing is copied.
"""

import mmap
import os
import re
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drawstream.pipeline.decoding import dali_image
from drawstream.pipeline.decoding.exif import check_rule
from drawstream.pipeline.left_out import LeftOut
from drawstream.pipeline.shards.catalog import FILE, Catalog, Shard, hash_file
from drawstream.pipeline.shards.catalog_writer import Draft
from drawstream.pipeline.shards.labels import (
    BY_DEFAULT,
    CLEAN,
    EmptySampleError,
    Label,
    Selection,
    UnreadableImageError,
)
from drawstream.pipeline.shards.names import number_names
from drawstream.pipeline.shards.pack import BadImage, BadImagesError
from drawstream.pipeline.shards.tar import COMPRESSED, Remarks, Sample, mapped, samples
from drawstream.pipeline.workers.engines import spread, suitable_workers

Labels = NDArray[np.int64] | list[Label]  # a shard's: numbers where all are such
_OWN = re.compile(r"catalog\.(parquet|json)|.*\.idx|\..*", re.DOTALL)  # files beside shards that nobody misses


@dataclass(frozen=True, slots=True)
class IndexResult:
    """Catalog that was written, with its counts.

    Attributes:
        catalog: The Parquet file.
        rows: Samples in it.
        shards: Their shards.
        classes: Number of classes; 0 without labels.
        left_out: What was not taken.
        notes: What else its user should know, a line each.
        bad: Samples whose image cannot be read and that were left out; their path is the shard's.
    """

    catalog: Path
    rows: int
    shards: int
    classes: int
    left_out: LeftOut
    notes: tuple[str, ...]
    bad: tuple[BadImage, ...] = ()


@dataclass(slots=True)
class _Part:
    """Rows that one shard adds to the catalog."""

    draft: Draft = field(default_factory=Draft)
    labels: Labels = field(default_factory=list)
    clean: Labels = field(default_factory=list)
    texts: int = 0  # labels that are names from .txt, which nobody chose
    left_out: LeftOut = field(default_factory=LeftOut)
    bad: list[BadImage] = field(default_factory=list)
    unended: int | None = None
    size: int = 0
    hash: str = ""


def index(
    shards: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    /,
    *,
    out: str | os.PathLike[str] | None = None,
    classes: Sequence[str] | None = None,
    selection: Selection = BY_DEFAULT,
    orientation: str = "exif",
    overwrite: bool = False,
    workers: int | None = 1,
    progress: Callable[[int, int, int], None] | None = None,
    finish: Callable[[IndexResult], None] | None = None,
) -> Path:
    """Write the catalog of existing shards.

    Args:
        shards: A folder, whose ``*.tar`` files are taken in sorted order; or tars, in their order.
        out: Folder for ``catalog.parquet``; by default the one that holds the shards.
        classes: Class names; by default the numbers, or the names found, sorted.
        selection: Which members are image and label.
        orientation: ``exif``: images are turned as their first EXIF block says; ``stored``: they are not.
        overwrite: Replace an existing catalog.
        workers: Processes that read shards at once; None: as many as there are cores and work for them. The catalog is
            the same with any number. With more than one the main module of a program must be guarded by
            ``if __name__ == "__main__"``.
        progress: Called after every shard as ``progress(shards_done, shards_in_all, samples_done)``.
        finish: Called as ``finish(result)``, right before the Parquet file is written.

    Returns:
        The Parquet file.

    Raises:
        BadImagesError: Images that cannot be read; all of them are named.
        FileNotFoundError: A shard is missing.
        ValueError: A damaged shard, a sample without image or label, a key that comes twice in a shard; shard and key
            are named.
    """
    check_rule(orientation)
    paths, root = check_index(shards, out=out, overwrite=overwrite)
    file = root / FILE
    if workers is None:
        workers = suitable_workers(sum(path.stat().st_size for path in paths if path.is_file()))
    whole = _Whole(root, left_out=_beside(paths, shards))
    tasks = [(path, selection, orientation) for path in paths]
    for done, part in enumerate(spread(_index_shard, tasks, workers=workers)):
        whole.add(paths[done], part)
        if progress:
            progress(done + 1, len(paths), len(whole.draft.keys))
    if whole.bad and not (selection.skip_bad and whole.draft.keys):
        skip = "" if selection.skip_bad else ", or leave such samples out (--skip-bad LIST.json)"
        remedy = f"replace them by .jpg, .png or .webp members{skip}"
        left = ": no sample is left" if selection.skip_bad else ""
        raise BadImagesError(f"{root}{left}", whole.bad, remedy, of_shards=True)
    if not whole.draft.keys:
        law = f"no sample has an image and a label: {'; '.join(whole.left_out.lines)}"
        raise ValueError(f"{root}: {law}: give other shards, or choose the members with --image and --label")
    names: tuple[str, ...] = ()
    numbers = truth = None
    if selection.labelled:
        names = tuple(classes) if classes else _class_names([*whole.labels, *whole.clean], root)
        numbers, truth = whole.numbers(names)
    notes = (*whole.notes, *_equal_shards(whole.paths, whole.shards), *_many_classes(numbers, whole.texts, root))
    root.mkdir(parents=True, exist_ok=True)
    if finish:
        notes += () if dali_image.parser() else (dali_image.WITHOUT,)
        rows = len(whole.draft.keys)
        finish(IndexResult(file, rows, len(whole.shards), len(names), whole.left_out, notes, tuple(whole.bad)))
    provenance = {"by": "index"} | selection.as_json()
    form: dict[str, Any] = {"classes": names, "provenance": provenance, "orientation": orientation}
    whole.draft.save(file, numbers, truth, shards=whole.shards, **form)
    return file


@dataclass(slots=True)
class _Whole:
    """The shards that were read, one after the other."""

    root: Path
    left_out: LeftOut
    draft: Draft = field(default_factory=Draft)
    paths: list[Path] = field(default_factory=list)
    shards: list[Shard] = field(default_factory=list)
    labels: list[Labels] = field(default_factory=list)
    clean: list[Labels] = field(default_factory=list)
    texts: int = 0
    notes: list[str] = field(default_factory=list)
    bad: list[BadImage] = field(default_factory=list)

    def add(self, path: Path, part: _Part) -> None:
        """Add a shard, unless no sample of it was taken."""
        self.left_out.merge(part.left_out)
        self.bad += part.bad
        if not part.draft.keys:
            self.left_out.add("shards without a whole sample", path.name)
            return
        try:
            self.draft.append(part.draft, len(self.shards))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
        self.paths.append(path)
        self.shards.append(Shard(Path(os.path.relpath(path, self.root)).as_posix(), part.size, part.hash))
        self.labels.append(part.labels)
        self.texts += part.texts
        if len(part.clean):
            self.clean.append(part.clean)
        if part.unended is not None:
            law = f"no end-of-archive mark at byte {part.unended}, behind a whole member"
            self.notes.append(f"{path}: {law}: taken; if the file was cut there, copy it again")

    def numbers(self, names: tuple[str, ...]) -> tuple[NDArray[np.int64], NDArray[np.int64] | None]:
        """Return labels and true labels as class numbers."""
        rows, noisy = len(self.draft.keys), sum(map(len, self.clean))
        if noisy not in (0, rows):
            raise ValueError(f"{self.root}: .{CLEAN} must be in every sample or in none, but got {noisy} of {rows}")
        truth = _numbers(self.clean, names, self.draft, self.paths) if noisy else None
        return _numbers(self.labels, names, self.draft, self.paths), truth


def check_index(
    shards: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    /,
    *,
    out: str | os.PathLike[str] | None,
    overwrite: bool,
) -> tuple[list[Path], Path]:
    """The shards that `index` would read, and the folder of the catalog; arguments are its own, errors as `index`."""
    paths = _paths(shards)
    twice = [name for name, count in Counter(os.path.normpath(path.absolute()) for path in paths).items() if count > 1]
    if twice:
        raise ValueError(f"{twice[0]}: shard is given twice: name it once")
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
    known = {catalog.member_key(row) for row in range(*catalog.shard_rows(shard))}
    with mapped(tar) as data:
        for sample in samples(data, tar):
            if sample.key not in known:  # left out as the catalog was made
                continue
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
        entries = sorted(Path(shards).iterdir())
        paths = [entry for entry in entries if entry.suffix.lower() == ".tar" and not entry.name.startswith(".")]
        packed = [entry for entry in entries if COMPRESSED.search(entry.name) and not entry.name.startswith(".")]
        if packed:
            others = f" (and {len(packed) - 1} others)" if len(packed) > 1 else ""
            raise ValueError(
                f"{packed[0]}{others}: shard is compressed, its images cannot be reached by offset: decompress it "
                "(gunzip, unzstd …), or give the shards to index by name"
            )
    else:
        paths = [Path(shards)]
    if not paths:
        below = next(Path(str(shards)).rglob("*.[tT][aA][rR]"), None)
        hint = f", such as {below}" if below else ""
        raise FileNotFoundError(f"{shards}: no shards: give a folder with .tar files, or the files{hint}")
    return paths


def _beside(paths: Sequence[Path], shards: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> LeftOut:
    """Return the entries of a folder of shards that are not indexed."""
    left_out = LeftOut()
    if isinstance(shards, str | os.PathLike) and Path(shards).is_dir():
        for entry in sorted(Path(shards).iterdir()):
            if entry in paths or _OWN.fullmatch(entry.name):
                continue
            inside = sum(1 for _ in islice(entry.rglob("*.[tT][aA][rR]"), 1000)) if entry.is_dir() else 0
            if inside:
                left_out.add("shards in folders below, give them by name", f"{entry.name}/", inside)
            else:
                left_out.add("other files and folders beside the shards", entry.name)
    return left_out


def _equal_shards(paths: Sequence[Path], shards: Sequence[Shard]) -> list[str]:
    """A line for each shard that has the same bytes as an earlier one."""
    first: dict[str, Path] = {}
    notes = []
    for path, shard in zip(paths, shards, strict=True):
        if first.setdefault(shard.hash, path) != path:
            notes.append(f"{path}: has the same bytes as {first[shard.hash]}: all its samples come twice")
    return notes


def _many_classes(numbers: NDArray[np.int64] | None, texts: int, root: Path) -> list[str]:
    """A line where labels hardly repeat.

    Raises:
        ValueError: All of them are texts of .txt members that nobody chose.
    """
    classes = 0 if numbers is None else len(np.unique(numbers))
    if numbers is None or classes < 4 or classes * 2 <= len(numbers):
        return []
    text = f"{classes} classes in {len(numbers)} samples: are the labels captions or numbers of samples?"
    if texts == len(numbers):
        raise ValueError(f"{root}: {text} --label txt takes .txt as class names, --label none indexes without labels")
    return [f"{text} --label chooses another source, --label none indexes without labels"]


def _common_folder(paths: Sequence[Path]) -> Path:
    folders = sorted({path.parent for path in paths})
    if len(folders) > 1:
        raise ValueError(f"shards lie in several folders ({folders[0]}, {folders[1]}, …): say where the catalog goes")
    return folders[0]


def _index_shard(task: tuple[Path, Selection, str]) -> _Part:
    """Read one shard."""
    path, selection, rule = task
    part, remarks = _Part(), Remarks()
    labels: list[Label] = []
    clean: list[Label] = []
    unused: Counter[str] = Counter()
    with mapped(path) as data:
        part.hash = hash_file(path)  # reads all of it first: a failing disk is an error here, and no signal in the map
        walk = samples(data, path, remarks)
        for sample in walk:
            try:
                used = _add(part, sample, data, selection, (labels, clean), rule)
            except UnreadableImageError as error:
                part.bad.append(BadImage(sample.key, str(path), str(error)))
                continue
            except EmptySampleError as error:
                if remarks.unended is not None:  # this is the last one
                    law = f"damaged or truncated tar after byte {remarks.unended}"
                    raise ValueError(
                        f"{path}: {law}: no end-of-archive mark there, and the last sample, {sample.key!r}, has no "
                        "image or no label: copy the shard again"
                    ) from None
                if not selection.skip_empty:
                    deque(walk, maxlen=0)  # perhaps the rest of it stands apart, which is refused
                    raise ValueError(f"{path}: sample {sample.key!r}: {error}") from None
                part.left_out.add("samples without image or label", f"{path.name}: {sample.key}")
                continue
            except ValueError as error:
                raise ValueError(f"{path}: sample {sample.key!r}: {error}") from None
            unused.update(extension for extension in sample.members if extension not in used)
        if not part.draft.keys and not part.bad and not selection.skip_empty:
            raise ValueError(f"{path}: no samples in this shard: leave it out, or index with --skip-empty")
        part.left_out.merge(remarks.passed)
        for extension, count in unused.items():
            part.left_out.add(f"members .{extension}", path.name, count)
        part.unended, part.labels, part.clean = remarks.unended, _compact(labels), _compact(clean)
        part.size = len(data)
        return part


def _add(
    part: _Part,
    sample: Sample,
    data: mmap.mmap,
    selection: Selection,
    labels: tuple[list[Label], list[Label]],
    rule: str,
) -> tuple[str, ...]:
    """Add a sample, its label and the one before noise; returns the extensions that were used."""
    extension = selection.image_extension(sample)
    label = selection.label_of(sample, data) if selection.labelled else None
    truth = selection.clean_of(sample, data)
    part.draft.add(sample.key, 0, *selection.image_of(sample, data, rule=rule))
    if label is None:
        return (extension,)
    for each, values in zip((label, truth), labels, strict=True):
        if each is not None:
            values.append(each)
    chosen = selection.label_extension(sample)
    part.texts += selection.label is None and chosen == "txt" and isinstance(label, str)
    other = selection.contradiction(sample, label, data)
    if other:
        reason = f"labels of .{other} that say something else than the one that was taken"
        part.left_out.add(f"{reason} (--label {other} takes them)", sample.key)
    return extension, chosen, CLEAN


def _compact(labels: list[Label]) -> Labels:
    """Numbers as an array: eight bytes each, also on their way from one process to another."""
    if any(isinstance(label, str) for label in labels):
        return labels
    return np.array(labels, dtype=np.int64)


def _class_names(labels: Sequence[Labels], root: Path) -> tuple[str, ...]:
    numbers = [part for part in labels if isinstance(part, np.ndarray) and len(part)]
    names = [part for part in labels if not isinstance(part, np.ndarray)]
    if not names:
        try:
            return number_names(max(int(part.max()) for part in numbers), sum(map(len, numbers)))
        except ValueError as error:
            raise ValueError(f"{root}: {error}") from None
    if not numbers and all(isinstance(label, str) for part in names for label in part):
        return tuple(sorted({str(label) for part in names for label in part}))
    every = list(chain.from_iterable(labels))
    number = next(int(label) for label in every if not isinstance(label, str))
    name = next(label for label in every if isinstance(label, str))
    raise ValueError(
        f"{root}: labels must all be numbers or all be names, but got both, such as {number} and {name!r}: repair "
        "them, or choose one source of labels with --label"
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
        raise ValueError(f"{paths[shard]}: sample {key!r}: {law}, but got {got}: repair it, or give more class names")
    return numbers


def _looked_up(labels: Sequence[Label], number: dict[Label, int]) -> NDArray[np.int64]:
    """Class numbers of names, -1 where a name is unknown."""
    looked_up = [label if isinstance(label, int) else number.get(label, -1) for label in labels]
    return np.array(looked_up, dtype=np.int64)
