"""`drawstream features`: scoring without a name, and what info, check and describe say."""

import json
from pathlib import Path
from types import SimpleNamespace

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from safetensors.torch import save_file

from drawstream import Catalog, FeatureTable, IndexStream, SwiftSampler, map_weights, write_part
from drawstream.features.table import part_path
from drawstream.samplers.orders import Capped
from drawstream.samplers.swift import SwiftFit, SwiftParams
from drawstream.search.objective import Trial
from drawstream.tools.cli.app import main
from drawstream.tools.report import SampledRows
from drawstream.tools.report.records import read_records
from drawstream.tools.runs import read_record
from drawstream.tools.training import Ranks, Setup, build_model, crop_rows
from drawstream.tools.training.finetune import FineTune
from drawstream.tools.training.methods import Sampling
from drawstream.tools.training.recipe import Recipe
from shared.programs import cli, cli_json
from shared.refusals import refused
from shared.samples import write_table

RNG = np.random.default_rng(0)


def columns(start, rows, **more):
    ids = np.arange(start, start + rows)
    fixed = {"sample_id": ids, "crop": np.zeros(rows, np.int32), "label": ids % 3}
    drawn = RNG.gamma(0.5, size=(3, rows)).astype(np.float32)
    return {**fixed, **dict(zip(("loss", "entropy", "grad_norm"), drawn, strict=True)), **more}


@pytest.fixture
def table(tmp_path):
    folder = tmp_path / "features"
    folder.mkdir()
    for i in range(2):
        write_part(part_path(folder, i), columns(50 * i, 50), {"catalog": "c" * 32, "parts": 2, "model": "m"})
    return folder


def test_help_shows_scoring_and_the_sub_commands():
    out = cli("features", "--help")
    assert all(text in out for text in ("info", "check", "describe", "extract"))
    assert "--grad-norm" in cli("features", "data/train", "--help")


