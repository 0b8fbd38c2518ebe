"""Core-sets, importance weights and RAIS against brute force, enumeration and other solvers."""

import math
import tracemalloc
from itertools import combinations, pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from drawstream import (
    IndexStream,
    clip_weights,
    forgetting_coreset,
    highest_coreset,
    k_center,
    normalize_weights,
    random_coreset,
)
from drawstream.samplers.methods.rais import RAIS, descend, fit_set, robust_probabilities
from shared.refusals import refused


def brute_k_center(x, count, first):
    distance = ((x[:, None] - x[None]) ** 2).sum(-1)
    chosen = [first]
    while len(chosen) < count:
        nearest = distance[:, chosen].min(1)
        nearest[chosen] = -1
        chosen.append(int(nearest.argmax()))
    return sorted(chosen)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 19), st.floats(0.01, 1), st.integers(0, 2**32 - 1), st.data())
def test_k_center_is_farthest_first(rows, width, share, seed, data):
    x = np.random.default_rng(seed).integers(-3, 4, (rows, width)).astype(np.float32)  # whole numbers: exact, many ties
    first = data.draw(st.integers(0, rows - 1))
    found = k_center(x, share, first=first)
    assert found.tolist() == brute_k_center(x, max(1, round(share * rows)), first)


@pytest.mark.parametrize("seed", range(5))
def test_k_center_is_within_twice_the_least_radius(seed):
    x = np.random.default_rng(seed).standard_normal((11, 2)).astype(np.float32)
    distance = np.sqrt(((x[:, None] - x[None]) ** 2).sum(-1))
    least = min(distance[:, list(chosen)].min(1).max() for chosen in combinations(range(11), 3))
    assert distance[:, k_center(x, 3 / 11, seed=seed)].min(1).max() <= 2 * least + 1e-6


def test_k_center_takes_little_memory():
    x = np.random.default_rng(0).standard_normal((5000, 64)).astype(np.float32)
    k_center(x[:10], 0.5)
    tracemalloc.start()
    k_center(x, 0.01)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 * x.nbytes  # a table of distances would take 100 MB


def test_k_center_of_tensors_and_seeds():
    x = torch.randn(50, 6, generator=torch.Generator().manual_seed(0))
    assert np.array_equal(k_center(x, 0.2, seed=4), k_center(x.numpy().astype(float), 0.2, seed=4))
    assert len({k_center(x, 0.02, seed=seed)[0] for seed in range(20)}) > 5
    assert np.array_equal(k_center(x, 1.0), np.arange(50))
    assert k_center(np.zeros((5, 2)), 0.6, first=2).tolist() == [0, 1, 2]  # equal rows are still different rows


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.floats(0.01, 1), st.integers(0, 99))
def test_random_keeps_the_shares_of_the_classes(labels, share, seed):
    y = np.array(labels)
    found = random_coreset(y, share, seed=seed)
    assert found.size == max(1, round(share * y.size)) and np.array_equal(np.unique(found), found)
    for label in set(labels):
        assert abs((y[found] == label).sum() - found.size / y.size * (y == label).sum()) < 1.0
    assert np.array_equal(found, random_coreset(torch.tensor(labels), share, seed=seed))


def test_random_draws_every_row_equally_often():
    y = np.repeat([0, 1], [30, 10])
    counts = sum(np.bincount(random_coreset(y, 0.35, seed=seed), minlength=40) for seed in range(2000))
    assert abs(counts / 2000 - 0.35).max() < 4.5 * np.sqrt(0.25 / 2000)


def test_forgetting_takes_the_most_forgotten():
    forgotten, learned = [0, 5, 2, 0, 3, 0], [1, 1, 1, 0, 1, 1]
    for count, expected in ((1, [3]), (2, [1, 3]), (3, [1, 3, 4]), (4, [1, 2, 3, 4])):
        assert forgetting_coreset(forgotten, learned, count / 6).tolist() == expected
    ties = {tuple(forgetting_coreset(np.zeros(10), np.ones(10), 0.3, seed=seed)) for seed in range(20)}
    assert len(ties) > 10


