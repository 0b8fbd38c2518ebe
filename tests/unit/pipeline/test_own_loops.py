"""The loader in other people's loops: validation without a stream, forks, copies and ends."""

import copy
import os
import pickle
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from drawstream.pipeline import Loader
from drawstream.pipeline.images import Transform
from drawstream.pipeline.shards import Catalog
from drawstream.pipeline.shards.pack import pack
from drawstream.pipeline.sources import ArraySource
from drawstream.samplers.orders import IndexStream, Sequential

WEIGHTS = np.linspace(1, 4, 300)


def ids(batches):
    return [row for batch in batches for row in batch.ids.tolist()]


# What a loader is made of


def test_without_a_stream_every_row_comes_once_in_order(digits):
    ranks = [Loader(digits, batch_size=64, rank=rank, world_size=7) for rank in range(7)]
    steps = list(zip(*ranks, strict=True))
    rows = [[row for batch in step for row in batch.ids.tolist()] for step in steps]
    weights = [[weight for batch in step for weight in batch.weights.tolist()] for step in steps]
    assert len(rows) == 1 and rows[0][:300] == list(range(300)) and weights[0] == [1.0] * 300 + [0.0]
    assert len(list(Loader(digits, batch_size=64))) == 5
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        validation = Loader(digits, batch_size=64)
        assert ids(validation) == ids(validation) == list(range(300))  # again and again, without set_epoch


def test_without_a_stream_large_images_are_seen_as_in_evaluation(tmp_path):
    photos = np.random.default_rng(0).integers(0, 256, (4, 80, 90, 3), dtype=np.uint8)
    catalog = Catalog.open(pack(ArraySource(photos, np.arange(4)), tmp_path / "photos", encoding="png").train)
    assert Loader(catalog).transform == Transform.large(train=False)
    assert Loader(catalog, IndexStream(4)).transform == Transform.large(train=True)
    assert Loader(catalog, Sequential(0, 4)).transform == Transform.large(train=True)  # as it always was
    a, b = (next(iter(Loader(catalog))).images for _ in range(2))
    assert torch.equal(a, b)


# Processes and ends


def in_a_fork(work):
    """What `work` raises in a forked child; the child must end within 20 s."""
    read, write = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # threads and fork: the very case
        child = os.fork()
    if not child:
        try:
            work()
            text = "no error"
        except BaseException as error:
            text = f"{type(error).__name__}: {error}"
        os.write(write, text.encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        text = pipe.read()
    os.waitpid(child, 0)
    return text


def test_a_loader_that_was_used_before_a_fork_says_so_in_the_child(digits):
    loader = Loader(digits, WEIGHTS, batch_size=100)
    running = iter(loader)
    next(running)
    expected = f"ValueError: this loader was used in process {os.getpid()} before the fork"
    assert in_a_fork(lambda: next(iter(loader))).startswith(expected)
    assert in_a_fork(lambda: next(running)).startswith(expected)
    assert len(list(running)) == 2  # and the parent goes on


ENDS = """
import os, sys, time
import numpy as np
from drawstream import Catalog, Loader
loader = Loader(Catalog.open(sys.argv[1]), np.ones(300), batch_size=100)
running = iter(loader)
next(running)
child = os.fork()
if not child:
    sys.exit(7)
for _ in range(200):
    pid, status = os.waitpid(child, os.WNOHANG)
    if pid:
        sys.exit(os.waitstatus_to_exitcode(status))
    time.sleep(0.1)
os.kill(child, 9)
sys.exit("the child hangs")
"""


def test_a_forked_child_exits_as_usual(digits):
    done = subprocess.run([sys.executable, "-c", ENDS, str(digits.path)], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (7, "")


def test_a_loader_that_was_not_used_before_a_fork_works_in_the_child(digits):
    loader = Loader(digits, WEIGHTS, batch_size=100)
    assert in_a_fork(lambda: next(iter(loader))) == "no error"


class FromLoader:
    """A dataset over a loader, as some write it."""

    def __init__(self, loader):
        self.loader = loader

    def __len__(self):
        return 4

    def __getitem__(self, row):
        return next(iter(self.loader)).ids


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_used_loader_in_a_worker_of_a_dataloader_says_so(digits):
    loader = Loader(digits, WEIGHTS, batch_size=100)
    next(iter(loader))
    workers = DataLoader(FromLoader(loader), num_workers=1, multiprocessing_context="fork", timeout=60)
    with pytest.raises(ValueError, match=r"this loader was used in process .* make a new one in this process"):
        next(iter(workers))


def test_copies_are_refused_in_one_line(digits):
    loader = Loader(digits, WEIGHTS)
    for take in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(
            TypeError, match="a loader cannot be copied or sent to another process, for it holds threads"
        ):
            take(loader)


def test_a_closed_loader_says_so(digits):
    loader = Loader(digits, WEIGHTS, batch_size=10)
    running = iter(loader)
    next(running)
    loader.close()
    loader.close()
    for again in (running, iter(loader)):
        with pytest.raises(ValueError, match="this loader is closed: make a new one"):
            list(again)
