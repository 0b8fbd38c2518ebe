"""Files of weights without the catalog's ids: types, damage, strange content, and rows whose order is not known."""

import os

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from drawstream.samplers.files.weights_file import map_weights

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
        with pytest.raises(
            ValueError, match="it holds Python objects: save arrays of numbers, or of text with dtype=str"
        ):
            map_weights(tmp_path / name)


def test_rows_that_pandas_reordered_are_refused(tmp_path):
    table = pd.DataFrame({"weight": WEIGHTS})
    for number, moved in enumerate((table[::-1], table.sort_values("weight"), table[5:])):
        for write in (moved.to_parquet, moved.to_csv):
            path = tmp_path / f"{number}.{'csv' if write == moved.to_csv else 'parquet'}"
            write(path)
            with pytest.raises(ValueError, match="they were sorted or filtered"):
                map_weights(path)
    table.to_parquet(tmp_path / "plain.parquet")
    np.testing.assert_array_equal(map_weights(tmp_path / "plain.parquet"), WEIGHTS)


def test_ranks_are_weights(tmp_path):
    pd.DataFrame({"weight": ORDER + 1}).to_csv(tmp_path / "w.csv", index=False)
    np.save(tmp_path / "w.npy", ORDER)
    assert map_weights(tmp_path / "w.csv").tolist() == (ORDER + 1).tolist()
    assert map_weights(tmp_path / "w.npy").tolist() == ORDER.tolist()


def test_a_pipe_is_refused_and_never_waited_for(tmp_path):
    os.mkfifo(tmp_path / "w.csv")
    with pytest.raises(ValueError, match=r"w\.csv: it must be a regular file: write its content to one"):
        map_weights(tmp_path / "w.csv")


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
    with pytest.raises(ValueError, match="but day may name them: add `key` or `sample_id`"):
        map_weights(tmp_path / "w.parquet")


def test_a_folder_without_ids_has_one_order_of_names(tmp_path):
    for number in (1, 2, 10):
        pq.write_table(pa.table({"weight": [float(number)]}), tmp_path / f"part-{number}.parquet")
    with pytest.raises(ValueError, match=r"'part-10\.parquet' comes before 'part-2\.parquet' by name only: pad"):
        map_weights(tmp_path)
    for number in (1, 2, 10):
        (tmp_path / f"part-{number}.parquet").rename(tmp_path / f"part-{number:02}.parquet")
    assert map_weights(tmp_path).tolist() == [1, 2, 10]
    for number in (1, 2, 10):  # by ids no order is needed
        (tmp_path / f"part-{number:02}.parquet").unlink()
        pq.write_table(pa.table({"sample_id": [number % 3], "w": [1.0 * number]}), tmp_path / f"{number}.parquet")
    pq.write_table(pa.table({"sample_id": [0], "w": [10.0]}), tmp_path / "10.parquet")
    assert map_weights(tmp_path).tolist() == [10, 1, 2]
