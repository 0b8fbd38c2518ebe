"""P(clean): the mixture that was drawn from is found again, its posterior rises, and odds move to a given mean."""

import numpy as np
import pytest
from scipy import stats

from drawstream.samplers.methods import Mixture, fit_mixture, rescaled
from shared.refusals import refused


def drawn(share, means, deviations, n=40_000, seed=0):
    rng = np.random.default_rng(seed)
    wrong = rng.random(n) < share
    return np.where(wrong, rng.normal(means[0], deviations[0], n), rng.normal(means[1], deviations[1], n)), wrong


@pytest.mark.parametrize(("share", "spread"), [(0.4, (0.2, 0.3)), (0.1, (0.3, 0.2)), (0.7, (0.25, 0.25))])
def test_the_mixture_is_found_again(share, spread):
    scores, _ = drawn(share, (0.6, -0.7), spread)
    found = fit_mixture(3 * scores + 5)  # wherever the scores lie
    assert found.share == pytest.approx(share, abs=0.01)
    assert found.means == pytest.approx((6.8, 2.9), abs=0.05)
    assert found.deviations == pytest.approx((3 * spread[0], 3 * spread[1]), rel=0.05)


def test_density_and_posterior_are_those_of_scipy():
    mixture, x = Mixture(0.3, (1.0, -1.0), (0.5, 0.5)), np.linspace(-2, 2, 101)
    parts = 0.3 * stats.norm.pdf(x, 1, 0.5), 0.7 * stats.norm.pdf(x, -1, 0.5)
    np.testing.assert_allclose(mixture.density(x), parts, rtol=1e-12)
    np.testing.assert_allclose(mixture.wrong(x), parts[0] / (parts[0] + parts[1]), atol=1e-4)


def test_the_posterior_never_falls_where_a_narrow_component_lies_above():
    mixture = Mixture(0.3, (1.0, 0.0), (0.1, 1.0))  # far above 1 the wide one is the likelier
    wrong = mixture.wrong(np.linspace(-3, 4, 500))
    assert (np.diff(wrong) >= 0).all() and wrong[-1] > 0.8 and wrong[0] < 0.01


def test_odds_move_by_one_number_to_the_mean():
    wrong = np.random.default_rng(1).random(1000)
    for share in (0.02, 0.5, 0.9):
        found = rescaled(wrong, share)
        assert found.mean() == pytest.approx(share, abs=1e-9)
        shift = np.log(found / (1 - found)) - np.log(wrong / (1 - wrong))
        assert np.ptp(shift) < 1e-6
    refused("0 <= share <= 1", rescaled, wrong, 1.2)


@pytest.mark.parametrize("scores", [[1.0, 1.0, 1.0], [1.0, np.nan], [[1.0, 2.0]]])
def test_scores_without_a_spread_are_refused(scores):
    refused("two different finite scores", fit_mixture, scores)
