"""Laws of the Swift Sampler against a plain NumPy reference, on tables with many ties and odd scales."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drawstream.samplers.swift import DegenerateSampler, SwiftFit, SwiftParams, SwiftSampler

laws = settings(deadline=None, max_examples=60)  # no deadline: the first call compiles

NAMES = ("loss", "entropy", "third")


@st.composite
def tables(draw):
    rows = draw(st.integers(1, 200))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    columns = {}
    for name in NAMES[: draw(st.integers(1, 3))]:
        kind = draw(st.sampled_from(["smooth", "ties", "atom", "constant", "integer", "wide"]))
        columns[name] = {
            "smooth": lambda: rng.exponential(size=rows).astype(np.float32),
            "ties": lambda: rng.integers(0, 4, rows) / 3,
            "atom": lambda: np.where(rng.random(rows) < 0.6, 0.0, rng.random(rows)),
            "constant": lambda: np.full(rows, 2.5, np.float32),
            "integer": lambda: rng.integers(-5, 5, rows),
            "wide": lambda: rng.standard_normal(rows) * 10.0 ** rng.integers(-30, 30, rows),
        }[kind]()
    columns["grad_norm"] = np.where(rng.random(rows) < 0.2, 0, rng.gamma(0.5, size=rows)) + 1e-3 * (
        rng.random(rows) > 0.5
    )
    columns["grad_norm"][rng.integers(rows)] = 1.0
    return columns


@st.composite
def parameters(draw, features):
    segments = draw(st.integers(1, 6))
    unit = st.floats(0, 1)
    widths = np.array(draw(st.lists(st.floats(0.05, 1), min_size=segments, max_size=segments)))
    coefficients = draw(
        st.lists(st.floats(-1, 1).filter(lambda x: abs(x) > 1e-3), min_size=features, max_size=features)
    )
    values = draw(st.lists(unit, min_size=segments + 1, max_size=segments + 1).filter(lambda o: max(o) > 1e-3))
    return SwiftParams(coefficients, np.cumsum(widths / widths.sum())[:-1], values)


@st.composite
def cases(draw):
    columns = draw(tables())
    return (
        columns,
        tuple(n for n in NAMES if n in columns),
        draw(st.sampled_from(["cgf", "cdf"])),
        draw(parameters(len(columns) - 1)),
    )


def reference_transform(columns, features, transform, params):
    """T(u) of every row, from METHODS: F = #{f <= value} / N, T = mass at u or below over all mass."""
    rows = len(columns["grad_norm"])
    cdf = [np.searchsorted(np.sort(columns[f]), columns[f], side="right") / rows for f in features]
    v = np.array(params.coefficients) / np.abs(params.coefficients).max()
    u = sum(a * c for a, c in zip(v, cdf, strict=True)).astype(np.float32)
    mass = columns["grad_norm"] if transform == "cgf" else np.ones(rows)
    return np.array([mass[u <= value].sum() for value in u]) / mass.sum()


@laws
@given(cases())
def test_scores_equal_the_reference(case):
    columns, features, transform, params = case
    expected = np.interp(reference_transform(columns, features, transform, params), [0, *params.ends, 1], params.values)
    sampler = SwiftFit(columns, features=features, transform=transform).sampler(params)
    np.testing.assert_allclose(sampler.score(columns), expected, atol=1e-5)


@laws
@given(case=cases())
def test_probabilities_sum_to_one_and_files_keep_every_bit(case, tmp_path_factory):
    columns, features, transform, params = case
    fit = SwiftFit(columns, features=features, transform=transform)
    sampler = fit.sampler(params)
    try:
        p = fit.probabilities(params)
    except DegenerateSampler:
        assert not sampler.score(columns).any()
        return
    assert p.min() >= 0
    assert p.sum() == pytest.approx(1, abs=1e-12)
    path = tmp_path_factory.mktemp("sampler") / "sampler.json"
    sampler.save(path)
    np.testing.assert_array_equal(SwiftSampler.load(path).probabilities(columns), p)
    assert SwiftSampler.load(path).params == params


