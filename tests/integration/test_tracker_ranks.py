"""The tracker under several processes: the same state, bit for bit, as one that sees the global batches."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from sklearn.datasets import load_digits

from drawstream.features.table import FeatureTable
from drawstream.pipeline.shards.pack import pack
from drawstream.pipeline.sources import ArraySource

PROGRAM = """
import hashlib, json, multiprocessing, sys
import torch
import torch.distributed as dist
from drawstream.features import Tracker

ROWS, GLOBAL, STEPS, EPOCHS = 40, 8, 9, 4

def batch(epoch, step):
    rng = torch.Generator().manual_seed(1000 * epoch + step)
    ids = torch.randint(0, ROWS, (GLOBAL,), generator=rng)  # with replacement, also across ranks
    weights = (torch.rand(GLOBAL, generator=rng) > 0.2).float()
    return ids, 2 * torch.randn(GLOBAL, 5, generator=rng), torch.randint(0, 5, (GLOBAL,), generator=rng), weights

def work(rank, world, store, queue):
    if world > 1:
        dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)
    tracker, share = Tracker(ROWS, decay=0.8), GLOBAL // world
    for epoch in range(EPOCHS):
        tracker.set_epoch(epoch)
        for step in range(STEPS):
            if (epoch, step) == (2, 5):  # within an epoch each rank goes on from a state of its own
                state, tracker = tracker.state_dict(), Tracker(ROWS, decay=0.8)
                tracker.load_state_dict(state)
                tracker.set_epoch(epoch)
            tracker.observe(*(value[rank * share : (rank + 1) * share] for value in batch(epoch, step)))
        tracker.reduce()
    state = tracker.state_dict()
    digest = {name: hashlib.sha256(value.numpy().tobytes()).hexdigest() for name, value in state["tensors"].items()}
    queue.put((rank, {"digest": digest, "events": int(state["tensors"]["forgotten"].sum())}))
    if world > 1:
        dist.destroy_process_group()

if __name__ == "__main__":
    context = multiprocessing.get_context("fork")  # before any thread is started
    results = {}
    for world in (1, 2, 4):
        queue = context.SimpleQueue()
        given = [(rank, world, f"{sys.argv[1]}-{world}", queue) for rank in range(world)]
        processes = [context.Process(target=work, args=args) for args in given]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        results[world] = [queue.get()[1] for _ in range(world)]
    print(json.dumps(results))
"""


def test_one_two_and_four_processes_end_with_the_same_state(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    command = [sys.executable, str(program), str(tmp_path / "store")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)
    (alone,) = results["1"]
    assert alone["events"] > 5
    for world in ("2", "4"):
        assert results[world] == [alone] * int(world)


@pytest.mark.slow
def test_training_on_two_processes_tracks_as_one_does(tmp_path):
    digits = load_digits()
    source = ArraySource((digits.images[:300] * 15.9375).astype(np.uint8), digits.target[:300])
    data = pack(source, tmp_path / "d", shard_rows=100).train
    tables = {}
    for ranks in (1, 2):
        launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)] if ranks > 1 else []
        out = tmp_path / f"run-{ranks}"
        options = ["--model", "mlp", "--epochs", "3", "--global-batch", "64", "--track", str(out / "features")]
        job = ["-m", "drawstream.tools.cli", "train", str(data), "-o", str(out), *options]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        subprocess.run([sys.executable, *launch, *job], check=True, timeout=120, env=environment, capture_output=True)
        tables[ranks] = FeatureTable.open(out / "features")
    alone, shared = (table.columns(*table.names) for table in tables.values())
    assert alone["seen"].tolist() == shared["seen"].tolist() == [3] * 300  # the fill of the last batch does not count
    for name in ("loss", "entropy", "grad_norm", "uncertainty"):
        np.testing.assert_allclose(alone[name], shared[name], rtol=1e-3, atol=1e-4)
