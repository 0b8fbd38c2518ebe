"""The Ray engine without Ray: what a worker does, where workers find room, and the queue under workers that die."""

import importlib.util
import sys
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from torch import nn

from drawstream.features import Scoring
from drawstream.features.extraction_on_ray import (
    ATTEMPTS,
    ClusterError,
    Worker,
    _Crew,
    _flushes_denormals,
    _Job,
    extract_on_ray,
    places_of,
)
from drawstream.features.shard_scorer import ShardScorer
from drawstream.pipeline import ArraySource, Catalog
from drawstream.pipeline.shards.pack import pack

needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")
DIGITS = load_digits()
PIXELS = (DIGITS.images * 15.9375).astype(np.uint8)
MODEL = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))


@pytest.fixture(scope="module")
def catalog(tmp_path_factory):
    source = ArraySource(PIXELS[:250], DIGITS.target[:250])
    return Catalog.open(pack(source, tmp_path_factory.mktemp("cluster") / "d", shard_rows=100).train)


def job(catalog, /, **changes):
    given = {"catalog": str(catalog.path), "fingerprint": catalog.fingerprint, "scoring": Scoring(batch_size=30)}
    return _Job(**{**given, "threads": 1, "flush_denormals": False, **changes})


@needs_ray
def test_a_worker_gives_rows_so_far_and_then_the_columns(catalog):
    worker = Worker()
    worker.open(job(catalog), MODEL)
    *counts, columns = worker.score(1)
    assert counts == sorted(counts) and all(0 <= n <= 100 for n in counts)
    with ShardScorer(catalog, MODEL, Scoring(batch_size=30)) as scorer:
        expected = scorer.score(1)
    assert columns.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_array_equal(columns[name], values)


@needs_ray
def test_a_worker_computes_with_the_drivers_settings(catalog):
    worker = Worker()
    worker.open(job(catalog, threads=1, flush_denormals=True), MODEL)
    assert worker._thread.submit(torch.get_num_threads).result() == 1
    assert worker._thread.submit(_flushes_denormals).result() and not _flushes_denormals()


@needs_ray
def test_a_node_without_the_data_is_named(catalog, tmp_path):
    with pytest.raises(ValueError, match=r"node \S+: .*nowhere.*; every node must see the data under the same path"):
        Worker().open(job(catalog, catalog=str(tmp_path / "nowhere")), MODEL)
    with pytest.raises(ValueError, match=rf"node \S+: .* has the fingerprint {catalog.fingerprint}, but .* it is 00ff"):
        Worker().open(job(catalog, fingerprint="00ff"), MODEL)


def test_without_ray_the_remedy_is_told(catalog, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ValueError, match=r"needs Ray: pip install 'drawstream\[cluster\]'"):
        extract_on_ray(catalog, MODEL, tmp_path, model_name="linear")


@needs_ray
@pytest.mark.parametrize("address", ["127.0.0.1:1", "127.0.0.1:port"])
def test_an_address_where_nobody_listens_is_told_at_once(catalog, tmp_path, address):
    with pytest.raises(ValueError, match=f"no Ray cluster answers at {address}: "):
        extract_on_ray(catalog, MODEL, tmp_path, model_name="linear", address=address)


@pytest.mark.parametrize(
    ("nodes", "device", "threads", "expected"),
    [
        ([(2, 0)], "cpu", 1, (1, 2)),
        ([(0, 0), (8, 0), (5, 1)], "cpu", 2, (2, 6)),
        ([(0, 0), (1, 0), (8, 0)], "cpu", None, (1, 9)),  # the smallest node decides
        ([(16, 4), (8, 1), (64, 0)], "gpu", None, (4, 5)),
        ([(16, 4), (8, 1)], "gpu", 8, (8, 3)),  # no more GPUs than cores go around
    ],
)
def test_places(nodes, device, threads, expected):
    ray = SimpleNamespace(nodes=lambda: [node(*each) for each in [*nodes]] + [{**node(9, 9), "Alive": False}])
    assert places_of(ray, device, threads) == expected


def test_a_cluster_without_room_is_refused():
    ray = SimpleNamespace(nodes=lambda: [node(2, 0)])
    with pytest.raises(ValueError, match=r"no node with 3 cores: its nodes have \(cores, GPUs\) \[\(2, 0\)\]"):
        places_of(ray, "cpu", 3)
    with pytest.raises(ValueError, match="no node with 1 cores and a GPU"):
        places_of(ray, "gpu", None)


def node(cpus, gpus):
    return {"Alive": True, "Resources": {"CPU": float(cpus)} | ({"GPU": float(gpus)} if gpus else {})}


