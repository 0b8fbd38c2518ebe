"""A map-style data set as a source: anything with ``len()`` and ``[row]`` that gives an image and its label."""

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from drawstream.pipeline import describe_error
from drawstream.pipeline.decoding import GRAY_MODES, no_warnings
from drawstream.pipeline.labels import Kind
from drawstream.pipeline.sources.convert import as_known
from drawstream.pipeline.sources.given_labels import number_labels
from drawstream.pipeline.workers import spread
from drawstream.samplers.files import fault_behind

_CHUNK = 16  # rows of a task: a message of some MB
_KNOWN = ("targets", "labels")  # where data sets of torchvision say their labels
_PAIRS = (("image", "label"), ("img", "label"), ("image", "labels"))  # keys of rows that are dicts


@dataclass(frozen=True, slots=True, eq=False)
class DatasetSource:
    """A map-style data set, such as those of torchvision.

    A row is (image, label, …) or a dict. An image is a PIL image, uint8 (height, width) or (height, width, 1 or 3), a
    tensor (1 or 3, height, width) of uint8 or of levels in [0, 1] as ``ToTensor`` makes them, or the bytes of a file.
    An image that a file holds to the pixel keeps the file's bytes; others become PNGs, so nothing is lost.

    Attributes:
        dataset: Each worker process has a copy of it.
        name: For messages and provenance.
        labels: int64 (rows,), or of another kind (`pipeline.labels`).
        classes: Class names.
        workers: Processes that read it; 1: this one.
        columns: Keys of image and label where rows are dicts.
        stated: The labels are those that the data set states; each is held against its row.
        notes: What its user should know, a line each.
    """

    dataset: Any
    name: str
    labels: NDArray[Any]
    classes: tuple[str, ...]
    workers: int = 1
    columns: tuple[str, str] | None = None
    stated: bool = False
    notes: tuple[str, ...] = field(default=())

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
            progress: Called as ``progress(rows_done, rows)`` where all rows are read for their labels.

        Raises:
            ValueError: It has no length or no rows, or labels that are none.
        """
        name = name or type(dataset).__name__
        if not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
            law = "a data set needs len() and [row]"
            raise ValueError(f"{law}, but {name} is a {type(dataset).__name__}: give one of map style, or a path")
        if not len(dataset):
            raise ValueError(f"{name}: has no rows")
        pair = _columns(dataset, columns, name)
        stated = next((found for each in _KNOWN if (found := _stated(dataset, each)) is not None), None)
        values = [] if label_kind == "none" else stated
        if values is None:
            values = []
            for _, label in _read(dataset, pair, range(len(dataset)), workers, pixels=False):
                values.append(label)
                if progress:
                    progress(len(values), len(dataset))
        given = tuple(str(each) for each in getattr(dataset, "classes", None) or ())
        labels, classes, note = number_labels(values, len(dataset), label_kind, given, name)
        return cls(dataset, name, labels, classes, workers, pair, stated is not None, (note,) if note else ())

    def __len__(self) -> int:
        return len(self.labels)

    def key(self, row: int, /) -> str:
        """The row number, eight digits."""
        return f"{row:08d}"

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
        read = _read(self.dataset, self.columns, rows.tolist(), self.workers, pixels=True)
        for row, (image, label) in zip(rows.tolist(), read, strict=True):
            known = self.labels[row]
            told = self.classes[known] if isinstance(label, str) and known.ndim == 0 else known
            if isinstance(label, int | str) and known.ndim == 0 and label != told:
                first = "the data set states {} (targets or labels)" if self.stated else "it was {} when first read"
                law = f"row {row}: its label is {label}, but {first.format(told)}"
                yield ValueError(f"{law}: leave out what changes labels")
            else:
                yield image


def _read(
    dataset: Any, pair: tuple[str, str] | None, rows: Sequence[int], workers: int, *, pixels: bool
) -> Iterator[tuple[Any, Any]]:
    """Yield image (as bytes; a ValueError where it is none) and label of rows, in their order."""
    chunks = [rows[start : start + _CHUNK] for start in range(0, len(rows), _CHUNK)]
    most = min(workers, len(chunks))
    name: Callable[[Sequence[int]], str] = lambda chunk: f"rows {chunk[0]} … {chunk[-1]}"  # noqa: E731
    for found in spread(_Reader(dataset, pair, pixels), chunks, workers=most, threads=1 if most > 1 else 0, name=name):
        yield from found


@dataclass(frozen=True, slots=True)
class _Reader:
    """Reads rows, in whatever process."""

    dataset: Any
    pair: tuple[str, str] | None
    pixels: bool

    def __call__(self, rows: Sequence[int]) -> list[tuple[Any, Any]]:
        return [self._row(row) for row in rows]

    def _row(self, row: int) -> tuple[Any, Any]:
        try:
            given = self.dataset[row]
            image, label = (given[key] for key in self.pair) if self.pair else (given[0], given[1])
            return self._bytes(row, image) if self.pixels else b"", _plain(label)
        except Exception as error:  # of the user's data set
            if fault := fault_behind(error):
                raise fault from None
            refusal = ValueError(f"row {row}: {describe_error(error)}")
            if not self.pixels:
                raise refusal from None
            return refusal, None

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


def _columns(dataset: Any, asked: tuple[str | None, str | None], name: str) -> tuple[str, str] | None:
    """Return the keys of image and label of rows that are dicts; None for pairs."""
    first = dataset[0]
    if not isinstance(first, Mapping):
        if any(asked):
            remedy = "leave out --image-column and --label-column"
            raise ValueError(f"{name}: rows are no dicts, so they have no columns: {remedy}")
        if not (isinstance(first, Sequence) and len(first) > 1 and not isinstance(first, str | bytes)):
            raise ValueError(f"{name}: a row must be (image, label) or a dict, but row 0 is a {type(first).__name__}")
        return None
    pairs = [(asked[0] or image, asked[1] or label) for image, label in _PAIRS]
    for pair in pairs:
        if all(key in first for key in pair):
            return pair
    keys = ", ".join(map(str, first))
    remedy = "name them with --image-column and --label-column"
    raise ValueError(f"{name}: rows have {keys}, but no {' and '.join(pairs[0])}: {remedy}")
