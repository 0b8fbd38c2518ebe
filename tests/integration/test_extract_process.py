"""Extraction in processes of its own: SIGKILL at random points, a disk that is full, shards divided among ranks."""

import json
import os
import random
import resource
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from sklearn.datasets import load_digits
from torch import nn

from drawstream.features import extract_features as extract
from drawstream.features.table import FeatureTable
from drawstream.features.table.part import part_path
from drawstream.pipeline.shards import Catalog
from drawstream.pipeline.shards.pack import pack
from drawstream.pipeline.sources import ArraySource
from drawstream.tools.cli.app import main
from drawstream.tools.training.models import build_model

DIGITS = load_digits()
PIXELS = (DIGITS.images * 15.9375).astype(np.uint8)
SHARDS = 8
EXTRACT = """
import sys, time
from pathlib import Path
import torch
from torch import nn
from drawstream.features import extract_features as extract
from drawstream import Catalog

folder, out, pause, crops = Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4])
torch.manual_seed(0)
torch.set_num_threads(1)
model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
catalog = Catalog.open(folder)
print("ready", flush=True)
options = {"batch_size": 50, "crops": crops or None, "progress": lambda _: time.sleep(pause)}
extract(catalog, model, out, model_name="mlp", **options)
"""


@pytest.fixture(scope="module")
def catalog(tmp_path_factory):
    source = ArraySource(PIXELS[:800], DIGITS.target[:800])
    return pack(source, tmp_path_factory.mktemp("extract") / "d", shard_rows=800 // SHARDS).train


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "mlp.safetensors"
    save_file(build_model("mlp", num_classes=10, channels=1, size=(8, 8), seed=0).state_dict(), path)
    return path


@pytest.fixture
def one_thread():
    """Sums in the order of the other processes."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def extract_here(catalog, out, crops):
    """The same extraction in this process."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    return extract(Catalog.open(catalog), model, out, model_name="mlp", batch_size=50, crops=crops or None)


def start(catalog, out, *, crops, pause=0.0):
    command = [sys.executable, "-W", "error", "-c", EXTRACT, str(catalog), str(out), str(pause), str(crops)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    return process


def parts(folder):
    """The bytes of everything in the folder; the record of the command, which differs, lies beside it."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize(
    ("kills", "crops"), [(1, 2), *(pytest.param(20, crops, marks=pytest.mark.slow) for crops in (0, 2))]
)
def test_killed_extraction_gives_the_same_bytes(catalog, tmp_path, one_thread, kills, crops):
    extract_here(catalog, tmp_path / "whole", crops)
    whole = parts(tmp_path / "whole")
    assert len(whole) == SHARDS
    chance, counts = random.Random(kills), []
    for _ in range(kills):
        process = start(catalog, tmp_path / "killed", crops=crops, pause=0.05)
        time.sleep(chance.uniform(0, 2.4 / kills))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        there = parts(tmp_path / "killed") if (tmp_path / "killed").exists() else {}
        counts.append(sum(name.startswith("part-") for name in there))
        for name, data in there.items():  # a part that is there is whole
            assert name.startswith(".") or data == whole[name]
    assert counts == sorted(counts)
    last = start(catalog, tmp_path / "killed", crops=crops)
    assert last.communicate(timeout=60)[1] == "" and last.returncode == 0
    assert parts(tmp_path / "killed") == whole


def command(catalog, weights, out):
    """Arguments of the command line."""
    return ["features", str(catalog), "-o", str(out), "--model", "mlp", "--weights", str(weights), "--crops", "2"]


def test_a_full_disk_leaves_no_broken_part_and_one_line(catalog, weights, tmp_path, capsys):
    """A bound on the file size stands for the full disk: a write fails in the middle of a part."""
    out = tmp_path / "f"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, hard))
    try:
        status = main(command(catalog, weights, out))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert status == 2
    line = f"drawstream: {part_path(out, 0)}: File too large: free some space and start the same command again\n"
    assert capsys.readouterr().err == line
    assert parts(out) == {}
    assert main(command(catalog, weights, out)) == 0
    assert len(FeatureTable.open(out)) == 1600


def test_ranks_divide_the_missing_shards(catalog, weights, tmp_path, one_thread):
    assert main(command(catalog, weights, tmp_path / "alone")) == 0
    whole = parts(tmp_path / "alone")
    shared = tmp_path / "shared"
    shared.mkdir()
    kept = part_path(shared, 3)
    kept.write_bytes(whole[kept.name])
    inode = kept.stat().st_ino
    arguments = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    arguments += ["-m", "drawstream.tools.cli", *command(catalog, weights, shared), "--json", str(tmp_path / "r.json")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(arguments, capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 0, done.stderr
    assert parts(shared) == whole and kept.stat().st_ino == inode
    assert done.stdout.count("1600 rows") == 1 and done.stderr.count("features: ") == 1  # rank 0 speaks
    assert json.loads((tmp_path / "r.json").read_text())["rows"] == 1600
