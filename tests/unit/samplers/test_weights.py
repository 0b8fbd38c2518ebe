"""Integer widths: exact sum, floor and ceil kept, scale and size extremes."""

import numpy as np
import pytest

from drawstream.samplers.weights import integer_widths


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
