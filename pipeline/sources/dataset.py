"""A map-style data set as a source: anything with ``len()`` and ``[row]`` that gives an image and its label."""

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from drawstream.pipeline import BadImage, BadImagesError, describe_error
from drawstream.pipeline.decoding import GRAY_MODES, no_warnings
from drawstream.pipeline.labels import Kind
from drawstream.pipeline.sources.columns import HeldFields, Value, ending_of, name_fields, try_encode
from drawstream.pipeline.sources.convert import as_known
from drawstream.pipeline.sources.given_labels import number_labels
from drawstream.pipeline.workers import spread
from drawstream.samplers.files import fault_behind

_CHUNK = 16  # rows of a task: a message of some MB
_TRIED = 1000  # rows, before all are held to be bad
_Pair = tuple[str, str | None] | None
_KNOWN = ("targets", "labels")  # where data sets of torchvision say their labels
_PAIRS = (("image", "label"), ("img", "label"), ("image", "labels"))  # keys of rows that are dicts


@dataclass(frozen=True, slots=True, eq=False)
class DatasetSource:
    """A map-style data set, such as those of torchvision.

    A row is (image, target, …) or a dict. An image is a PIL image, uint8 (height, width) or (height, width, 1 or 3), a
    tensor (1 or 3, height, width) of uint8 or of levels in [0, 1] as ``ToTensor`` makes them, or the bytes of a file.
    An image that a file holds to the pixel keeps the file's bytes; others become PNGs, so nothing is lost.

    Attributes:
        dataset: Each worker process has a copy of it.
        name: For messages and provenance.
        labels: int64 (rows,), or of another kind (`pipeline.labels`).
        classes: Class names.
        workers: Processes that read it; 1: this one.
        columns: Keys of image and label where rows are dicts; without labels the second is None.
        stated: The labels are those that the data set states; each is held against its row.
        notes: What its user should know, a line each.
        places: Rows of the data set that are rows of the source, int64 (rows,); None: all.
        bad: The others, which raised while their labels were read.
        fields: By name the key, or number, of the entry of a row that is packed as a field.
    """

    dataset: Any
    name: str
    labels: NDArray[Any]
    classes: tuple[str, ...]
    workers: int = 1
    columns: _Pair = None
    stated: bool = False
    notes: tuple[str, ...] = field(default=())
    places: NDArray[np.int64] | None = None
    bad: tuple[BadImage, ...] = ()
    fields: Mapping[str, Any] = field(default_factory=dict)
    _held: HeldFields = field(default_factory=HeldFields, init=False, repr=False)

    @classmethod
    def open(
        cls,
        dataset: Any,
        /,
        *,
        name: str = "",
        workers: int = 1,
        columns: tuple[str | None, str | None] = (None, None),
        label_kind: Kind | None = None,
        fields: Sequence[str] = (),
        skip_bad: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ) -> Self:
        """Learn the labels: those that the data set states as `targets` or `labels`, or of all its rows.

        Args:
            dataset: The data set.
            name: For messages; by default that of its class.
            workers: Processes that read it. For several it must be picklable, and a script that asks for them begins
                under ``if __name__ == "__main__":``.
            columns: Keys of image and label where rows are dicts; None: ``image`` or ``img``, and ``label``.
            label_kind: What the labels are; None: what their type says.
            fields: Entries of rows to pack as fields, ``KEY`` or ``NAME=KEY`` (`columns.name_fields`). Those of rows
                that are no dicts are ``target``, the one behind the image, and ``2``, ``3``, …
            skip_bad: Leave out rows that raise while their labels are read, and keep them as `bad`.
            progress: Called as ``progress(rows_done, rows)`` where all rows are read for their labels.

        Raises:
            BadImagesError: A row raises while labels are read; with `skip_bad`, all do.
            ValueError: It has no length or no rows, or labels that are none.
        """
        name = name or type(dataset).__name__
        if not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
            law = "a data set needs len() and [row]"
            raise ValueError(f"{law}, but {name} is a {type(dataset).__name__}: give one of map style, or a path")
        if not len(dataset):
            raise ValueError(f"{name}: has no rows")
        first = _readable(dataset, name)
        pair = _columns(first, columns, name, labels=label_kind != "none")
        named = _fields(dataset, first, fields, name)
        stated = next((found for each in _KNOWN if (found := _stated(dataset, each)) is not None), None)
        values = [] if label_kind == "none" else stated
        places: NDArray[np.int64] | None = None
        bad: list[BadImage] = []
        if values is None:
            values, bad = [], []
            reader = _Reader(dataset, pair, pixels=False)
            for row, (why, label, _) in enumerate(_read(reader, range(len(dataset)), workers)):
                if isinstance(why, ValueError):
                    bad.append(BadImage(_key(row), _key(row), str(why)))
                    if not skip_bad:
                        raise BadImagesError(name, bad, "repair it, or leave such rows out (--skip-bad LIST.json)")
                else:
                    values.append(label)
                if progress:
                    progress(row + 1, len(dataset))
            if not values:
                raise BadImagesError(name, bad, "repair the data set")
            if bad:
                places = np.setdiff1d(np.arange(len(dataset)), [int(each.key) for each in bad])
        given = tuple(str(each) for each in getattr(dataset, "classes", None) or ())
        rows = len(dataset) - len(bad)
        labels, classes, note = number_labels(values, rows, label_kind, given, name)
        notes = (note,) if note else ()
        return cls(dataset, name, labels, classes, workers, pair, stated is not None, notes, places, tuple(bad), named)

    def __len__(self) -> int:
        return len(self.labels)

    def key(self, row: int, /) -> str:
        """The row number of the data set, eight digits."""
        return _key(row if self.places is None else int(self.places[row]))

    def read(self, row: int, /) -> bytes:
        """Image of a row, as a file's bytes.

        Raises:
            ValueError: The data set raises, or gives no image.
        """
        image = next(self.read_rows(np.array([row]), Path()))
        if isinstance(image, ValueError):
            raise image
        return image

    def read_rows(self, rows: NDArray[np.int64], _scratch: Path, /) -> Iterator[bytes | ValueError]:
        """Yield the images of rows, in their order, or why there is none."""
        places = (rows if self.places is None else self.places[rows]).tolist()
        read = _read(_Reader(self.dataset, self.columns, self.fields), places, self.workers)
        for at, row, (image, label, values) in zip(rows.tolist(), places, read, strict=True):
            known = self.labels[at]
            told = self.classes[known] if isinstance(label, str) and known.ndim == 0 else known
            if isinstance(label, int | str) and known.ndim == 0 and label != told:
                first = "the data set states {} (targets or labels)" if self.stated else "it was {} when first read"
                law = f"row {row}: its label is {label}, but {first.format(told)}"
                yield ValueError(f"{law}: leave out what changes labels")
            else:
                self._held.keep(at, values)
                yield image

    def read_field(self, row: int, name: str, /) -> bytes | None:
        """The bytes of the field ``name`` of a ``row``, or None.

        Raises:
            ValueError: The data set raises, or gives what such a field cannot hold.
        """
        return self._held.take(row, name, lambda: self.read(row))


