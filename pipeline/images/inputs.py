"""Inputs of a DALI graph for a run: the images, and the values per image that are drawn or stored."""

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np
from numba import njit
from numpy.typing import NDArray

from drawstream.pipeline.decoding import SIDEWAYS, flips
from drawstream.pipeline.fields import Placement
from drawstream.pipeline.images.draws import (
    draw_flips,
    draw_holes,
    draw_jitter,
    draw_operations,
    draw_pad_offsets,
    draw_windows,
    pixel_windows,
)
from drawstream.pipeline.images.graph_spec import GraphSpec
from drawstream.pipeline.images.operations import operations
from drawstream.pipeline.images.placement import placement
from drawstream.pipeline.images.transform import FACTORS
from drawstream.pipeline.reading import Plan
from drawstream.pipeline.shards import Catalog

_u = np.uintp  # indices without a sign need no test for negative ones, so that rows are copied by vector instructions


@njit(cache=True, nogil=True)
def shift_and_mirror(
    images: NDArray[np.uint8], offsets: NDArray[np.int32], mirror: NDArray[np.int32], out: NDArray[np.uint8]
) -> None:
    """Fill `out` with crops of the images' own size: rows and columns from outside an image are zeros.

    Args:
        images: uint8 (n, H, W, C), contiguous.
        offsets: Corner (y, x) of the crop, pixels, negative ones too; (n, 2).
        mirror: 1 where a crop is turned left-right, (n,).
        out: As `images`.
    """
    n, height, width, channels = images.shape
    source, target = images.reshape(-1), out.reshape(-1)
    target[:] = 0
    for i in range(n):
        top, left = offsets[i, 0], offsets[i, 1]
        first, last = max(0, -left), min(width, width - left)  # columns of the crop that lie inside the image
        if first >= last:
            continue
        for y in range(max(0, -top), min(height, height - top)):
            a = _u(((i * height + y + top) * width + left + first) * channels)
            if mirror[i]:
                right = _u(((i * height + y) * width + width - 1 - first) * channels)
                for c in range(_u(channels)):
                    b, s = right + c, a + c
                    for _ in range(_u(last - first)):
                        target[b] = source[s]
                        b -= _u(channels)
                        s += _u(channels)
            else:
                b = _u(((i * height + y) * width + first) * channels)
                for x in range(_u((last - first) * channels)):
                    target[b + x] = source[a + x]


class Rows(Protocol):
    """Rows of a stream that are not simply the samples of the catalog: a feature table."""

    @property
    def sample_id(self) -> NDArray[np.int64]:
        """Row of the catalog, (rows,)."""

    @property
    def windows(self) -> NDArray[np.float32] | None:
        """Windows of crops, (y0, x0, y1, x1) in [0, 1], (rows, 4); None for whole images."""

    @property
    def flip(self) -> NDArray[np.bool_] | None:
        """True for mirrored crops, (rows,); None for whole images."""

    @property
    def fingerprint(self) -> str:
        """Hash of all of it."""

    def check(self, fingerprint: str, where: str, /) -> None:
        """Raise ValueError unless the rows belong to the catalog with this fingerprint."""


Spans = Sequence[tuple[int, int]]


