"""The catalog formats, pinned: 2, and 1 which is still read.

WARNING: catalogs, feature tables, samplers and training states refer to these fingerprints. A change here makes every
existing one unreadable: raise ``FORMAT`` and keep reading the old form, never edit the figures to make the test pass.
"""

import json
import re
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xxhash

from drawstream.pipeline.bad import BadSampleError
from drawstream.pipeline.catalog import Catalog
from drawstream.pipeline.noise import relabel, stratified_order
from drawstream.pipeline.pack import pack
from drawstream.pipeline.read import ShardFiles
from drawstream.pipeline.sources import ArraySource
from drawstream.pipeline.verify import verify


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
        "format": 2,
        "fingerprint": "84f927e853af16f659d6566e0b28d8d0",
        "checksum": "xxh3_64 of more than 1024 bytes, else xxh32",
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
    assert table.schema.metadata[b"drawstream-hash"] == b"84081d7228420a567cdc0f24358e5df5"


def as_format_1(folder, fingerprint):
    """Rewrite a catalog as the first format was: XXH32 of every member, and no hash over the metadata."""
    catalog = Catalog.open(folder)
    data, bounds = ShardFiles(catalog).read(np.arange(len(catalog)))
    marks = [xxhash.xxh32_intdigest(data[a:b]) for a, b in pairwise(bounds.tolist())]
    table = pq.read_table(folder / "catalog.parquet")
    meta = json.loads(table.schema.metadata[b"drawstream"])
    meta |= {"format": 1, "checksum": "xxh32", "fingerprint": fingerprint}
    at = table.column_names.index("checksum")
    table = table.set_column(at, "checksum", pa.array(marks, pa.uint32()))
    pq.write_table(table.replace_schema_metadata({b"drawstream": json.dumps(meta)}), folder / "catalog.parquet")


def test_format_1_still_opens(packed):
    as_format_1(packed, "d893aea5ca13c9629ca79846b365276d")
    assert Catalog.open(packed).version == 1


def test_checksums_of_format_1_are_still_held(tmp_path):
    """Members of more than 1024 bytes have another checksum since."""
    images = np.random.default_rng(0).integers(0, 256, (6, 40, 40), np.uint8)
    folder = pack(ArraySource(images, np.arange(6) % 3), tmp_path / "large").train
    as_format_1(folder, "f" * 32)
    with pytest.raises(ValueError, match="the fingerprint of the rows is") as refused:
        Catalog.open(folder)
    fingerprint = re.search(r"of the rows is (\w+)", str(refused.value))[1]
    table = pq.read_table(folder / "catalog.parquet")
    meta = json.loads(table.schema.metadata[b"drawstream"]) | {"fingerprint": fingerprint}
    pq.write_table(table.replace_schema_metadata({b"drawstream": json.dumps(meta)}), folder / "catalog.parquet")
    catalog = Catalog.open(folder)
    data, _ = ShardFiles(catalog).read(np.arange(6))
    order = [int(key) for key in catalog.keys]
    assert data.tobytes() == images[order].tobytes() and verify(catalog) == []
    with catalog.shard_path(0).open("r+b") as file:
        file.seek(int(catalog.offset[2]) + 9)
        file.write(b"\x01\x02\x03")
    with pytest.raises(BadSampleError, match=r"\(row 2\)"):
        ShardFiles(catalog).read(np.arange(6))


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
