"""Read the images of a source ahead, and bring each into the form that a shard stores."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from drawstream.pipeline.decoding import ImageInfo, Largest, encode, shrink
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


def stored_images(source: Source, rows: NDArray[np.int64], form: Form, /) -> Iterator[tuple[int, Future[StoredImage]]]:
    """Yield rows in their order, each with its image; files are decoded in threads, some rows ahead.

    The source is read in one thread: one that a user wrote may not bear more.
    """
    threads = cores()
    ahead: deque[tuple[int, Future[StoredImage]]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="drawstream-pack") as pool:
        for row in rows.tolist():
            ahead.append((row, _begun(source, row, form, pool)))
            if len(ahead) > 2 * threads:
                yield ahead.popleft()
        yield from ahead


def _begun(source: Source, row: int, form: Form, pool: Executor) -> Future[StoredImage]:
    """Read a row and begin to encode it; pixels at once, for their array may be the source's own."""
    image: Future[StoredImage] = Future()
    try:
        given = source.read(row)
        if isinstance(given, bytes):
            return pool.submit(_stored, given, form)
        image.set_result(_stored(given, form))
    except RemoteError:  # of a user's own source: the network is at fault and no image
        raise
    except ValueError as error:
        image.set_exception(error)
    return image


def _stored(given: bytes | NDArray[np.uint8], form: Form) -> StoredImage:
    smaller = shrink(given, form.largest, quality=form.quality, rule=form.rule) if form.largest.side else given
    before = 0 if smaller is given else len(given) if isinstance(given, bytes) else given.nbytes
    return StoredImage(*encode(smaller, form.encoding, quality=form.quality, rule=form.rule), before)
