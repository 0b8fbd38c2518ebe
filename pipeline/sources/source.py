"""Where images come from before they are packed: arrays in memory, NumPy files, IDX files, folders of classes.

A source knows its labels at once and reads any row on demand, so a subset costs only its own rows.
"""

import math
import os
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tokenize import TokenError
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from drawstream.pipeline import LeftOut
from drawstream.pipeline.fields import encode_value
from drawstream.pipeline.labels import KINDS, Kind, as_kind, broken_law, kind_of
from drawstream.pipeline.sources.cifar import find_published
from drawstream.pipeline.sources.dataset import DatasetSource
from drawstream.pipeline.sources.folder import FolderSource
from drawstream.pipeline.sources.given_labels import names_of
from drawstream.pipeline.sources.hugging_face import TableSource, find_tables
from drawstream.pipeline.sources.label_file import open_labelled, open_unlabelled
from drawstream.samplers.files import raise_unless_file

FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")  # where Debian's package dataset-fashion-mnist puts it
FASHION_MNIST_CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
CLEAN = "clean_labels"  # name of true labels, as an array or a file
IDX_PREFIXES = {"train": ("train",), "test": ("t10k", "test")}
IDX_UINT8 = 0x08
UNREADABLE = (
    OSError, EOFError, ValueError, NotImplementedError, SyntaxError, TokenError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip  # a header of NumPy is a Python literal
_NAMED = 12  # arrays in a message
SWOLLEN = (64 << 20, 200)  # a file that grows beyond these bytes and this many times when decompressed is no honest one


class Source(Protocol):
    """Labelled images with names.

    One with ``fields``, their names, also has ``read_field(row, name)``: the bytes of a member, or None.
    """

    @property
    def name(self) -> str:
        """Name in messages and in provenance."""

    @property
    def labels(self) -> NDArray[Any]:
        """The label of every row, of one of the kinds in `pipeline.labels`: of ``class`` int64 (rows,)."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names."""

    def __len__(self) -> int:
        """Rows."""

    def key(self, row: int, /) -> str:
        """Name of a row, unique in the source; no dot after the last slash (WebDataset splits there)."""

    def read(self, row: int, /) -> bytes | NDArray[np.uint8]:
        """Image of a `row`: a file's bytes, or pixels (height, width) or (height, width, 3), uint8."""


@dataclass(frozen=True, slots=True, eq=False)
class ArraySource:
    """Images in memory.

    Attributes:
        images: uint8 (rows, height, width), or (rows, height, width, channels) with 1 or 3 channels.
        labels: Of any kind (`pipeline.labels`): integers (rows,) from 0; 0 and 1 (rows, classes); or values, floats
            (rows,) or (rows, n). Kept as int64, uint8 or float32.
        classes: Names of the classes or values; by default the numbers.
        name: For messages and provenance.
        left_out: What its file or folder holds beside images and labels.
        files: Where images and labels come from.
        clean_labels: int64 (rows,), true labels, where `labels` are wrong in part (as given by people). None:
            nothing is known of wrong ones.
        fields: (rows,) values by name: ``seg.png`` integers (height, width), ``boxes.npy`` numbers (k, 4), ``npy`` any
            array, ``txt`` str, ``json`` objects, others bytes; None where a row has none.
        label_kind: What `labels` are; None: what their type says, where it is clear. ``none``: they are not taken.
        notes: What its user should know, a line each: the kind, where it was guessed.

    Raises:
        ValueError: Another dtype or shape, counts that differ, labels outside the classes, or of no clear kind.
    """

    images: NDArray[np.uint8]
    labels: NDArray[Any]
    classes: tuple[str, ...] = ()
    name: str = "arrays"
    left_out: LeftOut = field(default_factory=LeftOut)
    files: tuple[Path, ...] = ()
    clean_labels: NDArray[np.int64] | None = None
    fields: Mapping[str, Sequence[Any] | NDArray[Any]] = field(default_factory=dict)
    label_kind: Kind | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        images = np.asarray(self.images)
        shape = images.shape
        try:
            if images.dtype != np.uint8:
                raise ValueError(f"images must be uint8, but got {images.dtype}: scale them to 0 … 255 and convert")
            if images.ndim not in (3, 4) or (images.ndim == 4 and shape[3] not in (1, 3)) or 0 in shape[1:]:
                law = "images must be (rows, height, width) or (rows, height, width, 1 or 3)"
                raise ValueError(f"{law}, but got {shape}: {_shape_remedy(shape)}")
            labels, guess = as_kind(self.labels, self.label_kind)
            if len(images) != len(labels) or len(images) == 0:
                got = f"{len(images)} images and {len(labels)} labels: give those of one split, in one order"
                raise ValueError(f"images and labels must be as many and not none, but got {got}")
            _check_lengths(self.fields, len(labels))
            classes = () if kind_of(labels) == "none" else tuple(self.classes) or names_of(labels)
            if law := broken_law(labels, classes):
                raise ValueError(law)
            clean = None if self.clean_labels is None else _true_classes(self.clean_labels, labels, classes)
        except ValueError as error:
            raise ValueError(f"{self.name}: {error}") from None
        notes = (*self.notes, f"{self.name}: {guess}") if guess else self.notes
        for name, value in (("images", images), ("labels", labels), ("classes", classes), ("notes", notes)):
            object.__setattr__(self, name, value)
        object.__setattr__(self, "clean_labels", clean)

    def __len__(self) -> int:
        return len(self.labels)

    def key(self, row: int, /) -> str:
        """The row number, eight digits."""
        return f"{row:08d}"

    def read(self, row: int, /) -> NDArray[np.uint8]:
        """The pixels of a row, uint8 (height, width) or (height, width, 3)."""
        image: NDArray[np.uint8] = self.images[row]
        return image[:, :, 0] if image.ndim == 3 and image.shape[2] == 1 else image

    def read_field(self, row: int, name: str, /) -> bytes | None:
        """The bytes of the field ``name`` of a ``row``, or None; errors as ``encode_value``."""
        value = self.fields[name][row]
        return None if value is None else encode_value(name, value)


def _check_lengths(fields: Mapping[str, Sequence[Any] | NDArray[Any]], rows: int) -> None:
    for name, values in fields.items():
        if len(values) != rows:
            raise ValueError(f"field {name!r} must have a value for each of {rows} images, but got {len(values)}")


def _true_classes(values: Any, labels: NDArray[Any], classes: Sequence[str]) -> NDArray[np.int64]:
    """Hold true labels against the given ones, and return them."""
    clean = np.asarray(values)
    if kind_of(labels) != "class":
        raise ValueError(f"clean_labels are true classes, but labels are of kind {kind_of(labels)}: remove them")
    if clean.shape != labels.shape or clean.dtype.kind not in "iu":
        law = f"clean_labels must be integers {labels.shape}, as labels, but got {clean.dtype} {clean.shape}"
        raise ValueError(f"{law}: give the true class of each row")
    if clean.min() < 0 or clean.max() >= len(classes):
        law = f"clean_labels must lie in 0 … {len(classes) - 1}, the classes of labels"
        raise ValueError(f"{law}, but got {clean.min()} … {clean.max()}: repair them")
    return clean.astype(np.int64)


def open_source(
    path: str | os.PathLike[str] | Any,
    /,
    *,
    split: str = "train",
    classes: Sequence[str] | None = None,
    fields: Sequence[str] = (),
    labels: str | os.PathLike[str] | None = None,
    label_kind: Kind | None = None,
    columns: tuple[str | None, str | None] = (None, None),
    workers: int = 1,
    skip_bad: bool = False,
) -> Source:
    """Find out what lies at a path and open it, or take a map-style data set.

    Understood, in this order:

    * ``FILE.npz`` with arrays ``images`` and ``labels``; a folder with ``images.npy`` and ``labels.npy``; both may have
      the true labels beside them, ``clean_labels``;
    * a folder with IDX files (``train-images-idx3-ubyte``, ``train-labels-idx1-ubyte``, ``t10k-…``, each also as
      ``.gz``), or such a file, or its path up to ``-images-idx3-ubyte``;
    * CIFAR-10, CIFAR-100 (binary or Python batches) and SVHN (``.mat``) as published, see ``cifar``;
    * Parquet or Arrow files of Hugging Face, see ``TableSource``;
    * a folder of class folders, see ``FolderSource``; with ``labels`` or without any, a folder of images.

    Args:
        path: File, folder or IDX prefix; or a data set with ``len()`` and ``[row]``, see ``DatasetSource``.
        split: ``train`` or ``test``: which IDX, Parquet or Arrow files of a folder to take, of the last two also
            ``validation``; the other kinds have no splits.
        classes: Class names where the files have none (IDX, NumPy); by default the numbers.
        fields: Of class folders: files of the images' names with these endings (``txt``, ``seg.png``) are their fields.
            Of Parquet, Arrow and data sets: columns or keys, as ``caption`` or ``txt=caption``, see `columns`.
        labels: Table with the labels of a folder's images (``label_file``), in place of class folders.
        label_kind: ``class``, ``multi``, ``value`` or ``none``; None: what the labels are by their type.
        columns: Of Parquet, Arrow and data sets of dicts: names of the columns with images and labels; None: the usual.
        workers: Processes that read a data set, see ``DatasetSource.open``.
        skip_bad: Leave out rows of a data set that raise while labels are read.

    Raises:
        FileNotFoundError: Nothing there, or a part is missing.
        ValueError: Damaged or contradictory files; the message names them.
    """
    if not isinstance(path, str | os.PathLike):
        how: dict[str, Any] = {"columns": columns, "label_kind": label_kind, "fields": fields, "skip_bad": skip_bad}
        return DatasetSource.open(path, workers=workers, **how)
    path = Path(path)
    if label_kind not in (None, *KINDS):
        raise ValueError(f"label_kind must be one of {', '.join(KINDS)}, but got {label_kind!r}")
    if labels is not None:
        return open_labelled(path, Path(labels), label_kind, fields)
    if tables := find_tables(path, split):
        named: dict[str, Any] = {"classes": tuple(classes or ()), "label_kind": label_kind, "fields": fields}
        found: Source = TableSource.open(str(path), tables, columns=columns, **named)
    elif split not in IDX_PREFIXES:
        raise ValueError(f"split must be {' or '.join(IDX_PREFIXES)}, but got {split!r}")
    elif any(columns):
        law = f"{path}: only Parquet, Arrow and data sets of dicts have columns"
        raise ValueError(f"{law}: leave out --image-column and --label-column")
    else:
        found = _open(path, split, tuple(classes or ()), label_kind, fields)
    if fields and not isinstance(found, FolderSource | TableSource):
        law = f"{path}: fields are files beside the images of class folders, or columns"
        raise ValueError(f"{law}: leave them out (--fields)")
    if isinstance(found, FolderSource) and label_kind in ("multi", "value"):
        raise ValueError(f"{path}: class folders give one class each, not {label_kind}: give a table with --labels")
    return found


def _open(path: Path, split: str, names: tuple[str, ...], kind: Kind | None, fields: Sequence[str]) -> Source:
    """Open what lies at a path, with labels of that kind."""
    if path.suffix.lower() == ".npz":
        return _open_npz(path, names, kind)
    parts = (path / "images.npy", path / "labels.npy")
    if any(part.is_file() for part in parts):
        images, targets = map(open_array, parts)
        more = tuple(filter(Path.is_file, [path / f"{CLEAN}.npy"]))
        true = open_array(more[0]) if more else None
        beside = _others(path, parts + more)
        return ArraySource(images, targets, names, str(path), beside, parts + more, true, label_kind=kind)
    if prefix := _idx_prefix(path, split):
        parts = (_idx_file(prefix, "images", 3), _idx_file(prefix, "labels", 1))
        images, targets = (read_idx(part, dims=dims) for part, dims in zip(parts, (3, 1), strict=True))
        twins = [*_idx_candidates(prefix, "images", 3), *_idx_candidates(prefix, "labels", 1)]
        others = _others(path, parts) if path.is_dir() else _beside([part.name for part in twins if part not in parts])
        return ArraySource(images, targets.astype(np.int64), names, str(prefix), others, parts, label_kind=kind)
    if published := find_published(path, split):
        images, targets, own = published.read()
        used = [*published.parts, *([published.names] if published.names else [])]
        others = _others(path, used) if path.is_dir() else LeftOut()
        return ArraySource(images, targets, names or own, str(path), others, published.parts, label_kind=kind)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or folder")
    if not path.is_dir():
        raise ValueError(f"{path}: not a source: give a folder of class folders, IDX files, or an .npz file")
    return open_unlabelled(path, fields) if kind == "none" else FolderSource.open(path, fields=fields)


def read_idx(file: Path, /, *, dims: int) -> NDArray[np.uint8]:
    """Read one IDX file of uint8 with so many dimensions, gzipped (by its first bytes) or not.

    Raises:
        FileNotFoundError: No such file.
        ValueError: Truncated, another magic number, or another length than the header says.
    """
    _check_present(file)
    data = file.read_bytes()
    if data[:2] == b"\x1f\x8b":
        data = _inflated(data, file)
    if data[:2] == b"\x1f\x8b":
        raise ValueError(f"{file}: is compressed twice: decompress it once (gunzip)")
    magic = IDX_UINT8 << 8 | dims
    actual = int.from_bytes(data[:4], "big")
    if len(data) < 4 + 4 * dims or actual != magic:
        law = f"IDX magic number must be 0x{magic:08x} (uint8, {dims}-d), but got 0x{actual:08x}"
        raise ValueError(f"{file}: {law}: {_idx_remedy(actual, dims)}")
    shape = tuple(int(n) for n in np.frombuffer(data, ">u4", dims, 4))
    length = 4 + 4 * dims + math.prod(shape)
    if len(data) != length:
        raise ValueError(f"{file}: header says {shape}, so {length} bytes, but got {len(data)}: fetch it again")
    return np.frombuffer(data, np.uint8, offset=4 + 4 * dims).reshape(shape)


def _idx_remedy(magic: int, dims: int) -> str:
    kind, actual = magic >> 8, magic & 0xFF
    if kind == IDX_UINT8 and {actual, dims} == {1, 3}:
        return "images and labels have changed their names: rename the files"
    if kind in (0x08, 0x09, 0x0B, 0x0C, 0x0D, 0x0E) and 0 < actual < 9:
        return "read it yourself, and np.savez('new.npz', images=…, labels=…) with uint8 images and integer labels"
    return "it is no IDX file, or damaged: fetch it again"


def _shape_remedy(shape: tuple[int, ...]) -> str:
    if len(shape) == 4 and shape[1] in (1, 3):
        return "put the channels last, images.transpose(0, 2, 3, 1)"
    if len(shape) == 4 and shape[3] == 4:
        return "leave alpha out, images[..., :3]"
    if len(shape) == 2:
        return "give flat rows their size, images.reshape(rows, height, width); a single image as images[None]"
    return "bring them into such a shape"


def _inflated(data: bytes, file: Path) -> bytes:
    """The content of a gzip file, refused where it swells."""
    most = max(SWOLLEN[0], SWOLLEN[1] * len(data))
    content = bytearray()
    try:
        while data:
            reader = zlib.decompressobj(wbits=31)
            content += reader.decompress(data, most + 1 - len(content))
            if len(content) > most:
                raise ValueError(f"{file}: grows beyond {most} bytes when decompressed: decompress it yourself")
            if not reader.eof:
                raise EOFError("compressed file ended before its end mark")
            data = reader.unused_data.lstrip(b"\0")
    except (EOFError, zlib.error) as error:
        raise ValueError(f"{file}: damaged or truncated gzip file ({error}): fetch it again") from None
    return bytes(content)


def _idx_prefix(path: Path, split: str) -> Path | None:
    """The common path of an images file and a labels file, or None where there are no IDX files."""
    head, mark, _ = path.name.partition("-images")
    if mark and path.is_file():
        return path.with_name(head)
    for prefix in [path / name for name in IDX_PREFIXES[split]] if path.is_dir() else [path]:
        if _idx_candidates(prefix, "images", 3) or _idx_candidates(prefix, "labels", 1):
            return prefix
    if path.is_dir() and (found := sorted(path.glob("*-images?idx3-ubyte*"))):
        there = found[0].name.partition("-images")[0]
        other = next((name for name, prefixes in IDX_PREFIXES.items() if there in prefixes), None)
        remedy = f"take them with --split {other}" if other else "give the path up to -images"
        law = f"holds IDX files, but none of split {split!r}: expected {IDX_PREFIXES[split][0]}-images-idx3-ubyte.gz"
        raise FileNotFoundError(f"{path}: {law}, but got {found[0].name}: {remedy}")
    return None


def _idx_candidates(prefix: Path, part: str, dims: int) -> list[Path]:
    names = [f"{prefix.name}-{part}{dash}idx{dims}-ubyte{end}" for dash in "-." for end in ("", ".gz")]
    return [file for name in names if (file := prefix.with_name(name)).is_file()]


def _idx_file(prefix: Path, part: str, dims: int) -> Path:
    found = _idx_candidates(prefix, part, dims)
    if not found:
        raise FileNotFoundError(f"{prefix}-{part}-idx{dims}-ubyte.gz: no such file, nor without .gz: fetch it")
    return found[0]


def _open_npz(path: Path, classes: tuple[str, ...], kind: Kind | None) -> ArraySource:
    """Read ``images`` and ``labels`` of an archive."""
    _check_present(path)
    needed, arrays = {"images", "labels"}, dict[str, Any]()
    known = needed | {CLEAN}
    try:
        with path.open("rb") as file:
            archive = np.load(file, allow_pickle=False)
            names = set() if isinstance(archive, np.ndarray) else set(archive.files)
            if names:
                _check_archive(archive)
                arrays = {name: archive[name] for name in known & names}
    except UNREADABLE as error:
        raise _unreadable(path, error) from None
    if isinstance(archive, np.ndarray):
        raise ValueError(f"{path}: holds one array, as np.save writes it: np.savez({path.name!r}, images=…, labels=…)")
    if missing := sorted(needed - names):
        held = ", ".join(sorted(names)[:_NAMED]) + (", …" if len(names) > _NAMED else "")
        lacks = f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing"
        law = f"must hold images and labels, but {lacks} among its arrays ({held})"
        raise ValueError(f"{path}: {law}: a = np.load({path.name!r}); np.savez('new.npz', images=a[…], labels=a[…])")
    beside = _beside(sorted(names - known))
    both = (arrays["images"], arrays["labels"])
    return ArraySource(*both, classes, str(path), beside, (path,), arrays.get(CLEAN), label_kind=kind)


def _others(folder: Path, parts: Sequence[Path]) -> LeftOut:
    return _beside(sorted(entry.name for entry in folder.iterdir() if entry not in parts))


def _beside(names: Sequence[str]) -> LeftOut:
    left_out = LeftOut()
    if names:
        left_out.add("files or arrays beside images and labels", *names, count=len(names))
    return left_out


def _check_archive(archive: Any) -> None:
    """Hold every array's header against its bytes before NumPy takes memory for it."""
    for entry in archive.zip.infolist():
        most = max(SWOLLEN[0], SWOLLEN[1] * entry.compress_size)
        if entry.file_size > most:
            raise ValueError(f"{entry.filename!r} grows beyond {most} bytes when decompressed")
        with archive.zip.open(entry) as file:
            version = np.lib.format.read_magic(file)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, kind = read(file)
        if math.prod(shape) * kind.itemsize > entry.file_size and not kind.hasobject:  # NumPy refuses objects
            raise ValueError(f"{entry.filename!r} has {entry.file_size} bytes, too few for {kind} {shape}")


def open_array(path: Path, /) -> NDArray[Any]:
    """Map an array of a file, so that a subset of a large one costs only its own rows.

    Raises:
        FileNotFoundError: No such file.
        ValueError: Damaged, or no array of numbers.
    """
    _check_present(path)
    try:
        array = np.load(path, allow_pickle=False, mmap_mode="r")
    except UNREADABLE as error:
        raise _unreadable(path, error) from None
    if not isinstance(array, np.ndarray):
        array.close()
        raise ValueError(f"{path}: is an archive, as np.savez writes it: name it .npz, or write it with np.save")
    return array


def _check_present(path: Path) -> None:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")


def _unreadable(path: Path, error: Exception) -> ValueError:
    raise_unless_file(error, path)
    if "allow_pickle" in str(error) or "Object arrays" in str(error):
        remedy = "save arrays of numbers, such as np.array(labels, np.int64)"
        return ValueError(f"{path}: holds Python objects (dtype object), which are not read: {remedy}")
    return ValueError(f"{path}: not a readable NumPy file ({(str(error) or 'empty').splitlines()[0]}): write it again")
