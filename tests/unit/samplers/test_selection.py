"""Batch selectors against plain references on recorded losses; visits against log-softmax in long doubles."""

import doctest
from collections import deque
from itertools import product

import numpy as np
import pytest
import torch

from drawstream.samplers.hashing import derive_keys, random_words
from drawstream.samplers.methods import (
    DLIS,
    OrderedSGD,
    RHOLoss,
    SelectiveBackprop,
    dlis,
    infobatch,
    psgd,
    rho,
    selection,
)
from drawstream.samplers.methods.dlis import draw_weighted, share_out
from drawstream.samplers.methods.visits import FULL, UNIT, Visits, exponentiate, to_array
from drawstream.testing import check_batch_selector
from shared.refusals import refused

SELECTORS = [
    lambda: SelectiveBackprop(budget=0.3, seed=3),
    OrderedSGD,
    lambda: DLIS(seed=3, memory=0.5),
    lambda: RHOLoss(np.random.default_rng(0).random(999), factor=4),
]


def recorded(step, n=96):
    """Losses of a batch, float32 (n,), with ties and a trend."""
    rng = np.random.default_rng([6, step])
    return np.round(rng.exponential(size=n) / (1 + step / 40), 2).astype(np.float32)


def uniform(purpose, seed, epoch, step, n):
    """The numbers a selector draws from; what it does with them is for the references to say."""
    return (random_words(np.arange(n), derive_keys(2, purpose, seed, epoch, step)) >> np.uint64(11)) * 2.0**-53


@pytest.mark.parametrize("n", [1, 96, 300])
@pytest.mark.parametrize(("budget", "history"), [(0.3, 1024), (0.5, 64), (0.9, 1), (1.0, 8)])
def test_selective_backprop_decides_as_the_authors(n, budget, history):
    selector, past = SelectiveBackprop(budget=budget, history=history, seed=3), deque(maxlen=history)
    for epoch, step in product(range(3), range(10)):
        losses = recorded(10 * epoch + step, n)
        kept, weights = selector.select(losses, epoch=epoch, step=step)
        past.extend(losses.tolist())
        draws = uniform("selective backprop", 3, epoch, step, n)
        percentiles = [100 * sum(old < loss for old in past) / len(past) for loss in losses.tolist()]
        expected = [i for i in range(n) if epoch == 0 or draws[i] < (percentiles[i] / 100) ** (1 / budget - 1)]
        assert kept.tolist() == expected and weights.tolist() == [1.0] * len(expected)
        assert kept.dtype == np.int64 and weights.dtype == np.float32


@pytest.mark.parametrize("budget", [0.05, 0.2, 0.5, 1.0])
def test_selective_backprop_keeps_its_budget(budget):
    """Losses of one law: 1 / (b + 1) of the rows, whatever the law; here log-normal."""
    selector, rng = SelectiveBackprop(budget=budget), np.random.default_rng(0)
    steps, n, kept = 500, 128, 0
    for step in range(steps):
        kept += len(selector.select(np.exp(3 * rng.standard_normal(n)), epoch=1, step=step).indices)
    deviation = np.sqrt(budget * (1 - budget) / (steps * n)) + budget / 1024
    assert abs(kept / (steps * n) - budget) < 5 * deviation


def test_selective_backprop_prefers_high_losses():
    selector, counts = SelectiveBackprop(budget=0.25), np.zeros(64)
    for step in range(2000):
        counts[selector.select(np.arange(64.0), epoch=1, step=step).indices] += 1
    ranks = np.arange(64) / 64
    assert abs(counts / 2000 - ranks**3).max() < 4.5 * np.sqrt(0.25 / 2000)


def test_the_first_epoch_fills_the_history():
    selector = SelectiveBackprop(budget=0.1)
    for step in range(8):
        assert len(selector.select(np.full(128, 5.0), epoch=0, step=step).indices) == 128
    assert len(selector.select(np.full(128, 1.0), epoch=1, step=0).indices) == 0  # nothing in the history is below


