"""Data sets made to do harm are refused in one line: names, tars, labels, folders, archives and catalogs."""

import dataclasses
import gzip
import json
import os
import shutil
import struct
import tarfile
import zipfile
import zlib

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from wds2idx import IndexCreator

from drawstream import Catalog, index, open_source, pack, verify
from drawstream.pipeline.decoding import MOST_PIXELS, ImageInfo, encode, probe
from drawstream.pipeline.shards import check_name, number_names, printable, write_idx
from drawstream.pipeline.shards.catalog import FILE, AlteredCatalogError, Shard, hash_file
from drawstream.pipeline.shards.catalog_writer import CatalogWriter
from drawstream.pipeline.shards.names import LONGEST, check_keys, check_paths
from drawstream.tools.report import Picture
from drawstream.tools.report.page import gallery
from shared.programs import cli
from shared.refusals import refused
from shared.samples import CHINA, PIXELS, digits_catalog, pack_digits, write_tar

PNG = encode(np.arange(36, dtype=np.uint8).reshape(6, 6), "png", quality=95)[0]
ACTING = [f"a{acting}b" for acting in ("\n", "\r", "\0", "\x1b[2J", *"\x7f\x9b\u202e\u2066\u200f\u2028\ud800")]
QUIET = (
    "a",
    "../../etc/passwd",
    "C:\\x",
    "<b>",
    '"',
    "名前/süß – 50 %",
    "a\u200db",
    "🦊",
    "-rf",
    "$(x)",
    "x" * LONGEST,
)


def refusal(act, *arguments):
    """The one line with which something is refused."""
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        act(*arguments)
    text = str(caught.value)
    assert "\n" not in text and printable(text) == text and len(text) < 1000
    return text


@pytest.mark.parametrize("name", ACTING, ids=ascii)
def test_names_that_act_are_refused(tmp_path, name):
    assert "control or direction" in refusal(check_name, name)
    for form in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        if "\0" in name or "\ud800" in name:  # a header cannot hold these as they are
            continue
        path = write_tar(tmp_path / "a.tar", (f"{name}.png", PNG), (f"{name}.cls", b"0"), form=form)
        assert "a.tar: member name" in refusal(index, path)


def test_other_names_are_keys_and_nothing_else(tmp_path):
    for name in QUIET:
        check_name(name)
    assert "must have 1 … 4096 bytes, but has 4097" in refusal(check_name, "é" + "x" * (LONGEST - 1))
    assert "must have 1 … 4096 bytes, but has 0" in refusal(check_name, "")
    path = write_tar(tmp_path / "a.tar", ("x" * 100_000 + ".png", PNG), ("x" * 100_000 + ".cls", b"0"))
    assert "must have 1 … 4096 bytes, but has 100004" in refusal(index, path)


@given(st.text())
def test_what_is_shown_never_acts(text):
    assert printable(printable(text)) == printable(text)
    assert all(c == "\n" or c.isprintable() or c.isspace() or ord(c) > 0x9F for c in printable(text))
    try:
        check_name(text)
    except ValueError as error:
        assert printable(error) == str(error)
    else:
        assert printable(text) == text


@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=5), min_size=1, max_size=8))
def test_keys_of_a_column_are_held_to_the_same_law(names):
    def refused(act, *arguments):
        try:
            act(*arguments)
        except ValueError:
            return True
        return False

    assert refused(check_keys, pa.array(names, pa.large_string())) == any(refused(check_name, name) for name in names)


def test_keys_must_be_utf8():
    column = pa.array([b"a\xff"], pa.large_binary())
    text = pa.Array.from_buffers(pa.large_string(), 1, column.buffers())
    assert "UTF" in refusal(check_keys, text)


def test_names_are_text_in_the_page():
    evil = '"><img src=x onerror=alert(1)>'
    page = gallery([Picture("", 8, 8, evil, evil, evil, 1.0)])
    assert "<img src=x" not in page and page.count("&lt;img src=x") == 4


def test_the_command_line_shows_escapes_as_text(tmp_path):
    assert cli("index", tmp_path / "\x1b[31m", status=2).startswith(f"drawstream: {tmp_path}/\\u001b[31m")


@pytest.mark.parametrize("kind", [b"L", b"K", b"x"])
def test_headers_that_announce_headers_end(tmp_path, kind):
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = kind, 10
    (tmp_path / "a.tar").write_bytes((info.tobuf(tarfile.GNU_FORMAT) + bytes(512)) * 5000 + bytes(1024))
    assert "damaged" in refusal(index, tmp_path / "a.tar")


