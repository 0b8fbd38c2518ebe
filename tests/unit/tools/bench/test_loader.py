"""The loader benchmark: its results have the promised shape, and every system delivers exactly its images."""

import io
import json
import random
import sys
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.stats import ks_2samp
from sklearn.datasets import load_digits

import drawstream.tools.bench.loader.peer_worker as worker
from drawstream.pipeline.images import Transform
from drawstream.pipeline.images.draws import draw_windows
from drawstream.pipeline.shards import Catalog
from drawstream.pipeline.shards.pack import pack
from drawstream.tools.bench.loader import peers
from drawstream.tools.bench.loader.bench import run_loader
from drawstream.tools.bench.loader.dali_readers import dali_systems
from drawstream.tools.bench.loader.ours import Ours, StoredWindows, row_weights, weighted_stream
from drawstream.tools.bench.loader.photos import BYTES, HEIGHT, WIDTH, digits, pack_photos
from drawstream.tools.bench.loader.rounds import Delivery, Setting, System, alternate, median_ratio
from drawstream.tools.cli.app import main
from shared.refusals import refused

SETTING = Setting(Transform.large(train=True, size=32), 8, threads=2, prefetch=2, device="cpu")
IN_PROCESS = [
    "drawstream",
    "drawstream, checksum never",
    "drawstream, stored windows",
    "dali webdataset reader",
    "dali webdataset reader, replay",
    "dali external_source, no read-ahead",
]
TORCH = ["torch webdataset + Pillow", "torch map-style + Pillow"]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Folder with 20 photos in it: no multiple of the batch size, and 7 shards of up to 3."""
    folder = tmp_path_factory.mktemp("photos")
    pack_photos(folder, images=20)
    return folder


@pytest.fixture(scope="module")
def catalog(photos):
    return pack_photos(photos, images=20)


def test_photos_are_like_imagenet_and_reproducible(photos, catalog, tmp_path):
    assert set(catalog.width.tolist()) == {WIDTH} and set(catalog.height.tolist()) == {HEIGHT}
    assert 0.95 * BYTES < catalog.size.mean() < 1.05 * BYTES
    assert sorted(catalog.label.tolist()) == list(range(20)) and len(catalog.shards) == 7
    again = pack_photos(tmp_path, images=20)
    assert again.fingerprint == catalog.fingerprint
    data = catalog.shard_path(0).read_bytes()[int(catalog.offset[0]) : int(catalog.offset[0] + catalog.size[0])]
    pixels = np.asarray(Image.open(io.BytesIO(data)))
    assert pixels.shape == (HEIGHT, WIDTH, 3) and pixels.std() > 10 and data.endswith(b"\xff\xd9")  # nothing is padded
    written = (photos / "photos-20-0" / "catalog.parquet").stat().st_mtime_ns
    assert pack_photos(photos, images=20).fingerprint == catalog.fingerprint
    assert (photos / "photos-20-0" / "catalog.parquet").stat().st_mtime_ns == written


def test_jpegs_are_compared_with_dali_and_torch(photos, capsys):
    result = run_loader("photos", images=20, batch_sizes=(8,), rounds=2, work=photos, short_side=128)
    small = "drawstream, short side 128"
    assert [row["system"] for row in result["rows"]] == [*IN_PROCESS[:3], small, *IN_PROCESS[3:], *TORCH]
    assert all(len(row["rounds"]) == 2 and row["images_per_second"] > 0 for row in result["rows"])
    ratio = {row["system"]: row["ratio"] for row in result["rows"]}
    assert ratio["drawstream"] == 1 and result["smaller"]["system"] == small
    assert result["smaller"]["ratio_to_originals"] > 0 and result["smaller"]["ratio_to_torch"] > 0
    assert result["smaller"]["mean_bytes"] < result["mean_bytes"] / 4
    assert result["ratio_to_dali_reader"] == ratio["dali webdataset reader"]
    assert result["ratio_to_torch"] == ratio["torch webdataset + Pillow"]
    assert result["ratio_of_checksums"] == 1 / ratio["drawstream, checksum never"]
    assert result["first_batch_seconds"] > 0 and 0 <= result["waiting"] < 1
    assert {each["system"] for each in result["missing"]} == set(peers.ELSEWHERE)
    assert all("--peers-env" in each["reason"] for each in result["missing"])
    text = capsys.readouterr().out
    assert all(name in text for name in [*IN_PROCESS, *TORCH, *peers.ELSEWHERE])
    json.dumps(result)


def test_systems_deliver_what_they_should_round_after_round(catalog, tmp_path):
    stream = weighted_stream(20, 20, 1)
    systems = dali_systems(catalog, stream, SETTING, tmp_path)
    systems.append(Ours.build(catalog, stream, SETTING).system("drawstream", 8))
    windows = StoredWindows.draw(catalog, SETTING, 1)
    systems.append(Ours.build(catalog, weighted_stream(40, 20, 1), SETTING, windows).system("windows", 8))
    for system in systems:
        for number in range(3):
            delivery = system.deliver(number)
            assert delivery.images == len(delivery.labels) >= 20
            assert delivery.labels.tolist() == system.expected(number).tolist()
    drawn = np.bincount(catalog.label[stream.epoch(0)[:]], minlength=20)
    assert not (drawn == 1).all()  # so an order cannot pass for the other
    replayed = systems[1].expected(0)
    assert replayed.tolist() != systems[0].expected(0).tolist() != systems[2].expected(0).tolist()


def test_a_system_that_delivers_other_images_ends_the_benchmark():
    def deliver(_):
        return Delivery(1.0, 3, np.array([2, 0, 1]))

    known = System("sorted", 3, deliver, lambda _: np.arange(3), ordered=False)
    assert [row["images_per_second"] for row in alternate([known], 2)] == [3.0]
    with pytest.raises(RuntimeError, match="ordered: round 0 must deliver 3 images"):
        alternate([System("ordered", 3, deliver, lambda _: np.arange(3))], 2)
    with pytest.raises(RuntimeError, match="one twice"):
        alternate([System("one twice", 3, deliver, lambda _: np.array([0, 0, 1]), ordered=False)], 2)


def test_rounds_alternate_and_the_first_does_not_count():
    called = []

    def system(name):
        def deliver(number):
            called.append((name, number))
            return Delivery(1.0 if number else 100.0, 10 * number)

        return System(name, 1, deliver)

    table = alternate([system("a"), system("b"), system("c")], 7)
    rounds = [called[at : at + 3] for at in range(0, len(called), 3)]
    assert [sorted(each) for each in rounds] == [[("a", n), ("b", n), ("c", n)] for n in range(8)]
    before = {(first[0], second[0]) for each in rounds for first, second in pairwise(each)}
    assert len(before) > 3  # none always follows the same one
    assert [row["rounds"] for row in table] == [[10 * n for n in range(1, 8)]] * 3
    assert table[0]["images_per_second"] == 40
    assert median_ratio([1, 10, 3], [1, 5, 1]) == 2


def test_peers_that_cannot_take_part_are_told(catalog, tmp_path, monkeypatch):
    monkeypatch.setattr(peers, "HERE", ())
    with peers.start_peers(
        catalog, row_weights(20, 0), SETTING, tmp_path, environment=tmp_path / "no", seed=0
    ) as found:
        assert [each["system"] for each in found.missing] == list(peers.ELSEWHERE) and not found.systems
        assert all("/no/bin/python does not start" in each["reason"] for each in found.missing)


def test_a_missing_package_is_the_reason_and_a_dead_peer_ends_the_run(catalog, tmp_path, monkeypatch):
    monkeypatch.setattr(peers, "HERE", TORCH[:1])
    monkeypatch.setattr(peers, "ELSEWHERE", ["litdata"])
    python = tmp_path / "env" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    environment = tmp_path / "env"
    with peers.start_peers(catalog, row_weights(20, 0), SETTING, tmp_path, environment=environment, seed=0) as found:
        if find_spec("litdata") is None:
            reason = "ModuleNotFoundError: No module named 'litdata'"
            assert found.missing == [{"system": "litdata", "reason": reason}]
        assert found.systems[0].name == TORCH[0]
        found.systems[0].deliver.__self__._process.kill()
        refused(r"torch webdataset.*died in round 0", found.systems[0].deliver, 0, error=RuntimeError)


def test_the_peers_windows_follow_the_law_of_the_loader():
    law = SETTING.transform
    random.seed(0)
    theirs = np.array([worker.random_window(375, 500, {"scale": law.scale, "ratio": law.ratio}) for _ in range(4000)])
    x, y, w, h = theirs.T
    assert (theirs >= 0).all() and (x + w <= 500).all() and (y + h <= 375).all()
    ours = draw_windows(0, 0, 0, np.full(4000, 375), np.full(4000, 500), scale=law.scale, ratio=law.ratio)
    top, left, height, width = ours[:, 0], ours[:, 1], ours[:, 2] - ours[:, 0], ours[:, 3] - ours[:, 1]
    for a, b in [
        (w / 500, width),
        (h / 375, height),
        (x / 500, left),
        (y / 375, top),
        (w * h / 187_500, width * height),
    ]:
        assert ks_2samp(a, b).pvalue > 1e-3


def test_raw_result_and_table(capsys):
    result = run_loader("digits", batch_sizes=(128,), images=3000, rounds=3)
    systems = [(row["system"], row["batch_size"]) for row in result["rows"]]
    assert systems == [("drawstream", 128), ("dali external_source", 128), ("dali external_source", 2048)]
    for row in result["rows"]:
        assert len(row["rounds"]) == 3 and row["images_per_second"] == sorted(row["rounds"])[1] > 0
    ours, *bare = (row["images_per_second"] for row in result["rows"])
    assert result["ratio_to_bare_dali"] == ours / max(bare)
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == [
        "system",
        "drawstream",
        "dali",
        "dali",
    ]


def test_digits_are_repeated_at_28_pixels(tmp_path):
    source = digits(2000)
    assert source.images.shape == (2000, 28, 28) and (source.images[1797:] == source.images[:203]).all()
    middle = source.images[5, 3:26:3, 3:26:3]
    assert (middle == (load_digits().images[5] * 15.9375).astype(np.uint8)).all()
    assert len(Catalog.open(pack(source, tmp_path / "d").train)) == 2000


def test_what_cannot_be_compared_is_refused(tmp_path):
    raw, gray = (pack(digits(10), tmp_path / name, encoding=name).train for name in ("raw", "png"))
    refused("raw images are compared on the CPU, but got --device gpu", run_loader, raw, device="gpu")
    refused(r"must be RGB to be compared.*png.*gray", run_loader, gray)


def test_command_takes_a_catalog_and_writes_json(tmp_path):
    packed = pack(digits(300), tmp_path / "d").train
    target = tmp_path / "result.json"
    given = ["--data", str(packed), "--rounds", "1", "--batch-sizes", "64", "--json", str(target)]
    assert main(["bench", "loader", *given]) == 0
    result = json.loads(Path(target).read_text())
    assert set(result) == {"rows", "ratio_to_bare_dali", "command"} and result["rows"][0]["batch_size"] == 64
