"""InfoBatch: unbiased by enumeration, what is left out and what not, streams, state, ranks, errors."""

import doctest
from fractions import Fraction
from itertools import permutations

import numpy as np
import pytest

from drawstream.samplers.methods import InfoBatch, infobatch
from drawstream.samplers.methods.infobatch import keep_part
from drawstream.samplers.orders import IndexStream
from drawstream.testing import check_row_sampler, check_stream

ROWS = 200


def with_losses(losses, **options):
    """An InfoBatch that has seen each row once, at about the given losses."""
    pruning = InfoBatch(len(losses), **{"epochs": 8, "seed": 3, **options})
    margins = np.log(np.expm1(np.asarray(losses, float)))
    pruning.observe(np.arange(len(losses)), np.stack([np.zeros(len(losses)), margins], axis=1), [0] * len(losses))
    pruning.reduce()
    return pruning


def uneven(seed=0):
    return with_losses(np.random.default_rng(seed).exponential(size=ROWS) + 0.01)


@pytest.mark.parametrize(("n", "ratio"), [(1, 0.5), (3, 0.5), (4, 0.25), (5, 0.625), (5, 0.875), (6, 0.5)])
def test_unbiased_by_enumeration(n, ratio):
    """Over all orders of the places and all coins each row is kept 1 - r of the time: times 1 / (1 - r) that is 1."""
    kept, outcomes = [Fraction(0)] * n, 0
    for order in permutations(range(n)):
        for coin in range(8):
            outcomes += 1
            for row in keep_part(np.array(order, np.uint64), ratio, coin / 8):
                kept[row] += 1
    weight = 1 / Fraction(1 - ratio)
    assert [weight * count / outcomes for count in kept] == [1] * n


@pytest.mark.parametrize("ratio", [0.0, 0.3, 0.5, 0.9])
def test_as_many_as_the_ratio_says(ratio):
    for n in (0, 1, 7, 100):
        for coin in (0.0, 0.4, 1 - 2.0**-53):
            found = keep_part(np.random.default_rng(n).permutation(n).astype(np.uint64), ratio, coin)
            assert len(set(found.tolist())) == len(found) and abs(len(found) - (1 - ratio) * n) < 1


def test_an_epoch():
    pruning = uneven()
    losses = pruning._scores
    below = losses < losses.mean()
    for epoch in range(1, 7):
        stream = pruning.stream(epoch)
        order = stream.epoch(epoch)
        rows, weights = order[0 : len(order)], order.weights(0, len(order))
        assert np.array_equal(np.sort(rows), pruning.epoch_rows(epoch)) and not np.array_equal(np.sort(rows), rows)
        assert set(np.flatnonzero(~below)) <= set(rows.tolist())
        assert np.array_equal(weights, np.where(below[rows], np.float32(2), np.float32(1)))
        assert abs(below[rows].sum() - below.sum() / 2) < 1
        assert stream.draws == len(rows) < ROWS and stream.rows == ROWS
    epochs = [tuple(pruning.epoch_rows(epoch)) for epoch in range(1, 7)]
    assert len(set(epochs)) == 6


def test_the_estimate_is_unbiased_over_seeds():
    """The chance as it is drawn, not enumerated: every row comes about half of the time."""
    losses = np.random.default_rng(0).exponential(size=40) + 0.01
    total = np.zeros(40)
    for seed in range(2000):
        pruning = with_losses(losses, seed=seed)
        rows, below = pruning._choose(1)
        total[rows] += np.where(below, 2, 1)
    assert abs(total / 2000 - 1).max() < 4.5 / np.sqrt(2000)


def test_all_rows_at_first_and_at_last():
    pruning = InfoBatch(ROWS, epochs=8)
    assert len(pruning.epoch_rows(0)) == ROWS
    pruning = uneven()
    lengths = [pruning.stream(epoch).draws for epoch in range(8)]
    assert lengths[7] == ROWS and max(lengths[:7]) < ROWS  # 0.875 of 8 epochs are pruned
    assert (pruning.stream(7).epoch(7).weights(0, ROWS) == 1).all()
    assert len(with_losses([1, 2, 3, 4], ratio=0.0).epoch_rows(1)) == 4
    assert len(with_losses([1, 2, 3, 4], share=0.0).epoch_rows(0)) == 4


def test_below_the_mean_is_strict_and_unseen_rows_stay():
    assert with_losses([1.0, 1.0, 1.0]).below_mean().tolist() == [False] * 3
    pruning = InfoBatch(4, epochs=8)
    pruning.observe([0, 1], [[0.0, 3.0], [3.0, 0.0]], [0, 0])
    pruning.reduce()
    assert pruning.below_mean().tolist() == [False, True, False, False]  # the mean is that of rows 0 and 1


def test_the_mean_of_many_large_losses_does_not_wrap():
    pruning = InfoBatch(1 << 15, epochs=8)
    pruning._scores[:] = 1 << 50
    pruning._scores[0] = (1 << 50) - 1
    assert np.flatnonzero(pruning.below_mean()).tolist() == [0]
    pruning._scores[0] = (1 << 50) + 1
    assert pruning.below_mean().sum() == (1 << 15) - 1


def test_the_last_loss_counts_and_rows_left_out_keep_theirs():
    pruning = with_losses([1.0, 2.0, 3.0])
    before = pruning._scores.copy()
    pruning.observe([1, 1, 2], [[0.0, 0.0], [0.0, 0.0], [9.0, 0.0]], [0, 0, 0], [1, 1, 0])
    pruning.reduce()
    assert pruning._scores[0] == before[0] and pruning._scores[2] == before[2]
    assert abs(pruning._scores[1] * 2.0**-36 - np.log(2)) < 1e-10


def test_the_contract():
    options = {"epochs": 8, "share": 1.0, "seed": 3}
    others = [lambda: InfoBatch(31, **options), lambda: InfoBatch(30, ratio=0.4, **options)]
    check_row_sampler(lambda: InfoBatch(30, **options), within_epoch=True, others=others)


def test_the_stream_is_one_like_others():
    pruning = uneven()
    assert isinstance(pruning.stream(1), IndexStream)
    check_stream(pruning.stream(1), epochs=[1], others=[pruning.stream(4)])


def test_errors():
    for options in ({"epochs": 0}, {"epochs": 3, "ratio": 1.0}, {"epochs": 3, "share": 1.1}):
        with pytest.raises(ValueError, match="epochs >= 1, 0 <= ratio < 1 and 0 <= share <= 1 must hold"):
            InfoBatch(4, **options)
    with pytest.raises(ValueError, match="a seed or an epoch must be in"):
        InfoBatch(4, epochs=1, seed=-1)
    with pytest.raises(ValueError, match="epoch >= 0 must hold, but got -1"):
        InfoBatch(4, epochs=1).epoch_rows(-1)


def test_examples():
    assert doctest.testmod(infobatch).failed == 0
