"""p-SGD, c-SGD and InfoBatch: decisions against the authors' code and papers, by enumeration; state, ranks."""

from fractions import Fraction
from itertools import permutations

import numpy as np
import pytest

from drawstream import CSGD, PSGD, IndexStream, InfoBatch, RowSampler
from drawstream.samplers.methods import UNIT
from drawstream.samplers.methods.infobatch import keep_part
from drawstream.testing import check_row_sampler, check_stream
from shared.refusals import refused

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
        refused(f"a state must be of the same {key}, but it has .* and here it is", other.load_state_dict, state)
    sampler = PSGD(4)
    for broken in (None, np.zeros((4, 2)), np.zeros((3, 2), np.int64)):
        with pytest.raises(
            ValueError, match=r"the state's pending must be int64 \(4, 2\), but it is .*: it is damaged"
        ):
            sampler.load_state_dict({**state, "pending": broken})
    refused("uniform_epochs >= 0 must hold, but got -1", PSGD, 4, uniform_epochs=-1)


def test_values_are_whole_units():
    sampler = PSGD(4)
    sampler.observe([0, 0], logits([0.9, 0.3]), [0, 0])
    sampler.reduce()
    units = sampler.importance()[0] * 2 / UNIT
    assert units == round(units)


COUNT = 200


def with_losses(losses, **options):
    """An InfoBatch that has seen each row once, at about the given losses."""
    pruning = InfoBatch(len(losses), **{"epochs": 8, "seed": 3, **options})
    margins = np.log(np.expm1(np.asarray(losses, float)))
    pruning.observe(np.arange(len(losses)), np.stack([np.zeros(len(losses)), margins], axis=1), [0] * len(losses))
    pruning.reduce()
    return pruning


def uneven(seed=0):
    return with_losses(np.random.default_rng(seed).exponential(size=COUNT) + 0.01)


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
        assert stream.draws == len(rows) < COUNT and stream.rows == COUNT
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
    pruning = InfoBatch(COUNT, epochs=8)
    assert len(pruning.epoch_rows(0)) == COUNT
    pruning = uneven()
    lengths = [pruning.stream(epoch).draws for epoch in range(8)]
    assert lengths[7] == COUNT and max(lengths[:7]) < COUNT  # 0.875 of 8 epochs are pruned
    assert (pruning.stream(7).epoch(7).weights(0, COUNT) == 1).all()
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


def test_the_contract_of_infobatch():
    options = {"epochs": 8, "share": 1.0, "seed": 3}
    others = [lambda: InfoBatch(31, **options), lambda: InfoBatch(30, ratio=0.4, **options)]
    check_row_sampler(lambda: InfoBatch(30, **options), within_epoch=True, others=others)


def test_the_stream_is_one_like_others():
    pruning = uneven()
    assert isinstance(pruning.stream(1), IndexStream)
    check_stream(pruning.stream(1), epochs=[1], others=[pruning.stream(4)])


def test_errors():
    for options in ({"epochs": 0}, {"epochs": 3, "ratio": 1.0}, {"epochs": 3, "share": 1.1}):
        refused("epochs >= 1, 0 <= ratio < 1 and 0 <= share <= 1 must hold", InfoBatch, 4, **options)
    refused("a seed or an epoch must be in", InfoBatch, 4, epochs=1, seed=-1)
    refused("epoch >= 0 must hold, but got -1", lambda: InfoBatch(4, epochs=1).epoch_rows(-1))
