"""Packing: what lands in the shards, in which parts, and what a killed or refused pack leaves."""

import hashlib
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import webdataset
from scipy.stats import chisquare

from drawstream.pipeline.decoding.image import decode, encode
from drawstream.pipeline.shards.catalog import Catalog
from drawstream.pipeline.shards.label_noise import long_tail, relabel, stratified_order, tail_counts
from drawstream.pipeline.shards.pack import pack
from drawstream.pipeline.shards.staging import staged_folder
from drawstream.pipeline.sources.source import FASHION_MNIST, ArraySource, open_source
from drawstream.pipeline.verify import verify
from shared.processes import kill, start
from shared.refusals import refused
from shared.samples import LABELS, PHOTOS, PIXELS, array_catalog, member

SOURCE = ArraySource(PIXELS, LABELS)

ENDLESS = """
import sys, time
import numpy as np
from drawstream.pipeline.shards.label_noise import relabel, stratified_order
from drawstream.pipeline.shards.pack import pack
from drawstream.pipeline.sources.source import ArraySource
def slow(done, total):
    if done == 300:
        print("ready", flush=True)
        time.sleep(60)
pack(ArraySource(np.zeros((1000, 8, 8), np.uint8), np.arange(1000) % 7), sys.argv[1], shard_rows=100, progress=slow)
"""


