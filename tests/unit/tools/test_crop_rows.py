"""Search and training over the crops of a feature table, from the command line to the page."""

import json

import numpy as np
import pytest
from safetensors.torch import save_file

from drawstream.features.table import FeatureTable
from drawstream.pipeline.shards import Catalog
from drawstream.samplers.orders import IndexStream
from drawstream.samplers.swift import SwiftSampler
from drawstream.tools.cli.app import main
from drawstream.tools.training.models import build_model
from drawstream.tools.training.setup import Setup, crop_rows

CROPS, ROWS = 3, 500


@pytest.fixture(scope="module")
def done(digits, tmp_path_factory):
    """A folder with features of three crops an image, a search over them, a run with its sampler, and a uniform run."""
    root = tmp_path_factory.mktemp("crops")
    model = build_model("mlp", num_classes=10, channels=1, size=(8, 8), seed=0)
    save_file(model.state_dict(), root / "w.safetensors")
    common = (digits.train, "--model", "mlp", "--held-out", digits.held_out, "--epochs", 2)
    of_search = ("--transform", "cdf", "--trials", 3, "--fine-tune-epochs", 0.5, "--epochs", 1, "--confirm-seeds", 2)
    scored = ("--model", "mlp", "--weights", root / "w.safetensors", "--crops", CROPS, "--crop-scale", "0.3,1")
    of_data = ("--catalog", digits.train, "--model", "mlp", "--held-out", digits.held_out)
    steps = [
        ("features", digits.train, "-o", root / "f", *scored),
        ("search", "swift", root / "f", "-o", root / "search", *of_data, "--start", root / "w.safetensors", *of_search),
        ("train", *common, "-o", root / "swift", "--sampler", root / "search/sampler.json", "--table", root / "f"),
        ("train", *common, "-o", root / "uniform"),
        ("report", root, "-o", root / "report.html"),
    ]
    for step in steps:
        assert main([str(word) for word in step]) == 0, step
    return root


def record(path):
    return json.loads(path.read_text())


def test_the_run_draws_crops_by_the_sampler_in_epochs_of_the_samples(done):
    table, sampler = FeatureTable.open(done / "f"), SwiftSampler.load(done / "search/sampler.json")
    assert len(table) == CROPS * ROWS and table.windows is not None
    p = sampler.probabilities(table.columns(*sampler.features))
    assert record(done / "swift/run.json")["stream"] == IndexStream(p, seed=0, draws=ROWS).fingerprint
    assert len(record(done / "search/search.json")["trials"]) >= 3


def test_training_costs_no_extra_image(done):
    """Each epoch decodes and trains on as many images as uniform training does, and on no others."""
    uniform, swift = (record(done / f"{name}/run.json") for name in ("uniform", "swift"))
    assert swift["loader"]["images"] == uniform["loader"]["images"] == 2 * ROWS
    assert "filtered" not in swift
    assert [each["epoch"] for each in swift["history"]] == [0, 1]


def test_the_loader_gives_the_crops_that_were_scored(done, digits):
    """A batch's images are cut out by the windows of its rows, and not whole."""
    setup = Setup(digits.train, "mlp", global_batch=10)
    loader = setup.training_loader(rows=crop_rows(done / "f", setup))
    loader.replace_stream(IndexStream(np.eye(1, CROPS * ROWS, 7)[0], draws=10))
    (batch,) = loader
    assert set(batch.ids.tolist()) == {7} and (batch.images == batch.images[0]).all()
    y0, x0, y1, x1 = FeatureTable.open(done / "f").windows[7]
    plain = setup.training_loader()
    plain.replace_stream(IndexStream(np.eye(1, ROWS, 7 // CROPS)[0], draws=10))
    (whole,) = plain
    assert (y1 - y0) * (x1 - x0) < 1 and not (whole.images[0] == batch.images[0]).all()
    assert batch.labels[0] == Catalog.open(digits.train).label[7 // CROPS]
    loader.close()
    plain.close()


def test_the_page_shows_windows(done):
    page = (done / "report.html").read_text()
    assert "Least likely crops" in page and "The frame is the crop of the row." in page


def test_a_tracker_does_not_follow_crops(done, digits, capsys):
    step = ("train", digits.train, "--model", "mlp", "-o", done / "tracked", "--track", done / "averages")
    assert main([str(w) for w in (*step, "--sampler", done / "search/sampler.json", "--table", done / "f")]) == 2
    assert "a tracker follows whole images" in capsys.readouterr().err
