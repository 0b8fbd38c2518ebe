"""User columns: rows find their row whatever its order, and what does not fit is refused by name and number."""

import gzip
import json
from types import SimpleNamespace

import numpy as np
import pandas
import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drawstream.features.table import FeatureTable
from drawstream.features.table.join import join_file
from drawstream.features.table.part import part_path, write_part
from shared.refusals import refused
from shared.samples import array_catalog, write_table

ROWS = 12
RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def catalog(tmp_path_factory):
    images = RNG.integers(0, 255, (ROWS, 4, 4), dtype=np.uint8)
    return array_catalog(tmp_path_factory.mktemp("digits"), images, np.arange(ROWS) % 3)


@pytest.fixture
def table(tmp_path, catalog):
    """Two parts, two crops per sample."""
    for i in range(2):
        ids = np.repeat(np.arange(6 * i, 6 * i + 6), 2)
        columns = {
            "sample_id": ids,
            "crop": np.tile(np.arange(2, dtype=np.int32), 6),
            "label": catalog.label[ids],
            "loss": RNG.random(12).astype(np.float32),
        }
        write_part(part_path(tmp_path, i), columns, {"catalog": catalog.fingerprint, "parts": 2})
    return tmp_path


def write(folder, **columns):
    path = folder / "more.parquet"
    pq.write_table(pa.table(columns), path)
    return path


def test_by_sample_in_any_order(table, tmp_path):
    ids = RNG.permutation(ROWS)
    path = write(tmp_path, margin=ids * 0.5, sample_id=ids, good=ids % 2 == 0, size=ids.astype(np.int16))
    opened = FeatureTable.open(table, join=[path])
    assert opened.names == ("loss", "margin", "good", "size")
    columns = opened.columns("margin", "good", "size", "loss")
    assert {values.dtype.name for values in columns.values()} == {"float32"}
    assert columns["margin"].tolist() == (opened.sample_id * 0.5).tolist()
    assert columns["good"].tolist() == (opened.sample_id % 2 == 0).tolist()
    assert columns["size"].tolist() == opened.sample_id.tolist()
    assert opened.joined[0].notes == ()
    with pytest.raises(ValueError, match="read-only"):
        columns["margin"][0] = 1


def test_by_key_through_the_catalog(table, tmp_path, catalog):
    order = RNG.permutation(ROWS)
    keys = [catalog.key(row) for row in order] + ["stranger"]
    path = write(tmp_path, key=keys, margin=np.append(order, -1.0), caption=["x"] * 13)
    opened = FeatureTable.open(table, join=[path], catalog=catalog)
    assert opened.columns("margin")["margin"].tolist() == opened.sample_id.tolist()
    assert opened.joined[0].notes == (
        f"{path}: 1 of 13 rows belong to no row of the table and are left out",
        f"{path}: columns that are no numbers are left out: caption",
    )
    refused("named by `key`, which the catalog knows: give the catalog too", FeatureTable.open, table, join=[path])


def test_by_sample_and_crop(table, tmp_path):
    sample, crop = np.divmod(RNG.permutation(3 * ROWS), 3)
    path = write(tmp_path, sample_id=sample, crop=crop, margin=sample + crop / 8)
    opened = FeatureTable.open(table, join=[path])
    assert opened.columns("margin")["margin"].tolist() == (opened.sample_id + opened.crop / 8).tolist()
    assert "12 of 36 rows" in opened.joined[0].notes[0]


def test_several_files_and_blocks(table, tmp_path, monkeypatch):
    monkeypatch.setattr("drawstream.features.table.part.BLOCK", 5)
    first = write(tmp_path, sample_id=np.arange(ROWS), a=np.arange(ROWS) / 2)
    second = first.rename(tmp_path / "second.parquet")
    third = write(tmp_path, sample_id=np.arange(ROWS), b=np.arange(ROWS) / 4)
    opened = FeatureTable.open(table, join=[second, third])
    assert opened.names == ("loss", "a", "b")
    for names in (("b", "loss", "a"), ("a",)):
        blocks = list(opened.blocks(*names))
        for name, values in opened.columns(*names).items():
            assert np.concatenate([block[name] for block in blocks]).tolist() == values.tolist()