def contents(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_the_same_input_gives_the_same_bytes(tmp_path):
    options = {"holdout": 300, "label_noise": 0.2, "shard_rows": 400, "encoding": "png"}
    for name in ("first", "second"):
        pack(SOURCE, tmp_path / name, **options)
        time.sleep(1.1 if name == "first" else 0)  # a time stamp would show
    first = contents(tmp_path / "first")
    assert len(first) == 4 + 1 + 1 + 1  # four shards and one, two catalogs
    assert contents(tmp_path / "second") == first
    pack(SOURCE, tmp_path / "third", **options, seed=1)
    assert contents(tmp_path / "third") != first


def test_without_a_holdout_the_catalog_lies_in_the_folder_itself(tmp_path):
    result = pack(SOURCE, tmp_path / "out")
    assert result.train == tmp_path / "out" and result.holdout is None
    assert (result.rows, result.holdout_rows, result.relabelled) == (1797, 0, 0)
    assert sorted(contents(tmp_path / "out")) == ["catalog.parquet", "shard-000000.tar"]
    assert result.bytes == (tmp_path / "out" / "shard-000000.tar").stat().st_size
    catalog = Catalog.open(result.train)
    assert catalog.clean_label is None and sorted(catalog.keys) == [f"{row:08d}" for row in range(1797)]


def test_holdout_is_disjoint_balanced_and_clean(tmp_path):
    result = pack(SOURCE, tmp_path / "out", holdout=300, label_noise=0.4)
    train, holdout = Catalog.open(result.train), Catalog.open(result.holdout)
    assert (len(train), len(holdout)) == (result.rows, result.holdout_rows) == (1497, 300)
    assert sorted(train.keys + holdout.keys) == [f"{row:08d}" for row in range(1797)]
    assert np.abs(np.bincount(holdout.label) - np.bincount(LABELS) * 300 / 1797).max() <= 4
    assert holdout.clean_label is None
    assert (holdout.label == LABELS[[int(key) for key in holdout.keys]]).all()
    assert (train.clean_label == LABELS[[int(key) for key in train.keys]]).all()
    counts = np.bincount(train.clean_label)
    changed = np.bincount(train.clean_label[train.label != train.clean_label])
    assert changed.tolist() == [round(0.4 * n) for n in counts] and changed.sum() == result.relabelled


def test_holdout_gets_noise_when_asked(tmp_path):
    result = pack(SOURCE, tmp_path / "out", holdout=300, label_noise=0.4, noise_holdout=True)
    holdout = Catalog.open(result.holdout)
    assert (holdout.label != holdout.clean_label).sum() == sum(round(0.4 * n) for n in np.bincount(holdout.clean_label))


@pytest.mark.parametrize("noise_holdout", [False, True])
def test_given_true_labels_are_the_clean_ones(tmp_path, noise_holdout):
    wrong = np.where(np.arange(1797) % 3 == 0, (LABELS + 1) % 10, LABELS)
    for name, values in (("images", SOURCE.images), ("labels", wrong), ("clean_labels", LABELS)):
        np.save(tmp_path / f"{name}.npy", values)
    source = open_source(tmp_path)
    assert not source.left_out.reasons
    result = pack(source, tmp_path / "out", holdout=300, noise_holdout=noise_holdout)
    train, holdout = Catalog.open(result.train), Catalog.open(result.holdout)
    rows, held = (np.array([int(key) for key in each.keys]) for each in (train, holdout))
    assert (train.label == wrong[rows]).all() and (train.clean_label == LABELS[rows]).all()
    assert (holdout.label == (wrong if noise_holdout else LABELS)[held]).all()
    assert (holdout.clean_label is None) == (not noise_holdout) and verify(train) == verify(holdout) == []
    assert result.relabelled == (rows % 3 == 0).sum() + noise_holdout * (held % 3 == 0).sum()
    assert not pack(source, tmp_path / "out", holdout=300, noise_holdout=noise_holdout).ran
    refused("holds a pack with", pack, source, tmp_path / "out", holdout=300, noise_holdout=not noise_holdout)
    with pytest.raises(ValueError, match="has clean_labels beside wrong ones: leave out label noise"):
        pack(source, tmp_path / "other", label_noise=0.1)


def test_limit_is_balanced_and_leaves_the_holdout_alone(tmp_path):
    small = pack(SOURCE, tmp_path / "small", limit=500, holdout=100)
    whole = pack(SOURCE, tmp_path / "whole", holdout=100)
    assert (small.rows, small.holdout_rows) == (400, 100)
    assert Catalog.open(small.holdout).keys == Catalog.open(whole.holdout).keys
    assert Catalog.open(small.train).keys == Catalog.open(whole.train).keys[:400]
    assert np.abs(np.bincount(Catalog.open(small.train).label) - 40).max() <= 5


def test_long_tail_is_that_of_cifar_lt():
    published = [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]  # Cao et al. 2019, imbalance 100
    assert tail_counts(np.full(10, 5000), 100).tolist() == published and sum(published) == 12406
    assert tail_counts(np.array([4, 1, 300]), 10).tolist() == [4, 1, 30]  # no class has more than its own
    labels = np.arange(600) % 3
    order = np.random.default_rng(0).permutation(600)
    few, more = (long_tail(labels, imbalance=each, classes=3, order=order) for each in (100, 10))
    assert np.bincount(labels[few]).tolist() == [200, 20, 2] and set(few) < set(more) and len(set(more)) == len(more)


def test_long_tail_of_training_rows_leaves_the_holdout_balanced(tmp_path):
    whole = pack(SOURCE, tmp_path / "whole", holdout=300)
    result = pack(SOURCE, tmp_path / "tail", holdout=300, long_tail=20, label_noise=0.2, shard_rows=100)
    train = Catalog.open(result.train)
    assert Catalog.open(result.holdout).keys == Catalog.open(whole.holdout).keys
    counts = np.bincount(train.clean_label)
    assert counts.tolist() == list(result.class_rows) == tail_counts(np.array(whole.class_rows), 20).tolist()
    assert result.rows == counts.sum() and counts[0] > 19 * counts[9]
    assert set(train.keys) < set(Catalog.open(whole.train).keys) and verify(train) == []
    first = train.clean_label[: train.shard_rows(0)[1]]
    assert np.abs(np.bincount(first, minlength=10) - 100 * counts / counts.sum()).max() < 3  # mixed in every shard
    assert train.provenance["long_tail"] == 20
    again = {"holdout": 300, "label_noise": 0.2, "shard_rows": 100}
    assert not pack(SOURCE, tmp_path / "tail", long_tail=20, **again).ran
    refused("long_tail 20, wanted 10", pack, SOURCE, tmp_path / "tail", long_tail=10, **again)
    refused("long_tail 20, wanted None", pack, SOURCE, tmp_path / "tail", **again)
    other = Catalog.open(pack(SOURCE, tmp_path / "other", long_tail=20, **again, seed=1).train)
    assert len(set(other.keys) - set(train.keys)) > 100


def test_rows_are_mixed_within_the_shards(tmp_path):
    order = np.argsort(LABELS, kind="stable")
    catalog = array_catalog(tmp_path / "out", PIXELS[order], LABELS[order], shard_rows=200)
    for shard in range(8):
        assert len(set(catalog.label[slice(*catalog.shard_rows(shard))])) == 10


@pytest.mark.parametrize(("options", "shards"), [({"shard_rows": 600}, 3), ({"shard_bytes": 60_000}, 3), ({}, 1)])
def test_shard_sizes(tmp_path, options, shards):
    catalog = Catalog.open(pack(SOURCE, tmp_path / "out", **options).train)
    assert len(catalog.shards) == shards
    assert catalog.shard_rows(shards - 1)[1] == 1797


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # webdataset leaves its shards open
@pytest.mark.parametrize("encoding", ["raw", "png", "jpeg", "keep"])
def test_webdataset_reads_the_shards(tmp_path, encoding):
    result = pack(SOURCE, tmp_path / "out", encoding=encoding, limit=50, label_noise=0.3)
    catalog = Catalog.open(result.train)
    extension = {"raw": "pgm", "keep": "pgm", "png": "png", "jpeg": "jpg"}[encoding]
    dataset = webdataset.WebDataset(str(result.train / "shard-000000.tar"), shardshuffle=False).decode("l8")
    rows = 0
    for row, sample in enumerate(dataset):
        assert sample["__key__"] == catalog.key(row)
        assert (sample["cls"], sample["clean.cls"]) == (catalog.label[row], catalog.clean_label[row])
        if encoding != "jpeg":
            assert (sample[extension] == PIXELS[int(catalog.key(row))]).all()
        rows += 1
    assert rows == len(catalog) == 50
    assert set(catalog.encodings) == {"raw" if encoding == "keep" else encoding}


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "photos"
    for name, photo in (("flower", "flower.jpg"), ("Tempel süß", "china.jpg")):
        (root / name).mkdir(parents=True)
        for copy in range(3):
            shutil.copy(PHOTOS / photo, root / name / f"photo {copy}.v1.jpg")
    return root


def test_image_folders_keep_their_bytes(folder, tmp_path):
    catalog = Catalog.open(pack(open_source(folder), tmp_path / "out").train)
    assert catalog.classes == ("Tempel süß", "flower") and catalog.channels == 3
    assert (catalog.height == 427).all() and (catalog.width == 640).all()
    for row in range(6):
        photo = "china.jpg" if catalog.label[row] == 0 else "flower.jpg"
        assert member(catalog, row) == (PHOTOS / photo).read_bytes()
    assert "Tempel süß/photo 2_v1" in catalog.keys


def test_image_folders_can_be_raw(folder, tmp_path):
    catalog = Catalog.open(pack(open_source(folder), tmp_path / "out", encoding="raw").train)
    photo = "china.jpg" if catalog.label[0] == 0 else "flower.jpg"
    assert member(catalog, 0) == decode((PHOTOS / photo).read_bytes()).tobytes()


def test_raw_images_of_two_shapes_are_refused(folder, tmp_path):
    (folder / "flower" / "small.png").write_bytes(encode(np.zeros((4, 4, 3), np.uint8), "png", quality=95)[0])
    with pytest.raises(ValueError, match=r"raw images must all be of one shape, but .*: store them as png or jpeg"):
        pack(open_source(folder), tmp_path / "out", encoding="raw")
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


def test_an_unreadable_image_is_named_and_nothing_stays(folder, tmp_path):
    (folder / "flower" / "broken.jpg").write_bytes((PHOTOS / "flower.jpg").read_bytes()[:100])
    message = refused("image 'flower/broken': not a readable JPEG", lambda: pack(open_source(folder), tmp_path / "out"))
    assert str(folder) in message
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


def test_keys_that_webdataset_would_split_or_skip_are_refused(tmp_path, folder):
    (folder / "flower").rename(folder / "__flower__")
    with pytest.raises(
        ValueError, match=r"image '__flower__/photo \d_v1': WebDataset passes over names .*: rename the folder or file"
    ):
        pack(open_source(folder), tmp_path / "out")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"long_tail": 0.5}, r"long_tail >= 1 must hold, but got 0.5"),
        ({"label_noise": 1.0}, r"label noise must be in \[0, 1\), but got 1.0"),
        *(({"label_noise": rate}, r"label noise must be in \[0, 1\)") for rate in (-0.1, float("nan"))),
        ({"holdout": 1797}, "holdout must be in 0 … 1796, but got 1797"),
        ({"holdout": 100, "limit": 100}, "holdout must be in 0 … 99, but got 100"),
        ({"limit": 0}, "limit must be in 1 … 1797, but got 0"),
        ({"limit": 1798}, "limit must be in 1 … 1797, but got 1798"),
        ({"encoding": "gif"}, "encoding must be keep, raw, png or jpeg, but got 'gif'"),
        ({"quality": 0}, "quality must be in 1 … 100"),
        ({"seed": -1}, "a seed must be at least 0, but got -1"),
        ({"shard_rows": 0}, "shard_rows must be at least 1, but got 0"),
    ],
)
def test_bad_options_are_refused_before_anything_is_written(tmp_path, options, text):
    refused(text, pack, SOURCE, tmp_path / "out", **options)
    assert list(tmp_path.iterdir()) == []


