"""The feature table on disk: what opens, what is refused, faults by their part, rows with windows in the loader."""

import json
import os
import re
import tracemalloc

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from drawstream import FeatureTable, IndexStream, Loader, Transform, write_part
from drawstream.features.table import check_table, part_path, remove_abandoned
from drawstream.samplers.files.atomic import temporary_name
from shared.refusals import refused
from shared.samples import array_catalog, digits_catalog

PROVENANCE = {"catalog": "c" * 32, "parts": 3, "model": "m"}
RNG = np.random.default_rng(0)


def part(i, rows=5, **more):
    ids = np.arange(i * rows, (i + 1) * rows)
    columns = {"sample_id": ids, "crop": np.zeros(rows, np.int32), "label": ids % 3}
    return {**columns, "loss": RNG.random(rows).astype(np.float32), "entropy": ids.astype(np.float32), **more}


@pytest.fixture
def folder(tmp_path):
    for i in range(3):
        write_part(part_path(tmp_path, i), part(i), PROVENANCE)
    return tmp_path


def test_columns_run_over_the_parts(folder):
    table = FeatureTable.open(folder)
    assert len(table) == 15 and table.names == ("loss", "entropy") and table.provenance["model"] == "m"
    assert table.sample_id.tolist() == list(range(15)) and table.sample_id.dtype == np.int64
    assert table.label.tolist() == [i % 3 for i in range(15)]
    columns = table.columns("entropy")
    assert list(columns) == ["entropy"] and columns["entropy"].dtype == np.float32
    assert columns["entropy"].tolist() == list(range(15))
    assert table.windows is None and table.flip is None
    assert repr(table).endswith("15 rows, loss, entropy)")


def test_columns_are_read_once_and_cannot_be_written(folder):
    table = FeatureTable.open(folder)
    first, fingerprint = table.columns("loss")["loss"], table.fingerprint
    for path in folder.iterdir():
        path.unlink()
    assert table.columns("loss")["loss"] is first and table.fingerprint is fingerprint
    with pytest.raises(ValueError, match="read-only"):
        first[0] = 1


def test_windows_and_flips(tmp_path):
    windows = np.array([[0, 0, 0.5, 1], [0.25, 0.5, 1, 0.75]], np.float32)
    more = dict(zip(("y0", "x0", "y1", "x1"), windows.T, strict=True)) | {"flip": np.array([True, False])}
    write_part(part_path(tmp_path, 0), part(0, 2, **more), PROVENANCE | {"parts": 1})
    table = FeatureTable.open(tmp_path)
    assert table.names == ("loss", "entropy")
    assert table.windows.dtype == np.float32 and (table.windows == windows).all()
    assert table.flip.tolist() == [True, False] and table.flip.dtype == bool
    assert table.windows is table.windows  # asked for by every batch: made once
    with pytest.raises(ValueError, match="read-only"):
        table.windows[0] = 0


def test_fingerprint_covers_values_and_provenance(folder):
    first = FeatureTable.open(folder).fingerprint
    assert FeatureTable.open(folder).fingerprint == first and len(first) == 32
    changed = part(1)
    write_part(part_path(folder, 1), changed, PROVENANCE)
    second = FeatureTable.open(folder).fingerprint
    assert second != first
    for i in range(3):
        write_part(part_path(folder, i), changed, PROVENANCE | {"model": "n"})
    assert FeatureTable.open(folder).fingerprint not in (first, second)


def test_unknown_column(folder):
    refused("no feature 'margin'; there are loss, entropy", lambda: FeatureTable.open(folder).columns("loss", "margin"))


def test_nothing_there(tmp_path):
    for path in (tmp_path, tmp_path / "missing"):
        refused(r"no feature table there .*run `drawstream features`", FeatureTable.open, path, error=FileNotFoundError)


@pytest.mark.parametrize("number", [0, 1, 2, 3])
def test_missing_and_surplus_parts(folder, number):
    path = part_path(folder, number)
    path.unlink() if path.exists() else write_part(path, part(number), PROVENANCE)
    refused(f"{4 if number == 3 else 2} of 3 parts are there; run `drawstream features`", FeatureTable.open, folder)


def test_part_of_another_extraction_shows_both_sides(folder):
    write_part(part_path(folder, 2), part(2), PROVENANCE | {"model": "other"})
    refused(r"part-00002.parquet: made with model 'other', not 'm': give", FeatureTable.open, folder)


@pytest.mark.parametrize("cut", [0, 3, 100, -1])
def test_truncated_part(folder, cut):
    path = part_path(folder, 1)
    path.write_bytes(path.read_bytes()[:cut])
    refused(r"part-00001.parquet: not a readable Parquet file \(.+\); remove it and extract", FeatureTable.open, folder)


