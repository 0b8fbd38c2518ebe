"""The window option: the draws of the plain stream, from few places at a time."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drawstream.samplers.orders import IndexStream
from drawstream.samplers.orders.window import arrange


@given(st.integers(1, 30_000), st.integers(1024, 20_000), st.integers(0, 2**64 - 1), st.integers(0, 2**40), st.data())
@settings(max_examples=60, deadline=None)
def test_every_slot_once_and_any_slice_of_the_whole(size, window, seed, epoch, data):
    places = arrange(size, window, seed, epoch)
    whole = np.empty(size, dtype=np.int64)
    places.fill(0, whole)
    np.testing.assert_array_equal(np.sort(whole), np.arange(size))
    start = data.draw(st.integers(0, size - 1))
    part = np.empty(data.draw(st.integers(0, size - start)), dtype=np.int64)
    places.fill(start, part)
    np.testing.assert_array_equal(part, whole[start : start + part.size])


@pytest.mark.parametrize("mode", ["stratified", "subset"])
def test_draws_are_those_without_a_window(mode):
    weights = np.random.default_rng(0).random(40_000)
    plain, near = (IndexStream(weights, mode=mode, draws=20_000, window=w, seed=3) for w in (None, 2048))
    np.testing.assert_array_equal(np.sort(plain.epoch(2)[:]), np.sort(near.epoch(2)[:]))
    assert plain.fingerprint != near.fingerprint
    assert list(near.epoch(2)[:50]) != list(near.epoch(3)[:50])


@pytest.mark.parametrize("mode", ["permutation", "stratified", "subset"])
def test_few_shards_at_a_time(mode):
    rows = 400_000 if mode == "permutation" else np.random.default_rng(0).random(400_000) + 0.5
    order = IndexStream(rows, mode=mode, draws=200_000, window=32_768).epoch(0)
    shards = [np.unique(order[at : at + 2048] // 4000).size for at in range(0, 190_000, 10_000)]
    assert max(shards) <= 2 * 2 * 16 + 2  # two windows of 16 runs, each run in two shards at most
    assert np.mean(shards) < 45
    plain = IndexStream(rows, mode=mode, draws=200_000).epoch(0)
    assert np.unique(plain[:2048] // 4000).size == 100


def test_a_window_as_long_as_the_epoch_is_no_window():
    np.testing.assert_array_equal(IndexStream(1500, window=1500).epoch(0)[:], IndexStream(1500).epoch(0)[:])


def test_bad_windows():
    with pytest.raises(ValueError, match="window >= 1024 must hold, but got 100"):
        IndexStream(5000, window=100)
    with pytest.raises(ValueError, match="draws independently and knows no window"):
        IndexStream(5000, mode="multinomial", window=2048)
