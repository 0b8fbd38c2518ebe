"""The chance in a batch: crops, flips, operations and factors, each a pure function of (seed, epoch, position).

A draw is a Philox word: counter `position`, keyed by seed, epoch and purpose. So a loader that resumes at any batch,
with any world size, repeats the same images.

Notation: n positions; H, W stored size in pixels; a window is (y0, x0, y1, x1) in [0, 1], float32, relative to H, W.
"""

import numpy as np
from numpy.typing import NDArray

# Purposes: each has its own key, so that one draw never depends on another. 4 is the plan's, for bad samples; 7 and 8
# are those of `mixing`.
_FLIP, _PAD, _CROP, _OPERATION, _FACTOR, _HOLE = 1, 2, 3, 5, 6, 9
_ATTEMPTS = 10  # as in torchvision's RandomResizedCrop; then the centre crop nearest to the allowed aspect


def key(seed: int, epoch: int, purpose: int) -> NDArray[np.uint64]:
    """Return the Philox key of all draws for one purpose in one epoch, (2,)."""
    return np.random.SeedSequence([seed, epoch, purpose]).generate_state(2, np.uint64).astype(np.uint64, copy=False)


def to_unit(words: NDArray[np.uint64], /) -> NDArray[np.float64]:
    """Return random words as uniform numbers in [0, 1), of 53 bits each; same shape."""
    return (words >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _uniform(seed: int, epoch: int, purpose: int, start: int, count: int, blocks: int = 1) -> NDArray[np.float64]:
    """Return uniform numbers in [0, 1), (count, 4·blocks); row i depends on position `start + i` alone."""
    philox = np.random.Philox(key=key(seed, epoch, purpose), counter=start * blocks)
    return to_unit(philox.random_raw(4 * blocks * count)).reshape(count, 4 * blocks)


def draw_flips(seed: int, epoch: int, start: int, count: int) -> NDArray[np.bool_]:
    """Return fair coins for positions [start, start + count), (count,)."""
    return _uniform(seed, epoch, _FLIP, start, count)[:, 0] < 0.5


def draw_pad_offsets(seed: int, epoch: int, start: int, count: int, pad: int) -> NDArray[np.int32]:
    """Return offsets (y, x) of a crop of the padded image, uniform in [-pad, pad] pixels, (count, 2)."""
    return (np.floor(_uniform(seed, epoch, _PAD, start, count)[:, :2] * (2 * pad + 1)) - pad).astype(np.int32)


def draw_windows(
    seed: int,
    epoch: int,
    start: int,
    heights: NDArray[np.int32],
    widths: NDArray[np.int32],
    *,
    scale: tuple[float, float],
    ratio: tuple[float, float],
) -> NDArray[np.float32]:
    """Return windows of the random resized crop for consecutive positions, (n, 4).

    The area is uniform in `scale`, the aspect log-uniform in `ratio`; the first of ten draws that fits the image is
    taken, else the largest centred window of an allowed aspect (the law of torchvision's RandomResizedCrop, whose
    corner is uniform over pixels; here it is uniform over real positions).
    """
    n = len(heights)
    u = _uniform(seed, epoch, _CROP, start, n, blocks=_ATTEMPTS).reshape(n, _ATTEMPTS, 4)
    h, w = heights.astype(np.float64)[:, None], widths.astype(np.float64)[:, None]
    area = (scale[0] + u[:, :, 0] * (scale[1] - scale[0])) * h * w
    aspect = np.exp(np.log(ratio[0]) + u[:, :, 1] * (np.log(ratio[1]) - np.log(ratio[0])))
    crop_w, crop_h = np.sqrt(area * aspect), np.sqrt(area / aspect)
    fits = (crop_w <= w) & (crop_h <= h)
    first = np.argmax(fits, axis=1)
    row = np.arange(n)
    rel_h, rel_w = (crop_h / h)[row, first], (crop_w / w)[row, first]
    y0, x0 = u[row, first, 2] * (1 - rel_h), u[row, first, 3] * (1 - rel_w)
    none = ~fits.any(axis=1)
    if none.any():
        target = np.clip(w[none, 0] / h[none, 0], *ratio) * h[none, 0] / w[none, 0]  # relative width / relative height
        rel_w[none], rel_h[none] = np.minimum(1, target), np.minimum(1, 1 / target)
        y0[none], x0[none] = (1 - rel_h[none]) / 2, (1 - rel_w[none]) / 2
    windows = np.stack([y0, x0, y0 + rel_h, x0 + rel_w], axis=1)
    return windows.clip(0, 1).astype(np.float32)


def pixel_windows(
    windows: NDArray[np.float32], heights: NDArray[np.int32], widths: NDArray[np.int32], /
) -> NDArray[np.int32]:
    """Return windows in whole pixels, (n, 4): top, left, height, width.

    Edges go to the nearest pixel edge (halves to the even one), but a window always keeps one row and one column and
    lies within its image.
    """
    size = np.stack([heights, widths], axis=1).astype(np.int64)
    first = np.clip(np.rint(windows[:, :2].astype(np.float64) * size).astype(np.int64), 0, size - 1)
    last = np.clip(np.rint(windows[:, 2:].astype(np.float64) * size).astype(np.int64), first + 1, size)
    return np.concatenate([first, last - first], axis=1).astype(np.int32)


def draw_operations(seed: int, epoch: int, start: int, count: int, layers: int, choices: int) -> NDArray[np.int32]:
    """Return RandAugment's draws, (count, 2, layers): operation, uniform in [0, choices); sign (1: negative)."""
    u = _uniform(seed, epoch, _OPERATION, start, count, blocks=-(-layers // 2))[:, : 2 * layers]
    return np.stack([np.floor(u[:, ::2] * choices), u[:, 1::2] < 0.5], axis=1).astype(np.int32)


def draw_holes(seed: int, epoch: int, start: int, count: int, layers: int) -> NDArray[np.float32]:
    """Return centres (y, x) of the holes that cutout makes, uniform in [0, 1) of the sides, (count, layers, 2)."""
    u = _uniform(seed, epoch, _HOLE, start, count, blocks=-(-layers // 2))[:, : 2 * layers]
    return u.astype(np.float32).reshape(count, layers, 2)


def draw_jitter(
    seed: int, epoch: int, start: int, count: int, ranges: tuple[float, float, float, float]
) -> NDArray[np.float32]:
    """Return factors of brightness, contrast and saturation, and the turn of the hue in degrees, (count, 4).

    Torchvision's laws: factors uniform in [max(0, 1 - r), 1 + r], the turn uniform in [-r, r] full turns.
    """
    u, r = _uniform(seed, epoch, _FACTOR, start, count), np.array(ranges)
    low, high = np.maximum(0, 1 - r), 1 + r
    low[3], high[3] = -360 * r[3], 360 * r[3]
    factors: NDArray[np.float64] = low + u * (high - low)
    return factors.astype(np.float32)