def _key(row: int) -> str:
    return f"{row:08d}"


def _read(reader: "_Reader", rows: Sequence[int], workers: int) -> Iterator[tuple[Any, Any, dict[str, Value]]]:
    """Yield image (as bytes; a ValueError where it is none), label and fields of rows, in their order."""
    chunks = [rows[start : start + _CHUNK] for start in range(0, len(rows), _CHUNK)]
    most = min(workers, len(chunks))
    name: Callable[[Sequence[int]], str] = lambda chunk: f"rows {chunk[0]} … {chunk[-1]}"  # noqa: E731
    for found in spread(reader, chunks, workers=most, threads=1 if most > 1 else 0, name=name):
        yield from found


@dataclass(frozen=True, slots=True)
class _Reader:
    """Reads rows, in whatever process."""

    dataset: Any
    pair: _Pair
    fields: Mapping[str, Any] = field(default_factory=dict)
    pixels: bool = True

    def __call__(self, rows: Sequence[int]) -> list[tuple[Any, Any, dict[str, Value]]]:
        return [self._row(row) for row in rows]

    def _row(self, row: int) -> tuple[Any, Any, dict[str, Value]]:
        try:
            given = self.dataset[row]
            image, label = self.pair or (0, 1)
            values = {name: try_encode(name, given[key]) for name, key in self.fields.items()}
            plain = None if label is None else _plain(given[label])
            return self._bytes(row, given[image]) if self.pixels else b"", plain, values
        except Exception as error:  # of the user's data set
            if fault := fault_behind(error):
                raise fault from None
            return ValueError(f"row {row}: {describe_error(error)}"), None, {}

    def _bytes(self, row: int, image: Any) -> bytes:
        if isinstance(image, bytes):
            return as_known(image)
        if isinstance(image, Image.Image):
            image = image if image.mode in ("L", "RGB") else image.convert(_mode(image))
            for file in _files(self.dataset, row, image):
                if (data := _same(file, image)) is not None:
                    return data
        else:
            image = Image.fromarray(_pixels(image))
        buffer = io.BytesIO()
        image.save(buffer, "png")
        return buffer.getvalue()


def _mode(image: Image.Image) -> str:
    if image.mode.startswith(("I", "F")):
        raise ValueError(f"an image of mode {image.mode} has other than 8 bits a channel: store it with 8 bits")
    return "L" if image.mode in GRAY_MODES else "RGB"


