"""Make a catalog for WebDataset shards that exist already.

Every sample needs one image member (.jpg, .jpeg, .png, .webp, or .pgm/.ppm for raw pixels) and a label: ``.cls``, else
``.json`` (a number, or an object with ``label`` or ``cls``), else ``.txt`` of one word. A ``Selection`` names other
members. A label is a class number or a class name, one kind throughout. ``.clean.cls`` is the label before noise, as
``pack`` writes it. Other members (captions, masks, boxes) are fields where the selection names them, else they are left
alone, and counted. Images and fields are read once, for their checksums and headers; nothing is copied.
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

from drawstream.pipeline import BadImage, BadImagesError, LeftOut
from drawstream.pipeline.decoding import check_rule, dali_image
from drawstream.pipeline.labels import (
    EmptySampleError,
    Label,
    Relabelling,
    RowError,
    marks_array,
    values_array,
)
from drawstream.pipeline.shards.catalog import Catalog
from drawstream.pipeline.shards.catalog_file import FILE, Shard, hash_file
from drawstream.pipeline.shards.catalog_writer import CatalogWriter
from drawstream.pipeline.shards.keys import shard_stems
from drawstream.pipeline.shards.labels import BY_DEFAULT, CLEAN, Selection, UnreadableImageError
from drawstream.pipeline.shards.names import number_names
from drawstream.pipeline.shards.tar import COMPRESSED, Remarks, Sample, mapped, samples
from drawstream.pipeline.workers import spread, suitable_workers

Labels = NDArray[np.int64] | list[Any]  # a shard's: numbers where all are such
Paths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]
_OWN = re.compile(r"catalog\.(parquet|json)|.*\.idx|\..*", re.DOTALL)  # files beside shards that nobody misses
_TARS = "*.[tT][aA][rR]"
_FEW = 64  # samples of a shard that a dry run looks at


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
        fields: Samples that have each field, by its name.
        changed: Labels that `relabel` changed.
        dropped: Samples that it left out.
    """

    catalog: Path
    rows: int
    shards: int
    classes: int
    left_out: LeftOut
    notes: tuple[str, ...]
    bad: tuple[BadImage, ...] = ()
    fields: dict[str, int] = field(default_factory=dict)
    changed: int = 0
    dropped: int = 0


@dataclass(slots=True)
class _Part:
    """Rows that one shard adds to the catalog."""

    rows: CatalogWriter = field(default_factory=CatalogWriter)
    labels: Labels = field(default_factory=list)
    clean: Labels = field(default_factory=list)
    texts: int = 0  # labels that are names from .txt, which nobody chose
    left_out: LeftOut = field(default_factory=LeftOut)
    bad: list[BadImage] = field(default_factory=list)
    unended: int | None = None
    size: int = 0
    hash: str = ""


