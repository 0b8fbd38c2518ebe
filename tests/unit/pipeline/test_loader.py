"""The loader: what it refuses, how its passes begin and end, what it says of damage, what it counts."""

import gc
import json
import os
import shutil
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from drawstream import BadSampleError, Catalog, IndexStream, Reading, Sequential, Transform, index, open_source, pack
from drawstream.pipeline import Loader, default_transform
from drawstream.pipeline.decoding import encode
from shared.processes import run
from shared.refusals import refused
from shared.samples import FLOWER, LABELS, PHOTOS, PIXELS, array_catalog, digits_catalog, overwrite, write_tar

SMALL = Transform.small((8, 8), 1, augment=True)
AGAIN = pytest.mark.filterwarnings("ignore:this is a second pass")  # here on purpose


def ids(batches):
    return [batch.ids.tolist() for batch in batches]


class Rows:
    fingerprint = "rows"
    windows = None
    flip = None

    def __init__(self, sample_id, windows=None):
        self.sample_id, self.windows = np.asarray(sample_id), windows

    def check(self, fingerprint, where):
        pass


class Foreign(Rows):
    def check(self, fingerprint, where):
        raise ValueError(f"features of another catalog than {where}")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"batch_size": 10**30}, "`batch_size < 16777216` must hold, but got 1000000000000000000000000000000"),
        *(({"device": at}, f"`device` must be cpu, gpu or gpu:N, but got '{at}'") for at in ("tpu", "cpu:1", "gpu:x")),
        ({"rows": Rows([0, 300])}, r"rows must be of samples in \[0, 300\), but got 0 … 300"),
        ({"rows": Rows([-1, 3])}, "rows must be of samples"),
        ({"rows": Rows(np.empty(0, np.int64))}, "no rows"),
        ({"rows": Rows([0, 1], np.array([[0, 0, 1, 1], [0.5, 0, 0.5, 1]], np.float32))}, "`0 <= y0 < y1 <= 1`"),
        ({"rows": Rows([0, 1], np.array([[0, 0, 1, 1], [0, 0, 1.5, 1]], np.float32))}, "`0 <= y0 < y1 <= 1`"),
        ({"rows": Foreign([0])}, "features of another catalog than .*catalog.parquet"),
    ],
)
def test_bad_options_are_refused(digits, options, text):
    refused(text, lambda: Loader(digits, IndexStream(300), **options))


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("on_bad", r"give `reading=Reading\(on_bad=…\)`"),
        ("read_ahead", r"give `reading=Reading\(ahead=…\)`"),
        ("device_id", "give `device='gpu:N'`"),
    ],
)
def test_options_of_earlier_versions_are_refused_with_the_new_place(digits, name, hint):
    refused(f"`{name}` is .*: {hint}", Loader, digits, error=TypeError, **{name: 1})


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ("data/train", r"a loader takes a catalog, but got 'data/train': open it with Catalog.open\(path\)"),
        (range(9), r"a loader takes a catalog, but got range\(0, 9\): for a dataset .* use StreamDataLoader"),
    ],
)
def test_what_is_no_catalog_is_refused(given, text):
    refused(text, Loader, given, error=TypeError)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_gpu_without_one_is_refused(digits):
    refused("needs a CUDA device, but there is none: use cpu", lambda: Loader(digits, IndexStream(300), device="gpu"))


@pytest.mark.parametrize("rows", [299, 301])
def test_stream_over_other_rows_is_refused(digits, rows):
    text = f"draws from {rows} rows, but there are 300 samples in the catalog"
    for refuse in (lambda stream: Loader(digits, stream), Loader(digits, IndexStream(300)).replace_stream):
        refused(text, refuse, IndexStream(rows))
    refused("but there are 2 rows in the feature table", lambda: Loader(digits, IndexStream(300), rows=Rows([0, 1])))


