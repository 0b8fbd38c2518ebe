"""The Gaussian process agent: deterministic, silent, and better than chance."""

import numpy as np
import pytest
import torch

from drawstream.search.swift import gp


def bowl(points):
    return -np.square(points - 0.3).sum(axis=-1)


def test_suggestions_are_deterministic_and_leave_torch_alone():
    points = np.random.default_rng(0).random((12, 8))
    torch.manual_seed(7)
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    first = gp.suggest(points, bowl(points), seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads
    torch.manual_seed(99)
    np.testing.assert_array_equal(gp.suggest(points, bowl(points), seed=1), first)
    assert first.shape == (1, 8)
    assert ((first >= 0) & (first <= 1)).all()


def test_the_model_finds_the_top_of_a_bowl():
    points = np.random.default_rng(1).random((40, 8))
    found = gp.suggest(points, bowl(points), seed=0, kappa=0.0)
    assert bowl(found[0]) > bowl(points).max() + 0.05
    assert bowl(found[0]) > -0.1


def test_kappa_asks_for_unknown_places():
    points = np.array([[0.1], [0.2], [0.3]])
    scores = np.array([0.0, 0.1, 0.2])
    near, far = (gp.suggest(points, scores, seed=0, kappa=kappa)[0, 0] for kappa in (0.0, 100.0))
    assert abs(far - 0.3) > abs(near - 0.3)


def test_scores_keep_their_unit_and_lose_their_noise():
    rng = np.random.default_rng(2)
    points = rng.random((60, 2))
    truth = 50 + 10 * bowl(points)
    smoothed = gp.posterior_mean(points, truth + rng.standard_normal(60))
    assert np.abs(smoothed - truth).mean() < 0.5  # the noise has a mean size of 0.8


def test_far_from_all_points_the_mean_is_that_of_the_scores():
    """Most points of a late search crowd on the best place, which draws a fitted constant far off."""
    rng = np.random.default_rng(4)
    points = np.concatenate([rng.random((8, 8)), 0.3 + 0.02 * rng.standard_normal((32, 8))])
    scores = 80 + 5 * bowl(points) + 0.1 * rng.standard_normal(40)
    process = gp.fitted(points, scores)
    far, deviation = process.posterior(np.full((1, 8), 1e6))
    assert far * scores.std() + scores.mean() == pytest.approx(scores.mean())
    assert deviation == pytest.approx(1)


def test_equal_and_single_scores_are_no_trouble():
    points = np.random.default_rng(3).random((5, 3))
    np.testing.assert_allclose(gp.posterior_mean(points, np.full(5, 2.0)), 2.0, atol=1e-6)
    assert gp.suggest(points[:1], np.ones(1), seed=0).shape == (1, 3)
    assert gp.suggest(np.repeat(points[:1], 6, axis=0), np.ones(6), seed=0, count=3).shape == (3, 3)
