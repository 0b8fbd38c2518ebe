"""Pinned augmentation draws. A change here changes the images of every saved run and every stored crop: never edit
the numbers to make the test pass; give the new law another name or format version instead."""

import numpy as np

from drawstream.pipeline.transform import draw_flips, draw_pad_offsets, draw_windows

FLIPS = "01110010000010001101000011110011"
OFFSETS = [[-3, -2], [-2, -2], [0, 3], [0, -4]]
WINDOWS = [[0.107669, 0.193446, 0.844858, 0.802937], [0.0, 0.433333, 1.0, 0.566667]]


def test_flips():
    assert "".join(str(c) for c in draw_flips(7, 3, 1000, 32).astype(int)) == FLIPS


def test_pad_offsets():
    assert draw_pad_offsets(7, 3, 1000, 4, 4).tolist() == OFFSETS


def test_windows():
    size = np.array([333, 100], np.int32), np.array([500, 1000], np.int32)
    found = draw_windows(7, 3, 1000, *size, scale=(0.08, 1.0), ratio=(3 / 4, 4 / 3))
    assert np.round(found.astype(float), 6).tolist() == WINDOWS
