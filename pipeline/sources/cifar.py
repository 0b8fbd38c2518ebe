"""CIFAR-10, CIFAR-100 and SVHN as their authors publish them: binary batches, Python batches, MATLAB files.

    layout                    training files                   test file           class names
    CIFAR-10, binary          data_batch_1.bin … 5             test_batch.bin      batches.meta.txt
    CIFAR-100, binary         train.bin                        test.bin            fine_label_names.txt
    CIFAR-10, Python          data_batch_1 … 5                 test_batch          batches.meta
    CIFAR-100, Python         train                            test                meta
    SVHN (cropped digits)     train_32x32.mat                  test_32x32.mat      0 … 9

A row of a binary batch is a label byte (CIFAR-100: two, coarse and fine) and 3072 bytes of pixels, channels first.
Python batches are pickles: they are read with stand-ins for the names that such a file needs, so that nothing in it
can run. CIFAR-100 has its 100 fine classes. SVHN writes the digit 0 as 10.
"""

import pickle
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

PIXELS = 3 * 32 * 32
_NAMES = "fine_label_names.txt", "batches.meta.txt"  # of binary batches
_META = "meta", "batches.meta"  # of Python batches
_BATCH = re.compile(r"data_batch_\d+")
Arrays = tuple[NDArray[np.uint8], NDArray[np.int64]]


@dataclass(frozen=True, slots=True)
class Published:
    """Files of one split of a published data set.

    Attributes:
        layout: ``binary``, ``python`` or ``mat``.
        parts: Files with images and labels, in their order.
        names: File of the class names, or None.
    """

    layout: str
    parts: tuple[Path, ...]
    names: Path | None

    def read(self) -> tuple[NDArray[np.uint8], NDArray[np.int64], tuple[str, ...]]:
        """Read images uint8 (rows, 32, 32, 3), labels int64 (rows,) and class names, () where no file has them.

        Raises:
            ValueError: A file is damaged or of another layout; the message names it.
        """
        reader = {"binary": self._binary, "python": _python_batch, "mat": _svhn}[self.layout]
        images, labels = zip(*map(reader, self.parts), strict=True)
        return np.concatenate(images), np.concatenate(labels), self._class_names()

    def _binary(self, file: Path) -> Arrays:
        """Read a binary batch."""
        head = 2 if self.parts[0].name in ("train.bin", "test.bin") else 1
        data = np.fromfile(file, np.uint8)
        if data.size == 0 or data.size % (head + PIXELS):
            law = f"a batch must be rows of {head + PIXELS} bytes, but the file has {data.size}"
            raise ValueError(f"{file}: {law}: fetch it again")
        rows = data.reshape(-1, head + PIXELS)
        return _channels_last(rows[:, head:]), rows[:, head - 1].astype(np.int64)

    def _class_names(self) -> tuple[str, ...]:
        if self.layout == "mat":
            return tuple("0123456789")
        if self.names is None:
            return ()
        if self.layout == "binary":
            return tuple(self.names.read_text(encoding="utf-8").split())
        meta = _unpickled(self.names)
        names = meta.get("fine_label_names", meta.get("label_names"))
        if not isinstance(names, list) or not all(isinstance(name, bytes | str) for name in names):
            raise ValueError(f"{self.names}: must hold a list of class names, but got {names!r}: fetch it again")
        return tuple(map(_text, names))


def find_published(path: Path, split: str, /) -> Published | None:
    """Find the files of CIFAR or SVHN in a folder, or one such file; None if it holds neither.

    Args:
        path: Folder as unpacked, or a ``.mat`` file of SVHN.
        split: ``train`` or ``test``.

    Raises:
        FileNotFoundError: The folder has the other split only.
    """
    if path.suffix == ".mat" and path.is_file():
        return Published("mat", (path,), None)
    if not path.is_dir():
        return None
    names = {entry.name for entry in path.iterdir() if entry.is_file()}
    for layout, end in (("binary", ".bin"), ("python", ""), ("mat", "_32x32.mat")):
        batches = sorted(name for name in names if _BATCH.fullmatch(name.removesuffix(end)) and name.endswith(end))
        train = batches or [name for name in (f"train{end}",) if name in names]
        test = [name for name in (f"test_batch{end}", f"test{end}") if name in names]
        named = [name for name in (_NAMES if layout == "binary" else _META) if name in names]
        if not (train or test) or (layout == "python" and not named):  # "train" alone is any file
            continue
        parts = train if split == "train" else test
        if not parts:
            other = "test" if split == "train" else "train"
            raise FileNotFoundError(f"{path}: has no files of split {split!r}: fetch them, or take --split {other}")
        return Published(layout, tuple(path / name for name in parts), path / named[0] if named else None)
    return None


