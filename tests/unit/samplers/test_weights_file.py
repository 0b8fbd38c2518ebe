"""Weights from files: the same stream whatever the format, mapped in place where the format allows it."""

import re
import tempfile

import numpy as np
import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import drawstream.samplers.files.weights_file as weights_file
from drawstream.samplers.files.weights_file import map_weights
from drawstream.samplers.orders import IndexStream
from drawstream.samplers.orders.stratified_on_disk import StratifiedOnDisk
from drawstream.search.auto.record import write_distribution


def write(folder, kind, weights, rows_per_batch):
    """A file of one kind that holds the weights in its column p, beside pandas' index."""
    table = pa.table({"index": np.arange(weights.size), "p": weights})
    path = folder / f"weights.{kind.split('-')[0]}"
    if kind == "npy":
        np.save(path, weights)
    elif kind == "parquet":
        pq.write_table(table, path, row_group_size=rows_per_batch)
    else:
        compression = "lz4" if kind.endswith("lz4") else "uncompressed"
        feather.write_feather(table, path, compression=compression, chunksize=rows_per_batch)
    return path


@given(
    st.sampled_from(["npy", "parquet", "arrow", "arrow-lz4", "feather"]),
    st.integers(1, 3000),
    st.sampled_from([7, 500, 5000]),
    st.sampled_from([np.float32, np.float64]),
    st.integers(0, 2**32),
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_stream_is_that_of_the_same_weights_in_memory(tmp_path, kind, rows, batch, dtype, seed):
    random = np.random.default_rng(seed)
    weights = (random.random(rows) ** 4 * (random.random(rows) < 0.8)).astype(dtype)
    weights[random.integers(rows)] = 1
    mapped = map_weights(write(tmp_path, kind, weights, batch))
    assert isinstance(mapped, np.memmap)
    assert mapped.dtype == dtype
    near, far = IndexStream(mapped, seed=3), IndexStream(weights, seed=3)
    assert isinstance(near._law, StratifiedOnDisk)
    np.testing.assert_array_equal(near.epoch(1)[:], far.epoch(1)[:])
    np.testing.assert_array_equal(near.epoch(1).weights(0, rows), far.epoch(1).weights(0, rows))
    assert near.fingerprint == far.fingerprint


def test_one_uncompressed_batch_is_mapped_where_it_lies(tmp_path, monkeypatch):
    weights = np.random.default_rng(0).random(1000)
    path = write(tmp_path, "arrow", weights, 1000)
    monkeypatch.setattr(tempfile, "TemporaryFile", None)
    mapped = map_weights(path)
    assert mapped.filename == path
    np.testing.assert_array_equal(mapped, weights)
    with pytest.raises(TypeError):
        map_weights(write(tmp_path, "parquet", weights, 1000))


def test_a_folder_is_its_files_in_order_of_name(tmp_path, monkeypatch):
    monkeypatch.setattr(weights_file, "_BATCH", 16)
    parts = [np.random.default_rng(i).random(40 + i) for i in range(3)]
    for i in (2, 0, 1):
        pq.write_table(pa.table({"p": parts[i] * 2}), tmp_path / f"part-{i}.parquet")
    mapped = map_weights(tmp_path, column="p", folder=tmp_path)
    np.testing.assert_array_equal(mapped, 2 * np.concatenate(parts))
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".parquet"] * 3


def test_half_precision_becomes_single(tmp_path):
    half = np.array([0.5, 0.1, 2], dtype=np.float16)
    feather.write_feather(pa.table({"p": half}), tmp_path / "p.feather", compression="uncompressed")
    mapped = map_weights(tmp_path / "p.feather")
    assert mapped.dtype == np.float32
    np.testing.assert_array_equal(mapped, half.astype(np.float32))


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_columns_and_nulls(tmp_path, kind):
    path = tmp_path / f"w.{kind}"

    def save(**columns):
        table = pa.table(columns)
        pq.write_table(table, path) if kind == "parquet" else feather.write_feather(table, path, "uncompressed")

    save(a=[1.0, 2.0], b=[3.0, 4.0], n=[1, 2])
    with pytest.raises(ValueError, match="must be named, but there are a, b"):
        map_weights(path)
    with pytest.raises(ValueError, match="but a, b may name them: add `key` or `sample_id`"):
        map_weights(path, column="n")
    save(a=[1.5, 2.0], b=[3.0, 4.25], n=[1, 2])
    assert map_weights(path, column="n").tolist() == [1, 2]
    save(a=[1.0, 2.0], b=[3.0, 4.0], n=[1, 2], sample_id=[1, 0])
    assert map_weights(path, column="n").tolist() == [2, 1]
    save(a=[1.0, 2.0], b=[3.0, 4.0], n=[1, 2])
    with pytest.raises(ValueError, match="column 'c' must hold numbers, but is missing; there are a, b, n"):
        map_weights(path, column="c")
    save(a=[1.0, None])
    with pytest.raises(ValueError, match="must not be null, but row 1 is"):
        map_weights(path)
    save(a=pa.array([], pa.float32()))
    with pytest.raises(ValueError, match="must have rows, but has none"):
        map_weights(path)


def test_refusals(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file: weights are read from"):
        map_weights(tmp_path / "none.npy")
    with pytest.raises(FileNotFoundError, match="no weights there"):
        map_weights(tmp_path)
    for name in ("w.npy", "w.arrow", "w.parquet"):
        (tmp_path / name).write_bytes(b"something else")
        with pytest.raises(ValueError, match=re.escape(str(tmp_path / name))):
            map_weights(tmp_path / name)
    (tmp_path / "w.xlsx").write_text("1")
    with pytest.raises(ValueError, match=r"unknown kind of file '\.xlsx'"):
        map_weights(tmp_path / "w.xlsx")
    np.save(tmp_path / "i.npy", np.ones((3, 1)))
    with pytest.raises(ValueError, match=re.escape("must have shape (rows,), but got float64 (3, 1)")):
        map_weights(tmp_path / "i.npy")
    pq.write_table(pa.table({"p": np.ones(2)}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"p": np.ones(2, np.float32)}), tmp_path / "b.parquet")
    for name in ("w.arrow", "w.parquet"):
        (tmp_path / name).unlink()
    with pytest.raises(ValueError, match="column 'p' is float32, but float64 in"):
        map_weights(tmp_path)


def test_a_flipped_bit_in_a_distribution_is_refused_or_changes_nothing(tmp_path):
    path = tmp_path / "distribution.parquet"
    write_distribution(path, np.arange(1, 50), catalog="", provenance={})
    whole = path.read_bytes()
    expected, refused = np.array(map_weights(path, column="weight")), 0
    for bit in range(0, 8 * len(whole), 17):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        try:
            np.testing.assert_array_equal(map_weights(path, column="weight"), expected)
        except (ValueError, OSError):
            refused += 1
    assert refused
