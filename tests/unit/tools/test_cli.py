"""Bad input to the command line: one line that says what and where, exit 2, nothing half-written."""

import json
import os
import re
import shutil
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file

from drawstream.features.table.part import part_path, read_provenance, write_part
from drawstream.pipeline.shards import Catalog
from drawstream.tools.training.models import build_model
from shared.programs import cli
from shared.samples import overwrite


def fails(pattern, *arguments):
    """A command must end with exit 2 and one line of error that matches."""
    err = cli(*arguments, status=2)
    lines = [line for line in err.splitlines() if line.startswith("drawstream: ")]
    assert len(lines) == 1 and err.splitlines()[-1] == lines[0], err
    assert re.search(pattern, lines[0]), lines[0]


@pytest.fixture(scope="session")
def scored(digits, tmp_path_factory):
    """A folder with weights and a feature table of the digits."""
    root = tmp_path_factory.mktemp("scored")
    model = build_model("mlp", num_classes=10, channels=1, size=(8, 8), seed=0)
    save_file(model.state_dict(), root / "w.safetensors")
    arguments = ("features", digits.train, "-o", root / "table", "--model", "mlp", "--weights", root / "w.safetensors")
    cli(*arguments)
    return root


def test_a_group_alone_and_an_unknown_command_are_bad_input():
    cli("search", status=2), cli("unheard", status=2)


def test_pack(tmp_path, digits):
    out = tmp_path / "out"
    fails("no such file or folder", "pack", tmp_path / "missing", out)
    np.savez(tmp_path / "bad.npz", images=np.zeros((4, 8, 8), np.float32), labels=np.zeros(4, np.int64))
    fails("uint8", "pack", tmp_path / "bad.npz", out)
    np.savez(tmp_path / "short.npz", images=np.zeros((4, 8, 8), np.uint8), labels=np.zeros(3, np.int64))
    fails("4.*3|3.*4", "pack", tmp_path / "short.npz", out)
    np.savez(tmp_path / "fine.npz", images=np.zeros((4, 8, 8), np.uint8), labels=np.arange(4) % 2)
    fails("label_noise|noise", "pack", tmp_path / "fine.npz", out, "--label-noise", 1.5)
    fails("holdout", "pack", tmp_path / "fine.npz", out, "--holdout", 4)
    fails("train", "pack", tmp_path / "fine.npz", digits.train)  # filled folder
    assert not out.exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bad.npz", "fine.npz", "short.npz"]


def test_damaged_tar(digits, tmp_path):
    copy = tmp_path / "data"
    shutil.copytree(digits.train, copy)
    shard = next(copy.glob("*.tar"))
    whole = bytearray(shard.read_bytes())
    shard.write_bytes(whole[:-2048])
    out = tmp_path / "run"
    fails(f"{shard.name}.*bytes", "train", copy, "-o", out, "--model", "mlp")
    whole[1024 + 20] ^= 1  # a pixel or a name: size stays, content does not
    for offset in range(len(whole)):
        if whole[offset : offset + 2] == b"P5":
            whole[offset + 20] ^= 1
            break
    shard.write_bytes(whole)
    fails("does not match|do not match|damaged", "train", copy, "-o", out, "--model", "mlp", "--epochs", 1)
    fails("header|checksum|damaged|tar", "index", shard, "-o", tmp_path / "index")
    assert not (out / "run.json").exists()
    assert not (tmp_path / "index" / "catalog.parquet").exists()


def test_train(digits, scored, tmp_path):
    fails("'--epochs': .* integer, but got 'many'", "train", digits.train, "-o", tmp_path / "r", "--epochs", "many")
    out = tmp_path / "run"
    fails("no catalog|catalog.parquet", "train", tmp_path, "-o", out)
    fails("unknown model 'nope'", "train", digits.train, "-o", out, "--model", "nope")
    fails("'exp' is not one of 'cosine'", "train", digits.train, "-o", out, "--schedule", "exp")
    fails("'--device': 'tpu' is not one of 'cpu', 'gpu'", "train", digits.train, "-o", out, "--device", "tpu")
    fails("global_batch >= 1", "train", digits.train, "-o", out, "--global-batch", 0)
    fails("training set itself", "train", digits.train, "-o", out, "--held-out", digits.train)
    fails("give both", "train", digits.train, "-o", out, "--table", scored / "table")
    sampler = ("--sampler", tmp_path / "none.json", "--table", scored / "table")
    fails("none.json", "train", digits.train, "-o", out, "--model", "mlp", *sampler)
    assert not out.exists()


