"""Label noise by the papers' protocol, and the balanced shuffle."""

import numpy as np
import pytest
from scipy.stats import chisquare

from drawstream.pipeline.shards.label_noise import relabel, stratified_order

LABELS = np.repeat(np.arange(5), [1000, 333, 7, 1, 2000])


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.4, 0.99])
def test_exactly_the_share_of_each_class_changes(rate):
    noisy = relabel(LABELS, rate=rate, classes=5, seed=3)
    for c in range(5):
        changed = (noisy != LABELS)[c == LABELS].sum()
        assert changed == round(rate * (c == LABELS).sum())
    assert noisy.min() >= 0 and noisy.max() < 5


def test_new_labels_are_uniform_over_the_other_classes():
    truth = np.full(40_000, 2)
    noisy = relabel(truth, rate=0.5, classes=5, seed=0)
    counts = np.bincount(noisy[noisy != 2], minlength=5)
    assert counts[2] == 0 and counts.sum() == 20_000
    assert chisquare(counts[[0, 1, 3, 4]]).pvalue > 1e-3


def test_noise_is_keyed():
    first = relabel(LABELS, rate=0.4, classes=5, seed=1)
    assert (relabel(LABELS, rate=0.4, classes=5, seed=1) == first).all()
    assert (relabel(LABELS, rate=0.4, classes=5, seed=2) != first).any()
    assert (relabel(LABELS, rate=0.4, classes=5, seed=1, part=1) != first).any()
    assert (np.sort(LABELS) == LABELS).all()  # the input is left alone


@pytest.mark.parametrize("rate", [-0.1, 1.0, 1.5, float("nan")])
def test_rate_outside_is_refused(rate):
    with pytest.raises(ValueError, match=r"label noise must be in \[0, 1\), but got"):
        relabel(LABELS, rate=rate, classes=5, seed=0)


def test_one_class_cannot_be_noisy():
    with pytest.raises(ValueError, match="needs at least 2 classes, but got 1"):
        relabel(np.zeros(10, np.int64), rate=0.1, classes=1, seed=0)


def test_negative_seed_is_refused():
    with pytest.raises(ValueError, match="a seed must be at least 0, but got -1"):
        stratified_order(LABELS, seed=-1)


def test_every_prefix_is_balanced():
    order = stratified_order(LABELS, seed=0)
    assert (np.sort(order) == np.arange(len(LABELS))).all()
    shares = np.bincount(LABELS) / len(LABELS)
    for n in (10, 100, 1000, 3000):
        assert np.abs(np.bincount(LABELS[order[:n]], minlength=5) - n * shares).max() <= 5


def test_order_within_a_class_is_random():
    labels = np.repeat([0, 1], 5000)
    order = stratified_order(labels, seed=0)
    inner = order[labels[order] == 0]
    assert abs(np.corrcoef(inner, np.arange(5000))[0, 1]) < 0.06  # 4 sigma
    assert (order != stratified_order(labels, seed=1)).mean() > 0.99
