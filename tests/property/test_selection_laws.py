"""Laws of the methods of budgeted training: what their choices depend on, and what they do not."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drawstream.samplers.methods import CSGD, DLIS, PSGD, InfoBatch, OrderedSGD, RHOLoss, SelectiveBackprop
from drawstream.samplers.methods.dlis import draw_weighted, share_out
from drawstream.samplers.swift import DegenerateSampler, SwiftFit, SwiftParams, SwiftSampler
from drawstream.testing import check_row_sampler

ROWS, CLASSES = 9, 3
LOSSES = st.lists(st.integers(0, 20), min_size=1, max_size=60).map(lambda xs: np.array(xs, float) / 4)
MAKERS = (lambda: PSGD(ROWS), lambda: CSGD(ROWS, paper=True, smoothing=False), lambda: InfoBatch(ROWS, epochs=99))


@st.composite
def epochs(draw):
    """A few epochs of visits: ids, logits, labels and weights each."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    found = []
    for n in draw(st.lists(st.integers(0, 24), min_size=1, max_size=3)):
        z = (10.0 ** rng.integers(-3, 4, (n, 1)) * rng.standard_normal((n, CLASSES))).astype(np.float32)
        found.append((rng.integers(0, ROWS, n), z, rng.integers(0, CLASSES, n), rng.integers(0, 3, n) / 2))
    return found


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 5), st.sampled_from(MAKERS))
def test_batches_ranks_and_restarts_change_no_bit(seed, epochs, make):
    check_row_sampler(make, epochs=epochs, within_epoch=True, seed=seed)


@settings(max_examples=60, deadline=None)
@given(epochs(), st.booleans(), st.booleans(), st.sampled_from([PSGD, CSGD]))
def test_probabilities_are_positive_and_sum_to_1(visits, paper, smoothing, kind):
    sampler = kind(ROWS, paper=paper, smoothing=smoothing)
    for columns in visits:
        sampler.observe(*columns)
        sampler.reduce()
        p = sampler.probabilities(1)
        assert (p > 0).all() and abs(p.sum() - 1) < 1e-8
        if smoothing:
            assert p.min() > 0.4999 / ROWS  # at worst half of the mean
            least = kind(ROWS, paper=paper, smoothing=False)
            least.load_state_dict({**sampler.state_dict(), "smoothing": False})
            if least.importance().any():
                assert np.allclose(p, (least.probabilities(1) + 1 / ROWS) / 2)


@settings(max_examples=100, deadline=None)
@given(st.lists(LOSSES, min_size=1, max_size=6), st.floats(0.05, 1), st.integers(1, 70))
def test_selective_backprop_sees_ranks_only(batches, budget, history):
    """Any rising function of the losses leaves the choice as it is."""
    plain, bent = (SelectiveBackprop(budget=budget, history=history) for _ in range(2))
    for step, losses in enumerate(batches):
        a = plain.select(losses, epoch=step // 2, step=step)
        b = bent.select(np.exp(losses) * 3 - 100, epoch=step // 2, step=step)
        assert a.indices.tolist() == b.indices.tolist()


@settings(max_examples=100, deadline=None)
@given(LOSSES, st.integers(0, 4), st.randoms())
def test_ordered_sgd_keeps_the_largest(losses, halvings, random):
    selector = OrderedSGD()
    selector.halvings = halvings
    kept = selector.select(losses).indices
    assert kept.size == max(1, losses.size >> halvings) and np.array_equal(np.unique(kept), kept)
    left = np.delete(losses, kept)
    assert not left.size or losses[kept].min() >= left.max()
    order = np.array(random.sample(range(losses.size), losses.size))
    assert sorted(losses[order][selector.select(losses[order]).indices]) == sorted(losses[kept])


@settings(max_examples=100, deadline=None)
@given(LOSSES, st.integers(0, 60), st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=20))
def test_dlis_draws_what_its_weights_say(scores, power, numbers):
    shares = np.empty(scores.size)
    gain = share_out(scores, shares)
    assert abs(shares.sum() - 1) < 1e-12 and 1 - 1e-12 <= gain <= np.sqrt(scores.size) + 1e-12
    rows, weights = draw_weighted(shares, np.array(numbers))
    assert (shares[rows] > 0).all() and np.allclose(weights * shares[rows] * scores.size, 1, rtol=1e-6)
    scaled = np.empty(scores.size)
    assert share_out(scores * 2.0**-power, scaled) == gain and np.array_equal(scaled, shares)


@settings(max_examples=60, deadline=None)
@given(st.lists(LOSSES, min_size=1, max_size=12), st.integers(2, 5))
def test_dlis_keeps_all_or_a_part(batches, factor):
    selector = DLIS(factor=factor, memory=0.5)
    for step, scores in enumerate(batches):
        on = selector.active
        found = selector.select(scores, epoch=0, step=step)
        assert len(found.indices) == (max(1, scores.size // factor) if on else scores.size)


@settings(max_examples=60, deadline=None)
@given(LOSSES, st.integers(2, 5), st.integers(-8, 8))
def test_rho_sees_differences_only(losses, factor, shift):
    fixed = np.arange(losses.size, dtype=np.float32) / 8
    ids = np.arange(losses.size)
    a = RHOLoss(fixed, factor=factor).select(losses, ids=ids)
    b = RHOLoss(fixed + np.float32(shift), factor=factor).select(losses + shift, ids=ids)
    assert a.indices.tolist() == b.indices.tolist()


@settings(max_examples=60, deadline=None)
@given(epochs(), st.sampled_from([0.0, 0.25, 0.5, 0.9]), st.integers(0, 2**64 - 1))
def test_infobatch_keeps_the_hard_rows(visits, ratio, seed):
    pruning = InfoBatch(ROWS, epochs=8, ratio=ratio, seed=seed)
    for columns in visits:
        pruning.observe(*columns)
        pruning.reduce()
    below = pruning.below_mean()
    for epoch in range(8):
        stream = pruning.stream(epoch)
        rows = stream.epoch(epoch)[0 : stream.draws]
        assert np.unique(rows).size == rows.size and set(np.flatnonzero(~below)) <= set(rows.tolist())
        weights = stream.epoch(epoch).weights(0, rows.size)
        if epoch == 7 or ratio == 0:
            assert rows.size == ROWS and (weights == 1).all()
        else:
            assert np.allclose(weights, np.where(below[rows], 1 / (1 - ratio), 1))
            assert abs(below[rows].sum() - (1 - ratio) * below.sum()) < 1


# Laws of the Swift Sampler against a plain NumPy reference, on tables with many ties and odd scales


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
