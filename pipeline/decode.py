"""A second opinion on images that DALI refuses: it names no sample, Pillow does."""

import io

from PIL import Image

from drawstream.pipeline.feed import Prepared


def first_undecodable(batch: Prepared) -> int | None:
    """Row in the catalog of the first encoded image of a batch that Pillow cannot decode, or None."""
    for data, sample in zip(batch.inputs[0], batch.samples.tolist(), strict=True):
        try:
            with Image.open(io.BytesIO(data.tobytes())) as image:
                image.load()
        except (OSError, SyntaxError, ValueError):
            return int(sample)
    return None
