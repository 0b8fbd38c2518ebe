"""`train --sampler clean`: by an earlier training's table, as `fit` makes it, or refitted as the training goes."""

import json

import numpy as np
import pytest
from safetensors.torch import load_file

from drawstream import Catalog, FeatureTable
from drawstream.tools.runs.hooks import Journal
from shared.programs import cli
from shared.samples import pack_digits

ROWS = 800
TRAIN = ("--model", "mlp", "--epochs", 6, "--global-batch", 32)


@pytest.fixture(scope="module")
def noisy(tmp_path_factory):
    """A catalog of noisy digits, and the table of one training."""
    root = tmp_path_factory.mktemp("noisy")
    data = pack_digits(root / "data", ROWS, label_noise=0.3).train
    cli("train", data, "-o", root / "run", *TRAIN, "--track", root / "table")
    return data, root / "table"


def record(out):
    return json.loads((out / "run.json").read_text())


def weights(out):
    return np.concatenate([each.numpy().ravel() for each in load_file(out / "last.safetensors").values()])


def test_refits_as_the_training_goes_draw_wrong_labels_rarely(noisy, tmp_path):
    told = cli("train", noisy[0], "-o", tmp_path / "run", *TRAIN, "--sampler", "clean", "--track", tmp_path / "table")
    assert "of the labels are probably wrong" in told
    found, catalog = record(tmp_path / "run"), Catalog.open(noisy[0])
    assert [each["epochs"] for each in found["clean"]] == [3, 6] and found["method"] == "clean"
    assert not found["clean"][0]["uniform"] and found["clean"][1]["wrong_share"] == pytest.approx(0.3, abs=0.1)
    seen = FeatureTable.open(tmp_path / "table").columns("seen")["seen"]
    wrong = catalog.label != catalog.clean_label
    assert seen[wrong].mean() < 4.5 and seen[~wrong].mean() > 6  # of 6 epochs, 3 of them uniform
    assert seen.sum() == 6 * ROWS


def test_a_table_gives_what_fit_and_train_give(noisy, tmp_path):
    told = cli("train", noisy[0], "-o", tmp_path / "one", *TRAIN, "--sampler", "clean", "--table", noisy[1], notes=True)
    assert "of the labels are probably wrong" in told
    cli("fit", noisy[1], "-o", tmp_path / "clean.json", "--method", "clean")
    cli("train", noisy[0], "-o", tmp_path / "two", *TRAIN, "--sampler", tmp_path / "clean.json", "--table", noisy[1])
    np.testing.assert_array_equal(weights(tmp_path / "one"), weights(tmp_path / "two"))
    options = ("--clean-score", "loss", "--per-class")
    cli("train", noisy[0], "-o", tmp_path / "own", *TRAIN, "--sampler", "clean", "--table", noisy[1], *options)
    assert record(tmp_path / "own")["stream"] != record(tmp_path / "one")["stream"]


def test_a_stopped_training_goes_on_to_the_same_weights(noisy, tmp_path, monkeypatch):
    command = ["train", noisy[0], *TRAIN, "--sampler", "clean", "--refresh", 2]
    cli(*command, "-o", tmp_path / "whole")

    class Stopped(BaseException):
        pass

    step = Journal.step

    def stop(self, at, total, values):
        step(self, at, total, values)
        if at == 5:  # behind a refit
            raise Stopped

    with monkeypatch.context() as patched, pytest.raises(Stopped):
        patched.setattr(Journal, "step", stop)
        cli(*command, "-o", tmp_path / "stopped")
    cli(*command, "-o", tmp_path / "stopped")
    np.testing.assert_array_equal(weights(tmp_path / "stopped"), weights(tmp_path / "whole"))
    assert record(tmp_path / "stopped")["clean"] == record(tmp_path / "whole")["clean"]


def test_options_that_do_nothing_are_refused(noisy, tmp_path):
    command = ["train", noisy[0], "-o", tmp_path / "run", *TRAIN]
    text = "--refresh learns in this training, and --table is of an earlier one"
    assert text in cli(*command, "--sampler", "clean", "--refresh", 2, "--table", noisy[1], status=2)
    assert "--refresh goes with clean, but --sampler is p" in cli(*command, "--sampler", "p", "--refresh", 2, status=2)
    assert "--per-class goes with clean" in cli(*command, "--per-class", status=2)
