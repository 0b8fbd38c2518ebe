"""Measures of the user's own: columns, names, hashes, what is refused; and extraction on Ray without Ray."""

import importlib
import importlib.util
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from torch import nn

from drawstream import FeatureTable, Scoring, ShardScorer, WorkerError, Workers
from drawstream.features import RemoteScorer, extraction, missing_shards, provenance, write_shards_on_ray
from drawstream.features import extract_features as extract
from drawstream.features.custom import call_measure, hash_source, load_measure, name_measure
from drawstream.features.measures import MEASURES
from drawstream.pipeline.workers import Pool
from drawstream.pipeline.workers.pool import ThisProcess
from shared.refusals import refused
from shared.samples import array_catalog, digits_catalog

ROWS = 40


def top2(logits, targets, activations):
    two = logits.topk(2, dim=1).values
    return {"top2": two[:, 0] - two[:, 1], "norm": activations.norm(dim=1), "target": targets}


def without_head(logits, targets, activations):
    assert activations is None
    return {"peak": logits.amax(1)}


@pytest.fixture(scope="module")
def catalog(tmp_path_factory):
    images = np.random.default_rng(0).integers(0, 256, (ROWS, 8, 8), np.uint8)
    return array_catalog(tmp_path_factory.mktemp("custom") / "d", images, np.arange(ROWS) % 5, shard_rows=15)


def make():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 5))


def test_columns_beside_the_built_in_ones(catalog, tmp_path):
    model = make()
    table = extract(catalog, model, tmp_path, model_name="m", measures=["loss", top2], batch_size=10)
    assert table.names == ("loss", "top2", "norm", "target")
    values = table.columns(*table.names)
    assert all(column.dtype == np.float32 for column in values.values())
    np.testing.assert_array_equal(values["target"], catalog.label)
    alone = extract(catalog, model, tmp_path / "alone", model_name="m", measures=[top2], batch_size=10)
    assert alone.names == ("top2", "norm", "target")
    np.testing.assert_array_equal(alone.columns("norm")["norm"], values["norm"])
    assert table.provenance["measures"] == ["loss"]
    assert table.provenance["functions"] == {f"{__name__}:top2": hash_source(top2)}


def test_they_see_the_logits_and_the_penultimate_layer(catalog, tmp_path):
    model, seen = make(), []
    model[2].register_forward_hook(lambda _m, _i, output: seen.append(output))
    table = extract(catalog, model, tmp_path, model_name="m", measures=[top2], batch_size=10, grad_norm="logit")
    h = torch.cat(seen)
    np.testing.assert_array_equal(table.columns("norm")["norm"], h.norm(dim=1))
    two = model[3](h).topk(2, dim=1).values.detach()
    np.testing.assert_allclose(table.columns("top2")["top2"], two[:, 0] - two[:, 1], rtol=1e-4, atol=1e-6)


def test_a_model_without_a_linear_head_has_no_activations(catalog, tmp_path):
    model = nn.Sequential(nn.Conv2d(1, 5, 8), nn.Flatten())
    assert extract(catalog, model, tmp_path, model_name="m", measures=[without_head]).names == ("peak",)


MODULE = """
def mine(logits, targets, activations):
    return {{"mine": logits.amax(1) * {factor}}}
"""