def index(
    shards: Paths,
    /,
    *,
    out: str | os.PathLike[str] | None = None,
    classes: Sequence[str] | None = None,
    selection: Selection = BY_DEFAULT,
    relabel: str | os.PathLike[str] | None = None,
    orientation: str = "exif",
    overwrite: bool = False,
    workers: int | None = 1,
    dry_run: bool = False,
    progress: Callable[[int, int, int], None] | None = None,
    finish: Callable[[IndexResult], None] | None = None,
) -> Path:
    """Write the catalog of existing shards.

    Args:
        shards: A folder, whose ``*.tar`` files are taken in sorted order; or tars, in their order.
        out: Folder for ``catalog.parquet``; by default the one that holds the shards.
        classes: Class names; by default the numbers, or the names found, sorted.
        selection: Which members are image and label.
        relabel: `relabel.json` of `drawstream suspects`: the catalog has the labels that it says, and not the samples
            that its review dropped. Shards stay as they are.
        orientation: ``exif``: images are turned as their first EXIF block says; ``stored``: they are not.
        overwrite: Replace an existing catalog.
        workers: Processes that read shards at once; None: as many as there are cores and work for them. The catalog is
            the same with any number. With more than one the main module of a program must be guarded by
            ``if __name__ == "__main__"``.
        dry_run: Check the options and the first samples of every shard, and write nothing.
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
    relabelling = _read_list(relabel, selection)
    paths, root = _check_paths(shards, out, overwrite)
    if workers is None:
        workers = suitable_workers(sum(path.stat().st_size for path in paths if path.is_file()))
    rows, left_out = CatalogWriter(fields=selection.fields), _beside(paths, shards)
    taken: list[tuple[Path, _Part]] = []
    bad: list[BadImage] = []
    tasks = [(path, selection, orientation, _FEW if dry_run else None) for path in paths]
    for done, (path, part) in enumerate(zip(paths, spread(_index_shard, tasks, workers=workers), strict=True), 1):
        left_out.merge(part.left_out)
        bad += part.bad
        if part.rows.keys:
            try:
                rows.append(part.rows, len(taken))
            except ValueError as error:
                raise ValueError(f"{path}: {error}") from None
            part.rows = CatalogWriter()  # its rows are in `rows`
            taken.append((path, part))
        else:
            left_out.add("shards without a whole sample", path.name)
        if progress:
            progress(done, len(paths), len(rows.keys))
    _check_taken(rows, bad, left_out, root, skip_bad=selection.skip_bad)
    if dry_run:
        return root / FILE
    counts = _field_counts(rows, left_out, root)
    names, numbers, truth = _labels_of(selection, taken, rows, classes, root)
    found: tuple[Any, Any, Any, dict[str, Any]] = numbers, truth, None, {}
    if relabelling and numbers is not None:
        found = _relabel(relabelling, rows, numbers, truth, names, root, [path for path, _ in taken])
    numbers, truth, given, made = found
    notes = _notes(taken, numbers, root)
    root.mkdir(parents=True, exist_ok=True)
    if finish:
        notes += [] if dali_image.parser() else [dali_image.WITHOUT]
        sizes = len(rows.keys), len(taken), len(names)
        changes = [made.get("relabel", {}).get(name, 0) for name in ("changed", "dropped")]
        finish(IndexResult(root / FILE, *sizes, left_out, tuple(notes), tuple(bad), counts, *changes))
    rows.save(
        root / FILE,
        numbers,
        truth,
        shards=[Shard(Path(os.path.relpath(path, root)).as_posix(), part.size, part.hash) for path, part in taken],
        classes=names,
        provenance={"by": "index"} | selection.as_json() | made,
        orientation=orientation,
        given=given,
    )
    return root / FILE


def _read_list(path: str | os.PathLike[str] | None, selection: Selection) -> Relabelling | None:
    if path is None:
        return None
    if selection.kind not in (None, "class") or not selection.labelled:
        raise ValueError(f"{Path(path)}: changes classes, but the labels are others: leave it out (--relabel)")
    return Relabelling.read(Path(path))


def _relabel(
    relabelling: Relabelling,
    rows: CatalogWriter,
    labels: NDArray[np.int64],
    truth: NDArray[np.int64] | None,
    classes: Sequence[str],
    root: Path,
    shards: Sequence[Path],
) -> tuple[NDArray[np.int64], NDArray[np.int64] | None, NDArray[np.int64], dict[str, Any]]:
    """Leave rows out; return the new labels, the true ones, those of the shards, and what the catalog keeps of it."""
    stems = shard_stems([os.path.normpath(path.absolute()) for path in shards])
    done = relabelling.apply(lambda keys: rows.find(keys, stems), labels, classes, str(root))
    gone = [[rows.shard(row), rows.keys[row]] for row in np.flatnonzero(~done.kept).tolist()]
    made = relabelling.provenance(done)
    made["relabel"] |= {"left_out": gone}
    rows.keep(done.kept)
    truth = None if truth is None else truth[done.kept]
    return done.labels[done.kept], truth, labels[done.kept], made


def _check_taken(
    rows: CatalogWriter, bad: Sequence[BadImage], left_out: LeftOut, root: Path, *, skip_bad: bool
) -> None:
    """Refuse bad images, unless they are skipped and leave something, and shards without samples."""
    if bad and not (skip_bad and rows.keys):
        other = "" if skip_bad else ", or leave such samples out (--skip-bad LIST.json)"
        left = ": no sample is left" if skip_bad else ""
        remedy = f"replace them by .jpg, .png or .webp members{other}"
        raise BadImagesError(f"{root}{left}", bad, remedy, of_shards=True)
    if not rows.keys:
        law = f"no sample has an image and a label: {'; '.join(left_out.lines)}"
        raise ValueError(f"{root}: {law}: give other shards, or choose the members with --image and --label")


def _field_counts(rows: CatalogWriter, left_out: LeftOut, root: Path) -> dict[str, int]:
    """Return how many samples have each field; one that none has is refused."""
    counts = rows.field_counts()
    if missing := [name for name, samples in counts.items() if not samples]:
        others = [reason.removeprefix("members ") for reason in left_out.reasons if reason.startswith("members .")]
        got = f", but they have {', '.join(others[:12])}" if others else ""
        raise ValueError(f"{root}: no sample has a member .{missing[0]}{got}: leave it out of the fields (--fields)")
    return counts


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
    """Return the lines of a shard's index, one per row in the catalog's order; errors as `write_idx`."""
    tar = catalog.shard_path(shard)
    lines = []
    known = {catalog.member_key(row) for row in range(*catalog.shard_rows(shard))}
    with mapped(tar) as data:
        for sample in samples(data, tar):
            if sample.key not in known:  # left out as the catalog was made
                continue
            for member in sample.members.values():
                if re.search(r"\s", member.name):
                    raise ValueError(f"{tar}: member {member.name!r}: an .idx file cannot hold white space: rename it")
            parts = [f"{end} {member.offset} {member.size} {member.name}" for end, member in sample.members.items()]
            lines.append(" ".join(parts))
    return lines


def write_lines(path: Path, lines: Sequence[str], /) -> None:
    """Write an index file of format v1.2."""
    path.write_text("\n".join([f"v1.2 {len(lines)}", *lines, ""]), encoding="utf-8")


def _check_paths(shards: Paths, out: str | os.PathLike[str] | None, overwrite: bool) -> tuple[list[Path], Path]:
    """Return the shards to read and the folder of the catalog; refuse what cannot be."""
    if not isinstance(shards, str | os.PathLike):
        paths = [Path(shard) for shard in shards]
    elif Path(shards).is_dir():
        entries = [entry for entry in sorted(Path(shards).iterdir()) if not entry.name.startswith(".")]
        paths = [entry for entry in entries if entry.suffix.lower() == ".tar"]
        if packed := [entry for entry in entries if COMPRESSED.search(entry.name)]:
            others = f" (and {len(packed) - 1} others)" if len(packed) > 1 else ""
            law = f"{packed[0]}{others}: shard is compressed, its images cannot be reached by offset"
            raise ValueError(f"{law}: decompress it (gunzip, unzstd …), or give the shards to index by name")
    else:
        paths = [Path(shards)]
    if not paths:
        below = next(Path(str(shards)).rglob(_TARS), None)
        hint = f", such as {below}" if below else ""
        raise FileNotFoundError(f"{shards}: no shards: give a folder with .tar files, or the files{hint}")
    twice = [name for name, count in Counter(os.path.normpath(path.absolute()) for path in paths).items() if count > 1]
    if twice:
        raise ValueError(f"{twice[0]}: shard is given twice: name it once")
    folders = sorted({path.parent for path in paths})
    if out is None and len(folders) > 1:
        raise ValueError(f"shards lie in several folders ({folders[0]}, {folders[1]}, …): say where the catalog goes")
    root = folders[0] if out is None else Path(out)
    if (root / FILE).exists() and not overwrite:
        remedy = "name another folder, or allow it to be overwritten (--overwrite)"
        raise ValueError(f"{root / FILE}: exists already: {remedy}")
    return paths, root


def _beside(paths: Sequence[Path], shards: Paths) -> LeftOut:
    """Return the entries of a folder of shards that are not indexed."""
    left_out = LeftOut()
    if isinstance(shards, str | os.PathLike) and Path(shards).is_dir():
        for entry in sorted(Path(shards).iterdir()):
            if entry in paths or _OWN.fullmatch(entry.name):
                continue
            inside = sum(1 for _ in islice(entry.rglob(_TARS), 1000)) if entry.is_dir() else 0
            if inside:
                left_out.add("shards in folders below, give them by name", f"{entry.name}/", count=inside)
            else:
                left_out.add("other files and folders beside the shards", entry.name)
    return left_out


def _notes(taken: Sequence[tuple[Path, _Part]], numbers: NDArray[Any] | None, root: Path) -> list[str]:
    """Say which tars lack their end, which shards are equal, and whether labels hardly repeat.

    Raises:
        ValueError: Labels hardly repeat, and all are texts of .txt members that nobody chose.
    """
    notes = []
    for path, part in taken:
        if part.unended is not None:
            law = f"no end-of-archive mark at byte {part.unended}, behind a whole member"
            notes.append(f"{path}: {law}: taken; if the file was cut there, copy it again")
    first: dict[str, Path] = {}
    for path, part in taken:
        if first.setdefault(part.hash, path) != path:
            notes.append(f"{path}: has the same bytes as {first[part.hash]}: all its samples come twice")
    if numbers is not None and numbers.ndim == 2:
        empty = 0 if numbers.dtype != np.uint8 else int((numbers == 0).all(axis=1).sum())
        law = f"{empty} of {len(numbers)} samples have none of the {numbers.shape[1]} labels"
        return [*notes, law] if empty else notes
    classes = 0 if numbers is None else len(np.unique(numbers))
    if numbers is not None and classes >= 4 and classes * 2 > len(numbers):
        text = f"{classes} classes in {len(numbers)} samples: are the labels captions or numbers of samples?"
        if sum(part.texts for _, part in taken) == len(numbers):
            remedy = "--label txt takes .txt as class names, --label none indexes without labels"
            raise ValueError(f"{root}: {text} {remedy}")
        notes.append(f"{text} --label chooses another source, --label none indexes without labels")
    return notes


def _index_shard(task: tuple[Path, Selection, str, int | None]) -> _Part:
    """Read one shard, or its first samples."""
    path, selection, rule, most = task
    part, remarks = _Part(CatalogWriter(fields=selection.fields)), Remarks()
    labels: list[Any] = []
    clean: list[Any] = []
    unused: Counter[str] = Counter()
    with mapped(path) as data:
        if most is None:
            part.hash = hash_file(path)  # reads all of it first: a failing disk is an error here, no signal in the map
        walk = islice(samples(data, path, remarks), most)
        for sample in walk:
            try:
                used = _add(part, sample, data, selection, (labels, clean), rule)
            except UnreadableImageError as error:
                part.bad.append(BadImage(sample.key, str(path), str(error)))
                continue
            except EmptySampleError as error:
                if remarks.unended is not None:  # this is the last one
                    law = f"damaged or truncated tar after byte {remarks.unended}"
                    lost = (
                        f"no end-of-archive mark there, and the last sample, {sample.key!r}, has no image or no label"
                    )
                    raise ValueError(f"{path}: {law}: {lost}: copy the shard again") from None
                if not selection.skip_empty:
                    deque(walk, maxlen=0)  # perhaps the rest of it stands apart, which is refused
                    raise ValueError(f"{path}: sample {sample.key!r}: {error}") from None
                part.left_out.add("samples without image or label", f"{path.name}: {sample.key}")
                continue
            except ValueError as error:
                raise ValueError(f"{path}: sample {sample.key!r}: {error}") from None
            unused.update(extension for extension in sample.members if extension not in used)
        if not part.rows.keys and not part.bad and not selection.skip_empty:
            raise ValueError(f"{path}: no samples in this shard: leave it out, or index with --skip-empty")
        part.left_out.merge(remarks.passed)
        for extension, count in unused.items():
            part.left_out.add(f"members .{extension}", path.name, count=count)
        part.unended, part.labels, part.clean = remarks.unended, _compact(labels), _compact(clean)
        part.size = len(data)
        return part


def _add(
    part: _Part,
    sample: Sample,
    data: mmap.mmap,
    selection: Selection,
    labels: tuple[list[Any], list[Any]],
    rule: str,
) -> tuple[str, ...]:
    """Add a sample, its label and the one before noise; return the extensions that were used."""
    extension = selection.image_extension(sample)
    label = selection.label_of(sample, data) if selection.labelled else None
    truth = selection.clean_of(sample, data)
    image = selection.image_of(sample, data, rule=rule)
    part.rows.add(sample.key, 0, *image, selection.fields_of(sample, data))
    if label is None:
        return extension, *selection.fields
    for each, values in zip((label, truth), labels, strict=True):
        if each is not None:
            values.append(each)
    chosen = selection.label_extension(sample)
    part.texts += selection.label is None and chosen == "txt" and isinstance(label, str)
    if other := selection.contradiction(sample, label, data):
        reason = f"labels of .{other} that say something else than the one that was taken"
        part.left_out.add(f"{reason} (--label {other} takes them)", sample.key)
    return extension, chosen, CLEAN, *selection.fields


def _compact(labels: list[Any]) -> Labels:
    """Numbers as an array: eight bytes each, also on their way from one process to another."""
    return np.array(labels, dtype=np.int64) if all(isinstance(label, int) for label in labels) else labels


def _labels_of(
    selection: Selection,
    taken: Sequence[tuple[Path, _Part]],
    rows: CatalogWriter,
    classes: Sequence[str] | None,
    root: Path,
) -> tuple[tuple[str, ...], NDArray[Any] | None, NDArray[np.int64] | None]:
    """Return names, labels and true labels."""
    if not selection.labelled:
        return (), None, None
    if selection.kind not in ("multi", "value"):
        return _class_numbers(taken, rows, classes, root)
    labels = list(chain.from_iterable(part.labels for _, part in taken))
    try:
        found = marks_array(labels, classes) if selection.kind == "multi" else values_array(labels, classes)
    except RowError as error:
        where = f"{taken[rows.shard(error.row)][0]}: sample {rows.keys[error.row]!r}"
        raise ValueError(f"{where}: {error}") from None
    return *found, None


def _class_numbers(
    taken: Sequence[tuple[Path, _Part]], rows: CatalogWriter, classes: Sequence[str] | None, root: Path
) -> tuple[tuple[str, ...], NDArray[np.int64], NDArray[np.int64] | None]:
    """Return class names, labels and true labels as class numbers."""
    labels, clean = [part.labels for _, part in taken], [part.clean for _, part in taken if len(part.clean)]
    names = tuple(classes) if classes else _class_names([*labels, *clean], root)
    if (noisy := sum(map(len, clean))) not in (0, len(rows.keys)):
        law = f".{CLEAN} must be in every sample or in none, but got {noisy} of {len(rows.keys)}"
        raise ValueError(f"{root}: {law}")

    def numbers(parts: Sequence[Labels]) -> NDArray[np.int64]:
        number: dict[Label, int] = {name: c for c, name in enumerate(names)}
        found = np.concatenate(
            [
                part
                if isinstance(part, np.ndarray)
                else np.array([label if isinstance(label, int) else number.get(label, -1) for label in part], np.int64)
                for part in parts
            ]
        )
        outside = np.flatnonzero((found < 0) | (found >= len(names)))
        if len(outside):
            at = int(outside[0])
            label = next(islice(chain.from_iterable(parts), at, None))
            law = f"label must be one of {len(names)} classes"
            got = repr(label) if isinstance(label, str) else int(label)
            where = f"{taken[rows.shard(at)][0]}: sample {rows.keys[at]!r}"
            raise ValueError(f"{where}: {law}, but got {got}: repair it, or give more class names")
        return found

    truth = numbers(clean) if noisy else None
    return names, numbers(labels), truth


def _class_names(labels: Sequence[Labels], root: Path) -> tuple[str, ...]:
    numbers = [part for part in labels if isinstance(part, np.ndarray) and len(part)]
    names = [part for part in labels if not isinstance(part, np.ndarray)]
    if not names:
        try:
            return number_names(max(int(part.max()) for part in numbers), sum(map(len, numbers)))
        except ValueError as error:
            raise ValueError(f"{root}: {error}") from None
    every = list(chain.from_iterable(labels))
    number = next((int(label) for label in every if not isinstance(label, str)), None)
    if number is None:
        return tuple(sorted(set(map(str, every))))
    name = next(label for label in every if isinstance(label, str))
    raise ValueError(
        f"{root}: labels must all be numbers or all be names, but got both, such as {number} and {name!r}: repair "
        "them, or choose one source of labels with --label"
    )
