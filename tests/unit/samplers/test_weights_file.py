"""Weights from files: the same stream whatever the format, mapped where it allows that; strange files are one line."""

import os
import re
import tempfile

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import drawstream.samplers.files.weights_file as weights_file
from drawstream import IndexStream, map_weights
from drawstream.samplers.orders.stratified_on_disk import StratifiedOnDisk
from drawstream.search.auto.record import write_distribution
from shared.refusals import refused


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
    refused("must be named, but there are a, b", map_weights, path)
    refused("but a, b may name them: add `key` or `sample_id`", map_weights, path, column="n")
    save(a=[1.5, 2.0], b=[3.0, 4.25], n=[1, 2])
    assert map_weights(path, column="n").tolist() == [1, 2]
    save(a=[1.0, 2.0], b=[3.0, 4.0], n=[1, 2], sample_id=[1, 0])
    assert map_weights(path, column="n").tolist() == [2, 1]
    save(a=[1.0, 2.0], b=[3.0, 4.0], n=[1, 2])
    refused("column 'c' must hold numbers, but is missing; there are a, b, n", map_weights, path, column="c")
    save(a=[1.0, None])
    refused("must not be null, but row 1 is", map_weights, path)
    save(a=pa.array([], pa.float32()))
    refused("must have rows, but has none", map_weights, path)


def test_refusals(tmp_path):
    refused("no such file: weights are read from", map_weights, tmp_path / "none.npy", error=FileNotFoundError)
    refused("no weights there", map_weights, tmp_path, error=FileNotFoundError)
    for name in ("w.npy", "w.arrow", "w.parquet"):
        (tmp_path / name).write_bytes(b"something else")
        refused(re.escape(str(tmp_path / name)), map_weights, tmp_path / name)
    (tmp_path / "w.xlsx").write_text("1")
    refused(r"unknown kind of file '\.xlsx'", map_weights, tmp_path / "w.xlsx")
    np.save(tmp_path / "i.npy", np.ones((3, 1)))
    refused(re.escape("must have shape (rows,), but got float64 (3, 1)"), map_weights, tmp_path / "i.npy")
    pq.write_table(pa.table({"p": np.ones(2)}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"p": np.ones(2, np.float32)}), tmp_path / "b.parquet")
    for name in ("w.arrow", "w.parquet"):
        (tmp_path / name).unlink()
    refused("column 'p' is float32, but float64 in", map_weights, tmp_path)


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


ROWS = 40
RNG = np.random.default_rng(5)
WEIGHTS = RNG.integers(1, 999, ROWS) / 64
ORDER = RNG.permutation(ROWS)


@pytest.mark.parametrize(
    ("dtype", "kept"),
    [("i2", "f8"), ("u1", "f8"), ("?", "f8"), ("f2", "f4"), ("f4", "f4"), ("f8", "f8"), (">f4", "f4")],
)
def test_types_of_numbers(dtype, kept, tmp_path):
    values = np.arange(1, 9).astype(dtype)
    np.save(tmp_path / "w.npy", values)
    found = map_weights(tmp_path / "w.npy")
    assert found.dtype == kept and isinstance(found, np.memmap)
    np.testing.assert_array_equal(found, values.astype(kept))


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("w.csv", "", "not a readable .csv file (it is empty)"),
        ("w.csv", "weight\n", "must have rows, but has none"),
        ("w.csv", "key;weight\na;0,5\n", "columns must be parted by ',', but the header is 'key;weight'"),
        ("w.csv", "sample_id,weight\n0,0,5\n1,1\n", "Row #2: Expected 2 columns, got 3: 0,0,5"),
        ("w.csv", 'sample_id,weight\n0,1\n1,"0,5"\n', "row 1 (from 0) has '0,5': write 0.5, not 0,5"),
        ("w.csv", "weight\n1\n\n0.5x\n", "row 1 (from 0) has '0.5x'"),
        ("w.csv", "weight\n1\n-2\n", "row 1 is -2.0"),
        ("w.csv", "index,weight\n0,2\n1,\n", "row 1 is nan"),
        ("w.csv", "weight\n1\n1e400\n", "row 1 is inf"),
        ("w.csv", "0.5\n0.25\n", "the first line must name the columns, but is '0.5'"),
        ("w.csv", "img_1,0.5\nimg_2,0.25\n", "the first line must name the columns, but is 'img_1,0.5'"),
        ("w.csv", "weight,weight\n1,2\n", "a column must be there once, but the header is 'weight,weight'"),
        ("w.csv", "Key,key,weight\n1,2,3\n", "an id must be there once"),
        ("w.csv", "a,b\n1,2\n", "one column of numbers must be named, but there are a, b"),
        ("w.csv", "sample_id,label\n0,1\n1,2\n", "one column of numbers must be named, but there are none"),
        ("w.csv", "name\nx\n", "one column of numbers must be named, but there are none"),
        (
            "w.csv",
            "sample_id,weight\n0.0,1\n1.0,2\n",
            "column `sample_id` must be integers, but row 0 (from 0) has '0.0'",
        ),
        ("w.csv", "sample_id,weight\n0,1\n,2\n", "must be integers, but row 1 (from 0) has ''"),
        (
            "w.csv",
            "sample_id,weight\n0,1\n2,2\n",
            "1 of 2 rows belong to none of 2 images, first row 1 (from 0), sample_id",
        ),
        ("w.csv", "sample_id,crop,weight\n0,0,1\n0,1,2\n", "crops: join them to their feature table"),
        ("w.csv", ",weight\n1,2\n0,1\n", "its pandas index is not 0, 1, 2, …: they were sorted or filtered"),
        ("w.csv", "weight\n\xe9\n".encode("latin-1"), "not a readable .csv file"),
        ("w.csv", "weight\n1\n".encode("utf-16"), "not a readable .csv file"),
        ("w.csv", "weight,\n1,\n-2,\n", "row 1 is -2.0"),
        ("w.csv", "\n\nweight\n1\nx\n", "row 1 (from 0) has 'x'"),
        ("w.csv.gz", "weight\n1\n", "not a readable .csv.gz file"),
        ("w.json", "", "not readable as JSON"),
        ("w.json", "[]", "must have rows, but has none"),
        ("w.json", "3", "must be a list by row or an object by key, but is 3"),
        ("w.json", '{"a": 1, "a": 2}', "key 'a' comes twice in one object"),
        ("w.json", "[1, NaN]", "row 1 is nan"),
        ("w.json", "[1, null]", "must not be null, but row 1 is"),
        ("w.json", "[1, 1e400]", "row 1 is inf"),
        ("w.json", '[1, "2"]', "column 'w' must hold numbers, but row 1 (from 0) has '2'"),
        ("w.json", "[[1], [2]]", "one column of numbers must be named, but there are none"),
        ("w.json", '{"weight": [1], "loss": [1, 2]}', "their lengths are 'weight' 1, 'loss' 2"),
        ("w.json", "[" * 5000, "not readable as JSON"),
        ("w.json", '{"weight": {"1": 0.5, "0": 0.7}}', "its pandas index is not 0, 1, 2"),
        ("w.npz", "no zip", "not a readable .npz file"),
        ("w.txt", "1", "unknown kind of file '.txt'"),
    ],
)
def test_strange_files_are_one_line(name, content, text, tmp_path):
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(ValueError) as caught:
        map_weights(path)
    assert text in str(caught.value) and "\n" not in str(caught.value)


