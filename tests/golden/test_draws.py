"""Pinned augmentation draws. A change here changes the images of every saved run and every stored crop: never edit
the numbers to make the test pass; give the new law another name or format version instead."""

import numpy as np
import torch

from drawstream.pipeline.images.draws import (
    draw_flips,
    draw_holes,
    draw_jitter,
    draw_operations,
    draw_pad_offsets,
    draw_windows,
)
from drawstream.pipeline.images.mixing import RICAP, Mixup
from drawstream.pipeline.images.operations import BT_OPERATIONS, OPERATIONS

FLIPS = "01110010000010001101000011110011"
OFFSETS = [[-3, -2], [-2, -2], [0, 3], [0, -4]]
WINDOWS = [[0.107669, 0.193446, 0.844858, 0.802937], [0.0, 0.433333, 1.0, 0.566667]]
SUITE = (
    *("identity", "auto_contrast", "equalize", "rotate", "solarize", "posterize", "contrast", "brightness"),
    *("sharpness", "shear_x", "shear_y", "translate_x", "translate_y", "color"),
)
NUMBERS = [[[4, 0], [0, 1]], [[1, 10], [0, 1]], [[5, 1], [1, 0]]]
BT_SUITE = (
    *("auto_contrast", "equalize", "invert", "rotate", "posterize", "solarize", "solarize_add", "contrast"),
    *("brightness", "sharpness", "shear_x", "shear_y", "cutout", "translate_x", "translate_y", "color"),
)
HOLES = [[[0.2132, 0.25775], [0.65998, 0.03832]], [[0.29755, 0.20938], [0.19974, 0.60055]]]
FACTORS = [[1.26416, 0.9353, 1.39429, 4.38123], [0.93557, 1.18075, 1.1614, 2.54625]]
MIXUP = (0.760732, [5, 2, 1, 0, 4, 3])
AREAS = [9.0, 81.0, 1.0, 9.0]
PATCHES = [[2, 4, 3, 5, 0, 1], [4, 2, 0, 3, 1, 5], [4, 1, 3, 5, 0, 2]]


def test_flips():
    assert "".join(str(c) for c in draw_flips(7, 3, 1000, 32).astype(int)) == FLIPS


def test_pad_offsets():
    assert draw_pad_offsets(7, 3, 1000, 4, 4).tolist() == OFFSETS


def test_windows():
    size = np.array([333, 100], np.int32), np.array([500, 1000], np.int32)
    found = draw_windows(7, 3, 1000, *size, scale=(0.08, 1.0), ratio=(3 / 4, 4 / 3))
    assert np.round(found.astype(float), 6).tolist() == WINDOWS


def test_operations():
    assert OPERATIONS == SUITE
    assert draw_operations(7, 3, 1000, 3, 2, len(OPERATIONS)).tolist() == NUMBERS


def test_operations_of_budgeted_training():
    assert BT_OPERATIONS == BT_SUITE
    assert np.round(draw_holes(7, 3, 1000, 2, 2).astype(float), 5).tolist() == HOLES


def test_factors():
    assert np.round(draw_jitter(7, 3, 1000, 2, (0.4, 0.4, 0.4, 0.1)).astype(float), 5).tolist() == FACTORS


def test_mixed_batches():
    images, labels = torch.zeros(6, 1, 10, 10), torch.arange(6)
    mixup = Mixup(0.3, seed=7)(images, labels, epoch=3, step=1000, rank=2)
    assert round(float(mixup.shares[0, 0]), 6) == MIXUP[0] and mixup.labels[:, 1].tolist() == MIXUP[1]
    ricap = RICAP(0.3, seed=7)(images, labels, epoch=3, step=1000, rank=2)
    assert (ricap.shares[0] * 100).round().tolist() == AREAS and ricap.labels[:, 1:].T.tolist() == PATCHES
