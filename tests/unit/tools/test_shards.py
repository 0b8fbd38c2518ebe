"""`drawstream index` and `drawstream verify`: what they print, write, and exit with."""

import json
import re
import shutil
import sys

import pyarrow.parquet as pq
import pytest

from drawstream.pipeline.reading.quarantine import read_quarantine
from drawstream.pipeline.shards import Catalog
from drawstream.tools.cli import doctor
from drawstream.tools.cli.app import main
from shared.programs import cli
from shared.samples import overwrite


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
    overwrite(catalog, 107, at=0)
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
    meta = {b"drawstream": table.schema.metadata[b"drawstream"].replace(b'"format": 3', b'"format": 99')}
    pq.write_table(table.replace_schema_metadata(meta), data / "catalog.parquet")
    status, _, err = run("verify", data)
    assert status == 2 and "upgrade drawstream" in err[0]


def test_index_says_how_many_and_how_fast(run, data, tmp_path):
    status, out, err = run("index", data, "-o", tmp_path / "new", "--workers", "1")
    assert (status, out) == (0, [f"500 images in 5 shards, 10 classes: {tmp_path / 'new' / 'catalog.parquet'}"])
    assert re.fullmatch(r"index: 5 shards in .* s, 500 samples, \d+ a second", err[-1])
    assert Catalog.open(tmp_path / "new").fingerprint == Catalog.open(data).fingerprint


# `drawstream doctor`: what works is said to work, what does not is named with a remedy


def verdicts(checks):
    return {check.name: check.verdict for check in checks}


def test_a_sound_machine_and_catalog(digits, tmp_path):
    out = cli("doctor", digits.train, "--json", tmp_path / "d.json").splitlines()
    found = json.loads((tmp_path / "d.json").read_text())
    assert found["bad"] == 0 and out[-1] == "all is well"
    texts = {check["name"]: check["text"] for check in found["checks"]}
    assert texts["catalog"].startswith("500 images in 5 shards")
    assert "images a second" in texts["loader"] and "MB a second" in texts["disk speed"]
    assert len(out) == len(found["checks"]) + 1


def test_a_damaged_image_is_found(digits, tmp_path, capsys):
    data = shutil.copytree(digits.train, tmp_path / "data")
    catalog = Catalog.open(data)
    overwrite(catalog, 107, at=0)
    assert main(["doctor", str(data)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("BAD") and catalog.key(107) in line and "drawstream verify" in line for line in lines)
    assert lines[-1].endswith("1 bad")


def test_a_missing_catalog_is_bad(tmp_path):
    found = list(doctor.examine(str(tmp_path / "none")))
    assert found[-1].name == "catalog" and found[-1].verdict == "bad" and "drawstream pack" in found[-1].text


def test_without_dali(monkeypatch):
    monkeypatch.setitem(sys.modules, "nvidia.dali", None)
    found = {check.name: check for check in doctor.examine()}
    assert found["DALI"].verdict == "note" and "decoded by Pillow" in found["DALI"].text
    assert "drawstream[cuda13]" in found["DALI"].text


def test_two_builds_of_dali_are_one_too_many(monkeypatch):
    known = doctor.version
    monkeypatch.setattr(doctor, "version", lambda name: "2.4.0" if name in doctor.BUILDS else known(name))
    (check,) = [check for check in doctor._packages() if check.name == "DALI"]
    assert check.verdict == "bad"
    assert "uninstall both" in check.text


def test_missing_packages(monkeypatch):
    monkeypatch.setattr(doctor, "REQUIRED", ("numpy", "no-such-package"))
    monkeypatch.setattr(doctor, "OPTIONAL", {"no-such-extra": "a thing: pip install it"})
    found = verdicts(doctor.examine())
    assert found["no-such-extra"] == "note"
    assert any(check.verdict == "bad" and "no-such-package" in check.text for check in doctor.examine())


def test_little_disk_is_said(monkeypatch, tmp_path):
    usage = shutil.disk_usage(tmp_path)._replace(free=1 << 30)
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: usage)
    assert verdicts(doctor.examine())["disk"] == "note"


@pytest.mark.gpu
def test_dali_runs_on_the_gpu():
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    assert verdicts(doctor.examine())["DALI gpu"] == "ok"