def test_training_in_bf16_is_another_training_and_is_recorded(digits, tmp_path):
    options = (digits.train, "--model", "mlp", "--epochs", 2, "--global-batch", 100, "--lr", 0.1, "--test", digits.test)
    ends = {}
    for amp in ("off", "bf16"):
        cli("train", *options, "-o", tmp_path / amp, "--amp", amp)
        ends[amp] = json.loads((tmp_path / amp / "run.json").read_text())
        assert ends[amp]["recipe"]["amp"] == amp
    assert ends["off"]["history"][-1]["loss"] != ends["bf16"]["history"][-1]["loss"]
    np.testing.assert_allclose(*(end["history"][-1]["loss"] for end in ends.values()), rtol=0.05)
    fails("'fp8' is not one of 'off', 'bf16', 'fp16'", "train", *options, "-o", tmp_path / "x", "--amp", "fp8")
    assert not (tmp_path / "x").exists()


def test_features(digits, scored, tmp_path):
    out, weights = tmp_path / "table", scored / "w.safetensors"
    command = ("features", digits.train, "-o", out, "--model", "mlp")
    fails("no such file", *command, "--weights", tmp_path / "none.safetensors")
    fails("unknown measure 'losss'", *command, "--weights", weights, "--measures", "losss")
    fails("'x' is not one of 'last', 'logit', 'full'", *command, "--weights", weights, "--grad-norm", "x")
    state = build_model("mlp", num_classes=10, channels=1, size=(8, 8), seed=0).state_dict()
    save_file({name: torch.full_like(value, torch.nan) for name, value in state.items()}, tmp_path / "nan.safetensors")
    fails("is nan for sample", *command, "--weights", tmp_path / "nan.safetensors")
    wrong = build_model("mlp", num_classes=3, channels=1, size=(8, 8), seed=0)
    save_file(wrong.state_dict(), tmp_path / "three.safetensors")
    fails("do not fit the model", *command, "--weights", tmp_path / "three.safetensors")
    elsewhere = ("features", digits.held_out, "-o", scored / "table", "--model", "mlp", "--weights", weights)
    fails("made with catalog .*, not .*: give another output folder", *elsewhere)
    assert not list(out.glob("*"))


def test_sampler_inputs(digits, scored, tmp_path):
    table, out = scored / "table", tmp_path / "sampler.json"
    fails("no feature 'los'", "fit", table, "-o", out, "--features", "los,entropy")
    fails("comma", "fit", table, "-o", out, "--values", "a,b")
    fails("zero|o = 0|positive", "fit", table, "-o", out, "--values", "0,0,0,0,0")
    fails("no feature table there", "fit", tmp_path, "-o", out)
    search = ("search", "swift", table, "-o", tmp_path / "s", "--model", "mlp")
    start = ("--start", scored / "w.safetensors")
    fails("features of catalog", *search, "--catalog", digits.held_out, "--held-out", digits.test, *start)
    fails("give --held-out", *search, "--catalog", digits.train, *start)
    fails("needs --start", *search, "--catalog", digits.train, "--held-out", digits.held_out)
    fails("no_module", *search, "--catalog", digits.train, "--objective", "no_module:f")
    assert not out.exists()
    assert not (tmp_path / "s" / "sampler.json").exists()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_bad_feature_values_are_named(scored, tmp_path, value):
    copy = tmp_path / "table"
    shutil.copytree(scored / "table", copy)
    part = part_path(copy, 2)
    columns = {name: column.to_numpy().copy() for name, column in zip(*_columns(part), strict=True)}
    columns["loss"][7] = value
    provenance = read_provenance(part)
    part.unlink()
    provenance.pop("format")
    write_part(part, columns, provenance)
    fails(f"loss.*{value}|{value}.*loss", "fit", copy, "-o", tmp_path / "sampler.json")


def _columns(part):
    table = pq.ParquetFile(part).read()
    return table.column_names, table.columns


def test_floats_are_ieee_again_after_a_command(scored, digits, tmp_path):
    cli("train", digits.train, "-o", tmp_path / "run", "--model", "mlp", "--epochs", 1)
    assert sys.float_info.min / 2 > 0


