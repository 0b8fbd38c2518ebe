"""Check images with DALI's own parser before they go into a batch.

A header that claims 65 500 × 65 500 pixels makes DALI ask for 12 GB, and one that it cannot parse can end the process
(``dali_image``). So no image goes there that was not parsed here, alone, by the same library, and found to have the
size that its catalog says; some µs each, once for every image that has a checksum.
"""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

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
    gpu: int | None,
) -> list[int]:
    """Find the images of a run that the graph cannot take.

    Args:
        samples: Rows of the catalog, (n,).
        given: Inputs of the graph, in its order, n values each.
        spec: The graph.
        gpu: Number of the GPU where it runs; None: the CPU.

    Returns:
        Rows of the catalog, in the order of the run.
    """
    pipeline, bad = None, []
    plain = replace(spec, transform=replace(spec.transform, randaugment=None, jitter=None))  # they refuse no image
    inputs = given[: 1 + len(plain.inputs)]
    for i, sample in enumerate(samples.tolist()):
        image = tuple(values[i : i + 1] for values in inputs)
        pipeline = pipeline or _Single(plain, gpu)
        if not pipeline.takes(image):
            bad.append(sample)
            pipeline = None  # it is not to be trusted after an error
    return bad


class _Single:
    """A graph for one image at a time."""

    def __init__(self, spec: "GraphSpec", gpu: int | None) -> None:
        from drawstream.pipeline.images.graph import build_pipeline  # DALI, which verify can do without

        self._image: tuple[Any, ...] = ()
        self._pipeline = build_pipeline(lambda _: self._image, spec, run_size=1, gpu=gpu, threads=1, prefetch=1)

    def takes(self, image: tuple[Any, ...]) -> bool:
        self._image = image
        try:
            self._pipeline.run()
        except RuntimeError:
            return False
        return True


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
        self._parsed = np.zeros(len(catalog) if once else 0, np.bool_)
        self._odd = np.zeros(len(self._parsed), np.bool_)  # of the parsed: there is something to hide from DALI

    def refused(
        self, samples: NDArray[np.int64], bounds: NDArray[np.int64], data: NDArray[np.uint8], /
    ) -> dict[int, str]:
        """Which images DALI must not be given.

        Args:
            samples: Rows of the catalog, (n,).
            bounds: Image i is `data[bounds[i] : bounds[i + 1]]`, (n + 1,).
            data: Encoded images; raw ones have no headers and are passed over. They are made ``plain``.

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
            odd = plain(image)
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
        if catalog.turn is not None and catalog.turn[sample] >= SIDEWAYS:
            size, law = size[::-1], f"{law}, turned on its side"
        return law if tuple(header) != size else None
