"""Weights on disk: the very order of the stream in memory."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import drawstream.samplers.orders.stratified_on_disk as paged_module
from drawstream.samplers.orders import IndexStream
from drawstream.samplers.orders.stratified_on_disk import StratifiedOnDisk


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
    [
        ([1.0, np.nan], "row 1 is nan"),
        ([0.0, 0.0], "all 2 are 0"),
        ([1e-300, 1e-300], "must sum to 1e-280 … 1e\\+280"),
    ],
)
def test_bad_weights_on_disk(tmp_path, weights, text):
    with pytest.raises(ValueError, match=text):
        IndexStream(on_disk(tmp_path, np.array(weights)))
    with pytest.raises(ValueError, match=r"draws < 2\*\*61 must hold"):
        IndexStream(on_disk(tmp_path, np.ones(3)), draws=1 << 61)
