"""Damaged checkpoints, studies, records and users' own files: a clear error in one line, or what is there is read."""

import gzip
import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import typer
from sklearn.datasets import load_digits

from drawstream.features import FeatureTable
from drawstream.pipeline import open_source
from drawstream.pipeline.decoding.image import encode
from drawstream.pipeline.shards.pack import pack
from drawstream.samplers import IndexStream
from drawstream.samplers.files.weights_file import map_weights
from drawstream.search import Guard, Proposals, Study, search_swift
from drawstream.search.auto.record import Recorder
from drawstream.search.auto.run import Progressed
from drawstream.search.auto.run import load_checkpoint as load_search
from drawstream.search.auto.run import save_checkpoint as save_search
from drawstream.tools.cli.app import app
from drawstream.tools.report.board import Board
from drawstream.tools.report.build import write_report
from drawstream.tools.runs.config import read_config
from drawstream.tools.runs.hooks import load_hooks
from drawstream.tools.training.accounting import Epoch, Run
from drawstream.tools.training.checkpoint import load_checkpoint, save_checkpoint
from drawstream.tools.training.loop import Recipe, make_optimizer
from drawstream.tools.training.models import build_model, load_weights

pytestmark = pytest.mark.slow
RECIPE = Recipe(4, 0.05)
IDENTITY = {"recipe": {"epochs": 4, "lr": 0.05}}
DIGITS = load_digits()
PIXELS, LABELS = (DIGITS.images[:40] * 15).astype(np.uint8), DIGITS.target[:40]


@pytest.fixture(scope="module")
def copy(soak, tmp_path_factory):
    """The inputs, to be damaged."""
    folder = tmp_path_factory.mktemp("damaged") / "all"
    shutil.copytree(soak.root, folder)
    return folder


def parts():
    model = build_model("mlp", num_classes=10, channels=1, size=(8, 8), seed=0)
    optimizer = make_optimizer(model, RECIPE)
    model(torch.zeros(2, 1, 8, 8)).sum().backward()
    optimizer.step()
    return {"model": model, "optimizer": optimizer, "tracker": None}


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


@pytest.mark.parametrize(
    "name", ["run/run.json", "search/search.json", "auto/auto.json", "auto/schedule.arrow", "auto/distribution.parquet"]
)
def test_report_and_serve(damages, copy, tmp_path, name):
    def read():
        json.dumps(Board(copy).state())
        write_report(copy, tmp_path / "report.html")

    damages(f"{name} in report and serve", copy / name, read)


@pytest.mark.parametrize("name", ["search/sampler.json", "features/part-00000.parquet", "data/train/catalog.parquet"])
def test_report_of_damaged_files(damages, copy, tmp_path, name):
    damages(f"{name} in report", copy / name, lambda: write_report(copy, tmp_path / "report.html"), count=150)


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
        for name, array in (("train-images-idx3-ubyte", PIXELS), ("train-labels-idx1-ubyte", LABELS)):
            (root / folder / f"{name}{ending}").write_bytes(squeeze(idx(array)))
            yield f"{folder}, {name}", root / folder, root / folder / f"{name}{ending}"
    np.savez(root / "plain.npz", images=PIXELS, labels=LABELS)
    np.savez_compressed(root / "small.npz", images=PIXELS, labels=LABELS)
    yield from ((name, root / name, root / name) for name in ("plain.npz", "small.npz"))
    (root / "npy").mkdir()
    for name, array in (("images", PIXELS), ("labels", LABELS)):
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
    model = build_model("mlp", num_classes=10, channels=1, size=(8, 8), seed=0)
    path = tmp_path / f"weights.{ending}"
    if ending == "pt":
        torch.save({"model": model.state_dict()}, path)
    else:
        from drawstream.tools.training.models import save_weights

        save_weights(path, model.state_dict())
    damages(f"weights, {ending}", path, lambda: load_weights(model, path))


@pytest.mark.parametrize("key", ["sample_id", "key"])
def test_joined_file(damages, soak, tmp_path, key):
    from drawstream.pipeline import Catalog

    catalog = Catalog.open(soak.inputs.data / "train")
    ids = list(catalog.keys) if key == "key" else list(range(len(catalog)))
    path = tmp_path / "more.parquet"
    table = {key: ids, "age": np.arange(len(ids), dtype=np.float32), "note": ["text"] * len(ids)}
    pq.write_table(pa.table(table), path, write_page_checksum=True)

    def read():
        opened = FeatureTable.open(soak.inputs.features, join=[path], catalog=catalog)
        return {name: opened.columns(name)[name].tolist() for name in opened.names}

    damages(f"joined by {key}", path, read)
