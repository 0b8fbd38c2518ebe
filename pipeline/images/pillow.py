"""The graph without DALI: Pillow decodes, NumPy and Numba transform, image by image in threads.

It takes the inputs of the DALI graph and gives the same rows, windows and flips; pixels within rounding. So a catalog
can be trained on where DALI cannot be installed.
"""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from drawstream.pipeline.decoding import decode_levels, decode_window
from drawstream.pipeline.fields import NO_MASK
from drawstream.pipeline.images.graph_spec import GraphSpec
from drawstream.pipeline.images.pillow_operations import augment, jitter
from drawstream.pipeline.images.resampling import centre, nearest, nearest_shorter, normalize, resize, resize_shorter

_PARTS = 4  # of a run for each thread: images take different times


class _Run(NamedTuple):
    """Number of a run since the last `reset`, as DALI's `BatchInfo` says it."""

    iteration: int


class PillowGraph:
    """A graph that runs ahead in threads as a DALI pipeline does.

    Its outputs are images, float32 (n, C, H, W), and where there are masks int64 (n, H, W, 1).

    Args:
        source: Gets the number of a run, and gives one array or list of arrays per input, or raises StopIteration.
        spec: Settings.
        threads: Images that are decoded at once.
        gpu: Number of the GPU that batches are copied to; None for the CPU.
        prefetch: Runs that are begun ahead.
    """

    def __init__(
        self,
        source: Callable[[Any], tuple[Any, ...]],
        spec: GraphSpec,
        /,
        *,
        threads: int,
        gpu: int | None = None,
        prefetch: int = 2,
    ) -> None:
        self._device = torch.device("cpu" if gpu is None else f"cuda:{gpu}")
        self._source, self._spec, self._threads, self._prefetch = source, spec, threads, prefetch
        self._mean, self._std = (np.array(each, np.float32) for each in (spec.transform.mean, spec.transform.std))
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="drawstream-pillow")
        self._begun: deque[tuple[tuple[NDArray[Any], ...], list[Future[None]]]] = deque()
        self.reset()

    def reset(self) -> None:
        """Begin again with run 0, after the last one."""
        assert not self._begun
        self._next, self._ended = 0, False

    def run(self, _: Any = None) -> tuple[Tensor, ...]:
        """Return the next batch.

        Raises:
            StopIteration: The source has no more runs.
            RuntimeError: An image of this run does not decode; the next one can be asked for.
        """
        while not self._ended and len(self._begun) < self._prefetch:
            try:
                inputs = self._source(_Run(self._next))
            except StopIteration:
                self._ended = True
            else:
                self._begun.append(self._begin(inputs))
                self._next += 1
        if not self._begun:
            raise StopIteration
        outputs, parts = self._begun.popleft()
        wait(parts)  # all of them, for they read arrays that are used again
        for part in parts:
            part.result()
        return tuple(torch.from_numpy(output).to(self._device) for output in outputs)

    def _begin(self, inputs: tuple[Any, ...]) -> tuple[tuple[NDArray[Any], ...], list[Future[None]]]:
        spec, stored = self._spec, inputs[0]
        given = dict(zip(spec.inputs, inputs[1:], strict=True))
        images = np.empty((len(stored), spec.channels, *spec.transform.size), np.float32)
        masks = np.empty((len(stored) if spec.mask else 0, *spec.transform.size, 1), np.int64)
        size = -(-len(stored) // (_PARTS * self._threads))
        parts = [
            self._pool.submit(self._fill, stored, given, images, masks, slice(start, start + size))
            for start in range(0, len(stored), size)
        ]
        return (images, masks) if spec.mask else (images,), parts

    def _fill(
        self,
        stored: Any,
        given: dict[str, Any],
        images: NDArray[np.float32],
        masks: NDArray[np.int64],
        part: slice,
    ) -> None:
        """Fill a part of a batch."""
        for i in range(*part.indices(len(images))):
            image = stored[i]
            one = {name: values[i] for name, values in given.items()}
            try:
                mirror = bool(one.get("mirror", 0))
                pixels, mirror = _transformed(image, one, self._spec, mirror)
                if self._spec.mask:
                    masks[i] = _masked(one, self._spec)
            except ValueError as error:
                raise RuntimeError(f"image {i} of the run: {error}") from None
            normalize(np.ascontiguousarray(pixels), mirror, self._mean, self._std, images[i])


def _transformed(
    stored: NDArray[np.uint8], given: dict[str, Any], spec: GraphSpec, mirror: bool
) -> tuple[NDArray[np.uint8], bool]:
    """Return the pixels of an image before they are normalised, and whether they are still to be mirrored."""
    transform = spec.transform
    pixels = _resized(_upright(_decoded(stored, given, spec), given), spec)
    if spec.widen and (transform.randaugment or spec.factors):
        pixels = np.repeat(pixels, 3, axis=2)
    if transform.suite is not None:
        pixels = _cropped(augment(pixels, given, transform), given, spec)
    else:
        pixels = _cropped(pixels, given, spec)
        if transform.randaugment is not None:
            pixels, mirror = augment(pixels[:, ::-1] if mirror else pixels, given, transform), False
    if spec.factors:
        pixels = jitter(pixels, {name: float(given[name]) for name in spec.factors})
    return centre(pixels, transform.size), mirror


def _decoded(stored: NDArray[np.uint8], given: dict[str, Any], spec: GraphSpec) -> NDArray[np.uint8]:
    """Return the pixels of an image, or of its window, as stored."""
    window = _window(given, spec)
    if not spec.raw:
        return decode_window(stored.data, 3 if spec.channels == 3 and not spec.widen else 1, window)
    return stored if window is None else _cut(stored, window)


def _masked(given: dict[str, Any], spec: GraphSpec) -> NDArray[np.int64]:
    """Return the class numbers of a mask that follows its image, int64 (H, W, 1); resized to the nearest ones."""
    levels = decode_levels(given["mask"].data)
    window = _window(given, spec)
    levels = _upright(levels if window is None else _cut(levels, window), given)
    if spec.geometry == "center":
        levels = nearest_shorter(levels, spec.transform.resize)
    elif spec.resize:
        levels = nearest(levels, spec.transform.size)
    values: NDArray[np.int64] = centre(
        _cropped(levels.astype(np.int64) // given["mask_divisor"], given, spec, NO_MASK), spec.transform.size
    )
    return values[:, ::-1] if given.get("mirror", 0) else values


def _window(given: dict[str, Any], spec: GraphSpec) -> tuple[int, int, int, int] | None:
    """Return the window of an image as stored: top, left, height, width."""
    if spec.geometry != "window":
        return None
    (top, left), (height, width) = given["corner"].tolist(), given["shape"].tolist()
    return top, left, height, width


def _cut(pixels: NDArray[Any], window: tuple[int, int, int, int]) -> NDArray[Any]:
    top, left, height, width = window
    return pixels[top : top + height, left : left + width]


def _upright(pixels: NDArray[Any], given: dict[str, Any]) -> NDArray[Any]:
    if "sideways" not in given:
        return pixels
    pixels = pixels.swapaxes(0, 1) if given["sideways"] else pixels
    return pixels[:: -1 if given["turn_flip"] else 1, :: -1 if given["turn_mirror"] else 1]


def _resized(pixels: NDArray[np.uint8], spec: GraphSpec) -> NDArray[np.uint8]:
    if spec.geometry == "center":
        return resize_shorter(pixels, spec.transform.resize)
    return resize(pixels, spec.transform.size) if spec.resize else pixels


def _cropped(pixels: NDArray[Any], given: dict[str, Any], spec: GraphSpec, outside: int = 0) -> NDArray[Any]:
    """Cut an image of the size of the batch out of a padded one."""
    if spec.geometry != "pad" or "corner" not in given:
        return pixels
    pad = spec.transform.pad
    top, left = (given["corner"] + pad).tolist()
    height, width = spec.transform.size
    return np.pad(pixels, ((pad, pad), (pad, pad), (0, 0)), constant_values=outside)[
        top : top + height, left : left + width
    ]