def test_json_holds_the_result(digits, scored, tmp_path):
    out = tmp_path / "sampler.json"
    cli("fit", scored / "table", "-o", out, "--transform", "cdf", "--json", tmp_path / "r.json")
    result = json.loads((tmp_path / "r.json").read_text())
    assert result["rows"] == 500
    assert 0 < result["ess"] < 500
    assert result["zero_rows"] > 0


def test_the_demo_names_what_it_needs(tmp_path):
    fails("'cifar' is not one of 'digits'", "demo", "--data", "cifar", "-o", tmp_path / "d")
    fails("seeds must be", "demo", "--seeds", "1,1", "-o", tmp_path / "d")
    fails("--source", "demo", "--data", "fashion-mnist", "--source", tmp_path / "none", "-o", tmp_path / "d")
    assert not (tmp_path / "d").exists()


def test_bad_images_are_substituted_when_asked(digits, tmp_path):
    folder = shutil.copytree(digits.train, tmp_path / "copy")
    catalog = Catalog.open(folder)
    for row in (3, 20):
        overwrite(catalog, row, b"\xaa\x55", at=0)
    options = ("--model", "mlp", "--epochs", 1, "--on-bad", "substitute")
    fails("do not match the checksum", "train", folder, "-o", tmp_path / "a", "--model", "mlp", "--epochs", 1)
    fails("`max_bad` allows no more", "train", folder, "-o", tmp_path / "b", *options, "--max-bad", 1)
    cli("train", folder, "-o", tmp_path / "c", *options, "--json", tmp_path / "c.json")
    record = json.loads((tmp_path / "c.json").read_text())
    assert [bad["sample_id"] for bad in record["bad_samples"]] == [3, 20]
    assert record["loader"]["bad_samples"] == 2 and record["loader"]["images"] == len(catalog)
    assert record["bad_samples"][0]["key"] == catalog.key(3)


@pytest.mark.parametrize("word", ["", "--out="])
def test_an_empty_argument_is_refused_and_not_taken_for_the_working_folder(tmp_path, monkeypatch, word):
    monkeypatch.chdir(tmp_path)
    err = cli("train", "data", word, status=2)
    assert err == f"drawstream: argument {word!r} is empty: is a variable of the shell not set?\n"


def test_a_place_for_json_that_cannot_be_one_is_refused_before_the_work(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for place, told in ((tmp_path, "is a folder"), (tmp_path / "pipe", "is a device, a named pipe or a socket")):
        line = cli("stream", "count", "--rows", 10, "--json", place, status=2)
        assert line == f"drawstream: --json {place}: {told}: name a file\n"


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--crop-factor", "2"], "--crop-factor goes with a sampler.json or weights, but there is none: leave it out"),
        (
            ["--mode", "multinomial"],
            "deferred or repeat-factors, but there is none",
        ),
        (["--column", "p"], "--column goes with weights, rho, coreset-column or soft-cap, but there is none"),
        (["--join", "x.csv"], "--join goes with a --table, but there is none"),
        (["--sampler", "w.csv", "--frozen"], "--frozen goes with a sampler.json, but --sampler is w.csv: leave it out"),
        (["--sampler", "w.csv", "--join", "x.csv"], "--join goes with a --table, but --sampler is w.csv: leave it out"),
        (["--sampler", "p", "--column", "loss"], "coreset-column or soft-cap, but --sampler is p: leave it out"),
        (["--sampler", "p", "--join", "x.csv"], "--join goes with a --table, but --sampler is p: leave it out"),
        (["--sampler", "p", "--table", "t"], "--table goes with a sampler.json, your own sampler, rho"),
        (["--sampler", "p", "--mode", "subset"], "deferred or repeat-factors, but --sampler is p: leave it out"),
        (["--frozen"], "--frozen goes with a sampler.json, but there is none"),
    ],
)
def test_an_option_that_would_do_nothing_is_refused(digits, tmp_path, monkeypatch, options, told):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "w.csv").write_text("weight\n" + "1\n" * 500)
    err = cli("train", digits.train, "-o", tmp_path / "o", "--model", "mlp", *options, status=2)
    assert told in err and err.count("\n") == 1 and not (tmp_path / "o").exists()
