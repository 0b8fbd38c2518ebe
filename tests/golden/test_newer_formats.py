"""A file of a newer drawstream is refused in one line that says so; one of this version is read.

WARNING: users keep these files. Raise a version here only together with a reader of the older one."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from drawstream import ArraySource, Catalog, Schedule, map_weights, pack, write_part, write_schedule
from drawstream.features.table.part import open_part
from drawstream.pipeline.reading import read_quarantine, write_quarantine
from drawstream.samplers.methods import CSGD, DLIS, PSGD, InfoBatch, OrderedSGD, RHOLoss, SelectiveBackprop
from drawstream.samplers.swift import SwiftFit, SwiftParams, SwiftSampler
from drawstream.search.auto import run as auto_state
from drawstream.search.auto.record import write_distribution
from drawstream.tools.runs import read_record, write_record
from drawstream.tools.runs.hooks import read_journal
from drawstream.tools.training import Run
from drawstream.tools.training.checkpoints import load_checkpoint, save_checkpoint
from shared.refusals import refused


def json_file(path, key, version):
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: version}))


def parquet_json(path, version):
    """Raise the format in the JSON of a Parquet file's metadata."""
    table = pq.read_table(path)
    metadata = dict(table.schema.metadata)
    metadata[b"drawstream"] = json.dumps(json.loads(metadata[b"drawstream"]) | {"format": version}).encode()
    pq.write_table(table.replace_schema_metadata(metadata), path)


def catalog(folder, version):
    path = pack(ArraySource(np.zeros((4, 8, 8), np.uint8), np.arange(4)), folder).train / "catalog.parquet"
    if version > 3:
        parquet_json(path, version)
    return lambda: Catalog.open(folder)


def features(folder, version):
    path = folder / "part-00000.parquet"
    columns = {"sample_id": np.arange(2), "crop": np.zeros(2, np.int32), "label": np.arange(2)}
    write_part(path, columns, {"catalog": "abc", "parts": 1})
    if version > 2:
        parquet_json(path, version)
    return lambda: open_part(path)


def sampler(folder, version):
    path = folder / "sampler.json"
    columns = {"loss": np.arange(5.0), "entropy": np.ones(5)}
    SwiftFit(columns, transform="cdf").sampler(SwiftParams.uniform()).save(path)
    json_file(path, "version", version)
    return lambda: SwiftSampler.load(path)


def schedule(folder, version):
    written, path = folder / "written.arrow", folder / "schedule.arrow"
    write_schedule(written, [np.arange(4)], rows=4)
    with pa.ipc.open_file(written) as reader:
        table = reader.read_all()
    metadata = {**table.schema.metadata, b"drawstream.schedule": str(version).encode()}
    with pa.ipc.new_file(path, table.schema.with_metadata(metadata)) as writer:
        writer.write_table(table.replace_schema_metadata(metadata))
    return lambda: Schedule.open(path)


def distribution(folder, version):
    path = folder / "distribution.parquet"
    write_distribution(path, np.arange(1, 5), catalog="", provenance={})
    table = pq.read_table(path)
    metadata = {**table.schema.metadata, b"drawstream.distribution": str(version).encode()}
    pq.write_table(table.replace_schema_metadata(metadata), path)
    return lambda: map_weights(path, column="weight")


def record(folder, version):
    path = folder / "run.json"
    write_record(path, "train", {})
    json_file(path, "format", version)
    return lambda: read_record(path, "train")


def quarantine(folder, version):
    pack(ArraySource(np.zeros((4, 8, 8), np.uint8), np.arange(4)), folder / "data")
    data, path = Catalog.open(folder / "data"), folder / "quarantine.json"
    write_quarantine(path, data, [])
    json_file(path, "format", version)
    return lambda: read_quarantine(path, data)


def training(folder, version):
    path = folder / "checkpoint.pt"
    save_checkpoint(path, {"lr": 0.05}, Run([], -1, {}, torch.zeros(3)), {})
    content = torch.load(path, weights_only=True)
    torch.save(content | {"format": version}, path)
    return lambda: load_checkpoint(path, {"lr": 0.05}, {})


def population(folder, version):
    path = folder / "checkpoint.pt"
    auto_state.save_checkpoint(path, {}, auto_state.Progressed(epoch=1))
    content = torch.load(path, weights_only=True)
    torch.save(content | {"format": version}, path)
    return lambda: auto_state.load_checkpoint(path, {})


FILES = {
    catalog: 3,
    features: 2,
    sampler: 1,
    schedule: 2,
    distribution: 1,
    record: 1,
    quarantine: 1,
    training: 3,
    population: 1,
}


@pytest.mark.parametrize(("write", "version"), FILES.items(), ids=lambda each: getattr(each, "__name__", ""))
def test_this_version_is_read_and_a_newer_one_is_refused_in_one_line(write, version, tmp_path):
    for name in ("now", "newer"):
        (tmp_path / name).mkdir()
    write(tmp_path / "now", version)()
    opened = write(tmp_path / "newer", 7)
    with pytest.raises(ValueError, match=r"\b7\b.*upgrade") as raised:
        opened()
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("damaged", [None, "1", [1]])
def test_a_record_whose_format_is_no_number_is_damaged(damaged, tmp_path):
    opened = record(tmp_path, damaged)
    refused("damaged, its format must be a number", opened)


def test_checkpoints_without_a_format_are_refused(tmp_path):
    refused = {training: r"started by an earlier version.*: give another output folder", population: "not a checkpoint"}
    for write, text in refused.items():
        opened = write(tmp_path, 1)
        path = tmp_path / "checkpoint.pt"
        content = torch.load(path, weights_only=True)
        del content["format"]
        torch.save(content, path)
        with pytest.raises(ValueError, match=text):
            opened()


def test_a_journal_of_another_version_is_passed_over(tmp_path):
    path = tmp_path / "progress.json"
    path.write_text('{"format": 2, "kind": "train"}')
    assert read_journal(path) is None


STATES = (
    PSGD(3),
    CSGD(3),
    InfoBatch(3, epochs=2),
    SelectiveBackprop(budget=1.0),
    OrderedSGD(),
    DLIS(),
    RHOLoss(np.zeros(3)),
)


@pytest.mark.parametrize("part", STATES, ids=lambda part: type(part).__name__)
def test_the_state_of_a_newer_sampler_is_refused(part):
    state = part.state_dict()
    part.load_state_dict(state)
    refused(r"format\b.*\b7", part.load_state_dict, {**state, "format": 7})
