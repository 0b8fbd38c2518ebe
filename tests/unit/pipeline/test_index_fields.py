"""Fields of samples: which members `index` takes, and what `verify` finds wrong with them."""

import json

import numpy as np
import pytest

from drawstream import Catalog, index, verify
from drawstream.pipeline.fields import decode_value, encode_value, follow
from drawstream.pipeline.shards import Selection
from shared.programs import cli
from shared.refusals import refused
from shared.samples import PIXELS, encoded, write_tar

PNG = encoded(np.arange(20, dtype=np.uint8).reshape(4, 5), "PNG")
JPG = encoded(PIXELS[0], "JPEG")
ALL = {"jpg": JPG, "json": '{"url": "a"}', "seg.png": PNG, "txt": "ein Tor, 中国"}


def shards(folder, count=6, without=(), **changed):
    """Two shards as img2dataset writes them, with masks; `without` are pairs of row and extension."""
    for shard in (0, 1):
        rows = range(shard * count // 2, (shard + 1) * count // 2)
        files = [(row, extension) for row in rows for extension in ALL if (row, extension) not in without]
        members = [(f"{row:05d}.{name}", changed.get(f"{name}{row}", ALL[name])) for row, name in files]
        write_tar(folder / f"{shard:05d}.tar", *members)
    return folder


def indexed(folder, *fields, **options):
    told = []
    index(folder, selection=Selection(label="none", fields=fields), finish=told.append, **options)
    return Catalog.open(folder), told[0]


def test_fields_are_taken_where_they_are(tmp_path):
    catalog, told = indexed(shards(tmp_path, without={(1, "txt"), (4, "seg.png")}), "txt", ".SEG.PNG")
    assert catalog.fields == ("txt", "seg.png") and told.fields == {"txt": 5, "seg.png": 5}
    assert [line.partition(":")[0] for line in told.left_out.lines] == ["6 members .json"]
    for name in catalog.fields:
        columns = catalog.field_columns[name]
        missing = 1 if name == "txt" else 4
        assert np.flatnonzero(columns.offset < 0).tolist() == [missing] and columns.size[missing] == 0
        for row in set(range(6)) - {missing}:
            data = catalog.shard_path(catalog.shard[row]).read_bytes()[columns.offset[row] :][: columns.size[row]]
            assert data == (ALL[name].encode() if name == "txt" else PNG)
    assert verify(catalog) == []
    assert indexed(tmp_path, "txt", "seg.png", workers=2, overwrite=True)[0].field_columns["txt"].offset.tolist() == (
        catalog.field_columns["txt"].offset.tolist()
    )


def test_without_fields_it_is_the_same_catalog(tmp_path):
    fingerprint = indexed(shards(tmp_path), "txt")[0].fingerprint
    catalog, told = indexed(tmp_path, overwrite=True)
    assert catalog.fields == () and catalog.fingerprint == fingerprint and told.fields == {}


def test_a_png_beside_a_jpg_can_be_a_field(tmp_path):
    write_tar(tmp_path / "a.tar", ("0.jpg", JPG), ("0.png", PNG))
    refused("must have one image", indexed, tmp_path)
    catalog, _ = indexed(tmp_path, "png")
    assert catalog.fields == ("png",) and catalog.encodings.tolist() == ["jpeg"] and verify(catalog) == []


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        (("",), "a field is named by its extension, such as txt, json or seg.png, but got ''"),
        (("txt", ".TXT"), "field 'txt' is named twice"),
        (("a/b",), "a field is named by its extension"),
        (("cap",), r"no sample has a member \.cap, but they have \.json, \.seg\.png, \.txt: leave it out"),
        (("jpg",), r"must have one image .*but got \.jpg"),
    ],
)
def test_fields_that_cannot_be(tmp_path, fields, text):
    shards(tmp_path)
    refused(text, lambda: indexed(tmp_path, *fields))
    assert not (tmp_path / "catalog.parquet").exists()


def test_a_field_is_not_the_image():
    refused(r"\.jpg cannot be both the image and a field", lambda: Selection(image=("jpg",), fields=("jpg",)))


def test_the_command_takes_fields(tmp_path):
    result = cli("index", shards(tmp_path), "--label", "none", "--fields", "txt,json", "--fields", "seg.png")
    assert "6 images in 2 shards, no labels" in result and ".txt of 6; .json of 6; .seg.png of 6" in result
    assert json.loads((tmp_path / "catalog.json").read_text())["fields"] == {"txt": 6, "json": 6, "seg.png": 6}
    assert Catalog.open(tmp_path).fields == ("txt", "json", "seg.png")