def test_the_fingerprint_covers_the_joined_values_and_not_their_file(table, tmp_path):
    plain = FeatureTable.open(table).fingerprint
    path = write(tmp_path, sample_id=np.arange(ROWS), a=np.arange(ROWS) / 2)
    joined = FeatureTable.open(table, join=[path]).fingerprint
    path = path.rename(tmp_path / "renamed.parquet")
    assert FeatureTable.open(table, join=[path]).fingerprint == joined != plain
    path = write(tmp_path, sample_id=np.arange(ROWS)[::-1], a=np.arange(ROWS)[::-1] / 2)
    assert FeatureTable.open(table, join=[path]).fingerprint == joined
    path = write(tmp_path, sample_id=np.arange(ROWS)[::-1], a=np.arange(ROWS) / 2)
    assert FeatureTable.open(table, join=[path]).fingerprint not in (joined, plain)
    path = write(tmp_path, sample_id=np.arange(ROWS), b=np.arange(ROWS) / 2)
    assert FeatureTable.open(table, join=[path]).fingerprint not in (joined, plain)


IDS = np.arange(ROWS)


@pytest.mark.parametrize(
    ("columns", "text"),
    [
        ({"a": IDS}, "a column `sample_id` or `key` must say which sample a row is, but there are a"),
        ({"sample_id": IDS}, "there must be a column of numbers to join, but there are sample_id"),
        ({"sample_id": IDS, "loss": IDS}, "a column 'loss' is there already: rename it, or leave it out"),
        ({"sample_id": IDS, "label": IDS}, "a column 'label' is there already"),
        ({"sample_id": IDS * 1.0, "a": IDS}, "`sample_id` must be integers without nulls, but is double with 0 nulls"),
        ({"sample_id": [None, *range(11)], "a": IDS}, "must be integers without nulls, but is int64 with 1 nulls"),
        ({"sample_id": IDS[4:], "a": IDS[4:]}, r"but 8 of 24 have none: sample 0 \(.+\), sample 0 \(.+\), .*…"),
        ({"sample_id": IDS, "crop": IDS * 0, "a": IDS}, r"12 of 24 have none: sample 0 \(.+\) crop 1, sample 1 "),
        ({"sample_id": np.append(IDS, [3, 3]), "a": np.arange(14)}, "2 rows name one that .*: first rows 3 and 12"),
        ({"sample_id": IDS, "a": [np.nan, np.inf, *range(10)]}, r"'a' must be finite, but 4 of 24 rows .* row 0 \(nan"),
        ({"sample_id": IDS, "a": [*range(10), None, None]}, r"4 of 24 .* first at row 10 \(nan, sample 10\)"),
        ({"sample_id": IDS, "a": [1e39, *range(11)]}, r"2 of 24 rows are not, the first at row 0 \(inf, sample 0\)"),
        ({"key": IDS, "a": IDS}, "column `key` must be text, but is int64"),
        ({"key": ["?"] * 12, "a": IDS}, "24 of 24 have none"),
        ({"sample_id": IDS[:0], "a": IDS[:0]}, "24 of 24 have none"),
    ],
)
def test_what_does_not_fit_is_refused(table, tmp_path, catalog, columns, text):
    path = write(tmp_path, **columns)
    assert refused(text, FeatureTable.open, table, join=[path], catalog=catalog).startswith(str(path))


def test_two_files_with_one_name_and_files_that_are_none(table, tmp_path):
    path = write(tmp_path, sample_id=IDS, a=IDS)
    refused("a column 'a' is there already", FeatureTable.open, table, join=[path, path])
    with pytest.raises(FileNotFoundError, match="no such file to join"):
        FeatureTable.open(table, join=[tmp_path / "nothing.parquet"])
    path.write_text("no Parquet")
    refused("not a readable Parquet file", FeatureTable.open, table, join=[path])


def test_another_catalog_is_refused(table, tmp_path, catalog):
    other = SimpleNamespace(fingerprint="0" * 32, path=tmp_path)
    with pytest.raises(ValueError, match=r"but .* is 0{12}: extract them from it"):
        FeatureTable.open(table, join=[write(tmp_path, sample_id=IDS, a=IDS)], catalog=other)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_every_row_finds_its_only_partner(tmp_path_factory, data):
    """Against a dictionary, for any ids: the same values, or an error just when a row has no partner or two."""
    ids = data.draw(st.lists(st.integers(0, 8), max_size=10))
    rows = data.draw(st.lists(st.integers(0, 8), min_size=1, max_size=10))
    path = write(tmp_path_factory.mktemp("join"), sample_id=np.array(ids, np.int64), a=np.arange(len(ids)) / 2)
    whole = len(set(ids)) == len(ids) and set(rows) <= set(ids)
    sample = np.array(rows, np.int64)
    arguments = (path, sample, np.zeros(sample.size, np.int32), (), None)
    if not whole:
        refused("must have", join_file, *arguments)
        return
    joined = join_file(*arguments)
    assert joined.columns["a"].tolist() == [ids.index(row) / 2 for row in rows]
    assert len(joined.notes) == (set(ids) > set(rows))


