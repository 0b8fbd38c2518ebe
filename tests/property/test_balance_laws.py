"""Laws of balanced weights, of their schedules, and of rows left out: exact shares, and counts of whole epochs."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from drawstream import (
    PSGD,
    Balanced,
    Deferred,
    IndexStream,
    Progressive,
    balanced,
    effective_number,
    repeat_factors,
)
from drawstream.samplers.orders import count_rows
from shared.refusals import refused

LAWS = settings(max_examples=80, deadline=None)
LABELS = st.lists(st.integers(0, 5), min_size=1, max_size=60).map(np.array)
GAMMA = st.sampled_from([0.0, 0.25, 0.5, 1.0])


def shares(weights, labels):
    totals = np.bincount(labels, weights=weights)
    return totals / totals.sum()


@LAWS
@given(LABELS, GAMMA, st.data())
def test_a_class_has_its_total_to_the_power_and_rows_keep_their_ratios(labels, gamma, data):
    weights = data.draw(
        arrays.arrays(np.float64, labels.size, elements=st.floats(0, 1e3).filter(lambda x: x != 0 or 1))
    )
    weights[data.draw(st.integers(0, labels.size - 1))] = 1.0
    found = balanced(labels, gamma, weights=weights)
    totals = np.bincount(labels, weights=weights)
    there = totals > 0
    wanted = np.zeros(totals.size)
    wanted[there] = totals[there] ** (1 - gamma)
    assert shares(found, labels) == pytest.approx(wanted / wanted.sum(), rel=1e-9)
    for c in np.flatnonzero(there):
        mine = labels == c
        assert found[mine] / found[mine].sum() == pytest.approx(weights[mine] / totals[c], rel=1e-9)
    if gamma == 0:
        assert np.array_equal(found, weights)


@LAWS
@given(LABELS, st.floats(0, 0.99999))
def test_effective_numbers_are_the_sum_of_the_series(labels, beta):
    found, counts = effective_number(labels, beta), np.bincount(labels)
    for row, c in enumerate(labels):
        assert found[row] == pytest.approx(1 / sum(beta**k for k in range(counts[c])), rel=1e-6)


@LAWS
@given(LABELS)
def test_effective_numbers_go_from_uniform_to_balanced(labels):
    assert set(effective_number(labels, 0.0)) == {1.0}
    nearly, wanted = shares(effective_number(labels, 1 - 1e-9), labels), shares(balanced(labels), labels)
    assert nearly == pytest.approx(wanted, abs=1e-5)


@LAWS
@given(
    arrays.arrays(np.uint8, st.tuples(st.integers(1, 40), st.integers(1, 5)), elements=st.integers(0, 1)),
    st.floats(1e-3, 1),
)
def test_repeat_factors_are_those_of_the_rarest_class_of_a_row(matrix, threshold):
    found, share = repeat_factors(matrix, threshold), matrix.mean(0)
    for row, classes in enumerate(matrix):
        each = [max(1.0, np.sqrt(threshold / share[c])) for c in np.flatnonzero(classes)]
        assert found[row] == pytest.approx(max([1.0, *each]))
    draws = round(found.sum())
    counts = count_rows(IndexStream(found, draws=draws, seed=1).epoch(0), len(found))
    expected = found * draws / found.sum()
    assert ((np.floor(expected - 1e-9) <= counts) & (counts <= np.ceil(expected + 1e-9))).all()


@LAWS
@given(LABELS, st.integers(1, 30))
def test_one_class_a_row_repeats_as_a_matrix_of_one_column_each(labels, epochs):
    matrix = np.eye(6, dtype=int)[labels]
    assert repeat_factors(labels, 0.3) == pytest.approx(repeat_factors(matrix, 0.3))
    sampler = Progressive(balanced(labels), epochs)
    first, last = shares(sampler.probabilities(0), labels), shares(sampler.probabilities(epochs - 1), labels)
    there = np.bincount(labels) > 0
    assert last == pytest.approx(there / there.sum())
    assert epochs == 1 or first == pytest.approx(np.bincount(labels) / labels.size)
    assert np.array_equal(sampler.probabilities(epochs + 5), sampler.probabilities(epochs - 1))
    if epochs > 2:
        t = 1 / (epochs - 1)
        assert shares(sampler.probabilities(1), labels) == pytest.approx((1 - t) * first + t * last)


@LAWS
@given(LABELS, st.integers(0, 6), st.integers(0, 2**32))
def test_deferred_draws_are_uniform_and_then_balanced(labels, start, seed):
    stream = IndexStream(Deferred(balanced(labels), start), seed=seed)
    for epoch in (0, start, start + 3):
        counts = count_rows(stream.epoch(epoch), labels.size)
        drawn = np.bincount(labels, weights=counts)
        if epoch < start:
            assert set(counts) == {1}
        else:
            rows = np.bincount(labels)
            each = labels.size / np.count_nonzero(rows)
            p = each / np.maximum(rows, 1)
            assert (counts >= np.floor(p[labels] - 1e-6)).all() and (counts <= np.ceil(p[labels] + 1e-6)).all()
            assert drawn.sum() == labels.size
    # weight times value estimates the plain mean, whatever is over-drawn
    order = stream.epoch(start)
    wanted = 1 / (labels.size * stream._sampler.probabilities(start))  # its weights sum to 1
    assert order.weights(0, len(order)) == pytest.approx(wanted[order[:]], rel=1e-6)


@LAWS
@given(LABELS, st.sampled_from(["number", "weights", "sampler"]), st.integers(1, 7), st.data())
def test_rows_left_out_are_never_drawn_and_the_others_are_an_epoch(labels, kind, ranks, data):
    rows = labels.size
    where = data.draw(arrays.arrays(np.bool_, rows))
    if not where.any():
        refused("leaves none of", IndexStream, rows, where=where)
        return
    source = {"number": rows, "weights": np.ones(rows), "sampler": Deferred(np.ones(rows), 0)}[kind]
    stream = IndexStream(source, where=where, seed=3)
    assert stream.draws == where.sum() and stream.rows == rows
    for epoch in range(2):
        assert np.array_equal(np.sort(stream.epoch(epoch)[:]), np.flatnonzero(where))
        parts = [stream.batch(epoch, 0, global_batch=8 * ranks, rank=r, world_size=ranks) for r in range(ranks)]
        assert np.array_equal(np.concatenate(parts), stream.epoch(epoch)[: 8 * ranks])
        assert stream.epoch(epoch).weights(0, stream.draws) == pytest.approx(1, rel=1e-6)
    other = where.copy()
    other[np.flatnonzero(where)[0]] = False
    if other.any():
        assert IndexStream(source, where=other, seed=3, draws=stream.draws).fingerprint != stream.fingerprint


def test_a_balanced_learner_keeps_its_state_and_its_surface():
    labels = np.array([0, 0, 0, 1])
    learner = Balanced(PSGD(4), labels, 1.0)
    stream = IndexStream(learner, mode="subset", draws=2)
    assert shares(learner.probabilities(0), labels) == pytest.approx([0.5, 0.5])
    learner.observe(np.arange(4), np.zeros((4, 2), np.float32), labels)
    learner.reduce()
    again = IndexStream(Balanced(PSGD(4), labels, 1.0), mode="subset", draws=2)
    again.load_state_dict(stream.state_dict())
    assert np.array_equal(again.epoch(1)[:], stream.epoch(1)[:])
    assert again.fingerprint == stream.fingerprint
    assert IndexStream(Balanced(PSGD(4), labels, 0.5), mode="subset", draws=2).fingerprint != stream.fingerprint


def test_what_is_refused():
    refused("`0 <= balance <= 1` must hold, but got 1.5", balanced, [0, 1], 1.5)
    refused("classes from 0, but got -1", balanced, [0, -1])
    refused("several labels a row are for repeat_factors", balanced, np.eye(3, dtype=int))
    refused("but got 2 labels and 3 weights", balanced, [0, 1], weights=[1, 1, 1])
    refused("`0 <= beta < 1` must hold, but got 1", effective_number, [0, 1], 1)
    refused("`0 < threshold <= 1` must hold, but got 0", repeat_factors, [0, 1], 0)
    refused("a matrix of 0 and 1", repeat_factors, np.full((2, 2), 2))
    refused("`epochs >= 1` must hold, but got 0", Progressive, [1.0], 0)
    refused("`start >= 0` must hold, but got -1", Deferred, [1.0], -1)
    refused("`where` must be bool", IndexStream, 3, where=[0, 1, 1])
    refused("must say it of 3 rows, but got 2", IndexStream, 3, where=[True, False])
    refused("no row that `where` allows", IndexStream, [0.0, 1.0], where=[True, False])
    refused("mode 'permutation'", IndexStream, 2, mode="permutation", where=[True, False])
