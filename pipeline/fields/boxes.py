"""Boxes: read as they are stored, and moved to where their image lies in the batch.

Notation: k boxes; a box is (x0, y0, x1, y1) in pixels, of the stored image or of the batch's, whose pixel (0, 0) covers
[0, 1] × [0, 1]. A placement maps a point of the stored image to scale · point + shift, in (y, x) order, after x and y
changed places where ``swap`` says so.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor


class Boxes(NamedTuple):
    """Boxes of one sample in the batch.

    Attributes:
        xyxy: float32 (k, 4), (x0, y0, x1, y1) in pixels of the batch's image, clipped to it; each has an area.
        kept: int64 (k,), which of the stored boxes these are: ``labels[kept]`` are their labels.
    """

    xyxy: "Tensor"
    kept: "Tensor"


class Placement(NamedTuple):
    """Where stored points lie in the batch, for n samples.

    Attributes:
        swap: bool (n,), whether x and y change places first.
        scale: float64 (n, 2), (y, x); negative where an image is turned around or mirrored.
        shift: float64 (n, 2), (y, x), pixels of the batch.
    """

    swap: NDArray[np.bool_]
    scale: NDArray[np.float64]
    shift: NDArray[np.float64]


def parse_boxes(value: Any, /) -> NDArray[np.float64]:
    """Return stored boxes as float64 (k, 4).

    Raises:
        ValueError: No finite numbers (k, 4), or a box whose sides are the wrong way round.
    """
    try:
        boxes = np.asarray(value, np.float64)
    except (TypeError, ValueError):
        boxes = np.zeros(1)  # is refused
    if boxes.size == 0:
        return np.empty((0, 4))
    if boxes.ndim != 2 or boxes.shape[1] != 4 or not np.isfinite(boxes).all():
        raise ValueError("must hold boxes, finite numbers (k, 4) as x0, y0, x1, y1")
    if (wrong := np.flatnonzero((boxes[:, 2:] < boxes[:, :2]).any(1))).size:
        law = "boxes must be x0, y0, x1, y1 with x0 <= x1 and y0 <= y1"
        raise ValueError(f"{law}, but box {wrong[0]} is {boxes[wrong[0]].tolist()}: is it x, y, width, height?")
    return boxes


def place_boxes(
    boxes: Sequence[NDArray[np.float64] | None], placement: Placement, size: tuple[int, int], /
) -> list[Boxes | None]:
    """Move the boxes of n samples to the batch; None stays None.

    Args:
        boxes: float64 (k, 4) each, of the stored image.
        placement: Of the n samples.
        size: Height and width of the batch's images.
    """
    import torch  # here: pack reads boxes without it

    counts = np.array([0 if each is None else len(each) for each in boxes], np.int64)
    rows = np.repeat(np.arange(len(boxes)), counts)
    stored = np.concatenate([np.empty((0, 4)), *(each for each in boxes if each is not None)])
    points = stored.reshape(-1, 2, 2)  # (boxes, corner, (x, y))
    points = np.where(placement.swap[rows, None, None], points, points[:, :, ::-1])  # (y, x)
    moved = points * placement.scale[rows, None] + placement.shift[rows, None]
    low, high = moved.min(1).clip(0, size), moved.max(1).clip(0, size)
    found = np.concatenate([low[:, ::-1], high[:, ::-1]], axis=1).astype(np.float32)
    left = (found[:, 2:] > found[:, :2]).all(1)
    numbers = np.arange(len(rows)) - (np.cumsum(counts) - counts)[rows]
    lengths = np.bincount(rows[left], minlength=len(boxes)).tolist()
    xyxy, kept = (torch.split(torch.from_numpy(each[left]), lengths) for each in (found, numbers))
    return [None if stored is None else Boxes(*part) for stored, *part in zip(boxes, xyxy, kept, strict=True)]
