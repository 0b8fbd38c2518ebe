"""One contract for every mode of an index stream, and the laws of each."""

from itertools import count

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drawstream import IndexStream, Schedule, Sequential, write_schedule
from drawstream.testing import check_stream

MODES = ("permutation", "stratified", "multinomial", "subset", "schedule", "sequential")
DRAWN = ("stratified", "multinomial", "subset")
seeds = st.integers(0, 2**64 - 1)
epochs = st.integers(0, 2**40)
RECORDED = 4
FOLDER, NUMBERS = [], count()  # of recorded orders


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory):
    FOLDER.append(tmp_path_factory.mktemp("orders"))


@st.composite
def weight_arrays(draw, max_rows=300):
    """Weights of many shapes: uniform, skewed, sparse, one heavy row, of any scale."""
    rows = draw(st.integers(1, max_rows) | st.integers(1020, 1030) | st.integers(2000, 2100))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    weights = random.random(rows) ** draw(st.sampled_from([0, 1, 4, 30]))
    weights[random.random(rows) < draw(st.sampled_from([0.0, 0.5, 0.95]))] = 0
    weights[random.integers(rows)] = draw(st.sampled_from([1e-3, 1.0, 1e4]))
    return weights * draw(st.sampled_from([1.0, 1e-300, 1e250]))


@st.composite
def streams(draw, modes=MODES):
    """A stream of any mode, with its weights."""
    weights = draw(weight_arrays())
    mode = draw(st.sampled_from(modes))
    positive = int(np.count_nonzero(weights))
    draws = draw(st.integers(1, positive if mode == "subset" else 3 * weights.size))
    if mode == "sequential":
        return Sequential(draw(st.integers(0, weights.size - 1)), weights.size), np.ones(weights.size)
    if mode == "schedule":  # the recorded epochs are 0, 1, 2, …; `nth` brings any epoch into their range
        inner, weights = draw(streams(modes=("permutation", *DRAWN)))
        file = FOLDER[-1] / f"{next(NUMBERS)}.arrow"
        write_schedule(file, (inner.epoch(epoch) for epoch in range(RECORDED)), rows=inner.rows)
        return IndexStream(Schedule.open(file), seed=draw(seeds)), weights
    window = None if mode == "multinomial" else draw(st.sampled_from([None, 1024, 1500]))
    if mode == "permutation":
        return IndexStream(weights.size, seed=draw(seeds), draws=draws, window=window), np.ones(weights.size)
    return IndexStream(weights, mode=mode, seed=draw(seeds), draws=draws, window=window), weights


def nth(stream, epoch):
    """The epoch itself, or one of those that a schedule holds."""
    return epoch % RECORDED if stream.mode == "schedule" else epoch


@given(streams(), epochs, seeds)
@settings(max_examples=150, deadline=None)
def test_any_stream_keeps_the_contract(pair, epoch, seed):
    stream, weights = pair
    told = weights if stream.mode in ("permutation", "stratified", "multinomial") else None
    check_stream(stream, epochs=sorted({nth(stream, epoch + i) for i in range(2)}), weights=told, seed=seed)
    assert stream.rows == weights.size
    assert weights[stream.epoch(nth(stream, epoch))[:]].min() > 0


@given(weight_arrays(), seeds, epochs, st.integers(1, 4000))
@settings(max_examples=150, deadline=None)
def test_stratified_counts_are_floor_or_ceil(weights, seed, epoch, draws):
    rows = IndexStream(weights, seed=seed, draws=draws).epoch(epoch)[:]
    counts = np.bincount(rows, minlength=weights.size)
    share = draws * (weights / weights.max() / (weights / weights.max()).sum())
    assert np.all(counts >= np.floor(share))
    assert np.all(counts <= np.ceil(share))


@given(st.integers(1, 3000), st.floats(1e-300, 1e300), seeds, epochs)
@settings(max_examples=60, deadline=None)
def test_stratified_uniform_holds_every_row_once(rows, weight, seed, epoch):
    order = IndexStream(np.full(rows, weight), seed=seed).epoch(epoch)
    np.testing.assert_array_equal(np.sort(order[:]), np.arange(rows))
    assert set(order.weights(0, rows)) == {1.0}


@given(st.integers(1, 3000), seeds, epochs, st.integers(1, 3))
@settings(max_examples=60, deadline=None)
def test_permutation_holds_every_row_once_per_lap(rows, seed, epoch, laps):
    order = IndexStream(rows, seed=seed, draws=rows * laps).epoch(epoch)
    for lap in range(laps):
        np.testing.assert_array_equal(np.sort(order[lap * rows : (lap + 1) * rows]), np.arange(rows))


@given(streams(modes=("subset",)), epochs)
@settings(max_examples=60, deadline=None)
def test_subset_has_no_repeats(pair, epoch):
    stream, _ = pair
    rows = stream.epoch(epoch)[:]
    assert np.unique(rows).size == rows.size


@pytest.mark.parametrize("mode", ["permutation", "stratified", "multinomial", "subset"])
@given(st.lists(st.tuples(seeds, epochs), min_size=2, max_size=6, unique=True))
@settings(max_examples=30, deadline=None)
def test_no_two_pairs_of_seed_and_epoch_share_an_order(mode, pairs):
    pairs = [*pairs, *[pair for pair in [(0, 1), (1, 0)] if pair not in pairs]]
    rows = 500 if mode == "permutation" else np.arange(1.0, 501.0)
    orders = {tuple(IndexStream(rows, mode=mode, seed=seed, draws=200).epoch(epoch)[:]) for seed, epoch in pairs}
    assert len(orders) == len(pairs)


@given(streams(modes=DRAWN), epochs)
@settings(max_examples=60, deadline=None)
def test_weights_of_another_scale_give_the_same_stream(pair, epoch):
    stream, weights = pair
    scaled = weights * 4 if weights.max() < 1e200 else weights / 4
    twin = IndexStream(scaled, mode=stream.mode, seed=stream.seed, draws=stream.draws, window=stream.window or None)
    np.testing.assert_array_equal(twin.epoch(epoch)[:], stream.epoch(epoch)[:])
    assert twin.fingerprint == stream.fingerprint


@given(weight_arrays(), st.sampled_from(DRAWN), seeds, epochs)
@settings(max_examples=60, deadline=None)
def test_single_precision_weights_give_the_stream_of_the_same_numbers(weights, mode, seed, epoch):
    single = (weights / weights.max()).astype(np.float32)
    draws = int(np.count_nonzero(single)) if mode == "subset" else 2 * single.size
    near, far = (IndexStream(each, mode=mode, seed=seed, draws=draws) for each in (single, single.astype(np.float64)))
    np.testing.assert_array_equal(near.epoch(epoch)[:], far.epoch(epoch)[:])
    np.testing.assert_array_equal(near.epoch(epoch).weights(0, draws), far.epoch(epoch).weights(0, draws))
    assert near.fingerprint == far.fingerprint