def test_raw_beside_encoded_is_refused(tmp_path):
    raw, png = (encode(PIXELS[i], kind, quality=95)[0] for i, kind in enumerate(("raw", "png")))
    tar = write_tar(tmp_path / "mixed.tar", ("0.pgm", raw), ("0.cls", "0"), ("1.png", png), ("1.cls", "0"))
    catalog = Catalog.open(index(tar))
    refused("raw images cannot be mixed with encoded ones", lambda: Loader(catalog, IndexStream(2)))


def test_batches_are_torch_tensors_of_the_catalog(digits):
    stream = IndexStream(np.arange(1.0, 301), seed=1)
    loader = Loader(digits, stream, batch_size=64)
    batches = list(loader)
    assert len(batches) == len(loader) == 5 and [len(b.ids) for b in batches] == [64] * 4 + [44]
    order = stream.epoch(0)
    for i, batch in enumerate(batches):
        n = len(batch.ids)
        assert batch.images.shape == (n, 1, 8, 8) and batch.images.dtype == torch.float32
        assert batch.labels.dtype == batch.ids.dtype == torch.int64 and batch.weights.dtype == torch.float32
        assert (batch.labels.numpy() == digits.label[batch.ids]).all()
        assert (batch.weights.numpy() == order.weights(64 * i, 64 * i + n)).all()


@AGAIN
def test_batches_do_not_share_memory(digits):
    loader = Loader(digits, IndexStream(300), batch_size=20)
    kept = list(loader)
    copies = [batch.images.clone() for batch in kept]
    for _ in range(3):  # DALI goes on with its buffers
        for batch in loader:
            batch.images.zero_()
    assert all(torch.equal(batch.images, copy) for batch, copy in zip(kept, copies, strict=True))


@AGAIN
@pytest.mark.parametrize("catalog", ["digits", "pngs"])
def test_leaving_early_leaves_no_trace(catalog, request):
    loader = Loader(request.getfixturevalue(catalog), IndexStream(300), batch_size=10, transform=SMALL)
    whole = [batch.images for batch in loader]
    for stop in (0, 1, 5, 29):
        for i, batch in enumerate(loader):
            assert torch.equal(batch.images, whole[i])
            if i == stop:
                break
        assert loader.state_dict()["position"] == (stop + 1) * 10
    loader.set_epoch(0)
    assert all(torch.equal(batch.images, images) for batch, images in zip(loader, whole, strict=True))


@pytest.mark.parametrize(("kind", "channels"), [("raw", 3), ("png", 1)])
def test_augmented_images_do_not_depend_on_batches_ranks_buffers_and_resumes(tmp_path, kind, channels):
    pixels = {1: PIXELS[:60], 3: PIXELS[:180].reshape(3, 60, 8, 8).transpose(1, 2, 3, 0)}[channels]
    catalog = array_catalog(tmp_path / "d", pixels, LABELS[:60], encoding=kind)
    jitter = (0.4, 0.4, *((0.4, 0.1) if channels == 3 else (0.0, 0.0)))
    small = replace(Transform.small((8, 8), channels, augment=True), randaugment=(2, 9), jitter=jitter)

    def make(**options):
        return Loader(catalog, IndexStream(60, seed=11), **{"transform": small, "batch_size": 13, **options})

    def images(*loaders, epoch=1):
        """Without fill: steps one after the other, in each the ranks'."""
        for loader in loaders:
            loader.set_epoch(epoch)
        return torch.cat([b.images[b.weights > 0] for step in zip(*loaders, strict=True) for b in step])

    loader = make()
    whole = images(loader)
    assert not torch.equal(whole, images(loader, epoch=2))
    loader.set_epoch(1)
    batches = iter(loader)
    head = [next(batches).images for _ in range(2)]
    other = make(batch_size=9, reading=Reading(prefetch=3, ahead=0, threads=1))
    other.load_state_dict(json.loads(json.dumps(loader.state_dict())))
    assert torch.equal(whole, torch.cat([*head, *(batch.images for batch in other)]))
    assert torch.equal(whole, images(*(make(rank=r, world_size=2, reading=Reading(read_threads=2)) for r in range(2))))
    loader.replace_stream(IndexStream(60, seed=12))
    assert not torch.equal(whole, images(loader))


