"""The loader under torchrun: a collective after every batch, so that an unequal number of batches would hang."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from drawstream.pipeline.shards.pack import pack
from drawstream.pipeline.sources import ArraySource
from drawstream.samplers.orders import IndexStream

DIGITS = load_digits()
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
    pixels = (DIGITS.images[:N] * 15.9375).astype(np.uint8)
    pack(ArraySource(pixels, DIGITS.target[:N]), tmp_path / "digits", shard_rows=40)
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={world}"]
    done = subprocess.run(
        [*command, str(script), str(tmp_path), end],
        capture_output=True,
        text=True,
        timeout=180,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
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
