"""A folder of images with a table of their labels (CSV, Parquet, …), or without labels.

    file,label          file,labels         file,left,right      file,cat,dog
    a/1.jpg,cat         a/1.jpg,cat;dog     a/1.jpg,0.5,1.25     a/1.jpg,1,0
    b/2.jpg,dog         b/2.jpg,            b/2.jpg,3,-0.75      b/2.jpg,1,1

    one class           several classes     values               several classes

The first column, or one called file, key, path or the like, names an image: its path in the folder, with the ending or
without, or its name alone where that is unique. Several rows of one image are several classes, too. What a column
without such a sign holds is a class; numbers with decimals are values.
"""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drawstream.pipeline.fields import check_fields
from drawstream.pipeline.labels import (
    PARSERS,
    EmptySampleError,
    Kind,
    RowError,
    as_kind,
    marks_array,
    no_labels,
    own_number,
    values_array,
)
from drawstream.pipeline.sources.folder import FolderSource, list_images
from drawstream.samplers.files import TableFile, open_table

_FILES = ("file", "filename", "file_name", "filepath", "file_path", "path", "image", "image_id", "img", "name", "id")
_LABELS = ("label", "labels", "class", "classes", "target", "targets", "tags", "value")
_DECIMAL = re.compile(r"\s*[+-]?([0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(\.[0-9]*)?[eE][+-]?[0-9]+)\s*")


def open_unlabelled(folder: Path, fields: Sequence[str] = (), /) -> FolderSource:
    """List all images of a folder and below, without labels.

    Raises:
        ValueError: No images, or as `FolderSource.open`.
    """
    endings = check_fields(fields)
    files, left_out = list_images(folder, fields=endings)
    source = FolderSource(str(folder), files, no_labels(len(files)), (), left_out, fields=endings)
    source.check_files()
    return source


