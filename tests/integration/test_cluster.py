"""Extraction on a Ray cluster of several nodes on this machine: equal to the local engine, whatever is killed."""

import os
import signal
import threading
import time

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from drawstream import WorkerError, Workers
from drawstream.features import extract_features as extract
from drawstream.tools.training import build_model
from shared.processes import kill, start
from shared.programs import cli
from shared.samples import digits_catalog

pytest.importorskip("ray")
from ray.cluster_utils import Cluster

SHARDS = 8
pytestmark = pytest.mark.usefixtures("one_thread")  # as many as a node has cores
STORE = 80 << 20  # bytes; Ray's least


@pytest.fixture(scope="module")
def cluster():
    """A head that takes no work, and two nodes of one core."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": STORE})
    try:
        for _ in range(2):
            cluster.add_node(num_cpus=1, object_store_memory=STORE)
        yield cluster
    finally:
        cluster.shutdown()


@pytest.fixture(scope="module")
def catalog(tmp_path_factory):
    return digits_catalog(tmp_path_factory.mktemp("cluster") / "d", 800, shard_rows=800 // SHARDS)


def make(folder=None, pause=0.0):
    """A small CNN; slowed down, it notes the processes that run it. Its class is local, so that Ray sends its code."""

    class Slow(nn.Module):
        def forward(self, x):
            if folder is not None:
                (folder / str(os.getpid())).touch()
            time.sleep(pause)
            return x

    torch.manual_seed(0)
    conv = nn.Sequential(nn.Conv2d(1, 16, 5, 2, 2), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU())
    return nn.Sequential(Slow(), conv, nn.Flatten(), nn.Linear(128, 10))


def parts(folder):
    """The bytes of everything in the folder; the record of the command, which differs, lies beside it."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def whole(catalog, tmp_path_factory):
    """The parts that the local engine writes."""
    folder = tmp_path_factory.mktemp("local") / "f"
    extract(catalog, make(), folder, model_name="conv", batch_size=50)
    return parts(folder)


def on_cluster(cluster, catalog, model, out, **options):
    workers = Workers(engine=f"ray:{cluster.address}", threads=1)
    return extract(catalog, model, out, model_name="conv", workers=workers, batch_size=50, **options)


class Once:
    """Does something at the first progress after `rows`, and remembers all of it."""

    def __init__(self, rows, deed):
        self.rows, self.deed, self.seen = rows, deed, []

    def __call__(self, progress):
        if all(done < self.rows for done in self.seen) and progress.done >= self.rows:
            self.deed()
        self.seen.append(progress.done)


def test_equal_to_the_local_engine_also_when_a_worker_is_killed(cluster, catalog, whole, tmp_path):
    pids = tmp_path / "pids"
    pids.mkdir()

    def kill():
        os.kill(int(next(pids.iterdir()).name), signal.SIGKILL)

    once = Once(100, kill)
    table = on_cluster(cluster, catalog, make(pids, 0.1), tmp_path / "f", progress=once)
    assert parts(tmp_path / "f") == whole and len(table) == 800
    assert once.seen[-1] == 800 and len(list(pids.iterdir())) >= 2


def test_a_shard_that_always_fails_is_one_line_and_the_rest_is_kept(cluster, catalog, whole, tmp_path):
    tar = catalog.shard_path(5)
    data = tar.read_bytes()
    at = int(catalog.offset[507])
    tar.write_bytes(data[:at] + bytes([data[at] ^ 255, data[at + 1] ^ 255]) + data[at + 2 :])
    try:
        with pytest.raises(WorkerError) as told:  # the command line shows it and ends with 2
            on_cluster(cluster, catalog, make(), tmp_path / "f")
    finally:
        tar.write_bytes(data)
    text = str(told.value)
    assert "\n" not in text and text.startswith(f"shard {tar.name} failed 3 times, the last time: node ")
    assert "(row 507)" in text and "do not match the checksum" in text
    left = parts(tmp_path / "f")
    assert "part-00005.parquet" not in left and left.items() <= whole.items()
    extract(catalog, make(), tmp_path / "f", model_name="conv", batch_size=50)  # the local engine goes on from them
    assert parts(tmp_path / "f") == whole