def test_every_flipped_byte_is_noticed_or_harmless(folder):
    """A byte anywhere in a part: the values read are right, or the part is refused by name."""
    path = part_path(folder, 1)
    whole = path.read_bytes()
    table = FeatureTable.open(folder)
    right = {name: table.columns(name)[name].copy() for name in table.names} | {"sample_id": table.sample_id.copy()}
    refused = 0
    for at in range(4, len(whole), 7):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x24]) + whole[at + 1 :])
        try:
            table = FeatureTable.open(folder)
            found = table.columns("loss", "entropy") | {"sample_id": table.sample_id}
        except ValueError as error:
            assert "part-00001.parquet" in str(error)
            refused += 1
            continue
        assert all((found[name] == right[name]).all() for name in right), at
    assert refused > len(whole) / 7 / 4


def test_every_flipped_byte_of_a_footer_is_noticed_or_harmless(tmp_path):
    """The only part, so there is no other to compare it with: names, provenance, fingerprint and values are right."""
    path = part_path(tmp_path, 0)
    write_part(path, part(0), PROVENANCE | {"parts": 1})
    whole = path.read_bytes()
    footer = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")

    def read():
        table = FeatureTable.open(tmp_path)
        values = {**table.columns(*table.names), "sample_id": table.sample_id, "label": table.label}
        return table.names, table.provenance, table.fingerprint, {k: v.tolist() for k, v in values.items()}

    right = read()
    refused = 0
    for at in range(footer, len(whole), 3):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        try:
            assert read() == right, at
        except ValueError as error:
            assert "part-00000.parquet" in str(error)
            refused += 1
    assert refused > (len(whole) - footer) / 3 / 2


def test_values_that_are_not_those_hashed_are_refused(tmp_path):
    """Pages and checksums that agree, but not the values that the metadata was sealed with."""
    path = part_path(tmp_path, 0)
    write_part(path, part(0), PROVENANCE | {"parts": 1})
    other = pq.read_table(path)
    other = other.set_column(3, "loss", pa.array(np.zeros(5, np.float32)))
    pq.write_table(other, path, write_page_checksum=True)
    table = FeatureTable.open(tmp_path)
    assert table.columns("entropy")["entropy"].tolist() == list(range(5))
    refused(r"part-00000\.parquet: .*column 'loss' is not as it was written", table.columns, "loss")
    refused("column 'loss' is not as it was written", lambda: list(table.blocks("loss")))


def test_blocks_are_the_columns(folder, monkeypatch):
    monkeypatch.setattr("drawstream.features.table.part.BLOCK", 2)
    table = FeatureTable.open(folder)
    blocks = list(table.blocks("entropy", "loss"))
    assert [len(block["loss"]) for block in blocks] == [2, 2, 1] * 3
    for name, values in table.columns("loss", "entropy").items():
        assert np.concatenate([block[name] for block in blocks]).tolist() == values.tolist()
    refused("no feature 'margin'", lambda: next(table.blocks("margin")))


def test_a_column_lies_in_memory_once(tmp_path):
    rows = 1 << 20
    for i in range(4):
        write_part(part_path(tmp_path, i), part(i, rows), PROVENANCE | {"parts": 4})
    table = FeatureTable.open(tmp_path)
    table.columns("loss")
    before = pa.total_allocated_bytes()
    tracemalloc.start()
    column = table.columns("entropy")["entropy"]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert column.nbytes <= peak < column.nbytes + 1e6  # numpy's side: the column and nothing like it
    assert pa.total_allocated_bytes() <= before + 1e6


def test_the_fingerprint_reads_no_values(folder, monkeypatch):
    expected = FeatureTable.open(folder).fingerprint
    monkeypatch.setattr("drawstream.features.table.part.Part.blocks", None)
    assert FeatureTable.open(folder).fingerprint == expected


@pytest.mark.parametrize(
    ("meta", "text"),
    [
        (None, "not a part of a feature table; give the folder that `drawstream features` wrote"),
        ("[]", "not a part of a feature table"),
        ("{nonsense", "not a readable Parquet file"),
        ('{"parts": 1}', "not a part of a feature table"),
        ('{"format": 3, "parts": 1}', "format 3 is newer than 2, which this drawstream reads: upgrade"),
        ('{"format": "x", "parts": 1}', "format x is newer"),
        ('{"format": 2, "catalog": "c"}', "its metadata lacks `parts` or `catalog`"),
    ],
)
def test_foreign_parquet(tmp_path, meta, text):
    table = pa.table({"loss": [1.0]}).replace_schema_metadata(meta and {"drawstream": meta})
    pq.write_table(table, part_path(tmp_path, 0))
    refused(text, FeatureTable.open, tmp_path)