class FakeRay:
    """Workers whose next deed is drawn: they report, finish, raise, die, or (None) do not get a place."""

    def __init__(self, fate):
        self.fate, self.alive, self.scored = fate, set(), Counter()
        self.exceptions = SimpleNamespace(RayError=LostError, RayTaskError=TaskError)

    def put(self, value):
        return value

    def remote(self, _):
        return SimpleNamespace(options=lambda **_: SimpleNamespace(remote=lambda: FakeWorker(self)))

    def kill(self, worker):
        self.alive.discard(worker)

    def wait(self, handles, *, timeout):
        placed = [handle for handle in handles if handle.worker in self.alive]
        return (placed[:1], None) if placed or timeout is not None else pytest.fail("it would wait for ever")

    def get(self, handle):
        deed = handle.deed
        if isinstance(deed, Exception):
            raise deed
        return deed


class LostError(Exception):
    pass


class TaskError(LostError):
    def __init__(self, cause):
        super().__init__(cause)
        self.cause = cause


class FakeWorker:
    def __init__(self, ray):
        self.ray = ray
        self.open = SimpleNamespace(remote=lambda *_: Handle(self, None))
        self.score = SimpleNamespace(
            options=lambda num_returns: SimpleNamespace(remote=lambda shard: Handle(self, shard))
        )
        if ray.fate("place"):
            ray.alive.add(self)


class Handle:
    """An answer of `open`, or the stream of answers of `score`."""

    def __init__(self, worker, shard):
        assert shard is None or worker in worker.ray.alive, "a shard was given to a worker that is gone"
        self.worker, self.shard = worker, shard
        if shard is None:
            self.deed = LostError("gone") if worker.ray.fate("open") == "die" else None

    def __next__(self):
        deed = self.worker.ray.fate("score")
        if deed == "finish":
            self.worker.ray.scored[self.shard] += 1
            return SimpleNamespace(deed={"sample_id": np.arange(10), "shard": self.shard})
        answers = {"report": 5, "raise": TaskError(OSError("no such host")), "die": LostError("gone\nfor ever")}
        return SimpleNamespace(deed=answers[deed])


class SevenShards:
    """Of a catalog, what the queue asks for: seven shards of ten rows."""

    shards = tuple(SimpleNamespace(path=str(i)) for i in range(7))

    def __len__(self):
        return 70

    def shard_rows(self, shard):
        return 10 * shard, 10 * shard + 10


def crew_of(catalog, fate, size):
    ray = FakeRay(fate)
    return ray, _Crew(ray, SevenShards(), job(catalog), MODEL, size)


@given(data=st.data(), size=st.integers(1, 4))
def test_every_shard_comes_once_or_the_reason_is_told(catalog, data, size):
    """Whatever dies or raises: the columns of each shard come exactly once, unless something failed three times."""
    failed = Counter()

    def fate(what):
        if what == "place":
            return True
        if what == "open":
            return data.draw(st.sampled_from(["open"] * 3 + ["die"]))
        deed = data.draw(st.sampled_from(["finish", "finish", "report", "raise", "die"]))
        failed[deed] += 1
        return deed

    ray, crew = crew_of(catalog, fate, size)
    came, seen = [], []
    try:
        for shard, columns in crew.score([0, 2, 3, 5], seen.append):
            assert columns["shard"] == shard
            came.append(shard)
    except ClusterError as error:
        assert f"failed {ATTEMPTS} times, the last time: " in str(error) and "\n" not in str(error)
        assert failed["raise"] + failed["die"] >= ATTEMPTS or "starting a worker" in str(error)
    else:
        assert sorted(came) == [0, 2, 3, 5] and seen[-1].done == seen[-1].rows == 70
        assert all(30 <= step.done <= 70 for step in seen)
    assert all(count == 1 for count in ray.scored.values())
    crew.dismiss()
    assert not ray.alive


def test_shards_that_always_fail_are_tried_so_often_and_no_more(catalog):
    _, crew = crew_of(catalog, {"place": True, "open": "open", "score": "die"}.get, 2)
    with pytest.raises(ClusterError, match=rf"shard [04] failed {ATTEMPTS} times, .*: its worker died \(gone\)"):
        list(crew.score([0, 4], None))


def test_a_cluster_on_which_nothing_starts_is_told(catalog):
    _, crew = crew_of(catalog, lambda what: what != "place", 2)
    with pytest.raises(ClusterError, match="no worker could start within 300 s: see `ray status`"):
        list(crew.score([0], None))
