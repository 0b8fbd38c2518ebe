"""p-SGD and c-SGD: decisions against a plain reading of the authors' code and of the paper, state, ranks, options."""

import doctest

import numpy as np
import pytest

from drawstream.samplers.methods import CSGD, PSGD, psgd
from drawstream.samplers.methods.visits import UNIT
from drawstream.samplers.orders import IndexStream, RowSampler
from drawstream.testing import check_row_sampler

ROWS, CLASSES, EPOCHS, BUDGET = 300, 4, 8, 0.3
DRAWS = round(BUDGET * ROWS)
LABELS = np.random.default_rng(1).integers(0, CLASSES, ROWS)


def recorded(epoch):
    """What a model would say of every row in an epoch, float32 (ROWS, CLASSES): some get easy, some stay hard."""
    rng = np.random.default_rng([2, epoch])
    z = rng.standard_normal((ROWS, CLASSES)).astype(np.float32)
    z[np.arange(ROWS), LABELS] += np.linspace(-2, 2, ROWS, dtype=np.float32) * epoch
    return z


class Authors:
    """The authors' code in plain NumPy: running averages, -1 for unseen, smoothing; or the paper's equations."""

    def __init__(self, kind, *, paper=False, smoothing=True, uniform_epochs=0, last_only=False):
        self.kind, self.paper, self.smoothing, self.uniform_epochs = kind, paper, smoothing, uniform_epochs
        self.last_only = last_only
        self.average, self.seen, self.total, self.epochs = -np.ones(ROWS), np.zeros(ROWS), np.zeros(ROWS), 0

    def probabilities(self, epoch):
        if self.paper:
            value = self.total / max(self.epochs, 1)
        else:
            value = self.average.copy()
            if value.max() == -1:
                value *= -1
            value[value == -1] = value.max()
        if self.kind == "c":
            value = value * (1 - value)
        if epoch < self.uniform_epochs or not self.seen.any():
            value = np.ones(ROWS)
        if self.smoothing:
            value = value + value.mean()
        value = value / value.sum()
        value[value == 0] = 1e-10 / ROWS
        return value

    def observe(self, ids, z, y):
        p = np.exp(z.astype(float))
        p /= p.sum(1, keepdims=True)
        for row, correct in zip(ids, p[np.arange(len(y)), y], strict=True):
            wrong = 1 - correct
            self.total[row] += wrong
            known = 0.0 if self.average[row] == -1 else self.average[row]
            self.average[row] = wrong if self.last_only else (self.seen[row] * known + wrong) / (self.seen[row] + 1)
            self.seen[row] += 1

    def reduce(self):
        self.epochs += 1


def run(sampler, epochs=range(EPOCHS), stream=None):
    """Train without a model: draw, observe what is recorded, reduce. The rows of each epoch, in order."""
    stream = stream or IndexStream(sampler, mode="subset", draws=DRAWS, seed=5)
    drawn = []
    for epoch in epochs:
        rows = stream.epoch(epoch)[0:DRAWS]
        for start in range(0, DRAWS, 32):
            part = rows[start : start + 32]
            sampler.observe(part, recorded(epoch)[part], LABELS[part])
        sampler.reduce()
        drawn.append(rows)
    return drawn


@pytest.mark.parametrize("kind", ["p", "c"])
@pytest.mark.parametrize(
    "options",
    [
        *({}, {"paper": True}, {"smoothing": False}, {"paper": True, "smoothing": False}, {"uniform_epochs": 3}),
        *({"last_only": True}, {"last_only": True, "smoothing": False}),
    ],
)
def test_decisions_are_the_reference_s(kind, options):
    sampler, reference = (PSGD if kind == "p" else CSGD)(ROWS, **options), Authors(kind, **options)
    assert isinstance(sampler, RowSampler)
    for ours, theirs in zip(run(sampler), run(reference), strict=True):
        assert np.array_equal(ours, theirs)
    np.testing.assert_allclose(sampler.probabilities(9), reference.probabilities(9), rtol=1e-7, atol=UNIT)
    assert abs(sampler.probabilities(9).sum() - 1) < 1e-9


def test_the_options_make_a_difference():
    laws = {
        str(options): run(kind(ROWS, **options))[-1].tolist()
        for kind, options in (
            *((PSGD, {}), (CSGD, {}), (PSGD, {"paper": True}), (PSGD, {"smoothing": False})),
            (PSGD, {"last_only": True}),
        )
    }
    assert len(set(map(tuple, laws.values()))) == len(laws)


def logits(p):
    """Logits of two classes with p_0 = p."""
    return np.array([[np.log(q / (1 - q)), 0.0] for q in p])


