"""Swift Sampler: parameters, degenerate cases, bad columns, the file, and its monotone tables."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from drawstream.samplers.swift import DegenerateSampler, SwiftFit, SwiftParams, SwiftSampler
from drawstream.samplers.swift.columns import columns_of
from drawstream.samplers.swift.knots import MAX_KNOTS, Knots, order_key
from drawstream.samplers.swift.mass import mass_table
from drawstream.samplers.swift.sampler import effective_share
from drawstream.samplers.swift.tables import cdf_of_pieces, cdf_table
from shared.refusals import refused

RAMP = SwiftParams((1.0, 0.0), (0.25, 0.5, 0.75), (1.0, 0.75, 0.5, 0.25, 0.0))


@pytest.fixture
def columns():
    rng = np.random.default_rng(0)
    return {
        "loss": rng.exponential(size=500).astype(np.float32),
        "entropy": rng.random(500, np.float32),
        "grad_norm": rng.random(500, np.float32),
        "name": np.array(["a"] * 500),
    }


def test_uniform_parameters_give_every_row_one_nth(columns):
    p = SwiftFit(columns).probabilities(SwiftParams.uniform())
    np.testing.assert_array_equal(p, np.full(500, 1 / 500))
    assert effective_share(p) == pytest.approx(1)


def test_falling_ramp_prefers_low_loss(columns):
    p = SwiftFit(columns, transform="cdf", mass=None).probabilities(RAMP)
    ranks = np.argsort(np.argsort(columns["loss"])) + 1
    np.testing.assert_allclose(p, (1 - ranks / 500) / (1 - ranks / 500).sum(), atol=1e-8)


def test_effective_share_of_k_equal_rows():
    assert effective_share(np.array([0.5, 0.5, 0, 0])) == 0.5


@pytest.mark.parametrize(
    ("fields", "error", "text"),
    [
        (((0.0, 0.0), (0.5,), (1, 1, 1)), DegenerateSampler, "all coefficients are zero"),
        (((1.0,), (0.5,), (0, 0, 0)), DegenerateSampler, "all values are zero"),
        (((), (0.5,), (1, 1, 1)), ValueError, "one number per feature"),
        (((1.0,), (0.5,), (1, 1)), ValueError, "S - 1 ends and S"),
        (((1.0,), (0.5, 0.5), (1, 1, 1, 1)), ValueError, "ends must increase"),
        (((1.0,), (1.0,), (1, 1, 1)), ValueError, "ends must increase"),
        (((1.0,), (0.5,), (1, 1, 1.5)), ValueError, r"values must lie in \[0, 1\]"),
        (((float("nan"),), (0.5,), (1, 1, 1)), ValueError, "coefficients must be finite"),
    ],
)
def test_parameters_refuse(fields, error, text):
    refused(text, SwiftParams, *fields, error=error)


def test_canonical_form_of_equal_samplers():
    assert SwiftParams((-2, 1), (0.25, 0.5, 0.75), (0, 0, 0.1, 0.2, 0.4)).canonical() == SwiftParams(
        (1, -0.5), (0.25, 0.5, 0.75), (1, 0.5, 0.25, 0, 0)
    )
    assert SwiftParams((0.3, 0.4), (0.1, 0.2, 0.3), (0.5,) * 5).canonical() == SwiftParams.uniform()
    assert SwiftParams((1, 1), (), (1, 1 - 1e-16)).canonical() == SwiftParams.uniform(segments=1)
    assert SwiftParams((1e-14, -1), (), (0, 1)).canonical() == SwiftParams((0, 1), (), (1, 0))


def test_degenerate_samplers_are_refused_by_the_fit(columns):
    fit = SwiftFit(columns, transform="cdf")
    spike = SwiftParams((1.0, 0.0), (0.9981, 0.999, 0.9999), (0, 0, 1, 0, 0))  # between two ranks of 500
    refused("none of the 500 rows has positive weight", fit.probabilities, spike, error=DegenerateSampler)
    with pytest.raises(DegenerateSampler, match=r"effective sample size >= 0.9 of the rows must hold, but it is 0.7"):
        fit.probabilities(RAMP, min_ess=0.9)
    assert fit.probabilities(RAMP, min_ess=0.7).sum() == pytest.approx(1)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"loss": np.array([1.0, np.nan, np.inf])}, r"'loss' must be finite, but row 1 is nan \(2 such of 3 rows"),
        ({"loss": np.zeros(499)}, "lengths are 'loss' 499, 'entropy' 500"),
        ({"loss": np.zeros((5, 2))}, r"one value per row, but its shape is \(5, 2\)"),
        ({"loss": np.array(["x"])}, "must be numeric"),
        ({"loss": np.array([])}, "is empty"),
        ({"grad_norm": -np.ones(500)}, r"gradient norms >= 0, but row 0 is -1.0 \(500 such of 500"),
        ({"grad_norm": np.zeros(500)}, "'grad_norm' is zero in all 500 rows"),
    ],
)
def test_bad_columns_are_named(columns, change, text):
    refused(text, SwiftFit, columns | change)


def test_options_are_checked(columns):
    with pytest.raises(ValueError, match="no column 'perplexity': the table has entropy, grad_norm, loss"):
        SwiftFit(columns, features=("perplexity",))
    refused("distinct column names", SwiftFit, columns, features=("loss", "loss"))
    refused("transform must be", SwiftFit, columns, transform="rank")
    refused("needs a column of gradient norms", SwiftFit, columns, mass=None)
    refused("one coefficient per feature", lambda: SwiftFit(columns, features=("loss",)).probabilities(RAMP))


@pytest.mark.parametrize("dtype", [bool, np.int8, np.int64, np.float16, np.float64])
def test_any_numeric_column_is_a_feature(dtype):
    values = np.array([0, 1, 1, 0, 1], dtype)
    p = SwiftFit({"correct": values}, features=("correct",), mass=None, transform="cdf").probabilities(
        SwiftParams((1.0,), (0.5,), (0, 0, 1))
    )
    np.testing.assert_allclose(p, values.astype(float) / 3, atol=1e-7)


def test_large_tables_score_new_rows_like_their_own(tmp_path):
    rng = np.random.default_rng(5)
    rows = 200_000
    columns = {"loss": rng.exponential(size=rows).astype(np.float32), "correct": rng.random(rows) < 0.7}
    columns["grad_norm"] = columns["loss"] * rng.random(rows)
    fit = SwiftFit(columns, features=("loss", "correct"))
    sampler = fit.sampler(SwiftParams((0.8, -0.6), (0.2, 0.5, 0.8), (1, 0.3, 0.9, 0.1, 0)))
    p = fit.probabilities(sampler.params)
    np.testing.assert_array_equal(sampler.probabilities(columns), p)
    sampler.save(tmp_path / "sampler.json")
    loaded = SwiftSampler.load(tmp_path / "sampler.json")
    np.testing.assert_array_equal(loaded.probabilities(columns), p)
    some = rng.permutation(rows)[:1000]
    few = {name: column[some] for name, column in columns.items()}
    np.testing.assert_array_equal(loaded.score(few), loaded.score(columns)[some])


@pytest.fixture
def saved(columns, tmp_path):
    path = tmp_path / "sampler.json"
    SwiftFit(columns).sampler(RAMP, provenance={"catalog": "c0ffee"}).save(path)
    return path


def test_the_file_is_replaced_whole_and_leaves_nothing_behind(saved, columns):
    assert json.loads(saved.read_text())["provenance"] == {"catalog": "c0ffee"}
    before = saved.read_bytes()
    with pytest.raises(ValueError, match="provenance must be plain JSON"):
        SwiftFit(columns).sampler(RAMP, provenance={"when": object()}).save(saved)
    assert saved.read_bytes() == before
    assert [path.name for path in saved.parent.iterdir()] == ["sampler.json"]


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (lambda d: d | {"version": 2}, "format version 2, this drawstream reads versions up to 1: upgrade"),
        (lambda d: d | {"version": "new"}, "format version is 'new'"),
        (lambda d: d | {"format": "else"}, "is no sampler"),
        (lambda d: [d], "is no sampler"),
        (lambda d: {k: v for k, v in d.items() if k != "balance"}, "damaged: it has no 'balance'"),
        (lambda d: d | {"ends": [0.5, 0.4, 0.6]}, "damaged: ends must increase"),
        (lambda d: d | {"features": ["loss"]}, "damaged: one coefficient and one table per distinct feature"),
        (lambda d: d | {"transform": "rank"}, "damaged: transform must be"),
        (lambda d: d | {"tables": 5}, "damaged"),
    ],
)
def test_a_wrong_file_says_what_is_wrong(saved, damage, text):
    saved.write_text(json.dumps(damage(json.loads(saved.read_text()))))
    refused(text, SwiftSampler.load, saved)


def test_a_cut_file_is_damaged_json(saved):
    saved.write_bytes(saved.read_bytes()[:-50])
    refused(r"sampler.json is damaged, it is not valid JSON", SwiftSampler.load, saved)
    with pytest.raises(FileNotFoundError):
        SwiftSampler.load(saved.with_name("none.json"))


def test_a_candidate_costs_no_sort(monkeypatch):
    rng = np.random.default_rng(6)
    loss = rng.exponential(size=200_000).astype(np.float32) ** 3
    fit = SwiftFit({"loss": loss, "entropy": rng.random(loss.size, np.float32), "grad_norm": np.minimum(loss, 1)})
    params = SwiftParams((0.9, -0.3), (0.25, 0.5, 0.75), (1, 0.8, 0.6, 0.1, 0))
    expected = fit.probabilities(params)

    def refuse(*_, **__):
        raise AssertionError("a candidate sorts")

    for name in ("sort", "argsort", "partition", "argpartition", "unique", "lexsort"):
        monkeypatch.setattr(np, name, refuse)
    np.testing.assert_array_equal(fit.probabilities(params), expected)


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
    refused("every reading must give the same rows", lambda: cdf_of_pieces(lambda: [rng.random(ROWS, np.float32)]))


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
    refused(text, Knots, np.array(x), np.array(y))


def test_a_table_of_counts_needs_a_positive_total():
    refused("must be positive", Knots.from_counts, np.array([1.0]), np.array([0]))


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
