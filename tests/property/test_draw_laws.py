"""Draws of the transform are pure functions of (seed, epoch, position)."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from drawstream.pipeline.images.draws import (
    draw_flips,
    draw_jitter,
    draw_operations,
    draw_pad_offsets,
    draw_windows,
    pixel_windows,
)

SEEDS = st.integers(0, 2**64 - 1)
EPOCHS = st.integers(0, 2**32)
STARTS = st.integers(0, 2**40)
LAW = {"scale": (0.08, 1.0), "ratio": (3 / 4, 4 / 3)}


@given(SEEDS, EPOCHS, STARTS, st.integers(1, 60), st.data())
def test_any_split_of_a_range_gives_the_same(seed, epoch, start, count, data):
    cut = data.draw(st.integers(0, count))
    heights, widths = (np.random.default_rng(count).integers(1, 600, (2, count))).astype(np.int32)

    def draws(a, b):
        i, j = a - start, b - start
        return (
            draw_flips(seed, epoch, a, b - a),
            draw_pad_offsets(seed, epoch, a, b - a, 4),
            draw_windows(seed, epoch, a, heights[i:j], widths[i:j], **LAW),
            draw_operations(seed, epoch, a, b - a, 3, 14),
            draw_jitter(seed, epoch, a, b - a, (0.4, 0.4, 0.4, 0.1)),
        )

    whole = draws(start, start + count)
    parts = zip(draws(start, start + cut), draws(start + cut, start + count), strict=True)
    for one, (left, right) in zip(whole, parts, strict=True):
        assert (one == np.concatenate([left, right])).all()


@given(SEEDS, EPOCHS, STARTS)
def test_other_keys_give_other_draws(seed, epoch, start):
    here = draw_flips(seed, epoch, start, 128)
    assert (here != draw_flips(seed, epoch + 1, start, 128)).any()
    assert (here != draw_flips(seed ^ 1, epoch, start, 128)).any()
    assert (here != draw_flips(seed, epoch, start + 1, 128)).any()
    if seed != epoch:
        assert (here != draw_flips(epoch, seed, start, 128)).any()


@given(
    SEEDS,
    STARTS,
    st.lists(st.tuples(st.integers(1, 5000), st.integers(1, 5000)), min_size=1, max_size=20),
    st.tuples(st.floats(0.01, 1), st.floats(0.01, 1)).map(sorted),
    st.tuples(st.floats(0.1, 10), st.floats(0.1, 10)).map(sorted),
)
def test_windows_lie_inside_and_hold_a_pixel(seed, start, sizes, scale, ratio):
    heights, widths = np.array(sizes, np.int32).T
    windows = draw_windows(seed, 0, start, heights, widths, scale=tuple(scale), ratio=tuple(ratio))
    assert windows.dtype == np.float32 and windows.min() >= 0 and windows.max() <= 1
    assert (windows[:, :2] < windows[:, 2:]).all()
    top, left, high, wide = pixel_windows(windows, heights, widths).T
    assert (top >= 0).all() and (left >= 0).all() and (high >= 1).all() and (wide >= 1).all()
    assert (top + high <= heights).all() and (left + wide <= widths).all()
