"""The list of rows that must not be used: what goes in comes out, and other lists are refused."""

import json

import numpy as np
import pytest

from drawstream.pipeline.reading.quarantine import Finding, read_quarantine, write_quarantine
from drawstream.pipeline.shards.catalog import Catalog
from drawstream.pipeline.shards.pack import pack
from drawstream.pipeline.sources.source import ArraySource


@pytest.fixture(scope="module")
def catalog(tmp_path_factory):
    images = np.random.default_rng(0).integers(0, 256, (60, 8, 8), dtype=np.uint8)
    out = tmp_path_factory.mktemp("q") / "out"
    return Catalog.open(pack(ArraySource(images, np.arange(60) % 3), out, shard_rows=20).train)


def row(kind, number, message="m"):
    return Finding(kind, number // 20, number, None, message)


def test_rows_come_back_sorted_and_once(catalog, tmp_path):
    path = tmp_path / "new" / "quarantine.json"
    findings = [row("checksum", 33, "first"), row("decode", 5), row("label", 33, "second")]
    findings += [
        Finding("bytes", 1, None, None, "a hash alone speaks against no row"),
        Finding("extra", 1, None, "x", "m"),
    ]
    assert write_quarantine(path, catalog, findings) == 2
    rows = read_quarantine(path, catalog)
    assert rows.tolist() == [5, 33] and rows.dtype == np.int64
    content = json.loads(path.read_text())
    assert content["format"] == 1 and content["catalog"] == catalog.fingerprint
    assert content["rows"][1] == {
        "row": 33,
        "key": catalog.key(33),
        "shard": "shard-000001.tar",
        "kind": "checksum",
        "message": "first",
    }
    assert [file.name for file in path.parent.iterdir()] == ["quarantine.json"]


@pytest.mark.parametrize("kind", ["missing", "unreadable", "swapped", "not-a-tar"])
def test_all_rows_of_a_lost_shard(catalog, tmp_path, kind):
    path = tmp_path / "q.json"
    assert write_quarantine(path, catalog, [Finding(kind, 2, None, None, "m")]) == 20
    assert read_quarantine(path, catalog).tolist() == list(range(40, 60))


def test_an_empty_list(catalog, tmp_path):
    assert write_quarantine(tmp_path / "q.json", catalog, []) == 0
    assert read_quarantine(tmp_path / "q.json", catalog).shape == (0,)


def test_another_catalogs_list_is_refused(catalog, tmp_path):
    other = Catalog.open(pack(ArraySource(np.zeros((9, 4, 4), np.uint8), np.arange(9) % 3), tmp_path / "o").train)
    write_quarantine(tmp_path / "q.json", other, [])
    with pytest.raises(
        ValueError, match=f"list of catalog {other.fingerprint}, but .* is {catalog.fingerprint}: verify"
    ):
        read_quarantine(tmp_path / "q.json", catalog)


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
def test_other_files_are_refused_in_one_line(catalog, tmp_path, text, message):
    file = tmp_path / "q.json"
    file.write_bytes(text.replace("FP", catalog.fingerprint).encode("latin-1"))
    with pytest.raises(ValueError, match=message) as caught:
        read_quarantine(file, catalog)
    assert str(file) in str(caught.value) and "\n" not in str(caught.value)


def test_a_missing_list_says_how_to_make_it(catalog, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no such file: write it with `drawstream verify CATALOG --quarantine"):
        read_quarantine(tmp_path / "none.json", catalog)
