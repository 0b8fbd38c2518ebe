"""`drawstream doctor`: what works is said to work, what does not is named with a remedy."""

import json
import shutil
import sys

import pytest

from drawstream.pipeline.shards import Catalog
from drawstream.tools.cli import doctor
from drawstream.tools.cli.app import main


def verdicts(checks):
    return {check.name: check.verdict for check in checks}


def test_a_sound_machine_and_catalog(digits, tmp_path, capsys):
    assert main(["doctor", str(digits.train), "--json", str(tmp_path / "d.json")]) == 0
    out = capsys.readouterr().out.splitlines()
    found = json.loads((tmp_path / "d.json").read_text())
    assert found["bad"] == 0 and out[-1] == "all is well"
    texts = {check["name"]: check["text"] for check in found["checks"]}
    assert texts["catalog"].startswith("500 images in 5 shards")
    assert "images a second" in texts["loader"] and "MB a second" in texts["disk speed"]
    assert len(out) == len(found["checks"]) + 1


def test_a_damaged_image_is_found(digits, tmp_path, capsys):
    data = shutil.copytree(digits.train, tmp_path / "data")
    catalog = Catalog.open(data)
    tar = data / "shard-000001.tar"
    content = bytearray(tar.read_bytes())
    content[int(catalog.offset[107])] ^= 1
    tar.write_bytes(content)
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
    assert found["DALI"].verdict == "bad" and "drawstream[cuda13]" in found["DALI"].text


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
