"""`drawstream search swift`: features, segments, recipes, workers and what it records."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from drawstream import Catalog, FeatureTable, SwiftSampler
from drawstream.tools.runs import read_record
from drawstream.tools.training import Setup, save_weights
from shared.programs import cli
from shared.samples import write_table

MEASURES = ("loss", "entropy", "grad_norm", "target_prob")
JUDGE = "def judge(probabilities, trial):\n    return probabilities.max() + trial.seed / 2**40\n"


@pytest.fixture
def table(digits, tmp_path, monkeypatch):
    """A feature table of the digits, a column to join, and an objective, in the working folder."""
    rng, catalog = np.random.default_rng(0), Catalog.open(digits.train)
    scores = {name: rng.random(len(catalog), np.float32) for name in MEASURES}
    folder = write_table(tmp_path / "features", catalog, scores)
    assert len(FeatureTable.open(folder)) == len(catalog)
    mine = {"sample_id": np.arange(len(catalog)), "my_column": rng.random(len(catalog))}
    pq.write_table(pa.table(mine), tmp_path / "mine.parquet")
    (tmp_path / "judge_of_commands.py").write_text(JUDGE)
    monkeypatch.chdir(tmp_path)
    return folder


def swift(digits, table, out, *options, status=0):
    command = ["search", "swift", table, "-o", out, "--catalog", digits.train, "--objective", "judge_of_commands:judge"]
    return cli(*command, *options, status=status)


QUICK = ("--trials", 5, "--agent", "random", "--min-ess", 0.1, "--confirm-seeds", 2, "--confirm-top", 1)


@pytest.mark.parametrize("features", ["loss", "loss,entropy,grad_norm,target_prob,my_column"])
def test_one_feature_and_five(digits, table, tmp_path, features):
    swift(digits, table, "s", *QUICK, "--features", features, "--join", "mine.parquet", "--segments", 6)
    names = features.split(",")
    record = read_record(tmp_path / "s/search.json", "search")
    done = [trial for trial in record["trials"] if trial["state"] == "complete"]
    assert len(done) == 5
    assert {len(trial["params"]["coefficients"]) for trial in done} == {len(names)}
    assert {len(trial["params"]["values"]) for trial in done} == {7}
    assert SwiftSampler.load(tmp_path / "s/sampler.json").features == tuple(names)


def test_the_seconds_of_all_parts_are_recorded_and_kept(digits, table, tmp_path):
    swift(digits, table, "s", *QUICK)
    record = read_record(tmp_path / "s/search.json", "search")
    assert record["spent"]["objective"] == pytest.approx(sum(trial["seconds"] for trial in record["trials"]))
    assert record["spent"]["propose"] == pytest.approx(sum(trial["propose_seconds"] for trial in record["trials"]))
    assert record["spent"]["confirm"] == pytest.approx(sum(run["seconds"] for run in record["confirmation"]))
    assert min(record["spent"].values()) > 0
    (tmp_path / "s/search.json").unlink()  # killed before its last write
    swift(digits, table, "s", *QUICK)
    assert read_record(tmp_path / "s/search.json", "search")["spent"] == record["spent"]


def test_the_papers_recipe(digits, table, tmp_path, monkeypatch):
    import drawstream.tools.cli.search as recipes

    monkeypatch.setitem(recipes.PAPER, "trials", 5)  # of 40: the agent's time
    assert "has the best score" in swift(digits, table, "s", "--protocol", "paper", "--kappa", 2)
    record = read_record(tmp_path / "s/search.json", "search")
    assert record["options"] | {"trials": 40} == {
        "features": ["loss", "entropy"], "mass": "grad_norm", "transform": "cgf", "space": "paper10", "segments": 4,
        "agent": "gp", "trials": 40, "round": 1, "starts": False, "min_ess": 0.0, "kappa": 2.0, "confirm_top": 0,
        "confirm_seeds": 3,
    }  # fmt: skip
    best = max(record["trials"], key=lambda trial: trial["value"] or 0)
    assert record["winner"] == "swift" and record["confirmation"] == []
    assert json.loads((tmp_path / "s/sampler.json").read_text())["provenance"]["search"]["trial"] == best["number"]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (("--protocol", "paper", "--round", 4), "--protocol paper has --round 1, but got 4: leave one of them out"),
        (("--protocol", "paper", "--starts"), "--protocol paper has --starts False, but got True"),
        (("--protocol", "prose"), "'--protocol': 'prose' is not one of 'default', 'paper'"),
        (("--agent", "tpe"), "agent must be one of gp, random, reinforce"),
        (("--workers", 0), "--workers must be in [1, 10000], but got 0"),
        (("--engine", "slurm"), "engine must be local, ray or ray:ADDRESS"),
        (("--segments", 40), "--segments must be in [1, 32], but got 40"),
        (("--confirm-seeds", 1), "--confirm-seeds must be in [2, 10000], but got 1"),
        (("--storage", "nonsense"), "cannot open the study storage 'nonsense'"),
    ],
)
def test_bad_options_are_one_line(digits, table, options, text):
    error = swift(digits, table, "s", *options, status=2)
    assert text in error and error.count("\n") == 1


@pytest.mark.parametrize(
    "options",
    [
        ("--start", "w"), ("--confirm", "scratch"), ("--epochs", 2), ("--lr", 0.1), ("--fine-tune-epochs", 1),
        ("--fine-tune-lr", 0.1), ("--global-batch", 64), ("--augment", "mixup"), ("--held-out", "h"),
    ],
)  # fmt: skip
def test_options_of_fine_tuning_are_not_taken_with_an_objective(digits, table, options):
    error = swift(digits, table, "s", *options, status=2)
    assert error.startswith(f"drawstream: {options[0]} goes with fine-tuning") and error.endswith(": leave it out\n")


def test_a_shared_storage_holds_the_study(digits, table, tmp_path):
    options = (*QUICK, "--storage", f"sqlite:///{tmp_path / 'shared.db'}", "--study", "mine")
    for out in ("a", "b"):  # the second finds all done
        swift(digits, table, out, *options)
    records = [read_record(tmp_path / out / "search.json", "search") for out in ("a", "b")]
    assert records[0]["trials"] == records[1]["trials"]
    assert not (tmp_path / "a/study.db").exists()


@pytest.mark.slow
def test_workers_fine_tune_as_this_process_does(digits, table, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    save_weights(tmp_path / "start.safetensors", Setup(digits.train, "mlp").build(0).state_dict())
    common = ["search", "swift", table, "--catalog", digits.train, "--held-out", digits.held_out, "--model", "mlp"]
    start = ["--start", tmp_path / "start.safetensors", "--fine-tune-lr", 0.05, "--epochs", 1]
    found = []
    for workers in (1, 2):
        out = tmp_path / f"s{workers}"
        given = [*common, *start, *QUICK, "-o", out, "--workers", workers]
        cli(*given)
        record = read_record(out / "search.json", "search")
        found.append([(trial["number"], trial["params"], trial["value"]) for trial in record["trials"]])
    assert found[0] == found[1]
    torch.set_num_threads(threads)


@pytest.mark.parametrize("length", ["inf", "nan", "0", "-1", "1e400"])
def test_epochs_of_a_candidate_are_a_number_of_epochs(digits, table, tmp_path, length):
    command = ["search", "swift", table, "-o", tmp_path / "s", "--catalog", digits.train, "--held-out", digits.held_out]
    start = tmp_path / "empty"
    start.write_bytes(b"")
    command += ["--model", "mlp", "--start", start]
    assert "--fine-tune-epochs must be " in cli(*[*command, f"--fine-tune-epochs={length}"], status=2)
    assert (
        cli(*command, status=2) == f"drawstream: weights {start}: cannot be read as tensors (the file ends too early)\n"
    )


def test_candidates_draw_some_rows_with_balanced_classes_and_so_does_their_training(digits, table, tmp_path):
    catalog = Catalog.open(digits.train)
    save_weights(tmp_path / "w.safetensors", Setup(digits.train, "mlp").build(0).state_dict())
    command = ["search", "swift", table, "-o", "s", "--catalog", digits.train, "--held-out", digits.held_out]
    command += ["--model", "mlp", "--start", "w.safetensors", "--fine-tune-epochs", 0.5, *QUICK, "--epochs", 1]
    cli(*command, "--balance", 1, "--where", "label < 4 and loss > .1")
    record, sampler = read_record(tmp_path / "s/search.json", "search"), SwiftSampler.load(tmp_path / "s/sampler.json")
    assert (record["balance"], record["where"]) == (1, "label < 4 and loss > 0.1")
    assert (sampler.provenance["balance"], sampler.provenance["where"]) == (1, "label < 4 and loss > 0.1")
    assert "where 'label < 4 and loss > 0.1', not none" in cli(*command, "--balance", 1, status=2)
    assert "--where goes with fine-tuning" in swift(digits, table, "o", *QUICK, "--where", "label < 4", status=2)
    told = cli(*command[:4], "x", *command[5:], "--crop-factor", 2, "--where", "label < 4", status=2)
    assert "leave out --balance and --where" in told

    cli(
        "train",
        digits.train,
        "-o",
        "t",
        "--model",
        "mlp",
        "--epochs",
        2,
        "--sampler",
        "s/sampler.json",
        "--table",
        table,
    )
    run = read_record(tmp_path / "t/run.json", "train")
    loss = FeatureTable.open(table).columns("loss")["loss"]
    kept = (catalog.label < 4) & (loss > 0.1)
    assert run["class_rows"] == np.bincount(catalog.label[kept], minlength=10).tolist()
    assert run["forward"] == 2 * kept.sum() and sum(run["class_drawn"][4:]) == 0
    assert run["class_drawn"][:4] == pytest.approx([kept.sum() / 2] * 4, rel=0.2)
