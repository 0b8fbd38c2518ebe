"""The main job from images to a better model, on digits with label noise, in small."""

import json
from dataclasses import replace

import pytest

from drawstream.samplers.swift import SwiftSampler
from drawstream.tools import demo
from drawstream.tools.cli.app import main
from drawstream.tools.training.loop import Recipe


@pytest.fixture
def small(monkeypatch):
    """The demo's plan for digits with a shorter search."""
    plan = replace(demo.PLANS["digits"], recipe=Recipe(25, 0.05), trials=8)
    monkeypatch.setitem(demo.PLANS, "digits", plan)


def test_demo_beats_uniform_and_goes_on_where_it_was(small, tmp_path, capsys):
    command = ["demo", "--seeds", "5", "-o", str(tmp_path / "d"), "--json", str(tmp_path / "d.json")]
    assert main(command) == 0
    shown = capsys.readouterr().out
    result = json.loads((tmp_path / "d.json").read_text())
    assert result["data"] == "digits"
    assert result["noise"] == 0.4
    rows = {row["method"]: row for row in result["rows"]}
    assert set(rows) == {"uniform", "swift"}
    for row in rows.values():
        assert {"method", "seed", "last", "best", "seconds"} <= set(row)
        assert f"{row['last']:.2f}" in shown
    assert rows["swift"]["last"] > rows["uniform"]["last"] + 4
    assert rows["swift"]["guard"]["p"] < 0.05
    assert "the sampler's model is better: of the held-out images" in shown
    page = (tmp_path / "d/report.html").read_text()
    assert "uniform" in page
    assert page.startswith("<!")

    sampler = tmp_path / "d/seed-5/search/sampler.json"
    assert SwiftSampler.load(sampler).provenance["search"]["trials"] == 8
    seen = {p: p.stat().st_mtime_ns for p in (tmp_path / "d/seed-5").rglob("*.safetensors")}
    assert len(seen) == 4
    assert main(command) == 0  # finished work is kept
    assert json.loads((tmp_path / "d.json").read_text())["rows"] == result["rows"]
    assert {p: p.stat().st_mtime_ns for p in seen} == seen


@pytest.mark.slow
def test_demo_digits_in_full(tmp_path):
    assert main(["demo", "-o", str(tmp_path / "d"), "--json", str(tmp_path / "d.json")]) == 0
    rows = json.loads((tmp_path / "d.json").read_text())["rows"]
    mean = {
        (method, key): sum(row[key] for row in rows if row["method"] == method) / 3
        for method in ("uniform", "swift")
        for key in ("last", "best")
    }
    assert mean["swift", "last"] >= mean["uniform", "last"] + 10
    assert mean["swift", "last"] > mean["uniform", "best"]
