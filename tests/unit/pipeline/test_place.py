"""The place in a stream, the same law for `Loader`, `StreamDataLoader` and both samplers: epochs, states, mistakes."""

import json
from contextlib import nullcontext

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch.utils.data import SequentialSampler

from drawstream import IndexStream, Loader, Sequential, StreamBatchSampler, StreamDataLoader, StreamSampler
from shared.refusals import refused

WEIGHTS = np.linspace(1, 4, 300)
KINDS = {"loader": Loader, "data loader": StreamDataLoader, "sampler": StreamSampler, "batches": StreamBatchSampler}
LOADERS, SAMPLERS = list(KINDS)[:2], list(KINDS)[2:]


@pytest.fixture(params=KINDS)
def make(request, digits):
    """Make one of the kind over 300 rows, in batches of 100."""
    first = {"loader": (digits,), "data loader": (range(300),)}.get(request.param, ())

    def made(stream=WEIGHTS, **options):
        return KINDS[request.param](*first, stream, **{"batch_size": 100, **options})

    made.kind = request.param
    made.owner = "loader" if made.kind in LOADERS else "sampler"
    return made


only = pytest.mark.parametrize


def given(batch):
    """Rows of a batch of any kind."""
    batch = getattr(batch, "ids", batch)
    return [batch] if isinstance(batch, int) else np.asarray(batch).tolist()


def rows(one):
    return [row for batch in one for row in given(batch)]


def order(weights=WEIGHTS, epoch=0, **options):
    return IndexStream(weights, **options).epoch(epoch)[:].tolist()


def take(one, count):
    """Begin a loop and take so many rows; the loop and the rows."""
    loop, seen = iter(one), []
    while len(seen) < count:
        seen += given(next(loop))
    return loop, seen


def saved(one):
    return json.loads(json.dumps(one.state_dict()))


@only("kind", [list, np.asarray, torch.from_numpy])
def test_weights_make_a_stream(make, kind):
    one = make(WEIGHTS.tolist() if kind is list else kind(WEIGHTS))
    assert one.stream.fingerprint == IndexStream(WEIGHTS, seed=0).fingerprint and rows(one) == order()


def test_a_row_sampler_makes_a_stream(make):
    class Rare:
        def probabilities(self, epoch):
            return np.where(np.arange(300) == epoch, 1.0, 0.0)

    one = make(Rare())
    one.set_epoch(7)
    assert set(rows(one)) == {7}


def test_a_sampler_of_torch_is_no_stream(make):
    with pytest.raises(TypeError, match="a stream is needed, but got SequentialSampler: give an IndexStream"):
        make(SequentialSampler(range(300)))


def test_a_part_in_order(make):
    assert rows(make(Sequential(90, 110), batch_size=7)) == list(range(90, 110))


@only("world_size", [1, 2])
def test_the_length_of_an_epoch_sets_none_up(make, world_size):
    one = make(batch_size=64, world_size=world_size, drop_last=True)
    one.set_epoch(1)
    steps = 300 // (64 * world_size)
    assert len(one) == (64 * steps if make.kind == "sampler" else steps)
    one.stream.update(WEIGHTS**8)
    starts = range(0, 64 * world_size * steps, 64 * world_size)
    assert rows(one) == [row for start in starts for row in order(WEIGHTS**8, 1)[start : start + 64]]


def test_a_stream_that_is_assigned_is_checked(make):
    one = make()
    one.set_epoch(3)
    for count in (299, 301):
        for stream in (IndexStream(count), np.ones(count)):
            with pytest.raises(ValueError, match=f"the stream draws from {count} rows, but there are 300"):
                one.stream = stream
    one.stream = WEIGHTS[::-1].tolist()
    assert rows(one) == order(WEIGHTS[::-1], 3) and one.state_dict()["position"] == 300


@only("name", ["batch_size", "rank", "world_size"])
@only("value", [True, 2.0, "2", np.float32(2), None])
def test_numbers_are_whole_ones(make, name, value):
    refused(f"`{name}` must be a whole number, but got", make, error=TypeError, **{name: value})


@only(
    ("options", "text"),
    [
        ({"batch_size": 0}, "`batch_size >= 1` must hold, but got 0"),
        ({"world_size": 0}, "`world_size >= 1` must hold"),
        ({"rank": 2, "world_size": 2}, "`0 <= rank < world_size` must hold, but got rank 2 of 2"),
        ({"rank": -1}, "`0 <= rank < world_size` must hold"),
    ],
)
def test_numbers_out_of_range_are_refused(make, options, text):
    refused(text, make, **options)


