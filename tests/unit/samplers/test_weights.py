"""Integer widths, weights on disk and windows: the very draws of the plain stream."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import drawstream.samplers.orders.stratified_on_disk as paged_module
from drawstream.samplers.orders import IndexStream
from drawstream.samplers.orders.stratified_on_disk import StratifiedOnDisk
from drawstream.samplers.orders.window import arrange
from drawstream.samplers.weights import integer_widths
from shared.refusals import refused


def widths_of(weights, draws):
    out = np.empty(weights.size, dtype=np.int64)
    digits = integer_widths(weights, draws, out)
    return out, digits


@pytest.mark.parametrize("draws", [1, 7, 1000, 10**6, 10**9])
@pytest.mark.parametrize("power", [0, 1, 5, 40])
def test_sum_is_exact_and_no_integer_is_crossed(draws, power):
    weights = np.random.default_rng(draws + power).random(5000) ** power
    widths, digits = widths_of(weights, draws)
    assert int(widths.sum()) == draws << digits
    share = draws * (weights / weights.sum())
    unit = 2.0**-digits
    assert np.all(widths >= np.floor(share - 1e-9 * share) * 2.0**digits)
    assert np.all(widths <= np.ceil(share + 1e-9 * share) * 2.0**digits)
    np.testing.assert_allclose(widths * unit, share, rtol=1e-14, atol=10 * unit)


@pytest.mark.parametrize("scale", [1.0, 0.1, 1 / 3, 1e-320, 1e-300, 1e305])
def test_uniform_widths_are_equal(scale):
    for rows in (1, 3, 1000, 4097):
        widths, digits = widths_of(np.full(rows, scale), rows)
        assert set(widths) == {1 << digits}


def test_whole_shares_stay_whole():
    weights = np.array([1.0, 2.0, 0.0, 3.0]) / 6
    widths, digits = widths_of(weights, 6)
    np.testing.assert_array_equal(widths, np.array([1, 2, 0, 3]) << digits)


def test_residual_never_lifts_a_zero_row():
    weights = np.zeros(3001)
    weights[:3000:7] = np.random.default_rng(0).random(429)
    widths, _ = widths_of(weights, 12345)
    assert not widths[weights == 0].any()


def test_one_row_far_above_the_others():
    weights = np.full(1000, 1e-18)
    weights[500] = 1.0
    widths, digits = widths_of(weights, 1000)
    assert int(widths.sum()) == 1000 << digits
    assert widths[500] >= (1000 << digits) - 1000


def test_another_unit_is_tried_where_no_row_can_take_the_residual():
    """1000 rows lose 0.3 units each in rounding; of the two that could take them, one lacks a single unit to 1 draw."""
    unit = 2.0**-40
    weights = np.concatenate([np.full(1000, 1 + 0.3 * unit), [1 - unit, 2 - 299 * unit]])
    widths, digits = widths_of(weights, 1003)
    assert digits == 39
    assert int(widths.sum()) == 1003 << 39
    np.testing.assert_array_equal(widths[:1000], 1 << 39)


def on_disk(folder, weights):
    path = folder / "weights.npy"
    np.save(path, weights)
    return np.load(path, mmap_mode="r")


@given(
    st.integers(1, 3000) | st.sampled_from([128, 1024, 1536]),
    st.integers(1, 5000),
    st.sampled_from([0, 1, 8, 60]),
    st.sampled_from([np.float32, np.float64]),
    st.sampled_from([None, 1024]),
    st.integers(0, 2**63),
)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_order_and_weights_equal_those_in_memory(tmp_path, rows, draws, power, dtype, window, seed):
    random = np.random.default_rng(seed)
    weights = (random.random(rows) ** power).astype(dtype)
    weights[random.random(rows) < 0.3] = 0
    weights[random.integers(rows)] = 1
    mapped = on_disk(tmp_path, weights)
    paged = IndexStream(mapped, draws=draws, seed=seed, window=window)
    assert isinstance(paged._law, StratifiedOnDisk)
    held = IndexStream(weights, draws=draws, seed=seed, window=window)
    assert paged.fingerprint == held.fingerprint
    near, far = paged.epoch(2), held.epoch(2)
    np.testing.assert_array_equal(near[:], far[:])
    np.testing.assert_array_equal(near.weights(0, draws), far.weights(0, draws))
    half = draws // 2
    np.testing.assert_array_equal(near[half:], far[half:])


def test_the_unit_falls_as_in_memory(tmp_path):
    unit = 2.0**-40
    weights = np.concatenate([np.full(1000, 1 + 0.3 * unit), [1 - unit, 2 - 299 * unit]])
    paged = StratifiedOnDisk(on_disk(tmp_path, weights), 1003)
    assert paged.digits == 39
    near, far = IndexStream(on_disk(tmp_path, weights), draws=1003), IndexStream(weights, draws=1003)
    np.testing.assert_array_equal(near.epoch(0)[:], far.epoch(0)[:])


def test_fingerprint_sees_a_swap_within_a_page(tmp_path, monkeypatch):
    monkeypatch.setattr(paged_module, "_HASHED_PAGES", 2)
    weights = np.random.default_rng(0).random(3000)
    before = IndexStream(on_disk(tmp_path, weights)).fingerprint
    assert before == IndexStream(weights).fingerprint
    weights[[20, 21]] = weights[[21, 20]]
    assert IndexStream(on_disk(tmp_path, weights)).fingerprint != before


def test_memory_does_not_grow_with_rows(tmp_path):
    paged = IndexStream(on_disk(tmp_path, np.random.default_rng(0).random(400_000, dtype=np.float32)))
    assert paged.nbytes < 0.27 * 400_000


def test_other_modes_read_the_file_into_memory(tmp_path):
    weights = np.random.default_rng(0).random(700)
    for mode in ("multinomial", "subset"):
        near = IndexStream(on_disk(tmp_path, weights), mode=mode, draws=300)
        far = IndexStream(weights, mode=mode, draws=300)
        np.testing.assert_array_equal(near.epoch(1)[:], far.epoch(1)[:])
        assert near.fingerprint == far.fingerprint


@pytest.mark.parametrize(
    ("weights", "text"),
    [([1.0, np.nan], "row 1 is nan"), ([0.0, 0.0], "all 2 are 0"), ([1e-300, 1e-300], "must sum to 1e-280 … 1e\\+280")],
)
def test_bad_weights_on_disk(tmp_path, weights, text):
    refused(text, lambda: IndexStream(on_disk(tmp_path, np.array(weights))))
    refused(r"draws < 2\*\*61 must hold", lambda: IndexStream(on_disk(tmp_path, np.ones(3)), draws=1 << 61))


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
    refused("window >= 1024 must hold, but got 100", IndexStream, 5000, window=100)
    refused("draws independently and knows no window", IndexStream, 5000, mode="multinomial", window=2048)