def test_values_by_hand():
    p, c, paper = PSGD(4), CSGD(4), PSGD(4, paper=True)
    for sampler in (p, c, paper):
        assert sampler.probabilities(0).tolist() == [0.25] * 4
        for visits in ([0, 1], [0], [0]):  # row 0 three times, row 1 once, rows 2 and 3 never
            sampler.observe(visits, logits([0.9, 0.6][: len(visits)]), [0] * len(visits))
            sampler.reduce()
    np.testing.assert_allclose(p.importance(), [0.1, 0.4, 0.4, 0.4], rtol=1e-6)
    np.testing.assert_allclose(c.importance(), [0.09, 0.24, 0.24, 0.24], rtol=1e-6)
    np.testing.assert_allclose(paper.importance(), [0.1, 0.4 / 3, 0, 0], rtol=1e-6)
    np.testing.assert_allclose(p.probabilities(3), (np.array([0.1, 0.4, 0.4, 0.4]) + 0.325) / 2.6, rtol=1e-6)
    np.testing.assert_allclose(paper.probabilities(3)[2:], [0.125, 0.125], rtol=1e-6)


def test_rows_that_come_twice_in_an_epoch_stay_within_1():
    sampler = CSGD(3, paper=True, smoothing=False)
    sampler.observe([0, 0, 1], logits([0.2, 0.2, 0.4]), [0, 0, 0])
    sampler.reduce()
    np.testing.assert_allclose(sampler.importance(), [0.16, 0.24, 0], rtol=1e-6)


def test_nothing_counts_before_reduce():
    sampler = PSGD(4)
    sampler.observe([0, 1], logits([0.9, 0.6]), [0, 0])
    assert sampler.probabilities(5).tolist() == [0.25] * 4
    sampler.reduce()
    assert sampler.probabilities(5)[1] > sampler.probabilities(5)[0]


def test_the_first_epochs_are_uniform():
    sampler = PSGD(4, uniform_epochs=3)
    sampler.observe([0, 1], logits([0.9, 0.6]), [0, 0])
    sampler.reduce()
    assert sampler.probabilities(2).tolist() == [0.25] * 4 and sampler.probabilities(3)[0] < 0.25


def test_rows_of_importance_0_can_still_be_drawn():
    sampler = PSGD(10, smoothing=False)
    sampler.observe(np.arange(10), [[900.0, 0.0]] * 9 + [[0.0, 900.0]], [0] * 10)
    sampler.reduce()
    assert sampler.probabilities(1).tolist() == [1e-10 / 10] * 9 + [1.0]
    rows = IndexStream(sampler, mode="subset", draws=3).epoch(1)[0:3]
    assert len(set(rows.tolist())) == 3 and 9 in rows


def test_all_importances_0_is_uniform():
    sampler = CSGD(4)
    sampler.observe([0, 1, 2, 3], [[900.0, 0.0]] * 4, [0, 0, 1, 1])
    sampler.reduce()
    assert sampler.probabilities(1).tolist() == [0.25] * 4


@pytest.mark.parametrize("kind", [PSGD, CSGD])
@pytest.mark.parametrize("options", [{}, {"paper": True, "smoothing": False}])
def test_the_contract(kind, options):
    others = [lambda: kind(31, **options), lambda: kind(30, uniform_epochs=2, **options)]
    check_row_sampler(lambda: kind(30, **options), within_epoch=True, others=others)


def test_a_restored_sampler_draws_the_same_rows():
    whole, between, restored = run(PSGD(ROWS)), PSGD(ROWS), PSGD(ROWS)
    begun = run(between, range(3))
    restored.load_state_dict(between.state_dict())
    rest = run(restored, range(3, EPOCHS))
    assert all(np.array_equal(a, b) for a, b in zip(whole, begun + rest, strict=True))


def test_states_of_others_are_refused():
    state = PSGD(4).state_dict()
    for other, key in (
        (PSGD(5), "rows"),
        (CSGD(4), "sampler"),
        (PSGD(4, paper=True), "paper"),
        (PSGD(4, uniform_epochs=2), "uniform_epochs"),
    ):
        with pytest.raises(ValueError, match=f"a state must be of the same {key}, but it has .* and here it is"):
            other.load_state_dict(state)
    sampler = PSGD(4)
    for broken in (None, np.zeros((4, 2)), np.zeros((3, 2), np.int64)):
        with pytest.raises(
            ValueError, match=r"the state's pending must be int64 \(4, 2\), but it is .*: it is damaged"
        ):
            sampler.load_state_dict({**state, "pending": broken})
    with pytest.raises(ValueError, match="uniform_epochs >= 0 must hold, but got -1"):
        PSGD(4, uniform_epochs=-1)


def test_values_are_whole_units():
    sampler = PSGD(4)
    sampler.observe([0, 0], logits([0.9, 0.3]), [0, 0])
    sampler.reduce()
    units = sampler.importance()[0] * 2 / UNIT
    assert units == round(units)


def test_examples():
    assert doctest.testmod(psgd).failed == 0