@pytest.mark.parametrize(
    ("percent", "q"), [(0, 64), (79.99, 64), (80, 32), (90, 16), (94.9, 16), (95, 8), (99.4, 8), (99.5, 4), (100, 4)]
)
def test_ordered_sgd(percent, q):
    losses, selector = recorded(0, 64), OrderedSGD()
    selector.set_accuracy(percent)
    kept, weights = selector.select(losses)
    expected = sorted(sorted(range(64), key=lambda i: (-losses[i], i))[:q])
    assert kept.tolist() == expected and weights.tolist() == [1.0] * q
    selector.set_accuracy(0)  # q never rises again
    assert len(selector.select(losses).indices) == q
    assert len(selector.select(losses[:3]).indices) == max(1, 3 * q // 64)
    whole = OrderedSGD(batch_size=64)  # of which the last batch is short
    whole.set_accuracy(percent)
    for n in (64, 20, 3):
        assert [len(each) for each in whole.select(losses[:n])] == [min(q, n)] * 2


def test_ordered_sgd_takes_the_first_of_equal_losses():
    selector = OrderedSGD()
    selector.set_accuracy(80)
    assert selector.select([1.0, 2.0, 1.0, 1.0]).indices.tolist() == [0, 1]


def test_dlis_is_unbiased_by_enumeration():
    """Every pair of draws, each as often as its probability says: the mean of the estimates is the mean gradient."""
    scores, gradients = np.array([1.0, 2.0, 0.0, 5.0, 8.0]), np.array([0.3, -1.0, 0.0, 4.0, 2.5])
    shares = np.empty(5)
    gain = share_out(scores, shares)
    assert shares.tolist() == [1 / 16, 2 / 16, 0, 5 / 16, 8 / 16]
    assert gain == pytest.approx(np.sqrt(5 * (shares**2).sum()))
    grid = (np.arange(16) + 0.5) / 16
    single = draw_weighted(shares, grid)
    assert np.bincount(single.indices, minlength=5).tolist() == [1, 2, 0, 5, 8]
    estimates = []
    for pair in product(grid, repeat=2):
        rows, weights = draw_weighted(shares, np.array(pair))
        estimates.append((weights.astype(float) * gradients[rows]).mean())
    assert np.mean(estimates) == pytest.approx(gradients.mean(), rel=1e-7)


@pytest.mark.parametrize("ends", [[0.0, 0.0], [0.0, 1 - 2.0**-53], [1 - 2.0**-53, 0.5]])
def test_dlis_never_draws_a_row_of_score_0(ends):
    for scores in ([0.0, 0.1, 0.0, 0.7, 0.0], [0.1] * 10 + [0.0], [0.0, 1e-300]):
        shares = np.empty(len(scores))
        share_out(np.array(scores), shares)
        rows, weights = draw_weighted(shares, np.array(ends))
        assert all(scores[row] > 0 for row in rows) and np.isfinite(weights).all()


def gain(scores):
    """Variance gain as algorithm 1 of the paper writes it."""
    g = np.asarray(scores, float) / np.sum(scores)
    u = 1 / len(g)
    return 1 / np.sqrt(1 - ((g - u) ** 2).sum() / (g**2).sum())


def test_dlis_switches_on_above_the_cost_ratio_and_off_again():
    selector, average, states = DLIS(seed=1), 0.0, []
    flat, uneven = np.full(30, 0.5), np.array([1.0] + [0.001] * 29)
    for step in range(30):
        scores = uneven if step < 15 else flat
        on = average > 2.0  # (3 + 3) / 3
        assert selector.active == selector.before == on
        rows, weights = selector.select(scores, epoch=0, step=step)
        assert len(rows) == len(weights) == (10 if on else 30)
        assert on or (rows.tolist() == list(range(30)) and (weights == 1).all())
        average = 0.9 * average + 0.1 * gain(scores)
        assert selector.gain == pytest.approx(average, rel=1e-12)
        states.append(on)
    assert not states[0] and any(states[:15]) and not states[-1]
    assert DLIS(factor=9).cost == 4


def test_dlis_draws_by_score():
    selector, scores = DLIS(memory=0.0, seed=2), np.array([30.0, 1.0, 2.0, 1.0] + [0.01] * 20)
    selector.select(scores, epoch=0, step=0)
    assert selector.active
    counts = np.zeros(24)
    for step in range(3000):
        rows, weights = selector.select(scores, epoch=1, step=step)
        np.add.at(counts, rows, 1)
        np.testing.assert_allclose(weights, scores.sum() / (24 * scores[rows]), rtol=1e-6)
    shares = scores / scores.sum()
    assert abs(counts / counts.sum() - shares).max() < 4.5 * np.sqrt(0.25 / counts.sum())


def test_dlis_of_zeros_is_uniform():
    selector = DLIS()
    selector.select(np.zeros(9), epoch=0, step=0)
    assert selector.gain == pytest.approx(0.1)


def test_rho_loss():
    fixed = np.random.default_rng(0).random(999).astype(np.float32)
    ids, losses = np.random.default_rng(1).integers(0, 999, 50), recorded(0, 50)
    kept, weights = RHOLoss(fixed, factor=4).select(losses, ids=ids)
    excess = losses.astype(float) - fixed[ids]
    assert kept.tolist() == sorted(np.argsort(-excess, kind="stable")[:12].tolist()) and weights.tolist() == [1.0] * 12
    assert len(RHOLoss(fixed).select(losses[:3], ids=ids[:3]).indices) == 1


@pytest.mark.parametrize("make", SELECTORS)
def test_the_contract(make):
    check_batch_selector(make, others=[other for other in SELECTORS if other is not make])


def test_resume_of_ordered_sgd_after_an_accuracy():
    def warmed():
        selector = OrderedSGD()
        selector.set_accuracy(85)
        return selector

    fresh = OrderedSGD()
    fresh.load_state_dict(warmed().state_dict())
    assert fresh.select(recorded(0)).indices.tolist() == warmed().select(recorded(0)).indices.tolist()
    check_batch_selector(warmed)


@pytest.mark.parametrize("make", [SELECTORS[0], SELECTORS[2]])
def test_chance_depends_on_seed_epoch_and_step_alone(make):
    def choose(epoch, step):
        selector = make()
        for _ in range(12):
            found = selector.select(np.r_[recorded(0), 400.0], epoch=epoch, step=step)
        return tuple(found.indices)

    places = list(product(range(1, 5), range(4)))
    found = [choose(*place) for place in places]
    assert found == [choose(*place) for place in places] and len(set(found)) == len(places)


def test_states_of_others_and_broken_ones_are_refused():
    selector = SelectiveBackprop(budget=0.3)
    selector.select([1.0, 2.0], epoch=0, step=0)
    state = selector.state_dict()
    with pytest.raises(ValueError, match=r"the same budget, but it has 0\.3 and here it is 0\.2"):
        SelectiveBackprop(budget=0.2).load_state_dict(state)
    with pytest.raises(ValueError, match=r"the state's losses must be float64 \(2,\), but it is .*: it is damaged"):
        selector.load_state_dict({**state, "losses": np.zeros(3)})
    with pytest.raises(ValueError, match="a state must be of the same irreducible"):
        RHOLoss([0.1, 0.2]).load_state_dict(RHOLoss([0.1, 0.3]).state_dict())


@pytest.mark.parametrize("make", SELECTORS)
def test_errors_of_select(make):
    with pytest.raises(ValueError, match="scores must be finite, but place 1 has nan: lower the learning rate"):
        make().select([1.0, np.nan], epoch=0, step=0, ids=[0, 1])
    for empty in ([], np.zeros((2, 2))):
        refused(r"scores must be \(n,\) with n >= 1", make().select, empty, epoch=0, step=0, ids=[])


def test_errors_of_options():
    for options in ({"budget": 0}, {"budget": 1.1}, {"budget": 0.5, "history": 0}):
        refused("0 < budget <= 1 and history >= 1 must hold", SelectiveBackprop, **options)
    for percent in (-1, 101, np.nan):
        refused(r"0 <= accuracy <= 100 \(percent\) must hold", OrderedSGD().set_accuracy, percent)
    for options in ({"factor": 1}, {"memory": 1.0}):
        refused("factor >= 2 and 0 <= memory < 1 must hold", DLIS, **options)
    refused(r"gradient norms must be >= 0, but got -0\.5", lambda: DLIS().select([0.1, -0.5], epoch=0, step=0))
    refused("factor >= 2 must hold, but got 1", RHOLoss, [0.1], factor=1)
    for ids in ([0, 3], [-1, 0], [0]):
        refused(r"ids must be \(2,\) and in \[0, 3\)", RHOLoss([0.1, 0.2, 0.3]).select, [1.0, 2.0], ids=ids)
    for make in (lambda: SelectiveBackprop(budget=0.5, seed=-1), lambda: DLIS(seed=1 << 64)):
        refused("must be in", make)


@pytest.mark.parametrize("module", [selection, dlis, rho, psgd, infobatch])
def test_examples(module):
    assert doctest.testmod(module).failed == 0


def batch(n=64, classes=5, rows=20, scale=4.0, seed=0):
    rng = np.random.default_rng(seed)
    z = (scale * rng.standard_normal((n, classes))).astype(np.float32)
    return rng.integers(0, rows, n), z, rng.integers(0, classes, n)


def exact(z, y):
    """Uncertainty and loss in 80-bit arithmetic, by another formula."""
    z = z.astype(np.longdouble)
    top = z.max(1, keepdims=True)
    p = np.exp(z - top)
    p /= p.sum(1, keepdims=True)
    at = np.arange(len(y))
    others = p.copy()
    others[at, y] = 0
    return others.sum(1), (top - z)[at, y] + np.log(np.exp(z - top).sum(1))


@pytest.mark.parametrize("classes", [2, 5, 1000, 5000])
@pytest.mark.parametrize("scale", [1e-3, 4.0, 60.0])
def test_measures(classes, scale):
    _, z, y = batch(33, classes, 33, scale)
    uncertainty, loss = exact(z, y)
    for visits, expected in ((Visits(33, measure="uncertainty"), uncertainty), (Visits(33, measure="loss"), loss)):
        visits.observe(np.arange(33), z, y)
        np.testing.assert_allclose(visits.sums[:, 0] * UNIT, expected.astype(float), rtol=1e-12, atol=0.51 * UNIT)
        assert (visits.sums[:, 1] == 1).all()


def test_far_logits():
    z = np.array([[3e38, -3e38], [-3e38, 3e38], [0, 0]], np.float32)
    uncertain, lossy = Visits(3, measure="uncertainty"), Visits(3, measure="loss")
    for visits in (uncertain, lossy):
        visits.observe([0, 1, 2], z, [0, 0, 0])
    assert (uncertain.sums[:, 0] * UNIT).tolist() == [0.0, 1.0, 0.5]
    assert (lossy.sums[:2, 0] * UNIT).tolist() == [0.0, 2.0**14]  # a visit counts up to 2^14


def test_exponentials():
    x = -np.concatenate([np.linspace(0, 40, 100_001), np.geomspace(1e-300, 700, 1001)])
    found = x.copy()
    exponentiate(found)
    np.testing.assert_allclose(found, np.exp(x), rtol=4e-13)
    exponentiate(below := np.array([-701.0, -1e300, -np.inf]))
    assert (below < 1e-303).all() and (below >= 0).all()


def test_sums_do_not_depend_on_batches():
    ids, z, y = batch(101)
    whole, parts = Visits(20, measure="loss"), Visits(20, measure="loss")
    whole.observe(ids, z, y)
    for a, b in ((60, 101), (0, 1), (1, 60)):
        parts.observe(ids[a:b], z[a:b], y[a:b])
    assert np.array_equal(whole.sums, parts.sums)
    assert np.array_equal(whole.sums[:, 1], np.bincount(ids, minlength=20))


def test_rows_of_weight_0_may_hold_anything():
    visits = Visits(20, measure="uncertainty")
    ids, z, y = batch(4)
    visits.observe(ids, z, y)
    kept = visits.sums.copy()
    z[1], ids[2], y[3] = np.nan, 99, -1
    visits.observe(ids, z, y, [0.0, 0.0, 0.0, 0.0])
    assert np.array_equal(visits.sums, kept)
    visits.observe(ids[:1], z[:1], y[:1], [0.25])  # any other weight counts once
    assert visits.sums[:, 1].sum() == 5


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_tensors(kind):
    ids, z, y = batch()
    given = torch.from_numpy(z).to(kind).requires_grad_()
    by_tensor, by_array = Visits(20, measure="uncertainty"), Visits(20, measure="uncertainty")
    by_tensor.observe(torch.from_numpy(ids), given, torch.from_numpy(y), torch.ones(len(ids)))
    by_array.observe(ids.tolist(), given.detach().float().numpy()[::-1][::-1], y.astype(np.int32))
    assert np.array_equal(by_tensor.sums, by_array.sums)


def test_arrays_are_read_as_they_lie():
    assert to_array(torch.arange(6).reshape(2, 3).T, np.int64).tolist() == [[0, 3], [1, 4], [2, 5]]
    assert to_array(torch.ones(2, dtype=torch.bool), np.float32).tolist() == [1, 1]


def test_take_ends_the_epoch():
    ids, z, y = batch()
    visits = Visits(20, measure="uncertainty")
    visits.observe(ids, z, y)
    expected = 2 * visits.sums
    assert np.array_equal(visits.take(lambda sums: sums + sums), expected)
    assert not visits.sums.any()


def test_full_sums_stay_full():
    visits = Visits(1, measure="loss")
    visits.sums[0, 0] = FULL - 5
    visits.observe([0, 0], [[0.0, 9.0]] * 2, [0, 0])
    assert visits.sums.tolist() == [[FULL, 2]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ((0, 7, 20), r"ids must be in \[0, 20\), but got 20: is this another catalog\?"),
        ((0, 7, -1), r"ids must be in \[0, 20\), but got -1"),
        ((2, 7, 5), r"labels must be in \[0, 5\), but got 5 for row"),
        ((1, 7, np.nan), "logits must be finite, but those of row .* are not: lower the learning rate"),
        ((1, 7, np.inf), "logits must be finite"),
        ((1, 7, -np.inf), "logits must be finite"),
        ((1, (7, 2), np.nan), "logits must be finite"),
        ((1, (7, 2), -np.inf), "logits must be finite"),
    ],
)
def test_a_faulty_batch_leaves_no_trace(change, message):
    visits, given = Visits(20, measure="uncertainty"), batch()
    column, at, value = change
    given[column][at] = value
    refused(message, visits.observe, *given)
    assert not visits.sums.any()


def test_shapes():
    ids, z, y = batch()
    visits = Visits(20, measure="uncertainty")
    for wrong in ((ids[1:], z, y), (ids, z[:, :1], y), (ids, z, y[1:]), (ids, z.T, y), (ids, z, y, np.ones(3))):
        refused("must fit, but got", visits.observe, *wrong)
    refused("rows >= 1 must hold, but got 0", Visits, 0, measure="uncertainty")
    refused(r"int64 \(20, 2\), but gave float64 \(20, 2\)", visits.take, lambda sums: sums * 1.0)


def test_an_empty_batch():
    visits = Visits(3, measure="uncertainty")
    visits.observe(np.empty(0, int), np.empty((0, 4), np.float32), np.empty(0, int))
    assert not visits.sums.any()