@AGAIN
def test_two_loops_at_once(digits):
    loader = Loader(digits, IndexStream(300), batch_size=30, transform=SMALL)
    whole = [batch.images for batch in loader]
    one = iter(loader)
    assert torch.equal(next(one).images, whole[0])
    two = iter(loader)
    for i in range(9):
        assert torch.equal(next(two).images, whole[i])
        assert torch.equal(next(one).images, whole[i + 1])
        assert loader.state_dict()["position"] == (i + 1) * 30  # of the loop begun last
    assert next(one, None) is None and next(two) is not None and next(two, None) is None


def test_an_older_loop_does_not_move_a_new_stream(digits):
    loader = Loader(digits, IndexStream(300), batch_size=30)
    old = iter(loader)
    next(old)
    loader.replace_stream(Sequential(100, 200))
    next(old)
    assert loader.state_dict()["position"] == 0
    assert np.concatenate(ids(loader)).tolist() == list(range(100, 200))


def test_the_next_epoch_of_a_subset_is_set_up_while_this_one_runs(digits, monkeypatch):
    asked = []
    prepare = IndexStream.prepare
    monkeypatch.setattr(IndexStream, "prepare", lambda self, epoch: asked.append(epoch) or prepare(self, epoch))
    weights = np.linspace(1, 2, 300)
    for stream, expected in (
        (IndexStream(weights, mode="subset", draws=100, seed=1), [4]),
        (IndexStream(weights, seed=1), []),  # nothing to do ahead
    ):
        asked.clear()
        loader = Loader(digits, stream, batch_size=50, transform=SMALL)
        loader.set_epoch(3)
        next(iter(loader))
        assert asked == expected
    fresh = IndexStream(weights, mode="subset", draws=100, seed=1)
    loader = Loader(digits, IndexStream(weights, mode="subset", draws=100, seed=1), batch_size=50, transform=SMALL)
    for epoch in (3, 4):
        loader.set_epoch(epoch)
        np.testing.assert_array_equal(np.concatenate(ids(loader)), fresh.epoch(epoch)[0:100])


def test_small_images_are_run_in_groups_of_batches(digits):
    """Grouping changes nothing but speed: an option of the graph, not of the batches."""
    loader = Loader(digits, IndexStream(300), batch_size=7, transform=SMALL, reading=Reading(prefetch=1, ahead=0))
    single = Loader(digits, IndexStream(300), batch_size=7, transform=SMALL)
    assert single._reader.group > 1
    single._reader.group = 1
    for a, b in zip(loader, single, strict=True):
        assert torch.equal(a.images, b.images) and torch.equal(a.ids, b.ids) and torch.equal(a.weights, b.weights)


def test_default_transforms(digits, tmp_path):
    assert default_transform(digits, train=True) == Transform.small((8, 8), 1)
    folder = tmp_path / "photos" / "a"
    folder.mkdir(parents=True)
    shutil.copy(PHOTOS / "china.jpg", folder)
    catalog = Catalog.open(pack(open_source(tmp_path / "photos"), tmp_path / "out").train)
    assert default_transform(catalog, train=True) == Transform.large(train=True)
    assert next(iter(Loader(catalog, IndexStream(1)))).images.shape == (1, 3, 224, 224)


@pytest.mark.parametrize("kind", ["raw", "png"])
def test_large_gray_images_load_by_default(tmp_path, kind):
    images = np.kron(PIXELS[:4], np.ones((10, 10), np.uint8))
    catalog = array_catalog(tmp_path / kind, images, LABELS[:4], encoding=kind)
    batch = next(iter(Loader(catalog, IndexStream(4))))
    assert batch.images.shape == (4, 1, 224, 224) and batch.images.abs().max() <= 1


