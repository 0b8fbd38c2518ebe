"""RandAugment's operations and the colour jitter in NumPy, for the Pillow backend: the laws of `randaugment` and DALI.

An image is uint8 (H, W, C); `amount` is the magnitude within the range of the operation, with its sign.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drawstream.pipeline.images.operations import HOLE, operations
from drawstream.pipeline.images.resampling import Image, rounded, warp
from drawstream.pipeline.images.transform import BINS, Transform

_GRAY = np.array([0.299, 0.587, 0.114])
_TO_YIQ = np.array([_GRAY, [0.596, -0.274, -0.321], [0.211, -0.523, 0.311]])
_FROM_YIQ = np.linalg.inv(_TO_YIQ)
_ENHANCE = (0.1, 1.9)
_RANGES: dict[str | None, dict[str, tuple[float, float]]] = {
    None: {
        **dict.fromkeys(("brightness", "contrast", "color", "sharpness"), (0.0, 0.9)),
        **dict.fromkeys(("translate_x", "translate_y"), (0.0, 100 / 224)),
        "rotate": (0.0, 30.0), "shear_x": (0.0, 0.3), "shear_y": (0.0, 0.3),
        "posterize": (8.0, 4.0), "solarize": (256.0, 0.0),
    },
    "bt": {
        **dict.fromkeys(("brightness", "contrast", "color", "sharpness"), _ENHANCE),
        **dict.fromkeys(("translate_x", "translate_y"), (0.0, 100.0)),
        "rotate": (0.0, 30.0), "shear_x": (0.0, 0.3), "shear_y": (0.0, 0.3),
        "posterize": (0.0, 4.0), "solarize": (0.0, 256.0), "solarize_add": (0.0, 110.0), "cutout": (0.0, 40.0),
    },
}  # fmt: skip
_SIGNED = ("rotate", "shear_x", "shear_y", "translate_x", "translate_y")  # of both suites
_ENHANCED = ("brightness", "contrast", "color", "sharpness")  # signed in the plain suite


def augment(image: Image, given: Mapping[str, Any], transform: Transform, /) -> Image:
    """Apply the operations of an image, one after the other; arguments as `randaugment.apply_operations`."""
    assert transform.randaugment is not None
    names = operations(image.shape[2], transform.suite)
    for layer in range(transform.randaugment[0]):
        name, negative = names[given["operations"][layer]], bool(given["negative"][layer])
        hole = given["holes"][layer] if transform.suite else None
        image = _apply(image, name, _amount(name, negative, transform), transform, hole)
    return image


def _amount(name: str, negative: bool, transform: Transform) -> float:
    """Magnitude of an operation within its range."""
    assert transform.randaugment is not None
    low, high = _RANGES[transform.suite].get(name, (0.0, 0.0))
    amount = low + (high - low) * transform.randaugment[1] / (BINS - 1)
    plain = transform.suite is None
    amount = -amount if negative and (name in _SIGNED or (plain and name in _ENHANCED)) else amount
    return 1 + amount if plain and name in _ENHANCED else amount


def _apply(image: Image, name: str, amount: float, transform: Transform, hole: Any) -> Image:
    match name:
        case "identity":
            return image
        case "invert":
            return 255 - image
        case "posterize":
            bits = round(amount) if transform.suite is None else int(amount)
            return image & np.uint8(256 - (1 << 8 - max(1, bits)))
        case "solarize":
            return np.where(image < amount, image, 255 - image)
        case "solarize_add":
            brighter = np.minimum(image.astype(np.int32) + int(amount), 255).astype(np.uint8)
            return np.where(brighter < 128, brighter, 255 - brighter)
        case "cutout":
            return _with_hole(image, amount, hole)
        case "auto_contrast" | "equalize":
            return np.stack([_LEVELS[name](image[..., c]) for c in range(image.shape[2])], axis=2)
        case "brightness" | "contrast" | "color" | "sharpness":
            return rounded(_CHANGES[name](image.astype(np.float32), amount))
    return _moved(image, name, amount, plain=transform.suite is None)


def _contrast(image: NDArray[np.float32], factor: float) -> NDArray[Any]:
    mean = image.mean((0, 1))
    centre = mean @ _GRAY if len(mean) == 3 else mean
    changed: NDArray[Any] = centre + (image - centre) * factor
    return changed


def _color(image: NDArray[np.float32], factor: float) -> NDArray[Any]:
    changed: NDArray[Any] = image @ (_FROM_YIQ @ np.diag([1, factor, factor]) @ _TO_YIQ).T
    return changed


def _sharpness(image: NDArray[np.float32], factor: float) -> NDArray[Any]:
    """Mix with a smoothed image; the border mirrors what is within it."""
    wide = np.pad(image, ((1, 1), (1, 1), (0, 0)), mode="reflect" if min(image.shape[:2]) > 1 else "edge")
    height, width = image.shape[:2]
    around = sum(wide[i : i + height, j : j + width] for i in range(3) for j in range(3))
    return factor * image - (factor - 1) * (around + 4 * image) / 13


_CHANGES = {
    "brightness": lambda image, factor: image * factor,
    "contrast": _contrast,
    "color": _color,
    "sharpness": _sharpness,
}


def _stretched(levels: NDArray[np.uint8]) -> Image:
    low, high = int(levels.min()), int(levels.max())
    return levels if low == high else rounded((levels.astype(np.float32) - low) * np.float32(255 / (high - low)))


def _equalized(levels: NDArray[np.uint8]) -> Image:
    """Follow OpenCV: level to (cumulative count - count of the lowest) · 255 / (pixels - count of the lowest)."""
    counts = np.bincount(levels.ravel(), minlength=256)
    lowest = counts[counts > 0][0]
    if lowest == levels.size:
        return levels
    table = np.rint((np.cumsum(counts) - lowest) * 255 / (levels.size - lowest))
    found: Image = table.clip(0, 255).astype(np.uint8)[levels]
    return found


_LEVELS = {"auto_contrast": _stretched, "equalize": _equalized}


def _with_hole(image: Image, side: float, hole: NDArray[np.float32]) -> Image:
    """Fill a square of ⌊side⌋ + 1 pixels around `hole`, parts of the sides."""
    image = image.copy()
    height, width = image.shape[:2]
    top, left = (
        math.floor(max(0.0, float(part) * length - side / 2))
        for part, length in zip(hole, (height, width), strict=True)
    )
    end = math.floor(side) + 1
    image[top : top + end, left : left + end] = HOLE[image.shape[2]]
    return image


def _moved(image: Image, name: str, amount: float, *, plain: bool) -> Image:
    """Rotate by degrees, shear, or translate; by a part of the side in the plain suite, by pixels in the other."""
    height, width = image.shape[:2]
    inverse = np.eye(3)
    if name == "rotate":
        turn = math.radians(amount)
        inverse[:2, :2] = [[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]]
        middle = np.array([width / 2, height / 2])
        inverse[:2, 2] = middle - inverse[:2, :2] @ middle
    else:
        where = {"shear_x": (0, 1), "shear_y": (1, 0), "translate_x": (0, 2), "translate_y": (1, 2)}[name]
        sides = {"translate_x": width, "translate_y": height} if plain else {}
        inverse[where] = -amount * sides.get(name, 1)  # the inverse of a shear or translation
    out = np.empty_like(image)
    warp(np.ascontiguousarray(image), np.ascontiguousarray(inverse[:2]), 128 if plain else 0, plain, out)
    return out


def jitter(image: Image, factors: Mapping[str, float], /) -> Image:
    """Change hue (degrees) and saturation in the plane of I and Q, then contrast around 128, then brightness."""
    levels = image.astype(np.float32)
    if image.shape[2] == 3 and ("saturation" in factors or "hue" in factors):
        turn, factor = math.radians(factors.get("hue", 0.0)), factors.get("saturation", 1.0)
        turned = np.array([[1, 0, 0], [0, math.cos(turn), math.sin(turn)], [0, -math.sin(turn), math.cos(turn)]])
        levels = levels @ (_FROM_YIQ @ turned @ np.diag([1, factor, factor]) @ _TO_YIQ).T.astype(np.float32)
    contrast, brightness = factors.get("contrast", 1.0), factors.get("brightness", 1.0)
    return rounded(brightness * (128 + contrast * (levels - 128)))
