"""Verification finds every byte that is not as it was packed, and says where; the list of rows not to be used."""

import json
import os
import shutil
import tarfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drawstream import ArraySource, Catalog, index, open_source, pack, verify
from drawstream.pipeline import verify as scan
from drawstream.pipeline.decoding import encode
from drawstream.pipeline.reading import Finding, read_quarantine, write_quarantine
from drawstream.pipeline.shards import mapped
from drawstream.pipeline.shards.tar import members
from drawstream.samplers.files.system import SystemFault
from shared.programs import cli, cli_json
from shared.refusals import refused
from shared.samples import FLOWER, array_catalog, write_files, write_tar

IMAGES = np.random.default_rng(0).integers(0, 256, (60, 8, 8), dtype=np.uint8)


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    out = tmp_path_factory.mktemp("verify") / "out"
    return pack(ArraySource(IMAGES, np.arange(60) % 3), out, label_noise=0.3, encoding="png", shard_rows=20).train


@pytest.fixture
def catalog(packed, tmp_path):
    return Catalog.open(shutil.copytree(packed, tmp_path / "data"))


def kinds(findings):
    return [(finding.kind, finding.shard, finding.row) for finding in findings]


def change(catalog, shard, act):
    path = catalog.shard_path(shard)
    data = bytearray(path.read_bytes())
    data = act(data) or data
    path.write_bytes(data)


def flip(catalog, shard, at, mask=1):
    def act(data):
        data[at] ^= mask

    change(catalog, shard, act)


def find(catalog, shard, name):
    path = catalog.shard_path(shard)
    with mapped(path) as data:
        return next(member for member in members(data, path) if member.name == name)


