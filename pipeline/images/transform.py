"""Transform of an image between its stored bytes and the batch. The random part is in `draws`."""

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self

BINS = 31  # magnitudes of RandAugment, 0..30, as in torchvision and DALI
FACTORS = ("brightness", "contrast", "saturation", "hue")


@dataclass(frozen=True, slots=True)
class Transform:
    """Steps applied to the images of a batch, in this order: crop, flip, RandAugment, jitter, normalisation.

    RandAugment of `suite="bt"` comes before crop and flip. The same values always mean the same pixels.

    Attributes:
        size: Height and width of the images in the batch, pixels.
        mean: Per channel, subtracted, in units of the stored 0..255; three values make gray images RGB.
        std: Per channel, divided by, in units of the stored 0..255.
        crop: `none` the whole image (resized to `size` if it has another); `pad` a random crop of the image padded by
            `pad` zeros on each side; `random` the random resized crop; `center` the centre of the image after its
            shorter side was resized to `resize`. Rows that carry windows override it: their window, resized to `size`.
        pad: Pixels of zeros on each side for `pad`; 4 is the CIFAR habit.
        flip: Mirror left-right with probability 1/2 (rows that carry a flip override it).
        scale: Area range of `random`, as parts of the image (Szegedy et al. 2015).
        ratio: Aspect range of `random`, width / height.
        resize: Shorter side for `center`, pixels.
        randaugment: Number of operations N and magnitude M in 0..30 of RandAugment (Cubuk et al. 2020): (2, 9) for
            ImageNet; (2, 4) for small images in budgeted training. None: off.
        suite: Operations and ranges of RandAugment: None those of `nvidia.dali.auto_aug`, after crop and flip; `bt`
            those of Arazo et al. 2021, about three times as strong at M = 4, before crop and flip, but after the cut of
            a window (`crop="random"`).
        jitter: Ranges of brightness, contrast, saturation and hue as in torchvision's ColorJitter: a factor is drawn in
            [max(0, 1 - r), 1 + r], the hue in [-r, r] turns. Gray images have no saturation and hue. None: off.
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
    randaugment: tuple[int, int] | None = None
    suite: Literal["bt"] | None = None
    jitter: tuple[float, float, float, float] | None = None

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
        self._check_randaugment(self.randaugment)
        self._check_jitter(self.jitter)

    def _check_randaugment(self, value: tuple[int, int] | None) -> None:
        if self.suite not in (None, "bt") or (self.suite and value is None):
            raise ValueError(
                f"`suite` must be None, or 'bt' beside `randaugment`, but got {self.suite!r} with {value}: "
                "give `randaugment=(2, 4)`, or leave out `suite`"
            )
        if value is None:
            return
        if len(value) != 2 or value[0] < 1 or not 0 <= value[1] < BINS:
            raise ValueError(f"`randaugment` must be (operations >= 1, magnitude in 0..{BINS - 1}), but got {value}")
        if self.crop == "center":
            raise ValueError("`randaugment` is for training, and `crop='center'` for evaluation: leave out one of them")

    def _check_jitter(self, value: tuple[float, float, float, float] | None) -> None:
        if value is None:
            return
        if len(value) != 4 or not all(0 <= v < math.inf for v in value) or value[3] > 0.5:
            raise ValueError(
                f"`jitter` must be ranges of brightness, contrast, saturation >= 0 and hue in [0, 0.5], but got {value}"
            )
        if len(self.mean) == 1 and (value[2] or value[3]):
            usable = ",".join(f"{v:g}" for v in value[:2])
            raise ValueError(f"gray images have no saturation and hue, but `jitter` is {value}: give {usable},0,0")

    @classmethod
    def small(cls, size: tuple[int, int], channels: int, *, augment: bool = False) -> Self:
        """Bring whole small images to about [-1, 1].

        Args:
            size: Height and width, pixels.
            channels: 1 (gray) or 3 (RGB).
            augment: Add a 4-pixel pad-crop and flips, for photographs.
        """
        half = (127.5,) * channels
        return cls(size, half, half, crop="pad" if augment else "none", flip=augment)

    @classmethod
    def large(cls, *, train: bool, size: int = 224, channels: int = 3) -> Self:
        """Follow ImageNet's recipe: random resized crop and flip for training, 256 → centre 224 for evaluation.

        Gray images are brought to about [-1, 1], for want of a customary mean.

        Args:
            train: Random resized crop and flip; else the centre, seven eighths of the shorter side.
            size: Height and width, pixels.
            channels: 1 (gray) or 3 (RGB).
        """
        mean, std = ((127.5,),) * 2 if channels == 1 else ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
        crop: Literal["random", "center"] = "random" if train else "center"
        return cls((size, size), mean, std, crop=crop, flip=train, resize=round(size * 8 / 7))

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as JSON gives them back (lists for tuples), without those that are off (None)."""
        fields = {key: value for key, value in asdict(self).items() if value is not None}
        return {key: list(value) if isinstance(value, tuple) else value for key, value in fields.items()}
