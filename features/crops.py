"""Several random crops of each image, scored one by one and stored with their windows.

A crop is a pure function of (seed, sample, number of the crop): crop c of a sample is the same one however many are
drawn. Its law is that of the random resized crop, with the `scale` and `ratio` of the transform.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drawstream.pipeline.images import Transform, draw_flips, draw_windows
from drawstream.pipeline.shards import Catalog

_PURPOSE = int.from_bytes(b"crops")  # its own key: a training stream of the same seed draws other windows
_BLOCK = 1 << 14  # samples drawn at a time: 40 numbers each


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
    """The crops of all or some samples as rows for a `Loader`: by sample, then by crop; 25 bytes each, 2 M a second.

    Attributes:
        sample_id: Row of the catalog, int64 (rows,).
        windows: (y0, x0, y1, x1) in [0, 1], float32 (rows, 4).
        flip: Whether the crop is mirrored, bool (rows,).
    """

    def __init__(
        self, catalog: Catalog, transform: Transform, crops: Crops, /, *, kept: NDArray[np.int64] | None = None
    ) -> None:
        self._catalog, self._transform, self._crops = catalog, transform, crops
        n, k = len(catalog), crops.count
        windows, flip = np.empty((n, k, 4), np.float32), np.zeros((n, k), np.bool_)
        scale, ratio = transform.scale, transform.ratio
        for a in range(0, n, _BLOCK):
            b = min(a + _BLOCK, n)
            for crop in range(k):
                size = (catalog.height[a:b], catalog.width[a:b])
                windows[a:b, crop] = draw_windows(crops.key, crop, a, *size, scale=scale, ratio=ratio)
                if crops.flip:
                    flip[a:b, crop] = draw_flips(crops.key, crop, a, b - a)
        self.sample_id = np.repeat(np.arange(n, dtype=np.int64), k)
        self.windows = windows.reshape(n * k, 4)
        self.flip = flip.reshape(n * k)
        if kept is not None:
            rows = (kept[:, None] * k + np.arange(k)).ravel()
            self.sample_id, self.windows, self.flip = self.sample_id[rows], self.windows[rows], self.flip[rows]

    @property
    def fingerprint(self) -> str:
        """Says which crops these are."""
        return f"{self._catalog.fingerprint} {self._crops} {self._transform.scale} {self._transform.ratio}"

    def check(self, fingerprint: str, where: str, /) -> None:
        """They belong to the catalog that they were made for."""
        assert fingerprint == self._catalog.fingerprint, where

    def columns(self, start: int, stop: int, /) -> dict[str, NDArray[Any]]:
        """Return the columns that the feature table stores for rows [start, stop)."""
        k = self._crops.count
        corners = {name: self.windows[start:stop, i] for i, name in enumerate(("y0", "x0", "y1", "x1"))}
        crop = (np.arange(start, stop) % k).astype(np.int32)
        return {"sample_id": self.sample_id[start:stop], "crop": crop, **corners, "flip": self.flip[start:stop]}