@laws
@given(cases(), st.integers(-300, 300), st.floats(0.1, 1))
def test_scaling_changes_nothing(case, power, factor):
    columns, features, transform, params = case
    fit = SwiftFit(columns, features=features, transform=transform)
    scaled = SwiftParams(
        [v * 2.0**power for v in params.coefficients], params.ends, [o * factor for o in params.values]
    )
    tau = fit.sampler(params).score(columns)
    np.testing.assert_allclose(fit.sampler(scaled).score(columns), factor * tau, atol=1e-12)
    for name in ("coefficients", "ends", "values"):  # a value on the border of its 12th digit may go either way
        assert getattr(params.canonical(), name) == pytest.approx(getattr(scaled.canonical(), name), rel=0, abs=1.5e-12)


@laws
@given(parameters(2))
def test_canonical_is_one_representative(params):
    canonical = params.canonical()
    mirrored = SwiftParams(
        [-v for v in params.coefficients], [1 - e for e in reversed(params.ends)], params.values[::-1]
    ).canonical()
    assert canonical.canonical() == canonical
    assert max(map(abs, canonical.coefficients)) == max(canonical.values) == 1
    assert mirrored.coefficients == canonical.coefficients
    assert mirrored.values == canonical.values
    np.testing.assert_allclose(mirrored.ends, canonical.ends, atol=1e-12)


@laws
@given(parameters(2), st.integers(0, 2**32 - 1), st.sampled_from(["cgf", "cdf"]))
def test_mirrored_parameters_give_the_same_sampler_up_to_ties(params, seed, transform):
    rng = np.random.default_rng(seed)
    columns = {name: rng.random(400) for name in ("loss", "entropy", "grad_norm")}
    fit = SwiftFit(columns, transform=transform)
    mirrored = SwiftParams(
        [-v for v in params.coefficients], [1 - e for e in reversed(params.ends)], params.values[::-1]
    )
    tau, other = fit.sampler(params).score(columns), fit.sampler(mirrored).score(columns)
    slope = np.abs(np.diff(params.values) / np.diff([0, *params.ends, 1])).max()
    mass = columns["grad_norm"] / columns["grad_norm"].sum() if transform == "cgf" else np.full(400, 1 / 400)
    ranks = [np.argsort(np.argsort(columns[name])) + 1 for name in ("loss", "entropy")]
    v = np.array(params.coefficients) / np.abs(params.coefficients).max() / 400
    u = (v[0] * ranks[0] + v[1] * ranks[1]).astype(np.float32)
    largest = max(mass[np.abs(u - value) < 3e-7].sum() for value in u)  # rows that tie, or may by rounding
    assert np.abs(tau - other).max() <= slope * largest + 1e-5


@laws
@given(cases(), st.integers(0, 2**32 - 1))
def test_row_order_does_not_matter(case, seed):
    columns, features, transform, params = case
    order = np.random.default_rng(seed).permutation(len(columns["grad_norm"]))
    tau = SwiftFit(columns, features=features, transform=transform).sampler(params).score(columns)
    moved = {name: column[order] for name, column in columns.items()}
    other = SwiftFit(moved, features=features, transform=transform).sampler(params).score(moved)
    np.testing.assert_allclose(other, tau[order], atol=2e-5)


@laws
@given(cases())
def test_equal_intervals_of_cgf_hold_equal_gradient_mass(case):
    columns, features, _, params = case
    sampler = SwiftFit(columns, features=features).sampler(params)
    mass = columns["grad_norm"] / columns["grad_norm"].sum()
    ranks = [table.at(columns[f]) for f, table in zip(features, sampler.tables, strict=True)]
    v = np.array(params.coefficients) / np.abs(params.coefficients).max()
    u = sum(a * r for a, r in zip(v, ranks, strict=True)).astype(np.float32)
    t = sampler.balance.at(u)
    largest = max(mass[u == value].sum() for value in np.unique(u))  # ties move together
    for low in np.arange(0, 1, 0.25):
        inside = mass[(t > low) & (t <= low + 0.25)].sum()
        assert abs(inside - 0.25) <= largest + 1e-5
