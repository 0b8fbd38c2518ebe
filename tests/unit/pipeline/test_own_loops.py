"""The loader in other people's loops: what a user forgets, forks, copies, and hands over as numbers."""

import copy
import json
import os
import pickle
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
import torch.distributed as dist
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader

from drawstream.pipeline import ArraySource, Catalog, Loader, Reading, Transform
from drawstream.pipeline.shards.pack import pack
from drawstream.samplers import IndexStream, Sequential

DIGITS = load_digits()
WEIGHTS = np.linspace(1, 4, 300)


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    source = ArraySource((DIGITS.images[:300] * 15).astype(np.uint8), DIGITS.target[:300])
    return Catalog.open(pack(source, tmp_path_factory.mktemp("own") / "digits", shard_rows=100).train)


def ids(batches):
    return [row for batch in batches for row in batch.ids.tolist()]


# What a loader is made of


def test_without_a_stream_every_row_comes_once_in_order(digits):
    ranks = [Loader(digits, batch_size=64, rank=rank, world_size=7) for rank in range(7)]
    steps = list(zip(*ranks, strict=True))
    rows = [[row for batch in step for row in batch.ids.tolist()] for step in steps]
    weights = [[weight for batch in step for weight in batch.weights.tolist()] for step in steps]
    assert len(rows) == 1 and rows[0][:300] == list(range(300)) and weights[0] == [1.0] * 300 + [0.0]
    assert len(list(Loader(digits, batch_size=64))) == 5
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        validation = Loader(digits, batch_size=64)
        assert ids(validation) == ids(validation) == list(range(300))  # again and again, without set_epoch


def test_without_a_stream_large_images_are_seen_as_in_evaluation(tmp_path):
    photos = np.random.default_rng(0).integers(0, 256, (4, 80, 90, 3), dtype=np.uint8)
    catalog = Catalog.open(pack(ArraySource(photos, np.arange(4)), tmp_path / "photos", encoding="png").train)
    assert Loader(catalog).transform == Transform.large(train=False)
    assert Loader(catalog, IndexStream(4)).transform == Transform.large(train=True)
    assert Loader(catalog, Sequential(0, 4)).transform == Transform.large(train=True)  # as it always was
    a, b = (next(iter(Loader(catalog))).images for _ in range(2))
    assert torch.equal(a, b)


@pytest.mark.parametrize("kind", [list, np.asarray, torch.from_numpy])
def test_weights_make_a_stream(digits, kind):
    given = WEIGHTS.tolist() if kind is list else kind(WEIGHTS)
    loader = Loader(digits, given, batch_size=64)
    assert loader.stream.fingerprint == IndexStream(WEIGHTS, seed=0).fingerprint
    assert ids(loader) == IndexStream(WEIGHTS, seed=0).epoch(0)[:].tolist()


def test_a_row_sampler_makes_a_stream(digits):
    class Rare:
        def probabilities(self, epoch):
            return np.where(np.arange(300) == epoch, 1.0, 0.0)

    loader = Loader(digits, Rare(), batch_size=300)
    loader.set_epoch(7)
    assert set(ids(loader)) == {7}


def test_a_sampler_of_torch_is_no_stream(digits):
    with pytest.raises(TypeError, match="a stream is needed, but got SequentialSampler: give an IndexStream"):
        Loader(digits, torch.utils.data.SequentialSampler(range(300)))


# Numbers


def test_numpy_integers_are_numbers_and_the_state_is_json(digits):
    number = np.int16
    loader = Loader(
        digits,
        IndexStream(WEIGHTS, seed=1),
        batch_size=number(50),
        rank=number(1),
        world_size=number(2),
        reading=Reading(
            prefetch=np.uint8(2),
            ahead=np.int8(4),
            read_threads=np.int64(1),
            threads=np.int32(1),
            max_bad=np.int64(100),
        ),
    )
    loader.set_epoch(np.int64(3))
    next(iter(loader))
    state = json.loads(json.dumps(loader.state_dict()))
    assert (state["epoch"], state["position"]) == (3, 100)
    again = Loader(digits, IndexStream(WEIGHTS, seed=1), batch_size=200)
    again.load_state_dict(state | {"epoch": np.int64(3), "position": np.int32(100)})
    assert ids(again) == IndexStream(WEIGHTS, seed=1).epoch(3)[100:].tolist()
    json.dumps(again.state_dict())


@pytest.mark.parametrize("name", ["batch_size", "rank", "world_size", "prefetch", "ahead", "threads", "max_bad"])
@pytest.mark.parametrize("value", [True, 2.0, "2", np.float32(2)])
def test_other_numbers_are_refused(digits, name, value):
    with pytest.raises(TypeError, match=f"`{name}` must be a whole number, but got"):
        if name in Reading.__slots__:
            Reading(**{name: value})
        else:
            Loader(digits, WEIGHTS, **{name: value})


def test_other_epochs_are_refused(digits):
    loader = Loader(digits, WEIGHTS)
    for epoch in (True, 1.0, "1", None):
        with pytest.raises(TypeError, match="`epoch` must be a whole number, but got"):
            loader.set_epoch(epoch)


