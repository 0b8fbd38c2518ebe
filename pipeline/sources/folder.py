"""A folder of class folders as a source: deep folders are walked, what is no image by name and content is counted."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from drawstream.pipeline import LeftOut
from drawstream.pipeline.fields import check_fields
from drawstream.pipeline.shards import AS_TAR, check_name, split_name
from drawstream.pipeline.sources.convert import ENDINGS, HEAD, as_known, kind_of
from drawstream.samplers.files import fault_of, system_fault

_NAMED = 5  # folders in a message
_LABELS = (".cls", ".json", ".txt")  # of a WebDataset sample
_SPLITS = frozenset({"train", "training", "val", "valid", "validation", "dev", "test", "testing"})


@dataclass(frozen=True, slots=True, eq=False)
class FolderSource:
    """A folder whose subfolders are the classes (ImageFolder).

    JPEG, PNG and WebP keep their files' bytes, other images that Pillow reads become PNG. Classes are the subfolders in
    sorted order; the folders below them are walked, too. A row's key is ``class/…/stem``, dots of the stem as
    underscores. Links to files and folders are followed, wherever they lead; images that are links to nowhere, pipes or
    devices are refused.

    Attributes:
        name: The folder.
        files: One per row, sorted within their class.
        labels: Of any kind (`pipeline.labels`); of class folders int64 (rows,).
        classes: Names of the subfolders, or of what a table of labels says.
        left_out: Files that are no images, and hidden ones.
        notes: What else its user should know, a line each.
        fields: Endings of the files beside an image that are its fields, such as ``txt`` or ``seg.png``.
    """

    name: str
    files: tuple[Path, ...]
    labels: NDArray[Any]
    classes: tuple[str, ...]
    left_out: LeftOut = field(default_factory=LeftOut)
    notes: tuple[str, ...] = ()
    fields: tuple[str, ...] = ()

    @classmethod
    def open(cls, folder: Path, /, *, fields: Sequence[str] = ()) -> Self:
        """List a folder of class folders.

        Args:
            folder: The folder.
            fields: ``a.txt`` and ``a.seg.png`` beside ``a.jpg`` are its fields ``txt`` and ``seg.png``, and no images.

        Raises:
            ValueError: No class folders, a class without images, an image that is no regular file, a link to a folder
                that holds it, a name that ``check_name`` refuses, two files of one key, or a field that no image has.
        """
        left_out = LeftOut()
        endings = check_fields(fields)
        classes = []
        for entry in sorted(folder.iterdir()):
            if entry.name.startswith("."):
                left_out.add("hidden files and folders", entry.name)
            elif entry.is_dir():
                classes.append(entry.name)
            else:
                left_out.add("files outside the class folders", entry.name)
        if not classes:
            labelled = any(entry.suffix.lower() in _LABELS for entry in folder.iterdir())
            other = f"; samples with labels beside them are indexed: {AS_TAR}" if labelled else ""
            remedy = f"give a folder that holds one subfolder of images per class{other}"
            raise ValueError(f"{folder}: no IDX or NumPy files and no class folders in it: {remedy}")
        walks = [_walk(str(folder / name), folder, left_out, (_place(folder),), endings) for name in classes]
        found = [sorted(walk) for walk in walks]
        if empty := [str(folder / name) for name, files in zip(classes, found, strict=True) if not files]:
            others = f" (and {len(empty) - _NAMED} others)" if len(empty) > _NAMED else ""
            law = f"{', '.join(empty[:_NAMED])}{others}: class folder without .jpg, .png or other images"
            raise ValueError(f"{law}: remove it or fill it")
        labels = np.repeat(np.arange(len(classes)), [len(files) for files in found])
        files = tuple(Path(file) for each in found for file in each)
        notes = _notes(folder, classes, files)
        source = cls(str(folder), files, labels, tuple(classes), left_out, notes, endings)
        source.check_files()
        return source

    def check_files(self) -> None:
        """Refuse files whose keys are equal or cannot be keys, and fields that no image has.

        Raises:
            ValueError: Such a file or field.
        """
        first: dict[str, Path] = {}
        for row, file in enumerate(self.files):
            key = self.key(row)
            try:
                key.encode()
            except UnicodeEncodeError:
                raise ValueError(f"{os.fsencode(file)!r}: file name must be UTF-8: rename it") from None
            try:
                check_name(key, what="file name")
            except ValueError as error:
                raise ValueError(f"{self.name}: {error}") from None
            if split_name(f"{key}.png") != (key, "png"):
                law = "WebDataset passes over names that begin and end with two underscores"
                raise ValueError(f"{self.name}: image {key!r}: {law}: rename the folder or file")
            if key in first:
                raise ValueError(f"{file}: same key {key!r} as {first[key]}: rename one of them")
            first[key] = file
        for name in self.fields:
            if not any(self.field_file(row, name).is_file() for row in range(len(self.files))):
                law = f"no image has a file .{name} of its name beside it"
                raise ValueError(f"{self.name}: {law}: leave it out (--fields)")

    def __len__(self) -> int:
        return len(self.files)

    def key(self, row: int, /) -> str:
        """``class/…/stem`` of the file."""
        file = self.files[row]
        begin = 0 if self.name == "." else len(self.name.rstrip("/")) + 1  # text: pathlib is slow
        return f"{str(file)[begin : -len(file.name)]}{file.stem.replace('.', '_')}"

    def read(self, row: int, /) -> bytes:
        """The file's bytes, or the same image as PNG.

        Raises:
            ValueError: The system refuses it, or it is an image that cannot be stored.
        """
        file = self.files[row]
        return as_known(_content(file), suffix=file.suffix)

    def field_file(self, row: int, name: str, /) -> Path:
        """Where a field of a row lies if there is one."""
        file = self.files[row]
        return file.with_name(f"{file.stem}.{name}")

    def read_field(self, row: int, name: str, /) -> bytes | None:
        """The bytes of a field of a row, or None where it has no such file; errors as ``read``."""
        file = self.field_file(row, name)
        return _content(file) if file.is_file() else None


def _content(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        if fault_of(error) not in ("file", "access"):
            raise system_fault(error, file) from None
        raise ValueError(f"cannot be read ({error.strerror}): allow it, or remove the file") from None


def list_images(
    folder: Path, /, *, fields: tuple[str, ...] = (), beside: Path | None = None
) -> tuple[tuple[Path, ...], LeftOut]:
    """List the images in a folder and below, sorted, and what is neither one nor a field nor the file `beside` them.

    Raises:
        ValueError: No images, an image that is no regular file, or a link to a folder that holds it.
    """
    left_out, known = LeftOut(), None if beside is None else os.path.realpath(beside)
    files = tuple(Path(file) for file in sorted(_walk(str(folder), folder, left_out, (), fields, known)))
    if not files:
        raise ValueError(f"{folder}: no .jpg, .png or other images in it: give the folder that holds them")
    return files, left_out


def _walk(
    folder: str,
    root: Path,
    left_out: LeftOut,
    above: tuple[tuple[int, int], ...],
    fields: tuple[str, ...],
    known: str | None = None,
) -> Iterator[str]:
    """The images in a folder and below; what is neither an image nor a field of one is counted, but for one file."""
    place = _place(Path(folder))
    if place in above:
        raise ValueError(f"{folder}: is a link to a folder that holds it: remove it")
    with os.scandir(folder) as entries:
        others = (entry for entry in entries if known is None or os.path.realpath(entry.path) != known)
        listed = sorted(others, key=lambda entry: entry.name)
    images = {entry.name.partition(".")[0] for entry in listed if _ending(entry) in ENDINGS}
    for entry in _without_fields(listed, fields, left_out, root):
        ending = _ending(entry)
        if entry.name.startswith("."):
            left_out.add("hidden files and folders", _short(entry, root))
        elif (kind := _kind(entry)) == "folder":
            yield from _walk(entry.path, root, left_out, (*above, place), fields, known)
        elif ending in ENDINGS:
            if kind != "file":
                raise ValueError(f"{entry.path}: an image must be a regular file or a link to one: remove it")
            yield entry.path
        elif kind != "file":
            left_out.add("pipes, devices and links to nowhere", _short(entry, root))
        elif (content := kind_of(Path(entry.path), _head(Path(entry.path)), ending)) == "taken":
            yield entry.path
        elif content:
            reason = f"images of a kind that is not taken, convert them to PNG ({ending or 'no ending'})"
            left_out.add(reason, _short(entry, root))
        else:
            beside = ending in _LABELS and entry.name.partition(".")[0] in images
            law = ", which are not read: the labels are the names of the class folders" if beside else ""
            left_out.add(f"files that are no images ({ending or 'no ending'}){law}", _short(entry, root))


def _without_fields(
    listed: list[os.DirEntry[str]], fields: tuple[str, ...], left_out: LeftOut, root: Path
) -> Iterator[os.DirEntry[str]]:
    """Files of a folder that are no fields of images; fields without an image are counted."""
    stems = {entry.name.rpartition(".")[0] for entry in listed if _ending(entry) in ENDINGS}
    for entry in listed:
        field = next((each for each in fields if entry.name.endswith(f".{each}")), None)
        if field is None or _kind(entry) == "folder":
            yield entry
        elif entry.name.removesuffix(f".{field}") not in stems:
            left_out.add(f"files .{field} without an image of their name", _short(entry, root))


def _ending(entry: os.DirEntry[str]) -> str:
    return "".join(entry.name.rpartition(".")[1:]).lower() if "." in entry.name else ""


def _kind(entry: os.DirEntry[str]) -> str:
    """Say whether it is a folder, a file, links followed, or neither."""
    try:
        return "folder" if entry.is_dir() else "file" if entry.is_file() else "other"
    except OSError:  # a link that leads in a circle
        return "other"


def _short(entry: os.DirEntry[str], root: Path) -> str:
    return Path(entry.path).relative_to(root).as_posix()


def _place(folder: Path) -> tuple[int, int]:
    """Device and number of a folder, whatever links lead there."""
    state = folder.stat()
    return state.st_dev, state.st_ino


def _head(file: Path) -> bytes:
    """First bytes of a file; of one that may not be read, none."""
    try:
        with file.open("rb") as opened:
            return opened.read(HEAD)
    except OSError as error:
        if fault_of(error) not in ("file", "access"):
            raise system_fault(error, file) from None
        return b""


def _notes(folder: Path, classes: list[str], files: tuple[Path, ...]) -> tuple[str, ...]:
    """Say where perhaps the folders below the class folders are the classes."""
    depth, below = len(folder.parts) + 1, set()
    for file in files:
        if len(parts := file.parts) == depth + 1:  # right in its class folder
            return ()
        below.add(parts[depth])
    if len(below) < 2:
        return ()
    if len(classes) > 1 and _SPLITS.issuperset(classes):
        each = " and ".join(str(folder / name) for name in classes)
        return (f"{folder} holds splits, not classes: pack {each} separately",)
    some = ", ".join(classes[:3]) + (", …" if len(classes) > 3 else "")
    law = f"the classes are {some}, but all images lie in folders below them ({', '.join(sorted(below)[:3])}, …)"
    return (f"{folder}: {law}: if those are the classes, give {folder / classes[0]}",)
