"""Boxes: read as they are stored, and moved to where their image lies in the batch.

Notation: k boxes; a box is (x0, y0, x1, y1) in pixels, of the stored image or of the batch's, whose pixel (0, 0) covers
[0, 1] × [0, 1]. A placement maps a point of the stored image to scale · point + shift, in (y, x) order, after x and y
changed places where ``swap`` says so.
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class Boxes(NamedTuple):
    """Boxes of one sample in the batch.

    Attributes:
        xyxy: float32 (k, 4), (x0, y0, x1, y1) in pixels of the batch's image, clipped to it; each has an area.
        kept: int64 (k,), which of the stored boxes these are: ``labels[kept]`` are their labels.
    """

    xyxy: Tensor
    kept: Tensor


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


def place_boxes(boxes: NDArray[np.float64], placement: Placement, row: int, size: tuple[int, int], /) -> Boxes:
    """Move the boxes of one sample to the batch.

    Args:
        boxes: float64 (k, 4), of the stored image.
        placement: Of all samples.
        row: Which of them.
        size: Height and width of the batch's images.
    """
    points = boxes.reshape(-1, 2, 2)  # (k, corner, (x, y))
    if not placement.swap[row]:
        points = points[:, :, ::-1]  # (y, x)
    moved = points * placement.scale[row] + placement.shift[row]
    low, high = moved.min(1).clip(0, size), moved.max(1).clip(0, size)
    found = np.concatenate([low[:, ::-1], high[:, ::-1]], axis=1).astype(np.float32)
    kept = np.flatnonzero((found[:, 2:] > found[:, :2]).all(1))
    return Boxes(torch.from_numpy(found[kept]), torch.from_numpy(kept))
