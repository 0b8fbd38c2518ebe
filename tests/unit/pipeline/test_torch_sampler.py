"""Index streams behind torch's DataLoader: same rows, ranks, epochs, resuming."""

import numpy as np
import pytest
from torch.utils.data import DataLoader

from drawstream.pipeline.torch_sampler import StreamBatchSampler, StreamSampler
from drawstream.samplers import IndexStream, Sequential

WEIGHTS = np.arange(1.0, 41.0)


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


def test_drop_last(stream):
    sampler = StreamBatchSampler(stream, batch_size=16, drop_last=True)
    assert [len(batch) for batch in sampler] == [16] * 4
    assert len(sampler) == 4
    assert len(StreamSampler(stream, batch_size=16, drop_last=True)) == 64


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


def test_batch_sampler_resumes(stream):
    sampler = StreamBatchSampler(stream, batch_size=16)
    whole = list(sampler)
    steps = iter(sampler)
    next(steps)
    next(steps)
    fresh = StreamBatchSampler(stream, batch_size=16)
    fresh.load_state_dict(sampler.state_dict())
    assert list(fresh) == whole[2:]


def test_a_state_of_another_stream_is_refused(stream):
    state = StreamSampler(stream, batch_size=4).state_dict()
    other = IndexStream(WEIGHTS, draws=70, seed=3)
    with pytest.raises(ValueError, match=f"saved for {stream.fingerprint} and this is {other.fingerprint}"):
        StreamSampler(other, batch_size=4).load_state_dict(state)


def test_stream_replaced_between_epochs(stream):
    sampler = StreamSampler(stream, batch_size=10)
    loader = DataLoader(range(40), batch_size=10, sampler=sampler)
    list(loader)
    only_two = np.zeros(40)
    only_two[[4, 9]] = 1.0
    sampler.stream = IndexStream(only_two, draws=70, seed=2)
    sampler.set_epoch(1)
    assert set(np.concatenate([batch.numpy() for batch in loader])) == {4, 9}


def test_sequential():
    assert list(StreamBatchSampler(Sequential(2, 9), batch_size=3)) == [[2, 3, 4], [5, 6, 7], [8]]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"batch_size": 0}, "batch_size >= 1 must hold, but got 0"),
        ({"batch_size": 4, "rank": 2, "world_size": 2}, "0 <= rank < world_size must hold, but got rank=2"),
        ({"batch_size": 71, "drop_last": True}, "must fill one step of 1 ranks, but has 70 draws"),
    ],
)
def test_bad_arguments(stream, options, text):
    with pytest.raises(ValueError, match=text):
        StreamSampler(stream, **options)