def open_labelled(folder: Path, table: Path, kind: Kind | None, fields: Sequence[str] = (), /) -> FolderSource:
    """List the images of a folder that a table labels; others, and rows without an image, are counted.

    Raises:
        FileNotFoundError: No such folder or table.
        ValueError: A table of another form, an image that it names ambiguously, or a label that is missing or wrong.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder: {table} has the labels of a folder of images")
    opened = open_table(table)
    endings = check_fields(fields)
    files, left_out = list_images(folder, fields=endings, beside=table)
    columns, key = _columns(opened)
    keys = [str(each) for each in opened.column(key).to_pylist()]
    if not keys:
        raise ValueError(f"{table}: has no rows: give the labels of the images in {folder}")
    found = _images_of(keys, folder, files, table)
    absent = [name for name, image in zip(keys, found, strict=True) if image is None]
    if len(absent) == len(keys):
        law = f"none of its {len(keys)} rows names an image in {folder}, such as {keys[0]!r} in column {key!r}"
        raise ValueError(f"{table}: {law}: give paths in that folder, such as {files[0].relative_to(folder)}")
    rows = [row for row, image in enumerate(found) if image is not None]
    images = [each for each in found if each is not None]
    taken, labels, classes, notes = _labels(opened, columns, key, kind, rows, images)
    if absent:
        left_out.add(f"rows of {table} without an image", *absent, count=len(absent))
    without = [file.relative_to(folder).as_posix() for i, file in enumerate(files) if i not in set(taken)]
    if without:
        left_out.add(f"images without a label in {table}", *without, count=len(without))
    order = np.argsort(taken, kind="stable")
    picked = tuple(files[taken[i]] for i in order)
    source = FolderSource(str(folder), picked, labels[order], classes, left_out, notes, endings)
    source.check_files()
    return source


def _columns(table: TableFile) -> tuple[list[str], str]:
    """Return the columns with labels, and the one that names images."""
    names = list(table.kinds)
    key = next((name for name in names if name == "key" or name.strip().lower() in _FILES), names[0])
    rest = [name for name in names if name != key and name not in table.index]
    if not rest:
        raise ValueError(f"{table.path}: must have a column of images and one of labels, but got {', '.join(names)}")
    named = [name for name in rest if name.strip().lower() in _LABELS]
    return named[:1] or rest, key


def _images_of(keys: Sequence[str], folder: Path, files: Sequence[Path], table: Path) -> list[int | None]:
    """Return the number of the image that each key names, None where there is none."""
    known: list[Mapping[str, list[int]]] = []
    paths = [PurePosixPath(file.relative_to(folder).as_posix()) for file in files]
    for name in (str, lambda path: str(path.with_suffix("")), lambda path: path.name, lambda path: path.stem):
        numbers: dict[str, list[int]] = defaultdict(list)
        for i, path in enumerate(paths):
            numbers[name(path)].append(i)
        known.append(numbers)
    found: list[int | None] = []
    for key in keys:
        plain = str(PurePosixPath(key.strip().replace("\\", "/")))
        images = next((numbers[plain] for numbers in known if plain in numbers), [])
        if len(images) > 1:
            some = " and ".join(str(paths[i]) for i in images[:2])
            raise ValueError(f"{table}: {key!r} names several images, {some}: give the path in {folder}")
        found.append(images[0] if images else None)
    return found


_Labels = tuple[list[int], NDArray[Any], tuple[str, ...], tuple[str, ...]]


def _labels(
    table: TableFile, columns: list[str], key: str, kind: Kind | None, rows: list[int], images: list[int]
) -> _Labels:
    """Return images, their labels, names of the columns, and notes."""
    if kind == "none":
        taken = sorted(set(images))
        return taken, no_labels(len(taken)), (), ()
    if len(columns) > 1:
        return _of_columns(table, columns, kind, rows, images)
    (column,) = columns
    if table.kinds[column] == "other":
        raise ValueError(f"{table.path}: column {column!r} must hold text or numbers: give several classes as a;b")
    texts = ["" if each is None else str(each) for each in table.column(column).to_pylist()]
    rows, images, alike = _without_repeats(table.path, rows, images, [texts[row].strip() for row in rows])
    repeated = len(set(images)) < len(images)
    guessed = kind or _likely([texts[row] for row in rows], repeated)
    told = f"{table.path}: column {column!r} is taken as {_WORDS[guessed]} (--label-kind {guessed})"
    notes = [*alike, *([told] if kind is None and guessed != "class" else [])]
    if unused := [name for name in table.kinds if name not in (column, key, *table.index)]:
        notes.append(f"{table.path}: columns that are not taken: {', '.join(unused)}")
    found: dict[int, Any] = {}
    for row, image in zip(rows, images, strict=True):
        label = _parsed(texts[row], guessed, f"{table.path}: row {row + 1}, column {column!r}")
        if image in found and guessed != "multi":
            law = f"row {row + 1} is the second of one image"
            raise ValueError(f"{table.path}: {law}: leave it out, or take them together (--label-kind multi)")
        found[image] = (*found.get(image, ()), *label) if guessed == "multi" else label
    names, labels = _array(list(found.values()), guessed, table.path)
    empty = int((labels == 0).all(axis=1).sum()) if guessed == "multi" else 0
    notes += [f"{table.path}: {empty} of {len(labels)} images have none of the {len(names)} labels"] if empty else []
    return list(found), labels, names, tuple(notes)


def _without_repeats(
    table: Path, rows: list[int], images: list[int], labels: Sequence[Any]
) -> tuple[list[int], list[int], list[str]]:
    """Return rows and images without rows that repeat another one with the same label, and a note of their number."""
    first = list({pair: at for at, pair in reversed([*enumerate(zip(images, labels, strict=True))])}.values())[::-1]
    told = f"{table}: rows that repeat another with the same label are taken once: {len(rows) - len(first)}"
    return [rows[at] for at in first], [images[at] for at in first], [told] if len(first) < len(rows) else []


_WORDS = {"class": "classes", "multi": "several classes of an image", "value": "values, for regression"}


def _likely(texts: Sequence[str], repeated: bool) -> Kind:
    if repeated or any(";" in text for text in texts):
        return "multi"
    return "value" if any(map(_DECIMAL.fullmatch, texts)) else "class"


def _parsed(text: str, kind: Kind, where: str) -> Any:
    """Return the label in a cell; an empty one is no class of several."""
    if kind == "multi" and not text.strip():
        return ()
    try:
        return PARSERS[kind](text, where, text.encode())
    except EmptySampleError:
        raise ValueError(f"{where}: must have a label, but got {text!r}: give one, or leave the row out") from None


def _array(labels: list[Any], kind: Kind, table: Path) -> tuple[tuple[str, ...], NDArray[Any]]:
    """Return names, and labels of that kind."""
    try:
        if kind == "value":
            return values_array(labels, None)
        names, marks = marks_array([(each,) for each in labels] if kind == "class" else labels, None)
    except RowError as error:
        raise ValueError(f"{table}: {error}") from None
    return names, np.array([own_number(each, names) for each in labels], np.int64) if kind == "class" else marks


def _of_columns(table: TableFile, columns: list[str], kind: Kind | None, rows: list[int], images: list[int]) -> _Labels:
    """Return labels that have a column each."""
    if words := [name for name in columns if table.kinds[name] != "number"]:
        law = f"{table.path}: several columns must hold numbers, but {', '.join(map(repr, words[:3]))} hold text"
        raise ValueError(f"{law}: call the column of the labels label, or leave the others out")
    total = len(table.column(columns[0]))
    values = np.stack([table.numbers(name, total)[rows] for name in columns], axis=1)
    if np.isnan(values).any():
        row, column = (int(each[0]) for each in np.nonzero(np.isnan(values)))
        law = f"{table.path}: row {rows[row] + 1}, column {columns[column]!r}: must hold a number"
        raise ValueError(f"{law}, but is empty: give one, or leave the row out")
    rows, images, alike = _without_repeats(table.path, rows, images, [tuple(each) for each in values.tolist()])
    values = np.stack([table.numbers(name, total)[rows] for name in columns], axis=1) if alike else values
    if len(set(images)) < len(images):
        raise ValueError(f"{table.path}: an image must have one row where its labels have columns: leave others out")
    marks = bool(((values == 0) | (values == 1)).all())
    guess: Kind = "multi" if marks else "value"
    labels, _ = as_kind(values, kind or guess)
    told = f"{table.path}: {len(columns)} columns are taken as {_WORDS[guess]} (--label-kind {guess})"
    return images, labels, tuple(columns), (*alike, *(() if kind else (told,)))
