"""One contract for every mode of an index stream, and the laws of each."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drawstream.samplers import IndexStream, Sequential
from drawstream.samplers.schedule import Schedule, write_schedule

MODES = ("permutation", "stratified", "multinomial", "subset", "schedule", "sequential")
DRAWN = ("stratified", "multinomial", "subset")
seeds = st.integers(0, 2**64 - 1)
epochs = st.integers(0, 2**40)
RECORDED = 4


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
        with tempfile.TemporaryDirectory() as folder:  # a mapped file lives on when its name goes
            file = Path(folder) / "orders.arrow"
            write_schedule(file, (inner.epoch(epoch) for epoch in range(RECORDED)), rows=inner.rows)
            return IndexStream(Schedule.open(file), seed=draw(seeds)), weights
    window = None if mode == "multinomial" else draw(st.sampled_from([None, 1024, 1500]))
    if mode == "permutation":
        return IndexStream(weights.size, seed=draw(seeds), draws=draws, window=window), np.ones(weights.size)
    return IndexStream(weights, mode=mode, seed=draw(seeds), draws=draws, window=window), weights


def nth(stream, epoch):
    """The epoch itself, or one of those that a schedule holds."""
    return epoch % RECORDED if stream.mode == "schedule" else epoch


@given(streams(), epochs, st.data())
@settings(max_examples=150, deadline=None)
def test_any_slice_is_that_slice_of_the_whole(pair, epoch, data):
    stream, _ = pair
    order = stream.epoch(nth(stream, epoch))
    whole, weights = order[:], order.weights(0, len(order))
    assert len(order) == whole.size == stream.draws
    start = data.draw(st.integers(0, stream.draws))
    stop = data.draw(st.integers(start, stream.draws))
    np.testing.assert_array_equal(order[start:stop], whole[start:stop])
    np.testing.assert_array_equal(order.weights(start, stop), weights[start:stop])
    at = data.draw(st.integers(0, stream.draws - 1))
    assert order[at] == whole[at]


@given(streams(), epochs)
@settings(max_examples=100, deadline=None)
def test_rows_are_in_range_and_never_of_weight_zero(pair, epoch):
    stream, weights = pair
    order = stream.epoch(nth(stream, epoch))
    rows = order[:]
    assert rows.min() >= 0
    assert rows.max() < stream.rows == weights.size
    assert weights[rows].min() > 0
    assert np.isfinite(order.weights(0, len(order))).all()


@given(streams(), epochs, st.integers(1, 64), st.integers(1, 40))
@settings(max_examples=60, deadline=None)
def test_ranks_are_disjoint_equal_and_complete(pair, epoch, world_size, per_rank):
    stream, _ = pair
    epoch = nth(stream, epoch)
    size = world_size * per_rank
    steps = -(-stream.draws // size)
    parts = [
        [stream.batch(epoch, step, global_batch=size, rank=rank, world_size=world_size) for rank in range(world_size)]
        for step in range(steps)
    ]
    np.testing.assert_array_equal(np.concatenate([row for step in parts for row in step]), stream.epoch(epoch)[:])
    for step in parts[: stream.draws // size]:
        assert {part.size for part in step} == {per_rank}
    lengths = [part.size for part in parts[-1]]
    assert max(lengths) - min(lengths) <= 1


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


@given(streams(), epochs)
@settings(max_examples=60, deadline=None)
def test_a_stream_built_again_is_the_same_stream(pair, epoch):
    stream, weights = pair
    epoch = nth(stream, epoch)
    expected = stream.epoch(epoch)[:]
    for later in (1, 2, 3):
        stream.epoch(nth(stream, epoch + later))[:1]
    np.testing.assert_array_equal(stream.epoch(epoch)[:], expected)
    if stream.mode in DRAWN:
        scaled = weights * 4 if weights.max() < 1e200 else weights / 4
        twin = IndexStream(scaled, mode=stream.mode, seed=stream.seed, draws=stream.draws, window=stream.window or None)
        np.testing.assert_array_equal(twin.epoch(epoch)[:], expected)


@given(weight_arrays(), st.sampled_from(DRAWN), seeds, epochs)
@settings(max_examples=60, deadline=None)
def test_single_precision_weights_give_the_stream_of_the_same_numbers(weights, mode, seed, epoch):
    single = (weights / weights.max()).astype(np.float32)
    draws = int(np.count_nonzero(single)) if mode == "subset" else 2 * single.size
    near, far = (IndexStream(each, mode=mode, seed=seed, draws=draws) for each in (single, single.astype(np.float64)))
    np.testing.assert_array_equal(near.epoch(epoch)[:], far.epoch(epoch)[:])
    np.testing.assert_array_equal(near.epoch(epoch).weights(0, draws), far.epoch(epoch).weights(0, draws))
    assert near.fingerprint == far.fingerprint
