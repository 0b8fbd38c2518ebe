"""A folder of features is read as it lies by the usual readers of Parquet, whole and while it is written."""

import json
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from safetensors.torch import save_file

from drawstream.features.table import FeatureTable
from drawstream.pipeline.shards import Catalog
from drawstream.tools.cli.app import main
from drawstream.tools.training.models import build_model


@pytest.fixture(scope="module")
def written(digits, tmp_path_factory) -> Path:
    """The folder that the command writes."""
    root = tmp_path_factory.mktemp("written")
    save_file(build_model("mlp", num_classes=10, channels=1, size=(8, 8), seed=0).state_dict(), root / "w.safetensors")
    command = ["features", digits.train, "-o", root / "f", "--model", "mlp", "--weights", root / "w.safetensors"]
    assert main([str(word) for word in command]) == 0
    return root / "f"


READERS = {
    "pyarrow": lambda folder: pq.read_table(folder).to_pandas(),
    "dataset": lambda folder: ds.dataset(folder).to_table().to_pandas(),
    "pandas": pd.read_parquet,
    "polars": lambda folder: pl.read_parquet(f"{folder}/").to_pandas(),
    "polars, lazily": lambda folder: pl.scan_parquet(folder).collect().to_pandas(),
    "duckdb": lambda folder: duckdb.sql(f"select * from '{folder}/*.parquet'").df(),
}


@pytest.mark.parametrize("reader", READERS)
def test_every_reader_gives_the_rows_of_the_table(written, digits, reader):
    table = FeatureTable.open(written)
    frame = READERS[reader](written).sort_values("sample_id")
    assert list(frame.columns[:3]) == ["sample_id", "crop", "label"] and set(table.names) <= set(frame.columns)
    np.testing.assert_array_equal(frame["sample_id"], np.arange(len(Catalog.open(digits.train))))
    for name, values in table.columns(*table.names).items():
        np.testing.assert_array_equal(frame[name].to_numpy(np.float32), values)


def test_the_folder_holds_parts_alone_and_the_record_lies_beside_it(written):
    assert sorted(path.name for path in written.iterdir()) == [f"part-0000{i}.parquet" for i in range(5)]
    record = json.loads((written.parent / "f.features.json").read_text())
    assert record["kind"] == "features" and record["features"] == "f" and record["rows"] == 500


@pytest.mark.parametrize("command", ["info", "check", "describe"])
def test_a_file_of_ones_own_in_the_folder_is_no_hindrance(written, tmp_path, command):
    (tmp_path / "f").mkdir()
    for path in written.iterdir():
        (tmp_path / "f" / path.name).write_bytes(path.read_bytes())
    (tmp_path / "f/features.json").write_text("{}")
    assert main(["features", command, str(tmp_path / "f")]) == 0


def test_a_table_of_a_training_holds_parts_alone(digits, tmp_path):
    command = [
        "train",
        digits.train,
        "-o",
        tmp_path / "run",
        "--model",
        "mlp",
        "--epochs",
        1,
        "--track",
        tmp_path / "t",
    ]
    assert main([str(word) for word in command]) == 0
    assert {path.suffix for path in (tmp_path / "t").iterdir()} == {".parquet"}
    assert pl.read_parquet(tmp_path / "t").height == 500
