"""Extraction in processes of its own: SIGKILL at random points, a disk that is full, shards divided among ranks."""

import json
import random
import resource
import time
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from drawstream import Catalog, FeatureTable
from drawstream.features import extract_features as extract
from drawstream.features.table import part_path
from drawstream.samplers.swift import SwiftSampler
from drawstream.tools import demo
from drawstream.tools.cli.app import main
from drawstream.tools.training import build_model
from drawstream.tools.training.loop import Recipe
from shared.processes import finish, kill, run, start, torchrun
from shared.programs import cli
from shared.samples import pack_digits

SHARDS = 8
EXTRACT = """
import sys, time
from pathlib import Path
import torch
from torch import nn
from drawstream.features import extract_features as extract
from drawstream import Catalog

folder, out, pause, crops = Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4])
torch.manual_seed(0)
torch.set_num_threads(1)
model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
catalog = Catalog.open(folder)
print("ready", flush=True)
options = {"batch_size": 50, "crops": crops or None, "progress": lambda _: time.sleep(pause)}
extract(catalog, model, out, model_name="mlp", **options)
"""


@pytest.fixture(scope="module")
def catalog(tmp_path_factory):
    return pack_digits(tmp_path_factory.mktemp("extract") / "d", 800, shard_rows=800 // SHARDS).train


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "mlp.safetensors"
    save_file(build_model("mlp", num_classes=10, channels=1, size=(8, 8), seed=0).state_dict(), path)
    return path


def extract_here(catalog, out, crops):
    """The same extraction in this process."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    return extract(Catalog.open(catalog), model, out, model_name="mlp", batch_size=50, crops=crops or None)


def start_extraction(catalog, out, *, crops, pause=0.0):
    process = start("-W", "error", "-c", EXTRACT, catalog, out, pause, crops)
    assert process.stdout.readline() == "ready\n"
    return process


def parts(folder):
    """The bytes of everything in the folder; the record of the command, which differs, lies beside it."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize(
    ("kills", "crops"), [(1, 2), *(pytest.param(20, crops, marks=pytest.mark.slow) for crops in (0, 2))]
)
def test_killed_extraction_gives_the_same_bytes(catalog, tmp_path, one_thread, kills, crops):
    extract_here(catalog, tmp_path / "whole", crops)
    whole = parts(tmp_path / "whole")
    assert len(whole) == SHARDS
    chance, counts = random.Random(kills), []
    for _ in range(kills):
        process = start_extraction(catalog, tmp_path / "killed", crops=crops, pause=0.05)
        time.sleep(chance.uniform(0, 2.4 / kills))
        kill(process)
        there = parts(tmp_path / "killed") if (tmp_path / "killed").exists() else {}
        counts.append(sum(name.startswith("part-") for name in there))
        for name, data in there.items():  # a part that is there is whole
            assert name.startswith(".") or data == whole[name]
    assert counts == sorted(counts)
    assert finish(start_extraction(catalog, tmp_path / "killed", crops=crops))[1] == ""
    assert parts(tmp_path / "killed") == whole


def command(catalog, weights, out):
    """Arguments of the command line."""
    return ["features", str(catalog), "-o", str(out), "--model", "mlp", "--weights", str(weights), "--crops", "2"]


def test_a_full_disk_leaves_no_broken_part_and_one_line(catalog, weights, tmp_path, capsys):
    """A bound on the file size stands for the full disk: a write fails in the middle of a part."""
    out = tmp_path / "f"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, hard))
    try:
        status = main(command(catalog, weights, out))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert status == 2
    line = f"drawstream: {part_path(out, 0)}: File too large: free some space and start the same command again\n"
    assert capsys.readouterr().err == line
    assert parts(out) == {}
    assert main(command(catalog, weights, out)) == 0
    assert len(FeatureTable.open(out)) == 1600


def test_ranks_divide_the_missing_shards(catalog, weights, tmp_path, one_thread):
    assert main(command(catalog, weights, tmp_path / "alone")) == 0
    whole = parts(tmp_path / "alone")
    shared = tmp_path / "shared"
    shared.mkdir()
    kept = part_path(shared, 3)
    kept.write_bytes(whole[kept.name])
    inode = kept.stat().st_ino
    words = ["-m", "drawstream.tools.cli", *command(catalog, weights, shared), "--json", tmp_path / "r.json"]
    told, errors = run(*torchrun(2, *words))
    assert parts(shared) == whole and kept.stat().st_ino == inode
    assert told.count("1600 rows") == 1 and errors.count("features: ") == 1  # rank 0 speaks
    assert json.loads((tmp_path / "r.json").read_text())["rows"] == 1600


# The main job from images to a better model, on digits with label noise, in small


@pytest.fixture
def small(monkeypatch):
    """The demo's plan for digits with a shorter search."""
    plan = replace(demo.PLANS["digits"], recipe=Recipe(25, 0.05), trials=8)
    monkeypatch.setitem(demo.PLANS, "digits", plan)


def test_demo_beats_uniform_and_goes_on_where_it_was(small, tmp_path):
    command = ["demo", "--seeds", "5", "-o", str(tmp_path / "d"), "--json", str(tmp_path / "d.json")]
    shown = cli(*command)
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
