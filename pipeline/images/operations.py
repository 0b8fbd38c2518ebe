"""RandAugment's operations by name: what is drawn is an index into these lists, and the levels of holes.

Cubuk et al. 2020, "RandAugment: Practical automated data augmentation with a reduced search space". There are two
suites of operations:

None    those of `nvidia.dali.auto_aug` ("monotonic": a larger M is a stronger change). Translations reach 100/224 of
        the image's side at M = 30; what comes from outside the image is gray (128), linear between pixels
"bt"    the 16 of Arazo et al. ("How Important is Importance Sampling for Deep Budgeted Training?", BMVC 2021) as in
        their code. Ranges are AutoAugment's: brightness, colour, contrast and sharpness go from 0.1 to 1.9 times, so
        that M = 15 changes nothing; `posterize` keeps 0 to 4 bits, at least 1; the threshold of `solarize` goes from 0
        to 256. Translations reach 100 pixels, however small the image; `cutout` makes a gray hole of up to 40;
        `solarize_add` makes all levels brighter by up to 110, then inverts those from 128 on. What comes from outside
        is black (0), pixels are the nearest ones
"""

from typing import Literal

Suite = Literal["bt"] | None

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

BT_OPERATIONS = (
    "auto_contrast",
    "equalize",
    "invert",
    "rotate",
    "posterize",
    "solarize",
    "solarize_add",
    "contrast",
    "brightness",
    "sharpness",
    "shear_x",
    "shear_y",
    "cutout",
    "translate_x",
    "translate_y",
    "color",
)
"""Those of the suite `bt`, in the same way."""

HOLE = {3: [125, 123, 114], 1: [123]}  # levels of the holes that cutout makes, by channels


def operations(channels: int, suite: Suite = None) -> tuple[str, ...]:
    """Names of the operations of a suite for images of 1 or 3 channels."""
    names = OPERATIONS if suite is None else BT_OPERATIONS
    return names if channels == 3 else names[:-1]
