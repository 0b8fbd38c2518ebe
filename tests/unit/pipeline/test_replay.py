"""Orders as DALI index files: DALI's own reader must give the very draws, repeats included."""

import json
import re

import numpy as np
import pytest
from nvidia.dali import fn, pipeline_def

import drawstream.pipeline.replay as replay_module
from drawstream.pipeline.replay import read_replay, write_replay
from drawstream.pipeline.shards import Catalog
from drawstream.pipeline.shards.pack import pack
from drawstream.pipeline.sources import ArraySource
from drawstream.samplers.orders import IndexStream


@pytest.fixture(scope="module")
def catalogs(tmp_path_factory):
    """60 images whose first pixel is their number, as one shard and as four."""
    folder = tmp_path_factory.mktemp("replay")
    images = np.repeat(np.arange(60, dtype=np.uint8), 16).reshape(60, 4, 4)
    source = ArraySource(images, np.arange(60) % 10)
    return [
        Catalog.open(pack(source, folder / name, encoding="raw", shard_rows=rows).train)
        for name, rows in (("one", 100), ("four", 15))
    ]


def pixels(catalog):
    """First pixel of each row, read through the catalog."""
    found = []
    for row in range(len(catalog)):
        tar = catalog.shard_path(int(catalog.shard[row])).read_bytes()
        end = int(catalog.offset[row] + catalog.size[row])
        found.append(tar[end - 1])
    return np.array(found)


def replayed(folder, draws):
    """Last byte of each image that DALI's webdataset reader delivers."""
    arguments = read_replay(folder)
    assert arguments == json.loads((folder / "replay.json").read_text())

    @pipeline_def(batch_size=1, num_threads=1, device_id=None)
    def graph():
        return fn.readers.webdataset(**arguments, ext=["pgm"], missing_component_behavior="error")

    pipeline = graph()
    pipeline.build()
    assert pipeline.reader_meta()["__Webdataset_0"]["epoch_size"] == draws
    return np.array([int(np.array(pipeline.run()[0][0])[-1]) for _ in range(draws)])


def test_one_shard_replays_any_order_exactly(catalogs, tmp_path):
    one = catalogs[0]
    order = IndexStream(np.arange(60.0), draws=90).epoch(1)[:]
    assert np.bincount(order).max() > 1
    result = write_replay(one, order, tmp_path / "out")
    assert len(result["paths"]) == 1
    np.testing.assert_array_equal(replayed(tmp_path / "out", 90), pixels(one)[order])


def test_several_shards_replay_exactly_while_runs_are_few(catalogs, tmp_path):
    four = catalogs[1]
    order = np.array([3, 3, 1, 50, 50, 2, 17, 59, 0])
    result = write_replay(four, order, tmp_path)
    assert len(result["paths"]) == len(result["index_paths"]) == 6
    np.testing.assert_array_equal(replayed(tmp_path, 9), pixels(four)[order])


def test_grouping_by_shard_keeps_counts_and_the_order_within(catalogs, tmp_path, monkeypatch):
    four = catalogs[1]
    monkeypatch.setattr(replay_module, "MOST_RUNS", 4)
    order = IndexStream(np.arange(60.0), draws=90).epoch(0)[:]
    with pytest.raises(ValueError, match=re.escape("at most 4 runs of one shard as .idx files, but has ")):
        write_replay(four, order, tmp_path)
    write_replay(four, order, tmp_path, by_shard=True)
    expected = np.concatenate([order[order // 15 == shard] for shard in range(4)])
    np.testing.assert_array_equal(replayed(tmp_path, 90), pixels(four)[expected])


def test_a_second_export_leaves_nothing_of_the_first(catalogs, tmp_path):
    write_replay(catalogs[1], np.array([0, 20, 40]), tmp_path)
    write_replay(catalogs[1], np.array([0]), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["00000.idx", "replay.json", "replay.xxh128"]


def test_refusals(catalogs, tmp_path):
    (tmp_path / "shard.idx").write_text("mine")
    with pytest.raises(ValueError, match=re.escape("holds other .idx files (shard.idx, …)")):
        write_replay(catalogs[0], np.array([0]), tmp_path)
    assert (tmp_path / "shard.idx").read_text() == "mine"
    with pytest.raises(ValueError, match="at least one draw"):
        write_replay(catalogs[0], np.array([], dtype=np.int64), tmp_path)
    with pytest.raises(ValueError, match=re.escape("rows must be in [0, 60), but got 0 … 60")):
        write_replay(catalogs[0], np.array([0, 60]), tmp_path)


def test_any_flipped_bit_is_refused(catalogs, tmp_path):
    expected = write_replay(catalogs[1], np.array([0, 20, 40, 20]), tmp_path)
    assert read_replay(tmp_path) == expected
    for path in sorted(tmp_path.iterdir()):
        whole = path.read_bytes()
        for bit in range(0, 8 * len(whole), 13):
            damaged = bytearray(whole)
            damaged[bit // 8] ^= 1 << bit % 8
            path.write_bytes(damaged)
            with pytest.raises(ValueError, match="export it again"):
                read_replay(tmp_path)
        path.write_bytes(whole)
    assert read_replay(tmp_path) == expected


def test_an_export_that_is_not_whole_is_refused(catalogs, tmp_path):
    write_replay(catalogs[1], np.array([0, 20]), tmp_path)
    (tmp_path / "00001.idx").rename(tmp_path / "b.idx")
    with pytest.raises(ValueError, match=r"'00001\.idx' differs: export it again"):
        read_replay(tmp_path)
    (tmp_path / "replay.xxh128").unlink()
    with pytest.raises(FileNotFoundError, match="not finished: export it again"):
        read_replay(tmp_path)
