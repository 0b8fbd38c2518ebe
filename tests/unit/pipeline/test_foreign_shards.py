"""Shards as others write them: every tar format, odd names, members that are no business of ours, and traps."""

import io
import json
import signal
import struct
import subprocess
import sys
import tarfile
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
import sklearn.datasets
import webdataset
from PIL import Image
from webdataset.writer import TarWriter

from drawstream.pipeline.decoding.image import encode
from drawstream.pipeline.shards.catalog import Catalog
from drawstream.pipeline.shards.index import index
from drawstream.pipeline.verify import verify

PIXELS = np.arange(108, dtype=np.uint8).reshape(6, 6, 3)
PNG = encode(PIXELS, "png", quality=95)[0]
PHOTO = (Path(sklearn.datasets.__file__).parent / "images" / "china.jpg").read_bytes()


def webp():
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).save(buffer, "webp", lossless=True)
    return buffer.getvalue()


SAMPLES = {  # key → image, its extension, label member
    "plain": (PHOTO, "jpg", "cls"),
    "UPPER": (PHOTO, "JPG", "CLS"),
    "Mixed": (PHOTO, "Jpeg", "Txt"),
    "drawing": (PNG, "PNG", "json"),
    "web": (webp(), "webp", "txt"),
    "train/n01440764/n01440764_10026": (PHOTO, "JPEG", "cls"),
    "deep/" * 20 + "name-of-a-picture-that-was-found-in-the-end": (PNG, "png", "cls"),
    "名前/süß, „quoted“ – 50 %": (PNG, "png", "cls"),
    "v1.2/a folder with dots and spaces/x": (PNG, "png", "cls"),
    "./dotted": (PNG, "png", "cls"),
}
EXTRA = (("caption.txt", "a temple"), ("mask.png", PNG), ("meta.json", '{"author": "x"}'), ("npy", bytes(20)))


def files():
    for i, (key, (image, extension, label)) in enumerate(SAMPLES.items()):
        yield f"{key}.{extension}", image
        yield f"{key}.{label}", json.dumps({"label": i, "caption": "a temple"}) if label == "json" else f"{i}\n"
        for end, data in EXTRA:
            yield f"{key}.{end}", data
    yield "deep/._hidden.jpg", b"what macOS leaves behind"
    yield "__meta__/info.json", "{}"
    yield "README", "no sample"


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # webdataset leaves its shards open
@pytest.mark.parametrize(
    "form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT], ids=["ustar", "gnu", "pax"]
)
def test_every_format_and_name(tmp_path, form, shard):
    path = shard(tmp_path / "a.tar", *files(), form=form)
    catalog = Catalog.open(index(path))
    assert catalog.keys == list(SAMPLES) and catalog.label.tolist() == list(range(len(SAMPLES)))
    data = path.read_bytes()
    for row, (image, *_) in enumerate(SAMPLES.values()):
        assert data[catalog.offset[row] : catalog.offset[row] + catalog.size[row]] == image
    theirs = [sample["__key__"] for sample in webdataset.WebDataset(str(path), shardshuffle=False)]
    assert theirs == [*catalog.keys, "deep/"]  # webdataset takes the hidden file for a sample without a name
    assert verify(catalog) == []


def test_shards_of_webdatasets_own_writer(tmp_path):
    path = tmp_path / "a.tar"
    with path.open("wb") as file, TarWriter(file) as writer:
        for i, key in enumerate(("a", "deep/" * 30 + "b", "süß")):
            writer.write({"__key__": key, "png": PIXELS, "cls": i, "json": {"caption": "x"}, "txt": "a caption"})
    catalog = Catalog.open(index(path))
    assert catalog.keys == ["a", "deep/" * 30 + "b", "süß"] and catalog.label.tolist() == [0, 1, 2]
    assert verify(catalog) == []


