"""Pinned decisions of the methods of budgeted training. A change here changes what saved runs go on with: never edit
the numbers to make the test pass; give the new law another name or format version instead."""

import numpy as np
import pytest

from drawstream.samplers.methods import (
    CSGD,
    DLIS,
    PSGD,
    InfoBatch,
    OrderedSGD,
    RHOLoss,
    SelectiveBackprop,
    forgetting_coreset,
    k_center,
    random_coreset,
)
from drawstream.samplers.orders import IndexStream

N = np.arange(12)
LOGITS = ((N[:, None] * np.array([7, 3, 5]) % 11 - 4) / 4).astype(np.float32)
LABELS = N % 3
LOSSES = (N * 5 % 12 + 1) / 8
LAST_LOSSES = [75496061613, 115467252542, 29745601186]  # units of 2^-36 nats


def learnt(sampler):
    sampler.observe(N[:8], LOGITS[:8], LABELS[:8])
    sampler.reduce()
    sampler.observe(N[4:10], LOGITS[2:8], LABELS[4:10])
    sampler.reduce()
    return sampler


@pytest.mark.parametrize(
    ("sampler", "rows", "probabilities"),
    [
        (PSGD(12), [0, 11, 7, 4, 10], [0.08240056, 0.08938785, 0.092905651]),
        (CSGD(12), [0, 11, 4, 3, 7], [0.090287257, 0.079085873, 0.071280698]),
        (PSGD(12, paper=True), [0, 11, 4, 1, 7], [0.077867754, 0.126488351, 0.041666667]),
        (CSGD(12, paper=True), [0, 11, 4, 1, 7], [0.096100543, 0.083559874, 0.041666667]),
    ],
)
def test_row_samplers(sampler, rows, probabilities):
    learnt(sampler)
    assert IndexStream(sampler, mode="subset", draws=5, seed=7).epoch(2)[0:5].tolist() == rows
    assert np.round(sampler.probabilities(2)[[0, 5, 11]], 9).tolist() == probabilities


def test_sums():
    totals = learnt(PSGD(12)).state_dict()["totals"]
    assert totals[:4].tolist() == [[45812984491, 1], [55915407972, 1], [24144296983, 1], [34392879723, 1]]
    assert learnt(InfoBatch(12, epochs=8)).state_dict()["scores"][:3].tolist() == LAST_LOSSES


def test_infobatch():
    stream = learnt(InfoBatch(12, epochs=8, seed=7)).stream(2)
    order = stream.epoch(2)
    assert order[0 : len(order)].tolist() == [11, 5, 9, 4, 10, 2, 1, 8, 0]
    assert order.weights(0, len(order)).tolist() == [1, 1, 1, 1, 1, 2, 1, 2, 2]


def test_selective_backprop():
    selector = SelectiveBackprop(budget=0.4, seed=7)
    found = [selector.select(LOSSES, epoch=1, step=step).indices.tolist() for step in range(3)]
    assert found == [[2, 4, 7, 11], [2, 6, 7, 9, 11], [2, 7]]


def test_dlis():
    selector = DLIS(memory=0.0, seed=7)
    selector.select(np.r_[np.zeros(13), 1.0], epoch=0, step=0)
    rows, weights = selector.select(np.r_[LOSSES, 40.0, 30.0], epoch=1, step=3)
    assert rows.tolist() == [13, 13, 12, 13] and np.round(weights.astype(float), 5).tolist() == [
        *[0.18988] * 2,
        0.14241,
        0.18988,
    ]
    assert round(selector.gain, 9) == 2.350626912


def test_ordered_sgd_and_rho():
    selector = OrderedSGD()
    selector.set_accuracy(91)
    assert selector.select(LOSSES).indices.tolist() == [2, 7, 9]
    assert RHOLoss(LOSSES[::-1], factor=4).select(LOSSES, ids=N).indices.tolist() == [1, 6, 11]


def test_core_sets():
    assert random_coreset(LABELS, 0.5, seed=7).tolist() == [1, 2, 3, 6, 7, 8]
    assert forgetting_coreset(N % 4, N != 5, 0.5, seed=7).tolist() == [2, 3, 5, 7, 10, 11]
    assert k_center(LOGITS, 0.34, seed=7).tolist() == [0, 1, 3, 8]
