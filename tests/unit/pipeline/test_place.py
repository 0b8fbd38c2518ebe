"""The place of a loader: mistakes with epochs, looks at one batch, ranks, and frameworks that set the epoch."""

import json

import numpy as np
import pytest
import torch.distributed as dist
from sklearn.datasets import load_digits

from drawstream.pipeline import ArraySource, Catalog, Loader, StreamDataLoader
from drawstream.pipeline.shards.pack import pack
from drawstream.pipeline.torch_sampler import StreamBatchSampler
from drawstream.samplers import IndexStream

DIGITS = load_digits()
WEIGHTS = np.linspace(1, 4, 300)


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    source = ArraySource((DIGITS.images[:300] * 15).astype(np.uint8), DIGITS.target[:300])
    return Catalog.open(pack(source, tmp_path_factory.mktemp("own") / "digits", shard_rows=100).train)


def ids(batches):
    return [row for batch in batches for row in batch.ids.tolist()]


@pytest.fixture
def two_processes(monkeypatch):
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(dist, "get_rank", lambda: 1)


@pytest.mark.parametrize(
    ("rank", "world_size", "text"),
    [
        (0, 2, "this loader was made for rank 0, but this process has rank 1: give rank=torch.distributed.get_rank"),
        (
            1,
            4,
            "torch.distributed has 2 processes, but this loader was made for world_size=4, so some rows are left out",
        ),
    ],
)
def test_another_rank_or_too_many_ranks_warn_once(digits, two_processes, rank, world_size, text):
    loader = Loader(digits, WEIGHTS, batch_size=50, rank=rank, world_size=world_size)
    with pytest.warns(UserWarning, match=text) as caught:
        for epoch in range(2):
            loader.set_epoch(epoch)
            list(loader)
    assert len(caught) == 1


def test_the_first_batch_again_and_again_warns_once(digits):
    loader = Loader(digits, WEIGHTS, batch_size=100)
    with pytest.warns(UserWarning, match=r"first batch of epoch 0 was taken 2 times, .* one iterator") as caught:
        for _ in range(5):
            next(iter(loader))
    assert len(caught) == 1 and caught[0].filename == __file__


def middle(loader, batches):
    """A state of the loader after so many batches."""
    loop = iter(loader)
    for _ in range(batches):
        next(loop)
    return json.loads(json.dumps(loader.state_dict()))


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("done", [1, 2])  # two batches are left, and one
def test_a_look_or_a_failure_in_the_first_batch_keeps_the_restored_place(digits, fails, done):
    state = middle(Loader(digits, WEIGHTS, batch_size=100), done)
    loader = Loader(digits, WEIGHTS, batch_size=100)
    loader.load_state_dict(state)
    if fails:
        with pytest.raises(MemoryError):
            for _ in loader:
                raise MemoryError
    else:
        next(iter(loader))
    assert ids(loader) == IndexStream(WEIGHTS).epoch(0)[100 * done :].tolist()
    loader.load_state_dict(state)
    next(iter(loader))
    loader.set_epoch(0)
    assert loader.state_dict() == state


def test_set_epoch_of_the_running_epoch_keeps_the_place(digits):
    loader = Loader(digits, WEIGHTS, batch_size=100)
    for number, _ in enumerate(loader, 1):
        loader.set_epoch(0)
        assert loader.state_dict()["position"] == 100 * number
        if number == 2:
            break
    again = Loader(digits, WEIGHTS, batch_size=100)
    again.load_state_dict(loader.state_dict())
    for _ in again:
        again.set_epoch(0)
        assert again.state_dict()["position"] == 300
    loader.set_epoch(0)  # no pass is under way any more
    assert loader.state_dict()["position"] == 0


def test_going_ahead_right_after_a_load_warns(digits):
    state = middle(Loader(digits, WEIGHTS, batch_size=100), 1)
    loader = Loader(digits, WEIGHTS, batch_size=100)
    loader.load_state_dict(state)
    with pytest.warns(
        UserWarning, match=r"set_epoch\(1\) right after a state within epoch 0 .* leaves out the 200 rows"
    ):
        loader.set_epoch(1)
    assert loader.state_dict()["position"] == 0
    for options, position in (({}, 300), ({"drop_last": True}, 240), ({}, 0)):
        over = Loader(digits, WEIGHTS, batch_size=80, **options)
        over.load_state_dict(state | {"position": position})
        over.set_epoch(1)  # nothing is left, or nothing was begun


def test_epochs_from_2_to_the_64_are_refused_at_once(digits):
    loader = Loader(digits, WEIGHTS)
    with pytest.raises(ValueError, match=r"`epoch < 18446744073709551616` must hold, but got 18446744073709551616"):
        loader.set_epoch(2**64)
    assert loader.epoch == 0


def test_a_stream_that_is_assigned_is_checked(digits):
    loader = Loader(digits, WEIGHTS, batch_size=100)
    loader.set_epoch(3)
    for rows in (299, 301):
        with pytest.raises(ValueError, match=f"the stream draws from {rows} rows, but there are 300 samples in the"):
            loader.stream = IndexStream(rows)
    loader.stream = WEIGHTS[::-1].tolist()
    assert ids(loader) == IndexStream(WEIGHTS[::-1]).epoch(3)[:].tolist()


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ("data/train", r"a loader takes a catalog, but got 'data/train': open it with Catalog.open\(path\)"),
        (range(9), r"a loader takes a catalog, but got range\(0, 9\): for a dataset .* use StreamDataLoader"),
    ],
)
def test_what_is_no_catalog_is_refused(given, text):
    with pytest.raises(TypeError, match=text):
        Loader(given, WEIGHTS)