# State


def test_state_is_json_and_shows_both_sides_of_a_mismatch(digits, pngs):
    loader = Loader(digits, IndexStream(300, seed=1), transform=SMALL)
    state = json.loads(json.dumps(loader.state_dict()))
    assert state == loader.state_dict()
    others = {
        "catalog": Loader(pngs, IndexStream(300, seed=1), transform=SMALL),
        "stream": Loader(digits, IndexStream(300, seed=2), transform=SMALL),
        "transform": Loader(digits, IndexStream(300, seed=1)),
        "rows": Loader(digits, IndexStream(300, seed=1), rows=Rows(range(300)), transform=SMALL),
    }
    for what, other in others.items():
        message = refused(f"this state is of another {what}: saved ", other.load_state_dict, state)
        assert repr(state[what]) in message and repr(other.state_dict()[what]) in message


def test_states_from_before_there_was_an_augmentation_are_taken(digits):
    """The transform as a state of 0.1.0 has it, word for word."""
    old = {"size": [8, 8], "mean": [127.5], "std": [127.5], "crop": "pad", "pad": 4, "flip": True}
    old |= {"scale": [0.08, 1.0], "ratio": [0.75, 4 / 3], "resize": 256}
    loader = Loader(digits, IndexStream(300), transform=SMALL)
    loader.load_state_dict(json.loads(json.dumps(loader.state_dict() | {"position": 13, "transform": old})))
    assert sum(len(batch.ids) for batch in loader) == 287


# Damage


def test_damage_comes_with_its_own_batch_and_the_next_epoch_works(tmp_path):
    catalog = digits_catalog(tmp_path / "d", shard_rows=100, encoding="png")
    loader = Loader(catalog, Sequential(0, 300), batch_size=10)
    kept = catalog.shard_path(1).read_bytes()
    overwrite(catalog, 157)
    seen = []
    with pytest.raises(
        BadSampleError, match=r"\(row 157\) of .*shard-000001.tar: its \d+ bytes do not match"
    ) as caught:
        for batch in loader:
            seen += batch.ids.tolist()
    assert caught.value.sample_id == 157 and seen == list(range(150))
    assert loader.state_dict()["position"] == 150
    state = loader.state_dict()
    catalog.shard_path(1).write_bytes(kept)
    loader.load_state_dict(state)
    assert np.concatenate(ids(loader)).tolist() == list(range(150, 300))


def test_truncation_while_iterating_is_named(tmp_path):
    catalog = digits_catalog(tmp_path / "d", shard_rows=100)
    loader = Loader(catalog, Sequential(0, 300), batch_size=10, reading=Reading(prefetch=1, ahead=0))
    loader._reader.group = 1
    seen = []
    with pytest.raises(BadSampleError, match=r"\(row 250\) of .*shard-000002.tar: the shard ends before"):
        for batch in loader:
            seen += batch.ids.tolist()
            os.truncate(catalog.shard_path(2), int(catalog.offset[250]))
    assert seen == list(range(250))


