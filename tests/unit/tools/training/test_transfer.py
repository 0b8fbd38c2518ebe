"""Samplers over another table than their own, in `fit --like`, in training and in streams."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from drawstream.features.table import FeatureTable
from drawstream.features.table.part import part_path, write_part
from drawstream.pipeline.shards import Catalog
from drawstream.samplers.files.weights_file import map_weights
from drawstream.samplers.swift import SwiftSampler
from drawstream.tools.cli.app import main
from drawstream.tools.cli.stream_source import StreamOptions
from drawstream.tools.training.methods.sampling import Sampling
from drawstream.tools.training.ranks import Ranks
from drawstream.tools.training.transfer import carry


@pytest.fixture(scope="module")
def catalog(digits):
    return Catalog.open(digits.train)


@pytest.fixture(scope="module")
def tables(catalog, tmp_path_factory):
    """Feature tables of one catalog by three models: `a`, `b` (another scale), and `poor` (no grad_norm)."""
    root = tmp_path_factory.mktemp("tables")
    for scale, name in enumerate(("a", "b", "poor"), start=1):
        rng = np.random.default_rng(scale)
        (root / name).mkdir()
        for shard in range(len(catalog.shards)):
            start, stop = catalog.shard_rows(shard)
            ids = np.arange(start, stop)
            fixed = {"sample_id": ids, "crop": np.zeros(ids.size, np.int32), "label": catalog.label[start:stop]}
            drawn = (scale**3 * rng.gamma(0.5, size=(3, ids.size))).astype(np.float32)
            features = dict(zip(("loss", "entropy", "grad_norm"), drawn, strict=True))
            if name == "poor":
                del features["grad_norm"]
            made = {"catalog": catalog.fingerprint, "parts": len(catalog.shards), "model": name}
            write_part(part_path(root / name, shard), fixed | features, made)
    assert main(["fit", str(root / "a"), "-o", str(root / "a.json")]) == 0
    return root


def fit(capsys, *arguments):
    capsys.readouterr()
    status = main(["fit", *map(str, arguments)])
    return status, capsys.readouterr().err


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


def test_missing_columns_are_named(tables, catalog, capsys, tmp_path):
    setup = SimpleNamespace(data=catalog, ranks=Ranks())
    with pytest.raises(ValueError, match=r"poor: a refit of this cgf sampler .* the table has no grad_norm"):
        Sampling(tables / "a.json", tables / "poor").probabilities(setup)
    assert Sampling(tables / "a.json", tables / "poor", frozen=True).probabilities(setup).sum() == pytest.approx(1)
    for more in ((), ("--probabilities", tmp_path / "w.npy")):
        status, err = fit(capsys, tables / "poor", "-o", tmp_path / "s.json", "--like", tables / "a.json", *more)
        assert status == 2 and "the table has no grad_norm" in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("how", ["--refit", "--frozen"])
def test_fit_like_another_sampler(tables, capsys, tmp_path, how):
    like = (tables / "b", "--like", tables / "a.json", how)
    assert fit(capsys, *like, "-o", tmp_path / "b.json")[0] == 0
    assert fit(capsys, *like, "-o", tmp_path / "c.json", "--probabilities", tmp_path / "w.npy")[0] == 0
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


def test_fit_like_its_own_table_is_a_copy(tables, capsys, tmp_path):
    assert fit(capsys, tables / "a", "--like", tables / "a.json", "-o", tmp_path / "a.json")[0] == 0
    assert (tmp_path / "a.json").read_bytes() == (tables / "a.json").read_bytes()


def test_options_that_contradict(tables, capsys, tmp_path):
    out = ("-o", tmp_path / "s.json")
    status, err = fit(capsys, tables / "b", *out, "--like", tables / "a.json", "--values", "1,1,1,0,0")
    assert status == 2 and "but --values was given too: leave it out" in err
    status, err = fit(capsys, tables / "b", *out, "--frozen")
    assert status == 2 and "say of which with --like" in err
