"""The loader in processes of its own: SIGKILL and resume, clean exits, flat memory."""

import gc
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from drawstream.pipeline import Loader
from drawstream.pipeline.images import Transform
from drawstream.pipeline.shards import Catalog
from drawstream.pipeline.shards.pack import pack
from drawstream.pipeline.sources import ArraySource
from drawstream.samplers.orders import IndexStream

DIGITS = load_digits()
PIXELS = (DIGITS.images * 15.9375).astype(np.uint8)
EPOCHS, BATCH = 3, 16
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
    pack(ArraySource(PIXELS[:300], DIGITS.target[:300]), tmp_path / "digits", shard_rows=100)
    return tmp_path


def python(code, *arguments, **options):
    command = [sys.executable, "-W", "error", "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def finished(process):
    out, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (0, ""), err
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
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert "done" in finished(python(TRAIN, folder))
    lines = [json.loads(line) for line in (folder / "log").read_text().splitlines()]
    stream = IndexStream(300, seed=4)
    order = [
        (epoch, stream.epoch(epoch)[a : a + BATCH].tolist()) for epoch in range(EPOCHS) for a in range(0, 300, BATCH)
    ]
    assert [(line[0], line[1]) for line in lines] == order
    loader = Loader(
        Catalog.open(folder / "digits"), stream, transform=Transform.small((8, 8), 1, augment=True), batch_size=BATCH
    )
    sums = []
    for epoch in range(EPOCHS):  # undisturbed, the images were the same, too
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
    source = ArraySource(PIXELS[:300], DIGITS.target[:300])
    catalog = Catalog.open(pack(source, folder / encoding, encoding=encoding, shard_rows=10).train)
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