@pytest.mark.parametrize("order", [("nowhere", "-o", "x"), ("-o", "x", "nowhere"), ("extract", "nowhere", "-o", "x")])
def test_all_else_is_scoring(order, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "nowhere: no such catalog" in cli("features", *order, "--weights", "w.safetensors", status=2)


def test_info(table, tmp_path):
    out = cli("features", "info", table, "--json", tmp_path / "i.json")
    result = json.loads((tmp_path / "i.json").read_text())
    assert out.startswith("100 rows in 2 parts")
    assert result["columns"]["loss"] == "float32" and result["provenance"]["model"] == "m"
    assert result["bytes"] == sum(path.stat().st_size for path in table.iterdir())
    assert f"fingerprint {result['fingerprint']}" in out and "model: m" in out


def test_describe(table, tmp_path):
    out = cli("features", "describe", table, "--json", tmp_path / "d.json")
    result = json.loads((tmp_path / "d.json").read_text())
    assert "loss: 100 rows, 100 distinct values, 0 rows tied" in out
    values = np.concatenate([pq.read_table(part_path(table, i))["loss"].to_numpy() for i in range(2)])
    found = result["columns"][0]
    assert found["minimum"] == values.min() and found["maximum"] == values.max()
    assert found["mean"] == pytest.approx(values.mean(dtype=float)) and found["deviation"] == pytest.approx(
        values.std()
    )
    assert found["quantiles"]["0.25"] == np.quantile(values, 0.25, method="inverted_cdf")
    assert found["counts"] == np.histogram(values, 12)[0].tolist()
    assert "█" in out


def test_describe_counts_what_is_not_finite_and_ties(table):
    bad = np.zeros(50, np.float32)
    bad[:5] = [np.nan, np.inf, 1, 2, 2]
    provenance = {"catalog": "c" * 32, "parts": 2, "model": "m"}
    for i in range(2):
        write_part(part_path(table, i), columns(50 * i, 50, extra=bad), provenance)
    out = cli("features", "describe", table, status=1, notes=False)
    assert "extra: 100 rows, 4 of them NaN or infinite, 3 distinct values, 96 rows tied" in out
    assert "quantiles 0.01: 0, 0.05: 0, 0.25: 0, 0.5: 0, 0.75: 0, 0.95: 1, 0.99: 2" in out


def test_check_of_a_sound_table(table):
    assert cli("features", "check", table) == f"{table}: 0 findings\n"


def test_fit_with_a_joined_column_and_weights_on_disk(table, tmp_path):
    pq.write_table(pa.table({"sample_id": np.arange(120), "margin": RNG.random(120)}), tmp_path / "more.parquet")
    command = ("fit", table, "--features", "loss,margin", "--coefficients", "1,-1", "--join", tmp_path / "more.parquet")
    out = cli(*command, "-o", tmp_path / "a.json")
    again = cli(*command, "-o", tmp_path / "b.json", "--probabilities", tmp_path / "w.npy")
    assert again.split(":")[0] == out.split(":")[0]
    told = cli(*command, "-o", tmp_path / "c.json", notes=True)
    assert "20 of 120 rows belong to no row of the table" in told
    assert (tmp_path / "a.json").read_text() == (tmp_path / "b.json").read_text()
    assert map_weights(tmp_path / "w.npy").sum() == pytest.approx(1)
    provenance = json.loads((tmp_path / "a.json").read_text())["provenance"]
    assert list(provenance["joined"][0]) == ["margin"]
    show = ("stream", "show", tmp_path / "a.json", "--table", table)
    assert cli(*show, "--join", tmp_path / "more.parquet").startswith("100 rows, 100 draws per epoch")
    assert "has no margin: compute or join" in cli(*show, status=2)
    assert "no feature 'margin'" in cli("fit", table, "--features", "loss,margin", "-o", tmp_path / "c.json", status=2)


def test_search_train_and_report_with_a_joined_column(digits, tmp_path, monkeypatch):
    """By key, as the sampler sees it: rows of a clean label get the weight, in each step that opens the table."""
    catalog = Catalog.open(digits.train)
    folder, more = tmp_path / "features", tmp_path / "more.parquet"
    measured = columns(0, len(catalog))
    write_table(folder, catalog, {name: measured[name] for name in ("loss", "entropy", "grad_norm")})
    noisy = (catalog.label != catalog.clean_label).astype(float)
    order = RNG.permutation(len(catalog))
    pq.write_table(pa.table({"key": [catalog.key(i) for i in order], "noisy": noisy[order]}), more)
    (tmp_path / "judge_of_joined.py").write_text("def judge(probabilities, trial):\n    return probabilities.max()\n")
    monkeypatch.chdir(tmp_path)
    swift = ("search", "swift", folder, "-o", tmp_path / "search", "--catalog", digits.train, "--features", "noisy")
    options = ("--objective", "judge_of_joined:judge", "--trials", 3, "--agent", "random", "--transform", "cdf")
    cli(*swift, *options, "--min-ess", 0.1, "--join", more)
    cli(*swift, *options, "--min-ess", 0.1, status=2)
    record = read_record(tmp_path / "search/search.json", "search")
    assert record["join"] == ["../more.parquet"]
    (search,) = read_records(tmp_path / "search")[1]
    assert SampledRows.open(search).table.names[-1] == "noisy"

    fit = ("fit", folder, "-o", "s.json", "--features", "noisy", "--coefficients", 1, "--transform", "cdf")
    heights = ("--ends", 0.99, "--values", "1,1,0", "--join", more)
    assert cli(*fit, *heights, status=2).strip().endswith("give the catalog too")
    cli(*fit, *heights, "--catalog", digits.train)
    sampling = Sampling(tmp_path / "s.json", folder, join=(more,))
    setup = SimpleNamespace(data=catalog, ranks=Ranks())
    weights = sampling.probabilities(setup)
    assert weights[noisy == 1].max() == 0 and weights[noisy == 0].min() > 0
    refused("the table has no noisy", lambda: Sampling(tmp_path / "s.json", folder).probabilities(setup))


# A folder of features is read as it lies by the usual readers of Parquet, whole and while it is written


@pytest.fixture(scope="module")
def written(digits, tmp_path_factory) -> Path:
    """The folder that the command writes."""
    root = tmp_path_factory.mktemp("written")
    save_file(build_model("mlp", num_classes=10, channels=1, size=(8, 8), seed=0).state_dict(), root / "w.safetensors")
    command = ["features", digits.train, "-o", root / "f", "--model", "mlp", "--weights", root / "w.safetensors"]
    cli(*command)
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
    cli("features", command, tmp_path / "f")


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
    cli(*command)
    assert {path.suffix for path in (tmp_path / "t").iterdir()} == {".parquet"}
    assert pl.read_parquet(tmp_path / "t").height == 500


# `drawstream features`: what its options reach, and one line where they are wrong


MEASURES = """
def peak(logits, targets, activations):
    return {"peak": logits.amax(1), "size": activations.norm(dim=1)}

def wide(logits, targets, activations):
    return {"wide": logits}
"""


@pytest.fixture
def scoring(digits, tmp_path, monkeypatch):
    """Words of the command on the digits."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_cli_measures.py").write_text(MEASURES)
    save_file(build_model("mlp", num_classes=10, channels=1, size=(8, 8), seed=0).state_dict(), tmp_path / "w")
    (tmp_path / "w").rename(tmp_path / "w.safetensors")

    return ("features", digits.train, "--model", "mlp", "--weights", "w.safetensors", "-o")


def test_crops(scoring, digits, tmp_path):
    options = ("--crops", 3, "--crop-seed", 5, "--crop-scale", "0.3,0.6", "--crop-ratio", "1,1", "--no-crop-flip")
    result = cli_json(tmp_path, *scoring, "f", *options)
    assert result["rows"] == 3 * len(Catalog.open(digits.train))
    provenance = result["provenance"]
    assert provenance["crops"] == {"count": 3, "seed": 5, "flip": False}
    assert provenance["transform"]["scale"] == [0.3, 0.6] and provenance["transform"]["ratio"] == [1, 1]
    table = FeatureTable.open("f")
    y0, x0, y1, x1 = table.windows.astype(np.float64).T
    area = (y1 - y0) * (x1 - x0)
    assert area.min() >= 0.3 - 1e-6 and area.max() <= 0.6 + 1e-6 and not table.flip.any()
    np.testing.assert_allclose(y1 - y0, x1 - x0, atol=1e-6)
    err = cli(*scoring, "f", "--crops", 2, *options[2:], status=2)
    assert "made with crops.count 3, not 2: " in err and err.count("\n") == 1


def test_modes_measures_and_memory_format(scoring, tmp_path):
    options = ("--measure", "my_cli_measures:peak", "--measures", "loss,grad_norm", "--grad-norm", "full")
    result = cli_json(tmp_path, *scoring, "full", *options, "--grad-memory", 1, "--batch-size", 100)
    assert result["columns"] == ["loss", "grad_norm", "peak", "size"]
    assert result["provenance"]["grad_memory"] == 1 << 20 and result["provenance"]["batch_size"] == 100
    assert list(result["provenance"]["functions"]) == ["my_cli_measures:peak"]
    result = cli_json(tmp_path, *scoring, "half", "--amp", "bf16", "--channels-last", "--head", "5")
    assert [result["provenance"][key] for key in ("amp", "channels_last", "head")] == ["bf16", True, "5"]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (("--crops", -1), "--crops must be in [0, 10000], but got -1"),
        (("--crops", 2, "--crop-scale", "0.5"), "--crop-scale must be 2 numbers, from and to, but got '0.5'"),
        (("--crops", 2, "--crop-scale", "0.5,2"), "`scale` must be a range within"),
        (("--crops", 2, "--crop-seed", -3), "--crop-seed must be in [0, 18446744073709551615], but got -3"),
        (("--amp", "fp8"), "'--amp': 'fp8' is not one of 'off', 'bf16', 'fp16'"),
        (("--amp", "bf16", "--grad-norm", "full"), "`full` gradient norms need float32 throughout"),
        (("--grad-memory", 0), "`grad_memory >= 1` must hold, but got 0"),
        (("--batch-size", 0), "`batch_size >= 1` must hold, but got 0"),
        (("--head", "fc"), "no linear layer 'fc': give one of '1', '3', '5'"),
        (("--head", "3"), "the logits are not the output of linear layer '3'"),
        (("--measure", "peak"), "measure must be module:factory, but got 'peak'"),
        (("--measure", "my_cli_measures:none"), "cannot be imported: AttributeError"),
        (("--measure", "my_cli_measures:wide"), "'wide' is torch.float32 (100, 10)"),
    ],
)
def test_wrong_options_end_with_one_line(scoring, options, text):
    err = cli(*scoring, "f", *options, status=2)
    assert text in err and err.startswith("drawstream: ") and err.count("\n") == 1


# Search and training over the crops of a feature table, from the command line to the page


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


def test_a_tracker_does_not_follow_crops(done, digits):
    step = ("train", digits.train, "--model", "mlp", "-o", done / "tracked", "--track", done / "averages")
    own = ("--sampler", done / "search/sampler.json", "--table", done / "f")
    assert "a tracker follows whole images" in cli(*step, *own, status=2)


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
    refused("`crop-factor >= 2` must hold, but got 1", tuned, digits, done, random_crops=True)


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


def test_capped_draws_have_no_mode(done, digits, tmp_path):
    given = ("--sampler", done / "search/sampler.json", "--table", done / "f", "--crop-factor", 2, "--mode", "subset")
    command = ("train", digits.train, "--model", "mlp", "-o", tmp_path / "run", *given)
    assert "--crop-factor keeps a part of each batch and --mode draws" in cli(*command, status=2)
