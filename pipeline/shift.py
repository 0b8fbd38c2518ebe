"""Crop of the zero-padded image and mirror, in the one copy that a raw image needs anyway.

For images of 28×28 DALI takes longer over the arguments of each image than over all the rest.
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray

_u = np.uintp  # indices without a sign need no test for negative ones, so that rows are copied by vector instructions


@njit(cache=True, nogil=True)
def shift_and_mirror(
    images: NDArray[np.uint8], offsets: NDArray[np.int32], mirror: NDArray[np.int32], out: NDArray[np.uint8]
) -> None:
    """Fill `out` with crops of the images' own size: rows and columns from outside an image are zeros.

    Args:
        images: uint8 (n, H, W, C), contiguous.
        offsets: Corner (y, x) of the crop, pixels, negative ones too; (n, 2).
        mirror: 1 where a crop is turned left-right, (n,).
        out: As `images`.
    """
    n, height, width, channels = images.shape
    source, target = images.reshape(-1), out.reshape(-1)
    target[:] = 0
    for i in range(n):
        top, left = offsets[i, 0], offsets[i, 1]
        first, last = max(0, -left), min(width, width - left)  # columns of the crop that lie inside the image
        if first >= last:
            continue
        for y in range(max(0, -top), min(height, height - top)):
            a = _u(((i * height + y + top) * width + left + first) * channels)
            if mirror[i]:
                right = _u(((i * height + y) * width + width - 1 - first) * channels)
                for c in range(_u(channels)):
                    b, s = right + c, a + c
                    for _ in range(_u(last - first)):
                        target[b] = source[s]
                        b -= _u(channels)
                        s += _u(channels)
            else:
                b = _u(((i * height + y) * width + first) * channels)
                for x in range(_u((last - first) * channels)):
                    target[b + x] = source[a + x]