def _files(dataset: Any, row: int, image: Image.Image) -> list[Path]:
    """Return the files that an image may be from: its own, or that of an `ImageFolder`."""
    found = [getattr(image, "filename", "")]
    samples = getattr(dataset, "samples", None)
    if isinstance(samples, list) and len(samples) == len(dataset) and isinstance(samples[row], Sequence):
        found.append(samples[row][0])
    return [Path(each) for each in found if each and isinstance(each, str) and Path(each).is_file()]


def _same(file: Path, image: Image.Image) -> bytes | None:
    """Return the bytes of a file that holds exactly these pixels; else None."""
    data = file.read_bytes()
    with no_warnings(), Image.open(io.BytesIO(data)) as opened:
        if opened.size != image.size:
            return None
        pixels = opened if opened.mode == image.mode else opened.convert(image.mode)
        same = np.array_equal(np.asarray(pixels), np.asarray(image))
    return as_known(data, suffix=file.suffix) if same else None


def _pixels(image: Any) -> NDArray[np.uint8]:
    """Return an array, or a tensor with its channels first, as uint8 (height, width[, 3])."""
    array = image.numpy(force=True) if hasattr(image, "numpy") else np.asarray(image)
    if hasattr(image, "numpy") and array.ndim == 3:
        array = array.transpose(1, 2, 0)
    if hasattr(image, "numpy") and array.dtype.kind == "f":
        levels = np.rint(array * 255)
        if not (np.abs(array * 255 - levels).max(initial=0) < 1e-3 and levels.min() >= 0 and levels.max() <= 255):
            law = "a tensor of floats must hold the levels 0 … 255 divided by 255"
            raise ValueError(f"{law}, but has others in [{array.min():.3g}, {array.max():.3g}]: leave out Normalize")
        array = levels.astype(np.uint8)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] != 3):
        law = "an image must be of PIL, uint8 (height, width[, 1 or 3]), a tensor (1 or 3, height, width), or bytes"
        raise ValueError(f"{law}, but got {type(image).__name__} {array.dtype} {array.shape}")
    return np.ascontiguousarray(array)


def _plain(label: Any) -> Any:
    """Return a label without its tensor."""
    label = label.numpy(force=True) if hasattr(label, "numpy") else label
    return label.item() if isinstance(label, np.ndarray | np.generic) and label.ndim == 0 else label


def _stated(dataset: Any, name: str) -> Any:
    """Return the labels that a data set states by this name, one for each row; else None."""
    found = getattr(dataset, name, None)
    if found is None or isinstance(found, str) or not hasattr(found, "__len__") or len(found) != len(dataset):
        return None
    return _plain(found)


def _columns(first: Any, asked: tuple[str | None, str | None], name: str, *, labels: bool) -> _Pair:
    """Return the keys of image and label of rows that are dicts, without labels of the image alone; None for pairs."""
    if not isinstance(first, Mapping):
        if any(asked):
            remedy = "leave out --image-column and --label-column"
            raise ValueError(f"{name}: rows are no dicts, so they have no columns: {remedy}")
        if not (isinstance(first, Sequence) and len(first) > 1 and not isinstance(first, str | bytes)):
            raise ValueError(f"{name}: a row must be (image, label) or a dict, but got a {type(first).__name__}")
        return None
    pairs = [(asked[0] or image, asked[1] or label) for image, label in _PAIRS]
    for image, label in pairs:
        if image in first and (not labels or label in first):
            return image, label if labels else None
    keys = ", ".join(map(str, first))
    what, remedy = (
        (" and ".join(pairs[0]), "name them with --image-column and --label-column")
        if labels
        else (pairs[0][0], "name it with --image-column")
    )
    raise ValueError(f"{name}: rows have {keys}, but no {what}: {remedy}")


def _fields(dataset: Any, first: Any, asked: Sequence[str], name: str) -> dict[str, Any]:
    """Return the keys of the entries that are asked for, by the names of their fields."""
    if isinstance(first, Mapping):
        known: dict[str, Any] = {str(key): key for key in first}
    else:
        known = {"target": 1, **{str(number): number for number in range(2, len(first))}}

    def kind(key: str) -> str:
        value = first[known[key]]
        for row in range(min(len(dataset), _TRIED) if value is None else 0):
            with suppress(Exception):  # of the user's data set; `read_rows` says which
                value = dataset[row][known[key]] if value is None else value
        try:
            return ending_of(value)
        except ValueError as error:
            raise ValueError(f"{name}: {key!r} {error}") from None

    return {field: known[key] for field, key in name_fields(asked, list(known), kind, name).items()}


def _readable(dataset: Any, name: str) -> Any:
    """Return the first row that does not raise."""
    first = ""
    for row in range(min(len(dataset), _TRIED)):
        try:
            return dataset[row]
        except Exception as error:  # of the user's data set
            if fault := fault_behind(error):
                raise fault from None
            first = first or describe_error(error)
    raise ValueError(f"{name}: none of its first {row + 1} rows can be read, row 0: {first}: repair the data set")
