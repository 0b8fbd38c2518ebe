"""A population under torchrun: neither the number of processes nor a killed one changes the schedule."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from sklearn.datasets import load_digits

from drawstream.pipeline.shards.pack import pack
from drawstream.pipeline.sources import ArraySource
from drawstream.samplers.orders.schedule import Schedule
from drawstream.tools.cli.app import main

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
OPTIONS = ["--model", "mlp", "--epochs", 6, "--global-batch", 24, "--seed", 7, "--interval", 5, "--explore-after", 2]
OPTIONS += ["--permutations", 1, "--reward", "loss", "--reward-rows", 50]  # ties are rare among losses


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    digits = load_digits()
    images, labels = np.round(digits.images * 15).astype(np.uint8), digits.target.astype(np.int64)
    return pack(ArraySource(images[:503], labels[:503]), tmp_path_factory.mktemp("digits") / "data", holdout=101)


def arguments(data, out, population, more):
    own = ["search", "auto", data.train, "-o", out, "--held-out", data.holdout, "--population", population]
    return [str(part) for part in [*own, *OPTIONS, *more]]


def search_here(data, out, population, *more):
    """In this process alone, on one thread as under torchrun."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert main(arguments(data, out, population, more)) == 0
    finally:
        torch.set_num_threads(threads)


def start(data, out, processes, population, *more):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    line = [*torchrun, "-m", "drawstream.tools.cli", *arguments(data, out, population, more)]
    return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)


def search(data, out, processes, population, *more):
    with start(data, out, processes, population, *more) as running:
        told, errors = running.communicate(timeout=180)
    assert running.returncode == 0, errors
    assert told.count("last reward") == 1  # one process speaks


def require_same(first, second, ranks):
    """Schedules, rewards and weights of two folders are equal to the bit."""
    mine, theirs = (json.loads((folder / "auto.json").read_text()) for folder in (first, second))
    assert Schedule.open(first / "schedule.arrow").diff(Schedule.open(second / "schedule.arrow")).first is None
    assert mine["rewards"] == theirs["rewards"] and mine["winners"] == theirs["winners"]
    assert theirs["ranks"] == ranks and len(set(theirs["winners"])) > 1
    weights = load_file(second / "last.safetensors")
    for name, value in load_file(first / "last.safetensors").items():
        np.testing.assert_array_equal(weights[name], value)


def test_two_processes_search_as_one(data, tmp_path):
    search_here(data, tmp_path / "1", 3)
    search(data, tmp_path / "2", 2, 3)  # one child and two
    require_same(tmp_path / "1", tmp_path / "2", 2)
    with start(data, tmp_path / "1", 2, 3, "--lr", 0.2) as running:  # finished by one process, with another identity
        _, errors = running.communicate(timeout=180)
    assert running.returncode == 1  # of torchrun
    assert "1/auto.json: this job was started with recipe.lr 0.05, not 0.2: give another output folder" in errors
    assert "[rank1]: Traceback" not in errors  # which waited for a process that had left


@pytest.mark.slow
def test_four_processes_search_as_one(data, tmp_path):
    search_here(data, tmp_path / "1", 6)
    search(data, tmp_path / "4", 4, 6)
    require_same(tmp_path / "1", tmp_path / "4", 4)


@pytest.mark.slow
def test_a_killed_process_changes_nothing(data, tmp_path):
    longer = ("--epochs", 60, "--explore-after", 3)
    search_here(data, tmp_path / "whole", 2, *longer)
    checkpoint, deadline = tmp_path / "killed" / "checkpoint.pt", time.monotonic() + 120
    with start(data, tmp_path / "killed", 2, 2, *longer) as running:
        while not checkpoint.exists():
            assert running.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
        listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(running.pid)], capture_output=True, text=True)
        ranks = [int(each) for each in listed.stdout.split()]
        assert len(ranks) == 2
        os.kill(ranks[1], signal.SIGKILL)
        running.communicate(timeout=120)
    assert running.returncode != 0 and not (tmp_path / "killed" / "auto.json").exists() and checkpoint.exists()
    search(data, tmp_path / "killed", 2, 2, *longer)
    require_same(tmp_path / "whole", tmp_path / "killed", 2)
