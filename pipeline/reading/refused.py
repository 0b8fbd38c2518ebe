"""Check images with DALI's own parser before they go into a batch.

A header that claims 65 500 × 65 500 pixels makes DALI ask for 12 GB, and one that it cannot parse can end the process
(``dali_image``). So no image goes there that was not parsed here, alone, by the same library, and found to have the
size that its catalog says; some µs each, once for every image that has a checksum.

Catalogs of formats 1 and 2 leave it to the decoder to turn images; what it makes of their EXIF is found out here.
"""

import struct
from dataclasses import replace
from threading import Lock
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from drawstream.pipeline.decoding.dali_image import parse, parser, plain
from drawstream.pipeline.decoding.exif import SIDEWAYS
from drawstream.pipeline.shards.catalog import ENCODINGS, RAW, Catalog

if TYPE_CHECKING:
    from drawstream.pipeline.images.graph import GraphSpec


def undecodable(
    samples: NDArray[np.int64],
    given: tuple[Any, ...],
    spec: "GraphSpec",
    /,
    *,
    device: Literal["cpu", "gpu"],
    device_id: int,
) -> list[int]:
    """Find the images of a run that the graph cannot take.

    Args:
        samples: Rows of the catalog, (n,).
        given: Inputs of the graph, in its order, n values each.
        spec: The graph.
        device: Where it runs.
        device_id: Which GPU.

    Returns:
        Rows of the catalog, in the order of the run.
    """
    pipeline, bad = None, []
    plain = replace(spec, transform=replace(spec.transform, randaugment=None, jitter=None))  # they refuse no image
    inputs = given[: 1 + len(plain.inputs)]
    for i, sample in enumerate(samples.tolist()):
        image = tuple(values[i : i + 1] for values in inputs)
        pipeline = pipeline or _Single(plain, device=device, device_id=device_id)
        if not pipeline.takes(image):
            bad.append(sample)
            pipeline = None  # it is not to be trusted after an error
    return bad


class _Single:
    """A graph for one image at a time."""

    def __init__(self, spec: "GraphSpec", *, device: Literal["cpu", "gpu"], device_id: int) -> None:
        from drawstream.pipeline.images.graph import build_pipeline  # DALI, which verify can do without

        self._image: tuple[Any, ...] = ()
        self._pipeline = build_pipeline(
            lambda _: self._image, spec, batch_size=1, device=device, device_id=device_id, threads=1, prefetch=1
        )

    def takes(self, image: tuple[Any, ...]) -> bool:
        self._image = image
        try:
            self._pipeline.run()
        except RuntimeError:
            return False
        return True


_EXIF = b"Exif\0\0"
_TURNED_BY_DECODER = 2  # newest format of catalogs that do not say how images are turned


def decoder_turns(catalog: Catalog, /) -> bool:
    """Whether a catalog leaves it to the decoder to turn its images by EXIF, in the way of that decoder."""
    return catalog.version <= _TURNED_BY_DECODER


class Headers:
    """Holds images against DALI's parser and their catalog. Safe with threads.

    Args:
        catalog: Whose images.
        once: Whether an image that was parsed can be taken to stay as it is, because every read is held against its
            checksum.
    """

    def __init__(self, catalog: Catalog, *, once: bool) -> None:
        parser()  # silences DALI before a graph is built
        self._catalog = catalog
        self._by_decoder = decoder_turns(catalog)
        self._parsed = np.zeros(len(catalog) if once else 0, np.bool_)
        self._odd = np.zeros(len(self._parsed), np.bool_)  # of the parsed: there is something to hide from DALI
        self._corner = _Corner()

    def refused(
        self, samples: NDArray[np.int64], bounds: NDArray[np.int64], data: NDArray[np.uint8], /
    ) -> dict[int, str]:
        """Which images DALI must not be given.

        Args:
            samples: Rows of the catalog, (n,).
            bounds: Image i is `data[bounds[i] : bounds[i + 1]]`, (n + 1,).
            data: Encoded images; raw ones have no headers and are passed over. They are made ``plain``, unless the
                decoder turns them.

        Returns:
            Position → reason.
        """
        catalog, found = self._catalog, {}
        wanted = catalog.encoding_codes[samples] != RAW
        if len(self._parsed):
            known = self._parsed[samples]
            wanted &= ~known
            for i in np.flatnonzero(known & self._odd[samples]).tolist():
                plain(data[bounds[i] : bounds[i + 1]])
        for i in np.flatnonzero(wanted).tolist():
            sample = int(samples[i])
            image = data[bounds[i] : bounds[i + 1]]
            odd = not self._by_decoder and plain(image)
            reason = self._reason(image, sample)
            if reason:
                found[i] = reason
            elif len(self._parsed):
                self._odd[sample] = odd  # before the next line, for other threads
                self._parsed[sample] = True
        return found

    def _reason(self, data: NDArray[np.uint8], sample: int) -> str | None:
        catalog = self._catalog
        encoding = ENCODINGS[catalog.encoding_codes[sample]]
        size = int(catalog.height[sample]), int(catalog.width[sample])
        try:
            kind, *header = parse(data)
        except ValueError:
            return f"its header cannot be parsed as {encoding}"
        if kind != encoding:
            return f"it is a {kind} image, its catalog says {encoding}"
        law = f"its header says {header[0]} × {header[1]} pixels, its catalog {size[0]} × {size[1]}"
        if self._by_decoder:
            return self._reason_of_decoder(data, encoding, (header[0], header[1]), size, law)
        if catalog.turn is not None and catalog.turn[sample] >= SIDEWAYS:
            size, law = size[::-1], f"{law}, turned on its side"
        return law if tuple(header) != size else None

    def _reason_of_decoder(
        self, data: NDArray[np.uint8], encoding: str, header: tuple[int, int], size: tuple[int, int], law: str
    ) -> str | None:
        if set(header) != set(size):
            return law
        if encoding == "jpeg" and len(set(_jpeg_exif(data.data) or ())) > 1:
            return "it has several EXIF blocks, for which DALI may end: index or pack it anew, in a newer format"
        if header[0] != header[1]:
            upright = orientation(data.data, encoding)
            seen = header if upright == 1 else header[::-1] if upright else None
            if seen != size and (seen or not self._corner.inside(data, size)):
                return law
        return None


