"""Weights of a user's file: each lands on its own row whatever the format and the order, or one line says why not."""

import gzip
import json

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from drawstream.samplers.files.weights_file import map_weights, read_weights
from drawstream.samplers.orders import IndexStream
from shared.refusals import refused
from shared.samples import array_catalog, write_table

ROWS = 40
RNG = np.random.default_rng(5)
WEIGHTS = RNG.integers(1, 999, ROWS) / 64
ORDER = RNG.permutation(ROWS)


@pytest.fixture(scope="module")
def catalog(tmp_path_factory):
    images = RNG.integers(0, 255, (ROWS, 4, 4), dtype=np.uint8)
    return array_catalog(tmp_path_factory.mktemp("digits"), images, np.arange(ROWS) % 3)


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
    refused("column `key` must be text, but is int64", lambda: map_weights(tmp_path / "w.parquet", catalog=Catalog()))
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
    refused("all files or none must have `sample_id` or `key`, but 2 have", map_weights, tmp_path, catalog=catalog)


def test_a_column_of_features_of_another_catalog_is_refused(catalog, tmp_path):
    for owner in (catalog.fingerprint, "f" * 32):
        write_table(tmp_path, catalog, {"loss": WEIGHTS.astype(np.float32)}, owner=owner)
        found = read_weights(tmp_path, column="loss")
        assert found.catalog == owner
        np.testing.assert_array_equal(found.values, WEIGHTS)
    refused(r"weights of catalog f{12}, but this is", map_weights, tmp_path, column="loss", catalog=catalog)


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
    refused(rf"but {name} may name them: add `key` or `sample_id`", map_weights, path, catalog=catalog)
    write_frame(table.assign(sample_id=ORDER), path)
    np.testing.assert_array_equal(map_weights(path, catalog=catalog), WEIGHTS)


@pytest.mark.parametrize("name", ["keys", "file", "filename", ""])
def test_keys_under_another_name_are_shown(name, catalog, tmp_path):
    assert catalog.key(0).isdecimal()  # numbers in CSV
    table = frame(catalog).rename(columns={"key": name})
    table.to_csv(tmp_path / "w.csv", index=False)
    with pytest.raises(ValueError, match=f"its column '{name}' holds keys of the catalog: call it `key`"):
        map_weights(tmp_path / "w.csv", catalog=catalog)
    refused(r"add `key` or `sample_id`|were sorted or filtered", map_weights, tmp_path / "w.csv")


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
