"""Tables of rows that are never in memory at once equal those of all rows, knot for knot."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from drawstream.samplers.swift import histogram
from drawstream.samplers.swift.histogram import BINS, cdf_tables, count_bins
from drawstream.samplers.swift.knots import MAX_KNOTS, cdf_table

TINY = np.float32(1e-45)
FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False, allow_subnormal=True)
TIED = st.sampled_from([-1.0, -float(TINY), -0.0, 0.0, float(TINY), 1.0, 1.0000001192092896, 3.4028234663852886e38])
VALUES = st.one_of(arrays(np.float32, st.integers(1, 200), elements=each) for each in (FINITE, TIED))
BUDGETS = st.sampled_from([1, 100, 300_000, histogram.MEMORY])


def split(values, cuts, order=None):
    """Blocks of columns `f`, cut anywhere, in any order."""
    pieces = np.split(values, sorted(cut % (values.size + 1) for cut in cuts))
    pieces = [pieces[i] for i in order.permutation(len(pieces))] if order else pieces
    return lambda *names: (dict.fromkeys(names, piece) for piece in pieces)


def same(table, expected):
    np.testing.assert_array_equal(table.x, expected.x)
    np.testing.assert_array_equal(table.counts, expected.counts)
    np.testing.assert_array_equal(table.y, expected.y)


@settings(max_examples=80, deadline=None)
@given(VALUES, st.lists(st.integers(0, 200), max_size=5), st.integers(0, 99), BUDGETS)
def test_any_split_in_any_order_gives_the_ranks_of_a_sort(values, cuts, seed, memory):
    rows, (table,) = cdf_tables(split(values, cuts, np.random.default_rng(seed)), ["f"], memory=memory)
    assert rows == values.size
    same(table, cdf_table(values))
    ranks = np.searchsorted(np.sort(values), values, side="right") / values.size
    np.testing.assert_array_equal(table.at(values), ranks)


@settings(max_examples=40, deadline=None)
@given(VALUES, VALUES, VALUES)
def test_counts_of_blocks_add_up_in_any_order(a, b, c):
    whole = count_bins(np.concatenate([a, b, c]))
    for order in ((a, b, c), (c, a, b), (b, c, a)):
        parts = [count_bins(values)[0] for values in order]
        np.testing.assert_array_equal(parts[0] + (parts[1] + parts[2]), whole[0])
        np.testing.assert_array_equal((parts[0] + parts[1]) + parts[2], whole[0])
    assert whole[1] == 0 and whole[0].sum() == a.size + b.size + c.size


@settings(max_examples=40, deadline=None)
@given(VALUES)
def test_bins_follow_the_order_of_the_values(values):
    ordered = np.sort(values)
    places = [int(np.flatnonzero(count_bins(ordered[i : i + 1])[0])[0]) for i in range(ordered.size)]
    assert places == sorted(places)


ROWS = 400_000
KINDS = {
    "normal": lambda rng: rng.standard_normal(ROWS),
    "losses": lambda rng: rng.gamma(0.5, size=ROWS),
    "log uniform": lambda rng: np.exp(rng.uniform(-90, 0, ROWS)),
    "few values": lambda rng: rng.integers(0, 50, ROWS) / 7,
    "just too many values": lambda rng: rng.integers(0, MAX_KNOTS + 1, ROWS) / 7,
    "atom": lambda rng: np.where(rng.random(ROWS) < 0.4, 0.5, rng.random(ROWS)),
    "many atoms": lambda rng: np.where(
        rng.random(ROWS) < 0.6, rng.integers(0, 30_000, ROWS), rng.random(ROWS) * 30_000
    ),
    "one binade": lambda rng: 1 + rng.random(ROWS) / 128,
    "both signs of zero": lambda rng: np.where(rng.random(ROWS) < 0.5, -0.0, rng.standard_normal(ROWS)),
    "denormals": lambda rng: rng.integers(-300_000, 300_000, ROWS) * float(TINY),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("memory", [1 << 20, histogram.MEMORY], ids=["many windows", "one window"])
def test_large_tables_equal_those_in_memory(kind, memory):
    values = KINDS[kind](np.random.default_rng(1)).astype(np.float32)
    rows, tables = cdf_tables(split(values, range(0, ROWS, 70_001)), ["f", "g"], memory=memory)
    expected = cdf_table(values)
    assert rows == ROWS
    for table in tables:
        same(table, expected)


def test_windows_keep_their_budget_and_hold_every_bin():
    counts = np.zeros(BINS, np.int64)
    counts[[3, 10, 11, 500, 65_535]] = [1, 200_000, 5, 4_000_000_000, 7]
    for memory in (1, 300_000, 600_000, 1 << 30):
        spans = histogram._windows(counts, memory)
        assert [low for low, _ in spans[1:]] == [high for _, high in spans[:-1]]
        assert spans[0][0] == 0 and spans[-1][1] == BINS
        for low, high in spans:
            cost = np.minimum(2 * counts[low:high], 4 * BINS)
            assert cost.sum() <= memory or np.count_nonzero(cost) == 1


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused_by_its_row(bad):
    values = np.ones(10, np.float32)
    values[[6, 8]] = bad
    with pytest.raises(ValueError, match=rf"column 'f' must be finite, but row 6 is {bad} \(1 such in its block\)"):
        cdf_tables(split(values, [5, 7]), ["f"])


def test_blocks_must_stay_as_they_are():
    readings = iter([[1.0, 2.0, 3.0], [1.0, 2.0, 2.0]])
    with pytest.raises(ValueError, match="every reading must give the same rows, but they changed"):
        cdf_tables(lambda *_: [{"f": np.array(next(readings), np.float32)}], ["f"])


@pytest.mark.parametrize(
    ("block", "text"),
    [
        ({"g": np.ones(1, np.float32)}, "no column 'f' in a block: it has g"),
        ({"f": np.ones(1), "g": np.ones(1, np.float32)}, r"'f' of a block must be float32 \(rows,\), but is float64"),
        ({"f": np.ones(1, np.float32), "g": np.ones(2, np.float32)}, "their lengths are 'f' 1, 'g' 2"),
        ({"f": np.ones(0, np.float32), "g": np.ones(0, np.float32)}, "1 <= rows < 2.32 must hold"),
    ],
)
def test_blocks_of_another_form_are_refused(block, text):
    with pytest.raises(ValueError, match=text):
        cdf_tables(lambda *_: [block], ["f", "g"])