def test_a_damaged_page_is_one_line_with_the_file(table, tmp_path):
    path = tmp_path / "more.parquet"
    values = pa.table({"sample_id": np.arange(ROWS), "age": RNG.random(ROWS)})
    pq.write_table(values, path, write_page_checksum=True, use_dictionary=False, compression="none")
    data = bytearray(path.read_bytes())
    data[data.index(values["age"].to_numpy().tobytes())] ^= 1
    path.write_bytes(data)
    refused(r"more\.parquet: not a readable Parquet file \(.*CRC", FeatureTable.open, table, join=[path])


@pytest.fixture
def whole(tmp_path, catalog):
    """A table of whole images, one row each."""
    return write_table(tmp_path / "whole", catalog, {"loss": IDS / np.float32(8)})


def test_every_format_joins_by_key_or_by_sample(table, tmp_path, catalog):
    order = RNG.permutation(ROWS)
    keys = [catalog.key(row) for row in order]
    (tmp_path / "a.csv").write_text(
        "key,margin,name\n" + "".join(f"{k},{r / 2},x\n" for k, r in zip(keys, order, strict=True))
    )
    with gzip.open(tmp_path / "b.csv.gz", "wt") as file:
        file.write("sample_id,age\n" + "".join(f"{row},{row * 3}\n" for row in order))
    (tmp_path / "c.json").write_text(json.dumps({key: int(row) for key, row in zip(keys, order, strict=True)}))
    np.savez(tmp_path / "d.npz", sample_id=order, width=order.astype(np.float16), key=np.array(keys))
    feather.write_feather(pa.table({"key": keys, "height": order / 4}), tmp_path / "e.feather")
    opened = FeatureTable.open(table, join=sorted(tmp_path.glob("?.*")), catalog=catalog)
    assert opened.names == ("loss", "margin", "age", "c", "width", "height")
    sample = opened.sample_id
    for name, factor in (("margin", 0.5), ("age", 3), ("c", 1), ("width", 1), ("height", 0.25)):
        assert opened.columns(name)[name].tolist() == (sample * factor).tolist()
    notes = [note for joined in opened.joined for note in joined.notes]
    assert notes == [f"{tmp_path / 'a.csv'}: columns that are no numbers are left out: name"]


def test_a_file_without_ids_goes_by_the_order_of_whole_images(whole, table, tmp_path, catalog):
    np.save(tmp_path / "margin.npy", IDS / 4)
    pandas.DataFrame({"age": IDS * 2}).to_csv(tmp_path / "ages.csv")
    opened = FeatureTable.open(whole, join=[tmp_path / "margin.npy", tmp_path / "ages.csv"], catalog=catalog)
    assert opened.columns("margin")["margin"].tolist() == (IDS / 4).tolist()
    assert opened.columns("age")["age"].tolist() == (IDS * 2).tolist()
    assert [joined.notes for joined in opened.joined] == [
        (f"{tmp_path / 'margin.npy'}: without a column `sample_id` or `key` its rows are taken in their order",),
        (f"{tmp_path / 'ages.csv'}: without a column `sample_id` or `key` its rows are taken in their order",),
    ]
    with pytest.raises(ValueError, match="a column `sample_id` or `key` must say which sample a row is"):
        FeatureTable.open(table, join=[tmp_path / "margin.npy"], catalog=catalog)  # of crops
    np.save(tmp_path / "margin.npy", np.arange(5.0))
    with pytest.raises(ValueError, match=r"margin\.npy has 5 rows, the table 12: give one each, in its order"):
        FeatureTable.open(whole, join=[tmp_path / "margin.npy"], catalog=catalog)
    pandas.DataFrame({"age": IDS})[::-1].to_csv(tmp_path / "ages.csv")
    with pytest.raises(ValueError, match="they were sorted or filtered; write `sample_id` or `key`"):
        FeatureTable.open(whole, join=[tmp_path / "ages.csv"], catalog=catalog)


