"""Weights of a user's file: each lands on its own row whatever the format and the order, or one line says why not."""

import gzip
import json
import os

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from drawstream.features.table.table import part_path, write_part
from drawstream.pipeline import ArraySource, Catalog
from drawstream.pipeline.shards.pack import pack
from drawstream.samplers import IndexStream
from drawstream.samplers.files.weights_file import map_weights, read_weights

ROWS = 40
RNG = np.random.default_rng(5)
WEIGHTS = RNG.integers(1, 999, ROWS) / 64
ORDER = RNG.permutation(ROWS)


@pytest.fixture(scope="module")
def catalog(tmp_path_factory):
    images = RNG.integers(0, 255, (ROWS, 4, 4), dtype=np.uint8)
    return Catalog.open(pack(ArraySource(images, np.arange(ROWS) % 3), tmp_path_factory.mktemp("digits")).train)


def frame(catalog, ids=("key",), order=ORDER):
    columns = {"key": [catalog.key(row) for row in order], "sample_id": order}
    return pd.DataFrame({name: columns[name] for name in ids} | {"weight": WEIGHTS[order]})


def write_as_csv(table, path):
    table.to_csv(path, index=False)


def write_with_index(table, path):
    table.to_csv(path)  # an unnamed first column


def write_excel_csv(table, path):
    path.write_bytes(b"\xef\xbb\xbf" + table.to_csv(index=False, lineterminator="\r\n").encode())


def write_spaced(table, path):
    path.write_text(table.to_csv(index=False).replace(",", ", "))


def write_categories(table, path):
    table.astype({name: "category" for name in table if name == "key"}).to_parquet(path)


def write_polars_categories(table, path):
    frame = pl.from_pandas(table)
    frame.with_columns(pl.col("key").cast(pl.Categorical)).write_ipc(path) if "key" in table else frame.write_ipc(path)


def write_npz(table, path):
    np.savez(path, **{name: table[name].to_numpy(str if name == "key" else None) for name in table})


def write_structured(table, path):
    np.save(path, np.rec.fromarrays([np.asarray(table[name].tolist()) for name in table], names=list(table)))


def write_json_by_key(table, path):
    path.write_text(json.dumps(dict(zip(table["key"], table["weight"], strict=True))))


def write_json_by_key_of_objects(table, path):
    pairs = zip(table["key"], table["weight"], strict=True)
    path.write_text(json.dumps({key: {"weight": weight, "note": "x"} for key, weight in pairs}))


def write_json_with_mark(table, path):
    path.write_text("\ufeff" + table.to_json(orient="records"), encoding="utf-8")


