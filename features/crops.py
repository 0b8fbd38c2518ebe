"""Several random crops of each image, scored one by one and stored with their windows.

A crop is a pure function of (seed, sample, number of the crop): crop c of a sample is the same one however many are
drawn. Its law is that of the random resized crop, with the `scale` and `ratio` of the transform.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drawstream.pipeline import Catalog
from drawstream.pipeline.transform import Transform, draw_flips, draw_windows

_PURPOSE = int.from_bytes(b"crops")  # its own key: a training stream of the same seed draws other windows


@dataclass(frozen=True, slots=True)
class Crops:
    """Which crops to score.

    Attributes:
        count: Crops per sample, K.
        seed: Of windows and flips.
        flip: Mirror each crop left-right with probability 1/2; False where mirrored images have another meaning.
    """

    count: int
    seed: int = 0
    flip: bool = True

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError(f"`crops >= 1` must hold, but got {self.count}")
        if self.seed < 0:
            raise ValueError(f"`seed >= 0` must hold for crops, but got {self.seed}")

    @property
    def key(self) -> int:
        """Keys the draws."""
        return int(np.random.SeedSequence([self.seed, _PURPOSE]).generate_state(1, np.uint64)[0])


class CropRows:
    """The crops of a range of samples, as rows for a `Loader`: by sample, then by crop.

    A loader keeps its threads and its graph while the rows move on to another range; it must not be in a pass then.
    """

    def __init__(self, catalog: Catalog, transform: Transform, crops: Crops, /) -> None:
        self._catalog, self._transform, self._crops = catalog, transform, crops
        self.move(0, min(1, len(catalog)))

    def move(self, start: int, stop: int, /) -> None:
        """Draw the crops of samples [start, stop)."""
        n, k, key = stop - start, self._crops.count, self._crops.key
        heights, widths = self._catalog.height[start:stop], self._catalog.width[start:stop]
        law = {"scale": self._transform.scale, "ratio": self._transform.ratio}
        windows, flip = np.empty((n, k, 4), np.float32), np.zeros((n, k), np.bool_)
        for crop in range(k):
            windows[:, crop] = draw_windows(key, crop, start, heights, widths, **law)
            if self._crops.flip:
                flip[:, crop] = draw_flips(key, crop, start, n)
        self.sample_id = np.repeat(np.arange(start, stop, dtype=np.int64), k)
        self.crop = np.tile(np.arange(k, dtype=np.int32), n)
        self.windows = windows.reshape(n * k, 4)
        self.flip = flip.reshape(n * k)

    @property
    def fingerprint(self) -> str:
        """Says which crops these are."""
        return f"{self._catalog.fingerprint} {self._crops} {self._transform.scale} {self._transform.ratio}"

    def check(self, fingerprint: str, where: str, /) -> None:
        """They belong to the catalog that they were made for."""
        assert fingerprint == self._catalog.fingerprint, where

    def columns(self) -> dict[str, NDArray[Any]]:
        """What the feature table stores about them."""
        corners = {name: self.windows[:, i] for i, name in enumerate(("y0", "x0", "y1", "x1"))}
        return {"sample_id": self.sample_id, "crop": self.crop, **corners, "flip": self.flip}