def test_numpy_integers_are_numbers_and_the_state_is_json(make):
    one = make(batch_size=np.int16(50), rank=np.int8(1), world_size=np.int64(2))
    one.set_epoch(np.int64(3))
    take(one, 50)
    state = saved(one)
    assert (state["epoch"], state["position"]) == (3, 100)
    again = make()
    again.load_state_dict(state | {"epoch": np.int64(3), "position": np.int32(100)})
    assert rows(again) == order(epoch=3)[100:]
    saved(again)


@only(
    ("epoch", "error"), [(True, TypeError), (1.0, TypeError), ("1", TypeError), (-1, ValueError), (2**64, ValueError)]
)
def test_other_epochs_are_refused(make, epoch, error):
    one = make()
    with pytest.raises(error, match=r"`epoch` must be a whole number, but got|`epoch (>= 0|< 18446744073709551616)`"):
        one.set_epoch(epoch)
    assert one.state_dict()["epoch"] == 0


@only(
    ("state", "text"),
    [
        ([], r"a state of a (loader|sampler) is what its state_dict\(\) gave, but got \[\]"),
        (None, r"is what its state_dict\(\) gave, but got None"),
        ({"format": 2}, "this state is of another format: saved 2, (loader|sampler) has 1"),
        ({"stream": "x"}, "this state is of another stream: saved 'x', (loader|sampler) has '[0-9a-f]+'"),
        ({"position": 10**6}, "the state is at position 1000000, but an epoch has 300: it is damaged"),
        *(
            ({key: value}, "a state needs an epoch and a position >= 0, but got")
            for key in ("epoch", "position")
            for value in (-5, "a", float("nan"), True, None, 2**64 if key == "epoch" else -1)
        ),
        *(
            ({"changes": changes}, "the stream cannot take the changes of this state|must")
            for changes in (5, "a", [], True, {"epochs": "x"}, {"epochs": {"0": 7}}, {"weights": None})
        ),
    ],
)
def test_bad_states_are_refused_and_change_nothing(make, state, text):
    one = make()
    one.set_epoch(2)
    with pytest.raises(ValueError, match=text):
        one.load_state_dict(one.state_dict() | {"epoch": 0} | state if isinstance(state, dict) else state)
    refused("another format: saved None", one.load_state_dict, {})
    assert (one.state_dict()["epoch"], one.state_dict()["position"]) == (2, 0)


def test_a_damaged_array_of_a_state_is_refused(make):
    one = make()
    one.stream.update(WEIGHTS[::-1])
    state = one.state_dict()
    text = state["changes"]["weights"]["npy+zlib"]
    for bad in (text[:-8], text[8:], "", 7, "é"):
        with pytest.raises(ValueError, match="an array of this state is damaged"):
            make().load_state_dict(state | {"changes": {"weights": {"npy+zlib": bad}}})


def test_a_state_at_the_end_of_an_epoch(make):
    one, other = make(), make()
    list(one)
    other.load_state_dict(saved(one))
    assert rows(other) == []
    other.set_epoch(1)
    assert rows(other) == order(epoch=1)


@pytest.mark.filterwarnings("ignore:this is a second pass")
def test_set_epoch_of_the_loaded_epoch_keeps_the_place(make):
    one = make()
    one.set_epoch(2)
    for _ in range(2):
        one.load_state_dict(one.state_dict() | {"position": 100})
        one.set_epoch(2)
        one.set_epoch(2)
        assert one.state_dict()["position"] == 100 and rows(one) == order(epoch=2)[100:]
    assert rows(one) == order(epoch=2)  # the next loop is a whole one


@only("done", [100, 200])  # two batches are left, and one
@only("fails", [False, True])
def test_a_look_or_a_failure_in_the_first_batch_keeps_the_restored_place(make, fails, done):
    first, one = make(), make()
    take(first, done)
    state = saved(first)
    one.load_state_dict(state)
    if fails:
        with pytest.raises(MemoryError):
            for _ in one:
                raise MemoryError
    else:
        next(iter(one))
    assert rows(one) == order()[done:]
    one.load_state_dict(state)
    next(iter(one))
    one.set_epoch(0)
    assert one.state_dict() == state


def test_set_epoch_of_the_running_epoch_keeps_the_place(make):
    one, seen = make(), 0
    for batch in one:
        seen += len(given(batch))
        one.set_epoch(0)
        assert one.state_dict()["position"] + one.state_dict().get("within", 0) == seen
        if seen == 200:
            break
    again = make()
    again.load_state_dict(one.state_dict())
    assert rows(again) == order()[200:]
    one.set_epoch(0)  # no pass is under way any more
    assert one.state_dict()["position"] == 0


def test_set_epoch_while_a_loop_runs_counts_from_the_next(make):
    one = make()
    running, _ = take(one, 100)
    one.set_epoch(1)
    next(running)
    assert (saved(one)["epoch"], saved(one)["position"]) == (1, 0) and rows(one) == order(epoch=1)