def test_one_class_cannot_be_noisy(tmp_path):
    with pytest.raises(ValueError, match="needs at least 2 classes, but got 1"):
        pack(ArraySource(PIXELS, np.zeros(1797, int)), tmp_path / "out", label_noise=0.1)


def test_overwrite_replaces_packs_only(tmp_path):
    pack(SOURCE, tmp_path / "out", limit=100)
    refused("out: folder is not empty", pack, SOURCE, tmp_path / "out", limit=50)
    assert len(Catalog.open(tmp_path / "out")) == 100
    pack(SOURCE, tmp_path / "out", limit=50, holdout=10, overwrite=True)
    assert len(Catalog.open(tmp_path / "out" / "train")) == 40
    pack(SOURCE, tmp_path / "out", limit=30, overwrite=True)
    assert len(Catalog.open(tmp_path / "out")) == 30
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("mine")
    refused("home: folder is not empty", pack, SOURCE, tmp_path / "home", limit=30, overwrite=True)


def test_progress_counts_every_row(tmp_path):
    seen = []
    pack(SOURCE, tmp_path / "out", limit=100, holdout=10, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(done, 100) for done in range(1, 101)]


def test_a_killed_pack_leaves_no_catalog(tmp_path):
    target = tmp_path / "out"
    process = start("-c", ENDLESS, target)
    assert process.stdout.readline() == "ready\n"
    kill(process)
    assert not target.exists()
    assert (tmp_path / ".out.partial" / "shard-000001.tar").exists()  # it was at work
    assert list(tmp_path.rglob("catalog.parquet")) == []
    pack(SOURCE, target, limit=100)
    assert len(Catalog.open(target)) == 100
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.skipif(not FASHION_MNIST.is_dir(), reason="Debian's package dataset-fashion-mnist is not installed")
def test_fashion_mnist(tmp_path):
    source = open_source(FASHION_MNIST, split="test")
    result = pack(source, tmp_path / "out", limit=1000, holdout=100, label_noise=0.4)
    train = Catalog.open(result.train)
    assert result.relabelled == (train.label != train.clean_label).sum()
    assert member(train, 17) == source.read(int(train.key(17))).tobytes()


