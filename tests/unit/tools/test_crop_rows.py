"""Search and training over the crops of a feature table, from the command line to the page."""

import json

import numpy as np
import pytest
from safetensors.torch import save_file

from drawstream.features.table import FeatureTable
from drawstream.pipeline.shards import Catalog
from drawstream.samplers.orders import Capped, IndexStream
from drawstream.samplers.swift import SwiftFit, SwiftParams, SwiftSampler
from drawstream.search.objective import Trial
from drawstream.tools.cli.app import main
from drawstream.tools.training.finetune import FineTune
from drawstream.tools.training.models import build_model
from drawstream.tools.training.recipe import Recipe
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


def tuned(digits, done, **given):
    setup = Setup(digits.train, "mlp", digits.held_out, global_batch=50, augment="standard")
    recipe = Recipe(1, 0.02)
    return FineTune(setup, done / "w.safetensors", recipe, recipe, table=done / "f", **given)


def test_a_candidate_is_scored_under_the_contrast_of_capped_draws(done, digits):
    """It trains on the stream that `train --crop-factor 2` draws by its sampler."""
    score, p = tuned(digits, done, factor=2), np.random.default_rng(0).random(CROPS * ROWS)
    uncapped = tuned(digits, done)
    assert not score.reads_sampler and score.identity != uncapped.identity
    value = score(p / p.sum(), Trial(0, 0, "search"))
    assert score.loader.stream.fingerprint == IndexStream(Capped(p / p.sum(), ROWS, batch=50), seed=0).fingerprint
    assert score.steps("search") == uncapped.steps("search") == 10
    assert 0 <= value <= 100
    score.close()
    uncapped.close()


def test_a_candidate_chooses_among_random_crops(done, digits):
    """As many crops are kept as the stream of a candidate draws without it, and those that it wants."""
    score = tuned(digits, done, factor=2, random_crops=True)
    fit = SwiftFit(FeatureTable.open(done / "f").columns("loss"), features=("loss",), mass=None, transform="cdf")
    params = SwiftParams((1.0,), (0.5,), (1.0, 0.5, 0.01))
    trial = Trial(0, 0, "search", fit.sampler(params))
    seen = []
    crops = score._drawn(fit.probabilities(params), trial, 0)
    for batch in crops:
        seen.append(len(batch.ids))
    assert score.reads_sampler and seen == [50] * 10
    assert crops.metrics["rows_scored"] == 2 * ROWS and crops.metrics["tau_kept"] > crops.metrics["tau_dropped"]
    assert score.steps("search") == 10
    assert score(fit.probabilities(params), trial) == score(fit.probabilities(params), trial)
    score.close()
    with pytest.raises(ValueError, match="`crop-factor >= 2` must hold, but got 1"):
        tuned(digits, done, random_crops=True)


@pytest.mark.parametrize("given", [("--crop-filter",), ("--crop-factor", 3)])
def test_the_commands_search_and_train_under_the_same_contrast(given, done, digits, tmp_path):
    of_data = ("--catalog", digits.train, "--model", "mlp", "--held-out", digits.held_out, "--augment", "standard")
    short = ("--transform", "cdf", "--trials", 3, "--fine-tune-epochs", 0.5, "--epochs", 1, "--confirm-seeds", 2)
    start = ("--start", done / "w.safetensors")
    command = ("search", "swift", done / "f", "-o", tmp_path / "search", *of_data, *start, *short, *given)
    assert main([str(word) for word in (*command, "--dry-run")]) == 0
    assert main([str(word) for word in command]) == 0
    objective = record(tmp_path / "search/search.json")["identity"]["objective"]
    assert (objective["factor"], objective["random_crops"]) == ((2, True) if len(given) == 1 else (3, None))
    sampler = tmp_path / "search/sampler.json"
    drawn = ("--crop-filter", sampler, "--score-weights", done / "w.safetensors")
    if len(given) == 2:
        drawn = ("--sampler", sampler, "--table", done / "f", *given)
    run = ("train", digits.train, "--model", "mlp", "--epochs", 1, "-o", tmp_path / "run", *drawn)
    assert main([str(word) for word in run]) == 0
    found = record(tmp_path / "run/run.json")
    if len(given) == 1:
        assert found["filtered"]["rows_kept"] == ROWS
    else:
        table, swift = FeatureTable.open(done / "f"), SwiftSampler.load(sampler)
        law = Capped(swift.probabilities(table.columns(*swift.features)), ROWS, batch=128, factor=3)
        assert found["stream"] == IndexStream(law, seed=0).fingerprint
        assert found["loader"]["images"] == ROWS and found["sampling"]["crop_factor"] == 3


def test_capped_draws_have_no_mode(done, digits, tmp_path, capsys):
    given = ("--sampler", done / "search/sampler.json", "--table", done / "f", "--crop-factor", 2, "--mode", "subset")
    command = ("train", digits.train, "--model", "mlp", "-o", tmp_path / "run", *given)
    assert main([str(word) for word in command]) == 2
    assert "--crop-factor keeps a part of each batch and --mode draws" in capsys.readouterr().err
