"""Catalogs for existing shards: the same rows as pack gives, every kind of label, and bad shards named."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import sklearn.datasets
from sklearn.datasets import load_digits
from wds2idx import IndexCreator

from drawstream.pipeline.decoding.image import encode
from drawstream.pipeline.shards.catalog import Catalog
from drawstream.pipeline.shards.index import index, write_idx
from drawstream.pipeline.shards.pack import pack
from drawstream.pipeline.sources.source import ArraySource
from drawstream.pipeline.verify import verify

DIGITS = load_digits()
PIXELS = (DIGITS.images * 15.9375).astype(np.uint8)
PNG = encode(PIXELS[0], "png", quality=95)[0]
PHOTO = (Path(sklearn.datasets.__file__).parent / "images" / "china.jpg").read_bytes()
COLUMNS = ("shard", "offset", "size", "checksum", "label", "clean_label", "encoding_codes", "height", "width")


@pytest.mark.parametrize("encoding", ["raw", "png", "jpeg"])
def test_equals_the_catalog_of_pack(tmp_path, encoding):
    options = {"encoding": encoding, "label_noise": 0.4, "limit": 500, "shard_rows": 200}
    packed = Catalog.open(pack(ArraySource(PIXELS, DIGITS.target), tmp_path / "out", **options).train)
    indexed = Catalog.open(index(packed.root, out=tmp_path / "other"))
    for name in COLUMNS:
        assert (getattr(indexed, name) == getattr(packed, name)).all(), name
    assert indexed.keys == packed.keys and indexed.classes == packed.classes and indexed.channels == packed.channels
    assert indexed.fingerprint == packed.fingerprint
    assert [indexed.shard_path(i).resolve() for i in range(3)] == [packed.shard_path(i).resolve() for i in range(3)]


def test_labels_of_every_kind(tmp_path, shard):
    a = shard(tmp_path / "a.tar", ("0.cls", "3\n"), ("0.jpg", PHOTO), ("1.json", '{"label": 1}'), ("1.png", PNG))
    b = shard(
        tmp_path / "b.tar", ("2.txt", "2"), ("2.PNG", PNG), ("3.json", "0"), ("3.jpeg", PNG), ("3.txt", "a caption")
    )
    catalog = Catalog.open(index([a, b]))
    assert catalog.path == tmp_path / "catalog.parquet" and catalog.keys == ["0", "1", "2", "3"]
    assert catalog.label.tolist() == [3, 1, 2, 0] and catalog.classes == ("0", "1", "2", "3")
    assert catalog.encodings.tolist() == ["jpeg", "png", "png", "png"]  # by content, not by name
    assert catalog.height.tolist() == [427, 8, 8, 8] and catalog.channels == 3
    assert catalog.provenance == {"by": "index"}


def test_class_names(tmp_path, shard):
    tar = shard(tmp_path / "a.tar", ("0.txt", "zebra"), ("0.png", PNG), ("1.json", '{"cls": "ant"}'), ("1.png", PNG))
    catalog = Catalog.open(index(tar))
    assert catalog.classes == ("ant", "zebra") and catalog.label.tolist() == [1, 0]
    catalog = Catalog.open(index(tar, classes=["zebra", "bee", "ant"], overwrite=True))
    assert catalog.label.tolist() == [0, 2] and catalog.num_classes == 3
    with pytest.raises(ValueError, match="sample '0': label must be one of 2 classes, but got 'zebra'"):
        index(tar, classes=["ant", "bee"], overwrite=True)


@pytest.mark.parametrize(
    ("files", "text"),
    [
        ([("0.png", PNG)], r"sample '0': must have a label \(\.cls, \.json, \.txt\), but got \.png"),
        ([("0.cls", "1")], r"sample '0': must have one image .*, but got \.cls"),
        ([("0.cls", "1"), ("0.png", PNG), ("0.jpg", PHOTO)], r"must have one image .*, but got \.png, \.jpg"),
        (
            [("0.cls", "-1"), ("0.png", PNG)],
            r"sample '0': \.cls: class numbers must be at least 0, but got -1: .* \(--label none\)",
        ),
        ([("0.cls", ""), ("0.png", PNG)], r"sample '0': \.cls must hold a class number or name, but got b''"),
        ([("0.cls", b"\xff\xfe"), ("0.png", PNG)], r"sample '0': \.cls is not readable"),
        ([("0.json", "{"), ("0.png", PNG)], r"sample '0': \.json is not readable"),
        ([("0.json", '{"width": 3}'), ("0.png", PNG)], r"sample '0': \.json must hold a class number or name"),
        (
            [("0.cls", "1"), ("0.png", PNG), ("1.cls", "cat"), ("1.png", PNG)],
            "labels must all be numbers or all be names",
        ),
        ([("0.cls", "1"), ("0.png", PNG[:20])], "sample '0': not a readable JPEG"),
        (
            [("0.cls", "1"), ("0.pgm", b"P5\n8 8\n255\n" + bytes(63))],
            "sample '0': Netpbm image must have 8 × 8 × 1 bytes .* got 63",
        ),
        ([("0.cls", "1"), ("0.png", PNG), ("1.cls", "0"), ("0.txt", "x")], "members of key '0' are not adjacent"),
        (
            [("0.cls", "1"), ("0.clean.cls", "1"), ("0.png", PNG), ("1.cls", "1"), ("1.png", PNG)],
            r"\.clean\.cls must be in",
        ),
        ([("README", "nothing else")], "no samples in this shard"),
    ],
)
def test_bad_samples_are_named(tmp_path, files, text, shard):
    tar = shard(tmp_path / "a.tar", *files)
    with pytest.raises(ValueError, match=text) as caught:
        index(tar)
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "catalog.parquet").exists()


def test_raw_and_colour_do_not_mix(tmp_path, shard):
    raw = b"P5\n8 8\n255\n" + bytes(64)
    tar = shard(tmp_path / "a.tar", ("0.cls", "0"), ("0.pgm", raw), ("1.cls", "1"), ("1.jpg", PHOTO))
    with pytest.raises(ValueError, match="raw images must be as deep as the others, but '0' is gray"):
        index(tar)


def test_keys_that_restart_in_each_shard_take_its_name(tmp_path, shard):
    for name, label in (("a", "0"), ("b", "1")):
        shard(
            tmp_path / f"{name}.tar", ("0.cls", label), ("0.png", PNG), (f"{name}1.cls", label), (f"{name}1.png", PNG)
        )
    catalog = Catalog.open(index(tmp_path))
    assert catalog.keys == ["a/0", "a/a1", "b/0", "b/b1"] and catalog.label.tolist() == [0, 0, 1, 1]
    assert [catalog.member_key(row) for row in range(4)] == ["0", "a1", "0", "b1"]
    assert catalog.rows_of(["b/0", "b1", "a/a1", "none", "c/0"]).tolist() == [2, 3, 1, -1, -1]
    with pytest.raises(ValueError, match="key '0' is in 2 shards: write which one is meant, as 'a/0' and 'b/0'"):
        catalog.rows_of(["a1", "0"])
    assert verify(catalog) == []


def test_shards_of_one_name_are_told_apart_by_their_folders(tmp_path, shard):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        shard(tmp_path / name / "0.tar", ("0.cls", "0"), ("0.png", PNG))
    paths = [tmp_path / name / "0.tar" for name in ("a", "b")]
    for out in (tmp_path, tmp_path / "else" / "where"):
        catalog = Catalog.open(index(paths, out=out))
        assert catalog.keys == ["a/0/0", "b/0/0"] and catalog.member_key(1) == "0" and verify(catalog) == []


def test_where_the_catalog_goes(tmp_path, shard):
    with pytest.raises(FileNotFoundError, match="no shards: give a folder"):
        index(tmp_path)
    (tmp_path / "x").mkdir()
    a = shard(tmp_path / "a.tar", ("0.cls", "0"), ("0.png", PNG))
    b = shard(tmp_path / "x" / "b.tar", ("1.cls", "0"), ("1.png", PNG))
    with pytest.raises(ValueError, match="shards lie in several folders"):
        index([a, b])
    catalog = Catalog.open(index([b, a], out=tmp_path / "new" / "place"))
    assert [shard.path for shard in catalog.shards] == ["../../x/b.tar", "../../a.tar"] and catalog.keys == ["1", "0"]
    with pytest.raises(ValueError, match=r"catalog\.parquet: exists already"):
        index([b, a], out=tmp_path / "new" / "place")


def test_damaged_shards_leave_the_old_catalog(tmp_path):
    root = pack(ArraySource(PIXELS, DIGITS.target), tmp_path / "out", limit=100).train
    before = (root / "catalog.parquet").read_bytes()
    tar = root / "shard-000000.tar"
    tar.write_bytes(tar.read_bytes()[:50_000])
    with pytest.raises(ValueError, match=r"shard-000000\.tar: damaged or truncated tar after byte \d+"):
        index(root, overwrite=True)
    assert (root / "catalog.parquet").read_bytes() == before


def test_idx_files_equal_wds2idx(tmp_path):
    catalog = Catalog.open(pack(ArraySource(PIXELS, DIGITS.target), tmp_path / "out", limit=50, label_noise=0.2).train)
    write_idx(catalog, 0, tmp_path / "ours.idx")
    creator = IndexCreator(str(catalog.shard_path(0)), str(tmp_path / "theirs.idx"), verbose=False)
    creator.create_index()
    creator.close()
    assert (tmp_path / "ours.idx").read_text() == (tmp_path / "theirs.idx").read_text()


def test_idx_files_refuse_white_space(tmp_path, shard):
    catalog = Catalog.open(index(shard(tmp_path / "a.tar", ("a b.cls", "0"), ("a b.png", PNG))))
    with pytest.raises(ValueError, match=r"member 'a b\.cls': an \.idx file cannot hold white space"):
        write_idx(catalog, 0, tmp_path / "a.idx")
    assert not (tmp_path / "a.idx").exists()


def test_a_moved_data_set_still_opens(tmp_path):
    packed = pack(ArraySource(PIXELS, DIGITS.target), tmp_path / "out", limit=60).train
    path = index(packed, out=packed, overwrite=True)
    assert json.dumps(Catalog.open(path).provenance) == '{"by": "index"}'
    shutil.move(packed, tmp_path / "moved")
    assert len(Catalog.open(tmp_path / "moved")) == 60


def test_workers_change_nothing_but_the_time(tmp_path):
    packed = Catalog.open(
        pack(ArraySource(PIXELS, DIGITS.target), tmp_path / "out", encoding="png", limit=400, shard_rows=90).train
    )
    seen = []
    for workers in (1, 2):
        path = index(
            packed.root,
            out=tmp_path / str(workers),
            workers=workers,
            progress=lambda done, total, rows: seen.append((done, total, rows)),
        )
        assert path.read_bytes() == (tmp_path / "1" / "catalog.parquet").read_bytes()
    assert seen == [(1, 5, 90), (2, 5, 180), (3, 5, 270), (4, 5, 360), (5, 5, 400)] * 2


@pytest.mark.slow  # processes take seconds to start
def test_the_first_damaged_shard_is_named_whoever_meets_it_first(tmp_path):
    root = pack(ArraySource(PIXELS, DIGITS.target), tmp_path / "out", limit=400, shard_rows=90).train
    for i in (3, 1):
        tar = root / f"shard-{i:06d}.tar"
        tar.write_bytes(tar.read_bytes()[:-600] + b"x" * 600)
    for workers in (1, 2):
        with pytest.raises(ValueError, match=r"shard-000001\.tar: data after the end-of-archive mark"):
            index(root, out=tmp_path / "bad", workers=workers)
    assert not (tmp_path / "bad").exists()


def test_a_worker_at_least(tmp_path, shard):
    tar = shard(tmp_path / "a.tar", ("0.cls", "0"), ("0.png", PNG))
    with pytest.raises(ValueError, match=r"workers.*but got 0"):
        index(tar, workers=0)
    assert len(Catalog.open(index(tar, workers=None))) == 1


@pytest.mark.parametrize(
    ("label", "text"),
    [
        ("65536", "labels must be below 65536 where the classes have no names, but got 65536: number"),
        ("9" * 30, r"sample '0': \.cls must be a class number below 2⁶³, but got 9{30}: repair it"),
    ],
)
def test_class_numbers_without_names_are_bounded(tmp_path, label, text, shard):
    """A list of their names would fill the memory."""
    with pytest.raises(ValueError, match=text):
        index(shard(tmp_path / "a.tar", ("0.cls", label), ("0.png", PNG)))


def test_raw_images_of_two_shapes_in_two_shards_are_refused(tmp_path, shard):
    for name, side in (("a", 8), ("b", 4)):
        raw = b"P5\n8 %d\n255\n" % side + bytes(8 * side)
        shard(tmp_path / f"{name}.tar", (f"{name}.cls", "0"), (f"{name}.pgm", raw))
    with pytest.raises(ValueError, match=r"b\.tar: raw images must all be of one shape, but 'b' has .* and 'a' has"):
        index(tmp_path)