def test_python_objects_are_never_loaded(tmp_path):
    np.save(tmp_path / "w.npy", np.array([{"a": 1}], object), allow_pickle=True)
    np.savez(tmp_path / "w.npz", weight=np.ones(1), key=np.array(["a"], object))
    for name in ("w.npy", "w.npz"):
        refused(
            "it holds Python objects: save arrays of numbers, or of text with dtype=str", map_weights, tmp_path / name
        )


def test_rows_that_pandas_reordered_are_refused(tmp_path):
    table = pd.DataFrame({"weight": WEIGHTS})
    for number, moved in enumerate((table[::-1], table.sort_values("weight"), table[5:])):
        for write in (moved.to_parquet, moved.to_csv):
            path = tmp_path / f"{number}.{'csv' if write == moved.to_csv else 'parquet'}"
            write(path)
            refused("they were sorted or filtered", map_weights, path)
    table.to_parquet(tmp_path / "plain.parquet")
    np.testing.assert_array_equal(map_weights(tmp_path / "plain.parquet"), WEIGHTS)


def test_ranks_are_weights(tmp_path):
    pd.DataFrame({"weight": ORDER + 1}).to_csv(tmp_path / "w.csv", index=False)
    np.save(tmp_path / "w.npy", ORDER)
    assert map_weights(tmp_path / "w.csv").tolist() == (ORDER + 1).tolist()
    assert map_weights(tmp_path / "w.npy").tolist() == ORDER.tolist()


def test_a_pipe_is_refused_and_never_waited_for(tmp_path):
    os.mkfifo(tmp_path / "w.csv")
    refused(r"w\.csv: it must be a regular file: write its content to one", map_weights, tmp_path / "w.csv")


@pytest.mark.parametrize("name", ["index", "", "Unnamed: 0"])
def test_an_index_of_pandas_must_count_the_rows(name, tmp_path):
    for index, sound in ((np.arange(ROWS), True), (ORDER, False), (np.arange(ROWS) + 1, False), (ORDER * 1.0, False)):
        pd.DataFrame({name: index, "p": WEIGHTS}).to_csv(tmp_path / "w.csv", index=False)
        if sound:
            np.testing.assert_array_equal(map_weights(tmp_path / "w.csv"), WEIGHTS)
        else:
            with pytest.raises(ValueError, match="its pandas index is not 0, 1, 2"):
                map_weights(tmp_path / "w.csv")


def test_a_named_index_of_dates_is_another_column(tmp_path):
    dates = pd.date_range("2026-01-01", periods=ROWS, name="day")[ORDER]
    pd.DataFrame({"weight": WEIGHTS[ORDER]}, index=dates).to_parquet(tmp_path / "w.parquet")
    refused("but day may name them: add `key` or `sample_id`", map_weights, tmp_path / "w.parquet")


def test_a_folder_without_ids_has_one_order_of_names(tmp_path):
    for number in (1, 2, 10):
        pq.write_table(pa.table({"weight": [float(number)]}), tmp_path / f"part-{number}.parquet")
    refused(r"'part-10\.parquet' comes before 'part-2\.parquet' by name only: pad", map_weights, tmp_path)
    for number in (1, 2, 10):
        (tmp_path / f"part-{number}.parquet").rename(tmp_path / f"part-{number:02}.parquet")
    assert map_weights(tmp_path).tolist() == [1, 2, 10]
    for number in (1, 2, 10):  # by ids no order is needed
        (tmp_path / f"part-{number:02}.parquet").unlink()
        pq.write_table(pa.table({"sample_id": [number % 3], "w": [1.0 * number]}), tmp_path / f"{number}.parquet")
    pq.write_table(pa.table({"sample_id": [0], "w": [10.0]}), tmp_path / "10.parquet")
    assert map_weights(tmp_path).tolist() == [10, 1, 2]
