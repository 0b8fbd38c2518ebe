"""The loader and the tracker under several processes: no unequal batches, and the state of one process."""

import gc
import json
import os
import random
import time
from pathlib import Path

import numpy as np
import pytest

from drawstream import ArraySource, Catalog, FeatureTable, IndexStream, Loader, Transform, pack
from shared.processes import finish, kill, run, start, torchrun
from shared.samples import LABELS, PIXELS, digits_catalog, pack_digits

N, BATCH, EPOCHS = 103, 8, 2  # no number of ranks divides it
WEIGHTS = 1.0 + np.arange(N)
SCRIPT = """
import json, sys
from datetime import timedelta
from pathlib import Path
import numpy as np
import torch
import torch.distributed as dist
from drawstream import Catalog, IndexStream, Loader, Transform

folder, drop_last = Path(sys.argv[1]), sys.argv[2] == "drop"
dist.init_process_group("gloo", timeout=timedelta(seconds=60))
rank, world = dist.get_rank(), dist.get_world_size()
stream = IndexStream(1.0 + np.arange(103), seed=5)
catalog = Catalog.open(folder / "digits")
options = dict(transform=Transform.small((8, 8), 1, augment=True), batch_size=8, drop_last=drop_last)
loader = Loader(catalog, stream, rank=rank, world_size=world, **options)
seen = []
for epoch in range(2):
    loader.set_epoch(epoch)
    for batch in loader:
        total = torch.tensor([float((batch.weights > 0).sum())])
        dist.all_reduce(total)
        seen.append([epoch, batch.ids.tolist(), batch.weights.tolist(), int(total)])
dist.barrier()
(folder / f"{rank}.json").write_text(json.dumps({"seen": seen, "batches": len(loader)}))
dist.destroy_process_group()
"""


@pytest.mark.parametrize(("world", "end"), [(2, "wrap"), (4, "wrap"), pytest.param(4, "drop", marks=pytest.mark.slow)])
def test_ranks_share_the_stream(tmp_path: Path, world: int, end: str) -> None:
    pixels = PIXELS[:N]
    pack(ArraySource(pixels, LABELS[:N]), tmp_path / "digits", shard_rows=40)
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    run(*torchrun(world, script, tmp_path, end))
    ranks = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(world)]
    whole = world * BATCH
    steps = N // whole if end == "drop" else -(-N // whole)
    assert all(len(rank["seen"]) == EPOCHS * steps and rank["batches"] == steps for rank in ranks)
    stream = IndexStream(WEIGHTS, seed=5)
    for number in range(EPOCHS * steps):
        epoch, step = divmod(number, steps)
        parts = [rank["seen"][number] for rank in ranks]
        ids = [i for part in parts for i in part[1]]
        weights = [w for part in parts for w in part[2]]
        a, b = step * whole, min((step + 1) * whole, N)
        order = stream.epoch(epoch)
        fillers = len(ids) - (b - a)
        assert {len(part[1]) for part in parts} == {len(ids) // world} and 0 <= fillers < world
        assert ids[: b - a] == order[a:b].tolist() and weights[: b - a] == order.weights(a, b).tolist()
        assert ids[b - a :] == order[0:fillers].tolist() and weights[b - a :] == [0.0] * fillers  # wrapped around
        assert {part[3] for part in parts} == {b - a}


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
    labels = torch.randint(0, 70, (GLOBAL,), generator=rng)
    right = torch.nn.functional.one_hot(labels, 70) * (torch.rand(GLOBAL, 1, generator=rng) < 0.5)
    inputs = torch.randn(GLOBAL, 5, generator=rng)
    return ids, 2 * torch.randn(GLOBAL, 70, generator=rng) + 9 * right, labels, weights, inputs

def new_tracker():
    return Tracker(ROWS, decay=0.8, classes=70, early=3, grand=True)

def work(rank, world, store, queue):
    if world > 1:
        dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)
    tracker, share = new_tracker(), GLOBAL // world
    for epoch in range(EPOCHS):
        tracker.set_epoch(epoch)
        for step in range(STEPS):
            if (epoch, step) == (2, 5):  # within an epoch each rank goes on from a state of its own
                state, tracker = tracker.state_dict(), new_tracker()
                tracker.load_state_dict(state)
                tracker.set_epoch(epoch)
            *visits, inputs = (value[rank * share : (rank + 1) * share] for value in batch(epoch, step))
            tracker.observe(*visits, inputs=inputs)
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
    results = json.loads(run(program, tmp_path / "store")[0])
    (alone,) = results["1"]
    assert alone["events"] > 5
    for world in ("2", "4"):
        assert results[world] == [alone] * int(world)


