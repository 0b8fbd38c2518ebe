"""`--sampler module:factory`: what it is given, what it draws, that it learns and goes on, and what is refused."""

import json
import re
import textwrap
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from drawstream import Catalog, FeatureTable, SwiftSampler, map_weights
from drawstream.samplers.orders import IndexStream
from drawstream.tools.cli.stream_source import StreamOptions
from drawstream.tools.training import Ranks, carry
from drawstream.tools.training.methods import Sampling
from drawstream.tools.training.methods.own_sampler import own_plan
from drawstream.tools.training.methods.plan import Budget, Inputs
from drawstream.tools.training.methods.sampling import is_own
from shared.programs import cli
from shared.samples import write_table

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


def command(digits, name, out):
    base = ["train", digits.train, "-o", out, "--model", "mlp", "--global-batch", 50, "--epochs", 3]
    return [*base, "--sampler", name]


def test_its_weights_are_what_is_drawn(mine):
    labels = np.repeat([0, 1, 2], [80, 15, 5])
    made = own_plan(Inputs(name=f"{mine}:Rare", rows=100, epochs=4, budget=Budget(0.6), labels=lambda: labels, seed=3))
    assert made.epochs == 4 and made.parts.learner is None
    expected = IndexStream(1 / np.bincount(labels)[labels], draws=60, seed=3)
    np.testing.assert_array_equal(made.stream.epoch(1)[:], expected.epoch(1)[:])
    assert np.bincount(labels[made.stream.epoch(1)[:]]).tolist() == [20, 20, 20]


def test_one_that_learns_is_part_of_the_run_and_of_its_checkpoint(mine, digits):
    cli(*command(digits, f"{mine}:Learns", "whole"))
    Path("kill").touch()
    cli(*command(digits, f"{mine}:Learns", "cut"), status=130)  # in the second epoch
    Path("kill").unlink()
    cli(*command(digits, f"{mine}:Learns", "cut"))
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
def test_what_does_not_fit_is_one_line(mine, digits, name, message):
    text = cli(*command(digits, f"{mine}:{name}", "run"), status=2)
    assert text.count("\n") == 1 and re.search(message, text)


def test_names_of_files_and_methods_are_not_taken_for_it():
    assert is_own("mine:Rare") and is_own("package.module:factory")
    assert not any(is_own(name) for name in ("p", "search/sampler.json", "weights.npy", "a/b:c", "coreset-random"))


# Samplers over another table than their own, in `fit --like`, in training and in streams


@pytest.fixture(scope="module")
def catalog(digits):
    return Catalog.open(digits.train)


@pytest.fixture(scope="module")
def tables(catalog, tmp_path_factory):
    """Feature tables of one catalog by three models: `a`, `b` (another scale), and `poor` (no grad_norm)."""
    root = tmp_path_factory.mktemp("tables")
    for scale, name in enumerate(("a", "b", "poor"), start=1):
        drawn = (scale**3 * np.random.default_rng(scale).gamma(0.5, size=(3, len(catalog)))).astype(np.float32)
        features = dict(zip(("loss", "entropy", "grad_norm"), drawn, strict=True))
        if name == "poor":
            del features["grad_norm"]
        write_table(root / name, catalog, features, model=name)
    cli("fit", root / "a", "-o", root / "a.json")
    return root


def test_training_refits_by_default(tables, catalog):
    setup = SimpleNamespace(data=catalog, ranks=Ranks())
    other, sampler = FeatureTable.open(tables / "b"), SwiftSampler.load(tables / "a.json")
    columns = other.columns("loss", "entropy", "grad_norm")
    frozen = Sampling(tables / "a.json", tables / "b", frozen=True).probabilities(setup)
    refitted = Sampling(tables / "a.json", tables / "b").probabilities(setup)
    np.testing.assert_array_equal(frozen, sampler.probabilities(columns))
    np.testing.assert_array_equal(refitted, carry(sampler, other).probabilities(columns))
    assert np.abs(frozen - refitted).max() > 1e-3
    own = [Sampling(tables / "a.json", tables / "a", frozen=each).probabilities(setup) for each in (True, False)]
    np.testing.assert_array_equal(*own)
    streams = [
        StreamOptions(source=tables / "a.json", table=tables / "b", frozen=each).open()[0].weights
        for each in (True, False)
    ]
    np.testing.assert_array_equal(streams, [frozen, refitted])


def test_missing_columns_are_named(tables, catalog, tmp_path):
    setup = SimpleNamespace(data=catalog, ranks=Ranks())
    with pytest.raises(ValueError, match=r"poor: a refit of this cgf sampler .* the table has no grad_norm"):
        Sampling(tables / "a.json", tables / "poor").probabilities(setup)
    assert Sampling(tables / "a.json", tables / "poor", frozen=True).probabilities(setup).sum() == pytest.approx(1)
    for more in ((), ("--probabilities", tmp_path / "w.npy")):
        err = cli("fit", tables / "poor", "-o", tmp_path / "s.json", "--like", tables / "a.json", *more, status=2)
        assert "the table has no grad_norm" in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("how", ["--refit", "--frozen"])
def test_fit_like_another_sampler(tables, tmp_path, how):
    like = (tables / "b", "--like", tables / "a.json", how)
    cli("fit", *like, "-o", tmp_path / "b.json")
    cli("fit", *like, "-o", tmp_path / "c.json", "--probabilities", tmp_path / "w.npy")
    assert (tmp_path / "b.json").read_bytes() == (tmp_path / "c.json").read_bytes()
    other = FeatureTable.open(tables / "b")
    carried = carry(SwiftSampler.load(tables / "a.json"), other, frozen=how == "--frozen")
    p = carried.probabilities(other.columns("loss", "entropy"))
    np.testing.assert_array_equal(map_weights(tmp_path / "w.npy"), p)
    before, after = (json.loads(path.read_text()) for path in (tables / "a.json", tmp_path / "b.json"))
    if how == "--frozen":
        assert after == before
    else:
        assert after["values"] == before["values"] and after["balance"] != before["balance"]
        assert after["provenance"]["model"] == "b" and after["provenance"]["features"] == other.fingerprint
        assert after["provenance"]["refitted_from"] == before["provenance"]


def test_fit_like_its_own_table_is_a_copy(tables, tmp_path):
    cli("fit", tables / "a", "--like", tables / "a.json", "-o", tmp_path / "a.json")
    assert (tmp_path / "a.json").read_bytes() == (tables / "a.json").read_bytes()


def test_options_that_contradict(tables, tmp_path):
    out = ("-o", tmp_path / "s.json")
    err = cli("fit", tables / "b", *out, "--like", tables / "a.json", "--values", "1,1,1,0,0", status=2)
    assert "but --values was given too: leave it out" in err
    err = cli("fit", tables / "b", *out, "--frozen", status=2)
    assert "say of which with --like" in err