def test_some_rows_are_checked_alone(catalog, tmp_path):
    for row in (3, 25):
        flip(catalog, row // 20, int(catalog.offset[row]) + 40)
    where = np.arange(60) < 20
    seen = []
    found = verify(catalog, where=where, progress=lambda done, total: seen.append((done, total)))
    assert [each.row for each in found if each.row is not None] == [3] and {each.shard for each in found} == {0}
    assert seen == [(20, 20)]
    assert {each.row for each in verify(catalog, where=np.arange(60) == 25)} - {None} == {25}
    assert {each.row for each in verify(catalog)} - {None} == {3, 25}
    words = ("verify", catalog.root, "--quarantine", tmp_path / "q.json", "--where")
    record = cli_json(tmp_path, *words, "shard == 'shard-000001.tar'", status=1)
    assert record["rows"] == 20 and read_quarantine(tmp_path / "q.json", catalog).tolist() == [25]
    assert "no column 'lable'" in cli(*words, "lable == 1", status=2)


def rewrite(catalog, shard, edit):
    """Write a shard anew, its members changed: (name, data) → the same, or None to leave it out."""
    path = catalog.shard_path(shard)
    with tarfile.open(path) as tar:
        files = [(info.name, tar.extractfile(info).read()) for info in tar]
    write_tar(path, *filter(None, (edit(*file) for file in files)), form=tarfile.USTAR_FORMAT)


def test_a_whole_catalog_has_no_findings(catalog):
    seen = []
    assert verify(catalog, progress=lambda done, total: seen.append((done, total))) == []
    assert seen == [(20, 60), (40, 60), (60, 60)]


def test_a_flipped_bit_of_an_image(catalog):
    flip(catalog, 1, int(catalog.offset[33]) + 50)
    whole, image = findings = verify(catalog)
    assert kinds(findings) == [("bytes", 1, None), ("checksum", 1, 33)]
    assert f"shard-000001.tar: hash must be {catalog.shards[1].hash}, but got" in whole.message
    assert f"shard-000001.tar: sample {catalog.key(33)!r} (row 33): checksum must be" in image.message
    assert image.key == catalog.key(33)


@pytest.mark.parametrize(("member", "text"), [("cls", "label must be"), ("clean.cls", "true label must be")])
def test_a_flipped_bit_of_a_label(catalog, member, text):
    key = catalog.key(45)
    flip(catalog, 2, find(catalog, 2, f"{key}.{member}").offset)
    _, label = findings = verify(catalog)
    assert kinds(findings) == [("bytes", 2, None), ("label", 2, 45)]
    assert label.key == key and f"sample {key!r} (row 45): {text}" in label.message


@pytest.mark.parametrize("member", ["cls", "png"])
@pytest.mark.parametrize("byte", [0, 125, 150, 156, 257])
def test_a_damaged_header(catalog, member, byte):
    """The rows behind it are still checked: a second damage is found."""
    key = catalog.key(45)
    flip(catalog, 2, find(catalog, 2, f"{key}.{member}").offset - 512 + byte, 0x11)
    flip(catalog, 2, int(catalog.offset[55]) + 50)
    findings = verify(catalog)
    kind = "label" if member == "cls" else "member"
    assert kinds(findings) == [("header", 2, None), (kind, 2, 45), ("checksum", 2, 55)]
    assert findings[0].key == findings[1].key == key
    assert "shard-000002.tar: damaged" in findings[0].message and f"(near sample {key!r})" in findings[0].message


def test_a_zeroed_header(catalog):
    begin = find(catalog, 0, f"{catalog.key(7)}.cls").offset - 512

    def act(data):
        data[begin : begin + 512] = bytes(512)

    change(catalog, 0, act)
    assert kinds(verify(catalog)) == [("header", 0, None), ("label", 0, 7)]


def test_padding(catalog):
    flip(catalog, 1, find(catalog, 1, f"{catalog.key(30)}.cls").offset + 100)
    (finding,) = verify(catalog)
    assert finding.kind == "bytes" and "shard-000001.tar: hash must be" in finding.message


def test_a_truncated_shard(catalog):
    change(catalog, 0, lambda data: data[: int(catalog.offset[15]) + 10])
    findings = verify(Catalog.open_rows(catalog.root))
    assert kinds(findings) == [("truncated", 0, None), *[("lost", 0, row) for row in range(15, 20)]]
    size = int(catalog.offset[15]) + 10
    assert (
        f"shard-000000.tar: truncated: {size} bytes, its catalog says {catalog.shards[0].size}" in findings[0].message
    )
    assert f"sample {catalog.key(17)!r} (row 17): lies past the end" in findings[3].message


@pytest.mark.parametrize("cut", [1, 512, 5000])
def test_a_truncated_end(catalog, cut):
    change(catalog, 0, lambda data: data[:-cut])
    assert kinds(verify(Catalog.open_rows(catalog.root))) == [("truncated", 0, None)]


def test_an_empty_shard(catalog):
    catalog.shard_path(1).write_bytes(b"")
    findings = verify(Catalog.open_rows(catalog.root))
    assert kinds(findings) == [("truncated", 1, None), *[("lost", 1, row) for row in range(20, 40)]]


def test_swapped_shards(catalog):
    first, second = catalog.shard_path(0), catalog.shard_path(1)
    first.rename(first.with_suffix(".x"))
    second.rename(first)
    first.with_suffix(".x").rename(second)
    findings = verify(catalog)
    assert kinds(findings) == [("swapped", 0, None), ("swapped", 1, None)]
    assert "shard-000000.tar: holds the content of shard shard-000001.tar: swapped?" in findings[0].message
    assert "shard-000001.tar: holds the content of shard shard-000000.tar: swapped?" in findings[1].message


def test_a_missing_shard(catalog):
    catalog.shard_path(2).unlink()
    (finding,) = verify(Catalog.open_rows(catalog.root))
    assert finding.kind == "missing" and "shard-000002.tar: shard is missing" in finding.message


@pytest.mark.parametrize("content", [b"no tar at all " * 1000, bytes(5120), b"\x1f\x8b" + bytes(20_480), b"x"])
def test_a_file_that_is_no_tar(catalog, content):
    catalog.shard_path(0).write_bytes(content)
    (finding,) = verify(Catalog.open_rows(catalog.root))
    assert (finding.kind, finding.shard) == ("not-a-tar", 0) and "shard-000000.tar: " in finding.message


def test_a_stale_catalog(catalog):
    dropped, renamed = catalog.key(3), catalog.key(5)

    def edit(name, data):
        if name.startswith(dropped):
            return None
        return name.replace(renamed, "new"), data

    rewrite(catalog, 0, edit)
    findings = verify(Catalog.open_rows(catalog.root))
    assert kinds(findings)[:2] == [("stale", 0, None), ("extra", 0, None)]
    assert kinds(findings)[2:] == [("member", 0, row) for row in range(3, 20)]
    assert "written anew after its catalog was made? Index it anew" in findings[0].message
    assert findings[1].key == "new" and "sample 'new': its catalog does not know it" in findings[1].message
    assert f"sample {dropped!r} (row 3): its shard has no member of this name" in findings[2].message


def test_a_sample_that_was_added(catalog):
    with tarfile.open(catalog.shard_path(0), "a") as tar:
        tar.addfile(tarfile.TarInfo("late.png"))
    assert kinds(verify(Catalog.open_rows(catalog.root))) == [("stale", 0, None), ("extra", 0, None)]


def test_a_failing_disk_is_no_damage(catalog, monkeypatch):
    def refuse(path):
        raise OSError(5, os.strerror(5))

    monkeypatch.setattr(scan, "hash_file", refuse)
    refused(r"Input/output error: the device .*shard-000000.tar", verify, catalog, error=SystemFault)


def test_images_that_were_damaged_before_packing(tmp_path):
    write_files(tmp_path, {"photos/flower/whole.jpg": FLOWER, "photos/flower/cut.jpg": FLOWER[: len(FLOWER) // 2]})
    with pytest.raises(ValueError, match=r"image 'flower/cut': image does not decode \(image file is truncated"):
        pack(open_source(tmp_path / "photos"), tmp_path / "out")
    files = [("cut.jpg", FLOWER[: len(FLOWER) // 2]), ("cut.cls", "0"), ("whole.jpg", FLOWER), ("whole.cls", "0")]
    tar = write_tar(tmp_path / "a.tar", *((f"flower/{name}", data) for name, data in files))
    catalog = Catalog.open(index(tar))  # which reads headers
    (finding,) = verify(catalog)
    assert finding.kind == "decode" and finding.key == "flower/cut" and finding.row == catalog.keys.index("flower/cut")
    assert "image does not decode" in finding.message and "replace the image or leave it out" in finding.message
    assert verify(catalog, pixels=False) == []


def test_all_damage_in_one_run(catalog, tmp_path):
    flip(catalog, 0, int(catalog.offset[4]) + 50)
    flip(catalog, 0, find(catalog, 0, f"{catalog.key(9)}.cls").offset)
    catalog.shard_path(1).unlink()
    change(catalog, 2, lambda data: data[: int(catalog.offset[58])])
    opened = Catalog.open_rows(catalog.root)
    findings = verify(opened)
    assert kinds(findings) == [
        ("bytes", 0, None),
        ("checksum", 0, 4),
        ("label", 0, 9),
        ("missing", 1, None),
        ("truncated", 2, None),
        ("lost", 2, 58),
        ("lost", 2, 59),
    ]
    assert write_quarantine(tmp_path / "q.json", opened, findings) == 24
    assert read_quarantine(tmp_path / "q.json", opened).tolist() == [4, 9, *range(20, 40), 58, 59]


@pytest.mark.slow  # processes take seconds to start
def test_processes_find_the_same(catalog):
    flip(catalog, 2, int(catalog.offset[41]) + 50)
    catalog.shard_path(1).unlink()
    opened = Catalog.open_rows(catalog.root)
    assert verify(opened, workers=2) == verify(opened)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """Raw and encoded images, labels by name, long and foreign names."""
    root = tmp_path_factory.mktemp("mixed")
    for name, form in (("gnu", tarfile.GNU_FORMAT), ("pax", tarfile.PAX_FORMAT)):
        files = []
        for i in range(6):
            key = f"{'long/' * 25 if i % 2 else ''}{name}-süß-{i}"
            extension, kind = ("pgm", "raw") if i < 3 else ("png", "png")
            image = encode(IMAGES[i], kind, quality=9)[0]
            files += [(f"{key}.txt", "cat" if i % 3 else "dog"), (f"{key}.{extension}", image)]
        write_tar(root / f"{name}.tar", *files, form=form)
    return Catalog.open(index(root))


@given(st.data())
@settings(deadline=None, max_examples=120)
def test_any_flipped_byte_is_found_and_named(mixed, data):
    shard = data.draw(st.integers(0, len(mixed.shards) - 1))
    path = mixed.shard_path(shard)
    whole = path.read_bytes()
    rows = range(*mixed.shard_rows(shard))
    last = int(mixed.offset[rows[-1]] + mixed.size[rows[-1]])
    at = data.draw(st.one_of(st.integers(0, last), st.integers(0, len(whole) - 1)))
    mask = data.draw(st.integers(1, 255))
    try:
        path.write_bytes(whole[:at] + bytes([whole[at] ^ mask]) + whole[at + 1 :])
        findings = verify(mixed)
    finally:
        path.write_bytes(whole)
    assert findings and all(finding.shard == shard and path.name in finding.message for finding in findings)
    assert all("\n" not in finding.message for finding in findings)
    hit = [row for row in rows if mixed.offset[row] <= at < mixed.offset[row] + mixed.size[row]]
    assert not hit or mixed.key(hit[0]) in [finding.key for finding in findings]
    assert {finding.row for finding in findings if finding.kind == "checksum"} == set(hit)


@pytest.fixture(scope="module")
def listed(tmp_path_factory):
    images = np.random.default_rng(0).integers(0, 256, (60, 8, 8), dtype=np.uint8)
    out = tmp_path_factory.mktemp("q") / "out"
    return array_catalog(out, images, np.arange(60) % 3, shard_rows=20)


def row(kind, number, message="m"):
    return Finding(kind, number // 20, number, None, message)


def test_rows_come_back_sorted_and_once(listed, tmp_path):
    path = tmp_path / "new" / "quarantine.json"
    findings = [row("checksum", 33, "first"), row("decode", 5), row("label", 33, "second")]
    findings += [
        Finding("bytes", 1, None, None, "a hash alone speaks against no row"),
        Finding("extra", 1, None, "x", "m"),
    ]
    assert write_quarantine(path, listed, findings) == 2
    rows = read_quarantine(path, listed)
    assert rows.tolist() == [5, 33] and rows.dtype == np.int64
    content = json.loads(path.read_text())
    assert content["format"] == 1 and content["catalog"] == listed.fingerprint
    assert content["rows"][1] == {
        "row": 33,
        "key": listed.key(33),
        "shard": "shard-000001.tar",
        "kind": "checksum",
        "message": "first",
    }
    assert [file.name for file in path.parent.iterdir()] == ["quarantine.json"]


@pytest.mark.parametrize("kind", ["missing", "unreadable", "swapped", "not-a-tar"])
def test_all_rows_of_a_lost_shard(listed, tmp_path, kind):
    path = tmp_path / "q.json"
    assert write_quarantine(path, listed, [Finding(kind, 2, None, None, "m")]) == 20
    assert read_quarantine(path, listed).tolist() == list(range(40, 60))


def test_an_empty_list(listed, tmp_path):
    assert write_quarantine(tmp_path / "q.json", listed, []) == 0
    assert read_quarantine(tmp_path / "q.json", listed).shape == (0,)


def test_another_catalogs_list_is_refused(listed, tmp_path):
    other = array_catalog(tmp_path / "o", np.zeros((9, 4, 4), np.uint8), np.arange(9) % 3)
    write_quarantine(tmp_path / "q.json", other, [])
    with pytest.raises(
        ValueError, match=f"list of catalog {other.fingerprint}, but .* is {listed.fingerprint}: verify"
    ):
        read_quarantine(tmp_path / "q.json", listed)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"not a quarantine list \(Expecting value"),
        ("{", r"not a quarantine list \("),
        ("\xff", "not a quarantine list"),
        ("[" * 100_000, "not a quarantine list"),
        ("[]", "must hold format, catalog and rows"),
        ('{"format": 1, "catalog": "x"}', "must hold format, catalog and rows"),
        ('{"format": 1, "catalog": "x", "rows": [3]}', "must hold format, catalog and rows"),
        ('{"format": 1, "catalog": "x", "rows": [{"row": "3", "key": "a"}]}', "must hold format, catalog and rows"),
        ('{"format": 2, "catalog": "x", "rows": {}}', "must hold"),
        ('{"format": 2, "catalog": "x", "rows": []}', "format must be at most 1, but got 2: upgrade drawstream"),
        ('{"format": 1, "catalog": "FP", "rows": [{"row": 60, "key": "a"}]}', r"row 60 \('a'\) is not in"),
        ('{"format": 1, "catalog": "FP", "rows": [{"row": 3, "key": "a"}]}', r"row 3 \('a'\) is not in"),
    ],
)
def test_other_files_are_refused_in_one_line(listed, tmp_path, text, message):
    file = tmp_path / "q.json"
    file.write_bytes(text.replace("FP", listed.fingerprint).encode("latin-1"))
    assert str(file) in refused(message, read_quarantine, file, listed)


def test_a_missing_list_says_how_to_make_it(listed, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no such file: write it with `drawstream verify CATALOG --quarantine"):
        read_quarantine(tmp_path / "none.json", listed)
