"""RAIS: the closed form against a numerical solver, the fit against another one, unbiased weights, states."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from drawstream import IndexStream
from drawstream.samplers.methods.rais import RAIS, descend, fit_set, robust_probabilities


def worst(p, a, b):
    """max over v in U of Σ v² / p: v = a + √b z with |z|² <= N maximises a quadratic; by its secular equation."""
    lead, linear, limit = b / p, 2 * a * np.sqrt(b) / p, a.size
    low, high = lead.max() * (1 + 1e-12), lead.max() + np.linalg.norm(linear) + 1.0
    for _ in range(70):
        middle = (low + high) / 2
        z = linear / (2 * (middle - lead))
        low, high = (middle, high) if z @ z > limit else (low, middle)
    z = linear / (2 * (high - lead))
    return float(((a + np.sqrt(b) * z) ** 2 / p).sum())


@settings(deadline=None, max_examples=4)
@given(st.integers(0, 2**32 - 1), st.integers(2, 3))
def test_the_closed_form_is_the_minimax(seed, n):
    rng = np.random.default_rng(seed)
    a, b = rng.uniform(0.1, 2, n), rng.uniform(0.05, 1, n)
    mine = a + np.sqrt(n / b.sum()) * b
    mine /= mine.sum()
    assert worst(mine, a, b) == pytest.approx((a + np.sqrt(n / b.sum()) * b).sum() ** 2, rel=1e-6)
    softmax = lambda x: np.exp(x - x.max()) / np.exp(x - x.max()).sum()  # noqa: E731
    found = minimize(
        lambda x: np.log(worst(softmax(x), a, b)),
        np.zeros(n),
        method="Nelder-Mead",
        options={"maxiter": 400, "xatol": 1e-7, "fatol": 1e-12},
    )
    assert np.exp(found.fun) >= worst(mine, a, b) * (1 - 1e-6)
    assert np.allclose(robust_probabilities(a, b), 0.999 * mine + 0.001 / n, rtol=1e-12)


def sum_of_terms(x, features, norms, shares, mean):
    c, d = np.split(x, 2)
    return d @ mean + (shares * (norms - features @ c) ** 2 / np.maximum(features @ d, 1e-12)).sum()


@settings(deadline=None, max_examples=4)
@given(st.integers(0, 2**32 - 1))
def test_the_fit_is_the_minimum(seed):
    rng = np.random.default_rng(seed)
    n = 300
    features = np.stack([rng.uniform(0, 1.4, n), rng.uniform(0, 1.4, n), rng.integers(0, 5, n), np.ones(n)], axis=1)
    norms = np.clip(0.6 * features[:, 0] + 0.2 + 0.1 * rng.normal(size=n) * (1 + features[:, 2]), 0, 1.41)
    shares = rng.uniform(0.5, 2, n)
    shares /= shares.sum()
    mean = features.mean(axis=0)
    args = (features, norms, shares, mean)
    best = minimize(
        sum_of_terms,
        np.full(8, 0.5),
        args=args,
        bounds=[(0, None)] * 8,
        method="L-BFGS-B",
        options={"maxiter": 5000, "maxfun": 10**5},
    )
    c, d = np.full(4, 0.5), np.full(4, 0.5)
    values = []
    for _ in range(30):
        descend(*args, c, d, 2)
        values.append(sum_of_terms(np.concatenate([c, d]), *args))
    assert all(after <= before + 1e-12 for before, after in pairwise(values))
    c, d = fit_set(*args)
    assert (shares * (norms - features @ c) ** 2 / (features @ d)).sum() == pytest.approx(1)  # U holds them on average
    assert np.sqrt(d @ mean) * 2 <= best.fun * 1.03


ROWS, CLASSES = 40, 5


def batch(seed):
    rng = np.random.default_rng(seed)
    return (
        rng.integers(0, ROWS, 64),
        rng.normal(size=(64, CLASSES)).astype(np.float32) * 3,
        rng.integers(0, CLASSES, 64),
    )


def trained(epochs, ranks=1):
    samplers = [RAIS(ROWS) for _ in range(ranks)]
    for epoch in range(epochs):
        for number in range(4):
            samplers[number % ranks].observe(*batch(10 * epoch + number))
        whole = sum(sampler.sums for sampler in samplers)
        for sampler in samplers:
            sampler.reduce(lambda mine, whole=whole: whole)
    return samplers


def test_features_are_what_was_seen():
    (sampler,) = trained(3)
    norms = [[] for _ in range(ROWS)]
    for epoch in range(3):
        for row in norms:
            row.append([])
        for number in range(4):
            ids, logits, labels = batch(10 * epoch + number)
            p = np.exp(logits - logits.max(1, keepdims=True))
            p /= p.sum(1, keepdims=True)
            for row, norm in zip(ids, np.linalg.norm(p - np.eye(CLASSES)[labels], axis=1), strict=True):
                norms[row][epoch].append(norm)
    seen = [row for row in range(ROWS) if any(norms[row])]
    last = {row: max(epoch for epoch in range(3) if norms[row][epoch]) for row in seen}
    expected = [
        [np.mean(norms[row][last[row]]), np.mean([norm for epoch in norms[row] for norm in epoch]), 2 - last[row], 1]
        for row in seen
    ]
    assert np.allclose(sampler.features()[seen], expected, atol=1e-6)
    assert len(seen) > 30


def test_unseen_rows_have_the_mean_and_all_epochs():
    sampler = RAIS(4)
    sampler.observe([0, 1], np.array([[0.0, 0.0], [0.0, 2.0]]), [0, 1])
    sampler.reduce()
    features = sampler.features()
    assert np.allclose(features[2:, :2], features[:2, :2].mean(axis=0))
    assert features[:, 2].tolist() == [0, 0, 1, 1]


def test_ranks_and_restarts_change_no_bit():
    (one,) = trained(3)
    several = trained(3, ranks=4)
    restored = RAIS(ROWS)
    restored.load_state_dict(one.state_dict())
    for other in (*several, restored):
        assert np.array_equal(other.probabilities(3), one.probabilities(3))
        assert np.array_equal(other.coefficients, one.coefficients)
    restored.observe(*batch(99))
    one.observe(*batch(99))
    restored.reduce()
    one.reduce()
    assert np.array_equal(restored.probabilities(4), one.probabilities(4))


def test_a_state_of_another_sampler_is_refused():
    with pytest.raises(ValueError, match=r"same rows, but it has 7 .* 40"):
        RAIS(ROWS).load_state_dict(RAIS(7).state_dict())


def test_draws_are_unbiased():
    (sampler,) = trained(3)
    stream = IndexStream(sampler, mode="multinomial", draws=200_000, seed=0)
    order = stream.epoch(3)
    values = np.random.default_rng(0).normal(size=ROWS)
    estimate = (order.weights(0, len(order)) * values[order[:]]).mean()
    assert estimate == pytest.approx(values.mean(), abs=0.02)
    assert RAIS(ROWS).probabilities(5).tolist() == [1 / ROWS] * ROWS