@pytest.mark.parametrize("crop", ["none", "random"])
def test_undecodable_image_with_a_right_checksum_is_named(tmp_path, crop, capfd):
    """A JPEG cut in half in a tar made elsewhere: only the decoder can tell."""
    images = [(f"{i:02d}", FLOWER[: len(FLOWER) * 2 // 3] if i == 13 else FLOWER) for i in range(24)]
    members = [(f"a/{i}.{end}", data) for i, image in images for end, data in (("cls", "0"), ("jpg", image))]
    catalog = Catalog.open(index(write_tar(tmp_path / "a.tar", *members)).parent)
    bad = catalog.keys.index("a/13")
    loader = Loader(
        catalog, Sequential(0, 24), transform=Transform((32, 32), (0.0,) * 3, (1.0,) * 3, crop=crop), batch_size=5
    )
    for _ in range(2):  # and the loader works on
        seen = []
        with pytest.raises(BadSampleError, match=rf"sample 'a/13' \(row {bad}\) of .*tar cannot be decoded") as caught:
            for batch in loader:
                seen += batch.ids.tolist()
        assert caught.value.sample_id == bad and seen == list(range(bad // 5 * 5))
    loader.replace_stream(Sequential(bad + 1, 24))
    assert np.concatenate(ids(loader)).tolist() == list(range(bad + 1, 24))
    assert capfd.readouterr().err == ""  # of the decoder


# Resources


LOOPS = """
import gc, sys, threading, warnings
from pathlib import Path
from drawstream import Catalog, IndexStream, Loader

warnings.filterwarnings("ignore", "this is a second pass")

def used():
    gc.collect()
    return [sum(1 for _ in Path("/proc/self", name).iterdir()) for name in ("fd", "task")] + [threading.active_count()]

loaders = [Loader(Catalog.open(path), IndexStream(300), batch_size=16) for path in sys.argv[1:]]
for loader in loaders:
    list(loader)
before = used()
for loader in loaders:
    for epoch in range(5):
        loader.set_epoch(epoch)
        list(loader)
        next(iter(loader))
after = used()
assert after == before, f"{before} descriptors, tasks, threads became {after}"
for loader in loaders:
    loader.close()
del loader, loaders
closed = used()
assert all(a < b for a, b in zip(closed, before)), f"{before} descriptors, tasks, threads became {closed}"
"""


def test_loops_leak_no_descriptors_and_no_threads(digits, pngs):
    # In a process of its own: what other tests left to the collector would end in between.
    run("-c", LOOPS, digits.path, pngs.path)


def test_a_loop_that_the_collector_ends_leaves_a_loader_that_works(digits):
    """A traceback that a local name holds is such a cycle: the collector ends its loop and destroys what that holds."""
    loader = Loader(digits, IndexStream(N), batch_size=32)
    for epoch in range(3):
        loader.set_epoch(epoch)
        cycle = [iter(loader)]
        next(cycle[0])
        cycle.append(cycle)
        del cycle
        gc.collect()
        loader.set_epoch(epoch)
        assert len(list(loader)) == 10


def test_a_forgotten_loader_ends_its_thread(digits):
    before = set(threading.enumerate())
    loader = Loader(digits, IndexStream(300))
    list(loader)
    (thread,) = set(threading.enumerate()) - before
    del loader
    gc.collect()
    thread.join(5)
    assert not thread.is_alive()


N = 300


def loader_of(digits):
    return Loader(digits, IndexStream(N), transform=Transform.small((8, 8), 1), batch_size=32)


def test_metrics_count_what_was_delivered(digits):
    loader = loader_of(digits)
    assert loader.metrics["images"] == loader.metrics["images_per_second"] == loader.metrics["wait_share"] == 0
    for epoch in range(3):
        loader.set_epoch(epoch)
        list(loader)
    metrics = json.loads(json.dumps(loader.metrics))
    assert (metrics["images"], metrics["batches"], metrics["bytes_read"]) == (3 * N, 3 * 10, 3 * N * 64)
    assert 0 < metrics["wait_seconds"] <= metrics["seconds"] and metrics["read_seconds"] > 0
    assert metrics["images_per_second"] == pytest.approx(3 * N / metrics["seconds"])


def test_the_step_counts_and_is_no_waiting(digits):
    loader = loader_of(digits)
    for _ in loader:
        time.sleep(0.02)
    metrics = loader.metrics
    assert metrics["seconds"] >= 10 * 0.02 and metrics["seconds"] - metrics["wait_seconds"] >= 10 * 0.02


def test_a_profile_shows_reads_and_runs(digits):
    threads = torch._C._profiler._ExperimentalConfig(profile_all_threads=True)
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], experimental_config=threads
    ) as profile:
        list(loader_of(digits))
    assert {"drawstream.read", "drawstream.run"} <= {event.key for event in profile.key_averages()}
