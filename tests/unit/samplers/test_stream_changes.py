"""Streams that a training changes: new weights, samplers that learn, and states from which the same rows come again."""

import copy
import os
import pickle
import signal
import threading
import warnings

import numpy as np
import pytest

from drawstream import PSGD, IndexStream
from shared.refusals import refused

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


@pytest.mark.parametrize("look", ["before", "after", "twice", "evaluation"])
@pytest.mark.parametrize("mode", MODES)
def test_looks_at_other_epochs_leave_the_running_one_in_the_state(mode, look):
    stream = make(mode)
    running = stream.epoch(3)
    if look in ("before", "twice"):
        stream.epoch(4)
    stream.update(LATER)
    for epoch in {"before": (), "after": (4,), "twice": (5, 6, 7), "evaluation": (0,)}[look]:
        stream.epoch(epoch)
    again = make(mode)
    again.load_state_dict(stream.state_dict(3))
    assert rows(again, 3) == running[:].tolist() == rows(make(mode), 3)
    assert [rows(again, epoch) for epoch in (4, 5)] == [rows(stream, epoch) for epoch in (4, 5)]
    assert rows(again, 9) == rows(make(mode, LATER), 9)


def test_epochs_that_are_over_are_not_in_the_state():
    stream = make()
    order = stream.epoch(3)
    stream.update(LATER)
    assert stream.state_dict(4).keys() == {"weights"} and len(order) == 100
    learner = make(weights=Hardest())
    learner.epoch(3)
    assert learner.state_dict(3)["epochs"].keys() == {"3"} and learner.state_dict(4).keys() == {"sampler"}


def test_a_state_holds_weights_however_many_and_can_always_be_loaded():
    many = 5_000_000
    stream = IndexStream(np.ones(many), draws=100)
    order = stream.epoch(0)
    stream.update(np.arange(many) + 1.0)
    stream.update(np.arange(many) % 7 + 1.0)
    again = IndexStream(np.ones(many), draws=100)
    again.load_state_dict(stream.state_dict())
    for epoch in (0, 1):
        assert rows(again, epoch) == rows(stream, epoch)
    assert rows(again, 0) == order[:].tolist()


@pytest.mark.parametrize(
    ("stream", "text"),
    [
        (
            IndexStream(ROWS),
            "other weights are for a stream of weights, as np.ones.rows., but this one is of mode 'permutation'",
        ),
        (IndexStream(PSGD(ROWS)), "but this one is of a row sampler"),
    ],
)
def test_streams_without_weights_of_their_own_are_not_updated(stream, text):
    refused(text, stream.update, LATER)


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
    refused(text, stream.update, weights)
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


def test_a_row_sampler_without_a_state_is_to_give_the_same_weights():
    stream = make(weights=Stateless(LATER))
    stream.epoch(4)
    state = stream.state_dict(5)
    again = make(weights=Stateless(LATER))
    again.load_state_dict(state)
    assert rows(again, 4) == rows(stream, 4)
    other = make(weights=Stateless(FIRST))
    with pytest.warns(UserWarning, match="Stateless gives other weights for epoch 4 than when the state was saved"):
        other.load_state_dict(state)
    assert rows(other, 4) == rows(stream, 4) and rows(other, 5) == rows(make(), 5)


def test_a_state_of_a_learner_is_for_learners():
    learns, plain = make(weights=Hardest()), make()
    learns.epoch(0)
    with pytest.raises(ValueError, match="a state of a row sampler that learns is for a stream over such a one only"):
        plain.load_state_dict(learns.state_dict())
    plain.update(LATER)
    refused("a state of a row sampler that learns", lambda: learns.load_state_dict(plain.state_dict()))


@pytest.mark.parametrize("take", [copy.deepcopy, lambda stream: pickle.loads(pickle.dumps(stream))])
@pytest.mark.parametrize("mode", MODES)
def test_a_copy_of_a_changed_stream_has_the_same_orders(mode, take):
    stream = make(mode)
    running = stream.epoch(0)
    stream.update(LATER)
    copied = take(stream)
    assert copied.fingerprint == stream.fingerprint
    assert rows(copied, 0) == running[:].tolist() == rows(make(mode), 0)
    assert rows(copied, 2) == rows(make(mode, LATER), 2)
    assert copied.state_dict().keys() == {"weights", "epochs"}


@pytest.mark.parametrize(
    ("state", "text"),
    [
        ({"epoch": 0}, "a state of a stream holds sampler, weights and epochs, but got 'epoch'"),
        ({"epochs": {"x": None}}, "an epoch of a stream's state is a number, but got 'x'"),
        ({"epochs": {str(2**64): None}}, r"0 <= epoch < 2\*\*64 must hold"),
        ({"epochs": {"0": [1.0]}}, "a stream keeps its 200 rows, but got 1 weights"),
        ({"weights": [-1.0] * ROWS}, ">= 0"),
    ],
)
def test_bad_states_change_nothing(state, text):
    stream = make()
    stream.update(LATER)
    refused(text, stream.load_state_dict, state)
    assert rows(stream, 0) == rows(make(weights=LATER), 0)


def test_weights_in_a_state_are_for_a_stream_of_weights():
    refused("this one is of mode 'permutation'", lambda: IndexStream(ROWS).load_state_dict({"weights": LATER}))


def test_a_class_is_no_row_sampler():
    refused(r"needs an object, but got the class PSGD: make one, as PSGD\(rows\)", IndexStream, PSGD, error=TypeError)


class Slow:
    """A sampler that is asked by a thread at the time of a fork."""

    def __init__(self):
        self.begun, self.go = threading.Event(), threading.Event()

    def probabilities(self, epoch):
        if epoch == 1 and threading.current_thread().name == "drawstream-epoch":
            self.begun.set()
            self.go.wait(30)
        return LATER


def test_a_child_that_was_forked_while_an_epoch_is_set_up_does_not_wait_for_it():
    sampler = Slow()
    stream = make(weights=sampler)
    expected = rows(make(weights=LATER), 1)
    ahead = stream.prepare(1)
    assert sampler.begun.wait(10)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if not child:
        signal.alarm(20)
        os._exit(0 if rows(stream, 1) == expected else 1)
    sampler.go.set()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert ahead.result()[:].tolist() == expected
