"""Monotone tables: exact where they can be, bounded and unsmeared where they cannot, the same of blocks."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from drawstream.samplers.swift.columns import columns_of
from drawstream.samplers.swift.knots import MAX_KNOTS, Knots, order_key
from drawstream.samplers.swift.mass import mass_table
from drawstream.samplers.swift.tables import cdf_of_pieces, cdf_table

ROWS = 300_000
TINY = float(np.float32(1e-45))
FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False, allow_subnormal=True)
NEAR = st.sampled_from([-1.0, -TINY, -0.0, 0.0, TINY, 1.0, 1.0000001192092896, 3.4028234663852886e38])
VALUES = st.one_of(arrays(np.float32, st.integers(1, 200), elements=each) for each in (FINITE, NEAR))
KINDS = {
    "smooth": lambda rng: rng.random(ROWS, np.float32),
    "skewed": lambda rng: rng.exponential(size=ROWS) ** 5,
    "log uniform": lambda rng: np.exp(rng.uniform(-90, 0, ROWS)),
    "few values": lambda rng: rng.integers(0, 50, ROWS) / 7,
    "60 000 values": lambda rng: rng.integers(0, 60_000, ROWS),
    "atom": lambda rng: np.where(rng.random(ROWS) < 0.4, 0.5, rng.random(ROWS)),
    "pairs": lambda rng: np.repeat(rng.random(ROWS // 12), 12),
    "many ties": lambda rng: np.where(rng.random(ROWS) < 0.5, rng.integers(0, 50_000, ROWS) / 5e4, rng.random(ROWS)),
    "one binade": lambda rng: 1 + rng.random(ROWS) / 128,
    "both signs of zero": lambda rng: np.where(rng.random(ROWS) < 0.5, -0.0, rng.standard_normal(ROWS)),
    "denormals": lambda rng: rng.integers(-200_000, 200_000, ROWS) * TINY,
}


def ranks(values):
    return np.searchsorted(np.sort(values), values, side="right") / values.size


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", KINDS)
def test_cdf_of_large_tables(kind, dtype):
    """Close at every row, with the jumps of atoms; and the same table of blocks in any order."""
    rng = np.random.default_rng(1)
    values = KINDS[kind](rng).astype(dtype)
    table, levels = cdf_table(values)
    assert table.x.size <= MAX_KNOTS
    np.testing.assert_array_equal(levels, table.at(values))
    assert np.abs(levels - ranks(values)).max() <= 1 / 32_768
    if kind == "few values":
        np.testing.assert_array_equal(levels, ranks(values))
    if dtype == np.float32:
        pieces = np.array_split(rng.permutation(values), 7)
        whole = cdf_of_pieces(lambda: pieces)
        np.testing.assert_array_equal(whole.x, table.x)
        np.testing.assert_array_equal(whole.counts, table.counts)


@given(VALUES)
@settings(max_examples=80, deadline=None)
def test_small_tables_are_exact(values):
    table, levels = cdf_table(values)
    np.testing.assert_array_equal(levels, ranks(values))
    np.testing.assert_array_equal(table.at(values), levels)


def test_rows_that_change_between_two_readings_are_refused():
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="every reading must give the same rows"):
        cdf_of_pieces(lambda: [rng.random(ROWS, np.float32)])


@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("kind", ["smooth", "concentrated", "atom", "two values", "one value"])
def test_mass_of_large_tables_without_a_sort(kind, weighted):
    rng = np.random.default_rng(4)
    values = {
        "smooth": lambda: rng.random(ROWS) - 0.5 * rng.random(ROWS),
        "concentrated": lambda: np.append(rng.standard_normal(ROWS - 2) * 0.01, [-1, 1]),
        "atom": lambda: np.where(rng.random(ROWS) < 0.4, 0.5, rng.random(ROWS)),
        "two values": lambda: rng.integers(0, 2, ROWS) / 3,
        "one value": lambda: np.full(ROWS, 0.25),
    }[kind]().astype(np.float32)
    mass = rng.gamma(0.3, size=ROWS) if weighted else None
    weights = np.ones(ROWS) if mass is None else mass
    order = np.argsort(values)
    ends = np.searchsorted(values[order], values, side="right")
    exact = np.cumsum(weights[order])[ends - 1] / weights.sum()
    table, positions = mass_table(values, mass)
    assert table.x.size <= MAX_KNOTS
    np.testing.assert_array_equal(positions, np.searchsorted(table.x, values))
    error = np.abs(table.at(values) - exact)
    assert error.max() <= 1e-3 and np.quantile(error, 0.99) <= 4 / MAX_KNOTS
    if kind in ("two values", "one value", "atom"):
        assert error[values == values[order[ROWS // 2]]].max() <= 1e-7


@given(FINITE, FINITE)
@settings(max_examples=100, deadline=None)
def test_keys_are_in_the_order_of_the_values(a, b):
    first, second = (int(order_key(np.float64(value).view(np.uint64))) for value in (a, b))
    assert (first < second) == (a < b) and (first == second) == (a == b)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("knots", [1, 2, 50_000])
def test_positions_of_many_values(knots, dtype):
    rng = np.random.default_rng(knots)
    x = np.unique(rng.standard_cauchy(knots).astype(dtype)).astype(np.float64)
    near = np.repeat(x, 3).astype(dtype)
    near[::3], near[1::3] = np.nextafter(near[::3], -np.inf), np.nextafter(near[1::3], np.inf)
    values = np.concatenate([near, rng.standard_cauchy(70_000).astype(dtype), np.array([0, -0.0, TINY, -TINY], dtype)])
    table = Knots(x, np.linspace(0, 1, x.size))
    np.testing.assert_array_equal(table.positions(values), np.searchsorted(x, values))


def test_levels_between_and_beyond_knots():
    table = Knots(np.array([0.0, 1.0, 3.0]), np.array([0.25, 0.5, 1.0]))
    np.testing.assert_array_equal(
        table.at(np.array([-9.0, 0.0, 0.5, 1.0, 2.0, 3.0, 9.0])), [0.25, 0.25, 0.375, 0.5, 0.75, 1, 1]
    )


@pytest.mark.parametrize(
    ("x", "y", "text"),
    [
        ([0.0, 0.0], [0.5, 1.0], "increase strictly"),
        ([0.0, 1.0], [1.0, 0.5], "must not decrease"),
        ([0.0, 1.0], [0.0, 1.5], r"in \[0, 1\]"),
        ([0.0], [0.5, 1.0], "as many knots as levels"),
        ([], [], "at least one"),
        ([0.0, np.nan], [0.5, 1.0], "finite"),
    ],
)
def test_a_table_refuses_what_is_no_monotone_function(x, y, text):
    with pytest.raises(ValueError, match=text):
        Knots(np.array(x), np.array(y))


def test_a_table_of_counts_needs_a_positive_total():
    with pytest.raises(ValueError, match="must be positive"):
        Knots.from_counts(np.array([1.0]), np.array([0]))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"f": None}, "no column 'f' in a block: it has g"),
        ({"f": np.zeros(3)}, r"must be float32 \(rows,\), but is float64"),
        ({"f": np.zeros((3, 1), np.float32)}, r"must be float32 \(rows,\), but is float32 \(3, 1\)"),
        ({"f": np.zeros(2, np.float32)}, "lengths are 'f' 2, 'g' 3"),
        ({"f": np.array([0, np.inf, 1], np.float32)}, "'f' must be finite, but row 1 is inf"),
    ],
)
def test_blocks_of_another_form_are_refused(change, text):
    block = {"f": np.zeros(3, np.float32), "g": np.zeros(3, np.float32)} | change
    with pytest.raises(ValueError, match=text):
        list(
            columns_of(lambda *_: [{name: values for name, values in block.items() if values is not None}], ["f", "g"])
        )
