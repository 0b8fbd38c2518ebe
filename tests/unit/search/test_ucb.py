"""The upper confidence bound in closed form: BoTorch's posterior, its own gradient, and batches that spread."""

import numpy as np
import pytest
import torch
from scipy.optimize import check_grad

from drawstream.search.swift import gp, ucb


@pytest.fixture(scope="module")
def process():
    rng = np.random.default_rng(0)
    points = rng.random((20, 3))
    return gp.fitted(points, -np.square(points - 0.4).sum(axis=1) + 0.02 * rng.standard_normal(20))


def model_of(process):
    from botorch.models import SingleTaskGP
    from gpytorch.means import ZeroMean

    x, y = torch.from_numpy(process.points), torch.from_numpy(process.scores)[:, None]
    with gp._deterministic():  # which also silences BoTorch's remarks on few points
        model = SingleTaskGP(x, y, mean_module=ZeroMean(), outcome_transform=None)
    model.covar_module.lengthscale = torch.from_numpy(process.lengths)
    model.likelihood.noise = process.noise
    return model.eval()


def test_the_posterior_is_botorchs(process):
    new = np.random.default_rng(1).random((50, 3))
    mean, deviation = process.posterior(new)
    with torch.no_grad():
        expected = model_of(process).posterior(torch.from_numpy(new))
    np.testing.assert_allclose(mean, expected.mean[:, 0].numpy(), rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(deviation, expected.variance[:, 0].sqrt().numpy(), rtol=1e-5)


def test_points_beside_shrink_the_deviation_as_if_observed_and_leave_the_mean(process):
    new, beside = np.random.default_rng(2).random((30, 3)), np.random.default_rng(3).random((4, 3))
    mean, deviation = process.posterior(new, beside=beside)
    before = process.posterior(new)
    believed = ucb.Process(
        np.concatenate([process.points, beside]),
        np.concatenate([process.scores, process.posterior(beside)[0]]),
        process.lengths,
        process.noise,
    )
    np.testing.assert_array_equal(mean, before[0])
    np.testing.assert_allclose(mean, believed.posterior(new)[0], rtol=1e-6)  # a score that is the mean tells nothing
    np.testing.assert_allclose(deviation, believed.posterior(new)[1], rtol=1e-6)
    assert (deviation <= before[1] + 1e-12).all()


def test_the_gradient_is_that_of_the_bound(process, monkeypatch):
    seen = []

    def caught(negative, x, **options):
        assert options["jac"]
        for point in np.random.default_rng(4).random((5, 3)):
            seen.append(check_grad(lambda p: negative(p)[0], lambda p: negative(p)[1], point))
            mean, deviation = process.posterior(point[None], beside=chosen)
            assert negative(point)[0] == pytest.approx(-(mean[0] + 2 * deviation[0]))
        return original(negative, x, **options)

    chosen = np.array([[0.2, 0.3, 0.4]])
    original = ucb.minimize
    monkeypatch.setattr(ucb, "minimize", caught)
    ucb._ascend(process, chosen, np.full((1, 3), 0.9), 2.0)
    assert len(seen) == 5
    assert max(seen) < 1e-5


def test_nothing_on_a_fine_grid_has_a_higher_bound():
    rng = np.random.default_rng(5)
    points = rng.random((10, 2))
    process = gp.fitted(points, np.sin(6 * points).sum(axis=1))
    grid = np.stack(np.meshgrid(*[np.linspace(0, 1, 101)] * 2), axis=-1).reshape(-1, 2)
    for kappa in (0.0, 1.0, 5.0):
        found = ucb.choose(process, 1, kappa=kappa, seed=0)
        bounds = [mean + kappa * deviation for mean, deviation in (process.posterior(grid), process.posterior(found))]
        assert bounds[1][0] >= bounds[0].max() - 1e-6


def test_a_batch_is_deterministic_begins_with_the_single_choice_and_spreads(process):
    batch = ucb.choose(process, 4, kappa=1.0, seed=7)
    np.testing.assert_array_equal(batch, ucb.choose(process, 4, kappa=1.0, seed=7))
    np.testing.assert_array_equal(batch[:2], ucb.choose(process, 2, kappa=1.0, seed=7))
    assert ((batch >= 0) & (batch <= 1)).all()
    apart = np.abs(batch[:, None] - batch[None]).sum(axis=2)[np.triu_indices(4, 1)]
    assert apart.min() > 1e-3
