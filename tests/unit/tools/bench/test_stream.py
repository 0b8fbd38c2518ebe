"""The stream benchmark: its rows, and that it measures what it says."""

import pytest
import torch

import drawstream.tools.bench.stream as bench
from drawstream.tools.bench.stream import missing_systems, run_stream

KEYS = {"system", "mode", "rows", "draws_per_second", "setup_seconds", "peak_bytes", "seek_seconds"}


def test_rows_and_table(capsys):
    threads = torch.get_num_threads()
    table = run_stream([3000], rounds=1)
    assert torch.get_num_threads() == threads
    assert all(set(row) == KEYS for row in table)
    ours = {row["mode"] for row in table if row["system"] == "drawstream"}
    assert ours == {"permutation", "stratified", "multinomial", "subset"}
    assert {row["system"] for row in table} >= {"torch.multinomial", "WeightedRandomSampler", "torch.randperm"}
    assert all(row["draws_per_second"] > 0 and row["setup_seconds"] > 0 for row in table)
    assert all((row["seek_seconds"] is None) == (row["system"] != "drawstream") for row in table)
    assert len(capsys.readouterr().out.splitlines()) == len(table) + 1


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
