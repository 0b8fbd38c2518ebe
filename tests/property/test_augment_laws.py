"""Laws of what changes images: pure draws of (seed, epoch, position), mixed batches that keep what they are made of."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from drawstream import RICAP, Mixup
from drawstream.pipeline.images import draw_flips, draw_windows, pixel_windows
from drawstream.pipeline.images.draws import draw_jitter, draw_operations, draw_pad_offsets
from drawstream.pipeline.images.inputs import shift_and_mirror

MIXERS = st.one_of(
    st.builds(Mixup, st.floats(0.01, 10), st.integers(0, 2**64)),
    st.builds(RICAP, st.floats(0.01, 10), st.integers(0, 99)),
)
KEYS = st.fixed_dictionaries(
    {"epoch": st.integers(0, 2**32), "step": st.integers(0, 2**40), "rank": st.integers(0, 2**16)}
)
SHAPES = st.tuples(st.integers(1, 9), st.integers(1, 3), st.integers(1, 12), st.integers(1, 12))


def batch(shape, seed=0):
    images = torch.rand(shape, generator=torch.Generator().manual_seed(seed))
    return images, torch.arange(shape[0])


@settings(deadline=None)  # the first call compiles
@given(
    st.tuples(st.integers(0, 5), st.integers(1, 9), st.integers(1, 9), st.sampled_from([1, 3])),
    st.integers(0, 12),
    st.integers(0, 2**32),
)
def test_shifted_images_are_crops_of_the_padded_ones(shape, pad, seed):
    rng = np.random.default_rng(seed)
    images = rng.integers(1, 256, shape, np.uint8)
    offsets = rng.integers(-pad, pad + 1, (shape[0], 2)).astype(np.int32)
    mirror = rng.integers(0, 2, shape[0]).astype(np.int32)
    out = np.full_like(images, 99)
    shift_and_mirror(images, offsets, mirror, out)
    padded = np.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    for i, (y, x) in enumerate(offsets + pad):
        crop = padded[i, y : y + shape[1], x : x + shape[2]]
        assert (out[i] == (crop[:, ::-1] if mirror[i] else crop)).all()


@given(MIXERS, KEYS, SHAPES)
def test_shares_sum_to_one_and_labels_are_of_the_batch(mixer, key, shape):
    images, labels = batch(shape)
    mixed = mixer(images, labels, **key)
    assert mixed.images.shape == images.shape and mixed.images.dtype == images.dtype
    assert mixed.labels.dtype == torch.int64 and mixed.shares.dtype == torch.float32
    assert mixed.labels.shape == mixed.shares.shape == (shape[0], 2 if isinstance(mixer, Mixup) else 4)
    assert (mixed.shares >= 0).all() and torch.allclose(mixed.shares.sum(1), torch.ones(shape[0]), atol=1e-6)
    assert (mixed.labels[:, 0] == labels).all()
    for column in mixed.labels.T:
        assert column.sort()[0].equal(labels)  # every image is somebody's partner once
    assert torch.allclose(mixed.soft_labels(shape[0]).sum(0), torch.ones(shape[0]), atol=1e-5)


@given(st.floats(0.01, 10), KEYS, SHAPES)
def test_mixup_keeps_the_mean_image_and_the_range(alpha, key, shape):
    images, labels = batch(shape)
    mixed = Mixup(alpha, seed=5)(images, labels, **key)
    assert torch.allclose(mixed.images.mean(0), images.mean(0), atol=1e-5)
    assert mixed.images.min() >= images.min() - 1e-6 and mixed.images.max() <= images.max() + 1e-6


@given(st.floats(0.01, 10), KEYS, SHAPES)
def test_ricap_moves_pixels_and_makes_none(beta, key, shape):
    images, labels = batch(shape)
    mixed = RICAP(beta, seed=5)(images, labels, **key)
    assert torch.isin(mixed.images, images).all()
    areas = mixed.shares[0].double() * shape[2] * shape[3]
    assert torch.allclose(areas, areas.round(), atol=1e-4) and int(areas.round().sum()) == shape[2] * shape[3]


@given(MIXERS, KEYS)
def test_a_batch_is_mixed_the_same_way_again(mixer, key):
    images, labels = batch((7, 1, 6, 6))
    torch.manual_seed(key["step"])  # torch's own generator has no part in it
    first, again = mixer(images, labels, **key), mixer(images.double(), labels, **key)
    assert torch.equal(first.labels, again.labels) and torch.equal(first.shares, again.shares)
    assert torch.allclose(first.images.double(), again.images, atol=1e-6)


@settings(max_examples=30)
@given(st.integers(0, 2**40), st.integers(0, 2**32), st.integers(0, 1000), st.integers(0, 100))
def test_other_keys_mix_in_other_ways(seed, epoch, step, rank):
    images, labels = batch((64, 1, 1, 1))
    here = Mixup(seed=seed)(images, labels, epoch=epoch, step=step, rank=rank).labels
    for other, key in [
        (seed, (epoch + 1, step, rank)),
        (seed, (epoch, step + 1, rank)),
        (seed, (epoch, step, rank + 1)),
        (seed + 1, (epoch, step, rank)),
    ]:
        there = Mixup(seed=other)(images, labels, **dict(zip(("epoch", "step", "rank"), key, strict=True)))
        assert not torch.equal(here, there.labels)


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
