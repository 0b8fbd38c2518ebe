"""Index streams behind torch's DataLoader: same rows, ranks, epochs, resuming; states as JSON."""

import json
import random

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from drawstream import IndexStream, StreamBatchSampler, StreamSampler
from drawstream.pipeline.packed import packed, unpacked
from shared.refusals import refused

WEIGHTS = np.arange(1.0, 41.0)
pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # of workers beside threads


@pytest.fixture
def stream():
    return IndexStream(WEIGHTS, draws=70, seed=2)


@pytest.mark.parametrize("workers", [0, 1])
def test_data_loader_delivers_the_stream(stream, workers):
    sampler = StreamSampler(stream, batch_size=8)
    loader = DataLoader(
        range(40),
        batch_size=8,
        sampler=sampler,
        num_workers=workers,
        multiprocessing_context="spawn" if workers else None,
    )
    for epoch in (0, 3):
        sampler.set_epoch(epoch)
        batches = [batch.numpy() for batch in loader]
        np.testing.assert_array_equal(np.concatenate(batches), stream.epoch(epoch)[:])
        assert [batch.size for batch in batches] == [8] * 8 + [6]
    assert len(loader) == 9


def test_batch_sampler_steps_are_the_batches_of_the_stream(stream):
    ranks = [StreamBatchSampler(stream, batch_size=4, rank=rank, world_size=3) for rank in range(3)]
    for sampler in ranks:
        sampler.set_epoch(1)
    steps = [list(sampler) for sampler in ranks]
    assert {len(sampler) for sampler in ranks} == {len(rank) for rank in steps} == {6}
    for step in range(5):
        for rank in range(3):
            expected = stream.batch(1, step, global_batch=12, rank=rank, world_size=3)
            np.testing.assert_array_equal(steps[rank][step], expected)
    assert [len(rank[5]) for rank in steps] == [3, 3, 3]  # 10 draws are left: one goes, so that ranks stay equal
    np.testing.assert_array_equal(np.concatenate([rank[5] for rank in steps]), stream.epoch(1)[60:69])


@pytest.mark.filterwarnings("ignore:this is a second pass")
@pytest.mark.parametrize("done", [0, 1, 4, 7, 23])
def test_resume_in_the_middle(stream, done):
    sampler = StreamSampler(stream, batch_size=4, rank=1, world_size=3)
    sampler.set_epoch(2)
    whole = list(sampler)
    sampler.set_epoch(2)
    rows = iter(sampler)
    for _ in range(done):
        next(rows)
    state = sampler.state_dict()
    fresh = StreamSampler(IndexStream(WEIGHTS, draws=70, seed=2), batch_size=4, rank=1, world_size=3)
    fresh.load_state_dict(state)
    assert list(fresh) == whole[done:]
    assert list(fresh) == whole  # only the first pass is resumed


def test_an_epoch_without_a_step_is_refused(stream):
    refused("must fill one step of 1 ranks, but has 70 draws", StreamSampler, stream, batch_size=71, drop_last=True)


# State


def test_a_state_within_a_step_needs_the_same_steps(stream):
    sampler = StreamSampler(stream, batch_size=8, rank=1, world_size=2)
    rows = iter(sampler)
    given = [next(rows) for _ in range(11)]
    state = json.loads(json.dumps(sampler.state_dict()))
    assert (state["position"], state["within"]) == (16, 3)
    again = StreamSampler(stream, batch_size=8, rank=1, world_size=2)
    again.load_state_dict(state)
    again.set_epoch(0)
    assert again.state_dict() == state
    assert given + list(again) == list(StreamSampler(stream, batch_size=8, rank=1, world_size=2))
    for options in ({"batch_size": 16}, {"batch_size": 8, "world_size": 2}):
        other = StreamSampler(stream, **options)
        if options["batch_size"] == 8:
            other.load_state_dict(state)  # rank 0 of the same steps
            continue
        refused(r"within a step, after 3 rows of .*'batch_size': 8, .*here it is .*16", other.load_state_dict, state)


@pytest.mark.parametrize(
    ("state", "text"),
    [
        ({"within": 3, "batch_size": 4}, "within a step, after 3 rows of"),
        ({"within": None}, "within a step, after None rows of"),
        ({"within": True}, "within a step, after True rows of"),
        ({"within": "a", "batch_size": 8, "world_size": 1}, "within a step, after a rows of"),
        ({"within": -2, "batch_size": 8, "world_size": 1}, "within a step, after -2 rows of"),
    ],
)
def test_bad_states_are_refused(stream, state, text):
    sampler = StreamSampler(stream, batch_size=8)
    refused(text, lambda: sampler.load_state_dict(sampler.state_dict() | state))
    assert list(sampler) == stream.epoch(0)[:].tolist()


# Loaders of the user


@pytest.mark.parametrize("kind", [StreamSampler, StreamBatchSampler])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_state_after_workers_asked_ahead_is_refused(stream, kind, workers):
    sampler = kind(stream, batch_size=8)
    given = {"sampler": sampler, "batch_size": 8} if kind is StreamSampler else {"batch_sampler": sampler}
    loader = DataLoader(range(40), num_workers=workers, multiprocessing_context="fork" if workers else None, **given)
    for number, _ in enumerate(loader, 1):
        if number == 2:
            break
    if workers:
        refused(r"DataLoader with workers asks for rows .* use StreamDataLoader", sampler.state_dict)
    else:
        assert sampler.state_dict()["position"] == 16
    sampler.set_epoch(1)
    assert sampler.state_dict()["position"] == 0


