"""`suspects --folds`: every row is predicted by a model that did not see it, fold by fold, also after a stop."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from drawstream import Catalog, FeatureTable, fold_numbers
from drawstream.tools.runs.hooks import Journal
from drawstream.tools.training import Setup
from shared.programs import cli, cli_json
from shared.refusals import refused
from shared.samples import pack_digits

ROWS, FOLDS = 400, 3
MORE = ("--folds", FOLDS, "--model", "mlp", "--epochs", 5, "--global-batch", 32)


@given(st.lists(st.integers(0, 5), min_size=2, max_size=200), st.integers(2, 7), st.integers(0, 3))
def test_folds_share_each_class_and_all_rows_alike(labels, folds, seed):
    folds = min(folds, len(labels))
    found = fold_numbers(labels, folds, seed=seed)
    for rows in [np.ones(len(labels), bool), *(np.array(labels) == c for c in set(labels))]:
        counts = np.bincount(found[rows], minlength=folds)
        assert len(counts) == folds and np.ptp(counts) <= 1
    np.testing.assert_array_equal(found, fold_numbers(labels, folds, seed=seed))


def test_another_seed_gives_other_folds_and_too_many_are_refused():
    labels = np.arange(60) % 3
    assert (fold_numbers(labels, 5) != fold_numbers(labels, 5, seed=1)).any()
    refused(r"folds must be in \[2, 60\], the rows, but got 61", fold_numbers, labels, 61)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return pack_digits(tmp_path_factory.mktemp("folds") / "data", ROWS, label_noise=0.2).train


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("folds") / "out"
    record = cli_json(out.parent, "suspects", "--catalog", data, "-o", out, *MORE)
    return record, out


def test_each_row_is_predicted_once_by_the_model_of_its_fold(data, whole):
    record, out = whole
    catalog, table = Catalog.open(data), FeatureTable.open(out / "table")
    columns = table.columns("seen", "margin")
    assert (columns["seen"] == 1).all() and {"other_0", "other_9", "other_label", "loss"} <= set(table.names)
    wrong = catalog.label != catalog.clean_label
    assert np.mean(columns["margin"][wrong]) > np.mean(columns["margin"][~wrong]) + 0.5
    assert record["wrong_share"] == pytest.approx(0.2, abs=0.15) and (out / "suspects.html").exists()
    numbers, setup = fold_numbers(catalog.label, FOLDS), Setup(data, "mlp")
    loader = setup.ordered_loader()
    images = torch.cat([batch.images for batch in loader])[:ROWS]
    loader.close()
    for fold in range(FOLDS):
        model = setup.build(0)
        model.load_state_dict(load_file(out / f"fold-{fold}/last.safetensors"))
        rows = np.flatnonzero(numbers == fold)
        p = model.eval()(images[rows]).softmax(1).detach().numpy()
        own = p[np.arange(len(rows)), catalog.label[rows]]
        p[np.arange(len(rows)), catalog.label[rows]] = -1
        np.testing.assert_allclose(columns["margin"][rows], p.max(1) - own, atol=1e-4)
        drawn = json.loads((out / f"fold-{fold}/run.json").read_text())["class_rows"]
        assert sum(drawn) == ROWS - len(rows)


def test_a_stopped_job_goes_on_in_its_fold(data, whole, tmp_path, monkeypatch):
    step, steps = Journal.step, []

    class Stopped(BaseException):
        pass

    def stop(self, at, total, values):
        step(self, at, total, values)
        steps.append(at)
        if len(steps) == 8:  # the third epoch of the second fold
            raise Stopped

    command = ["suspects", "--catalog", data, "-o", tmp_path / "out", *MORE]
    with monkeypatch.context() as patched, pytest.raises(Stopped):
        patched.setattr(Journal, "step", stop)
        cli(*command)
    first = (tmp_path / "out/fold-0/run.json").stat().st_mtime_ns
    assert not (tmp_path / "out/suspects.json").exists()
    estimate = cli(*command, "--dry-run")
    assert "2 folds ×" in estimate
    record = cli_json(tmp_path, *command)
    assert (tmp_path / "out/fold-0/run.json").stat().st_mtime_ns == first
    same = ("wrong_share", "dropped", "pairs", "classes")
    assert {name: record[name] for name in same} == {name: whole[0][name] for name in same}
    assert FeatureTable.open(tmp_path / "out/table").fingerprint == FeatureTable.open(whole[1] / "table").fingerprint
    assert "nothing was run" in cli(*command, notes=True)
    assert "give another output folder" in cli(*command, "--lr", 0.1, status=2)


def test_options_that_do_not_go_together_are_one_line(data, whole, tmp_path):
    command = ["suspects", "--catalog", data, "-o", tmp_path / "out"]
    table = whole[1] / "table"
    assert "or train with --folds 5" in cli(*command, status=2)
    assert "--epochs goes with --folds, which trains: leave it out" in cli(*command, table, "--epochs", 3, status=2)
    assert "leave out the table" in cli(*command, table, *MORE, status=2)
    assert "--folds must be in [2, 1000]" in cli(*command, "--folds", 1, status=2)
    assert "folds must be in [2, 400], the rows, but got 500" in cli(*command, "--folds", 500, status=2)
