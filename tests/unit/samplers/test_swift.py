"""Swift Sampler: parameters, degenerate cases, bad columns and the file."""

import json

import numpy as np
import pytest

from drawstream.samplers.swift import DegenerateSampler, SwiftFit, SwiftParams, SwiftSampler
from drawstream.samplers.swift.sampler import effective_share

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
    with pytest.raises(error, match=text):
        SwiftParams(*fields)


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
    with pytest.raises(DegenerateSampler, match="none of the 500 rows has positive weight"):
        fit.probabilities(spike)
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
    with pytest.raises(ValueError, match=text):
        SwiftFit(columns | change)


def test_options_are_checked(columns):
    with pytest.raises(ValueError, match="no column 'perplexity': the table has entropy, grad_norm, loss"):
        SwiftFit(columns, features=("perplexity",))
    with pytest.raises(ValueError, match="distinct column names"):
        SwiftFit(columns, features=("loss", "loss"))
    with pytest.raises(ValueError, match="transform must be"):
        SwiftFit(columns, transform="rank")
    with pytest.raises(ValueError, match="needs a column of gradient norms"):
        SwiftFit(columns, mass=None)
    with pytest.raises(ValueError, match="one coefficient per feature"):
        SwiftFit(columns, features=("loss",)).probabilities(RAMP)


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
    with pytest.raises(ValueError, match=text):
        SwiftSampler.load(saved)


def test_a_cut_file_is_damaged_json(saved):
    saved.write_bytes(saved.read_bytes()[:-50])
    with pytest.raises(ValueError, match=r"sampler.json is damaged, it is not valid JSON"):
        SwiftSampler.load(saved)
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
