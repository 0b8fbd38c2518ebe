"""Weights and scores of a user on the command line: rows are found by their ids, or one line says what is assumed."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file

from drawstream import Catalog, IndexStream
from drawstream.tools.cli.app import main
from shared.programs import cli, cli_json
from shared.samples import write_table

ROWS = 500
RNG = np.random.default_rng(2)
WEIGHTS = RNG.integers(0, 99, ROWS) / 8
ORDER = RNG.permutation(ROWS)


@pytest.fixture(scope="module")
def files(digits, tmp_path_factory):
    """The same weights in other orders and formats."""
    catalog, folder = Catalog.open(digits.train), tmp_path_factory.mktemp("weights")
    table = pd.DataFrame({"key": [catalog.key(row) for row in ORDER], "weight": WEIGHTS[ORDER]})
    table.to_csv(folder / "w.csv", index=False)
    table.to_csv(folder / "w.csv.gz")
    table.rename(columns={"weight": "p"}).to_parquet(folder / "p.parquet")
    (folder / "w.json").write_text(json.dumps(dict(zip(table["key"], table["weight"], strict=True))))
    pd.DataFrame({"sample_id": ORDER, "weight": WEIGHTS[ORDER]}).to_feather(folder / "w.feather")
    np.save(folder / "w.npy", WEIGHTS)
    np.save(folder / "short.npy", WEIGHTS[:100])
    table[:400].to_csv(folder / "part.csv", index=False)
    return folder


@pytest.mark.parametrize("name", ["w.csv", "w.csv.gz", "p.parquet", "w.json", "w.feather", "w.npy"])
def test_a_stream_of_any_file_is_that_of_the_weights(name, files, digits, tmp_path, capsys):
    result = cli_json(tmp_path, "stream", "show", files / name, "--catalog", digits.train, "--seed", 4)
    stream = IndexStream(WEIGHTS, seed=4)
    assert result["fingerprint"] == stream.fingerprint
    assert result["first_rows"] == stream.epoch(0)[:10].tolist()
    note = f"note: {files / name}: without a column `sample_id` or `key` its rows are taken in their order\n"
    assert capsys.readouterr().err == (note if name == "w.npy" else "")


def test_a_shuffled_file_with_keys_trains_as_the_ordered_one(files, digits, tmp_path, capsys):
    runs = {}
    for name in ("w.npy", "w.csv", "w.json"):
        options = ("--sampler", files / name, "--model", "mlp", "--global-batch", 50, "--epochs", 1)
        cli_json(tmp_path, "train", digits.train, "-o", tmp_path / name, *options)
        runs[name] = load_file(tmp_path / name / "last.safetensors")
        assert ("its rows are taken in their order" in capsys.readouterr().err) == (name == "w.npy")
        assert json.loads((tmp_path / name / "run.json").read_text())["method"] == "weights"
    for name in ("w.csv", "w.json"):
        for key, value in runs["w.npy"].items():
            np.testing.assert_array_equal(value.numpy(), runs[name][key].numpy())


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ("train {train} -o {out} --sampler {files}/short.npy", "short.npy has 100 weights, the catalog 500 images"),
        ("train {train} -o {out} --sampler {files}/part.csv", "must have its row here, but 100 of 500 have none"),
        ("train {held_out} -o {out} --sampler {files}/w.csv", "rows belong to none of 100 images (its keys are like "),
        ("train {train} -o {out} --sampler {files}/p.parquet --column q", "'q' must hold numbers, but is missing"),
        ("train {train} -o {out} --sampler {files}/w.xlsx", "the sampler must be a file or one of"),
        ("stream show {files}/w.csv", "named by `key`, which the catalog knows: give the catalog too"),
        ("stream show {files}/short.npy --catalog {train}", "short.npy has 100 weights, the catalog 500 images"),
        ("stream count {files}/w.json --catalog {held_out}", "rows belong to none of 100 images"),
        ("stream show {files}/twice.json --catalog {train}", "key 'a' comes twice in one object"),
        ("fit {out} -o {out}/s.json --probabilities {out}/p.csv", "give it the ending .npy"),
    ],
)
def test_what_does_not_fit_is_one_line_and_exit_2(arguments, text, files, digits, tmp_path, capsys):
    (files / "twice.json").write_text('{"a": 1, "a": 2}')
    names = {"train": digits.train, "held_out": digits.held_out, "out": tmp_path / "out", "files": files}
    assert main([part.format(**names) for part in arguments.split()]) == 2
    error = capsys.readouterr().err
    assert text in error and error.count("\n") == 1


def test_a_distribution_is_taken_on_its_own_catalog_only(digits, tmp_path, capsys):
    import pyarrow as pa

    catalog = Catalog.open(digits.train)
    metadata = {"drawstream.distribution": "1", "catalog": catalog.fingerprint}
    pq.write_table(pa.table({"weight": WEIGHTS}).replace_schema_metadata(metadata), tmp_path / "d.parquet")
    result = cli_json(tmp_path, "stream", "show", tmp_path / "d.parquet")
    assert (result["catalog"], result["fingerprint"]) == (catalog.fingerprint, IndexStream(WEIGHTS).fingerprint)
    assert capsys.readouterr().err == ""
    error = cli("stream", "show", tmp_path / "d.parquet", "--catalog", digits.test, status=2)
    assert f"weights of catalog {catalog.fingerprint[:12]}, but this is" in error and error.count("\n") == 1
    assert main(["train", str(digits.test), "-o", str(tmp_path / "run"), "--sampler", str(tmp_path / "d.parquet")]) == 2


def test_scores_of_a_csv_join_a_table_wherever_one_is_read(digits, tmp_path, capsys):
    catalog = Catalog.open(digits.train)
    folder = write_table(tmp_path / "features", catalog, {"loss": np.ones(ROWS, np.float32)})
    more = tmp_path / "more.csv"
    keys = [catalog.key(row) for row in ORDER]
    pd.DataFrame({"key": keys, "score": WEIGHTS[ORDER], "who": "me"}).to_csv(more, index=False)
    fit = ("fit", folder, "--transform", "cdf", "--features", "score", "--coefficients", 1, "--catalog", digits.train)
    cli_json(tmp_path, *fit, "-o", tmp_path / "s.json", "--join", more, "--probabilities", tmp_path / "p.npy")
    assert capsys.readouterr().err == f"note: {more}: columns that are no numbers are left out: who\n"
    table = ("--table", folder, "--join", more, "--catalog", digits.train)
    shown = cli_json(tmp_path, "stream", "show", tmp_path / "s.json", *table)
    assert f"note: {more}: columns" in capsys.readouterr().err
    assert shown["fingerprint"] == cli_json(tmp_path, "stream", "show", tmp_path / "p.npy")["fingerprint"]
    pd.DataFrame({"score": WEIGHTS}).iloc[ORDER].reset_index().to_csv(tmp_path / "shuffled.csv", index=False)
    assert main([*map(str, fit), "-o", str(tmp_path / "t.json"), "--join", str(tmp_path / "shuffled.csv")]) == 2
    assert "its pandas index is not 0, 1, 2" in capsys.readouterr().err and not (tmp_path / "t.json").exists()
    odd = ("train", digits.train, "-o", tmp_path / "x", "--sampler", tmp_path / "p.npy", "--table", folder)
    err = cli(*map(str, odd), status=2)
    assert "--table goes with a sampler.json, your own sampler, rho, coreset-forgetting" in err
    p = np.load(tmp_path / "p.npy")
    lowest, highest = np.quantile(WEIGHTS, 0.4) > WEIGHTS, np.quantile(WEIGHTS, 0.8) < WEIGHTS
    assert (p[lowest] > 0).all() and (p[highest] == 0).all()  # the worst half is left out, each row by its own score


def test_keys_that_restart_in_each_shard_need_their_shard(tmp_path, capsys):
    """Samples 000, 001, … of a.tar and of b.tar: `a/000` is one of them, and `000` alone is refused."""
    case = Path(__file__).parents[2] / "cases/tars/samekey_a.tar"
    for name in ("a.tar", "b.tar"):
        shutil.copy(case, tmp_path / name)
    cli_json(tmp_path, "index", tmp_path)
    catalog = Catalog.open(tmp_path)
    rows = len(catalog)
    weights, order = np.arange(1.0, rows + 1), RNG.permutation(rows)
    for form, keys in (("full", catalog.keys), ("short", [catalog.member_key(row) for row in range(rows)])):
        table = pd.DataFrame({"key": [keys[row] for row in order], "weight": weights[order], "sample_id": order})
        table.to_csv(tmp_path / f"{form}-id.csv", index=False)
        table.drop(columns="sample_id").to_csv(tmp_path / f"{form}.csv", index=False)
    capsys.readouterr()
    for name in ("full.csv", "full-id.csv", "short-id.csv"):
        result = cli_json(tmp_path, "stream", "show", tmp_path / name, "--catalog", tmp_path)
        assert result["fingerprint"] == IndexStream(weights).fingerprint
    error = cli("stream", "show", tmp_path / "short.csv", "--catalog", tmp_path, status=2)
    assert "short.csv" in error and "a/" in error and error.count("\n") == 1


# A module of the user's that ends the process: never exit 0 with nothing done


ENDS = {
    "ends_on_import": "import sys\nsys.exit(0)\n",
    "ends_when_called": "import sys\ndef f(*_, **__):\n    sys.exit(0)\n",
    "ends_later": "import sys\nclass f:\n    def __init__(self, *_): pass\n    def begin(self, *_): sys.exit(0)\n"
    "    def probabilities(self, epoch): sys.exit()\n",
}


@pytest.fixture
def ran(digits, tmp_path, monkeypatch, capsys):
    for name, text in ENDS.items():
        (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))

    def ran(command):
        status = main(command.replace("DATA", str(digits.train)).split())
        return status, capsys.readouterr().err

    yield ran
    for name in ENDS:
        sys.modules.pop(name, None)


TRAIN = "train DATA -o run --model mlp --epochs 1"
COMMANDS = [
    ("train DATA -o run --model {}:f", "model"),
    (f"{TRAIN} --sampler {{}}:f", "--sampler"),
    (f"{TRAIN} --hook {{}}:f", "--hook"),
    ("features DATA -o table --model mlp --weights no --measure {}:f", "measure"),
    ("search swift table -o search --catalog DATA --objective {}:f", "objective"),
]


@pytest.mark.parametrize(("command", "what"), COMMANDS)
def test_on_import(ran, command, what):
    status, err = ran(command.format("ends_on_import"))
    assert (status, err.count("\n")) == (2, 1)
    assert f"{what} 'ends_on_import:f' cannot be imported: it ended the process (SystemExit 0): put its main" in err


@pytest.mark.parametrize(("command", "what"), COMMANDS[:3])
def test_in_the_factory(ran, command, what):
    status, err = ran(command.format("ends_when_called"))
    assert (status, err.count("\n")) == (2, 1) and what in err
    assert "cannot be made: it ended the process (SystemExit 0)" in err


@pytest.mark.parametrize("option", ["--sampler", "--hook"])
def test_while_the_job_runs(ran, option):
    status, err = ran(f"{TRAIN} {option} ends_later:f")
    assert status == 2 and "ends_later.py:" in err and "ended the process (SystemExit" in err.splitlines()[-1]
