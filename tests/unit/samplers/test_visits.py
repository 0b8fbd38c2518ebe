"""Visits: measures against log-softmax in long doubles, sums, what does not count, and what is refused."""

import numpy as np
import pytest
import torch

from drawstream.samplers.methods.visits import FULL, UNIT, Visits, exponentiate, to_array


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
    with pytest.raises(ValueError, match=message):
        visits.observe(*given)
    assert not visits.sums.any()


def test_shapes():
    ids, z, y = batch()
    visits = Visits(20, measure="uncertainty")
    for wrong in ((ids[1:], z, y), (ids, z[:, :1], y), (ids, z, y[1:]), (ids, z.T, y), (ids, z, y, np.ones(3))):
        with pytest.raises(ValueError, match="must fit, but got"):
            visits.observe(*wrong)
    with pytest.raises(ValueError, match="rows >= 1 must hold, but got 0"):
        Visits(0, measure="uncertainty")
    with pytest.raises(ValueError, match=r"int64 \(20, 2\), but gave float64 \(20, 2\)"):
        visits.take(lambda sums: sums * 1.0)


def test_an_empty_batch():
    visits = Visits(3, measure="uncertainty")
    visits.observe(np.empty(0, int), np.empty((0, 4), np.float32), np.empty(0, int))
    assert not visits.sums.any()
