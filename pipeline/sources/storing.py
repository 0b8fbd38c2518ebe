"""Read the images of a source ahead, and bring each into the form that a shard stores."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from drawstream.pipeline.decoding import UPRIGHT, ImageInfo, Largest, encode, probe, shrink
from drawstream.pipeline.shards import RemoteError
from drawstream.pipeline.sources.source import Source
from drawstream.samplers import cores


@dataclass(frozen=True, slots=True)
class Form:
    """How images are stored.

    Attributes:
        encoding: ``keep``, ``raw``, ``png`` or ``jpeg``, see ``encode``.
        quality: Of newly encoded JPEGs, 1 … 100.
        rule: Of orientation, ``exif`` or ``stored``.
        largest: The largest size; larger images are stored smaller.
    """

    encoding: str
    quality: int
    rule: str
    largest: Largest


class StoredImage(NamedTuple):
    """The bytes of an image member, and what its header says."""

    data: bytes
    info: ImageInfo
    before: int  # bytes of an image that is stored smaller; 0 of all others
    sizes: tuple[tuple[int, int], tuple[int, int]] | None  # its height and width as stored, before and after
    turned: int = UPRIGHT  # EXIF orientation by which its pixels were turned, as its new encoding keeps no tag


@dataclass(slots=True)
class Resized:
    """Images that are stored smaller.

    Attributes:
        images: Their number.
        before: Their bytes as they came, in all; of pixels one for each value.
        after: Their bytes as stored.
    """

    images: int = 0
    before: int = 0
    after: int = 0

    def add(self, before: int, after: int, /) -> None:
        """Count an image; one of 0 bytes before is stored as it came."""
        if before:
            self.images += 1
            self.before += before
            self.after += after

    def __str__(self) -> str:
        return f"{self.images} images stored smaller: {self.before / 1e6:.1f} MB became {self.after / 1e6:.1f}"


_Given = bytes | NDArray[np.uint8] | ValueError


class ReadsRows(Source, Protocol):
    """A source that reads many rows better than each by itself, such as in processes of its own."""

    def read_rows(self, rows: NDArray[np.int64], scratch: Path, /) -> Iterator[bytes | NDArray[np.uint8] | ValueError]:
        """Yield the images of rows in their order, or why there is none; `scratch` is a folder for temporary files."""


def stored_images(
    source: Source, rows: NDArray[np.int64], form: Form, scratch: Path, /
) -> Iterator[tuple[int, Future[StoredImage]]]:
    """Yield rows in their order, each with its image; files are decoded in threads, some rows ahead.

    The source is read in one thread: one that a user wrote may not bear more. `scratch` is a folder for what a source
    must keep meanwhile.
    """
    given: Iterator[_Given] = source.read_rows(rows, scratch) if hasattr(source, "read_rows") else _each(source, rows)
    threads = cores()
    ahead: deque[tuple[int, Future[StoredImage]]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="drawstream-pack") as pool:
        for row, image in zip(rows.tolist(), given, strict=True):
            ahead.append((row, _begun(image, form, pool)))
            if len(ahead) > 2 * threads:
                yield ahead.popleft()
        yield from ahead


def _each(source: Source, rows: NDArray[np.int64]) -> Iterator[_Given]:
    """Read row by row."""
    for row in rows.tolist():
        try:
            image: _Given = source.read(row)
        except RemoteError:  # of a user's own source: the network is at fault and no image
            raise
        except ValueError as error:
            image = error
        yield image


def _begun(given: _Given, form: Form, pool: Executor) -> Future[StoredImage]:
    """Begin to encode an image; pixels at once, for their array may be the source's own."""
    if isinstance(given, bytes):
        return pool.submit(_stored, given, form)
    image: Future[StoredImage] = Future()
    try:
        if isinstance(given, ValueError):
            raise given
        image.set_result(_stored(given, form))
    except ValueError as error:
        image.set_exception(error)
    return image


def _stored(given: bytes | NDArray[np.uint8], form: Form) -> StoredImage:
    smaller = shrink(given, form.largest, quality=form.quality, rule=form.rule) if form.largest.side else given
    data, info = encode(smaller, form.encoding, quality=form.quality, rule=form.rule)
    turned = UPRIGHT
    if isinstance(smaller, bytes) and data is not smaller:
        turned = probe(smaller, rule=form.rule).orientation
    if smaller is given:
        return StoredImage(data, info, 0, None if turned == UPRIGHT else (_stored_size(given),) * 2, turned)
    before = len(given) if isinstance(given, bytes) else given.nbytes
    return StoredImage(data, info, before, (_stored_size(given), _stored_size(smaller)), turned)


def _stored_size(image: bytes | NDArray[np.uint8]) -> tuple[int, int]:
    """Return height and width before an image is turned."""
    if not isinstance(image, bytes):
        return image.shape[0], image.shape[1]
    info = probe(image, rule="stored")
    return info.height, info.width