def orientation(data: bytes | memoryview, encoding: str, /) -> int | None:
    """Whether the EXIF block of an image turns it on its side: 1 no, 5 yes, None where readers of EXIF may differ."""
    blocks = _jpeg_exif(data) if encoding == "jpeg" else _png_exif(data) if encoding == "png" else None
    if encoding == "webp" and b"EXIF" not in bytes(data):
        blocks = []
    if blocks is None or len(blocks) > 1:
        return None
    return _turned(blocks[0]) if blocks else 1


def _jpeg_exif(data: bytes | memoryview) -> list[bytes] | None:
    """EXIF blocks in front of the frame; None of a file that is not plain."""
    blocks: list[bytes] = []
    at, framed = 2, False
    while at + 4 <= len(data):
        mark, kind, length = struct.unpack_from(">BBH", data, at)
        if mark != 0xFF or not 0xC0 <= kind <= 0xFE or 0xD0 <= kind <= 0xD9 or length < 2:
            return None
        if kind == 0xDA:
            return blocks
        if kind == 0xE1 and data[at + 4 : at + 10] == _EXIF:
            if framed:
                return None
            blocks.append(bytes(data[at + 10 : at + 2 + length]))
        framed |= kind <= 0xCF and kind not in (0xC4, 0xC8, 0xCC)
        at += 2 + length
    return None


def _png_exif(data: bytes | memoryview) -> list[bytes] | None:
    """EXIF blocks in front of the pixels; None of a file that is not plain."""
    blocks: list[bytes] = []
    at, pixels = 8, False
    while at + 8 <= len(data):
        (length,), kind = struct.unpack_from(">I", data, at), bytes(data[at + 4 : at + 8])
        if kind == b"IEND":
            return blocks
        if kind == b"eXIf":
            if pixels:
                return None
            blocks.append(bytes(data[at + 8 : at + 8 + length]))
        pixels |= kind == b"IDAT"
        at += 12 + length
    return None


def _turned(block: bytes) -> int | None:
    order = {b"II*\0\x08\0\0\0": "<", b"MM\0*\0\0\0\x08": ">"}.get(block[:8])
    if order is None or len(block) < 10:
        return None
    (count,) = struct.unpack_from(f"{order}H", block, 8)
    if len(block) < 10 + 12 * count:
        return None
    entries = [struct.unpack_from(f"{order}HHIH", block, 10 + 12 * i) for i in range(count)]
    found = [entry for entry in entries if entry[0] == 0x0112]
    if not found:
        return 1
    _, kind, values, value = found[0]
    if len(found) > 1 or (kind, values) != (3, 1) or not 1 <= value <= 8:
        return None
    return 5 if value >= 5 else 1


class _Corner:
    """Asks DALI itself, with one image at a time, for the last pixel: an error where the image does not reach there."""

    def __init__(self) -> None:
        self._inputs: tuple[Any, ...] = ()
        self._pipeline: Any = None
        self._lock = Lock()

    def inside(self, data: NDArray[np.uint8], size: tuple[int, int], /) -> bool:
        with self._lock:
            self._inputs = [data], np.array([size], np.int32) - 1, np.ones((1, 2), np.int32)
            self._pipeline = self._pipeline or self._built()
            try:
                self._pipeline.run()
            except RuntimeError:
                self._pipeline = None  # it is not to be trusted after an error
                return False
            return True

    def _built(self) -> Any:
        import nvidia.dali

        dali: Any = nvidia.dali
        pipeline = dali.Pipeline(batch_size=1, num_threads=1, device_id=None, prefetch_queue_depth=1)
        with pipeline:
            kinds = [dali.types.UINT8, dali.types.INT32, dali.types.INT32]
            inputs = dali.fn.external_source(source=lambda: self._inputs, num_outputs=3, dtype=kinds, ndim=[1, 1, 1])
            pixel = dali.fn.decoders.image_slice(
                *inputs, axes=[0, 1], normalized_anchor=False, normalized_shape=False, device="cpu"
            )
            pipeline.set_outputs(pixel)
        pipeline.build()
        return pipeline
