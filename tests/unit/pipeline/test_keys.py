"""Keys: stems of shards, and the rows that keys of users mean."""

import numpy as np
import pyarrow as pa
import pytest

from drawstream.pipeline.shards import Catalog
from drawstream.pipeline.shards.keys import find_rows, shard_stems, with_stems, without_stems
from drawstream.pipeline.shards.pack import pack
from drawstream.pipeline.sources import ArraySource


@pytest.mark.parametrize(
    ("paths", "stems"),
    [
        (["/d/a.tar", "/d/b.TAR"], ["a", "b"]),
        (["/d/a/0.tar", "/d/b/0.tar"], ["a/0", "b/0"]),
        (["/d/0.tar", "/d/b/0.tar", "/d/b/c/1.tar"], ["0", "b/0", "b/c/1"]),
        (["/d/a.tar", "/d/a.TAR"], ["a.tar", "a.TAR"]),
        (["/train.v2-0.tar"], ["train.v2-0"]),
        (["/d/ß.tar", "/d/.tar"], ["ß", ".tar"]),
    ],
)
def test_stems_differ(paths, stems):
    assert shard_stems(paths) == stems


def large(*texts):
    return pa.array(texts, pa.large_string())


def test_stems_come_and_go():
    short, shard, stems = large("0", "1", "0", "ü/b"), np.array([0, 0, 2, 2]), ["a", "none", "ß.1/x"]
    keys = with_stems(short, shard, stems)
    assert keys.to_pylist() == ["a/0", "a/1", "ß.1/x/0", "ß.1/x/ü/b"]
    starts = np.array([0, 2, 2, 4])
    assert without_stems(keys, starts, stems).equals(short)
    with pytest.raises(ValueError, match="every key of shard 'b' must begin with 'b/'"):
        without_stems(keys, starts, ["b", "none", "ß.1/x"])


def test_the_whole_key_goes_before_the_short_one():
    """A short key that looks like another row's whole key: the catalog's own writing is what counts."""
    keys, short = large("a/0", "b/0", "b/a/0"), large("0", "0", "a/0")
    assert find_rows(large("a/0", "b/a/0"), keys, lambda: short).tolist() == [0, 2]


def test_keys_of_every_kind_of_column(tmp_path):
    catalog = Catalog.open(pack(ArraySource(np.zeros((6, 2, 2), np.uint8), np.arange(6) % 2), tmp_path / "a").train)
    keys = catalog.keys
    for column in (keys, tuple(keys), np.array(keys), np.array(keys, object), pa.array(keys), pa.chunked_array([keys])):
        assert catalog.rows_of(column).tolist() == list(range(6))
    assert catalog.rows_of([]).dtype == np.int64 and catalog.rows_of([]).size == 0
    assert catalog.rows_of(pa.array(keys).dictionary_encode()).tolist() == list(range(6))
    assert catalog.rows_of([keys[4], keys[4], None]).tolist() == [4, 4, -1]
    assert catalog.rows_of([f"shard-000000/{key}" for key in keys]).tolist() == list(range(6))
    assert catalog.rows_of([f"shard-000001/{key}" for key in keys]).tolist() == [-1] * 6
    for wrong in ([1, 2], np.arange(3), 7, [["a"]]):
        with pytest.raises(TypeError, match="keys must be texts"):
            catalog.rows_of(wrong)
