"""Core-sets: k-centre against brute force and its bound, shares of the classes, the order of forgetting."""

import tracemalloc
from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from drawstream.samplers.methods import forgetting_coreset, k_center, random_coreset
from drawstream.samplers.orders import IndexStream


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


def test_training_on_a_coreset():
    core = random_coreset(np.arange(100) % 10, 0.3)
    weights = np.zeros(100, np.float32)
    weights[core] = 1
    stream = IndexStream(weights, draws=core.size, seed=0)
    assert all(np.array_equal(np.sort(stream.epoch(e)[0 : core.size]), core) for e in range(3))


def test_errors():
    for share in (0, 1.1, np.nan):
        with pytest.raises(ValueError, match="rows >= 1 and 0 < share <= 1 must hold, but got 3 rows and share="):
            random_coreset([0, 1, 2], share)
    with pytest.raises(ValueError, match="but got 0 rows"):
        random_coreset([], 0.5)
    with pytest.raises(ValueError, match=r"must fit, but got \(2,\) and \(3,\)"):
        forgetting_coreset([1, 2], [1, 1, 1], 0.5)
    for wrong in (np.zeros(3), np.zeros((3, 0)), np.array([[1.0, np.nan]])):
        with pytest.raises(ValueError, match="embeddings must be finite, float"):
            k_center(wrong, 0.5)
    with pytest.raises(ValueError, match=r"first must be in \[0, 3\), but got 3"):
        k_center(np.zeros((3, 2)), 0.5, first=3)