def test_highest_takes_the_highest_and_ties_at_random():
    assert highest_coreset([0.1, 5, -2, 0.2, 3], 0.4).tolist() == [1, 4]
    assert len({tuple(highest_coreset(np.zeros(10), 0.3, seed=seed)) for seed in range(20)}) > 10
    refused("scores must be finite", highest_coreset, [1.0, np.nan], 0.5)


def test_training_on_a_coreset():
    core = random_coreset(np.arange(100) % 10, 0.3)
    weights = np.zeros(100, np.float32)
    weights[core] = 1
    stream = IndexStream(weights, draws=core.size, seed=0)
    assert all(np.array_equal(np.sort(stream.epoch(e)[0 : core.size]), core) for e in range(3))


def test_errors():
    for share in (0, 1.1, np.nan):
        refused("rows >= 1 and 0 < share <= 1 must hold, but got 3 rows and share=", random_coreset, [0, 1, 2], share)
    refused("but got 0 rows", random_coreset, [], 0.5)
    refused(r"must fit, but got \(2,\) and \(3,\)", forgetting_coreset, [1, 2], [1, 1, 1], 0.5)
    for wrong in (np.zeros(3), np.zeros((3, 0)), np.array([[1.0, np.nan]])):
        refused("embeddings must be finite, float", k_center, wrong, 0.5)
    refused(r"first must be in \[0, 3\), but got 3", k_center, np.zeros((3, 2)), 0.5, first=3)


def test_clip():
    clipped = clip_weights([0.5, 2.0, 30.0], ceiling=3)
    assert clipped.dtype == np.float32
    np.testing.assert_array_equal(clipped, [0.5, 2.0, 3.0])
    for ceiling in (0, -1, math.nan):
        refused("ceiling > 0 must hold, but got", clip_weights, [1.0], ceiling=ceiling)


def test_normalize():
    weights = normalize_weights([1.0, 3.0, 8.0])
    assert weights.dtype == np.float32
    np.testing.assert_allclose(weights, [0.25, 0.75, 2.0])
    for bad in ([], [0.0, 0.0], [1.0, math.inf], [math.nan]):
        refused("must be finite and > 0, but got", normalize_weights, bad)


def test_bias_and_variance_are_what_the_docstring_says():
    random = np.random.default_rng(0)
    p, values = random.random(400) ** 2 + 1e-3, random.normal(size=400) + 2
    stream = IndexStream(p, mode="multinomial", draws=300, seed=1)
    plain, clipped, normalised = [], [], []
    for epoch in range(1500):
        order = stream.epoch(epoch)
        weights, drawn = order.weights(0, 300), values[order[:]]
        plain.append((weights * drawn).mean())
        clipped.append((clip_weights(weights, ceiling=3) * drawn).mean())
        normalised.append((normalize_weights(weights) * drawn).mean())
    truth = values.mean()
    assert abs(np.mean(plain) - truth) < 4 * np.std(plain) / math.sqrt(1500)
    assert np.std(clipped) < 0.3 * np.std(plain)
    assert np.mean(clipped) < truth - 0.05  # positive values, so clipping loses mass
    assert abs(np.mean(normalised) - truth) < 0.1
    assert np.std(normalised) < np.std(plain)


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
    for start in (None, fit_set(*args), np.array([[0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]])):
        c, d = fit_set(*args, start=start)
        assert (shares * (norms - features @ c) ** 2 / (features @ d)).sum() == pytest.approx(
            1
        )  # U holds them on average
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
    refused(r"same rows, but it has 7 .* 40", lambda: RAIS(ROWS).load_state_dict(RAIS(7).state_dict()))


def test_draws_are_unbiased():
    (sampler,) = trained(3)
    stream = IndexStream(sampler, mode="multinomial", draws=200_000, seed=0)
    order = stream.epoch(3)
    values = np.random.default_rng(0).normal(size=ROWS)
    estimate = (order.weights(0, len(order)) * values[order[:]]).mean()
    assert estimate == pytest.approx(values.mean(), abs=0.02)
    assert RAIS(ROWS).probabilities(5).tolist() == [1 / ROWS] * ROWS
