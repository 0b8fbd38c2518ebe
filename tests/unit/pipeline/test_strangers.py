"""Data sets made to do harm are refused in one line: names, tars, labels, folders, archives and catalogs."""

import dataclasses
import gzip
import os
import struct
import tarfile
import zipfile
import zlib

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from drawstream.pipeline.decoding.image import MOST_PIXELS, ImageInfo, encode, probe
from drawstream.pipeline.shards import Catalog
from drawstream.pipeline.shards.catalog import FILE, AlteredCatalogError, Shard, hash_file
from drawstream.pipeline.shards.catalog_writer import CatalogWriter
from drawstream.pipeline.shards.index import index
from drawstream.pipeline.shards.names import LONGEST, check_keys, check_name, check_paths, number_names, printable
from drawstream.pipeline.shards.pack import pack
from drawstream.pipeline.sources import open_source
from drawstream.tools.cli.app import main
from drawstream.tools.report.gallery import Picture
from drawstream.tools.report.page import gallery

PNG = encode(np.arange(36, dtype=np.uint8).reshape(6, 6), "png", quality=95)[0]
ACTING = (
    "a\nb",
    "a\rb",
    "a\0b",
    "a\x1b[2Jb",
    "a\x7fb",
    "a\x9bb",
    "a\u202eb",
    "a\u2066b",
    "a\u200fb",
    "a\u2028b",
    "a\ud800b",
)
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
def test_names_that_act_are_refused(tmp_path, name, shard):
    assert "control or direction" in refusal(check_name, name)
    for form in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        if "\0" in name or "\ud800" in name:  # a header cannot hold these as they are
            continue
        path = shard(tmp_path / "a.tar", (f"{name}.png", PNG), (f"{name}.cls", b"0"), form=form)
        assert "a.tar: member name" in refusal(index, path)


def test_other_names_are_keys_and_nothing_else(tmp_path, shard):
    for name in QUIET:
        check_name(name)
    assert "must have 1 … 4096 bytes, but has 4097" in refusal(check_name, "é" + "x" * (LONGEST - 1))
    assert "must have 1 … 4096 bytes, but has 0" in refusal(check_name, "")
    path = shard(tmp_path / "a.tar", ("x" * 100_000 + ".png", PNG), ("x" * 100_000 + ".cls", b"0"))
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


def test_the_command_line_shows_escapes_as_text(tmp_path, capsys):
    assert main(["index", str(tmp_path / "\x1b[31m")]) == 2
    assert capsys.readouterr().err.startswith(f"drawstream: {tmp_path}/\\u001b[31m")


@pytest.mark.parametrize("kind", [b"L", b"K", b"x"])
def test_headers_that_announce_headers_end(tmp_path, kind):
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = kind, 10
    (tmp_path / "a.tar").write_bytes((info.tobuf(tarfile.GNU_FORMAT) + bytes(512)) * 5000 + bytes(1024))
    assert "damaged" in refusal(index, tmp_path / "a.tar")


def test_what_is_no_regular_file_is_no_shard(tmp_path, shard):
    os.mkfifo(tmp_path / "pipe.tar")
    (tmp_path / "folder.tar").mkdir()
    (tmp_path / "endless.tar").symlink_to("/dev/zero")
    for name in ("pipe", "folder", "endless"):
        if name != "folder":
            assert "must be a regular file or a link to one" in refusal(index, tmp_path / f"{name}.tar")
        assert "must be a regular file or a link to one" in refusal(index, [tmp_path / f"{name}.tar"])
    (tmp_path / "zeros.tar").write_bytes(shard(tmp_path / "z", ("a.png", PNG), ("a.cls", b"0")).read_bytes())
    os.truncate(tmp_path / "zeros.tar", 1 << 30)  # takes no room
    assert "bytes after the end-of-archive mark" in refusal(index, tmp_path / "zeros.tar")
    (tmp_path / "packed").mkdir()
    (tmp_path / "packed" / "a.tar.gz").write_bytes(b"")
    assert "a.tar.gz: shard is compressed" in refusal(index, tmp_path / "packed")


@pytest.mark.parametrize(
    ("member", "data", "text"),
    [
        ("cls", b"7" * (1 << 20) + b"7", "must have at most 1048576 bytes, but has 1048577"),
        ("json", b"[" * 100_000, "is not readable"),
        ("cls", b"9" * 5000, r"number or name|must have|repair"),
        ("json", b'{"label": 1e999}', "must hold a class number or name"),
        ("txt", b"\x1b]0;title\x07", "control or direction characters, but has U+001B"),
        ("cls", b"%d" % 2**40, "labels must be below 65536 where the classes have no names"),
        ("cls", b"-1", "class numbers must be at least 0"),
    ],
    ids=["long", "deep", "digits", "infinite", "controls", "huge", "negative"],
)
def test_labels_that_would_fill_the_memory(tmp_path, member, data, text, shard):
    path = shard(tmp_path / "a.tar", ("a.png", PNG), (f"a.{member}", data), ("b.png", PNG), ("b.cls", b"1"))
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


def test_links_to_files_and_folders_are_followed(photos, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "1.png").write_bytes(PNG)
    (photos / "a" / "1.png").symlink_to(tmp_path / "elsewhere" / "1.png")
    (photos / "c").symlink_to(tmp_path / "elsewhere")
    packed = pack(open_source(photos), tmp_path / "out")
    assert sorted(Catalog.open(packed.train).keys) == ["a/0", "a/1", "b/0", "c/1"]


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
    monkeypatch.setattr(
        "drawstream.pipeline.shards.catalog_writer.check_name", lambda *_, **__: None
    )  # who makes it has no laws
    catalog_of(tmp_path, rows, **changes)
    with pytest.raises(AlteredCatalogError, match=text) as caught:
        Catalog.open_rows(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path / FILE}: ")


def test_a_remote_catalog_stays_in_its_folder():
    check_paths(["../shards/a.tar"], remote=False)
    check_paths(["sub/a..b.tar"], remote=True)
    for path in ("../a.tar", "x/../../../other.host/a.tar"):
        assert "must not leave the catalog's folder" in refusal(lambda p: check_paths([p], remote=True), path)