def _channels_last(rows: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Turn (rows, 3072), channels first, into (rows, 32, 32, 3)."""
    return np.ascontiguousarray(rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))


def _python_batch(file: Path) -> Arrays:
    batch = _unpickled(file)
    data, labels = batch.get("data"), batch.get("fine_labels", batch.get("labels"))
    pixels = data.pixels() if isinstance(data, _Array) else None
    if pixels is None or not isinstance(labels, list) or not all(type(label) is int for label in labels):
        raise ValueError(f"{file}: must hold data, uint8 (rows, {PIXELS}), and labels, a list: it is no batch of CIFAR")
    return _channels_last(pixels), np.asarray(labels, dtype=np.int64)


def _svhn(file: Path) -> Arrays:
    """Read X, uint8 (32, 32, 3, rows), and y, 1 … 10 for the digits 1 … 9, 0."""
    from scipy.io import loadmat

    try:
        held = loadmat(file, variable_names=("X", "y"))
    except Exception as error:  # scipy raises whatever a damaged header leads to
        raise ValueError(f"{file}: not a readable MATLAB file ({error}): fetch it again") from None
    images, digits = held.get("X"), held.get("y")
    if images is None or digits is None or images.dtype != np.uint8 or images.shape[:3] != (32, 32, 3):
        raise ValueError(f"{file}: must hold X, uint8 (32, 32, 3, rows), and y: give a file of SVHN's cropped digits")
    return np.ascontiguousarray(images.transpose(3, 0, 1, 2)), digits.reshape(-1).astype(np.int64) % 10


class _Array:
    """Stand-in for a pickled NumPy array: keeps its state and runs nothing."""

    def __init__(self, *_: Any) -> None:
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def pixels(self) -> NDArray[np.uint8] | None:
        """Return the array as uint8 (rows, 3072), or None if it is of another shape or type."""
        match self.state:
            case (_, (int(rows), int(width)), _Type(name="u1" | b"u1"), False, bytes(data)):
                if width == PIXELS and len(data) == rows * width:
                    return np.frombuffer(data, np.uint8).reshape(rows, width)
        return None


class _Type(_Array):
    """Stand-in for a pickled NumPy dtype."""

    def __init__(self, name: bytes | str = "", *_: Any) -> None:
        super().__init__()
        self.name = name


def _encoded(text: str, coding: bytes | str) -> bytes:
    """Return bytes that were pickled as text; stands in for ``_codecs.encode``."""
    return text.encode("latin-1") if _text(coding) == "latin1" else b""


def _text(given: bytes | str) -> str:
    """Decode a string of Python 2."""
    return given.decode("latin-1") if isinstance(given, bytes) else given


_STAND_INS: dict[tuple[str, str], Any] = {
    **{(f"numpy.{core}.multiarray", "_reconstruct"): lambda *_: _Array() for core in ("core", "_core")},
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Type,
    ("_codecs", "encode"): _encoded,
}


class _Inert(pickle.Unpickler):
    """Unpickler that knows stand-ins alone: no name of a file is imported or called."""

    def find_class(self, module: str, name: str, /) -> Any:
        """Return the stand-in of a name.

        Raises:
            UnpicklingError: It has none.
        """
        if (module, name) not in _STAND_INS:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which no batch of CIFAR does")
        return _STAND_INS[module, name]


def _unpickled(file: Path) -> dict[str, Any]:
    """Read the dict of a Python batch, its keys as text."""
    try:
        with file.open("rb") as opened:
            content = _Inert(opened, encoding="bytes").load()  # strings of Python 2 are bytes
    except Exception as error:  # unpickling damaged bytes can raise anything
        raise ValueError(f"{file}: not a readable Python batch of CIFAR ({error}): fetch it again") from None
    if not isinstance(content, dict) or not all(isinstance(key, bytes | str) for key in content):
        raise ValueError(f"{file}: must hold a dict by names, but got {type(content).__name__}: no batch of CIFAR")
    return {_text(key): value for key, value in content.items()}
