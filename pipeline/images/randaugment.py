"""RandAugment inside a DALI graph: N operations one after the other, each drawn uniformly, all of magnitude M.

Cubuk et al. 2020, "RandAugment: Practical automated data augmentation with a reduced search space". The operations and
the ranges of their magnitudes are those of `nvidia.dali.auto_aug` ("monotonic": a larger M is a stronger change), but
which one is taken, and the sign of its magnitude, are inputs of the graph: DALI's own generators have a state, and what
they draw is no function of the position. Translations reach 100/224 of the image's side at M = 30; what comes from
outside the image is gray (128).
"""

import warnings
from typing import Any

from nvidia.dali.auto_aug import rand_augment
from nvidia.dali.auto_aug.core import select, signed_bin

from drawstream.pipeline.images.transform import BINS

OPERATIONS = (
    "identity",
    "auto_contrast",
    "equalize",
    "rotate",
    "solarize",
    "posterize",
    "contrast",
    "brightness",
    "sharpness",
    "shear_x",
    "shear_y",
    "translate_x",
    "translate_y",
    "color",
)
"""By the number that is drawn; gray images do without the last one, as they have no colour."""


def operations(channels: int) -> tuple[str, ...]:
    """Names of the operations for images of 1 or 3 channels."""
    return OPERATIONS if channels == 3 else OPERATIONS[:-1]


def apply_operations(
    images: Any, numbers: Any, negative: Any, *, layers: int, magnitude: int, channels: int, size: tuple[int, int]
) -> Any:
    """Add the operators to a graph that is being built with conditionals; images are uint8 HWC of one size.

    `numbers` (index into `operations`) and `negative` (1 negates the magnitude) are int32 (layers,) per image.
    """
    suite = {operation.name: operation for operation in rand_augment.get_rand_augment_suite(use_shape=True)}
    chosen = [suite[name] for name in operations(channels)]
    signed = signed_bin(magnitude, negative)
    with warnings.catch_warnings(record=True):  # DALI 2.4's suite calls two operators by old names, and shows it always
        for layer in range(layers):
            images = select(
                chosen,
                numbers[layer],
                images,
                magnitude_bin=signed[layer],
                num_magnitude_bins=BINS,
                shape=size,
                fill_value=128,
            )
    return images