def test_several_images_in_a_sample_are_refused(tmp_path, shard):
    path = shard(tmp_path / "a.tar", ("0.cls", "0"), ("0.jpg", PHOTO), ("0.PNG", PNG))
    with pytest.raises(ValueError, match=r"a\.tar: sample '0': must have one image \(.*\), but got \.jpg, \.png"):
        index(path)


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (lambda data, at: data[:at] + b"\xff" * 512 + data[at + 512 :], r"damaged .*byte \d+"),
        (lambda data, at: data[:at] + bytes(512) + data[at + 512 :], r"data after the end-of-archive mark at byte \d+"),
        (lambda data, at: data[: at + 1024], r"damaged or truncated tar after byte \d+: no end-of-archive mark"),
        (lambda data, at: data + data, r"data after the end-of-archive mark at byte \d+"),
    ],
    ids=["header", "zeros", "cut within a sample", "two in a row"],
)
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
def test_where_webdataset_stops_without_a_word_we_say_so(tmp_path, damage, text, shard):
    content = [(f"{i}.{end}", data) for i in range(20) for end, data in (("cls", "0"), ("png", PNG))]
    path = shard(tmp_path / "a.tar", *content, form=tarfile.USTAR_FORMAT)
    with tarfile.open(path) as tar:
        at = tar.getmember("10.cls").offset
    whole = path.read_bytes()
    path.write_bytes(damage(whole, at))
    theirs = len(list(webdataset.WebDataset(str(path), shardshuffle=False)))
    assert theirs in (10, 11) or (theirs == 20 and len(path.read_bytes()) > len(whole))
    with pytest.raises(ValueError, match=rf"a\.tar: .*{text}"):
        index(path)


def test_names_that_lead_elsewhere_write_nothing(tmp_path, shard):
    """Nothing is ever unpacked: a name is only a key."""
    names = ["../../evil", "/tmp/evil-absolute", "a/../../b"]
    folder = tmp_path / "deep" / "er"
    folder.mkdir(parents=True)
    content = [(f"{name}.{end}", data) for name in names for end, data in (("cls", "0"), ("png", PNG))]
    catalog = Catalog.open(index(shard(folder / "a.tar", *content)))
    assert catalog.keys == names and verify(catalog) == []
    assert sorted(str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*") if file.is_file()) == [
        "deep/er/a.tar",
        "deep/er/catalog.parquet",
    ]
    assert not Path("/tmp/evil-absolute.png").exists()


def test_images_too_large_or_deep_are_refused_by_name(tmp_path, shard):
    bomb = bytearray(PNG)
    bomb[16:24] = struct.pack(">II", 40_000, 25_000)
    bomb[29:33] = struct.pack(">I", zlib.crc32(bytes(bomb[12:29])))
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((8, 8), np.uint16)).save(buffer, "png")
    for image, text in ((bytes(bomb), "1000000000 pixels.* exceeds limit"), (buffer.getvalue(), "gray with 16 bits")):
        path = shard(tmp_path / "a.tar", ("0.cls", "0"), ("0.png", PNG), ("x.cls", "0"), ("x.png", image))
        with pytest.raises(ValueError, match=rf"a\.tar: sample 'x': .*{text}") as caught:
            index(path)
        assert "\n" not in str(caught.value)


ENDLESS = """
import sys, time
from pathlib import Path
from drawstream.pipeline.shards.index import index
def slow(done, total, samples):
    print("ready", flush=True)
    time.sleep(60)
if __name__ == "__main__":
    index(sys.argv[1], workers=int(sys.argv[2]), progress=slow)
"""


def descendants(process):
    return [int(n) for n in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


@pytest.mark.slow  # processes take seconds to start
@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_a_killed_index_leaves_nothing(tmp_path, shard):
    for i in range(4):
        shard(tmp_path / f"{i}.tar", (f"{i}.cls", "0"), (f"{i}.png", PNG))
    script = tmp_path / "endless.py"
    script.write_text(ENDLESS)
    with subprocess.Popen([sys.executable, script, tmp_path, "2"], stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"ready\n"
        workers = descendants(process.pid)
        process.send_signal(signal.SIGKILL)
    assert len(workers) >= 2
    assert sorted(file.name for file in tmp_path.iterdir()) == ["0.tar", "1.tar", "2.tar", "3.tar", "endless.py"]
    end = time.monotonic() + 30
    while any(Path(f"/proc/{worker}").exists() for worker in workers) and time.monotonic() < end:
        time.sleep(0.1)
    assert not any(Path(f"/proc/{worker}").exists() for worker in workers)