class Inputs:
    """Makes the inputs of one kind of graph; each value is a pure function of (seed, epoch, position) or of the row."""

    def __init__(self, catalog: Catalog, spec: GraphSpec, rows: Rows | None, *, places: bool = False) -> None:
        self.catalog = catalog
        self._places = places  # whether it is told where points of images lie
        self._spec = spec
        self._rows = rows
        self._windows, self._flip = (None, None) if rows is None else (rows.windows, rows.flip)

    def samples(self, ids: NDArray[np.int64], /) -> NDArray[np.int64]:
        """Return the rows of the catalog behind rows of the stream, (n,) each."""
        return ids if self._rows is None else self._rows.sample_id[ids]

    def of(
        self,
        plan: Plan,
        spans: Spans,
        ids: NDArray[np.int64],
        data: NDArray[np.uint8],
        members: NDArray[np.int64],
        /,
        further: Mapping[str, Any] = MappingProxyType({}),
    ) -> tuple[tuple[Any, ...], Placement | None]:
        """Return the inputs for rows `ids` at the positions [a, b) of `spans`, in the order of `GraphSpec.inputs`.

        Image i is `data[members[i] : members[i + 1]]`; `further` are inputs that were read beside the images. With
        them comes where points of the stored images lie in the batch, if that was asked for.
        """
        spec, transform, samples = self._spec, self._spec.transform, self.samples(ids)

        def drawn(draw: Callable[..., NDArray[Any]], *options: Any) -> NDArray[Any]:
            return np.concatenate([draw(plan.seed, plan.epoch, a, b - a, *options) for a, b in spans])

        given = self._turns(samples)
        if spec.geometry == "pad":
            given["corner"] = drawn(draw_pad_offsets, transform.pad)
        elif spec.geometry == "window":
            windows = self._pixel_windows(plan, spans, ids, samples)
            given["corner"], given["shape"] = self._as_stored(windows, given, samples)
        if spec.mirror:
            coins = drawn(draw_flips) if self._flip is None else self._flip[ids]
            given["mirror"] = coins.astype(np.int32)
        if transform.randaugment is not None:
            layers = transform.randaugment[0]
            both = drawn(draw_operations, layers, len(operations(spec.channels, transform.suite)))
            given["operations"], given["negative"] = (np.ascontiguousarray(both[:, i]) for i in (0, 1))
            if transform.suite is not None:
                given["holes"] = drawn(draw_holes, layers)
        if transform.jitter is not None:
            factors = drawn(draw_jitter, transform.jitter)
            given |= {name: np.ascontiguousarray(column) for name, column in zip(FACTORS, factors.T, strict=True)}
        inputs = (self._images(data, members, given), *({**given, **further}[name] for name in spec.inputs))
        sides = self.catalog.height[samples], self.catalog.width[samples]
        return inputs, placement(spec, given, *sides) if self._places else None

    def _turns(self, samples: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
        """Return how each image is turned, int32 (n,) each; nothing if the graph turns none."""
        if not self._spec.turn:
            return {}
        assert self.catalog.turn is not None
        return {name: table[self.catalog.turn[samples]] for name, table in _TURNS.items()}

    def _as_stored(
        self, windows: NDArray[np.int32], turns: dict[str, NDArray[Any]], samples: NDArray[np.int64]
    ) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Return corners (y, x) and shapes (height, width) of windows in the stored images, int32 (n, 2) each."""
        corner, shape = windows[:, :2], windows[:, 2:]
        if turns:
            sizes = np.stack([self.catalog.height[samples], self.catalog.width[samples]], axis=1)
            opposite = np.stack([turns["turn_flip"], turns["turn_mirror"]], axis=1) == 1
            corner = np.where(opposite, sizes - corner - shape, corner)
            sideways = turns["sideways"][:, None] == 1
            corner, shape = (np.where(sideways, pair[:, ::-1], pair) for pair in (corner, shape))
        return np.ascontiguousarray(corner, np.int32), np.ascontiguousarray(shape, np.int32)

    def _images(self, data: NDArray[np.uint8], members: NDArray[np.int64], given: dict[str, NDArray[Any]]) -> Any:
        """Return encoded images as they are; raw ones as one array, cropped and mirrored if the graph does not."""
        spec, catalog = self._spec, self.catalog
        if not spec.raw:
            return [data[a:b] for a, b in pairwise(members.tolist())]
        images = data.reshape(-1, int(catalog.height[0]), int(catalog.width[0]), catalog.channels)
        if not spec.placed:
            return images
        n = len(images)
        out = np.empty_like(images)
        corner = given.get("corner", np.zeros((n, 2), np.int32))
        shift_and_mirror(images, corner, given.get("mirror", np.zeros(n, np.int32)), out)
        return out

    def _pixel_windows(
        self, plan: Plan, spans: Spans, ids: NDArray[np.int64], samples: NDArray[np.int64]
    ) -> NDArray[np.int32]:
        """Return windows (y, x, height, width) in images as they are turned, int32 (n, 4)."""
        heights, widths = self.catalog.height[samples], self.catalog.width[samples]
        if self._windows is not None:
            windows = self._windows[ids]
        else:
            law = {"scale": self._spec.transform.scale, "ratio": self._spec.transform.ratio}
            ends = np.cumsum([0, *(b - a for a, b in spans)])
            parts = zip(spans, pairwise(ends.tolist()), strict=True)
            windows = np.concatenate(
                [draw_windows(plan.seed, plan.epoch, a, heights[i:j], widths[i:j], **law) for (a, _), (i, j) in parts]
            )
        return pixel_windows(windows, heights, widths)


_TURNS = {  # by EXIF orientation
    "sideways": np.array([value >= SIDEWAYS for value in range(9)], np.int32),
    "turn_mirror": np.array([flips(value)[0] for value in range(9)], np.int32),
    "turn_flip": np.array([flips(value)[1] for value in range(9)], np.int32),
}
