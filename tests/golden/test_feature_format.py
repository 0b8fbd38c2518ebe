"""The pinned format of feature parts. Other programs read these files: a change here needs a new format number, never
an edit of the expectation alone."""

import json

import numpy as np
import pyarrow.parquet as pq

from drawstream.features.table import FORMAT, part_path, write_part


def test_schema_and_metadata(tmp_path):
    columns = {
        "sample_id": np.arange(2),
        "crop": np.zeros(2, np.int32),
        **{name: np.zeros(2, np.float32) for name in ("y0", "x0", "y1", "x1")},
        "flip": np.zeros(2, bool),
        "label": np.zeros(2, np.int64),
        "loss": np.ones(2, np.float32),
    }
    path = part_path(tmp_path, 7)
    write_part(path, columns, {"catalog": "abc", "parts": 8})
    assert path.name == "part-00007.parquet" and FORMAT == 1
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
    assert json.loads(schema.metadata[b"drawstream"]) == {"format": 1, "catalog": "abc", "parts": 8}
