"""Soft-cap sampling: the law by hand, the laws of a row sampler, its limits, and what it refuses."""

import numpy as np
import pytest

from drawstream import IndexStream, SoftCap
from drawstream.testing import check_row_sampler, check_stream
from shared.refusals import refused

SCORES = np.random.default_rng(0).normal(size=40)


def trained(sampler, epochs, draws):
    """Draw epochs and observe them; how often each row was drawn."""
    stream = IndexStream(sampler, mode="subset", draws=draws, seed=0)
    counts = np.zeros(sampler.rows, int)
    for epoch in range(epochs):
        rows = stream.epoch(epoch)[:]
        counts += np.bincount(rows, minlength=sampler.rows)
        sampler.observe(rows, None, None, np.ones(rows.size))
        sampler.reduce()
    return counts


def test_it_keeps_the_laws_of_a_row_sampler():
    others = [
        lambda: SoftCap(SCORES, fall=0.4),
        lambda: SoftCap(SCORES[:-1], fall=0.3),
        lambda: SoftCap(-SCORES, fall=0.3),
    ]
    check_row_sampler(lambda: SoftCap(SCORES, fall=0.3), others=others, within_epoch=True)
    check_stream(IndexStream(SoftCap(SCORES, fall=0.3), mode="stratified", seed=1), weights=np.exp(SCORES))


def test_a_score_falls_by_the_constant_with_each_draw():
    sampler = SoftCap([1.0, 0.0, 3.0], fall=0.5)
    np.testing.assert_allclose(sampler.probabilities(0), np.exp([1, 0, 3]) / np.exp([1, 0, 3]).sum())
    sampler.observe([2, 2, 0, 1], None, None, [1, 0.5, 1, 0])
    sampler.reduce()
    left = np.exp([0.5, 0, 2])
    np.testing.assert_allclose(sampler.probabilities(1), left / left.sum())


def test_between_a_softmax_and_every_row_alike():
    free, capped = trained(SoftCap(3 * SCORES, fall=0.0), 40, 8), trained(SoftCap(3 * SCORES, fall=20.0), 40, 8)
    assert np.ptp(free) > 30 and np.ptp(capped) <= 1
    some = trained(SoftCap(3 * SCORES, fall=0.5), 40, 8)
    assert np.corrcoef(SCORES, some)[0, 1] > 0.9 and np.ptp(capped) < np.ptp(some) < np.ptp(free)


def test_a_row_that_is_far_below_can_still_be_drawn():
    sampler = SoftCap([0.0, -1e6, 5.0], fall=1e5)
    assert (sampler.probabilities(0) > 1e-300).all()
    assert sorted(IndexStream(sampler, mode="subset", draws=3).epoch(0)[:]) == [0, 1, 2]


@pytest.mark.parametrize("scores", [[], [1.0, np.nan], [[1.0]]])
def test_scores_that_are_none_are_refused(scores):
    refused("scores must be finite numbers", SoftCap, scores, fall=1.0)


def test_what_does_not_fit_is_refused():
    refused("fall >= 0", SoftCap, [1.0], fall=-1.0)
    sampler = SoftCap([1.0, 2.0], fall=1.0)
    refused(r"ids \(n,\) must be in \[0, 2\)", sampler.observe, [2], None, None)
    refused("must fit", sampler.observe, [1], None, None, [1, 1])
    with pytest.raises(ValueError, match="`total` must give int64"):
        sampler.reduce(lambda mine: mine[:1])