def test_what_is_added_at_the_end_appears_with_the_rest(tmp_path):
    out = tmp_path / "out"

    def add(result, folder):
        assert not out.exists() and result.train == out / "train"
        (folder / "train/note.txt").write_text(str(result.rows))

    pack(ArraySource(np.zeros((6, 2, 2), np.uint8), np.arange(6) % 2), out, holdout=2, finish=add)
    assert (out / "train/note.txt").read_text() == "4"


# The laws of noise and order that hold for any labels are in tests/property/test_catalog_laws.py


def test_new_labels_are_uniform_over_the_other_classes():
    truth = np.full(40_000, 2)
    noisy = relabel(truth, rate=0.5, classes=5, seed=0)
    counts = np.bincount(noisy[noisy != 2], minlength=5)
    assert counts[2] == 0 and counts.sum() == 20_000
    assert chisquare(counts[[0, 1, 3, 4]]).pvalue > 1e-3


def test_noise_is_keyed():
    labels = np.repeat(np.arange(5), [1000, 333, 7, 1, 2000])
    keys = ({"seed": 1}, {"seed": 1}, {"seed": 2}, {"seed": 1, "part": 1})
    first, again, seed, part = (relabel(labels, rate=0.4, classes=5, **key) for key in keys)
    assert (again == first).all() and (seed != first).any() and (part != first).any()
    assert (np.sort(labels) == labels).all()  # the input is left alone


