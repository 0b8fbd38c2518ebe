"""Every file that drawstream reads, damaged in hundreds of ways: a clear error in one line, or the right result.

`make soak` runs this with 300 damages of each file; how often each ended with an error is printed.
"""

import gzip
import json
import os
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import typer

from drawstream import Catalog, FeatureTable, SwiftSampler, index, map_weights, open_source, pack
from drawstream.pipeline.decoding import encode
from drawstream.pipeline.reading import ShardFiles, read_quarantine, write_quarantine
from drawstream.samplers.orders import IndexStream, Schedule, write_schedule
from drawstream.search.auto.record import Recorder, write_distribution
from drawstream.search.auto.run import Progressed
from drawstream.search.auto.run import load_checkpoint as load_search
from drawstream.search.auto.run import save_checkpoint as save_search
from drawstream.search.swift import Guard, Proposals, Study, search_swift
from drawstream.tools.cli.app import app, main
from drawstream.tools.report import write_report
from drawstream.tools.report.board import Board
from drawstream.tools.runs import load_hooks, read_config, read_record
from drawstream.tools.runs.hooks import Journal, read_journal
from drawstream.tools.training import Epoch, Run
from drawstream.tools.training.checkpoints import load_checkpoint, save_checkpoint
from drawstream.tools.training.descent import Descent
from drawstream.tools.training.loop import Recipe
from drawstream.tools.training.models import build_model, load_weights, save_weights
from shared.samples import LABELS, PIXELS, pack_digits

pytestmark = pytest.mark.slow
COUNT = int(os.environ.get("SOAK", "300"))
CLEAR = (ValueError, FileNotFoundError, RuntimeError)  # one line on the command line; RuntimeError: subclasses
RECIPE = Recipe(4, 0.05)
IDENTITY = {"recipe": {"epochs": 4, "lr": 0.05}}
FEW = {"images": PIXELS[:40], "labels": LABELS[:40]}


def mlp():
    return build_model("mlp", num_classes=10, channels=1, size=(8, 8), seed=0)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """One of each file."""
    root = tmp_path_factory.mktemp("files")
    data = pack_digits(root / "data", None, limit=120, shard_rows=60, encoding="png").train
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


def images_of(root):
    return ShardFiles(Catalog.open(root / "data")).read(np.arange(120))[0].tobytes()


def catalog_of(root):
    catalog = Catalog.open(root / "data")
    return json.dumps([catalog.fingerprint, catalog.classes, catalog.offset.tolist(), catalog.label.tolist()])


def columns_of(table):
    return {name: table.columns(name)[name].tolist() for name in table.names}


def first_rows(weights):
    return IndexStream(weights).epoch(0)[:5]


SHARD = "data/shard-000001.tar"
FILES = {  # file, how it is read, and whether a damage must be noticed
    "catalog": ("data/catalog.parquet", catalog_of, True),
    "shard, read": (SHARD, images_of, True),
    "shard, indexed": (SHARD, lambda root: str(index(root / SHARD, out=root / "again", overwrite=True)), False),
    "features": ("features/part-00000.parquet", lambda root: columns_of(FeatureTable.open(root / "features")), True),
    "sampler": ("sampler.json", lambda root: SwiftSampler.load(root / "sampler.json").features, False),
    "schedule": ("schedule.arrow", lambda root: Schedule.open(root / "schedule.arrow").counts(), False),
    "weights, parquet": ("p.parquet", lambda root: first_rows(map_weights(root / "p.parquet", column="weight")), False),
    "weights, npy": ("p.npy", lambda root: first_rows(map_weights(root / "p.npy")), False),
    "quarantine": (
        "quarantine.json",
        lambda root: read_quarantine(root / "quarantine.json", Catalog.open(root / "data")),
        False,
    ),
    "record": ("run/run.json", lambda root: read_record(root / "run/run.json", "train"), False),
    "model": ("run/last.safetensors", lambda root: load_weights(mlp(), root / "run/last.safetensors"), False),
    "config": ("job.toml", lambda root: read_config(root / "job.toml", typer.main.get_command(app)), False),
    "journal": ("progress.json", lambda root: read_journal(root / "progress.json"), False),
}


@pytest.mark.parametrize("name", FILES)
def test_files_of_a_project(root, damages, name):
    path, read, sealed = FILES[name]
    damages(name, root / path, lambda: read(root), sealed=sealed, count=COUNT, clear=CLEAR)


@pytest.fixture(scope="module")
def copy(soak, tmp_path_factory):
    """The inputs, to be damaged."""
    return shutil.copytree(soak.root, tmp_path_factory.mktemp("damaged") / "all")


@pytest.mark.parametrize(
    ("name", "count"),
    [
        *((each, 0) for each in ("run/run.json", "search/search.json", "auto/auto.json")),
        *((each, 0) for each in ("auto/schedule.arrow", "auto/distribution.parquet")),
        *((each, 150) for each in ("search/sampler.json", "features/part-00000.parquet", "data/train/catalog.parquet")),
    ],
)
def test_report_and_serve(damages, copy, tmp_path, name, count):
    def read():
        if not count:
            json.dumps(Board(copy).state())
        write_report(copy, tmp_path / "report.html")

    damages(f"{name} in report and serve", copy / name, read, count=count)


def parts():
    model = mlp()
    descent = Descent(model, RECIPE)
    descent.descend(model(torch.zeros(2, 1, 8, 8)).sum(), 0.1)
    return {"model": model, "descent": descent, "tracker": None}