@pytest.mark.parametrize(
    ("state", "text"),
    [
        ([], r"a state of a loader is what its state_dict\(\) gave, but got \[\]"),
        ("a", "a state of a loader is what its state_dict"),
        ({"position": -5}, "needs an epoch and a position >= 0, but got 0 and -5"),
        ({"position": 10**6}, "the state is at position 1000000, but an epoch has 300: it is damaged"),
        ({"position": "a"}, "needs an epoch and a position >= 0, but got 0 and 'a'"),
        ({"position": float("nan")}, "needs an epoch and a position >= 0, but got 0 and nan"),
        ({"position": True}, "needs an epoch and a position >= 0, but got 0 and True"),
        ({"epoch": None}, "needs an epoch and a position >= 0, but got None and 0"),
    ],
)
def test_bad_states_are_refused_and_change_nothing(digits, state, text):
    loader = Loader(digits, WEIGHTS, batch_size=100)
    loader.set_epoch(2)
    with pytest.raises(ValueError, match=text):
        loader.load_state_dict(loader.state_dict() | {"epoch": 0} | state if isinstance(state, dict) else state)
    assert (loader.epoch, loader.state_dict()["position"]) == (2, 0)


# What is forgotten


def test_a_second_pass_without_set_epoch_warns_once(digits):
    loader = Loader(digits, WEIGHTS, batch_size=100)
    next(iter(loader))  # a look at one batch
    first = ids(loader)
    with pytest.warns(
        UserWarning, match=r"second pass over epoch 0, .* call set_epoch\(epoch\) of the loader"
    ) as caught:
        assert ids(loader) == first
        assert ids(loader) == first
    assert len(caught) == 1 and caught[0].filename == __file__


def test_set_epoch_and_a_resumed_state_are_no_second_pass(digits):
    loader = Loader(digits, WEIGHTS, batch_size=100)
    list(loader)
    loader.set_epoch(0)  # asked for
    list(loader)
    loader.load_state_dict(loader.state_dict() | {"position": 100})
    assert len(ids(loader)) == 200


def test_going_back_right_after_a_load_warns(digits):
    """As Accelerate and Fabric do, which count epochs anew in every process."""
    loader = Loader(digits, WEIGHTS, batch_size=100)
    loader.load_state_dict(loader.state_dict() | {"epoch": 3, "position": 100})
    with pytest.warns(
        UserWarning, match=r"set_epoch\(0\) right after a state of epoch 3 was loaded gives its place up"
    ):
        loader.set_epoch(0)
    assert loader.state_dict()["epoch"] == 0


def test_drop_last_that_leaves_nothing_warns_once(digits):
    loader = Loader(digits, WEIGHTS, batch_size=200, world_size=2, drop_last=True)
    with pytest.warns(
        UserWarning, match="drop_last leaves nothing of an epoch: it has 300 rows, a global batch 400:"
    ) as w:
        for epoch in range(2):
            loader.set_epoch(epoch)
            assert list(loader) == []
    assert len(w) == 1


@pytest.fixture
def two_processes(monkeypatch):
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(dist, "get_rank", lambda: 1)


def test_more_processes_than_the_loader_knows_of_warn_once(digits, two_processes):
    loader = Loader(digits, WEIGHTS, batch_size=100)
    with pytest.warns(
        UserWarning, match="torch.distributed has 2 processes, but this loader was made for world_size=1"
    ) as w:
        for epoch in range(2):
            loader.set_epoch(epoch)
            list(loader)
    assert len(w) == 1
    list(Loader(digits, WEIGHTS, batch_size=100, rank=1, world_size=2))
    list(Loader(digits))  # validation may be one process's own


# Processes and ends


