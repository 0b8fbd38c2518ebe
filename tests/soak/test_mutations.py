"""Every file that drawstream reads, damaged in thousands of ways: a clear error in one line, or the right result.

`make soak` runs this with 300 damages of each file; how often each ended with an error is printed.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from sklearn.datasets import load_digits

from drawstream.features import FeatureTable
from drawstream.pipeline import ArraySource, Catalog
from drawstream.pipeline.reading.quarantine import read_quarantine, write_quarantine
from drawstream.pipeline.reading.read import ShardFiles
from drawstream.pipeline.shards.index import index
from drawstream.pipeline.shards.pack import pack
from drawstream.samplers import IndexStream, SwiftSampler
from drawstream.samplers.files.weights_file import map_weights
from drawstream.samplers.orders.schedule import Schedule, write_schedule
from drawstream.search.auto.record import write_distribution
from drawstream.tools.cli.app import app, main
from drawstream.tools.runs.config import read_config
from drawstream.tools.runs.hooks import Journal, read_journal
from drawstream.tools.runs.record import read_record
from drawstream.tools.training.models import build_model, load_weights

pytestmark = pytest.mark.slow
COUNT = int(os.environ.get("SOAK", "300"))
CLEAR = (
    ValueError,
    FileNotFoundError,
    RuntimeError,
)  # what the command line shows as one line; RuntimeError: subclasses


@dataclass(frozen=True)
class Case:
    """A file, how it is read, and whether a damage that is not noticed may change what is read."""

    path: Path
    read: Any
    sealed: bool


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """One of each file."""
    root = tmp_path_factory.mktemp("soak")
    digits = load_digits()
    source = ArraySource((digits.images * 15).astype(np.uint8), digits.target)
    data = pack(source, root / "data", limit=120, shard_rows=60, encoding="png").train
    catalog = Catalog.open(data)
    command = ["train", str(data), "-o", str(root / "run"), "--model", "mlp", "--epochs", "1", "--track"]
    assert main([*command, str(root / "features")]) == 0
    assert main(["fit", str(root / "features"), "-o", str(root / "sampler.json"), "--transform", "cdf"]) == 0
    orders = (IndexStream(120, seed=0).epoch(e) for e in range(2))
    write_schedule(root / "schedule.arrow", orders, rows=120, catalog=catalog.fingerprint)
    write_distribution(root / "p.parquet", np.arange(1, 121), catalog=catalog.fingerprint, provenance={})
    write_quarantine(root / "quarantine.json", catalog, [])
    np.save(root / "p.npy", np.arange(1.0, 121.0))
    (root / "job.toml").write_text('[train]\nepochs = 3\n[search.swift]\nfeatures = ["loss", "entropy"]\n')
    journal = Journal(root)
    journal.begin("train", {"seed": 1})
    journal.step(1, 2, {"loss": 1.0})
    return root


def cases(root: Path) -> dict[str, Case]:
    data = root / "data"
    every = np.arange(120)
    shard = data / "shard-000001.tar"
    rows = ShardFiles(Catalog.open(data)).read(every)[0].tobytes()

    def read_shard() -> str:
        found = ShardFiles(Catalog.open(data)).read(every)[0].tobytes()
        assert found == rows
        return "whole"

    def weights_of_model() -> None:
        load_weights(build_model("mlp", num_classes=10, channels=1, size=(8, 8), seed=0), root / "run/last.safetensors")

    return {
        "catalog": Case(data / "catalog.parquet", lambda: _catalog(Catalog.open(data)), True),
        "shard, read": Case(shard, read_shard, True),
        "shard, indexed": Case(shard, lambda: str(index(shard, out=root / "again", overwrite=True)), False),
        "features": Case(
            root / "features/part-00000.parquet", lambda: _table(FeatureTable.open(root / "features")), True
        ),
        "sampler": Case(root / "sampler.json", lambda: SwiftSampler.load(root / "sampler.json").features, False),
        "schedule": Case(root / "schedule.arrow", lambda: Schedule.open(root / "schedule.arrow").counts(), False),
        "weights, parquet": Case(
            root / "p.parquet",
            lambda: IndexStream(map_weights(root / "p.parquet", column="weight")).epoch(0)[:5],
            False,
        ),
        "weights, npy": Case(root / "p.npy", lambda: IndexStream(map_weights(root / "p.npy")).epoch(0)[:5], False),
        "quarantine": Case(
            root / "quarantine.json", lambda: read_quarantine(root / "quarantine.json", Catalog.open(data)), False
        ),
        "record": Case(root / "run/run.json", lambda: read_record(root / "run/run.json", "train"), False),
        "model": Case(root / "run/last.safetensors", weights_of_model, False),
        "config": Case(root / "job.toml", lambda: read_config(root / "job.toml", typer.main.get_command(app)), False),
        "journal": Case(root / "progress.json", lambda: read_journal(root / "progress.json"), False),
    }


NAMES = (
    "catalog", "shard, read", "shard, indexed", "features", "sampler", "schedule", "weights, parquet", "weights, npy",
    "quarantine", "record", "model", "config", "journal",
)  # fmt: skip


def _catalog(catalog: Catalog) -> str:
    return json.dumps([catalog.fingerprint, catalog.classes, catalog.offset.tolist(), catalog.label.tolist()])


def _table(table: FeatureTable) -> str:
    return json.dumps([[name, table.columns(name)[name].tolist()] for name in table.names])


@pytest.mark.parametrize("name", NAMES)
def test_damage_ends_clearly(files, damages, name):
    case = cases(files)[name]
    damages(name, case.path, case.read, sealed=case.sealed, count=COUNT, clear=CLEAR)
