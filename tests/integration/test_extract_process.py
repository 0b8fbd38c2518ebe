"""Extraction in processes of its own: SIGKILL at random points, and a disk that is full."""

import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from drawstream.features import extract
from drawstream.pipeline import ArraySource, Catalog
from drawstream.pipeline.pack import pack

DIGITS = load_digits()
PIXELS = (DIGITS.images * 15.9375).astype(np.uint8)
SHARDS = 8
EXTRACT = """
import resource, signal, sys, time
from pathlib import Path
import torch
from torch import nn
from drawstream.features import extract
from drawstream.pipeline import Catalog

folder, out, pause, limit = Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4])
torch.manual_seed(0)
torch.set_num_threads(1)
model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
catalog = Catalog.open(folder)
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
print("ready", flush=True)
try:
    extract(catalog, model, out, model_name="mlp", batch_size=50, progress=lambda _: time.sleep(pause))
except OSError as error:
    print("refused:", error, flush=True)
    sys.exit(3)
"""


@pytest.fixture(scope="module")
def catalog(tmp_path_factory):
    source = ArraySource(PIXELS[:800], DIGITS.target[:800])
    return pack(source, tmp_path_factory.mktemp("extract") / "d", shard_rows=800 // SHARDS).train


def extract_here(catalog, out):
    """The same extraction in this process."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    try:
        return extract(Catalog.open(catalog), model, out, model_name="mlp", batch_size=50)
    finally:
        torch.set_num_threads(threads)


def start(catalog, out, *, pause=0.0, limit=0):
    command = [sys.executable, "-W", "error", "-c", EXTRACT, str(catalog), str(out), str(pause), str(limit)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    return process


def parts(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_extraction_gives_the_same_bytes(catalog, tmp_path, kills):
    extract_here(catalog, tmp_path / "whole")
    whole = parts(tmp_path / "whole")
    assert len(whole) == SHARDS
    chance, counts = random.Random(kills), []
    for _ in range(kills):
        process = start(catalog, tmp_path / "killed", pause=0.05)
        time.sleep(chance.uniform(0, 1.2 / kills))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        there = parts(tmp_path / "killed") if (tmp_path / "killed").exists() else {}
        counts.append(sum(name.startswith("part-") for name in there))
        for name, data in there.items():  # a part that is there is whole
            assert name.startswith(".") or data == whole[name]
    assert counts == sorted(counts)
    last = start(catalog, tmp_path / "killed")
    assert last.communicate(timeout=60)[1] == "" and last.returncode == 0
    assert parts(tmp_path / "killed") == whole


def test_a_full_disk_leaves_no_broken_part(catalog, tmp_path):
    """A bound on the file size stands for the full disk: a write fails in the middle of a part."""
    process = start(catalog, tmp_path / "f", limit=2000)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 3 and out.startswith("refused:") and "File too large" in out, err
    assert parts(tmp_path / "f") == {}
    assert len(extract_here(catalog, tmp_path / "f")) == 800