@pytest.mark.slow
def test_training_on_two_processes_tracks_as_one_does(tmp_path):
    data = pack_digits(tmp_path / "d", shard_rows=100).train
    tables = {}
    for ranks in (1, 2):
        out = tmp_path / f"run-{ranks}"
        options = ["--model", "mlp", "--epochs", "3", "--global-batch", "64", "--track", str(out / "features")]
        job = ["-m", "drawstream.tools.cli", "train", data, "-o", out, *options]
        run(*(torchrun(ranks, *job) if ranks > 1 else job))
        tables[ranks] = FeatureTable.open(out / "features")
    alone, shared = (table.columns(*table.names) for table in tables.values())
    assert alone["seen"].tolist() == shared["seen"].tolist() == [3] * 300  # the fill of the last batch does not count
    for name in ("loss", "entropy", "grad_norm", "uncertainty"):
        np.testing.assert_allclose(alone[name], shared[name], rtol=1e-3, atol=1e-4)


# The loader in processes of its own: SIGKILL and resume, clean exits, flat memory


LIVES, FEW = 3, 16
SETUP = """
import gc, json, os, sys, time
from pathlib import Path
from drawstream import Catalog, IndexStream, Loader, Transform
folder = Path(sys.argv[1])
catalog = Catalog.open(folder / "digits")
stream = IndexStream(len(catalog), seed=4)
loader = Loader(catalog, stream, transform=Transform.small((8, 8), 1, augment=True), batch_size=16)
"""
TRAIN = (
    SETUP
    + """
# A training loop as users write it: after each step a line of the log and then the state, both on disk.
state = folder / "state.json"
log = (folder / "log").open("r+b")
if state.exists():
    saved = json.loads(state.read_text())
    log.truncate(saved["log"])
    loader.load_state_dict(saved["loader"])
log.seek(0, 2)
print("ready", flush=True)
for epoch in range(loader.epoch, 3):
    loader.set_epoch(epoch)
    for batch in loader:
        log.write(json.dumps([epoch, batch.ids.tolist(), batch.images.double().sum().item()]).encode() + b"\\n")
        log.flush()
        part = state.with_suffix(".part")
        part.write_text(json.dumps({"loader": loader.state_dict(), "log": log.tell()}))
        part.replace(state)
        time.sleep(0.002)
log.close()
print("done", flush=True)
"""
)


@pytest.fixture
def folder(tmp_path):
    pack_digits(tmp_path / "digits", shard_rows=100)
    return tmp_path


def python(code, *arguments):
    return start("-W", "error", "-c", code, *arguments)


def finished(process):
    out, err = finish(process)
    assert err == ""
    return out


@pytest.mark.parametrize("kills", [3, pytest.param(50, marks=pytest.mark.slow)])
def test_killed_training_sees_the_stream_once(folder, kills):
    (folder / "log").write_bytes(b"")
    chance = random.Random(kills)
    pause = 0.5 / kills  # so that the kills are spread over the three epochs
    for _ in range(kills):
        process = python(TRAIN, folder)
        assert process.stdout.readline() == "ready\n"
        time.sleep(chance.uniform(0, pause))
        kill(process)
    assert "done" in finished(python(TRAIN, folder))
    lines = [json.loads(line) for line in (folder / "log").read_text().splitlines()]
    stream = IndexStream(300, seed=4)
    order = [(epoch, stream.epoch(epoch)[a : a + FEW].tolist()) for epoch in range(LIVES) for a in range(0, 300, FEW)]
    assert [(line[0], line[1]) for line in lines] == order
    loader = Loader(
        Catalog.open(folder / "digits"), stream, transform=Transform.small((8, 8), 1, augment=True), batch_size=FEW
    )
    sums = []
    for epoch in range(LIVES):  # undisturbed, the images were the same, too
        loader.set_epoch(epoch)
        sums += [batch.images.double().sum().item() for batch in loader]
    assert [line[2] for line in lines] == sums


@pytest.mark.parametrize(
    "ending",
    [
        "kept = [iter(loader), iter(loader)]; [next(k) for k in kept]; loader.close()",
        pytest.param("kept = iter(loader); next(kept); sys.exit(0)", marks=pytest.mark.slow),
        pytest.param("list(loader)", marks=pytest.mark.slow),
        pytest.param("for batch in loader: break", marks=pytest.mark.slow),
        pytest.param("next(iter(loader)); del loader; gc.collect()", marks=pytest.mark.slow),
    ],
)
def test_the_interpreter_exits_cleanly(folder, ending):
    assert finished(python(f"{SETUP}\n{ending}", folder)) == ""


@pytest.mark.parametrize("encoding", ["raw", "png"])
def test_memory_stays_flat_and_files_bounded(folder, encoding):
    catalog = digits_catalog(folder / encoding, encoding=encoding, shard_rows=10)
    loader = Loader(catalog, IndexStream(300), transform=Transform.small((8, 8), 1, augment=True), batch_size=16)
    sizes, files = [], []
    for epoch in range(220):
        loader.set_epoch(epoch)
        for i, _ in enumerate(loader):
            if epoch % 10 == 3 and i == 2:
                break
        if epoch >= 20 and epoch % 20 == 0:
            gc.collect()
            sizes.append(int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"))
            files.append(sum(1 for _ in Path("/proc/self/fd").iterdir()))
    assert len(sizes) == 10 and max(sizes[5:]) - max(sizes[:5]) < 2 << 20  # bytes, over 2 000 batches
    assert len(set(files)) == 1
