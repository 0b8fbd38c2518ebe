"""The stream benchmark: its rows, and that it measures what it says."""

import json
from itertools import product

import pytest
import torch

import drawstream.tools.bench.stream as bench
from drawstream.tools.bench.stream import missing_systems, run_stream
from shared.programs import cli

KEYS = {"system", "mode", "rows", "draws_per_second", "setup_seconds", "peak_bytes", "seek_seconds", "seed"}


def test_rows_and_table_of_two_seeds(tmp_path):
    threads, path = torch.get_num_threads(), tmp_path / "result.json"
    shown = cli("bench", "stream", "--rows", "1e3", "--rounds", 1, "--seeds", "0,1", "--json", path)
    assert torch.get_num_threads() == threads
    table = json.loads(path.read_text())["rows"]
    assert all(set(row) == KEYS and row["rows"] == 1000 for row in table)
    ours = [(row["mode"], row["seed"]) for row in table if row["system"] == "drawstream"]
    assert sorted(ours) == sorted(product(["permutation", "stratified", "multinomial", "subset"], [0, 1]))
    assert {row["system"] for row in table} >= {"torch.multinomial", "WeightedRandomSampler", "torch.randperm"}
    assert all(row["draws_per_second"] > 0 and row["setup_seconds"] > 0 for row in table)
    assert all((row["seek_seconds"] is None) == (row["system"] != "drawstream") for row in table)
    assert [line.split()[0] for line in shown.splitlines()].count("drawstream") == len(ours)
    assert len([line for line in shown.splitlines() if "not installed" not in line]) == len(table) + 2


def test_who_is_missing_is_told(monkeypatch):
    monkeypatch.setattr(bench, "find_spec", lambda name: name == "spdl")
    assert missing_systems([1000, 1 << 24]) == []
    too_many = missing_systems([(1 << 24) + 1])
    assert [each["system"] for each in too_many] == ["torch.multinomial", "WeightedRandomSampler"]
    with pytest.raises(RuntimeError):
        torch.multinomial(torch.ones(too_many[0]["rows"]), 1)
    monkeypatch.setattr(bench, "find_spec", lambda name: None)
    missing = missing_systems([1000])
    assert {(each["system"], each["reason"]) for each in missing} == {
        ("spdl.DistributedRandomSampler", "not installed")
    }
    measured = {row["system"] for row in run_stream([1000], rounds=1, show=False)}
    assert not measured & {each["system"] for each in missing}
