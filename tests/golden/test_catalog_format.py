"""The catalog format of version 1, pinned.

WARNING: catalogs, feature tables, samplers and training states refer to these fingerprints. A change here makes every
existing one unreadable: raise ``FORMAT`` and keep reading the old form, never edit the figures to make the test pass.
"""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from drawstream.pipeline.catalog import Catalog
from drawstream.pipeline.noise import relabel, stratified_order
from drawstream.pipeline.pack import pack
from drawstream.pipeline.sources import ArraySource


@pytest.fixture
def packed(tmp_path):
    images = np.arange(12 * 2 * 3, dtype=np.uint8).reshape(12, 2, 3)
    source = ArraySource(images, np.arange(12) % 3, ("a", "b", "ç"))
    return pack(source, tmp_path / "tiny", label_noise=0.5, seed=7, noise_seed=11, shard_rows=5).train


def test_columns_and_metadata(packed):
    table = pq.read_table(packed / "catalog.parquet")
    assert {column.name: str(column.type) for column in table.schema} == {
        "key": "string",
        "shard": "int32",
        "offset": "int64",
        "size": "int64",
        "checksum": "uint32",
        "label": "int64",
        "clean_label": "int64",
        "encoding": "dictionary<values=string, indices=int8, ordered=0>",
        "height": "int32",
        "width": "int32",
    }
    meta = json.loads(table.schema.metadata[b"drawstream"])
    assert meta == {
        "format": 1,
        "fingerprint": "d893aea5ca13c9629ca79846b365276d",
        "checksum": "xxh32",
        "hash": "xxh3_128",
        "channels": 1,
        "classes": ["a", "b", "ç"],
        "shards": [
            {"path": "shard-000000.tar", "size": 20480, "hash": "6f0326c273da017556a5d807017afd31"},
            {"path": "shard-000001.tar", "size": 20480, "hash": "48d8d53d0193826ef5a5291c0bdd73c7"},
            {"path": "shard-000002.tar", "size": 10240, "hash": "f64f3766c4b87cfecccec84299cbfa75"},
        ],
        "provenance": {
            "by": "pack",
            "source": "arrays",
            "part": "all",
            "encoding": "keep",
            "quality": 95,
            "limit": None,
            "holdout": 0,
            "seed": 7,
            "label_noise": 0.5,
            "noise_seed": 11,
        },
    }
    assert table.schema.metadata[b"drawstream-hash"] == b"c92c2a6f1f063ebece2b1db4d4147b5c"


def test_files_without_a_hash_still_open(packed):
    """Version 0.1.0 wrote none."""
    file = packed / "catalog.parquet"
    fingerprint = Catalog.open(packed).fingerprint
    table = pq.read_table(file)
    metadata = {b"drawstream": table.schema.metadata[b"drawstream"]}
    pq.write_table(table.replace_schema_metadata(metadata), file)
    assert Catalog.open(packed).fingerprint == fingerprint


def test_rows(packed):
    catalog = Catalog.open(packed)
    assert [int(key) for key in catalog.keys] == [1, 11, 3, 2, 10, 9, 8, 7, 0, 6, 5, 4]
    assert catalog.shard.tolist() == [0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 2, 2]
    assert catalog.offset.tolist() == [2571, 5643, 8715, 11787, 14859] * 2 + [2571, 5643]
    assert catalog.size.tolist() == [6] * 12
    assert catalog.checksum.tolist() == [
        1659164874, 2048767210, 2037677060, 1430797132, 2749727690, 561211127,
        2572043639, 2486812863, 2269196767, 605636961, 2906742834, 751241360,
    ]  # fmt: skip
    assert catalog.label.tolist() == [0, 2, 0, 1, 1, 1, 2, 1, 0, 2, 1, 0]
    assert catalog.clean_label.tolist() == [1, 2, 0, 2, 1, 0, 2, 1, 0, 0, 2, 1]


def test_draws():
    assert stratified_order(np.repeat([0, 1], [6, 3]), seed=0).tolist() == [7, 4, 5, 1, 2, 8, 6, 0, 3]
    assert relabel(np.repeat([0, 1, 2], 4), rate=0.5, classes=3, seed=0).tolist() == [
        1,
        0,
        0,
        1,
        0,
        1,
        2,
        1,
        2,
        2,
        0,
        1,
    ]