@pytest.fixture
def command(catalog, tmp_path):
    weights = tmp_path / "mlp.safetensors"
    save_file(build_model("mlp", num_classes=10, channels=1, size=(8, 8), seed=0).state_dict(), weights)
    return ["features", str(catalog.path.parent), "--model", "mlp", "--weights", str(weights), "--crops", "2", "-o"]


@pytest.mark.parametrize(
    ("engine", "text"),
    [
        ("rays", "the engine must be local, ray or ray:ADDRESS, but got 'rays'"),
        ("local:2", "the engine must be local, ray or ray:ADDRESS, but got 'local:2'"),
        ("ray:127.0.0.1:1", "no Ray cluster answers at 127.0.0.1:1: [Errno 111] Connection refused"),
    ],
)
def test_an_engine_that_does_not_exist_is_one_line(command, tmp_path, engine, text):
    assert cli(*command, tmp_path / "f", "--engine", engine, status=2) == f"drawstream: {text}\n"


@pytest.mark.slow
def test_the_command_on_a_cluster_writes_what_it_writes_here(cluster, command, tmp_path):
    cli(*command, tmp_path / "a")
    cli(*command, tmp_path / "b", "--engine", f"ray:{cluster.address}")
    assert parts(tmp_path / "a") == parts(tmp_path / "b")
    assert all((tmp_path / f"{run}.features.json").exists() for run in "ab")


@pytest.mark.slow
def test_a_node_that_dies_loses_nothing(cluster, catalog, whole, tmp_path):
    node = cluster.add_node(num_cpus=1, object_store_memory=STORE)
    once = Once(100, lambda: cluster.remove_node(node, allow_graceful=False))
    on_cluster(cluster, catalog, make(tmp_path, 0.2), tmp_path / "f", progress=once)
    assert parts(tmp_path / "f") == whole


@pytest.mark.slow
def test_a_node_that_joins_when_all_others_died_ends_the_work(cluster, catalog, whole, tmp_path):
    nodes = list(cluster.worker_nodes)

    def replace():
        for node in nodes:
            cluster.remove_node(node, allow_graceful=False)
        for _ in nodes:
            cluster.add_node(num_cpus=1, object_store_memory=STORE)

    on_cluster(cluster, catalog, make(tmp_path, 0.1), tmp_path / "f", progress=Once(100, replace))
    assert parts(tmp_path / "f") == whole


@pytest.mark.slow
def test_models_and_data_that_a_node_cannot_open_are_named(cluster, catalog, tmp_path):
    broken = make()
    broken.lock = threading.Lock()
    with pytest.raises(ValueError, match=r"^the model cannot be sent to other processes: .*_thread.lock"):
        on_cluster(cluster, catalog, broken, tmp_path / "f")
    moved = digits_catalog(tmp_path / "here", 100)
    moved.path.parent.rename(tmp_path / "there")
    with pytest.raises(ValueError, match=r"node [0-9.]+: .*here.*; every node must see the data under the same path"):
        on_cluster(cluster, moved, make(), tmp_path / "g")


DRIVER = """
import sys, time
from pathlib import Path
import torch
from torch import nn
from drawstream import Catalog, Workers, extract_features

torch.manual_seed(0)
torch.set_num_threads(1)
conv = nn.Sequential(nn.Conv2d(1, 16, 5, 2, 2), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU())
model = nn.Sequential(nn.Identity(), conv, nn.Flatten(), nn.Linear(128, 10))

def progress(p):
    print(p.done, flush=True)
    time.sleep(0.3)

extract_features(Catalog.open(sys.argv[1]), model, Path(sys.argv[2]), model_name="conv", batch_size=50,
                 progress=progress, workers=Workers(engine="ray:" + sys.argv[3], threads=1))
"""


@pytest.mark.slow
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT])
def test_a_driver_that_ends_leaves_whole_parts(cluster, catalog, whole, tmp_path, end):
    process = start("-c", DRIVER, catalog.path, tmp_path / "f", cluster.address)
    while int(process.stdout.readline()) < 100:  # a part is about to be written
        pass
    kill(process, end)
    assert process.returncode != 0
    there = parts(tmp_path / "f")
    assert len(there) < SHARDS and all(data == whole[name] for name, data in there.items() if name[0] != ".")
    on_cluster(cluster, catalog, make(), tmp_path / "f")
    assert parts(tmp_path / "f") == whole
