"""Reading members: right bytes in any order, and every kind of damage named with key and shard."""

import gc
import os
import resource
from pathlib import Path

import numpy as np
import pytest
import xxhash
from sklearn.datasets import load_digits

from drawstream.pipeline.reading import BadSampleError
from drawstream.pipeline.reading.open_files import OpenFiles
from drawstream.pipeline.reading.read import DAMAGED, OK, SHORT, UNREADABLE, ShardFiles, read_members
from drawstream.pipeline.shards import Catalog
from drawstream.pipeline.shards.pack import pack
from drawstream.pipeline.sources import ArraySource

DIGITS = load_digits()
PIXELS = (DIGITS.images * 15.9375).astype(np.uint8)


@pytest.fixture
def catalog(tmp_path):
    return Catalog.open(pack(ArraySource(PIXELS[:300], DIGITS.target[:300]), tmp_path / "d", shard_rows=50).train)


def flip_byte(path, at):
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 0x10]))


def open_descriptors():
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def test_bytes_in_any_order_with_repeats(catalog):
    samples = np.random.default_rng(0).integers(0, 300, 1000)
    data, bounds = ShardFiles(catalog).read(samples)
    assert bounds[0] == 0 and bounds[-1] == len(data)
    for i, sample in enumerate(samples.tolist()):
        path = catalog.shard_path(catalog.shard[sample])
        begin = catalog.offset[sample]
        assert data[bounds[i] : bounds[i + 1]].tobytes() == path.read_bytes()[begin : begin + catalog.size[sample]]


def test_nothing_to_read(catalog):
    data, bounds = ShardFiles(catalog).read(np.empty(0, np.int64))
    assert len(data) == 0 and bounds.tolist() == [0]


def test_status_of_each_member(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(bytes(range(100)))
    file = os.open(path, os.O_RDONLY)
    closed = os.dup(file)
    os.close(closed)
    right = xxhash.xxh32_intdigest(bytes(range(10, 20)))
    out, status = np.zeros(50, np.uint8), np.full(5, -1)
    read_members(
        np.array([file, file, file, closed, file], np.int32),
        np.array([10, 10, 95, 10, 10]),
        np.array([10] * 5),
        np.array([right, right + 1, right, right, right + 1], np.uint32),
        np.array([True, True, True, True, False]),
        np.array([0, 10, 20, 30, 40]),
        out,
        status,
    )
    os.close(file)
    assert status.tolist() == [OK, DAMAGED, SHORT, UNREADABLE, OK]
    assert out[:10].tolist() == list(range(10, 20)) and out[20:25].tolist() == list(range(95, 100))


@pytest.mark.parametrize("when", ["before the file is opened", "after"])
def test_flipped_byte_is_named(catalog, when):
    files = ShardFiles(catalog)
    if when == "after":
        files.read(np.array([120]))
    flip_byte(catalog.shard_path(2), int(catalog.offset[120]) + 5)
    files.read(np.array([100, 119, 121]))  # the neighbours are sound
    text = rf"sample '{catalog.key(120)}' \(row 120\) of {catalog.shard_path(2)}: its 64 bytes do not match"
    with pytest.raises(BadSampleError, match=text) as caught:
        files.read(np.array([7, 120, 3]))
    assert caught.value.sample_id == 120


def test_truncated_shard_is_named(catalog):
    files = ShardFiles(catalog)
    files.read(np.arange(300))
    os.truncate(catalog.shard_path(1), int(catalog.offset[80]) + 30)
    files.read(np.arange(80))
    with pytest.raises(BadSampleError, match=r"\(row 80\) of .*shard-000001.tar: the shard ends before byte"):
        files.read(np.arange(300))


def test_vanished_shard_is_named(catalog):
    catalog.shard_path(4).unlink()
    with pytest.raises(BadSampleError, match=r"\(row 233\) of .*shard-000004.tar: it cannot be opened \(No such file"):
        ShardFiles(catalog).read(np.array([1, 233, 222]))


def test_descriptors_stay_bounded(tmp_path):
    catalog = Catalog.open(pack(ArraySource(PIXELS[:300], DIGITS.target[:300]), tmp_path / "d", shard_rows=1).train)
    files = ShardFiles(catalog, pool=OpenFiles(20))
    gc.collect()  # what earlier tests left open must not be closed in between
    before = open_descriptors()
    order = np.random.default_rng(0).permutation(300)
    data, bounds = files.read(order)
    assert open_descriptors() - before == 20
    whole, starts = ShardFiles(catalog).read(np.arange(300))
    for i, sample in enumerate(order.tolist()):
        assert (data[bounds[i] : bounds[i + 1]] == whole[starts[sample] : starts[sample + 1]]).all()
    for part in np.split(order, 30):
        files.read(part)
        assert open_descriptors() - before <= 20 + 1  # and the one that lists them
    files.close()
    assert open_descriptors() - before <= 1


def test_more_shards_than_a_process_may_open(tmp_path):
    catalog = Catalog.open(pack(ArraySource(PIXELS[:200], DIGITS.target[:200]), tmp_path / "d", shard_rows=1).train)
    files = ShardFiles(catalog, pool=OpenFiles(16))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (open_descriptors() + 24, hard))
    try:
        data, _ = files.read(np.arange(200))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert len(data) == 200 * 64


def test_a_file_that_is_read_stays_open(catalog):
    files = ShardFiles(catalog, pool=OpenFiles(1))
    order = np.random.default_rng(1).permutation(300)
    data, _ = files.read(order)
    expected = [Path(catalog.shard_path(catalog.shard[s])).read_bytes()[catalog.offset[s] :][:64] for s in order]
    assert data.tobytes() == b"".join(expected)
