"""Transforms: what they refuse, and the laws of their draws."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import chisquare, kstest

from drawstream.pipeline.images import Transform
from drawstream.pipeline.images.draws import (
    draw_flips,
    draw_jitter,
    draw_operations,
    draw_pad_offsets,
    draw_windows,
    pixel_windows,
)

N = 20_000
LAW = {"scale": (0.08, 1.0), "ratio": (3 / 4, 4 / 3)}


def squares(n, height=400, width=400):
    return np.full(n, height, np.int32), np.full(n, width, np.int32)


def areas_and_aspects(windows, height, width):
    h, w = (windows[:, 2] - windows[:, 0]) * height, (windows[:, 3] - windows[:, 1]) * width
    return h * w / (height * width), w / h


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"size": (0, 28)}, "`size` must be two positive pixel counts"),
        ({"mean": (1.0,), "std": (1.0, 1.0)}, "one value per channel"),
        ({"mean": (1.0, 1.0), "std": (1.0, 1.0)}, "one value per channel"),
        ({"std": (0.0,)}, "`std > 0` must hold"),
        ({"crop": "middle"}, "`crop` must be none, pad, random or center, but got 'middle'"),
        ({"pad": -1}, "`pad >= 0` must hold, but got -1"),
        ({"scale": (0.0, 1.0)}, r"`scale` must be a range within \(0, 1\]"),
        ({"scale": (0.5, 1.2)}, "`scale` must be a range"),
        ({"ratio": (2.0, 1.0)}, "`ratio` must be a range of positive numbers"),
        ({"randaugment": (0, 9)}, r"`randaugment` must be \(operations >= 1, magnitude in 0..30\), but got \(0, 9\)"),
        ({"randaugment": (2, 31)}, "`randaugment` must be"),
        ({"randaugment": (2, 9), "crop": "center", "resize": 28}, "`randaugment` is for training"),
        ({"suite": "bt"}, "`suite` must be None, or 'bt' beside `randaugment`, but got 'bt' with None"),
        ({"suite": "dali", "randaugment": (2, 9)}, "`suite` must be None, or 'bt'"),
        ({"jitter": (0.4, 0.4, 0.4)}, "`jitter` must be ranges"),
        ({"jitter": (-0.1, 0.0, 0.0, 0.0)}, "`jitter` must be ranges"),
        ({"jitter": (math.nan, 0.0, 0.0, 0.0)}, "`jitter` must be ranges"),
        ({"jitter": (0.0, 0.0, 0.0, 0.6), "mean": (0.0,) * 3, "std": (1.0,) * 3}, r"hue in \[0, 0.5\]"),
        ({"jitter": (0.4, 0.4, 0.4, 0.0)}, "gray images have no saturation and hue: give 0"),
        ({"crop": "center", "resize": 20}, r"`resize >= max\(size\)` must hold for a centre crop, but got 20"),
    ],
)
def test_impossible_transforms_are_refused(change, text):
    with pytest.raises(ValueError, match=text):
        Transform(**({"size": (28, 28), "mean": (0.0,), "std": (1.0,)} | change))


def test_as_dict_survives_json():
    changed = replace(Transform.large(train=True), randaugment=(2, 9), jitter=(0.4, 0.4, 0.4, 0.1))
    for transform in (Transform.small((28, 28), 1, augment=True), Transform.large(train=True), changed):
        assert json.loads(json.dumps(transform.as_dict())) == transform.as_dict()
    assert changed.as_dict()["randaugment"] == [2, 9] and changed.as_dict()["jitter"] == [0.4, 0.4, 0.4, 0.1]


def test_as_dict_says_nothing_of_what_is_off():
    """So that loader states and features from before there was a RandAugment stay valid."""
    assert list(Transform.small((28, 28), 1).as_dict()) == [
        "size",
        "mean",
        "std",
        "crop",
        "pad",
        "flip",
        "scale",
        "ratio",
        "resize",
    ]


def test_large_gray_images_get_one_mean():
    assert len(Transform.large(train=False, channels=1).mean) == 1


def test_flips_are_fair_coins():
    coins = draw_flips(0, 0, 0, N)
    assert coins.dtype == bool and abs(coins.mean() - 0.5) < 4 * 0.5 / math.sqrt(N)
    pairs = np.bincount(coins[:-1] * 2 + coins[1:], minlength=4)  # neighbours do not depend on each other
    assert chisquare(pairs).pvalue > 1e-3


def test_pad_offsets_are_uniform():
    offsets = draw_pad_offsets(0, 0, 0, N, 4)
    assert offsets.shape == (N, 2) and offsets.min() == -4 and offsets.max() == 4
    cells = np.bincount((offsets[:, 0] + 4) * 9 + offsets[:, 1] + 4, minlength=81)
    assert chisquare(cells).pvalue > 1e-3
    assert (draw_pad_offsets(0, 0, 0, 100, 0) == 0).all()


def test_operations_and_signs_are_uniform_and_independent():
    drawn = draw_operations(0, 0, 0, N, 3, 14)
    assert drawn.shape == (N, 2, 3) and drawn.dtype == np.int32
    for layer in range(3):
        number, sign = drawn[:, 0, layer], drawn[:, 1, layer]
        assert chisquare(np.bincount(number * 2 + sign, minlength=28)).pvalue > 1e-3
    assert chisquare(np.bincount(drawn[:, 0, 0] * 14 + drawn[:, 0, 2], minlength=196)).pvalue > 1e-3


def test_factors_follow_torchvisions_laws():
    factors = draw_jitter(0, 0, 0, N, (0.4, 1.5, 0.0, 0.1))
    assert factors.dtype == np.float32 and (factors[:, 2] == 1).all()
    for column, low, width in ((0, 0.6, 0.8), (1, 0.0, 2.5), (3, -36.0, 72.0)):
        assert kstest(factors[:, column], "uniform", (low, width)).pvalue > 1e-3


def test_area_is_uniform_and_aspect_log_uniform_where_all_fits():
    law = {"scale": (0.1, 0.5), "ratio": (3 / 4, 4 / 3)}  # at most half of a square: the first draw always fits
    windows = draw_windows(0, 0, 0, *squares(N), **law)
    area, aspect = areas_and_aspects(windows.astype(float), 400, 400)
    assert kstest(area, "uniform", (0.1, 0.4)).pvalue > 1e-3
    assert kstest(np.log(aspect), "uniform", (math.log(3 / 4), 2 * math.log(4 / 3))).pvalue > 1e-3
    for first, length in (
        (windows[:, 0], windows[:, 2] - windows[:, 0]),
        (windows[:, 1], windows[:, 3] - windows[:, 1]),
    ):
        assert kstest(first / (1 - length), "uniform").pvalue > 1e-3  # the corner is uniform over what is left


@pytest.mark.parametrize(("height", "width"), [(400, 400), (333, 500), (100, 1000), (900, 60)])
def test_random_resized_crop_follows_the_plain_algorithm(height, width):
    """The same law by rejection, one image after the other, with another generator; means and spreads must agree."""
    rng = np.random.default_rng(0)
    expected = []
    for _ in range(4000):
        for _ in range(10):
            area = rng.uniform(*LAW["scale"]) * height * width
            aspect = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
            w, h = math.sqrt(area * aspect), math.sqrt(area / aspect)
            if w <= width and h <= height:
                break
        else:  # torchvision's fallback: the largest centred crop of an allowed aspect
            if width / height < 3 / 4:
                w, h = width, width / (3 / 4)
            elif width / height > 4 / 3:
                w, h = height * (4 / 3), height
            else:
                w, h = width, height
        expected.append((h * w / (height * width), w / h))
    windows = draw_windows(1, 2, 0, *squares(4000, height, width), **LAW).astype(float)
    found = areas_and_aspects(windows, height, width)
    for mine, theirs in zip(found, np.array(expected).T, strict=True):
        assert np.quantile(mine, [0.1, 0.5, 0.9]) == pytest.approx(np.quantile(theirs, [0.1, 0.5, 0.9]), rel=0.06)
        assert abs(mine.mean() - theirs.mean()) < 5 * theirs.std() / math.sqrt(2000)


def test_long_images_fall_back_to_the_centre():
    windows = draw_windows(0, 0, 0, *squares(200, 10, 1000), **LAW)
    centre = np.isclose(windows[:, 1] + windows[:, 3], 1, atol=1e-5) & (windows[:, 0] == 0) & (windows[:, 2] == 1)
    assert centre.mean() > 0.9
    _, aspect = areas_and_aspects(windows[centre].astype(float), 10, 1000)
    assert aspect == pytest.approx(4 / 3, rel=1e-3)


def test_pixel_windows_are_whole_pixels_inside_the_image():
    windows = np.array(
        [[0, 0, 1, 1], [0.1, 0.2, 0.7, 0.9], [0.5, 0.5, 0.5001, 0.5001], [0.9999999, 0, 1, 1]], np.float32
    )
    heights, widths = np.full(4, 120, np.int32), np.full(4, 160, np.int32)
    expected = [[0, 0, 120, 160], [12, 32, 72, 112], [60, 80, 1, 1], [119, 0, 1, 160]]
    assert pixel_windows(windows, heights, widths).tolist() == expected


def test_windows_on_pixel_edges_come_back_exactly():
    rng = np.random.default_rng(0)
    heights, widths = rng.integers(1, 5000, 5000).astype(np.int32), rng.integers(1, 5000, 5000).astype(np.int32)
    top, left = rng.integers(0, heights), rng.integers(0, widths)
    high, wide = rng.integers(1, heights - top + 1), rng.integers(1, widths - left + 1)
    windows = np.stack([top / heights, left / widths, (top + high) / heights, (left + wide) / widths], 1)
    found = pixel_windows(windows.astype(np.float32), heights, widths)
    assert (found == np.stack([top, left, high, wide], 1)).all()
