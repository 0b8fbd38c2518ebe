"""Training under torchrun: the number of ranks changes nothing but the order of floating-point sums."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from safetensors.numpy import load_file
from sklearn.datasets import load_digits

from drawstream.pipeline.shards.pack import pack
from drawstream.pipeline.shards.staging import claimed
from drawstream.pipeline.sources import ArraySource


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    digits = load_digits()
    images, labels = np.round(digits.images * 15).astype(np.uint8), digits.target.astype(np.int64)
    return pack(ArraySource(images[:503], labels[:503]), tmp_path_factory.mktemp("digits") / "data", holdout=101)


def train(data, out, processes, *options):
    """Three epochs; 402 rows leave a last batch of 18, which three ranks share with fill."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command += ["-m", "drawstream.tools.cli", "train", data.train, "-o", out, "--held-out", data.holdout]
    command += ["--model", "mlp", "--epochs", 3, "--global-batch", 24, "--seed", 7, *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("top-1") == 1  # rank 0 speaks
    return json.loads((out / "run.json").read_text()), load_file(out / "last.safetensors")


def test_two_ranks_train_as_one(data, tmp_path):
    alone, weights = train(data, tmp_path / "1", 1)
    for ranks in (2, 3):
        record, shared = train(data, tmp_path / str(ranks), ranks)
        assert record["stream"] == alone["stream"]
        for name, value in weights.items():
            np.testing.assert_allclose(shared[name], value, rtol=1e-3, atol=1e-4)
        losses = [[epoch["loss"] for epoch in run["history"]] for run in (record, alone)]
        np.testing.assert_allclose(*losses, rtol=0.02)  # the fill counts in the reported loss only
        accuracy = [run["history"][-1]["accuracy"]["held_out"] for run in (record, alone)]
        assert abs(accuracy[0] - accuracy[1]) < 1.5


@pytest.mark.slow
def test_a_run_of_two_ranks_that_is_killed_goes_on_with_three_and_one(data, tmp_path, monkeypatch):
    """The global batch is the same; each start is killed behind its first epoch."""
    (tmp_path / "killing.py").write_text(KILLING)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    alone, weights = train(data, tmp_path / "alone", 1)
    for ranks in (2, 3):
        with pytest.raises(AssertionError, match="killed behind epoch"):
            train(data, tmp_path / "run", ranks, "--hook", "killing:Killing")
        assert not (tmp_path / "run/run.json").exists()
    record, shared = train(data, tmp_path / "run", 1)
    assert len(record["history"]) == 3
    assert record["identity"] == alone["identity"]
    for name, value in weights.items():
        np.testing.assert_allclose(shared[name], value, rtol=1e-3, atol=1e-4)


KILLING = """
class Killing:
    def __init__(self, out): pass
    def begin(self, kind, settings): pass
    def end(self, record): pass
    def step(self, step, total, values): raise ValueError(f"killed behind epoch {step}")
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_rank_without_a_master_ends_at_a_signal(number):
    group = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29999"}
    command = [sys.executable, "-c", WAITS]
    with subprocess.Popen(command, env={**os.environ, **group}, stdout=subprocess.PIPE, text=True) as rank:
        assert rank.stdout.readline() == "joining\n"
        time.sleep(1)
        rank.send_signal(number)
        assert rank.wait(timeout=20) == -number


WAITS = """
from drawstream.tools.cli.signals import signals_as_exceptions
from drawstream.tools.training.ranks import join_ranks
with signals_as_exceptions():
    print("joining", flush=True)
    join_ranks("cpu")
"""


def test_all_ranks_hear_that_the_folder_is_being_written(data, tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m"]
    command += ["drawstream.tools.cli", "train", str(data.train), "-o", str(tmp_path / "run"), "--model", "mlp"]
    with claimed(tmp_path / "run"):
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, check=False)
    assert done.returncode != 0
    lines = [line for line in done.stderr.splitlines() if line.startswith("drawstream: ")]
    assert len(lines) == 2 and all("is writing there: wait for it" in line for line in lines)
    assert "gloo" not in done.stderr
