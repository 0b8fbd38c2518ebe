"""Where the points of stored images lie in the batch: the geometry of the graph as one map for each image.

Notation: n images, stored as (H, W); a point is (y, x); the graph cuts a window, turns it, resizes it, cuts the batch's
size out of it, and mirrors.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from drawstream.pipeline.fields import Placement
from drawstream.pipeline.images.graph_spec import GraphSpec


def placement(
    spec: GraphSpec, given: dict[str, NDArray[Any]], heights: NDArray[np.int32], widths: NDArray[np.int32], /
) -> Placement:
    """Return the maps of n images from the inputs that the graph gets.

    Args:
        spec: Settings of the graph.
        given: Turns, corners, shapes and coins, (n, …) each.
        heights: int32 (n,), of the images as they are turned, pixels.
        widths: int32 (n,), the same.
    """
    n, size = len(heights), np.array(spec.transform.size, np.float64)
    swap = given["sideways"] == 1 if "sideways" in given else np.zeros(n, np.bool_)
    sides = np.stack([heights, widths], axis=1).astype(np.float64)  # of what is resized
    scale, shift = np.ones((n, 2)), np.zeros((n, 2))
    if spec.geometry == "window":
        shift = -_swapped(given["corner"].astype(np.float64), swap)
        sides = _swapped(given["shape"].astype(np.float64), swap)
    if "turn_flip" in given:
        around = np.stack([given["turn_flip"], given["turn_mirror"]], axis=1) == 1
        scale, shift = np.where(around, -scale, scale), np.where(around, sides - shift, shift)
    if spec.geometry == "center":  # the scale is that of the shorter side, around the middle
        factor = (spec.transform.resize / sides.min(1))[:, None]
        resized = np.floor(sides * factor + 0.5)
        begin = np.floor((resized - size + 1) / 2)
        scale, shift = scale * factor, (shift - sides / 2) * factor + resized / 2 - begin
    elif spec.resize:
        scale, shift = scale * (size / sides), shift * (size / sides)
    if spec.geometry == "pad":
        shift = shift - given["corner"]
    if spec.mirror:
        mirrored = np.stack([np.zeros(n, np.bool_), given["mirror"] == 1], axis=1)
        scale, shift = np.where(mirrored, -scale, scale), np.where(mirrored, size - shift, shift)
    return Placement(swap, scale, shift)


def _swapped(pairs: NDArray[np.float64], swap: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Pairs (n, 2), turned around where `swap` says so."""
    return np.where(swap[:, None], pairs[:, ::-1], pairs)
