"""Kernels of the Pillow backend, by DALI's laws: resizing, warps, and the step from pixels to a normalised batch.

Notation: an image is uint8 (H, W, C), contiguous; pixel centres lie at halves. Resizing is linear, widened by the scale
where it shrinks (antialiasing); pixels beyond the border repeat it. All kernels release the GIL.
"""

import math
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

Image = NDArray[np.uint8]


def resize(image: Image, size: tuple[int, int], /) -> Image:
    """Return an image of another size (height, width), rounded to whole levels."""
    return _resample(image, size, image.shape[:2])


def resize_shorter(image: Image, side: int, /) -> Image:
    """Return an image whose shorter side has so many pixels; the longer one keeps the scale, cut around its middle."""
    scale = side / min(image.shape[:2])
    height, width = (math.floor(length * scale + 0.5) for length in image.shape[:2])
    return _resample(image, (height, width), (height / scale, width / scale))


def nearest(image: NDArray[Any], size: tuple[int, int], /) -> NDArray[Any]:
    """Return an image of another size, made of its nearest pixels."""
    rows, columns = ((2 * np.arange(to) + 1) * of // (2 * to) for of, to in zip(image.shape[:2], size, strict=True))
    found: NDArray[Any] = image[rows[:, None], columns]
    return found


def nearest_shorter(image: NDArray[Any], side: int, /) -> NDArray[Any]:
    """Return an image of the size of `resize_shorter`, made of its nearest pixels."""
    scale = side / min(image.shape[:2])
    places = []
    for length in image.shape[:2]:
        size = math.floor(length * scale + 0.5)
        at = (length - size / scale) / 2 + (np.arange(size) + 0.5) / scale
        places.append(np.floor(at).astype(np.int64).clip(0, length - 1))
    found: NDArray[Any] = image[places[0][:, None], places[1]]
    return found


def _resample(image: Image, size: tuple[int, int], region: tuple[float, float]) -> Image:
    """Bring a region around the middle, in pixels of the image, to a size."""
    taps = [_taps(*each) for each in zip(image.shape[:2], size, region, strict=True)]
    out = np.empty((*size, image.shape[2]), np.uint8)
    _weigh(np.ascontiguousarray(image), *taps[0], *taps[1], out)
    return out


def _taps(length: int, size: int, region: float) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return for each output pixel the input pixels that it is made of, and their weights, (size, taps)."""
    step = region / size
    radius = max(1.0, step)
    centre = (length - region) / 2 + (np.arange(size)[:, None] + 0.5) * step
    at = np.floor(centre - radius) + np.arange(math.ceil(2 * radius) + 1)
    weights = np.maximum(0, 1 - np.abs(at + 0.5 - centre) / radius)
    weights /= weights.sum(1, keepdims=True)
    return at.astype(np.int64).clip(0, length - 1), weights.astype(np.float32)


@njit(cache=True, nogil=True)
def _weigh(
    image: Image,
    rows: NDArray[np.int64],
    row_weights: NDArray[np.float32],
    columns: NDArray[np.int64],
    column_weights: NDArray[np.float32],
    out: Image,
) -> None:
    """Fill `out` (H', W', C): down the columns first, whose sums are computed by vector instructions."""
    _, width, channels = image.shape
    flat = image.reshape(image.shape[0], width * channels)
    line = np.empty(width * channels, np.float32)
    for y in range(out.shape[0]):
        line[:] = 0
        for t in range(rows.shape[1]):
            weight = row_weights[y, t]
            if weight != 0:
                source = flat[rows[y, t]]
                for x in range(line.size):
                    line[x] += weight * np.float32(source[x])
        for x in range(out.shape[1]):
            for c in range(channels):
                total = np.float32(0)
                for t in range(columns.shape[1]):
                    total += column_weights[x, t] * line[columns[x, t] * channels + c]
                out[y, x, c] = np.uint8(min(max(total, np.float32(0)), np.float32(255)) + np.float32(0.5))


@njit(cache=True, nogil=True)
def warp(image: Image, matrix: NDArray[np.float64], fill: int, linear: bool, out: Image) -> None:
    """Fill `out` with the image under a map of output to input positions, (2, 3); outside of it are `fill` levels.

    Linear between pixels, also towards the outside, or the nearest ones.
    """
    height, width, channels = image.shape
    for y in range(out.shape[0]):
        for x in range(out.shape[1]):
            u = matrix[0, 0] * (x + 0.5) + matrix[0, 1] * (y + 0.5) + matrix[0, 2]
            v = matrix[1, 0] * (x + 0.5) + matrix[1, 1] * (y + 0.5) + matrix[1, 2]
            if not linear:
                j, k = math.floor(v), math.floor(u)
                inside = 0 <= j < height and 0 <= k < width
                for c in range(channels):
                    out[y, x, c] = image[j, k, c] if inside else fill
                continue
            u, v = u - 0.5, v - 0.5
            j, k = math.floor(v), math.floor(u)
            b, a = v - j, u - k
            for c in range(channels):
                total = 0.0
                for dj in range(2):
                    for dk in range(2):
                        weight = (b if dj else 1 - b) * (a if dk else 1 - a)
                        inside = 0 <= j + dj < height and 0 <= k + dk < width
                        total += weight * (image[j + dj, k + dk, c] if inside else fill)
                out[y, x, c] = np.uint8(total + 0.5)


@njit(cache=True, nogil=True)
def normalize(
    image: Image, mirror: bool, mean: NDArray[np.float32], std: NDArray[np.float32], out: NDArray[np.float32]
) -> None:
    """Fill `out`, float32 (C, H, W), with (image - mean) / std, mirrored left-right or not.

    A gray image fills all channels.
    """
    height, width, channels = image.shape
    for c in range(out.shape[0]):
        source, factor = min(c, channels - 1), np.float32(1) / std[c]
        for y in range(height):
            for x in range(width):
                column = width - 1 - x if mirror else x
                out[c, y, x] = (np.float32(image[y, column, source]) - mean[c]) * factor


def centre(image: NDArray[Any], size: tuple[int, int], /) -> NDArray[Any]:
    """Cut the middle out of an image; a view."""
    top, left = ((length - side + 1) // 2 for length, side in zip(image.shape[:2], size, strict=True))
    return image[top : top + size[0], left : left + size[1]]


def rounded(levels: NDArray[Any], /) -> Image:
    """Round levels to uint8, halves up, held within 0 … 255."""
    whole: Image = np.floor(np.clip(levels, 0, 255) + 0.5).astype(np.uint8)
    return whole
