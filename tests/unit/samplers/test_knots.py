"""Monotone tables: exact where they can be, bounded and unsmeared where they cannot."""

import numpy as np
import pytest

from drawstream.samplers.swift.knots import MAX_KNOTS, Knots, cdf_table, mass_table

ROWS = 300_000


def exact_ranks(values):
    return np.searchsorted(np.sort(values), values, side="right") / values.size


@pytest.mark.parametrize("kind", ["smooth", "skewed", "atom", "pairs", "many ties"])
def test_cdf_of_large_tables_stays_within_one_knot(kind):
    rng = np.random.default_rng(1)
    values = {
        "smooth": lambda: rng.random(ROWS, np.float32),
        "skewed": lambda: rng.exponential(size=ROWS) ** 5,
        "atom": lambda: np.where(rng.random(ROWS) < 0.4, 0.5, rng.random(ROWS)),
        "pairs": lambda: np.repeat(rng.random(ROWS // 12), 12),
        "many ties": lambda: np.where(rng.random(ROWS) < 0.5, rng.integers(0, 50_000, ROWS) / 50_000, rng.random(ROWS)),
    }[kind]()
    table = cdf_table(values)
    assert table.x.size <= MAX_KNOTS
    assert np.abs(table.at(values) - exact_ranks(values)).max() <= 2 / MAX_KNOTS


def test_an_atom_keeps_its_jump():
    rng = np.random.default_rng(2)
    values = np.where(rng.random(ROWS) < 0.4, 0.5, rng.random(ROWS))
    below = values[values < 0.5].max()
    at = cdf_table(values).at(np.array([below, 0.5]))
    np.testing.assert_array_equal(at, [(values < 0.5).mean(), (values <= 0.5).mean()])


def test_up_to_max_knots_distinct_values_every_one_is_exact():
    values = np.random.default_rng(3).integers(0, 60_000, ROWS)
    np.testing.assert_array_equal(cdf_table(values.astype(np.float64)).at(values), exact_ranks(values))


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
    np.testing.assert_array_equal(positions, table.positions(values))
    np.testing.assert_array_equal(positions, np.searchsorted(table.x, values))
    assert np.abs(table.at(values) - exact).max() <= 1e-3
    error = np.abs(table.at(values) - exact)
    assert np.quantile(error, 0.99) <= 4 / MAX_KNOTS
    if kind in ("two values", "one value", "atom"):
        assert error[values == values[order[ROWS // 2]]].max() <= 1e-7


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
