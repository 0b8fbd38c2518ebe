"""P(clean): the mixture that was drawn from is found again, its posterior is calibrated and rises, odds move."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from drawstream.samplers.methods import Mixture, fit_mixture, rescaled
from shared.refusals import refused


def drawn(share, means, deviation, n=40_000, seed=0):
    rng = np.random.default_rng(seed)
    wrong = rng.random(n) < share
    return rng.normal(np.where(wrong, *means), deviation), wrong


@pytest.mark.parametrize(("share", "deviation"), [(0.4, 0.25), (0.02, 0.3), (0.7, 0.4)])
def test_the_mixture_is_found_again(share, deviation):
    scores, wrong = drawn(share, (0.6, -0.7), deviation)
    found = fit_mixture(3 * scores + 5, wrong.mean())  # wherever the scores lie
    assert found.means == pytest.approx((6.8, 2.9), abs=0.05 / min(share, 1 - share) ** 0.5)
    assert found.deviation == pytest.approx(3 * deviation, rel=0.05)
    r = found.wrong(3 * scores + 5)
    assert r.mean() == pytest.approx(wrong.mean(), abs=0.003)
    for low in (0.1, 0.3, 0.5, 0.7):  # it is what it says
        rows = (low <= r) & (r < low + 0.2)
        assert wrong[rows].mean() == pytest.approx(r[rows].mean(), abs=4 / rows.sum() ** 0.5)


def test_density_and_posterior_are_those_of_scipy():
    mixture, x = Mixture(0.3, (1.0, -1.0), 0.5), np.linspace(-2, 2, 101)
    parts = 0.3 * stats.norm.pdf(x, 1, 0.5), 0.7 * stats.norm.pdf(x, -1, 0.5)
    np.testing.assert_allclose(mixture.density(x), parts, rtol=1e-12)
    np.testing.assert_allclose(mixture.wrong(x), parts[0] / (parts[0] + parts[1]), rtol=1e-9)


@given(st.lists(st.floats(-3, 3), min_size=2, max_size=40).filter(lambda x: np.ptp(x) > 1e-3), st.floats(0, 1))
def test_the_posterior_rises_with_the_score_whatever_the_share(scores, share):
    x = np.sort(scores)
    found = fit_mixture(x, share)
    assert (np.diff(found.wrong(x)) >= -1e-12).all() and found.deviation > 0
    assert rescaled(found.wrong(x), share).mean() == pytest.approx(share, abs=1e-6)


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
    refused("two different finite scores", fit_mixture, scores, 0.3)