def test_order_within_a_class_is_random():
    labels = np.repeat([0, 1], 5000)
    order = stratified_order(labels, seed=0)
    inner = order[labels[order] == 0]
    assert abs(np.corrcoef(inner, np.arange(5000))[0, 1]) < 0.06  # 4 sigma
    assert (order != stratified_order(labels, seed=1)).mean() > 0.99


HOLD = """
import sys
from drawstream.pipeline.shards.staging import staged_folder
with staged_folder(sys.argv[1]) as folder:
    (folder / "half").mkdir()
    (folder / "half" / "file").write_text("half")
    print("ready", flush=True)
    sys.stdin.read()
"""


def names(folder):
    return sorted(entry.name for entry in folder.iterdir())


def test_appears_with_its_content(tmp_path):
    with staged_folder(tmp_path / "deep" / "out") as folder:
        (folder / "file").write_text("whole")
        assert not (tmp_path / "deep" / "out").exists()
    assert (tmp_path / "deep" / "out" / "file").read_text() == "whole"
    assert names(tmp_path / "deep") == ["out"]


def test_a_link_is_followed(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "there")
    with staged_folder(tmp_path / "link") as folder:
        (folder / "file").write_text("whole")
    assert (tmp_path / "link").is_symlink() and names(tmp_path / "there") == ["file"]
    assert names(tmp_path) == ["link", "there"]


def test_an_error_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt), staged_folder(tmp_path / "out") as folder:
        (folder / "file").write_text("half")
        raise KeyboardInterrupt
    assert names(tmp_path) == []


def test_filled_targets_are_refused(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious").write_text("mine")
    with pytest.raises(ValueError, match="out: folder is not empty: name another one"), staged_folder(tmp_path / "out"):
        pass
    with (
        pytest.raises(ValueError, match="precious: is a file: name a folder"),
        staged_folder(tmp_path / "out/precious"),
    ):
        pass
    assert (tmp_path / "out" / "precious").read_text() == "mine"


def test_replaces_when_allowed_and_keeps_the_old_one_on_an_error(tmp_path):
    for text in ("old", "new"):
        with staged_folder(tmp_path / "out", replaceable=True) as folder:
            (folder / text).write_text(text)
    assert names(tmp_path / "out") == ["new"] and names(tmp_path) == ["out"]
    with pytest.raises(ZeroDivisionError), staged_folder(tmp_path / "out", replaceable=True):
        raise ZeroDivisionError
    assert names(tmp_path / "out") == ["new"] and names(tmp_path) == ["out"]


def test_a_killed_writer_is_cleared_away_and_a_live_one_is_not(tmp_path):
    target = tmp_path / "out"
    with subprocess.Popen([sys.executable, "-c", HOLD, target], stdin=-1, stdout=-1) as process:
        assert process.stdout.readline() == b"ready\n"
        with (
            pytest.raises(ValueError, match=rf"out: another process \({process.pid} on .*\) is writing there"),
            staged_folder(target),
        ):
            pass
        process.send_signal(signal.SIGKILL)
    assert not target.exists()
    with staged_folder(target) as folder:
        assert names(folder) == []
        (folder / "file").write_text("whole")
    assert names(target) == ["file"] and names(tmp_path) == ["out"]