WAYS = {
    "csv": ("w.csv", write_as_csv),
    "csv with pandas' index": ("w.csv", write_with_index),
    "csv of Excel": ("w.csv", write_excel_csv),
    "csv with spaces": ("w.CSV", write_spaced),
    "csv.gz": ("w.csv.gz", write_as_csv),
    "tsv": ("w.tsv", lambda table, path: table.to_csv(path, index=False, sep="\t")),
    "parquet": ("w.parquet", lambda table, path: table.to_parquet(path)),
    "parquet of polars": ("w.parquet", lambda table, path: pl.from_pandas(table).write_parquet(path)),
    "parquet of categories": ("w.parquet", write_categories),
    "feather": ("w.feather", lambda table, path: table.to_feather(path)),
    "arrow of polars, categories": ("w.arrow", write_polars_categories),
    "arrow of polars": ("w.arrow", lambda table, path: pl.from_pandas(table).write_ipc(path)),
    "npz": ("w.npz", write_npz),
    "structured npy": ("w.npy", write_structured),
    "json by key": ("w.json", write_json_by_key),
    "json by key, objects": ("w.json", write_json_by_key_of_objects),
    "json records": ("w.json", write_json_with_mark),
    "json of pandas": ("w.json", lambda table, path: table.to_json(path)),
    "json columns": ("w.json", lambda table, path: path.write_text(json.dumps(table.to_dict("list")))),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("ids", [("key",), ("sample_id",), ("key", "sample_id")])
def test_rows_are_found_by_their_ids_in_every_format(way, ids, catalog, tmp_path):
    if way.startswith("json by key") and ids != ("key",):
        pytest.skip("the object's names are keys")
    name, write = WAYS[way]
    write(frame(catalog, ids), tmp_path / name)
    found = read_weights(tmp_path / name, catalog=catalog)
    np.testing.assert_array_equal(found.values, WEIGHTS)
    assert found.notes == () and found.catalog == ""
    assert IndexStream(found.values, seed=1).fingerprint == IndexStream(WEIGHTS, seed=1).fingerprint
    if "sample_id" in ids:  # which needs no catalog
        np.testing.assert_array_equal(map_weights(tmp_path / name), WEIGHTS)
    else:
        with pytest.raises(ValueError, match="named by `key`, which the catalog knows: give the catalog too"):
            map_weights(tmp_path / name)


PLAIN = {
    "list.json": lambda path: path.write_text(json.dumps(WEIGHTS.tolist())),
    "w.npz": lambda path: np.savez(path, WEIGHTS),
    "named.npz": lambda path: np.savez(path, weight=WEIGHTS),
    "really npy.npz": lambda path: path.write_bytes(npy(WEIGHTS)),
    "w.npy": lambda path: np.save(path, WEIGHTS),
    "big.npy": lambda path: np.save(path, WEIGHTS.astype(">f8")),
    "w.csv": lambda path: path.write_text("weight\n" + "\n".join(map(repr, WEIGHTS.tolist()))),
    "index.csv": lambda path: pd.DataFrame({"weight": WEIGHTS}).to_csv(path),
    "w.csv.gz": lambda path: path.write_bytes(gzip.compress(pd.DataFrame({"p": WEIGHTS}).to_csv(index=False).encode())),
    "w.parquet": lambda path: pd.DataFrame({"p": WEIGHTS}).to_parquet(path),
    "records.json": lambda path: path.write_text(json.dumps([{"weight": weight} for weight in WEIGHTS])),
    "pandas.json": lambda path: pd.DataFrame({"weight": WEIGHTS}).to_json(path),
}


def npy(array):
    import io

    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


@pytest.mark.parametrize("name", PLAIN)
def test_a_file_without_ids_goes_by_its_order_and_says_so(name, catalog, tmp_path):
    PLAIN[name](tmp_path / name)
    found = read_weights(tmp_path / name, catalog=catalog)
    np.testing.assert_array_equal(found.values, WEIGHTS)
    (note,) = found.notes
    assert note == f"{tmp_path / name}: without a column `sample_id` or `key` its rows are taken in their order"


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


def test_keys_that_look_like_numbers_stay_text(tmp_path):
    class Catalog:
        fingerprint = ""
        keys = ("00012", "12", "1e3", "NA", "nan", "True")

        def __len__(self):
            return len(self.keys)

        def key(self, row):
            return self.keys[row]

        def rows_of(self, keys):
            return np.array([self.keys.index(key) if key in self.keys else -1 for key in keys.to_pylist()])

    (tmp_path / "w.csv").write_text("key,weight\n12,1\n00012,2\nTrue,3\nnan,4\n1e3,5\nNA,6\n")
    assert map_weights(tmp_path / "w.csv", catalog=Catalog()).tolist() == [2, 1, 5, 6, 4, 3]
    (tmp_path / "w.json").write_text('{"12": 1, "00012": 2, "True": 3, "nan": 4, "1e3": 5, "NA": 6}')
    assert map_weights(tmp_path / "w.json", catalog=Catalog()).tolist() == [2, 1, 5, 6, 4, 3]
    pq.write_table(pa.table({"key": [12, 1000], "weight": [1.0, 2.0]}), tmp_path / "w.parquet")
    with pytest.raises(ValueError, match="column `key` must be text, but is int64"):
        map_weights(tmp_path / "w.parquet", catalog=Catalog())
    (tmp_path / "w.csv").write_text("key,weight\n12,1\n0012,2\n")
    with pytest.raises(
        ValueError, match=r"1 of 2 rows belong to none of 6 images \(its keys are like '00012'\), .* row 1 "
    ):
        map_weights(tmp_path / "w.csv", catalog=Catalog())


def table_of(catalog, **changes):
    columns = {"key": [catalog.key(row) for row in range(ROWS)], "weight": WEIGHTS.tolist()} | changes
    return pa.table(columns)


@pytest.mark.parametrize("format_", ["csv", "parquet", "json"])
@pytest.mark.parametrize(
    ("change", "text"),
    [
        (
            lambda t: t.slice(1),
            r"every image of the catalog must have its row here, but 1 of 40 have none: sample 0 \('",
        ),
        (
            lambda t: pa.concat_tables([t, t.slice(3, 2)]),
            r"2 rows name one that an earlier row names: first rows 3 and 40",
        ),
        (
            lambda t: pa.concat_tables([t, pa.table({"key": ["?"], "weight": [1.0]})]),
            r"1 of 41 rows .* row 40 .*, key '\?'",
        ),
        (lambda t: with_weight(t, 7, -0.5), r"row 7 \(from 0\), key '.*', is -0\.5 \(1 such of 40 rows\)"),
        (lambda t: with_weight(t, 7, float("inf")), r"row 7 \(from 0\), key '.*', is inf"),
        (lambda t: with_weight(t, 7, float("nan")), r"row 7 \(from 0\), key '.*', is nan"),
        (lambda t: with_weight(t, 7, None), r"row 7 \(from 0\), key '.*', is nan"),
        (
            lambda t: t.set_column(1, "weight", pa.array([0.0] * ROWS)),
            "at least one weight must be > 0, but all 40 are 0",
        ),
        (lambda t: t.set_column(1, "weight", pa.array(["0.5"] * 39 + ["high"])), "row 39 .from 0. has 'high'"),
        (
            lambda t: t.append_column("sample_id", pa.array(np.roll(np.arange(ROWS), 1))),
            "40 rows disagree, first row 0",
        ),
    ],
)
def test_ids_and_values_that_do_not_fit_are_refused(format_, change, text, catalog, tmp_path):
    path, table = tmp_path / f"w.{format_}", change(table_of(catalog))
    if format_ == "parquet":
        pq.write_table(table, path)
    elif format_ == "csv":
        table.to_pandas().to_csv(path, index=False)
    else:
        path.write_text(json.dumps(table.to_pylist()))
    with pytest.raises(ValueError, match=text) as caught:
        map_weights(path, catalog=catalog)
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


def with_weight(table, row, value):
    values = table["weight"].to_pylist()
    values[row] = value
    return table.set_column(1, "weight", pa.array(values))


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


def test_lengths_and_catalogs_that_do_not_fit(catalog, tmp_path):
    np.save(tmp_path / "w.npy", np.ones(7))
    with pytest.raises(
        ValueError, match=r"w\.npy has 7 weights, the catalog 40 images: give one each, in catalog order"
    ):
        map_weights(tmp_path / "w.npy", catalog=catalog)
    for owner in ("f" * 32, catalog.fingerprint):
        metadata = {"drawstream.distribution": "1", "catalog": owner}
        pq.write_table(pa.table({"weight": WEIGHTS}).replace_schema_metadata(metadata), tmp_path / "d.parquet")
        found = read_weights(tmp_path / "d.parquet")
        assert (found.catalog, found.notes) == (owner, ())
    assert read_weights(tmp_path / "d.parquet", catalog=catalog).notes == ()
    pq.write_table(
        pa.table({"weight": WEIGHTS}).replace_schema_metadata(metadata | {"catalog": "f" * 32}), tmp_path / "d.parquet"
    )
    with pytest.raises(ValueError, match=f"weights of catalog f{{12}}, but this is {catalog.fingerprint[:12]}: give"):
        map_weights(tmp_path / "d.parquet", catalog=catalog)


def test_a_folder_of_parts_with_ids(catalog, tmp_path):
    table = frame(catalog)
    table[:15].to_parquet(tmp_path / "b.parquet")
    table[15:].to_parquet(tmp_path / "a.parquet")
    np.testing.assert_array_equal(map_weights(tmp_path, catalog=catalog), WEIGHTS)
    pq.write_table(pa.table({"weight": [1.0]}), tmp_path / "c.parquet")
    with pytest.raises(ValueError, match="all files or none must have `sample_id` or `key`, but 2 have"):
        map_weights(tmp_path, catalog=catalog)


def test_a_column_of_features_of_another_catalog_is_refused(catalog, tmp_path):
    for owner in (catalog.fingerprint, "f" * 32):
        columns = {"sample_id": np.arange(ROWS), "crop": np.zeros(ROWS, np.int32), "label": catalog.label}
        columns["loss"] = WEIGHTS.astype(np.float32)
        write_part(part_path(tmp_path, 0), columns, {"catalog": owner, "parts": 1})
        found = read_weights(tmp_path, column="loss")
        assert found.catalog == owner
        np.testing.assert_array_equal(found.values, WEIGHTS)
    with pytest.raises(ValueError, match=r"weights of catalog f{12}, but this is"):
        map_weights(tmp_path, column="loss", catalog=catalog)


@pytest.mark.parametrize("way", WAYS)
def test_a_damaged_file_is_one_line_or_gives_weights(way, catalog, tmp_path):
    name, write = WAYS[way]
    write(frame(catalog), tmp_path / name)
    whole, random = (tmp_path / name).read_bytes(), np.random.default_rng(0)
    refused = 0
    for number in range(20):
        data = bytearray(whole)
        if number % 2:
            data = data[: random.integers(len(data))]
        else:
            data[random.integers(len(data))] ^= 1 << random.integers(8)
        (tmp_path / name).write_bytes(data)
        try:
            found = map_weights(tmp_path / name, catalog=catalog)
        except ValueError as error:
            refused += 1
            assert str(error).startswith(str(tmp_path / name)) and "\n" not in str(error)
        else:
            assert found.size == ROWS and np.isfinite(found).all()
    assert refused >= 10


def test_ranks_are_weights(tmp_path):
    pd.DataFrame({"weight": ORDER + 1}).to_csv(tmp_path / "w.csv", index=False)
    np.save(tmp_path / "w.npy", ORDER)
    assert map_weights(tmp_path / "w.csv").tolist() == (ORDER + 1).tolist()
    assert map_weights(tmp_path / "w.npy").tolist() == ORDER.tolist()


def test_a_pipe_is_refused_and_never_waited_for(tmp_path):
    os.mkfifo(tmp_path / "w.csv")
    with pytest.raises(ValueError, match=r"w\.csv: it must be a regular file: write its content to one"):
        map_weights(tmp_path / "w.csv")


OTHER_IDS = {
    "filename": [f"{row}.jpg" for row in ORDER],
    "spaced": [f"dog number {row}" for row in ORDER],
    "repeated": [f"img{row // 4}.jpg" for row in ORDER],
    "from 0": ORDER,
    "from 1000": ORDER + 1000,
    "coco": 7 * ORDER + 3,
    "float": ORDER * 1.0,
    "in order": np.arange(ROWS),
    "date": pd.date_range("2026-01-01", periods=ROWS)[ORDER],
    "class": ["dog", "cat"] * 20,
    "crop": ORDER,
}


def write_frame(table, path):
    if path.suffix == ".json":
        table.to_json(path, orient="records", date_format="iso")
    else:
        table.to_csv(path, index=False) if path.suffix == ".csv" else table.to_parquet(path)
    return path


@pytest.mark.parametrize("format_", ["csv", "parquet", "json"])
@pytest.mark.parametrize("name", OTHER_IDS)
def test_a_file_with_columns_beside_its_weights_needs_ids(format_, name, catalog, tmp_path):
    table = pd.DataFrame({name: OTHER_IDS[name], "weight": WEIGHTS[ORDER]})
    path = write_frame(table, tmp_path / f"w.{format_}")
    with pytest.raises(ValueError, match=rf"but {name} may name them: add `key` or `sample_id`"):
        map_weights(path, catalog=catalog)
    write_frame(table.assign(sample_id=ORDER), path)
    np.testing.assert_array_equal(map_weights(path, catalog=catalog), WEIGHTS)


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


@pytest.mark.parametrize("name", ["keys", "file", "filename", ""])
def test_keys_under_another_name_are_shown(name, catalog, tmp_path):
    assert catalog.key(0).isdecimal()  # numbers in CSV
    table = frame(catalog).rename(columns={"key": name})
    table.to_csv(tmp_path / "w.csv", index=False)
    with pytest.raises(ValueError, match=f"its column '{name}' holds keys of the catalog: call it `key`"):
        map_weights(tmp_path / "w.csv", catalog=catalog)
    with pytest.raises(ValueError, match=r"add `key` or `sample_id`|were sorted or filtered"):
        map_weights(tmp_path / "w.csv")


@pytest.mark.parametrize("way", ["csv", "parquet", "npz", "json records"])
def test_the_key_of_webdataset_is_the_key(way, catalog, tmp_path):
    name, write = WAYS[way]
    if way == "npz":
        table = frame(catalog)
        np.savez(tmp_path / name, __key__=table["key"].to_numpy(str), weight=table["weight"])
    else:
        write(frame(catalog).rename(columns={"key": "__key__"}), tmp_path / name)
    np.testing.assert_array_equal(map_weights(tmp_path / name, catalog=catalog), WEIGHTS)


@pytest.mark.parametrize("mark", [",", ";", "\t"])
def test_the_first_line_of_excel_says_what_parts_the_columns(mark, catalog, tmp_path):
    text = f"sep={mark}\r\n" + frame(catalog).to_csv(index=False, sep=mark, lineterminator="\r\n")
    (tmp_path / "w.csv").write_text(text)
    np.testing.assert_array_equal(map_weights(tmp_path / "w.csv", catalog=catalog), WEIGHTS)


@pytest.mark.parametrize("name", ["key.json", "sample_id.json", "index.json", "__key__.json", "w.json"])
def test_the_name_of_a_json_file_does_not_hide_its_keys(name, catalog, tmp_path):
    write_json_by_key(frame(catalog), tmp_path / name)
    np.testing.assert_array_equal(map_weights(tmp_path / name, catalog=catalog), WEIGHTS)
    (tmp_path / name).write_text(json.dumps(WEIGHTS.tolist()))
    np.testing.assert_array_equal(map_weights(tmp_path / name, catalog=catalog), WEIGHTS)


def test_json_of_columns_by_key(catalog, tmp_path):
    path, by_key = tmp_path / "w.json", dict(zip(frame(catalog)["key"], WEIGHTS[ORDER], strict=True))
    for name in ("weights", "weight"):
        path.write_text(json.dumps({name: by_key}))
        np.testing.assert_array_equal(map_weights(path, catalog=catalog), WEIGHTS)
    pd.DataFrame({"p": WEIGHTS}).to_json(path)
    np.testing.assert_array_equal(map_weights(path, catalog=catalog), WEIGHTS)
    path.write_text(json.dumps({key: [weight] for key, weight in by_key.items()}))
    with pytest.raises(ValueError, match=r"must have a number for each, as \{\"\d+\": 0.5\}, but has \[") as caught:
        map_weights(path, catalog=catalog)
    assert len(str(caught.value)) < 300
    path.write_text(json.dumps({key: [weight, 1.0] for key, weight in by_key.items()}))
    with pytest.raises(ValueError, match=r"one column of numbers must be named, .*, … \(40 in all\)") as caught:
        map_weights(path, catalog=catalog)
    assert len(str(caught.value)) < 400


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