def test_another_source_under_the_same_name_is_refused(catalog, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.dont_write_bytecode", True)
    path = tmp_path / "my_measures_one.py"
    path.write_text(MODULE.format(factor=1))
    found = load_measure("my_measures_one:mine")
    assert name_measure(found) == "my_measures_one:mine"
    extract(catalog, make(), tmp_path / "f", model_name="m", measures=[found])
    first = hash_source(found)
    path.write_text(MODULE.format(factor=22))
    importlib.invalidate_caches()
    found = importlib.reload(importlib.import_module("my_measures_one")).mine
    importlib.import_module("linecache").checkcache()
    assert hash_source(found) != first
    with pytest.raises(ValueError, match=r"made with functions\.my_measures_one:mine \w{12}, not \w{12}: give"):
        extract(catalog, make(), tmp_path / "f", model_name="m", measures=[found])


def test_loading_says_what_is_wrong(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused("measure must be module:factory, but got 'entropy'", load_measure, "entropy")
    refused("'nowhere_at_all:f' cannot be imported: ModuleNotFoundError: No module", load_measure, "nowhere_at_all:f")
    refused("cannot be imported: AttributeError", load_measure, "math:nothing")
    refused(
        r"'math:sqrt' must be .* plain function, but got a builtins\.builtin_.*: wrap it", load_measure, "math:sqrt"
    )
    (tmp_path / "partial_measures.py").write_text("from functools import partial\nm = partial(max, 1)\n")
    with pytest.raises(ValueError, match=r"measure 'partial_measures:m' must be .*, but got a functools\.partial"):
        load_measure("partial_measures:m")
    namespace = {}
    exec(compile("def f(z, y, h): return {}", "nowhere.py", "exec"), namespace)
    refused("its source cannot be read: define it in a module", hash_source, namespace["f"])


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (torch.zeros(4), "must give a dict of name and tensor, but gave Tensor"),
        ({}, "must give a dict of name and tensor, but gave dict"),
        ({"a": 3.0}, "must give tensors, but 'a' is float"),
        ({3: torch.zeros(4)}, "must name its columns by strings, but gave 3"),
        ({"a": torch.zeros(5)}, r"one real number per row, shape \(4,\), but 'a' is torch.float32 \(5,\)"),
        ({"a": torch.zeros(4, 1)}, r"one real number per row, shape \(4,\), but 'a' is torch.float32 \(4, 1\)"),
        ({"a": torch.zeros(())}, r"one real number per row, shape \(4,\), but 'a' is torch.float32 \(\)"),
        ({"a": torch.zeros(4, dtype=torch.complex64)}, "but 'a' is torch.complex64"),
    ],
)
def test_what_is_no_column_is_refused(given, text):
    def wrong(logits, targets, activations):
        return given

    with pytest.raises(ValueError, match="test_custom:test_what_is_no_column_is_refused.*wrong .*" + text):
        call_measure(wrong, torch.zeros(4, 3), torch.zeros(4, dtype=torch.long), None)


def test_numbers_of_all_kinds_become_float32():
    def kinds(logits, targets, activations):
        return {"b": targets > 0, "i": targets, "d": logits[:, 0].double(), "h": logits[:, 1].half()}

    found = call_measure(kinds, torch.ones(4, 3), torch.arange(4), None)
    assert all(values.dtype == torch.float32 for values in found.values())
    assert found["b"].tolist() == [0, 1, 1, 1] and found["i"].tolist() == [0, 1, 2, 3]


def test_taken_names_unsteady_columns_and_infinite_values_are_refused(catalog, tmp_path):
    def again(logits, targets, activations):
        return {"loss": logits[:, 0]}

    def fixed(logits, targets, activations):
        return {"label": logits[:, 0]}

    def unsteady(logits, targets, activations):
        return {f"n{len(logits)}": logits[:, 0]}

    def infinite(logits, targets, activations):
        return {"inverse": 1 / (targets.float() - 3)}

    def run(*measures):
        extract(catalog, make(), tmp_path, model_name="m", measures=measures, batch_size=10)

    refused(r"again gives a column 'loss', which is there already: give it another name", run, "loss", again)
    refused(r"gives a column 'label', which is there already", run, fixed)
    refused("the same columns for every batch, but one got n5 after n10", run, unsteady)
    row = int(np.argmax(catalog.label == 3))
    bad = int((catalog.label[slice(*catalog.shard_rows(0))] == 3).sum())
    text = rf"'inverse' is inf for sample '.+' \(row {row}\), and not finite for {bad} rows of its shard: .* of yours"
    refused(text, run, infinite)
    refused(r"a measure must be a name or a plain function, but got a builtins\.int", run, "loss", 3)
    refused("unknown measure 'top'", run, *MEASURES, "top")
    assert not list(tmp_path.glob("part-*"))


needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")
MODEL = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
SCORING = Scoring(batch_size=30)


@pytest.fixture(scope="module")
def remote_catalog(tmp_path_factory):
    return digits_catalog(tmp_path_factory.mktemp("cluster") / "d", 250, shard_rows=100)


def scorer(remote_catalog, /, **changes):
    given = {"catalog": remote_catalog.places, "fingerprint": remote_catalog.fingerprint, "model": MODEL}
    return RemoteScorer(**{**given, "scoring": SCORING, "flush_denormals": False, **changes})


def test_a_worker_yields_rows_so_far_and_returns_the_columns(remote_catalog, monkeypatch):
    monkeypatch.setattr(extraction, "PULSE", 0.0)
    counts, scoring = [], scorer(remote_catalog)(1)
    with pytest.raises(StopIteration) as end:
        while True:
            counts.append(next(scoring))
    assert counts == sorted(counts) and all(0 <= n <= 100 for n in counts)
    with ShardScorer(remote_catalog, MODEL, SCORING) as local:
        expected = local.score(1)
    assert end.value.value.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_array_equal(end.value.value[name], values)


def test_a_worker_computes_with_the_settings_of_its_driver(remote_catalog):
    torch.set_flush_denormal(True)
    try:
        remote = RemoteScorer.of(remote_catalog, MODEL, SCORING)
    finally:
        torch.set_flush_denormal(False)
    assert remote.flush_denormals and not RemoteScorer.of(remote_catalog, MODEL, SCORING).flush_denormals
    assert remote._thread.submit(torch.get_num_threads).result() == torch.get_num_threads()
    assert remote._thread.submit(lambda: float(torch.tensor(1e-30) * torch.tensor(1e-10))).result() == 0.0


@needs_ray
def test_a_node_without_the_data_is_named(remote_catalog, tmp_path):
    with pytest.raises(ValueError, match=r"node \S+: .*nowhere.*; every node must see the data under the same path"):
        next(scorer(remote_catalog, catalog=(str(tmp_path / "nowhere"),))(0))
    with pytest.raises(
        ValueError, match=rf"node \S+: .* has the fingerprint {remote_catalog.fingerprint}, but .* it is 00ff"
    ):
        next(scorer(remote_catalog, fingerprint="00ff")(0))


@pytest.mark.parametrize(("failures", "kept"), [(0, True), (2, True), (3, False)])
def test_a_shard_that_fails_is_tried_three_times(remote_catalog, tmp_path, monkeypatch, failures, kept):
    """The rows of a shard that was lost are taken back; all others are kept."""
    told, seen = [], []

    def fail(shard):
        yield 5
        if shard == 1 and len(told) < failures:
            told.append(shard)
            raise RuntimeError("node 10.0.0.2: no such host")
        return (yield from remote(shard))

    @contextmanager
    def here(_function, _workers, /, *, name, **_):
        yield Pool(ThisProcess(fail), name)

    monkeypatch.setattr(extraction, "open_workers", here)
    remote = RemoteScorer.of(remote_catalog, MODEL, SCORING)
    made = provenance(remote_catalog, MODEL, SCORING, model_name="linear")
    shards = missing_shards(remote_catalog, tmp_path, made)
    how = {"workers": Workers(engine="ray"), "progress": lambda p: seen.append(p.done)}

    def write():
        write_shards_on_ray(remote_catalog, remote, shards, tmp_path, made, **how)

    if kept:
        write()
        assert len(FeatureTable.open(tmp_path)) == seen[-1] == 250
    else:
        text = r"^shard \S+ failed 3 times, the last time: node 10.0.0.2: no such host$"
        refused(text, write, error=WorkerError)
        assert missing_shards(remote_catalog, tmp_path, made) == [1]
