"""Settings of the graph that turns stored bytes into batches, whichever backend runs it."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from drawstream.pipeline.images.transform import FACTORS, Transform

Geometry = Literal["whole", "pad", "window", "center"]


@dataclass(frozen=True, slots=True)
class GraphSpec:
    """Settings that the graph needs before it is built."""

    transform: Transform  # sizes and normalisation
    geometry: Geometry  # of the cut
    mirror: bool  # each image by its own coin
    raw: bool  # images arrive as uint8 HWC pixels; else as encoded bytes
    resize: bool  # to `transform.size`, after the geometry
    channels: int  # of the batch: 1 (gray) or 3 (RGB; gray images have three equal channels)
    turn: bool = False  # encoded images, each by the orientation in the catalog
    widen: bool = False  # stored gray images to RGB
    mask: bool = False  # a second output, int64 (n, H, W): masks that follow their images

    @property
    def placed(self) -> bool:
        """True if images arrive cropped and mirrored: raw ones that keep their size and are moved at all.

        DALI would take longer for the inputs per image than for all the rest.
        """
        moved = self.geometry == "pad" or (self.geometry == "whole" and self.mirror)
        return self.raw and not self.resize and moved and self.transform.suite is None and not self.mask

    @property
    def factors(self) -> tuple[str, ...]:
        """The parameters of the colour jitter that vary."""
        ranges = self.transform.jitter or (0.0,) * len(FACTORS)
        return tuple(name for name, width in zip(FACTORS, ranges, strict=True) if width)

    @property
    def inputs(self) -> dict[str, tuple[type[np.generic], int]]:
        """Inputs per image, in the order in which they follow the images: dtype and number of dimensions."""
        found: dict[str, tuple[type[np.generic], int]] = {}
        if self.mask:
            found["mask"] = (np.uint8, 1)  # a gray PNG
            found["mask_divisor"] = (np.int32, 0)  # of its levels of 16 bits
        if self.turn:
            found["sideways"] = found["turn_mirror"] = found["turn_flip"] = (np.int32, 0)
        if not self.placed:
            if self.geometry in ("pad", "window"):
                found["corner"] = (np.int32, 1)  # (y, x), pixels
            if self.geometry == "window":
                found["shape"] = (np.int32, 1)  # (height, width), pixels
            if self.mirror:
                found["mirror"] = (np.int32, 0)
        if self.transform.randaugment:
            found["operations"] = found["negative"] = (np.int32, 1)  # one per layer
            if self.transform.suite is not None:
                found["holes"] = (np.float32, 2)  # (y, x) per layer, parts of the sides
        return found | dict.fromkeys(self.factors, (np.float32, 0))