def global_batches(make, batch_size, world_size, state=None, steps=None):
    """Rows that are no fill, of all ranks, step by step; and the state of each rank."""
    ranks = [make(batch_size=batch_size, rank=rank, world_size=world_size) for rank in range(world_size)]
    for one in ranks if state else ():
        one.load_state_dict(state)
    loops, seen = [iter(one) for one in ranks], []
    while steps is None or len(seen) < steps * batch_size * world_size:
        batches = [next(loop, None) for loop in loops]
        if batches[0] is None:
            assert batches == [None] * world_size
            break
        assert len({len(given(batch)) for batch in batches}) == 1
        for batch, one in zip(batches, ranks, strict=True):
            weights = getattr(batch, "weights", getattr(one, "weights", np.ones(batch_size)))
            seen += [row for row, weight in zip(given(batch), weights, strict=False) if weight > 0]
    return seen, [saved(one) for one in ranks]


@only(("world_size", "batch_size"), [(1, 64), (3, 16), (4, 7), (7, 50)])
@only("make", ["loader", "data loader", "batches"], indirect=True)
def test_other_ranks_and_batches_lose_nothing_and_give_nothing_twice(make, world_size, batch_size):
    before, states = global_batches(make, 32, 2, steps=3)
    assert states[0] == states[1] and states[0]["position"] == 192
    after, _ = global_batches(make, batch_size, world_size, states[1])
    left_out = (300 - 192) % (batch_size * world_size) % world_size if make.owner == "sampler" else 0
    assert before + after == order()[: 300 - left_out]


def test_going_back_right_after_a_load_warns(make):
    """As Accelerate and Fabric do, which count epochs anew in every process."""
    one = make()
    one.load_state_dict(one.state_dict() | {"epoch": 3, "position": 100})
    with pytest.warns(UserWarning, match=r"set_epoch\(0\) right after .* epoch 3 was loaded gives its place up"):
        one.set_epoch(0)
    assert one.state_dict()["epoch"] == 0


def test_going_ahead_right_after_a_load_warns(make):
    one = make()
    state = one.state_dict() | {"position": 100}
    one.load_state_dict(state)
    with pytest.warns(UserWarning, match=r"set_epoch\(1\) right after .* within epoch 0 .* leaves out the 200 rows"):
        one.set_epoch(1)
    assert rows(one) == order(epoch=1)
    for options, position in (({}, 300), ({"drop_last": True}, 240), ({}, 0)):
        over = make(batch_size=80, **options)
        over.load_state_dict(state | {"position": position})
        over.set_epoch(1)  # nothing is left, or nothing was begun


def test_a_second_pass_without_set_epoch_warns_once(make):
    one = make()
    next(iter(one))  # a look at one batch
    list(one)
    with pytest.warns(UserWarning, match=rf"second pass over epoch 0, .* of the {make.owner} before") as caught:
        assert rows(one) == rows(one) == order()
    assert len(caught) == 1 and caught[0].filename == __file__
    one.set_epoch(0)  # asked for
    list(one)
    one.load_state_dict(one.state_dict() | {"position": 100})
    assert len(rows(one)) == 200


def test_the_first_batch_again_and_again_warns_once(make):
    one = make(batch_size=1)
    with pytest.warns(UserWarning, match=r"first batch of epoch 0 was taken 2 times, .* one iterator") as caught:
        for _ in range(5):
            next(iter(one))
    assert len(caught) == 1 and caught[0].filename == __file__


@only("make", LOADERS, indirect=True)
def test_drop_last_that_leaves_nothing_warns_once(make):
    one = make(batch_size=200, world_size=2, drop_last=True)
    with pytest.warns(UserWarning, match="drop_last leaves nothing .* has 300 rows, a global batch 400:") as w:
        for epoch in range(2):
            one.set_epoch(epoch)
            assert list(one) == []
    assert len(w) == 1


@only(
    ("rank", "world_size", "text"),
    [
        (0, 1, "2 processes, but this {} was made for world_size=1, so some train on the same rows: give rank="),
        (1, 4, "2 processes, but this {} was made for world_size=4, so some rows are left out: give rank="),
        (0, 2, "this {} was made for rank 0, but this process has rank 1: give rank=torch.distributed.get_rank"),
        (1, 2, None),
    ],
)
def test_other_ranks_than_those_of_torch_warn_once(make, monkeypatch, rank, world_size, text):
    for name, value in (("is_initialized", True), ("get_world_size", 2), ("get_rank", 1)):
        monkeypatch.setattr(dist, name, lambda value=value: value)
    one = make(batch_size=50, rank=rank, world_size=world_size)
    with pytest.warns(UserWarning, match=text.format(make.owner)) if text else nullcontext([0]) as caught:
        for epoch in range(2):
            one.set_epoch(epoch)
            list(one)
    assert len(caught) == 1