def test_what_is_no_regular_file_is_no_shard(tmp_path):
    os.mkfifo(tmp_path / "pipe.tar")
    (tmp_path / "folder.tar").mkdir()
    (tmp_path / "endless.tar").symlink_to("/dev/zero")
    for name in ("pipe", "folder", "endless"):
        if name != "folder":
            assert "must be a regular file or a link to one" in refusal(index, tmp_path / f"{name}.tar")
        assert "must be a regular file or a link to one" in refusal(index, [tmp_path / f"{name}.tar"])
    (tmp_path / "zeros.tar").write_bytes(write_tar(tmp_path / "z", ("a.png", PNG), ("a.cls", b"0")).read_bytes())
    os.truncate(tmp_path / "zeros.tar", 1 << 30)  # takes no room
    assert "bytes after the end-of-archive mark" in refusal(index, tmp_path / "zeros.tar")


@pytest.mark.parametrize(
    ("member", "data", "text"),
    [
        ("cls", b"7" * (1 << 20) + b"7", "must have at most 1048576 bytes, but has 1048577"),
        ("json", b"[" * 100_000, "is not readable"),
        ("cls", b"9" * 5000, r"number or name|must have|repair"),
        ("json", b'{"label": 1e999}', "must hold a class number or name"),
        ("txt", b"\x1b]0;title\x07", "control or direction characters, but has U+001B"),
        ("cls", b"%d" % 2**40, "labels must be below 65536 where the classes have no names"),
    ],
    ids=["long", "deep", "digits", "infinite", "controls", "huge"],
)
def test_labels_that_would_fill_the_memory(tmp_path, member, data, text):
    path = write_tar(tmp_path / "a.tar", ("a.png", PNG), (f"a.{member}", data), ("b.png", PNG), ("b.cls", b"1"))
    line = refusal(index, path)
    assert any(part in line for part in text.split("|"))


def test_numbers_imply_as_many_classes_as_rows_allow():
    assert number_names(2, 1) == ("0", "1", "2") and len(number_names(65_535, 1)) == 65_536
    assert len(number_names(159_999, 10_000)) == 160_000
    assert "labels must be below 160000" in refusal(number_names, 160_000, 10_000)
    assert "labels must be below 16777216" in refusal(number_names, 10**18, 10**9)


def bomb(height, width):
    data = bytearray(PNG)
    data[16:24] = struct.pack(">II", width, height)
    data[29:33] = struct.pack(">I", zlib.crc32(bytes(data[12:29])))
    return bytes(data)