def test_set_epoch_after_workers_began_is_refused(stream):
    """As Lightning does when it resumes: the loop would be given rows of epoch 0."""
    sampler = StreamBatchSampler(stream, batch_size=8)
    loader = DataLoader(range(40), batch_sampler=sampler, num_workers=1, multiprocessing_context="fork")
    batches = iter(loader)
    sampler.set_epoch(0)
    refused(r"set_epoch\(3\) comes after workers of a DataLoader asked", sampler.set_epoch, 3)
    assert len(list(batches)) == 9
    sampler.set_epoch(3)
    assert sampler.state_dict()["epoch"] == 3


def test_a_look_after_a_load_within_a_step_keeps_the_place(stream):
    rows = iter(first := StreamSampler(stream, batch_size=8))
    given = [next(rows) for _ in range(19)]
    sampler = StreamSampler(stream, batch_size=8)
    for _ in range(2):
        sampler.load_state_dict(first.state_dict())
        next(iter(sampler))
        sampler.set_epoch(0)
        assert sampler.state_dict() == first.state_dict()
        assert given + list(sampler) == stream.epoch(0)[:].tolist()


def test_set_epoch_of_the_running_epoch_keeps_the_place(stream):
    sampler = StreamSampler(stream, batch_size=8)
    for number, _ in enumerate(DataLoader(range(40), batch_size=8, sampler=sampler), 1):
        if number < 9:  # torch asks for the end together with the last, short batch
            sampler.set_epoch(0)
        assert sampler.state_dict()["position"] == min(8 * number, 70)


def test_an_epoch_can_be_set_after_the_first_batch_of_persistent_workers_failed(stream):
    sampler = StreamBatchSampler(stream, batch_size=8)
    workers = {"num_workers": 1, "multiprocessing_context": "fork", "persistent_workers": True}
    loader = DataLoader(Fails(), batch_sampler=sampler, **workers)
    with pytest.raises(RuntimeError, match="no rows in epoch 0"):
        next(iter(loader))
    sampler.set_epoch(1)
    assert sampler.state_dict()["epoch"] == 1


class Fails:
    def __len__(self):
        return 40

    def __getitem__(self, row):
        raise RuntimeError("no rows in epoch 0")


def back(value):
    return unpacked(json.loads(json.dumps(packed(value), allow_nan=False)))


def same(a, b):
    assert type(a) is type(b)
    if isinstance(a, dict):
        assert list(a) == list(b)
        return all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)
    if isinstance(a, np.ndarray | np.generic):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    return a == b or (a != a and b != b)


def optimizer():
    weight = torch.nn.Parameter(torch.ones(2))
    made = torch.optim.Adam([weight], lr=0.1)
    weight.sum().backward()
    made.step()
    return made.state_dict()


VALUES = [
    ("a", 1, (True, None)),
    [(1,), [2], ()],
    {"tuple": 1},
    {"npy+zlib": [1], "other": 2},
    {"items": {"float": "nan"}},
    {0: "a", "1": "b", (2, 3): "c"},
    {},
    float("nan"),
    float("-inf"),
    2**70,
    np.float32(0.1),
    np.int16(-3),
    np.bool_(True),
    np.datetime64("2020-01-01"),
    np.arange(6).reshape(2, 3)[:, ::2],
    np.array([np.nan, np.inf]),
    np.array(["a", "bc"]),
    np.float16([1.5]),
    torch.arange(4.0).to(torch.bfloat16).reshape(2, 2),
    torch.tensor(1.5, dtype=torch.bfloat16),
    torch.empty(0, 3, dtype=torch.bfloat16),
    torch.ones(2, 2).to(torch.float8_e4m3fn).to(torch.float32),
    torch.tensor([1 + 2j]).conj().resolve_conj(),
    torch.tensor(3),
    random.Random(0).getstate(),
    np.random.RandomState(0).get_state(),
    np.random.default_rng(0).bit_generator.state,
    torch.Generator().manual_seed(0).get_state(),
    optimizer(),
]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: repr(value)[:30])
def test_what_is_saved_comes_back(value):
    assert same(back(value), value)
    assert same(back({"a": [value]}), {"a": [value]})


def test_a_conjugate_comes_back_by_value():
    assert torch.equal(back(torch.tensor([1 + 2j]).conj()), torch.tensor([1 - 2j]))


@pytest.mark.parametrize(
    "value", [torch.eye(3).to_sparse(), np.random.default_rng(0), {1, 2}, object(), [b"a"], np.array([object()])]
)
def test_other_things_are_refused_in_one_line(value):
    refused(r"^a state (is made of|cannot hold) .*: (let|give) .*$", packed, {"a": value}, error=TypeError)


@pytest.mark.parametrize(
    "value",
    [
        {"tuple": 3},
        {"items": [[1]]},
        {"items": [[[], 1]]},
        {"float": "x"},
        {"tensor bits": ["a", "b"]},
        {"tensor bits": [packed(np.zeros(2, np.uint8))["npy+zlib"], "nothing", [1]]},
        {"tensor bits": [packed(np.zeros(2, np.uint8))["npy+zlib"], "bfloat16", [7]]},
        {"scalar npy+zlib": 5},
    ],
)
def test_damaged_parts_are_refused(value):
    refused("of this state is damaged", unpacked, value)
