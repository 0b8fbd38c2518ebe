"""Streams that a training changes: new weights, samplers that learn, and states from which the same rows come again."""

import copy
import pickle

import numpy as np
import pytest

import drawstream.samplers.orders.stream as stream_module
from drawstream.samplers import PSGD, IndexStream

ROWS = 200
FIRST = np.linspace(1, 2, ROWS)
LATER = np.where(np.arange(ROWS) < 20, 5.0, 0.1)
LAST = np.where(np.arange(ROWS) >= 150, 5.0, 0.1)
MODES = ["stratified", "multinomial", "subset"]


def make(mode="stratified", weights=FIRST):
    return IndexStream(weights, mode=mode, seed=3, draws=100)


def rows(stream, epoch):
    return stream.epoch(epoch)[:].tolist()


@pytest.mark.parametrize("mode", MODES)
def test_new_weights_count_from_the_next_epoch(mode):
    stream = make(mode)
    assert rows(stream, 0) == rows(make(mode), 0)
    stream.prepare(1).result()  # as the loader does ahead
    stream.update(LATER)
    assert rows(stream, 0) == rows(make(mode), 0)  # the running epoch keeps its order
    for epoch in (1, 2, 5):
        assert rows(stream, epoch) == rows(make(mode, LATER), epoch)
        np.testing.assert_array_equal(
            stream.epoch(epoch).weights(0, 100), make(mode, LATER).epoch(epoch).weights(0, 100)
        )
    assert stream.fingerprint == make(mode).fingerprint


def test_weights_given_are_copied_and_may_be_of_any_kind():
    given = LATER.copy()
    stream = make()
    stream.update(given)
    given[:] = 1
    assert rows(stream, 1) == rows(make(weights=LATER), 1)
    stream.update([1] * ROWS)
    assert rows(stream, 2) == rows(make(weights=np.ones(ROWS)), 2)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("when", ["between", "pending", "twice", "before"])
def test_a_state_gives_the_same_orders(mode, when):
    stream = make(mode)
    epochs = {"between": (1, 2, 3), "pending": (0, 1, 2), "twice": (1, 2, 3), "before": (0, 1, 2)}[when]
    if when != "before":
        stream.epoch(0)
        stream.update(LATER)
    if when in ("between", "twice"):
        stream.epoch(1)
    if when == "twice":
        stream.update(LAST)
    again = make(mode)
    again.load_state_dict(stream.state_dict())
    assert [rows(again, epoch) for epoch in epochs] == [rows(stream, epoch) for epoch in epochs]
    assert again.state_dict().keys() == stream.state_dict().keys()


def test_a_stream_that_does_not_change_has_no_state():
    for stream in (make(), IndexStream(5), IndexStream(FIRST, mode="subset", draws=3)):
        stream.epoch(0)
        assert stream.state_dict() == {}
        stream.load_state_dict({})


def test_an_earlier_state_takes_the_update_back():
    stream = make()
    stream.epoch(0)
    before = stream.state_dict()
    stream.update(LATER)
    stream.epoch(1)
    stream.load_state_dict(before)
    assert [rows(stream, epoch) for epoch in (0, 1)] == [rows(make(), epoch) for epoch in (0, 1)]


def test_many_weights_are_a_digest_and_must_be_given_again(monkeypatch):
    monkeypatch.setattr(stream_module, "_INLINE", 100)
    stream = make()
    stream.update(LATER)
    stream.epoch(1)
    state = stream.state_dict()
    assert isinstance(state["epoch_weights"], str)
    again = make()
    with pytest.raises(
        ValueError, match=f"weights of digest {state['epoch_weights']}, but here it is none: call update"
    ):
        again.load_state_dict(state)
    again.update(LAST)
    with pytest.raises(ValueError, match=r"but here it is [0-9a-f]+: call update"):
        again.load_state_dict(state)
    again.update(LATER)
    again.load_state_dict(state)
    assert rows(again, 1) == rows(stream, 1) and rows(again, 2) == rows(stream, 2)


