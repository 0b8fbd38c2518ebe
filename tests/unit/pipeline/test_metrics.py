"""What a loader counts, and the ranges it shows in a profile."""

import json
import time

import pytest
import torch

from drawstream.pipeline import Loader
from drawstream.pipeline.images import Transform
from drawstream.samplers.orders import IndexStream

N = 300


def loader_of(digits):
    return Loader(digits, IndexStream(N), transform=Transform.small((8, 8), 1), batch_size=32)


def test_metrics_count_what_was_delivered(digits):
    loader = loader_of(digits)
    assert loader.metrics["images"] == loader.metrics["images_per_second"] == loader.metrics["wait_share"] == 0
    for epoch in range(3):
        loader.set_epoch(epoch)
        list(loader)
    metrics = json.loads(json.dumps(loader.metrics))
    assert (metrics["images"], metrics["batches"], metrics["bytes_read"]) == (3 * N, 3 * 10, 3 * N * 64)
    assert 0 < metrics["wait_seconds"] <= metrics["seconds"] and metrics["read_seconds"] > 0
    assert metrics["images_per_second"] == pytest.approx(3 * N / metrics["seconds"])


def test_the_step_counts_and_is_no_waiting(digits):
    loader = loader_of(digits)
    for _ in loader:
        time.sleep(0.02)
    metrics = loader.metrics
    assert metrics["seconds"] >= 10 * 0.02 and metrics["seconds"] - metrics["wait_seconds"] >= 10 * 0.02


def test_a_profile_shows_reads_and_runs(digits):
    threads = torch._C._profiler._ExperimentalConfig(profile_all_threads=True)
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], experimental_config=threads
    ) as profile:
        list(loader_of(digits))
    assert {"drawstream.read", "drawstream.run"} <= {event.key for event in profile.key_averages()}
