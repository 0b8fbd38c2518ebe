"""Training under torchrun: the number of ranks changes nothing but the order of floating-point sums."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file
from sklearn.datasets import load_digits

from drawstream.pipeline import ArraySource
from drawstream.pipeline.shards.pack import pack


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    digits = load_digits()
    images, labels = np.round(digits.images * 15).astype(np.uint8), digits.target.astype(np.int64)
    return pack(ArraySource(images[:503], labels[:503]), tmp_path_factory.mktemp("digits") / "data", holdout=101)


def train(data, out, processes, *options):
    """Three epochs; 402 rows leave a last batch of 18, which three ranks share with fill."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command += ["-m", "drawstream.tools.cli", "train", data.train, "-o", out, "--held-out", data.holdout]
    command += ["--model", "mlp", "--epochs", 3, "--batch-size", 24, "--seed", 7, *options]
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