@pytest.mark.parametrize(
    ("stream", "text"),
    [
        (
            IndexStream(ROWS),
            "update.. is for a stream of weights, as np.ones.rows., but this one is of mode 'permutation'",
        ),
        (IndexStream(PSGD(ROWS)), "but this one is of a row sampler"),
    ],
)
def test_streams_without_weights_of_their_own_are_not_updated(stream, text):
    with pytest.raises(ValueError, match=text):
        stream.update(LATER)


@pytest.mark.parametrize(
    ("weights", "text"),
    [
        (np.ones(ROWS - 1), "a stream keeps its 200 rows, but got 199 weights"),
        (np.full(ROWS, np.nan), "nan"),
        (-FIRST, ">= 0"),
        (np.zeros(ROWS), "0"),
    ],
)
def test_bad_weights_change_nothing(weights, text):
    stream = make()
    with pytest.raises(ValueError, match=text):
        stream.update(weights)
    assert rows(stream, 1) == rows(make(), 1) and stream.state_dict() == {}


class Hardest:
    """A learner whose weights change at once, within an epoch too."""

    def __init__(self):
        self.losses = np.ones(ROWS)

    def probabilities(self, epoch):
        return self.losses

    def observe(self, ids):
        self.losses[ids] += 1

    def state_dict(self):
        return {"losses": self.losses.copy()}

    def load_state_dict(self, state):
        self.losses = state["losses"].copy()


@pytest.mark.parametrize("mode", MODES)
def test_a_learner_and_its_running_epoch_are_restored(mode):
    learner = Hardest()
    stream = make(mode, learner)
    for epoch in range(3):
        order = stream.epoch(epoch)
        learner.observe(order[:50])
    again = make(mode, Hardest())
    again.load_state_dict(stream.state_dict())
    assert rows(again, 2) == rows(stream, 2)  # set up before half of it was observed
    assert rows(again, 3) == rows(stream, 3)


def test_psgd_is_restored():
    logits, labels = np.random.default_rng(0).normal(size=(ROWS, 3)), np.zeros(ROWS, np.int64)
    sampler = PSGD(ROWS)
    stream = IndexStream(sampler, mode="subset", draws=50, seed=1)
    for epoch in range(2):
        ids = stream.epoch(epoch)[:]
        sampler.observe(ids, logits[ids], labels[ids])
        sampler.reduce()
    stream.epoch(2)
    again = IndexStream(PSGD(ROWS), mode="subset", draws=50, seed=1)
    again.load_state_dict(stream.state_dict())
    assert [rows(again, epoch) for epoch in (2, 3)] == [rows(stream, epoch) for epoch in (2, 3)]


class Stateless:
    def __init__(self, weights):
        self.weights = weights

    def probabilities(self, epoch):
        return self.weights


def test_a_row_sampler_without_a_state_must_give_the_same_weights():
    stream = make(weights=Stateless(LATER))
    stream.epoch(4)
    state = stream.state_dict()
    again = make(weights=Stateless(LATER))
    again.load_state_dict(state)
    assert rows(again, 4) == rows(stream, 4)
    with pytest.raises(ValueError, match=r"but here it is .*: restore the row sampler first, or give it state_dict"):
        make(weights=Stateless(FIRST)).load_state_dict(state)


def test_a_state_of_a_learner_is_for_learners():
    learns, plain = make(weights=Hardest()), make()
    learns.epoch(0)
    with pytest.raises(ValueError, match="a state of a row sampler that learns is for a stream over such a one only"):
        plain.load_state_dict(learns.state_dict())
    plain.update(LATER)
    with pytest.raises(ValueError, match="a state of a row sampler that learns"):
        learns.load_state_dict(plain.state_dict())


def test_a_changed_stream_can_be_copied():
    stream = make()
    stream.update(LATER)
    for copied in (copy.deepcopy(stream), pickle.loads(pickle.dumps(stream))):
        assert rows(copied, 2) == rows(make(weights=LATER), 2)
        assert copied.state_dict().keys() == {"epoch", "epoch_weights"}