def test_checkpoint_of_a_training(damages, tmp_path):
    path = tmp_path / "checkpoint.pt"
    epochs = [Epoch(e, 1.0, 0.05, {"held_out": 50.0}, 1.0, 0.1, 40, 40) for e in range(2)]
    run = Run(epochs, 0, parts()["model"].state_dict(), torch.ones(40, dtype=torch.int64))
    save_checkpoint(path, IDENTITY, run, parts())
    damages("checkpoint.pt", path, lambda: load_checkpoint(path, IDENTITY, parts()).history[0])


def test_checkpoint_of_a_search(damages, tmp_path):
    path, settings = tmp_path / "checkpoint.pt", {"seed": 0, "rows": 40}
    state = {"model": parts()["model"].state_dict(), "step": 3}
    save_search(path, settings, Progressed(1, state, [[1.0, 2.0]], [1], 40, 7, {"train": 1.0}))
    damages("checkpoint.pt of search auto", path, lambda: load_search(path, settings).epoch)


def test_rows_of_a_search(damages, tmp_path):
    path = tmp_path / "schedule.rows"
    with Recorder(path) as recorder:
        recorder.append(np.arange(200))
        length, checksum = recorder.length, recorder.checksum

    def read():
        with Recorder(path, length=length, checksum=checksum) as opened:
            return opened.rows().tolist()

    damages("schedule.rows", path, read, sealed=True)


def test_study(damages, tmp_path):
    rng = np.random.default_rng(0)
    columns = {"loss": rng.exponential(size=80).astype(np.float32), "entropy": rng.random(80, np.float32)}
    path = tmp_path / "study.db"

    def search():
        few = {"proposals": Proposals(3, "random"), "guard": Guard(1, 2), "study": Study(f"sqlite:///{path}")}
        return search_swift(columns, lambda p, _: float(p[:40].sum()), transform="cdf", **few).winner

    search()
    damages("study.db", path, search)


def test_distribution(damages, copy):
    path = copy / "auto/distribution.parquet"
    damages("distribution.parquet", path, lambda: IndexStream(map_weights(path, column="weight")).epoch(0)[:].tolist())


def test_hooks_in_a_config(damages, tmp_path):
    path = tmp_path / "job.toml"
    path.write_text('[train]\nepochs = 3\nhook = ["pathlib:Path", "pathlib:PurePath"]\ntensorboard = false\n')

    def read():
        found = read_config(path, typer.main.get_command(app)).get("train", {})
        load_hooks(tmp_path, [str(each) for each in found.get("hook") or []])

    damages("hooks in a config", path, read)


def idx(array):
    head = (0x800 | array.ndim).to_bytes(4, "big") + b"".join(n.to_bytes(4, "big") for n in array.shape)
    return head + array.astype(np.uint8).tobytes()


def sources(root):
    """Sources of `pack`: the path to open, and the files to damage."""
    for folder, ending, squeeze in (("idx", "", bytes), ("idx.gz", ".gz", gzip.compress)):
        (root / folder).mkdir()
        for name, array in zip(("train-images-idx3-ubyte", "train-labels-idx1-ubyte"), FEW.values(), strict=True):
            (root / folder / f"{name}{ending}").write_bytes(squeeze(idx(array)))
            yield f"{folder}, {name}", root / folder, root / folder / f"{name}{ending}"
    np.savez(root / "plain.npz", **FEW)
    np.savez_compressed(root / "small.npz", **FEW)
    yield from ((name, root / name, root / name) for name in ("plain.npz", "small.npz"))
    (root / "npy").mkdir()
    for name, array in FEW.items():
        np.save(root / "npy" / f"{name}.npy", array)
        yield f"{name}.npy", root / "npy", root / "npy" / f"{name}.npy"
    for ending in ("png", "jpeg"):
        folder = root / f"classes-{ending}"
        for row in range(4):
            path = folder / f"class{row % 2}" / f"{row}.{ending}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encode(np.kron(PIXELS[row], np.ones((4, 4), np.uint8)), ending, quality=90)[0])
        yield f"class folder, {ending}", folder, folder / f"class0/0.{ending}"


def test_sources_of_pack(damages, tmp_path):
    out = tmp_path / "out"
    for name, source, file in list(sources(tmp_path)):

        def read(source=source):
            try:
                return pack(open_source(source), out, encoding="keep").rows
            finally:
                shutil.rmtree(out, ignore_errors=True)
                assert not list(tmp_path.glob(".out*"))

        damages(name, file, read, count=150)


@pytest.mark.parametrize("ending", ["safetensors", "pt"])
def test_weights(damages, tmp_path, ending):
    model, path = mlp(), tmp_path / f"weights.{ending}"
    if ending == "pt":
        torch.save({"model": model.state_dict()}, path)
    else:
        save_weights(path, model.state_dict())
    damages(f"weights, {ending}", path, lambda: load_weights(model, path))


@pytest.mark.parametrize("key", ["sample_id", "key"])
def test_joined_file(damages, soak, tmp_path, key):
    catalog = Catalog.open(soak.inputs.data / "train")
    ids = list(catalog.keys) if key == "key" else list(range(len(catalog)))
    path = tmp_path / "more.parquet"
    table = {key: ids, "age": np.arange(len(ids), dtype=np.float32), "note": ["text"] * len(ids)}
    pq.write_table(pa.table(table), path, write_page_checksum=True)

    def read():
        return columns_of(FeatureTable.open(soak.inputs.features, join=[path], catalog=catalog))

    damages(f"joined by {key}", path, read)
