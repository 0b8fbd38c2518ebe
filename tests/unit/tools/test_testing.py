"""The contract suite itself: a part that breaks one law is caught, and told by that law with both values."""

import numpy as np
import pytest

from drawstream import PSGD, IndexStream, Order, OrderedSGD, Selected, SelectiveBackprop, Sequential
from drawstream.samplers.orders.order import Batches
from drawstream.testing import check_batch_selector, check_row_sampler, check_stream
from shared.processes import run
from shared.refusals import refused

WEIGHTS = np.arange(40.0)
RNG = np.random.default_rng(0)


class Broken(Batches):
    """A stream that is sound but for what a test replaces."""

    def __init__(self, **parts):
        self.inner = IndexStream(WEIGHTS, seed=1, draws=60)
        self.rows, self.draws, self.parts, self.seen = 40, 60, parts, 0

    @property
    def fingerprint(self):
        return self.parts.get("fingerprint", lambda _: self.inner.fingerprint)(self)

    def epoch(self, epoch):
        return self.parts.get("epoch", lambda each, epoch: Order(Positions(each, epoch), 60))(self, epoch)

    def batch(self, epoch, step, **options):
        whole = super().batch(epoch, step, **options)
        return self.parts.get("batch", lambda rows, **_: rows)(whole, **options)


class Positions:
    def __init__(self, stream, epoch):
        self.stream, self.order = stream, stream.inner.epoch(epoch)

    def fill(self, start, out):
        out[:] = self.order[start : start + out.size]
        self.stream.parts.get("fill", lambda *_: None)(self.stream, start, out)

    def importance(self, start, rows):
        weights = self.order.weights(start, start + rows.size)
        return self.stream.parts.get("importance", lambda start, rows, weights: weights)(start, rows, weights)


def last_position(stream, start, out):
    if out.size == 1:
        out[0] = (out[0] + 1) % 40


def drawn_again(stream, epoch):
    stream.seen += epoch == 2
    return stream.inner.epoch(epoch + 10 * (epoch == 0 and stream.seen > 1))


def loses_a_row(_, start, out):
    if start:
        out[0] = (out[0] + 1) % 40


def out_of_range(*given):
    given[2][0] = 40


def in_the_copy_only(stream, _, out):
    if getattr(stream, "copied", False):
        out[:] = 39 - out


class Copied(Broken):
    def __setstate__(self, state):
        vars(self).update(state, copied=True)


def test_a_sound_stream_passes():
    check_stream(Broken(), weights=WEIGHTS, others=[IndexStream(WEIGHTS, seed=2, draws=60)])
    check_stream(Sequential(2, 9), others=[Sequential(2, 8)])


@pytest.mark.parametrize(
    ("part", "broken", "told"),
    [
        ("epoch", lambda each, _: each.inner.epoch(0)[:], "an epoch is an order: .*: epoch 0 is ndarray"),
        ("epoch", lambda each, _: Order(Positions(each, 0), 59), "epoch 0 has 59 positions, and draws is 60"),
        ("epoch", drawn_again, "on what was drawn before: epoch 0, drawn again after others, has"),
        ("fill", out_of_range, r"rows lie in \[0, N\): epoch 0 holds \d+ and 40 of 40"),
        ("fill", loses_a_row, r"a slice is that slice of the whole: order\[\d+:\d+\] of epoch 0 has .* at place 0"),
        ("fill", last_position, r"a (slice|position) is that .* of the whole: order\[\S+\] of epoch 0 has \d+"),
        ("batch", lambda rows, rank, **_: rows[: -rank or None], "are the global batch: step 0 of epoch 0"),
        ("importance", lambda _, rows, w: w * 2, r"1 / \(N P\): epoch 0, position 0, row \d+ has \S+, but"),
        ("importance", lambda start, _, w: w + start, r"weights of a slice .*: weights of order\[\S+\] of"),
        ("importance", lambda _, rows, w: w.astype(float), r"weights are float32, .*: epoch 0 gives float64 \(60,\)"),
        ("importance", lambda _, rows, w: w * np.nan, "weights are float32, finite .*: epoch 0 has one of nan"),
        ("importance", lambda _, rows, w: -w, "weights are float32, finite and >= 0, .*: epoch 0 has one of -"),
        ("fingerprint", lambda _: "", "a fingerprint is a text: it is ''"),
        ("fingerprint", lambda each: str(id(each)), "equal streams .*: that of a copy is '"),
        ("fingerprint", lambda _: IndexStream(3, seed=5).fingerprint, r"other fingerprints: others\[0\], Index"),
    ],
)
def test_a_broken_stream_is_caught(part, broken, told):
    with pytest.raises(AssertionError, match=told):
        check_stream(Broken(**{part: broken}), weights=WEIGHTS, others=[IndexStream(3, seed=5)])


