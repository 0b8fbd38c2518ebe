"""Capped draws: the laws of a stream, the contrast that is realised, and batches without enough wanted rows."""

import numpy as np
import pytest

from drawstream.samplers.orders import Capped, IndexStream
from drawstream.testing import check_stream
from shared.refusals import refused


def capped(weights, draws=90, batch=16, factor=2, seed=3):
    return IndexStream(Capped(weights, draws, batch=batch, factor=factor), seed=seed)


def test_it_is_a_stream():
    weights = np.random.default_rng(0).random(50)
    others = [capped(weights, seed=4), capped(weights, batch=15), capped(weights, factor=3), capped(weights[::-1])]
    check_stream(capped(weights), others=[*others, IndexStream(weights, draws=90, seed=3)])
    assert capped(weights * 8).epoch(2)[:].tolist() == capped(weights).epoch(2)[:].tolist()


def test_every_batch_is_a_part_of_the_rows_that_came_uniformly_in_their_order():
    stream, uniform = capped(np.arange(1, 51.0)), IndexStream(50, seed=3, draws=180)
    given, kept = uniform.epoch(1)[:].tolist(), stream.epoch(1)[:].tolist()
    for batch in range(6):
        came = iter(given[32 * batch : 32 * (batch + 1)])
        assert all(row in came for row in kept[16 * batch : 16 * (batch + 1)])  # a subsequence
    assert len(kept) == 90 and stream.mode == "capped"


@pytest.mark.parametrize(("ratio", "realised"), [(10, 4.9), (100, 21.7)])
def test_half_of_twice_the_rows_caps_the_contrast(ratio, realised):
    """The figures of the guide on crops: two levels, each of half of the rows, 128 of 256 kept."""
    weights = np.where(np.arange(4096) % 2, ratio, 1.0)
    drawn = np.concatenate([capped(weights, 4096, 128).epoch(epoch)[:] for epoch in range(50)])
    counts = np.bincount(drawn % 2)
    assert counts[1] / counts[0] == pytest.approx(realised, rel=0.08)


def test_all_rows_have_their_turn_before_one_comes_twice():
    """Rows that are always wanted come once in each pass over the rows, where stratified draws repeat them."""
    weights = np.r_[np.ones(10), np.full(90, 1e-6)]
    counts = np.bincount(capped(weights, 100, 20).epoch(0)[:], minlength=100)  # of two passes over the rows
    assert counts[:10].tolist() == [2] * 10
    assert np.bincount(IndexStream(weights, seed=3).epoch(0)[:10]).max() > 2


def test_rows_of_weight_0_only_fill_up():
    weights = np.r_[np.ones(8), np.zeros(92)]
    drawn = capped(weights, 50, 50).epoch(0)[:]
    assert set(range(8)) <= set(drawn.tolist()) and len(set(drawn.tolist())) == 50
    filled = [set(capped(weights, 50, 50).epoch(epoch)[:].tolist()) for epoch in range(40)]
    assert set.union(*filled) == set(range(100))  # uniformly
    assert (capped(weights, 40, 4, factor=10).epoch(0)[:] < 8).sum() > 25


@pytest.mark.parametrize(
    ("given", "law"),
    [
        ({"factor": 1}, "factor >= 2 must hold, but got 1"),
        ({"batch": 0}, "draws, batch >= 1 must hold"),
        ({"weights": [0.0, 0.0]}, "weight"),
    ],
)
def test_numbers_out_of_range(given, law):
    refused(law, capped, **{"weights": [1.0, 2.0], **given})


def test_a_law_fixes_its_draws_and_weights():
    law = Capped(np.ones(10), 10, batch=2)
    refused("a capped law fixes mode, window and its 10 draws", IndexStream, law, draws=11)
    refused("this one is of mode 'capped'", lambda: IndexStream(law).update(np.ones(10)))
