"""Every kind of fault of a feature table is found, by its part."""

import re

import numpy as np
import pytest

from drawstream.features.table.check import check_table
from drawstream.features.table.part import part_path, write_part
from drawstream.pipeline.shards import Catalog
from drawstream.pipeline.shards.pack import pack
from drawstream.pipeline.sources import ArraySource

ROWS = 12
PROVENANCE = {"catalog": "c" * 32, "parts": 3, "model": "m"}


def part(i, rows=4, crops=1, **more):
    ids = np.repeat(np.arange(i * rows, (i + 1) * rows), crops)
    columns = {"sample_id": ids, "crop": np.tile(np.arange(crops, dtype=np.int32), rows), "label": ids % 3}
    return {**columns, "loss": ids.astype(np.float32), **more}


@pytest.fixture
def folder(tmp_path):
    for i in range(3):
        write_part(part_path(tmp_path, i), part(i), PROVENANCE)
    return tmp_path


def found(folder, catalog=None):
    return [(finding.kind, finding.part) for finding in check_table(folder, catalog)]


def test_a_sound_table_has_none(folder):
    calls = []
    assert check_table(folder, progress=lambda *call: calls.append(call)) == []
    assert calls == [(1, 3), (2, 3), (3, 3)]
    for i in range(3):
        write_part(part_path(folder, i), part(i, crops=3), PROVENANCE)
    assert check_table(folder) == []


def test_missing_damaged_and_foreign_parts_are_all_named(folder):
    path = part_path(folder, 0)
    whole = bytearray(path.read_bytes())
    whole[whole.index(np.float32(3).tobytes())] ^= 1  # the last loss
    path.write_bytes(whole)
    part_path(folder, 1).unlink()
    write_part(part_path(folder, 2), part(2), PROVENANCE | {"model": "n"})
    assert found(folder) == [("missing", 1), ("damaged", 0), ("foreign", 2)]
    write_part(part_path(folder, 2), part(2, more=np.zeros(4, np.float32)), PROVENANCE)
    part_path(folder, 1).write_bytes(b"PAR1")
    write_part(part_path(folder, 3), part(3), PROVENANCE)
    assert found(folder) == [("foreign", None), ("damaged", 0), ("damaged", 1), ("foreign", 2)]


def test_values_and_types(folder):
    write_part(part_path(folder, 1), part(1, loss=np.array([0, np.nan, np.inf, 1], np.float32)), PROVENANCE)
    (finding,) = check_table(folder)
    assert finding.part == 1 and "column 'loss' must be finite, but 2 of 4 rows are not" in finding.message
    for i in range(3):
        write_part(part_path(folder, i), part(i, loss=np.zeros(4)), PROVENANCE)
    assert found(folder) == [("values", None)]
    for i in range(3):
        write_part(part_path(folder, i), {"loss": np.zeros(4, np.float32)}, PROVENANCE)
    assert found(folder) == [("damaged", None)] * 3


@pytest.mark.parametrize(
    ("ids", "text"),
    [
        ([4, 5, 5, 6], "1 rows are there twice, the first of sample 5 crop 0"),
        ([4, 6, 5, 7], r"must be in order of sample and crop, but row 2 is not \(1 such\)"),
        ([3, 5, 6, 7], "1 rows are there twice, the first of sample 3 crop 0"),
        ([1, 5, 6, 7], r"must be in order of sample and crop, but row 0 is not \(1 such\)"),
    ],
)
def test_ids_without_a_catalog(folder, ids, text):
    write_part(part_path(folder, 1), part(1, sample_id=np.array(ids)), PROVENANCE)
    (finding,) = check_table(folder)
    assert finding.kind == "ids" and finding.part == 1
    assert re.search(text, finding.message)


@pytest.fixture(scope="module")
def catalog(tmp_path_factory):
    images = np.random.default_rng(0).integers(0, 255, (ROWS, 4, 4), dtype=np.uint8)
    source = ArraySource(images, np.arange(ROWS) % 3)
    return Catalog.open(pack(source, tmp_path_factory.mktemp("digits"), shard_rows=5).train)


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
def test_against_the_catalog(tmp_path, catalog, change, expected):
    parts = len(catalog.shards)
    provenance = {"catalog": change.get("catalog", catalog.fingerprint), "parts": parts}
    for shard in range(parts):
        start, stop = catalog.shard_rows(shard)
        ids = np.repeat(np.arange(start, stop), change.get("crops", 1))
        crop = np.tile(np.arange(change.get("crops", 1), dtype=np.int32), stop - start)
        keep = np.ones(ids.size, bool)
        if shard == 0 and "drop" in change:
            keep[change["drop"]] = False
        label = catalog.label[ids].copy()
        if shard == 0:
            ids = ids + change.get("shift", 0)
            label[0] += change.get("label", 0)
        columns = {"sample_id": ids, "crop": crop, "label": label, "loss": np.zeros(ids.size, np.float32)}
        write_part(part_path(tmp_path, shard), {name: each[keep] for name, each in columns.items()}, provenance)
    messages = [finding.message for finding in check_table(tmp_path, catalog) if finding.part in (0, None)]
    assert len(messages) == len(expected), messages
    assert all(text in message for text, message in zip(expected, messages, strict=True)), messages


def test_nothing_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="no feature table there"):
        check_table(tmp_path)