def test_a_copy_with_other_orders_is_caught():
    with pytest.raises(AssertionError, match="broken law: a copy has the same orders: epoch 2 of a copy has"):
        check_stream(Copied(fill=in_the_copy_only))


def test_rows_of_weight_0_are_caught():
    with pytest.raises(AssertionError, match="a row of weight 0 is never drawn: epoch 0 has row 7 at position"):
        check_stream(Broken(), weights=np.where(np.arange(40) == 7, 0, WEIGHTS))
    with pytest.raises(AssertionError, match=r"those of the rows: weights must be \(40,\), but got \(3,\)"):
        check_stream(Broken(), weights=[1, 2, 3])


class Learner:
    """A sound sampler: draws a row by its visits; tests break a part each."""

    def __init__(self, rows=20):
        self.counts, self.fresh = np.zeros(rows, np.int64), np.zeros(rows, np.int64)

    def probabilities(self, epoch):
        return 1.0 + self.counts

    def observe(self, ids, logits, labels, weights):
        np.add.at(self.fresh, np.asarray(ids)[np.asarray(weights) > 0], 1)

    def reduce(self, total=None):
        self.counts += self.fresh if total is None else total(self.fresh)
        self.fresh[:] = 0

    def state_dict(self):
        return {"kind": "learner", "counts": self.counts.copy(), "fresh": self.fresh.copy()}

    def load_state_dict(self, state):
        if len(state["counts"]) != len(self.counts):
            raise ValueError("other rows")
        self.counts, self.fresh = state["counts"].copy(), state["fresh"].copy()


def learner(kind=Learner, **parts):
    return type("Broken", (kind,), parts)


def keeping(**changes):
    """A sampler whose state is another one."""
    return learner(state_dict=lambda self: Learner.state_dict(self) | {n: make(self) for n, make in changes.items()})


def padded(self, ids, logits, labels, weights):
    np.add.at(self.fresh, np.asarray(ids), 1)


def per_batch(self, *_):
    self.fresh[0] += 1


def halves(self, total=None):
    Learner.reduce(self, None if total is None else lambda mine: total(mine / 2).astype(int))


def uneven(self, total=None):
    type(self).ranks += 1
    Learner.reduce(self, None if total is None or self.ranks % 3 == 0 else total)


def forgets_the_epoch(self, state):
    Learner.load_state_dict(self, state)
    self.fresh[:] = 0


def keeps_the_arrays(self, state):
    self.counts, self.fresh = state["counts"], state["fresh"]


def careless(self, state):
    self.counts, self.fresh = state["counts"].copy(), state["fresh"].copy()


FORGETFUL_WITHIN = learner(load_state_dict=forgets_the_epoch)


def test_sound_samplers_pass():
    check_row_sampler(Learner, within_epoch=True, others=[lambda: Learner(21)])
    check_row_sampler(lambda: PSGD(9), others=[lambda: PSGD(9, paper=True)])
    check_row_sampler(FORGETFUL_WITHIN)  # promises states between epochs only


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        (
            learner(probabilities=lambda self, _: 1.0 + self.counts + self.fresh),
            "what is observed counts from `reduce` on: before it, the answer for epoch 0 has",
        ),
        (learner(observe=padded), "visits of weight 0 count for nothing: the answer for epoch 1 has"),
        (learner(observe=per_batch), "batches change no bit: the answer for epoch 1 has"),
        (
            learner(reduce=lambda self, total=None: Learner.reduce(self)),
            "all ranks draw the same epoch: rank 1 of 3, epoch 1, has",
        ),
        (learner(reduce=halves), "ranks add up int64, whose sum has no order: rank . brings float64"),
        (
            keeping(counts=lambda self: self.counts * 0),
            "restarts between epochs change no bit: the answer for epoch 1 has 1.0 at place",
        ),
        (FORGETFUL_WITHIN, "restarts within epochs change no bit: the answer for epoch 1 has"),
        (keeping(counts=lambda self: self.counts), r"a state is a copy, .*: the state\['counts'\] has"),
        (
            learner(load_state_dict=keeps_the_arrays),
            r"a state is a copy, and stays one where it is loaded: the state\['counts'\] has",
        ),
        (
            keeping(kind=type),
            r"numbers, texts and arrays: the state\['kind'\] is type, which a checkpoint does not hold",
        ),
        (
            learner(load_state_dict=careless),
            r"the state of a part with other options is refused: others\[0\], .* takes it",
        ),
        (
            learner(probabilities=lambda *_: RNG.random(20)),
            "a sampler that is asked twice says the same: the second answer for epoch 0 has",
        ),
        (learner(probabilities=lambda self, _: self.counts - 1), "finite, >= 0, not all 0: they lie between -1 and -1"),
        (object, r"a row sampler has probabilities\(epoch\), .* has neither them nor stream\(epoch\)"),
    ],
)
def test_a_broken_sampler_is_caught(kind, told):
    with pytest.raises(AssertionError, match=f"broken law: .*{told}"):
        check_row_sampler(kind, within_epoch=True, others=[lambda: kind(21)])


