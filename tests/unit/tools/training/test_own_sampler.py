"""`--sampler module:factory`: what it is given, what it draws, that it learns and goes on, and what is refused."""

import json
import re
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from drawstream.samplers.orders import IndexStream
from drawstream.tools.cli.app import main
from drawstream.tools.training.methods.own_sampler import own_plan
from drawstream.tools.training.methods.plan import Budget, Inputs
from drawstream.tools.training.methods.sampling import is_own

SOURCE = """
from pathlib import Path

import numpy as np

class Rare:
    def __init__(self, labels):
        self.weights = 1 / np.bincount(labels)[labels]

    def probabilities(self, epoch):
        return self.weights

class Learns:
    def __init__(self, rows, epochs, seed, table):
        self.seen = np.zeros(rows, np.int64)
        self.last = np.float64(0)
        self.given = epochs, seed, table

    def probabilities(self, epoch):
        return 1.0 / (1 + self.seen)

    def observe(self, ids, logits, labels, weights=None):
        np.add.at(self.seen, np.asarray(ids), 1)

    def reduce(self, total=None):
        self.last = np.float64(self.seen.sum())
        if self.last > 900 and Path("kill").exists():
            raise KeyboardInterrupt

    def state_dict(self):
        return {"seen": self.seen, "last": self.last}

    def load_state_dict(self, state):
        self.seen, self.last = state["seen"].copy(), state["last"]

class Half(Rare):
    def observe(self, ids, logits, labels, weights=None):
        pass

class Short:
    def probabilities(self, epoch):
        return np.ones(3)

class Odd:
    def probabilities(self, epoch):
        return {"a": 1.0}

class Nothing:
    pass

def needs(what):
    return Rare(what)

number = 3
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """Name of a module in the working folder."""
    name = f"own_{abs(hash(tmp_path)):x}"
    (tmp_path / f"{name}.py").write_text(textwrap.dedent(SOURCE))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return name


def train(digits, name, out, *options):
    base = ["train", str(digits.train), "-o", out, "--model", "mlp", "--global-batch", "50", "--epochs", "3"]
    return main([*base, "--sampler", name, *options])


def test_its_weights_are_what_is_drawn(mine):
    labels = np.repeat([0, 1, 2], [80, 15, 5])
    made = own_plan(Inputs(name=f"{mine}:Rare", rows=100, epochs=4, budget=Budget(0.6), labels=lambda: labels, seed=3))
    assert made.epochs == 4 and made.parts.learner is None
    expected = IndexStream(1 / np.bincount(labels)[labels], draws=60, seed=3)
    np.testing.assert_array_equal(made.stream.epoch(1)[:], expected.epoch(1)[:])
    assert np.bincount(labels[made.stream.epoch(1)[:]]).tolist() == [20, 20, 20]


def test_one_that_learns_is_part_of_the_run_and_of_its_checkpoint(mine, digits):
    assert train(digits, f"{mine}:Learns", "whole") == 0
    Path("kill").touch()
    assert train(digits, f"{mine}:Learns", "cut") == 130  # in the second epoch
    Path("kill").unlink()
    assert train(digits, f"{mine}:Learns", "cut") == 0
    whole, cut = (load_file(f"{out}/last.safetensors") for out in ("whole", "cut"))
    assert all(torch.equal(whole[key], cut[key]) for key in whole)
    record = json.loads(Path("whole/run.json").read_text())
    assert record["method"] == f"{mine}:Learns" and record["sampling"]["name"] == f"{mine}:Learns"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Nothing", "Nothing has no method probabilities"),
        ("Half", "reduce, state_dict, load_state_dict is missing"),
        ("Short", "weights of 3 rows, but the catalog has 500"),
        ("Odd", r"what probabilities\(epoch\) gives: weights must be numbers \(rows,\), but got dict"),
        ("needs", "missing 1 required positional argument: 'what': it is called with those of rows, labels"),
        ("number", "must name a factory, but number is int"),
        ("Absent", "cannot be imported: .*Absent"),
    ],
)
def test_what_does_not_fit_is_one_line(mine, digits, capsys, name, message):
    assert train(digits, f"{mine}:{name}", "run") == 2
    text = capsys.readouterr().err
    assert text.count("\n") == 1 and re.search(message, text)


def test_names_of_files_and_methods_are_not_taken_for_it():
    assert is_own("mine:Rare") and is_own("package.module:factory")
    assert not any(is_own(name) for name in ("p", "search/sampler.json", "weights.npy", "a/b:c", "coreset-random"))
