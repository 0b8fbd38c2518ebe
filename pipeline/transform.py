"""What happens to an image between its stored bytes and the batch, and the draws that need chance.

Every draw is a pure function of (seed, epoch, position): Philox counter `position`, keyed by seed, epoch and purpose.
So a loader that resumes at any batch, with any world size, repeats the same crops and flips.

Notation: n positions; H, W stored size in pixels; a window is (y0, x0, y1, x1) in [0, 1], float32, relative to H, W.
"""

from dataclasses import asdict, dataclass
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

_FLIP, _PAD, _CROP = 1, 2, 3  # purposes: each has its own key, so that one draw never depends on another
_ATTEMPTS = 10  # as in torchvision's RandomResizedCrop; then the centre crop nearest to the allowed aspect


@dataclass(frozen=True, slots=True)
class Transform:
    """Geometry and normalisation of a batch; the same values always mean the same pixels.

    Attributes:
        size: Height and width of the images in the batch, pixels.
        mean: Per channel, subtracted, in units of the stored 0..255.
        std: Per channel, divided by, in units of the stored 0..255.
        crop: `none` the whole image (resized to `size` if it has another); `pad` a random crop of the image padded by
            `pad` zeros on each side; `random` the random resized crop; `center` the centre of the image after its
            shorter side was resized to `resize`. Rows that carry windows override it: their window, resized to `size`.
        pad: Pixels of zeros on each side for `pad`; 4 is the CIFAR habit.
        flip: Mirror left-right with probability 1/2 (rows that carry a flip override it).
        scale: Area range of `random`, as parts of the image (Szegedy et al. 2015).
        ratio: Aspect range of `random`, width / height.
        resize: Shorter side for `center`, pixels.
    """

    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop: Literal["none", "pad", "random", "center"] = "none"
    pad: int = 4
    flip: bool = False
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    resize: int = 256

    def __post_init__(self) -> None:
        if min(self.size) < 1:
            raise ValueError(f"`size` must be two positive pixel counts, but got {self.size}")
        if len(self.mean) != len(self.std) or len(self.mean) not in (1, 3):
            raise ValueError(f"`mean` and `std` need one value per channel (1 or 3), but got {self.mean}, {self.std}")
        if min(self.std) <= 0:
            raise ValueError(f"`std > 0` must hold, but got {self.std}")
        if self.crop not in ("none", "pad", "random", "center"):
            raise ValueError(f"`crop` must be none, pad, random or center, but got {self.crop!r}")
        if self.pad < 0:
            raise ValueError(f"`pad >= 0` must hold, but got {self.pad}")
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ValueError(f"`scale` must be a range within (0, 1], but got {self.scale}")
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise ValueError(f"`ratio` must be a range of positive numbers, but got {self.ratio}")
        if self.crop == "center" and self.resize < max(self.size):
            raise ValueError(f"`resize >= max(size)` must hold for a centre crop, but got {self.resize}, {self.size}")

    @classmethod
    def small(cls, size: tuple[int, int], channels: int, *, augment: bool = False) -> Self:
        """Whole small images to about [-1, 1]; with `augment` a 4-pixel pad-crop and flips (for photographs)."""
        half = (127.5,) * channels
        return cls(size, half, half, crop="pad" if augment else "none", flip=augment)

    @classmethod
    def large(cls, *, train: bool, size: int = 224, channels: int = 3) -> Self:
        """ImageNet's recipe: random resized crop and flip for training, 256 → centre 224 for evaluation.

        Gray images are brought to about [-1, 1], for want of a customary mean.
        """
        mean: tuple[float, ...] = (123.675, 116.28, 103.53)
        std: tuple[float, ...] = (58.395, 57.12, 57.375)
        if channels == 1:
            mean = std = (127.5,)
        crop: Literal["random", "center"] = "random" if train else "center"
        return cls((size, size), mean, std, crop=crop, flip=train, resize=round(size * 8 / 7))

    def as_dict(self) -> dict[str, Any]:
        """The fields as JSON gives them back (lists for tuples), for states and the provenance of features and runs."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}


def _words(seed: int, epoch: int, purpose: int, start: int, count: int, blocks: int = 1) -> NDArray[np.float64]:
    """Uniform numbers in [0, 1): shape (count, 4·blocks); row i depends on position `start + i` alone."""
    key = np.random.SeedSequence([seed, epoch, purpose]).generate_state(2, np.uint64)
    raw = np.random.Philox(key=key, counter=start * blocks).random_raw(4 * blocks * count)
    return (raw >> np.uint64(11)).astype(np.float64).reshape(count, 4 * blocks) * 2.0**-53


def draw_flips(seed: int, epoch: int, start: int, count: int) -> NDArray[np.bool_]:
    """Fair coins for positions [start, start + count), shape (count,)."""
    return _words(seed, epoch, _FLIP, start, count)[:, 0] < 0.5


def draw_pad_offsets(seed: int, epoch: int, start: int, count: int, pad: int) -> NDArray[np.int32]:
    """Offsets (y, x) of a crop of the padded image, uniform in [-pad, pad], pixels; shape (count, 2)."""
    return (np.floor(_words(seed, epoch, _PAD, start, count)[:, :2] * (2 * pad + 1)) - pad).astype(np.int32)


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
    """Windows of the random resized crop for consecutive positions, shape (n, 4).

    The area is uniform in `scale`, the aspect log-uniform in `ratio`; the first of ten draws that fits the image is
    taken, else the largest centred window of an allowed aspect (the law of torchvision's RandomResizedCrop, whose
    corner is uniform over pixels; here it is uniform over real positions).
    """
    n = len(heights)
    u = _words(seed, epoch, _CROP, start, n, blocks=_ATTEMPTS).reshape(n, _ATTEMPTS, 4)
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
    """Windows in whole pixels, shape (n, 4): top, left, height, width.

    Edges go to the nearest pixel edge (halves to the even one), but a window always keeps one row and one column and
    lies within its image. So what is cut depends on nothing but the stored window and the size of the image.
    """
    size = np.stack([heights, widths], axis=1).astype(np.int64)
    first = np.clip(np.rint(windows[:, :2].astype(np.float64) * size).astype(np.int64), 0, size - 1)
    last = np.clip(np.rint(windows[:, 2:].astype(np.float64) * size).astype(np.int64), first + 1, size)
    return np.concatenate([first, last - first], axis=1).astype(np.int32)
