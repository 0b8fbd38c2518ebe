"""`drawstream index` and `drawstream verify`: what they print, write, and exit with."""

import json
import re
import shutil

import pyarrow.parquet as pq
import pytest

from drawstream.pipeline.reading.quarantine import read_quarantine
from drawstream.pipeline.shards import Catalog
from drawstream.tools.cli.app import main


@pytest.fixture
def run(capsys):
    """Run a command; give its exit status, the lines on stdout and those on stderr."""

    def act(*arguments):
        capsys.readouterr()
        status = main([str(a) for a in arguments])
        out, err = capsys.readouterr()
        return status, out.splitlines(), err.splitlines()

    return act


@pytest.fixture
def data(digits, tmp_path):
    return shutil.copytree(digits.train, tmp_path / "data")


def test_a_whole_catalog(run, data, tmp_path):
    listed, result = tmp_path / "q.json", tmp_path / "v.json"
    status, out, err = run("verify", data, "--quarantine", listed, "--json", result, "--workers", "1")
    assert (status, out) == (0, [f"500 images checked, 0 findings; 0 images not to be used: {listed}"])
    assert re.fullmatch(r"verify: 500 images in .* s", err[-1])
    assert read_quarantine(listed, Catalog.open(data)).tolist() == []
    written = json.loads(result.read_text())
    assert written.pop("command")[0] == "drawstream"
    assert written == {"findings": [], "notes": [], "rows": 500, "quarantine": str(listed), "quarantined": 0}


@pytest.mark.parametrize("options", [(), ("--quick",)])
def test_all_damage_is_listed_a_line_each(run, data, tmp_path, options):
    catalog = Catalog.open(data)
    (data / "shard-000003.tar").unlink()
    tar = data / "shard-000001.tar"
    content = bytearray(tar.read_bytes())
    content[int(catalog.offset[107])] ^= 1
    tar.write_bytes(content)
    listed = tmp_path / "q.json"
    status, out, _ = run("verify", data, "--quarantine", listed, *options)
    assert status == 1 and len(out) == 4
    assert "shard-000001.tar: hash must be" in out[0]
    assert f"shard-000001.tar: sample {catalog.key(107)!r} (row 107): checksum must be" in out[1]
    assert "shard-000003.tar: shard is missing" in out[2]
    assert out[3] == f"500 images checked, 3 findings; 101 images not to be used: {listed}"
    opened = Catalog.open_rows(data)
    assert read_quarantine(listed, opened).tolist() == [107, *range(300, 400)]


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-300],
        lambda data: data.replace(b'"channels": 1', b'"channels": 3'),
        lambda data: b"no Parquet at all",
        lambda data: b"",
    ],
    ids=["cut", "metadata", "text", "empty"],
)
def test_an_altered_catalog_is_damage(run, data, tmp_path, damage):
    file = data / "catalog.parquet"
    file.write_bytes(damage(file.read_bytes()))
    status, out, err = run("verify", data, "--json", tmp_path / "v.json", "--quarantine", tmp_path / "q.json")
    assert status == 1 and not err
    assert len(out) == 2 and str(file) in out[0] and out[1] == "nothing checked: the catalog is damaged"
    assert json.loads((tmp_path / "v.json").read_text())["findings"][0]["kind"] == "catalog"
    assert not (tmp_path / "q.json").exists()


def test_nothing_to_check_is_bad_input(run, data, tmp_path):
    for arguments, text in (
        (("verify", tmp_path / "none"), "no such catalog: make one with"),
        (("verify", tmp_path), "no catalog.parquet in this folder"),
        (("verify", data, "--workers", "0"), "--workers"),
    ):
        status, out, err = run(*arguments)
        assert status == 2 and not out and len(err) == 1 and text in err[0]


def test_a_newer_format_is_no_damage(run, data):
    table = pq.read_table(data / "catalog.parquet")
    meta = {b"drawstream": table.schema.metadata[b"drawstream"].replace(b'"format": 3', b'"format": 4')}
    pq.write_table(table.replace_schema_metadata(meta), data / "catalog.parquet")
    status, _, err = run("verify", data)
    assert status == 2 and "upgrade drawstream" in err[0]


def test_index_says_how_many_and_how_fast(run, data, tmp_path):
    status, out, err = run("index", data, "-o", tmp_path / "new", "--workers", "1")
    assert (status, out) == (0, [f"500 images in 5 shards, 10 classes: {tmp_path / 'new' / 'catalog.parquet'}"])
    assert re.fullmatch(r"index: 5 shards in .* s, 500 samples, \d+ a second", err[-1])
    assert Catalog.open(tmp_path / "new").fingerprint == Catalog.open(data).fingerprint