def in_a_fork(work):
    """What `work` raises in a forked child; the child must end within 20 s."""
    read, write = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # threads and fork: the very case
        child = os.fork()
    if not child:
        try:
            work()
            text = "no error"
        except BaseException as error:
            text = f"{type(error).__name__}: {error}"
        os.write(write, text.encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        text = pipe.read()
    os.waitpid(child, 0)
    return text


def test_a_loader_that_was_used_before_a_fork_says_so_in_the_child(digits):
    loader = Loader(digits, WEIGHTS, batch_size=100)
    running = iter(loader)
    next(running)
    expected = f"ValueError: this loader was used in process {os.getpid()} before the fork"
    assert in_a_fork(lambda: next(iter(loader))).startswith(expected)
    assert in_a_fork(lambda: next(running)).startswith(expected)
    assert len(list(running)) == 2  # and the parent goes on


ENDS = """
import os, sys, time
import numpy as np
from drawstream import Catalog, Loader
loader = Loader(Catalog.open(sys.argv[1]), np.ones(300), batch_size=100)
running = iter(loader)
next(running)
child = os.fork()
if not child:
    sys.exit(7)
for _ in range(200):
    pid, status = os.waitpid(child, os.WNOHANG)
    if pid:
        sys.exit(os.waitstatus_to_exitcode(status))
    time.sleep(0.1)
os.kill(child, 9)
sys.exit("the child hangs")
"""


def test_a_forked_child_exits_as_usual(digits):
    done = subprocess.run([sys.executable, "-c", ENDS, str(digits.path)], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (7, "")


def test_a_loader_that_was_not_used_before_a_fork_works_in_the_child(digits):
    loader = Loader(digits, WEIGHTS, batch_size=100)
    assert in_a_fork(lambda: next(iter(loader))) == "no error"


class FromLoader:
    """A dataset over a loader, as some write it."""

    def __init__(self, loader):
        self.loader = loader

    def __len__(self):
        return 4

    def __getitem__(self, row):
        return next(iter(self.loader)).ids


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_used_loader_in_a_worker_of_a_dataloader_says_so(digits):
    loader = Loader(digits, WEIGHTS, batch_size=100)
    next(iter(loader))
    workers = DataLoader(FromLoader(loader), num_workers=1, multiprocessing_context="fork", timeout=60)
    with pytest.raises(ValueError, match=r"this loader was used in process .* make a new one in this process"):
        next(iter(workers))


def test_copies_are_refused_in_one_line(digits):
    loader = Loader(digits, WEIGHTS)
    for take in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(
            TypeError, match="a loader cannot be copied or sent to another process, for it holds threads"
        ):
            take(loader)


def test_a_closed_loader_says_so(digits):
    loader = Loader(digits, WEIGHTS, batch_size=10)
    running = iter(loader)
    next(running)
    loader.close()
    loader.close()
    for again in (running, iter(loader)):
        with pytest.raises(ValueError, match="this loader is closed: make a new one"):
            list(again)


# What changes while it trains


class Learner:
    """Prefers what it saw little of; its weights change with every batch."""

    def __init__(self):
        self.seen = torch.zeros(300)

    def probabilities(self, epoch):
        return 1 / (1 + self.seen)

    def state_dict(self):
        return {"seen": self.seen.clone(), "count": np.int64(3), "kind": ("a", 1)}

    def load_state_dict(self, state):
        assert state["count"] == 3 and state["kind"] == ("a", 1)
        self.seen = state["seen"].clone()


@pytest.mark.parametrize("kind", ["update", "learner"])
@pytest.mark.parametrize("stop", [(1, 100), (1, 300), (2, 200)])
def test_a_run_killed_after_a_change_draws_the_same_rows(digits, kind, stop):
    def make():
        given = WEIGHTS if kind == "update" else Learner()
        return Loader(digits, IndexStream(given, mode="multinomial", seed=2), batch_size=100)

    def train(loader, epoch, batches=None):
        rows = []
        for batch in loader:
            rows += batch.ids.tolist()
            if kind == "learner":
                loader.stream._sampler.seen[batch.ids] += 5
            if len(rows) == batches:
                return rows, json.dumps(loader.state_dict())
        if kind == "update":
            loader.stream.update(np.roll(WEIGHTS**4, 50 * epoch))
        return rows, ""

    whole, loader = [], make()
    for epoch in range(4):
        loader.set_epoch(epoch)
        whole.append(train(loader, epoch)[0])

    killed, loader = [], make()
    for epoch in range(stop[0] + 1):
        loader.set_epoch(epoch)
        rows, state = train(loader, epoch, stop[1] if epoch == stop[0] else None)
        killed.append(rows)

    resumed = make()
    resumed.load_state_dict(json.loads(state))
    for epoch in range(stop[0], 4):
        resumed.set_epoch(epoch)
        rows = train(resumed, epoch)[0]
        killed[epoch:] = [killed[epoch] + rows] if epoch < len(killed) else [rows]
    assert killed == whole


def test_a_damaged_array_of_a_state_is_refused(digits):
    loader = Loader(digits, WEIGHTS)
    loader.stream.update(WEIGHTS[::-1])
    state = loader.state_dict()
    text = state["changes"]["weights"]["npy+zlib"]
    for bad in (text[:-8], text[8:], "", 7, "é"):
        broken = state | {"changes": {"weights": {"npy+zlib": bad}}}
        with pytest.raises(ValueError, match="an array of this state is damaged"):
            Loader(digits, WEIGHTS).load_state_dict(broken)


@pytest.mark.parametrize(
    "changes",
    [5, "a", [], [1], True, {"epochs": "x"}, {"epochs": {"0": 7}}, {"weights": None}, {"epochs": {"0": "ab"}}],
)
def test_damaged_changes_of_a_state_are_refused(digits, changes):
    loader = Loader(digits, WEIGHTS)
    with pytest.raises(ValueError, match=r"the stream cannot take the changes of this state|must"):
        loader.load_state_dict(loader.state_dict() | {"changes": changes})


def test_the_length_of_an_epoch_sets_none_up(digits):
    loader = Loader(digits, WEIGHTS, batch_size=100)
    loader.set_epoch(1)
    assert len(loader) == 3
    loader.stream.update(WEIGHTS**8)
    assert ids(loader) == IndexStream(WEIGHTS**8).epoch(1)[:].tolist()
