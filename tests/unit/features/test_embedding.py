"""Embeddings beside a table: values of a plain loop, one whole file, resuming, and damage that is noticed."""

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import nn

from drawstream import FeatureTable
from drawstream.features import extract_features as extract
from drawstream.features import extraction
from drawstream.features.table import embedding_path, part_path
from shared.refusals import refused
from shared.samples import digits_catalog

ROWS, SHARDS, WIDE = 130, 3, 12


def make(scale=1.0):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, WIDE), nn.ReLU(), nn.Linear(WIDE, 10))
    model[1].weight.data *= scale
    return model


@pytest.fixture(scope="module")
def catalog(tmp_path_factory):
    return digits_catalog(tmp_path_factory.mktemp("embedding") / "d", ROWS, shard_rows=50)


def embedded(catalog, out, model=None, **options):
    return extract(catalog, model or make(), out, model_name="mlp", embedding=True, **options)


def test_they_are_what_the_last_layer_sees_in_the_order_of_the_table(catalog, tmp_path):
    seen = []
    model = make()
    model[3].register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].detach().half()))
    table = embedded(catalog, tmp_path / "f", model, batch_size=32)
    found = table.embedding()
    assert isinstance(found, np.memmap) and found.dtype == np.float16 and not found.flags.writeable
    np.testing.assert_array_equal(found, torch.cat(seen).numpy())
    assert table.names == ("loss", "entropy", "grad_norm", "target_prob", "correct")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["f", "f.embedding.safetensors"]
    with safe_open(embedding_path(table.path), "np") as file:  # as any reader of safetensors
        np.testing.assert_array_equal(file.get_tensor("embedding"), found)
    plain = extract(catalog, make(), tmp_path / "plain", model_name="mlp", batch_size=32)
    np.testing.assert_array_equal(plain.columns("loss")["loss"], table.columns("loss")["loss"])
    with pytest.raises(FileNotFoundError, match="no embeddings there; run `drawstream features --embedding`"):
        plain.embedding()


def test_rows_that_are_crops_or_chosen_ones_have_theirs(catalog, tmp_path):
    table = embedded(catalog, tmp_path / "f", crops=2, where="label < 5", grad_norm="logit", measures=["loss"])
    found = table.embedding()
    z = make()[3](torch.from_numpy(found.astype(np.float32)))
    loss = nn.functional.cross_entropy(z, torch.from_numpy(table.label.copy()), reduction="none")
    np.testing.assert_allclose(table.columns("loss")["loss"], loss.detach(), rtol=0.02, atol=0.005)
    assert len(found) == 2 * int((catalog.label < 5).sum())


@pytest.mark.parametrize("where", ["between shards", "before the end"])
def test_a_killed_extraction_ends_with_the_same_file(catalog, tmp_path, monkeypatch, where):
    whole = embedding_path(embedded(catalog, tmp_path / "whole").path).read_bytes()

    def fall(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        if where == "before the end":
            patched.setattr(extraction, "merge_embedding", fall)
        embedded(catalog, tmp_path / "f", progress=lambda p: fall() if where[:3] == "bet" and p.done > 60 else None)
    table = embedded(catalog, tmp_path / "f")
    assert embedding_path(table.path).read_bytes() == whole
    before = embedding_path(table.path).stat().st_mtime_ns
    assert len(embedded(catalog, tmp_path / "f").embedding()) == ROWS
    assert embedding_path(table.path).stat().st_mtime_ns == before


def test_what_is_lost_is_scored_again(catalog, tmp_path):
    table = embedded(catalog, tmp_path / "f")
    found = table.embedding().copy()
    embedding_path(table.path).unlink()
    np.testing.assert_array_equal(embedded(catalog, tmp_path / "f").embedding(), found)
    part_path(tmp_path / "f", 1).unlink()
    np.testing.assert_array_equal(embedded(catalog, tmp_path / "f").embedding(), found)


def test_every_changed_byte_is_noticed(catalog, tmp_path):
    table = embedded(catalog, tmp_path / "f")
    path = embedding_path(table.path)
    good = path.read_bytes()
    for at in (0, 3, 20, 90, 200, len(good) - 2 * WIDE * ROWS - 1, len(good) // 2, len(good) - 1):
        path.write_bytes(good[:at] + bytes([good[at] ^ 4]) + good[at + 1 :])
        refused("remove", table.embedding)
    for data in (good[:-1], good + b"x", b"", good[:30]):
        path.write_bytes(data)
        refused("not readable embeddings", table.embedding)


def test_those_of_another_table_are_refused(catalog, tmp_path):
    table = embedded(catalog, tmp_path / "f")
    other = embedded(catalog, tmp_path / "g", measures=["loss"])
    embedding_path(other.path).replace(embedding_path(table.path))
    refused("of table .* but this one is", table.embedding)
    refused("of another extraction", embedded, catalog, tmp_path / "f")
    refused("made with embedding", extract, catalog, make(), tmp_path / "f", model_name="mlp")


def test_values_beyond_float16_and_models_without_a_last_layer_are_refused(catalog, tmp_path):
    refused("not finite as float16, which ends at 65 504", embedded, catalog, tmp_path / "f", make(scale=1e7))
    model = nn.Sequential(make(), nn.Tanh())
    options = {"grad_norm": "logit", "model_name": "mlp", "embedding": True}
    refused("input of the last linear layer", extract, catalog, model, tmp_path / "g", **options)


def test_tables_of_several_catalogs_give_one_array(tmp_path):
    catalogs = [digits_catalog(tmp_path / name, rows) for name, rows in (("a", 40), ("b", 30))]
    tables = [embedded(each, tmp_path / f"f{number}") for number, each in enumerate(catalogs)]
    found = FeatureTable.open(*(each.path for each in tables)).embedding()
    np.testing.assert_array_equal(found, np.concatenate([each.embedding() for each in tables]))
