"""The pinned format of feature parts. Other programs read these files: a change here needs a new format number, never
an edit of the expectation alone."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from drawstream.features.table import FeatureTable
from drawstream.features.table.part import FORMAT, part_path, write_part
from shared.refusals import refused

COLUMNS = {
    "sample_id": np.arange(2),
    "crop": np.zeros(2, np.int32),
    **{name: np.zeros(2, np.float32) for name in ("y0", "x0", "y1", "x1")},
    "flip": np.zeros(2, bool),
    "label": np.zeros(2, np.int64),
    "loss": np.ones(2, np.float32),
}


def test_schema_and_metadata(tmp_path):
    path = part_path(tmp_path, 7)
    write_part(path, COLUMNS, {"catalog": "abc", "parts": 8})
    assert path.name == "part-00007.parquet" and FORMAT == 2
    schema = pq.read_schema(path)
    assert [(field.name, str(field.type)) for field in schema] == [
        ("sample_id", "int64"),
        ("crop", "int32"),
        ("y0", "float"),
        ("x0", "float"),
        ("y1", "float"),
        ("x1", "float"),
        ("flip", "bool"),
        ("label", "int64"),
        ("loss", "float"),
    ]
    assert json.loads(schema.metadata[b"drawstream"]) == {
        "format": 2,
        "catalog": "abc",
        "parts": 8,
        "content": {
            "rows": 2,
            "columns": [
                ["sample_id", "int64", "206effdcb542372df2acedb3feda973a"],
                ["crop", "int32", "2c0a8a99dc147d5445c3b49d035665b2"],
                ["y0", "float32", "2c0a8a99dc147d5445c3b49d035665b2"],
                ["x0", "float32", "2c0a8a99dc147d5445c3b49d035665b2"],
                ["y1", "float32", "2c0a8a99dc147d5445c3b49d035665b2"],
                ["x1", "float32", "2c0a8a99dc147d5445c3b49d035665b2"],
                ["flip", "bool", "4758ddac5f9ee9383325230e1f285505"],
                ["label", "int64", "e5189a9599e3f86205ea23ef06e28b2d"],
                ["loss", "float32", "8574b1eb820552229b6204a3f4c0dfc5"],
            ],
        },
        "seal": "7076af48899ed0bb8f26e402a35828bf",
    }


def test_format_1_was_never_released(tmp_path):
    meta = json.dumps({"format": 1, "catalog": "abc", "parts": 1}).encode()
    pq.write_table(pa.table({"loss": [0.5]}).replace_schema_metadata({b"drawstream": meta}), part_path(tmp_path, 0))
    refused("format 1, which was never released: extract it anew", FeatureTable.open, tmp_path)


def test_the_fingerprint_of_format_2(tmp_path):
    write_part(part_path(tmp_path, 0), COLUMNS, {"catalog": "abc", "parts": 1})
    assert FeatureTable.open(tmp_path).fingerprint == "40da9d3c5ecbf6fb976073a6caeff8c5"