def framework(name):
    """A function that calls as a framework of this name does."""
    names = {"__name__": f"{name}.data"}
    exec("def call(method, *given): method(*given)", names)
    return names["call"]


@only("name", ["accelerate", "lightning"])
def test_a_framework_that_undoes_set_epoch_warns_once(make, name):
    one = make()
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


@only("make", ["loader", "data loader", "batches"], indirect=True)
def test_lightning_is_refused_a_place_in_other_batches(make):
    first = make(batch_size=30)
    take(first, 60)
    state, load = saved(first), framework("lightning")
    assert (state["batch_size"], state["world_size"]) == (30, 1)
    for options in ({"batch_size": 60}, {"batch_size": 15}, {"batch_size": 30, "world_size": 2}):
        one = make(**options)
        refused(r"after batches of .*'batch_size': 30, .*: Lightning counts batches", load, one.load_state_dict, state)
        load(one.load_state_dict, state | {"position": 300})
    one.load_state_dict(state)  # a loop that does not count
    load(make(batch_size=30).load_state_dict, state)


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


@only("kind", ["update", "learner"])
@only(("epoch", "done"), [(1, 100), (1, 300), (2, 200)])
def test_a_run_killed_after_a_change_draws_the_same_rows(make, kind, epoch, done):
    def new():
        return make(IndexStream(WEIGHTS if kind == "update" else Learner(), mode="multinomial", seed=2))

    def train(one, number, stop=None):
        seen = []
        for batch in one:
            seen += given(batch)
            if kind == "learner":
                one.stream._sampler.seen[given(batch)] += 5
            if len(seen) == stop:
                return seen
        if kind == "update":
            one.stream.update(np.roll(WEIGHTS**4, 50 * number))
        return seen

    one, whole = new(), []
    for number in range(4):
        one.set_epoch(number)
        whole.append(train(one, number))
    one = new()
    for number in range(epoch):
        one.set_epoch(number)
        train(one, number)
    one.set_epoch(epoch)
    begun = train(one, epoch, stop=done)
    resumed = new()
    resumed.load_state_dict(saved(one))
    resumed.set_epoch(epoch)
    assert begun + train(resumed, epoch) == whole[epoch]
    for number in range(epoch + 1, 4):
        resumed.set_epoch(number)
        assert train(resumed, number) == whole[number]


def test_what_one_rank_has_learnt_warns_on_another(make):
    def of(rank, world_size=2):
        return make(Learner(), batch_size=30, rank=rank, world_size=world_size)

    one = of(0)
    take(one, 60)
    state = saved(one)
    for other in (of(1), of(0, 1), of(2, 3)):
        with pytest.warns(UserWarning, match=r"what the sampler of rank 0 of 2 has learnt, but here is rank \d of \d"):
            other.load_state_dict(state)
    of(0).load_state_dict(state)
    of(1).load_state_dict(state | {"position": 300})
    assert "rank" not in make(rank=1, world_size=2).state_dict()


@only("look", ["none", "before", "after", "often", "other"])
@only("kind", ["update", "learner"])
@only("make", ["data loader", "batches"], indirect=True)
def test_a_state_holds_the_weights_of_the_epoch_under_way(make, kind, look):
    learner = Learner()
    stream = IndexStream(WEIGHTS if kind == "update" else learner, seed=5)
    one = make(stream, batch_size=30)
    one.set_epoch(3)
    loop, _ = take(one, 30)
    if look == "before":
        stream.epoch(4)
    if kind == "update":
        stream.update(WEIGHTS[::-1] ** 4)
    else:
        learner.seen[:150] += 9
    for epoch in {"after": (4,), "often": (4, 5, 6, 7)}.get(look, ()):
        stream.epoch(epoch)
    if look == "other":
        list(make(stream))
    state, expected = saved(one), rows(loop)
    again = make(IndexStream(WEIGHTS if kind == "update" else Learner(), seed=5), batch_size=90)
    again.load_state_dict(state)
    if look != "before":  # else epoch 4 is forgotten here, which was fixed there
        for epoch in (8, 9):
            again.stream.epoch(epoch)
    assert rows(again) == expected
    for epoch in (4, 5):
        one.set_epoch(epoch)
        again.set_epoch(epoch)
        assert rows(again) == rows(one)
    assert "epochs" not in one.state_dict().get("changes", {}) or kind == "learner"


def test_a_state_at_the_end_of_an_epoch_holds_no_weights_of_it(make):
    one = make(Learner())
    list(one)
    assert one.state_dict()["changes"].keys() == {"sampler"}
