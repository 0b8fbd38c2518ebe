"""What a loader counts, and the ranges it shows in a profile."""

import json
import time

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from drawstream.pipeline import ArraySource, Catalog, Loader, Transform
from drawstream.pipeline.shards.pack import pack
from drawstream.samplers import IndexStream

DIGITS = load_digits()
PIXELS = (DIGITS.images * 15.9375).astype(np.uint8)
N = 300


@pytest.fixture(scope="module")
def catalog(tmp_path_factory):
    folder = tmp_path_factory.mktemp("metrics") / "d"
    return Catalog.open(pack(ArraySource(PIXELS[:N], DIGITS.target[:N]), folder).train)


def loader_of(catalog):
    return Loader(catalog, IndexStream(N), transform=Transform.small((8, 8), 1), batch_size=32)


def test_metrics_count_what_was_delivered(catalog):
    loader = loader_of(catalog)
    assert loader.metrics["images"] == loader.metrics["images_per_second"] == loader.metrics["wait_share"] == 0
    for epoch in range(3):
        loader.set_epoch(epoch)
        list(loader)
    metrics = json.loads(json.dumps(loader.metrics))
    assert (metrics["images"], metrics["batches"], metrics["bytes_read"]) == (3 * N, 3 * 10, 3 * N * 64)
    assert 0 < metrics["wait_seconds"] <= metrics["seconds"] and metrics["read_seconds"] > 0
    assert metrics["images_per_second"] == pytest.approx(3 * N / metrics["seconds"])


def test_the_step_counts_and_is_no_waiting(catalog):
    loader = loader_of(catalog)
    for _ in loader:
        time.sleep(0.02)
    metrics = loader.metrics
    assert metrics["seconds"] >= 10 * 0.02 and metrics["seconds"] - metrics["wait_seconds"] >= 10 * 0.02


def test_a_profile_shows_reads_and_runs(catalog):
    threads = torch._C._profiler._ExperimentalConfig(profile_all_threads=True)
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], experimental_config=threads
    ) as profile:
        list(loader_of(catalog))
    assert {"drawstream.read", "drawstream.run"} <= {event.key for event in profile.key_averages()}
