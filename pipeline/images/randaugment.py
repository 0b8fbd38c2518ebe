"""RandAugment inside a DALI graph: N operations one after the other, each drawn uniformly, all of magnitude M.

Which operation is taken, the sign of its magnitude and the place of a hole are inputs of the graph: DALI's own
generators have a state, and what they draw is no function of the position. `operations` says what the suites are.
"""

import warnings
from typing import Any

import numpy as np
import nvidia.dali
from nvidia.dali.auto_aug import augmentations, rand_augment
from nvidia.dali.auto_aug.core import augmentation, select, signed_bin

from drawstream.pipeline.images.operations import HOLE, operations
from drawstream.pipeline.images.transform import BINS, Transform

fn: Any = nvidia.dali.fn
types: Any = nvidia.dali.types
math: Any = nvidia.dali.math


def apply_operations(images: Any, given: dict[str, Any], transform: Transform, *, channels: int) -> Any:
    """Add the operators of a transform to a graph that is being built with conditionals.

    Args:
        images: uint8 HWC, of the transform's size.
        given: Per image `operations` (index into `operations`) and `negative` (1 negates the magnitude), int32
            (layers,); for the suite `bt` also `holes`, centres (y, x) in [0, 1), float32 (layers, 2).
        transform: Its layers, magnitude, suite and size.
        channels: 1 or 3.
    """
    assert transform.randaugment is not None
    layers, magnitude = transform.randaugment
    plain = transform.suite is None
    suite = {
        each.name: each for each in (rand_augment.get_rand_augment_suite(use_shape=True) if plain else _bt_suite())
    }
    chosen = [suite[name] for name in operations(channels, transform.suite)]
    outside = {"fill_value": 128} if plain else {"fill_value": 0, "interp_type": types.INTERP_NN}
    signed = signed_bin(magnitude, given["negative"])
    with warnings.catch_warnings(record=True):  # DALI 2.4's suite calls two operators by old names, and shows it always
        for layer in range(layers):
            hole = {} if plain else {"hole": given["holes"][layer], "levels": HOLE[channels]}
            images = select(
                chosen,
                given["operations"][layer],
                images,
                magnitude_bin=signed[layer],
                num_magnitude_bins=BINS,
                shape=transform.size,
                **outside,
                **hole,
            )
    return images


def _bt_suite() -> list[Any]:
    """The operations of the suite `bt` with their ranges from M = 0 to 30."""
    a, enhance = augmentations, (0.1, 1.9)
    return [
        a.auto_contrast,
        a.equalize,
        a.invert,
        a.rotate.augmentation((0, 30), True),
        a.posterize.augmentation((0, 4), False, _kept_bits),
        a.solarize.augmentation((0, 256), False),
        augmentation(
            _solarize_add, mag_range=(0, 110), mag_to_param=np.int32, param_device="auto", name="solarize_add"
        ),
        a.contrast.augmentation(enhance, False, None),
        a.brightness.augmentation(enhance, False, None),
        a.sharpness.augmentation(enhance, False, a.sharpness_kernel_shifted),
        a.shear_x.augmentation((0, 0.3), True),
        a.shear_y.augmentation((0, 0.3), True),
        augmentation(_cutout, mag_range=(0, 40), mag_to_param=np.float32, name="cutout"),
        a.translate_x_no_shape.augmentation((0, 100), True),
        a.translate_y_no_shape.augmentation((0, 100), True),
        a.color.augmentation(enhance, False, None),
    ]


def _kept_bits(magnitude: float) -> Any:
    """Mask of the bits that posterize keeps: as many as the whole part of the magnitude, at least 1."""
    return np.uint8(256 - (1 << 8 - max(1, int(magnitude))))


def _solarize_add(images: Any, shift: Any) -> Any:
    """Brighter by `shift` levels, at most 255; then levels from 128 on are inverted."""
    brighter = fn.cast_like(math.clamp(images + shift, 0, 255), images)
    low = brighter < 128
    return low * brighter + (low ^ True) * (types.Constant(255, dtype=types.UINT8) - brighter)


def _cutout(images: Any, side: Any, hole: Any, shape: Any, levels: Any) -> Any:
    """A square of ⌊side⌋ + 1 pixels around `hole` (parts of the sides of `shape`), cut off by the image's border.

    Its upper left corner moves in from outside with the whole square, as in the authors' code.
    """
    corner = math.floor(math.max(hole * types.Constant(np.array(shape, np.float32)) - side / 2, 0.0))
    sides = math.floor(side) + types.Constant(np.ones(2, np.float32))
    return fn.erase(images, anchor=corner, shape=sides, axes=(0, 1), fill_value=levels)
