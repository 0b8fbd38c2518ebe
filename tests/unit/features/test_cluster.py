"""Extraction on Ray without Ray: what a worker computes, what it refuses, and which shards are tried again."""

import importlib.util
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from drawstream.features import Scoring, extraction
from drawstream.features.extraction import RemoteScorer, missing_shards, write_shards_on_ray
from drawstream.features.options import provenance
from drawstream.features.shard_scorer import ShardScorer
from drawstream.features.table import FeatureTable
from drawstream.pipeline.shards import Catalog
from drawstream.pipeline.shards.pack import pack
from drawstream.pipeline.sources import ArraySource
from drawstream.pipeline.workers.engines import Workers
from drawstream.pipeline.workers.pool import Pool, ThisProcess, WorkerError

needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")
DIGITS = load_digits()
PIXELS = (DIGITS.images * 15.9375).astype(np.uint8)
MODEL = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
SCORING = Scoring(batch_size=30)


@pytest.fixture(scope="module")
def catalog(tmp_path_factory):
    source = ArraySource(PIXELS[:250], DIGITS.target[:250])
    return Catalog.open(pack(source, tmp_path_factory.mktemp("cluster") / "d", shard_rows=100).train)


def scorer(catalog, /, **changes):
    given = {"catalog": str(catalog.path), "fingerprint": catalog.fingerprint, "model": MODEL, "scoring": SCORING}
    return RemoteScorer(**{**given, "flush_denormals": False, **changes})


def test_a_worker_yields_rows_so_far_and_returns_the_columns(catalog, monkeypatch):
    monkeypatch.setattr(extraction, "PULSE", 0.0)
    counts, scoring = [], scorer(catalog)(1)
    with pytest.raises(StopIteration) as end:
        while True:
            counts.append(next(scoring))
    assert counts == sorted(counts) and all(0 <= n <= 100 for n in counts)
    with ShardScorer(catalog, MODEL, SCORING) as local:
        expected = local.score(1)
    assert end.value.value.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_array_equal(end.value.value[name], values)


def test_a_worker_computes_with_the_settings_of_its_driver(catalog):
    torch.set_flush_denormal(True)
    try:
        remote = RemoteScorer.of(catalog, MODEL, SCORING)
    finally:
        torch.set_flush_denormal(False)
    assert remote.flush_denormals and not RemoteScorer.of(catalog, MODEL, SCORING).flush_denormals
    assert remote._thread.submit(torch.get_num_threads).result() == torch.get_num_threads()
    assert remote._thread.submit(lambda: float(torch.tensor(1e-30) * torch.tensor(1e-10))).result() == 0.0


@needs_ray
def test_a_node_without_the_data_is_named(catalog, tmp_path):
    with pytest.raises(ValueError, match=r"node \S+: .*nowhere.*; every node must see the data under the same path"):
        next(scorer(catalog, catalog=str(tmp_path / "nowhere"))(0))
    with pytest.raises(ValueError, match=rf"node \S+: .* has the fingerprint {catalog.fingerprint}, but .* it is 00ff"):
        next(scorer(catalog, fingerprint="00ff")(0))


@pytest.mark.parametrize(("failures", "kept"), [(0, True), (2, True), (3, False)])
def test_a_shard_that_fails_is_tried_three_times(catalog, tmp_path, monkeypatch, failures, kept):
    """The rows of a shard that was lost are taken back; all others are kept."""
    told, seen = [], []

    def fail(shard):
        yield 5
        if shard == 1 and len(told) < failures:
            told.append(shard)
            raise RuntimeError("node 10.0.0.2: no such host")
        return (yield from remote(shard))

    @contextmanager
    def here(_function, _workers, /, *, name, **_):
        yield Pool(ThisProcess(fail), name)

    monkeypatch.setattr(extraction, "open_workers", here)
    remote, made = RemoteScorer.of(catalog, MODEL, SCORING), provenance(catalog, MODEL, SCORING, model_name="linear")
    shards = missing_shards(catalog, tmp_path, made)

    def write():
        write_shards_on_ray(
            catalog,
            remote,
            shards,
            tmp_path,
            made,
            workers=Workers(engine="ray"),
            progress=lambda p: seen.append(p.done),
        )

    if kept:
        write()
        assert len(FeatureTable.open(tmp_path)) == seen[-1] == 250
    else:
        with pytest.raises(
            WorkerError, match=r"^shard \S+ failed 3 times, the last time: node 10.0.0.2: no such host$"
        ):
            write()
        assert missing_shards(catalog, tmp_path, made) == [1]
