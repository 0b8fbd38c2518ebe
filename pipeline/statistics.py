"""Mean and standard deviation of the pixels of a catalog: what small images are normalised with."""

from typing import Any

import torch

from drawstream.pipeline.catalog import Catalog
from drawstream.pipeline.loader import Loader
from drawstream.pipeline.transform import Transform
from drawstream.samplers import IndexStream

ROWS = 10_000  # sampled rows: with 28×28 pixels each, the mean is known to about 0.2 of 255


def channel_statistics(
    catalog: Catalog, /, *, size: tuple[int, int], **reading: Any
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel over at most 10 000 rows, in units of the stored 0..255.

    Args:
        catalog: The training images.
        size: Height and width to which images of another size are brought first, pixels.
        reading: Keywords of `Loader` that say how it reads, such as `on_bad`.

    Returns:
        Means and standard deviations, rounded to 0.01; a constant channel gets the standard deviation 1.
    """
    zero, one = (0.0,) * catalog.channels, (1.0,) * catalog.channels
    stream = IndexStream(len(catalog), draws=min(len(catalog), ROWS))
    loader = Loader(catalog, stream, transform=Transform(size, zero, one), batch_size=256, **reading)
    total = torch.zeros(2, catalog.channels, dtype=torch.float64)
    pixels = 0
    for batch in loader:
        values = batch.images.double()
        total += torch.stack([values.sum((0, 2, 3)), values.square().sum((0, 2, 3))])
        pixels += values.shape[0] * values.shape[2] * values.shape[3]
    loader.close()
    mean, square = total / pixels
    std = (square - mean.square()).clamp_min(0).sqrt()
    std[std < 1e-3] = 1.0
    return tuple(round(m, 2) for m in mean.tolist()), tuple(round(max(s, 0.01), 2) for s in std.tolist())
