"""Statistical quality of the streams: chi-square and correlation over epochs, seeds and positions.

Seeds are fixed, so a result is either right for good or wrong for good. Each p-value is asked to stay above LIMIT; the
controls show that the same statistics pass for NumPy's shuffle and fail for a shuffle with too few rounds.
"""

from itertools import combinations, permutations

import numpy as np
import pytest
from scipy.stats import chi2, chisquare, norm

from drawstream.samplers.hashing import derive_keys
from drawstream.samplers.orders import IndexStream
from drawstream.samplers.orders.shuffle import permute

LIMIT = 1e-4


def epoch_orders(rows, epochs):
    """Orders of one permutation stream, (epochs, rows)."""
    stream = IndexStream(rows, seed=11)
    return np.stack([stream.epoch(epoch)[:] for epoch in range(epochs)])


def numpy_orders(rows, epochs):
    """The control: NumPy's shuffle."""
    return np.random.default_rng(11).permuted(np.tile(np.arange(rows), (epochs, 1)), axis=1)


def weak_orders(rows, epochs):
    """A control that must fail: the same bijection with two rounds."""
    out = np.empty((epochs, rows), dtype=np.int64)
    for epoch in range(epochs):
        keys = derive_keys(4, "weak", epoch).reshape(2, 2)
        keys[0] |= np.uint64(1)
        permute(0, rows, (rows - 1).bit_length(), keys, out[epoch])
    return out