def damage(catalog, row, name, data, at=0):
    with catalog.shard_path(catalog.shard[row]).open("r+b") as file:
        file.seek(int(catalog.field_columns[name].offset[row]) + at)
        file.write(data)


def test_verify_finds_damaged_fields(tmp_path):
    catalog, _ = indexed(shards(tmp_path, txt1=b"caf\xe9", json2='{"a": '), "txt", "json", "seg.png")
    findings = verify(catalog)
    assert [(each.kind, each.row) for each in findings] == [("decode", 1), ("decode", 2)]
    assert ".txt must be UTF-8, but has byte 0xe9 at 3" in findings[0].message
    assert ".json must be JSON, but has '{\"a\": '" in findings[1].message
    assert verify(catalog, pixels=False) == []
    damage(catalog, 4, "txt", b"E")
    damage(catalog, 5, "seg.png", b"seg.pnx", at=-512 + len("00005."))
    found = [(each.kind, each.row) for each in verify(catalog, pixels=False)]
    assert found == [("header", None), ("checksum", 4), ("member", 5)]


def test_values():
    assert decode_value("txt", b"\xef\xbb\xbfhi") == "hi"
    assert decode_value("a.json", b'{"a": [1, {"b": null}]}') == {"a": [1, {"b": None}]}
    assert decode_value("cls", b"7") == b"7"
    for array in (np.zeros((0, 4), np.float32), np.arange(6).reshape(2, 3), np.array(3.5)):
        found = decode_value("x.npy", encode_value("x.npy", array))
        assert np.array_equal(found, array) and found.dtype == array.dtype
    assert encode_value("txt", "ß") == "ß".encode() and encode_value("bin", b"\0") == b"\0"
    assert json.loads(encode_value("json", {"ß": [1]})) == {"ß": [1]}
    refused(r"\.txt must be UTF-8, but has byte 0xff at 5", decode_value, "txt", b"\xef\xbb\xbfab\xff")


@pytest.mark.parametrize("data", [b"", b"\x93NUMPY", b"no array", b"PK\x03\x04"])
def test_what_is_no_array_is_refused(data):
    refused(r"\.npy must be an array as np.save writes it, but is no array", decode_value, "npy", data)


def test_pickles_are_refused(tmp_path):
    np.save(tmp_path / "a.npy", np.array([{"a": 1}]), allow_pickle=True)
    refused("which needs pickle", decode_value, "npy", (tmp_path / "a.npy").read_bytes())
    refused(r"\.npy cannot hold", encode_value, "npy", [{"a": 1}])


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("txt", 3, r"\.txt cannot hold '3': give its bytes"),
        ("json", {1, 2}, r"\.json cannot hold"),
        ("seg.png", np.zeros((2, 2, 3), np.uint8), r"pixels must be integers \(height, width\)"),
        ("seg.png", np.full((2, 2), -1), "pixels must lie in 0 … 65535, but got -1 … -1"),
    ],
)
def test_values_of_other_types_are_refused(name, value, text):
    refused(text, encode_value, name, value)


def test_paths_in_json():
    value = {"a": [{"b": 5}], "c": None}
    assert follow(value, "a.0.b") == 5 and follow(value, "c") is None
    refused("JSON must have a key 'x', but its keys are 'a', 'c'", follow, value, "x")
    refused("JSON must have a key '1', but its keys are none", follow, value, "a.1")


def test_joined_catalogs_have_the_fields_of_all(tmp_path):
    for name, fields in (("a", ("txt",)), ("b", ("seg.png", "txt")), ("c", ())):
        (tmp_path / name).mkdir()
        indexed(shards(tmp_path / name), *fields)
    joined = Catalog.open(*(tmp_path / name for name in "abc"))
    assert joined.fields == ("txt", "seg.png")
    present = {name: (columns.offset >= 0).reshape(3, 6) for name, columns in joined.field_columns.items()}
    assert present["txt"].all(1).tolist() == [True, True, False] and not present["txt"][2].any()
    assert present["seg.png"].all(1).tolist() == [False, True, False] and not present["seg.png"][0].any()
    assert verify(joined) == []