def test_part_without_a_column_of_the_others(folder):
    columns = part(1)
    del columns["entropy"]
    write_part(part_path(folder, 1), columns, PROVENANCE)
    refused(r"part-00001\.parquet: made with columns.entropy none, not 'float32'", FeatureTable.open, folder)


def test_a_failed_write_leaves_nothing(tmp_path):
    with pytest.raises(pa.ArrowInvalid):
        write_part(part_path(tmp_path, 0), {"a": np.zeros(2), "b": np.zeros(3)}, PROVENANCE)
    with pytest.raises(TypeError):
        write_part(part_path(tmp_path, 0), {"a": np.zeros(2)}, {"catalog": object()})
    assert list(tmp_path.iterdir()) == []


def test_abandoned_files_are_removed(folder):
    mine = temporary_name(part_path(folder, 0))
    dead = folder / temporary_name(part_path(folder, 1)).name.replace(f".{os.getpid()}-", ".4194999-")
    elsewhere = folder / ".part-00001.parquet.4194999-otherhost"  # above the kernel's largest process number
    for path in (mine, dead, elsewhere):
        path.write_bytes(b"half")
    remove_abandoned(folder)
    assert mine.exists() and not dead.exists() and elsewhere.exists()


# With the loader


@pytest.fixture
def catalog(tmp_path):
    return digits_catalog(tmp_path / "digits", 40)


def crops(folder, catalog, fingerprint):
    rows = 2 * len(catalog)
    corner = RNG.integers(0, 5, (rows, 2)) / 8
    window = np.concatenate([corner, corner + 0.5], 1).astype(np.float32)
    columns = {
        "sample_id": np.repeat(np.arange(len(catalog)), 2),
        "crop": np.tile(np.arange(2, dtype=np.int32), len(catalog)),
        **dict(zip(("y0", "x0", "y1", "x1"), window.T, strict=True)),
        "flip": np.arange(rows) % 2 == 1,
        "label": np.repeat(catalog.label, 2),
        "loss": np.zeros(rows, np.float32),
    }
    folder.mkdir()
    write_part(part_path(folder, 0), columns, {"catalog": fingerprint, "parts": 1})
    return FeatureTable.open(folder)