def test_one_limit_on_pixels():
    assert probe(bomb(MOST_PIXELS // 10, 10)).height == MOST_PIXELS // 10
    for data in (bomb(MOST_PIXELS // 10 + 1, 10), b"P5\n999999999 999999999\n255\n", b"P6\n0 7\n255\n"):
        assert "pixels" in refusal(probe, data)
    assert "damaged Netpbm header" in refusal(probe, b"P5\n" + b"9" * 5000 + b" 1\n255\n")


@pytest.fixture
def photos(tmp_path):
    """A folder of two classes, one image each."""
    for name in ("a", "b"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        (tmp_path / "photos" / name / "0.png").write_bytes(PNG)
    return tmp_path / "photos"


def test_what_cannot_be_read_is_named_and_not_waited_for(photos, tmp_path):
    bad = photos / "b" / "1.png"
    for make in (
        lambda: os.mkfifo(bad),
        lambda: bad.symlink_to("/dev/zero"),
        lambda: bad.symlink_to(photos / "nothing"),
        lambda: bad.symlink_to(bad),
    ):
        make()
        assert refusal(open_source, photos) == f"{bad}: an image must be a regular file or a link to one: remove it"
        bad.unlink()
    (photos / "b" / "a\x1b[2J.png").write_bytes(PNG)
    assert "has U+001B: rename it" in refusal(open_source, photos)
    (photos / "b" / "a\x1b[2J.png").unlink()
    source = open_source(photos)
    (photos / "b" / "0.png").unlink()
    assert "image 'b/0': cannot be read (No such file or directory)" in refusal(pack, source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_files_that_swell_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("drawstream.pipeline.sources.source.SWOLLEN", (1 << 20, 200))
    rows = 2 << 20
    head = struct.pack(">IIII", 0x803, rows, 1, 1)
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(head + bytes(rows), 9))
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(struct.pack(">II", 0x801, 1) + b"\0")
    assert "grows beyond 1048576 bytes when decompressed" in refusal(open_source, tmp_path)
    header = b"\x93NUMPY\1\0v\0{'descr': '|u1', 'fortran_order': False, 'shape': (9999999999999, 28, 28), }"
    for content, text in (
        (header.ljust(127) + b"\n", "too few for uint8"),
        (bytes(rows), "grows beyond 1048576 bytes"),
    ):
        with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("images.npy", content)
        assert text in refusal(open_source, tmp_path / "a.npz")


def catalog_of(folder, rows, **changes):
    """A sealed catalog of an own writer, its rows (offset, size, height, width) as they are given."""
    path = folder / "a.tar"
    path.write_bytes(bytes(10_000))
    draft = CatalogWriter()
    for i, (_, _, height, width) in enumerate(rows):
        draft.add(changes.get("key", str(i)), 0, 0, bytes(10), ImageInfo("png", height, width, 3))
    for i, (offset, size, _, _) in enumerate(rows):
        draft.images[8 * i + 1], draft.images[8 * i + 2] = offset, size
    entry = dataclasses.replace(Shard("a.tar", 10_000, hash_file(path)), **changes.get("shard", {}))
    labels = np.zeros(len(rows), np.int64)
    draft.save(folder / FILE, labels, None, shards=[entry], classes=changes.get("classes", ["0"]), provenance={})
    return folder


@pytest.mark.parametrize(
    ("rows", "changes", "text"),
    [
        ([(2**63 - 5, 10, 1, 1)], {}, "every image must lie inside its shard"),
        ([(0, 2**63 - 1, 1, 1)], {}, "every image must lie inside its shard"),
        ([(-1, 10, 1, 1)], {}, "every image must lie inside its shard"),
        ([(0, 100, 1, 1), (50, 100, 1, 1)], {}, "must follow one another and not overlap"),
        ([(0, 100, 1, 1), (0, 100, 1, 1)], {}, "must follow one another and not overlap"),
        ([(0, 100, 2**31 - 1, 2**31 - 1)], {}, "every image must have 1 … 178956970 pixels"),
        ([(0, 100, 0, 10)], {}, "every image must have 1 … 178956970 pixels"),
        ([(0, 100, -5, -5)], {}, "every image must have 1 … 178956970 pixels"),
        ([(0, 100, 1, 1)], {"shard": {"path": "/etc/passwd"}}, "must be relative to the catalog"),
        ([(0, 100, 1, 1)], {"shard": {"path": "https://other/a.tar"}}, "must be relative to the catalog"),
        ([(0, 100, 1, 1)], {"shard": {"path": "a\nb.tar"}}, "control or direction"),
        ([(0, 100, 1, 1)], {"shard": {"size": 10**30}}, "its metadata must hold"),
        ([(0, 100, 1, 1)], {"shard": {"size": -1}}, "its metadata must hold"),
        ([(0, 100, 1, 1)], {"classes": [""]}, "class name"),
    ],
)
def test_sealed_catalogs_that_lie(tmp_path, monkeypatch, rows, changes, text):
    # who makes it has no laws
    monkeypatch.setattr("drawstream.pipeline.shards.catalog_writer.check_name", lambda *_, **__: None)
    catalog_of(tmp_path, rows, **changes)
    with pytest.raises(AlteredCatalogError, match=text) as caught:
        Catalog.open_rows(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path / FILE}: ")


def test_a_remote_catalog_stays_in_its_folder():
    check_paths(["../shards/a.tar"], remote=False)
    check_paths(["sub/a..b.tar"], remote=True)
    for path in ("../a.tar", "x/../../../other.host/a.tar"):
        assert "must not leave the catalog's folder" in refusal(lambda p: check_paths([p], remote=True), path)


# Catalogs for existing shards: the same rows as pack gives, every kind of label, and bad shards named


GREY = encode(PIXELS[0], "png", quality=95)[0]
PHOTO = CHINA
COLUMNS = ("shard", "offset", "size", "checksum", "label", "clean_label", "encoding_codes", "height", "width")


@pytest.mark.parametrize("encoding", ["raw", "png", "jpeg"])
def test_equals_the_catalog_of_pack(tmp_path, encoding):
    options = {"encoding": encoding, "label_noise": 0.4, "limit": 500, "shard_rows": 200}
    packed = digits_catalog(tmp_path / "out", None, **options)
    indexed = Catalog.open(index(packed.root, out=tmp_path / "other"))
    for name in COLUMNS:
        assert (getattr(indexed, name) == getattr(packed, name)).all(), name
    assert indexed.keys == packed.keys and indexed.classes == packed.classes and indexed.channels == packed.channels
    assert indexed.fingerprint == packed.fingerprint
    assert [indexed.shard_path(i).resolve() for i in range(3)] == [packed.shard_path(i).resolve() for i in range(3)]


def test_labels_of_every_kind(tmp_path):
    a = write_tar(tmp_path / "a.tar", ("0.cls", "3\n"), ("0.jpg", PHOTO), ("1.json", '{"label": 1}'), ("1.png", GREY))
    b = write_tar(
        tmp_path / "b.tar", ("2.txt", "2"), ("2.PNG", GREY), ("3.json", "0"), ("3.jpeg", GREY), ("3.txt", "a caption")
    )
    catalog = Catalog.open(index([a, b]))
    assert catalog.path == tmp_path / "catalog.parquet" and catalog.keys == ["0", "1", "2", "3"]
    assert catalog.label.tolist() == [3, 1, 2, 0] and catalog.classes == ("0", "1", "2", "3")
    assert catalog.encodings.tolist() == ["jpeg", "png", "png", "png"]  # by content, not by name
    assert catalog.height.tolist() == [427, 8, 8, 8] and catalog.channels == 3
    assert catalog.provenance == {"by": "index"}


def test_class_names(tmp_path):
    tar = write_tar(
        tmp_path / "a.tar", ("0.txt", "zebra"), ("0.png", GREY), ("1.json", '{"cls": "ant"}'), ("1.png", GREY)
    )
    catalog = Catalog.open(index(tar))
    assert catalog.classes == ("ant", "zebra") and catalog.label.tolist() == [1, 0]
    catalog = Catalog.open(index(tar, classes=["zebra", "bee", "ant"], overwrite=True))
    assert catalog.label.tolist() == [0, 2] and catalog.num_classes == 3
    with pytest.raises(ValueError, match="sample '0': label must be one of 2 classes, but got 'zebra'"):
        index(tar, classes=["ant", "bee"], overwrite=True)


@pytest.mark.parametrize(
    ("files", "text"),
    [
        ([("0.png", GREY)], r"sample '0': must have a label \(\.cls, \.json, \.txt\), but got \.png"),
        ([("0.cls", "1")], r"sample '0': must have one image .*, but got \.cls"),
        ([("0.json", "{"), ("0.png", GREY)], r"sample '0': \.json is not readable"),
        (
            [("0.cls", "1"), ("0.png", GREY), ("1.cls", "cat"), ("1.png", GREY)],
            "labels must all be numbers or all be names",
        ),
        ([("0.cls", "1"), ("0.png", GREY[:20])], "sample '0': not a readable JPEG"),
        (
            [("0.cls", "1"), ("0.pgm", b"P5\n8 8\n255\n" + bytes(63))],
            "sample '0': Netpbm image must have 8 × 8 × 1 bytes .* got 63",
        ),
        (
            [("0.cls", "1"), ("0.clean.cls", "1"), ("0.png", GREY), ("1.cls", "1"), ("1.png", GREY)],
            r"\.clean\.cls must be in",
        ),
        ([("README", "nothing else")], "no samples in this shard"),
    ],
)
def test_bad_samples_are_named(tmp_path, files, text):
    tar = write_tar(tmp_path / "a.tar", *files)
    with pytest.raises(ValueError, match=text) as caught:
        index(tar)
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "catalog.parquet").exists()


def test_raw_and_colour_do_not_mix(tmp_path):
    raw = b"P5\n8 8\n255\n" + bytes(64)
    tar = write_tar(tmp_path / "a.tar", ("0.cls", "0"), ("0.pgm", raw), ("1.cls", "1"), ("1.jpg", PHOTO))
    refused("raw images must be as deep as the others, but '0' is gray", index, tar)


def test_shards_of_one_name_are_told_apart_by_their_folders(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write_tar(tmp_path / name / "0.tar", ("0.cls", "0"), ("0.png", GREY))
    paths = [tmp_path / name / "0.tar" for name in ("a", "b")]
    for out in (tmp_path, tmp_path / "else" / "where"):
        catalog = Catalog.open(index(paths, out=out))
        assert catalog.keys == ["a/0/0", "b/0/0"] and catalog.member_key(1) == "0" and verify(catalog) == []


def test_where_the_catalog_goes(tmp_path):
    refused("no shards: give a folder", index, tmp_path, error=FileNotFoundError)
    (tmp_path / "x").mkdir()
    a = write_tar(tmp_path / "a.tar", ("0.cls", "0"), ("0.png", GREY))
    b = write_tar(tmp_path / "x" / "b.tar", ("1.cls", "0"), ("1.png", GREY))
    refused("shards lie in several folders", index, [a, b])
    catalog = Catalog.open(index([b, a], out=tmp_path / "new" / "place"))
    assert [shard.path for shard in catalog.shards] == ["../../x/b.tar", "../../a.tar"] and catalog.keys == ["1", "0"]
    refused(r"catalog\.parquet: exists already", index, [b, a], out=tmp_path / "new" / "place")


def test_damaged_shards_leave_the_old_catalog(tmp_path):
    root = pack_digits(tmp_path / "out", None, limit=100).train
    before = (root / "catalog.parquet").read_bytes()
    tar = root / "shard-000000.tar"
    tar.write_bytes(tar.read_bytes()[:50_000])
    refused(r"shard-000000\.tar: damaged or truncated tar after byte \d+", index, root, overwrite=True)
    assert (root / "catalog.parquet").read_bytes() == before


def test_idx_files_equal_wds2idx(tmp_path):
    catalog = digits_catalog(tmp_path / "out", None, limit=50, label_noise=0.2)
    write_idx(catalog, 0, tmp_path / "ours.idx")
    creator = IndexCreator(str(catalog.shard_path(0)), str(tmp_path / "theirs.idx"), verbose=False)
    creator.create_index()
    creator.close()
    assert (tmp_path / "ours.idx").read_text() == (tmp_path / "theirs.idx").read_text()


def test_idx_files_refuse_white_space(tmp_path):
    catalog = Catalog.open(index(write_tar(tmp_path / "a.tar", ("a b.cls", "0"), ("a b.png", GREY))))
    refused(r"member 'a b\.cls': an \.idx file cannot hold white space", write_idx, catalog, 0, tmp_path / "a.idx")
    assert not (tmp_path / "a.idx").exists()


def test_a_moved_data_set_still_opens(tmp_path):
    packed = pack_digits(tmp_path / "out", None, limit=60).train
    path = index(packed, out=packed, overwrite=True)
    assert json.dumps(Catalog.open(path).provenance) == '{"by": "index"}'
    shutil.move(packed, tmp_path / "moved")
    assert len(Catalog.open(tmp_path / "moved")) == 60


def test_workers_change_nothing_but_the_time(tmp_path):
    packed = digits_catalog(tmp_path / "out", None, encoding="png", limit=400, shard_rows=90)
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
    root = pack_digits(tmp_path / "out", None, limit=400, shard_rows=90).train
    for i in (3, 1):
        tar = root / f"shard-{i:06d}.tar"
        tar.write_bytes(tar.read_bytes()[:-600] + b"x" * 600)
    for workers in (1, 2):
        with pytest.raises(ValueError, match=r"shard-000001\.tar: data after the end-of-archive mark"):
            index(root, out=tmp_path / "bad", workers=workers)
    assert not (tmp_path / "bad").exists()


def test_a_worker_at_least(tmp_path):
    tar = write_tar(tmp_path / "a.tar", ("0.cls", "0"), ("0.png", GREY))
    refused(r"workers.*but got 0", index, tar, workers=0)
    assert len(Catalog.open(index(tar, workers=None))) == 1


def test_raw_images_of_two_shapes_in_two_shards_are_refused(tmp_path):
    for name, side in (("a", 8), ("b", 4)):
        raw = b"P5\n8 %d\n255\n" % side + bytes(8 * side)
        write_tar(tmp_path / f"{name}.tar", (f"{name}.cls", "0"), (f"{name}.pgm", raw))
    refused(r"b\.tar: raw images must all be of one shape, but 'b' has .* and 'a' has", index, tmp_path)
