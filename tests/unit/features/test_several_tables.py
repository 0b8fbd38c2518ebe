"""Feature tables of several catalogs open as one, which is what the joined catalog would give."""

import numpy as np
import pytest
import torch

from drawstream import Catalog, FeatureTable, IndexStream, Loader, Transform, extract_features
from shared.refusals import refused
from shared.samples import LABELS, PIXELS, array_catalog, write_table


@pytest.fixture
def parts(tmp_path):
    cuts = {"a": slice(90), "b": slice(90, 150)}
    return [array_catalog(tmp_path / name, PIXELS[cut], LABELS[cut], shard_rows=40) for name, cut in cuts.items()]


def score(catalog, out, **options):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    law = Transform.small((8, 8), 1)
    return extract_features(catalog, model, out, model_name="linear", transform=law, batch_size=20, **options)


def test_tables_of_the_members_are_the_table_of_the_whole(tmp_path, parts):
    whole = Catalog.open(*(part.root for part in parts))
    expected = score(whole, tmp_path / "whole")
    folders = [tmp_path / f"features-{i}" for i in range(2)]
    for part, folder in zip(parts, folders, strict=True):
        score(part, folder)
    for table in (FeatureTable.open(*folders), FeatureTable.open(*folders, catalog=whole)):
        table.check(whole.fingerprint, "the whole")
        assert len(table) == 150 and table.names == expected.names
        np.testing.assert_array_equal(table.sample_id, np.arange(150))
        np.testing.assert_array_equal(table.label, whole.label)
        mine, theirs = table.columns(*table.names), expected.columns(*table.names)
        for name in table.names:
            np.testing.assert_allclose(mine[name], theirs[name], rtol=1e-5, atol=1e-6)
        blocks = [block["loss"] for block in table.blocks("loss")]
        np.testing.assert_array_equal(np.concatenate(blocks), mine["loss"])
    stream = IndexStream(table.columns("loss")["loss"], seed=0)
    assert sum(len(batch.ids) for batch in Loader(whole, stream, rows=table)) == 150


def test_merged_classes_are_those_of_the_joined_catalog(tmp_path, parts):
    few = array_catalog(tmp_path / "few", PIXELS[:20], np.arange(20) % 3)
    whole = Catalog.open(few.root, parts[0].root, classes="union")
    folders = [
        write_table(tmp_path / name, each, {"x": np.ones(len(each), np.float32)})
        for name, each in (("f", few), ("g", parts[0]))
    ]
    table = FeatureTable.open(*folders, catalog=whole)
    np.testing.assert_array_equal(table.label, whole.label)


def test_other_tables_are_refused(tmp_path, parts):
    columns = [{"x": np.arange(len(part), dtype=np.float32)} for part in parts]
    a, b = (write_table(tmp_path / f"t{i}", part, columns[i], model="m") for i, part in enumerate(parts))
    other = write_table(tmp_path / "other", parts[1], columns[1], model="another")
    names = write_table(tmp_path / "names", parts[1], {"y": columns[1]["x"]}, model="m")
    whole = Catalog.open(*(part.root for part in parts))
    refused("another", lambda: FeatureTable.open(a, other))
    refused("columns", lambda: FeatureTable.open(a, names))
    refused("order of their catalogs", lambda: FeatureTable.open(b, a, catalog=whole))
    refused("2 catalogs", lambda: FeatureTable.open(a, b, b, catalog=whole))
    refused("extract them", lambda: FeatureTable.open(a, catalog=whole))
    assert FeatureTable.open(a, b).fingerprint != FeatureTable.open(b, a).fingerprint
