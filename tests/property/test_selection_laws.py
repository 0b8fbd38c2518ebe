"""Laws of the methods of budgeted training: what their choices depend on, and what they do not."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from drawstream.samplers.methods import CSGD, DLIS, PSGD, InfoBatch, OrderedSGD, RHOLoss, SelectiveBackprop
from drawstream.samplers.methods.dlis import draw_weighted, share_out
from drawstream.testing import check_row_sampler

ROWS, CLASSES = 9, 3
LOSSES = st.lists(st.integers(0, 20), min_size=1, max_size=60).map(lambda xs: np.array(xs, float) / 4)
MAKERS = (
    lambda: PSGD(ROWS),
    lambda: CSGD(ROWS, paper=True, smoothing=False),
    lambda: InfoBatch(ROWS, epochs=99),
)


@st.composite
def epochs(draw):
    """A few epochs of visits: ids, logits, labels and weights each."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    found = []
    for n in draw(st.lists(st.integers(0, 24), min_size=1, max_size=3)):
        z = (10.0 ** rng.integers(-3, 4, (n, 1)) * rng.standard_normal((n, CLASSES))).astype(np.float32)
        found.append((rng.integers(0, ROWS, n), z, rng.integers(0, CLASSES, n), rng.integers(0, 3, n) / 2))
    return found


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 5), st.sampled_from(MAKERS))
def test_batches_ranks_and_restarts_change_no_bit(seed, epochs, make):
    check_row_sampler(make, epochs=epochs, within_epoch=True, seed=seed)


@settings(max_examples=60, deadline=None)
@given(epochs(), st.booleans(), st.booleans(), st.sampled_from([PSGD, CSGD]))
def test_probabilities_are_positive_and_sum_to_1(visits, paper, smoothing, kind):
    sampler = kind(ROWS, paper=paper, smoothing=smoothing)
    for columns in visits:
        sampler.observe(*columns)
        sampler.reduce()
        p = sampler.probabilities(1)
        assert (p > 0).all() and abs(p.sum() - 1) < 1e-8
        if smoothing:
            assert p.min() > 0.4999 / ROWS  # at worst half of the mean
            least = kind(ROWS, paper=paper, smoothing=False)
            least.load_state_dict({**sampler.state_dict(), "smoothing": False})
            if least.importance().any():
                assert np.allclose(p, (least.probabilities(1) + 1 / ROWS) / 2)


@settings(max_examples=100, deadline=None)
@given(st.lists(LOSSES, min_size=1, max_size=6), st.floats(0.05, 1), st.integers(1, 70))
def test_selective_backprop_sees_ranks_only(batches, budget, history):
    """Any rising function of the losses leaves the choice as it is."""
    plain, bent = (SelectiveBackprop(budget=budget, history=history) for _ in range(2))
    for step, losses in enumerate(batches):
        a = plain.select(losses, epoch=step // 2, step=step)
        b = bent.select(np.exp(losses) * 3 - 100, epoch=step // 2, step=step)
        assert a.indices.tolist() == b.indices.tolist()


@settings(max_examples=100, deadline=None)
@given(LOSSES, st.integers(0, 4), st.randoms())
def test_ordered_sgd_keeps_the_largest(losses, halvings, random):
    selector = OrderedSGD()
    selector.halvings = halvings
    kept = selector.select(losses).indices
    assert kept.size == max(1, losses.size >> halvings) and np.array_equal(np.unique(kept), kept)
    left = np.delete(losses, kept)
    assert not left.size or losses[kept].min() >= left.max()
    order = np.array(random.sample(range(losses.size), losses.size))
    assert sorted(losses[order][selector.select(losses[order]).indices]) == sorted(losses[kept])


@settings(max_examples=100, deadline=None)
@given(LOSSES, st.integers(0, 60), st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=20))
def test_dlis_draws_what_its_weights_say(scores, power, numbers):
    shares = np.empty(scores.size)
    gain = share_out(scores, shares)
    assert abs(shares.sum() - 1) < 1e-12 and 1 - 1e-12 <= gain <= np.sqrt(scores.size) + 1e-12
    rows, weights = draw_weighted(shares, np.array(numbers))
    assert (shares[rows] > 0).all() and np.allclose(weights * shares[rows] * scores.size, 1, rtol=1e-6)
    scaled = np.empty(scores.size)
    assert share_out(scores * 2.0**-power, scaled) == gain and np.array_equal(scaled, shares)


@settings(max_examples=60, deadline=None)
@given(st.lists(LOSSES, min_size=1, max_size=12), st.integers(2, 5))
def test_dlis_keeps_all_or_a_part(batches, factor):
    selector = DLIS(factor=factor, memory=0.5)
    for step, scores in enumerate(batches):
        on = selector.active
        found = selector.select(scores, epoch=0, step=step)
        assert len(found.indices) == (max(1, scores.size // factor) if on else scores.size)


@settings(max_examples=60, deadline=None)
@given(LOSSES, st.integers(2, 5), st.integers(-8, 8))
def test_rho_sees_differences_only(losses, factor, shift):
    fixed = np.arange(losses.size, dtype=np.float32) / 8
    ids = np.arange(losses.size)
    a = RHOLoss(fixed, factor=factor).select(losses, ids=ids)
    b = RHOLoss(fixed + np.float32(shift), factor=factor).select(losses + shift, ids=ids)
    assert a.indices.tolist() == b.indices.tolist()


@settings(max_examples=60, deadline=None)
@given(epochs(), st.sampled_from([0.0, 0.25, 0.5, 0.9]), st.integers(0, 2**64 - 1))
def test_infobatch_keeps_the_hard_rows(visits, ratio, seed):
    pruning = InfoBatch(ROWS, epochs=8, ratio=ratio, seed=seed)
    for columns in visits:
        pruning.observe(*columns)
        pruning.reduce()
    below = pruning.below_mean()
    for epoch in range(8):
        stream = pruning.stream(epoch)
        rows = stream.epoch(epoch)[0 : stream.draws]
        assert np.unique(rows).size == rows.size and set(np.flatnonzero(~below)) <= set(rows.tolist())
        weights = stream.epoch(epoch).weights(0, rows.size)
        if epoch == 7 or ratio == 0:
            assert rows.size == ROWS and (weights == 1).all()
        else:
            assert np.allclose(weights, np.where(below[rows], 1 / (1 - ratio), 1))
            assert abs(below[rows].sum() - (1 - ratio) * below.sum()) < 1