def test_rows_of_a_table_are_its_crops(tmp_path, catalog):
    table = crops(tmp_path / "features", catalog, catalog.fingerprint)
    stream = IndexStream(80, seed=1)
    whole = Transform((8, 8), (0.0,), (1.0,))
    images = {
        int(i): x
        for b in Loader(catalog, IndexStream(40), transform=whole)
        for i, x in zip(b.ids, b.images, strict=True)
    }
    loader = Loader(catalog, stream, rows=table, transform=Transform((4, 4), (0.0,), (1.0,)), batch_size=16)
    seen = []
    for batch in loader:
        for row, label, image in zip(batch.ids.tolist(), batch.labels.tolist(), batch.images, strict=True):
            y, x = (table.windows[row, :2] * 8).astype(int)
            expected = images[row // 2][:, y : y + 4, x : x + 4]
            assert torch.equal(image, expected.flip(2) if row % 2 else expected)
            assert label == catalog.label[row // 2]
            seen.append(row)
    assert seen == stream.epoch(0)[:].tolist()
    assert loader.state_dict()["rows"] == table.fingerprint
    assert json.dumps(loader.state_dict())


def test_table_of_another_catalog_is_refused(tmp_path, catalog):
    table = crops(tmp_path / "features", catalog, "0123456789abcdef" * 2)
    text = (
        f"features of catalog 0123456789ab, but .*catalog.parquet is {catalog.fingerprint[:12]}: extract them from it"
    )
    refused(text, lambda: Loader(catalog, IndexStream(80), rows=table))


ROWS = 12


def piece(i, rows=4, crops=1, **more):
    ids = np.repeat(np.arange(i * rows, (i + 1) * rows), crops)
    columns = {"sample_id": ids, "crop": np.tile(np.arange(crops, dtype=np.int32), rows), "label": ids % 3}
    return {**columns, "loss": ids.astype(np.float32), **more}


@pytest.fixture
def sound(tmp_path):
    for i in range(3):
        write_part(part_path(tmp_path, i), piece(i), PROVENANCE)
    return tmp_path


def faults(sound, twelve=None):
    return [(finding.kind, finding.part) for finding in check_table(sound, twelve)]


def test_a_sound_table_has_none(sound):
    calls = []
    assert check_table(sound, progress=lambda *call: calls.append(call)) == []
    assert calls == [(1, 3), (2, 3), (3, 3)]
    for i in range(3):
        write_part(part_path(sound, i), piece(i, crops=3), PROVENANCE)
    assert check_table(sound) == []


def test_missing_damaged_and_foreign_parts_are_all_named(sound):
    path = part_path(sound, 0)
    whole = bytearray(path.read_bytes())
    whole[whole.index(np.float32(3).tobytes())] ^= 1  # the last loss
    path.write_bytes(whole)
    part_path(sound, 1).unlink()
    write_part(part_path(sound, 2), piece(2), PROVENANCE | {"model": "n"})
    assert faults(sound) == [("missing", 1), ("damaged", 0), ("foreign", 2)]
    write_part(part_path(sound, 2), piece(2, more=np.zeros(4, np.float32)), PROVENANCE)
    part_path(sound, 1).write_bytes(b"PAR1")
    write_part(part_path(sound, 3), piece(3), PROVENANCE)
    assert faults(sound) == [("foreign", None), ("damaged", 0), ("damaged", 1), ("foreign", 2)]


def test_values_and_types(sound):
    write_part(part_path(sound, 1), piece(1, loss=np.array([0, np.nan, np.inf, 1], np.float32)), PROVENANCE)
    (finding,) = check_table(sound)
    assert finding.part == 1 and "column 'loss' must be finite, but 2 of 4 rows are not" in finding.message
    for i in range(3):
        write_part(part_path(sound, i), piece(i, loss=np.zeros(4)), PROVENANCE)
    assert faults(sound) == [("values", None)]
    for i in range(3):
        write_part(part_path(sound, i), {"loss": np.zeros(4, np.float32)}, PROVENANCE)
    assert faults(sound) == [("damaged", None)] * 3


@pytest.mark.parametrize(
    ("ids", "text"),
    [
        ([4, 5, 5, 6], "1 rows are there twice, the first of sample 5 crop 0"),
        ([4, 6, 5, 7], r"must be in order of sample and crop, but row 2 is not \(1 such\)"),
        ([3, 5, 6, 7], "1 rows are there twice, the first of sample 3 crop 0"),
        ([1, 5, 6, 7], r"must be in order of sample and crop, but row 0 is not \(1 such\)"),
    ],
)
def test_ids_without_a_catalog(sound, ids, text):
    write_part(part_path(sound, 1), piece(1, sample_id=np.array(ids)), PROVENANCE)
    (finding,) = check_table(sound)
    assert finding.kind == "ids" and finding.part == 1
    assert re.search(text, finding.message)


@pytest.fixture(scope="module")
def twelve(tmp_path_factory):
    images = np.random.default_rng(0).integers(0, 255, (ROWS, 4, 4), dtype=np.uint8)
    return array_catalog(tmp_path_factory.mktemp("digits"), images, np.arange(ROWS) % 3, shard_rows=5)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, []),
        ({"crops": 2}, []),
        ({"drop": 1}, ["samples of its shard are missing, the first 1"]),
        ({"shift": 1}, ["samples outside its shard", "samples of its shard are missing", "labels are not those"]),
        ({"label": 1}, ["1 labels are not those of the catalog"]),
        ({"crops": 2, "drop": 1}, ["samples must have equally many crops, but have 1 to 2"]),
        ({"catalog": "0" * 32}, ["features of catalog 000000000000, but"]),
    ],
)
def test_against_the_catalog(tmp_path, twelve, change, expected):
    parts = len(twelve.shards)
    provenance = {"catalog": change.get("catalog", twelve.fingerprint), "parts": parts}
    for shard in range(parts):
        start, stop = twelve.shard_rows(shard)
        ids = np.repeat(np.arange(start, stop), change.get("crops", 1))
        crop = np.tile(np.arange(change.get("crops", 1), dtype=np.int32), stop - start)
        keep = np.ones(ids.size, bool)
        if shard == 0 and "drop" in change:
            keep[change["drop"]] = False
        label = twelve.label[ids].copy()
        if shard == 0:
            ids = ids + change.get("shift", 0)
            label[0] += change.get("label", 0)
        columns = {"sample_id": ids, "crop": crop, "label": label, "loss": np.zeros(ids.size, np.float32)}
        write_part(part_path(tmp_path, shard), {name: each[keep] for name, each in columns.items()}, provenance)
    messages = [finding.message for finding in check_table(tmp_path, twelve) if finding.part in (0, None)]
    assert len(messages) == len(expected), messages
    assert all(text in message for text, message in zip(expected, messages, strict=True)), messages


def test_a_check_of_nothing(tmp_path):
    refused("no feature table there", check_table, tmp_path, error=FileNotFoundError)