def framework(name):
    """A function that calls `set_epoch`, as a framework of this name does."""
    names = {"__name__": f"{name}.data"}
    exec("def call(method, *given): method(*given)", names)
    return names["call"]


@pytest.mark.parametrize("name", ["accelerate", "lightning"])
@pytest.mark.parametrize("kind", [StreamBatchSampler, StreamDataLoader])
def test_a_framework_that_undoes_set_epoch_warns_once(name, kind):
    given = (range(300), IndexStream(WEIGHTS)) if kind is StreamDataLoader else (IndexStream(WEIGHTS),)
    one = kind(*given, batch_size=100)
    with pytest.warns(UserWarning, match=r"set_epoch\(5\) of the .* is undone: .* sets its epoch to 0:") as caught:
        for epoch in range(2):
            one.set_epoch(5 + epoch)
            framework(name)(one.set_epoch, epoch)
            list(one)
    assert len(caught) == 1
    for epoch in range(5, 7):  # the two agree
        framework(name)(one.set_epoch, epoch)
        one.set_epoch(epoch)
        list(one)


def test_lightning_is_refused_a_place_in_other_batches():
    state = middle(StreamDataLoader(range(300), IndexStream(WEIGHTS), batch_size=30), 2)
    assert (state["batch_size"], state["world_size"]) == (30, 1)
    load = framework("lightning")
    for options in ({"batch_size": 60}, {"batch_size": 15}, {"batch_size": 30, "world_size": 2}):
        loader = StreamDataLoader(range(300), IndexStream(WEIGHTS), **options)
        with pytest.raises(ValueError, match=r"after batches of .*'batch_size': 30, .*: Lightning counts batches"):
            load(loader.load_state_dict, state)
        load(loader.load_state_dict, state | {"position": 300})
    loader.load_state_dict(state)  # a loop that does not count
    load(StreamDataLoader(range(300), IndexStream(WEIGHTS), batch_size=30).load_state_dict, state)


class Learner:
    def __init__(self):
        self.seen = np.zeros(300)

    def probabilities(self, epoch):
        return 1 / (1 + self.seen)

    def state_dict(self):
        return {"seen": self.seen}

    def load_state_dict(self, state):
        self.seen = state["seen"].copy()


def test_what_one_rank_has_learnt_warns_on_another():
    def make(rank, world_size=2):
        return StreamDataLoader(range(300), Learner(), batch_size=30, rank=rank, world_size=world_size)

    state = middle(make(0), 2)
    for loader in (make(1), make(0, 1), make(2, 3)):
        with pytest.warns(UserWarning, match=r"what the sampler of rank 0 of 2 has learnt, but here is rank \d of \d"):
            loader.load_state_dict(state)
    make(0).load_state_dict(state)
    make(1).load_state_dict(state | {"position": 300})
    assert "rank" not in StreamDataLoader(range(300), WEIGHTS, rank=1, world_size=2).state_dict()


@pytest.mark.parametrize("look", ["none", "before", "after", "often", "other loader"])
@pytest.mark.parametrize("kind", ["update", "learner"])
def test_a_state_holds_the_weights_of_the_epoch_under_way(kind, look):
    learner = Learner()
    stream = IndexStream(WEIGHTS if kind == "update" else learner, seed=5)
    loader = StreamDataLoader(range(300), stream, batch_size=30)
    loader.set_epoch(3)
    loop = iter(loader)
    next(loop)
    if look == "before":
        stream.epoch(4)
    if kind == "update":
        stream.update(WEIGHTS[::-1] ** 4)
    else:
        learner.seen[:150] += 9
    if look in ("after", "often"):
        for epoch in (4,) if look == "after" else (4, 5, 6, 7):
            stream.epoch(epoch)
    if look == "other loader":
        list(StreamDataLoader(range(300), stream, batch_size=100))
    state = json.loads(json.dumps(loader.state_dict()))
    expected = [row for batch in loop for row in batch.tolist()]
    again = StreamDataLoader(range(300), IndexStream(WEIGHTS if kind == "update" else Learner(), seed=5), batch_size=90)
    again.load_state_dict(state)
    if look != "before":  # else epoch 4 is forgotten here, which was fixed there
        for epoch in (8, 9):
            again.stream.epoch(epoch)
    assert [row for batch in again for row in batch.tolist()] == expected
    for epoch in (4, 5):
        loader.set_epoch(epoch)
        again.set_epoch(epoch)
        assert [row for b in again for row in b.tolist()] == [row for b in loader for row in b.tolist()]
    assert "epochs" not in loader.state_dict().get("changes", {}) or kind == "learner"


def test_a_state_at_the_end_of_an_epoch_holds_no_weights_of_it():
    loader = StreamDataLoader(range(300), Learner(), batch_size=30)
    list(loader)
    assert loader.state_dict()["changes"].keys() == {"sampler"}
