"""The tracker on logits of a GPU: the state is that of the same logits on the CPU, and no batch is waited for."""

import pytest
import torch

from drawstream.features import Tracker

ROWS = 500


def follow(device, ids_device):
    tracker, rng = Tracker(ROWS), torch.Generator().manual_seed(0)
    for epoch in range(2):
        tracker.set_epoch(epoch)
        for _ in range(20):
            ids = torch.randint(0, ROWS, (64,), generator=rng)
            labels = torch.randint(0, 10, (64,), generator=rng)
            weights = (torch.rand(64, generator=rng) > 0.1).float()
            logits = torch.randn(64, 10, generator=rng).to(device)
            around = (value.to(ids_device) for value in (ids, labels, weights))
            ids, labels, weights = around
            tracker.observe(ids, logits, labels, weights)
            for used in (ids, logits, labels):  # as a step under CUDA graphs writes its next batch over them
                used.zero_()
            assert len(tracker._pending) <= 4
        tracker.reduce()
        assert not tracker._pending
    return tracker.state_dict()["tensors"]


@pytest.mark.parametrize("ids_device", ["cuda", "cpu"])
def test_a_gpu_gives_the_state_of_the_cpu(ids_device):
    expected = follow("cpu", "cpu")
    assert all(value.equal(expected[name]) for name, value in follow("cuda", ids_device).items())


def test_a_full_queue_does_not_block_a_step():
    tracker = Tracker(ROWS)
    tracker.set_epoch(0)
    torch.cuda._sleep(2_000_000_000)  # the GPU is busy for about a second
    for _ in range(4):
        tracker.observe(torch.arange(64), torch.zeros(64, 10, device="cuda"), torch.zeros(64, dtype=torch.int64))
    assert len(tracker._pending) == 4
    tracker.reduce()
    assert tracker.columns()["seen"].sum() == 4 * 64


def test_bad_ids_are_found_at_the_latest_in_reduce():
    tracker = Tracker(ROWS)
    tracker.set_epoch(0)
    with pytest.raises(ValueError, match=r"ids must lie in \[0, 500\), but got 500"):
        tracker.observe(torch.tensor([500]).cuda(), torch.zeros(1, 3).cuda(), torch.tensor([0]).cuda())
        tracker.reduce()