def test_a_column_that_stops_being_numbers_and_ids_that_disagree(table, tmp_path, catalog):
    (tmp_path / "a.csv").write_text("sample_id,age\n" + "".join(f"{i},{i}\n" for i in range(11)) + "11,old\n")
    with pytest.raises(ValueError, match=r"column 'age' must hold numbers, but row 11 \(from 0\) has 'old'"):
        FeatureTable.open(table, join=[tmp_path / "a.csv"])
    (tmp_path / "a.csv").write_text("sample_id,age\n" + "".join(f"{i},{i}\n" for i in range(11)) + "11,\n")
    with pytest.raises(ValueError, match=r"'age' must be finite, but 2 of 24 rows are not, the first at row 11 \(nan"):
        FeatureTable.open(table, join=[tmp_path / "a.csv"])
    path = write(tmp_path, sample_id=IDS, key=[catalog.key(row) for row in IDS[::-1]], a=IDS)
    with pytest.raises(
        ValueError, match=r"must mean the same sample, but 12 rows disagree, first row 0 \(from 0\), 0 and"
    ):
        FeatureTable.open(table, join=[path], catalog=catalog)
    assert FeatureTable.open(table, join=[path]).columns("a")  # without the catalog keys say nothing


def test_huge_ids_do_not_wrap_around(table, tmp_path):
    path = write(tmp_path, sample_id=[*range(ROWS), 1 << 62], crop=[0] * ROWS + [4], a=np.arange(ROWS + 1))
    refused("12 of 24 have none: sample 0 crop 1", FeatureTable.open, table, join=[path])


def test_features_of_another_catalog_are_not_joined_by_their_row_numbers(whole, tmp_path, catalog):
    for owner, other in ((catalog.fingerprint, "more"), ("f" * 32, "strange")):
        write_table(tmp_path / other, catalog, {"age": IDS / np.float32(2)}, owner=owner)
        table = pq.read_table(part_path(tmp_path / other, 0)).drop_columns(["label"])
        pq.write_table(table, tmp_path / f"{other}.parquet")
    assert (
        FeatureTable.open(whole, join=[tmp_path / "more.parquet"]).columns("age")["age"].tolist() == (IDS / 2).tolist()
    )
    with pytest.raises(ValueError, match=r"rows of catalog f{12}, but .* is of .*: join its own"):
        FeatureTable.open(whole, join=[tmp_path / "strange.parquet"])


@pytest.mark.parametrize("ids", [IDS[::-1], IDS, 7.0 * IDS[::-1] + 3, [f"{row}.jpg" for row in IDS]])
def test_a_file_without_ids_has_nothing_that_could_name_its_rows(ids, whole, tmp_path):
    path = write(tmp_path, image=ids, age=IDS * 0.5)
    refused(r"but image may name them: add `key` or `sample_id`", FeatureTable.open, whole, join=[path])
    path = write(tmp_path, image=ids, age=IDS * 0.5, sample_id=IDS[::-1])
    assert FeatureTable.open(whole, join=[path]).columns("age")["age"].tolist() == (IDS[::-1] * 0.5).tolist()
    path = write(tmp_path, rank=IDS[::-1])
    assert FeatureTable.open(whole, join=[path]).columns("rank")["rank"].tolist() == IDS[::-1].tolist()


def test_an_index_of_pandas_is_no_feature_and_must_count_the_rows(whole, tmp_path, catalog):
    scores, path = pandas.DataFrame({"score": IDS * 0.5}), tmp_path / "scores.csv"
    scores.iloc[IDS[::-1]].reset_index().to_csv(path, index=False)
    refused("its pandas index is not 0, 1, 2", FeatureTable.open, whole, join=[path])
    scores.reset_index().to_csv(path, index=False)
    opened = FeatureTable.open(whole, join=[path])
    assert opened.names == ("loss", "score") and opened.columns("score")["score"].tolist() == (IDS * 0.5).tolist()
    scores.assign(__key__=[catalog.key(row) for row in IDS]).iloc[IDS[::-1]].reset_index().to_csv(path, index=False)
    opened = FeatureTable.open(whole, join=[path], catalog=catalog)
    assert opened.names == ("loss", "score") and opened.columns("score")["score"].tolist() == (IDS * 0.5).tolist()