def test_ranks_that_do_not_meet_are_caught(monkeypatch):
    monkeypatch.setattr("drawstream.testing.row_samplers._PATIENCE", 0.2)
    with pytest.raises(AssertionError, match="`reduce` calls `total` equally often on every rank"):
        check_row_sampler(learner(reduce=uneven, ranks=0))


class Sound(OrderedSGD):
    """A sound selector with a counter; tests break a part each."""

    def __init__(self):
        super().__init__()
        self.halvings, self.steps = 1, [0]

    def state_dict(self):
        return super().state_dict() | {"steps": [*self.steps]}

    def load_state_dict(self, state):
        super().load_state_dict(state)
        self.steps = [*state["steps"]]


def choosing(change):
    class Changed(Sound):
        def select(self, scores, **options):
            self.steps[0] += 1
            return Selected(*change(self, scores, *super().select(scores, **options)))

    return Changed


def spoil(self, scores, indices, weights):
    scores[0] = 0
    return indices, weights


def having(**parts):
    return type("Having", (Sound,), parts)


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        (object, "the surface of BatchSelector: object lacks a part of it"),
        (having(factor=0), "factor must be a whole number >= 1, but is 0"),
        (having(scores="margin"), "scores must be 'loss' or 'grad_norm', but is 'margin'"),
        (having(before=None), "before must be True or False, but is None"),
        (choosing(lambda _, s, i, w: (i.astype(np.int32), w)), r"step 0 gives int32 \(48,\) and float32 \(48,\)"),
        (choosing(lambda _, s, i, w: (i, w[:-1])), r"step 0 gives int64 \(48,\) and float32 \(47,\)"),
        (choosing(lambda _, s, i, w: (i + 90, w)), r"step 0 chooses places from \d+ to 18\d of 96"),
        (choosing(lambda _, s, i, w: (i, -w)), "weights are finite and >= 0: step 0 has one of -1.0 or -1.0"),
        (choosing(lambda _, s, i, w: (RNG.permutation(i), w)), "selectors made alike choose alike: the choice of"),
        (choosing(lambda _, s, i, w: (i[: 9 + isinstance(s, list)], w[: 9 + isinstance(s, list)])), "a list of scores"),
        (choosing(spoil), "scores are left as they were: the scores of step 0 has 0.0 at place 0"),
        (
            having(state_dict=lambda self: {"selector": "osgd", "halvings": 0, "steps": [0]}),
            "goes on with the same choices: the choice",
        ),
        (having(load_state_dict=lambda self, state: None), r"a part with other options is refused: others\[0\]"),
        (
            having(state_dict=lambda self: OrderedSGD.state_dict(self) | {"steps": self}),
            "is Having, which a checkpoint does not hold",
        ),
    ],
)
def test_a_broken_selector_is_caught(kind, told):
    refused(f"broken law: .*{told}", check_batch_selector, kind, error=AssertionError, others=[kind])


def test_sound_selectors_pass():
    by_steps = choosing(lambda each, _, i, w: (i[: each.steps[0]], w[: each.steps[0]]))
    check_batch_selector(by_steps, others=[lambda: SelectiveBackprop(budget=0.5)])


def test_a_state_that_is_no_copy_and_bad_scores_are_caught():
    class Aliased(Sound):
        def state_dict(self):
            return super().state_dict() | {"steps": self.steps}

        def select(self, scores, **options):
            self.steps[0] += 1
            return super().select(scores, **options)

    with pytest.raises(AssertionError, match=r"a state is a copy, .*\['steps'\]\[0\] has 25, but it must be 0"):
        check_batch_selector(Aliased)

    class Takes(Sound):
        def select(self, scores, **options):
            given = np.asarray(scores.detach() if hasattr(scores, "detach") else scores)
            return super().select(np.nan_to_num(given), **options)

    refused("not finite are refused: scores with nan are taken", check_batch_selector, Takes, error=AssertionError)


def test_the_suite_needs_neither_torch_nor_pytest():
    code = """
import sys
sys.modules.update(torch=None, pytest=None)
import importlib.util
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "torch" else find(name, *rest)
from drawstream import PSGD, IndexStream, SelectiveBackprop
from drawstream.testing import check_batch_selector, check_row_sampler, check_stream
check_stream(IndexStream(9))
check_row_sampler(lambda: PSGD(9))
check_batch_selector(lambda: SelectiveBackprop(budget=0.5))
"""
    run("-c", code)
