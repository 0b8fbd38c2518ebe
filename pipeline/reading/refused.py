"""Check images with the parser of the backend before they go into a batch.

A header that claims 65 500 × 65 500 pixels makes DALI ask for 12 GB, and one that it cannot parse can end the process
(``dali_image``). So no image goes there that was not parsed here, alone, by the same library, and found to have the
size that its catalog says; some µs each, once for every image that has a checksum.
"""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from drawstream.pipeline.decoding import SIDEWAYS, parse, parse_header, parser, plain
from drawstream.pipeline.shards import ENCODINGS, RAW, Catalog

if TYPE_CHECKING:
    from drawstream.pipeline.images import Backend, GraphSpec


def undecodable(
    samples: NDArray[np.int64],
    given: tuple[Any, ...],
    spec: "GraphSpec",
    /,
    *,
    gpu: int | None,
    backend: "Backend" = "dali",
) -> list[int]:
    """Return the rows of the catalog, among `samples` (n,), whose images the graph cannot take, one by one."""
    from drawstream.pipeline.images import build_graph  # needs torch, which verify can do without

    plain = replace(
        spec, transform=replace(spec.transform, randaugment=None, suite=None, jitter=None)
    )  # they refuse no image
    inputs = given[: 1 + len(plain.inputs)]
    image: tuple[Any, ...] = ()
    pipeline, bad = None, []

    def source(_: Any) -> tuple[Any, ...]:
        return image

    for i, sample in enumerate(samples.tolist()):
        image = tuple(values[i : i + 1] for values in inputs)
        pipeline = pipeline or build_graph(backend, source, plain, run_size=1, gpu=gpu, threads=1, prefetch=1)
        try:
            pipeline.run()
        except RuntimeError:
            bad.append(sample)
            pipeline = None  # it is not to be trusted after an error
    return bad


class Headers:
    """Compares images with the parser of a backend and their catalog. Safe with threads."""

    def __init__(self, catalog: Catalog, *, once: bool, backend: "Backend" = "dali") -> None:
        self._dali = backend == "dali"
        if self._dali:
            parser()  # silences DALI before a graph is built
        self._catalog = catalog
        self._parsed = np.zeros(len(catalog) if once else 0, np.bool_)
        self._odd = np.zeros(len(self._parsed), np.bool_)  # of the parsed: there is something to hide from DALI

    def refused(
        self, samples: NDArray[np.int64], bounds: NDArray[np.int64], data: NDArray[np.uint8], /
    ) -> dict[int, str]:
        """Return the images that the decoder must not get: position → reason."""
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
            odd = self._dali and plain(image)
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
            kind, *header = parse(data) if self._dali else parse_header(data.data)
        except ValueError:
            return f"its header cannot be parsed as {encoding}"
        if kind != encoding:
            return f"it is a {kind} image, its catalog says {encoding}"
        law = f"its header says {header[0]} × {header[1]} pixels, its catalog {size[0]} × {size[1]}"
        if catalog.turn is not None and catalog.turn[sample] >= SIDEWAYS:
            size, law = size[::-1], f"{law}, turned on its side"
        return law if tuple(header) != size else None