def p_values(orders):
    """p-values of places, differences, pairs, rises and correlations of many orders (epochs, rows)."""
    epochs, rows = orders.shape
    places = sorted({0, 1, 2, rows // 4, rows // 2, rows - 1})
    cells = min(rows, 32)
    shares = np.bincount(np.arange(rows) * cells // rows, minlength=cells)
    found = {}
    for a in places:
        counts = np.bincount(orders[:, a] * cells // rows, minlength=cells)
        found["place", a] = chisquare(counts, epochs * shares / rows).pvalue
    bins = min(rows - 1, 128)
    steps = np.bincount(np.arange(rows - 1) * bins // (rows - 1), minlength=bins)
    expected = np.outer(shares, shares) - np.diag(shares)
    grid = min(cells, 8)
    for a, b in combinations(places, 2):
        step = (orders[:, b] - orders[:, a]) % rows - 1
        counts = np.bincount(step * bins // (rows - 1), minlength=bins)
        found["difference", a, b] = chisquare(counts, epochs * steps / (rows - 1)).pvalue
        if epochs > 20 * cells * cells or grid == cells:
            pair = np.bincount(orders[:, a] * cells // rows * cells + orders[:, b] * cells // rows, minlength=cells**2)
            possible = expected.ravel() > 0
            law = epochs * expected.ravel()[possible] / expected.sum()
            found["pair", a, b] = chisquare(pair[possible], law).pvalue
    rises = (np.diff(orders, axis=1) > 0).sum()  # variance of the number of rises: (n + 1) / 12
    z = (rises - epochs * (rows - 1) / 2) / np.sqrt(epochs * (rows + 1) / 12)
    found["rises"] = 2 * norm.sf(abs(z))
    centred = orders - (rows - 1) / 2
    for lag in (1, 2, 3, 4, rows // 2):
        if 0 < lag < rows:
            product = (centred[:, lag:] * centred[:, :-lag]).sum(axis=1)
            mean = -(rows + 1) / 12 * (rows - lag)
            z = (product.mean() - mean) / (product.std() / np.sqrt(epochs))
            found["lag", lag] = 2 * norm.sf(abs(z))
    return found


@pytest.mark.parametrize("rows", [2, 3, 4, 5])
def test_small_permutations_take_every_order_equally(rows):
    orders = epoch_orders(rows, 24_000)
    counts = [int((orders == order).all(axis=1).sum()) for order in permutations(range(rows))]
    assert chisquare(counts).pvalue > LIMIT


@pytest.mark.parametrize("rows", [6, 17, 64, 100, 1000, 1025, 1500, 2048, 2049, 5000])
def test_permutation_quality(rows):
    orders = epoch_orders(rows, 6000 if rows <= 100 else 2000)
    found = p_values(orders)
    assert min(found.values()) * len(found) > LIMIT, found


def test_controls_of_the_quality_test():
    good = p_values(numpy_orders(1025, 2000))
    assert min(good.values()) * len(good) > LIMIT, good
    weak = p_values(weak_orders(100, 6000))
    assert min(weak.values()) * len(weak) < LIMIT


@pytest.mark.parametrize("rows", [10_007, 65_536, 100_000])
def test_one_long_permutation(rows):
    """Within one epoch: differences at many lags are as varied as those of a random order, pairs fill their grid."""
    order = IndexStream(rows, seed=3).epoch(1)[:]
    control = np.random.default_rng(3).permutation(rows)
    lags = [1, 2, 3, 7, *(2**k for k in range(2, 17) if 2**k < rows // 2), rows // 2, rows // 3]
    worst = {}
    for name, rows_in_order in (("stream", order), ("numpy", control)):
        scores = []
        for lag in lags:
            pairs = rows - lag
            distinct = np.unique((rows_in_order[lag:] - rows_in_order[:-lag]) % rows).size
            load = pairs / rows  # each difference is missing with probability exp(-load)
            variance = rows * np.exp(-load) * (1 - (1 + load) * np.exp(-load))
            scores.append((distinct - rows * (1 - np.exp(-load))) / np.sqrt(variance))
            grid = np.bincount(rows_in_order[lag:] * 16 // rows * 16 + rows_in_order[:-lag] * 16 // rows, minlength=256)
            shares = np.bincount(np.arange(rows) * 16 // rows, minlength=16) / rows
            expected = pairs * np.outer(shares, shares).ravel()
            scores.append(norm.isf(chi2.sf(((grid - expected) ** 2 / expected).sum(), 255)))
        worst[name] = max(np.abs(scores))
    assert worst["stream"] < 5, worst
    assert worst["numpy"] < 5, worst


def test_fixed_points_are_poisson():
    counts = [(IndexStream(4000, seed=seed).epoch(0)[:] == np.arange(4000)).sum() for seed in range(1000)]
    observed = np.bincount(np.minimum(counts, 4), minlength=5)
    law = np.array([1, 1, 1 / 2, 1 / 6]) / np.e
    assert chisquare(observed, 1000 * np.append(law, 1 - law.sum())).pvalue > LIMIT


WEIGHTS = np.random.default_rng(8).random(1000) ** 3
WEIGHTS[::9] = 0


def multinomial_pvalue(draws, seed=0):
    counts = np.bincount(IndexStream(WEIGHTS, mode="multinomial", seed=seed, draws=draws).epoch(0)[:], minlength=1000)
    expected = draws * WEIGHTS / WEIGHTS.sum()
    frequent = expected > 5
    rest = [counts[~frequent].sum()], [expected[~frequent].sum()]
    return chisquare(np.append(counts[frequent], rest[0]), np.append(expected[frequent], rest[1])).pvalue


def test_multinomial_frequencies():
    assert min(multinomial_pvalue(1_000_000, seed) for seed in range(3)) > LIMIT


@pytest.mark.slow
def test_multinomial_frequencies_at_20_million():
    assert min(multinomial_pvalue(20_000_000, seed) for seed in range(3)) > LIMIT


def test_multinomial_draws_are_independent():
    """Neither positions, nor epochs, nor seeds hold anything of one another."""
    n = 200_000
    stream = IndexStream(50, mode="multinomial", seed=1, draws=n)
    base = stream.epoch(0)[:]
    others = {("lag", lag): (base[:-lag], base[lag:]) for lag in (1, 2, 3, 64, 1024, 2048, 65_536)}
    others |= {("epoch", epoch): (base, stream.epoch(epoch)[:]) for epoch in (1, 2, 1 << 40)}
    for seed in (0, 2, 1 << 63):
        others["seed", seed] = base, IndexStream(50, mode="multinomial", seed=seed, draws=n).epoch(0)[:]
    for name, (a, b) in others.items():
        assert chisquare(np.bincount(a * 50 + b, minlength=2500)).pvalue > LIMIT, name


def test_multinomial_columns_are_even_at_a_size_that_32_bits_would_tilt():
    rows = 3_000_000
    drawn = IndexStream(np.ones(rows), mode="multinomial", draws=4_000_000).epoch(0)[:]
    assert chisquare(np.bincount(drawn % 64, minlength=64), np.full(64, 62_500)).pvalue > LIMIT
    assert chisquare(np.bincount(drawn * 1000 // rows, minlength=1000)).pvalue > LIMIT


def test_stratified_expectation_over_epochs():
    weights = np.random.default_rng(4).random(120)
    share = 60 * weights / weights.sum()
    stream = IndexStream(weights, draws=60, seed=9)
    counts = sum(np.bincount(stream.epoch(epoch)[:], minlength=120) for epoch in range(4000))
    part = share - np.floor(share)
    z = (counts - 4000 * share) / np.sqrt(4000 * np.maximum(part * (1 - part), 1e-3))
    assert np.abs(z).max() < 5


def test_stratified_neighbours_meet():
    """At half a draw per row plain systematic resampling never draws neighbours 2i and 2i + 1 in the same epoch."""
    stream = IndexStream(np.ones(480), draws=240, seed=2)
    drawn = np.stack([np.bincount(stream.epoch(epoch)[:], minlength=480) for epoch in range(1500)]).astype(float)
    together = drawn.T @ drawn / 1500
    block = np.arange(480) // 16
    same = (block[:, None] == block) & ~np.eye(480, dtype=bool)
    assert together[same].mean() == pytest.approx(7 / 30, abs=1e-3)  # 8 of 16 without replacement
    assert np.abs(together[same] - 7 / 30).max() < 0.06  # 5.5 standard errors
    assert together[block[:, None] != block].mean() == pytest.approx(0.25, abs=1e-3)
    assert np.abs(together[block[:, None] != block] - 0.25).max() < 0.065


def test_stratified_order_is_shuffled():
    stream = IndexStream(np.random.default_rng(0).random(1025), draws=1025, seed=5)
    first = np.array([stream.epoch(epoch)[0] for epoch in range(3000)])
    weights = np.random.default_rng(0).random(1025)
    cell = np.arange(1025) // 41
    expected = np.bincount(cell, weights=weights) / weights.sum() * 3000
    assert chisquare(np.bincount(first // 41, minlength=25), expected).pvalue > LIMIT


def test_subset_law_is_that_of_successive_draws():
    weights = np.array([1.0, 2.0, 3.0, 4.0, 0.0])
    stream = IndexStream(weights, mode="subset", draws=2, seed=6)
    pairs = [tuple(sorted(stream.epoch(epoch)[:])) for epoch in range(8000)]
    p = weights / 10
    law = {(a, b): p[a] * p[b] / (1 - p[a]) + p[b] * p[a] / (1 - p[b]) for a, b in combinations(range(4), 2)}
    counts = [pairs.count(pair) for pair in law]
    assert sum(counts) == 8000
    assert chisquare(counts, 8000 * np.array(list(law.values()))).pvalue > LIMIT


@pytest.mark.parametrize("mode", ["stratified", "multinomial", "subset"])
def test_importance_weights_leave_means_unbiased(mode):
    random = np.random.default_rng(1)
    weights, values = random.random(200) + 0.05, random.normal(size=200) + 1
    stream = IndexStream(weights, mode=mode, draws=80, seed=3)
    means = []
    for epoch in range(3000):
        order = stream.epoch(epoch)
        means.append(np.mean(order.weights(0, 80) * values[order[:]]))
    z = (np.mean(means) - values.mean()) / (np.std(means) / np.sqrt(3000))
    assert abs(z) < 4


def test_subset_of_all_rows_has_unit_weights():
    order = IndexStream(np.arange(1.0, 31.0), mode="subset").epoch(0)
    np.testing.assert_array_equal(order.weights(0, 30), np.ones(30, dtype=np.float32))
