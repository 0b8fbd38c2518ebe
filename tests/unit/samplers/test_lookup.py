"""Lookups give the bits of the table they are made from."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from drawstream.samplers.swift.knots import Knots, cdf_table
from drawstream.samplers.swift.lookup import Lookup, as_bits, order_key

FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False, allow_subnormal=True)
NEAR = st.sampled_from([-1.0, -1e-45, -0.0, 0.0, 1e-45, 1.0, 1.0000001192092896])
VALUES = arrays(np.float32, st.integers(1, 60), elements=st.one_of(FINITE, NEAR))


@settings(max_examples=100, deadline=None)
@given(VALUES, VALUES)
def test_a_lookup_is_its_table(fitted, asked):
    table = cdf_table(fitted)
    lookup = Lookup(table)
    for values in (fitted, asked, np.nextafter(fitted, np.float32(0))):
        np.testing.assert_array_equal(lookup.positions(values), np.searchsorted(table.x, values))
        np.testing.assert_array_equal(lookup.at(values), table.at(values))


@settings(max_examples=100, deadline=None)
@given(FINITE, FINITE)
def test_keys_are_in_the_order_of_the_values(a, b):
    first, second = (order_key(int(as_bits(np.array([value], np.float32))[0])) for value in (a, b))
    assert (first < second) == (a < b) and (first == second) == (a == b)
    assert 0 <= first < 1 << 32


@pytest.mark.parametrize("seed", range(3))
def test_many_knots(seed):
    values = np.random.default_rng(seed).standard_cauchy(200_000).astype(np.float32)
    table = cdf_table(values)
    np.testing.assert_array_equal(Lookup(table).positions(values), table.positions(values))
    np.testing.assert_array_equal(Lookup(table).at(values * 1.5), table.at(values * np.float32(1.5)))


def test_knots_beyond_float32_are_refused():
    with pytest.raises(ValueError, match="knots must be float32 values"):
        Lookup(Knots(np.array([0.1]), np.array([1.0])))
