"""The benchmark of suspects: its measures against definitions, and a grid that goes on."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from drawstream.features import find_suspects
from drawstream.features.table import FeatureTable
from drawstream.tools.bench.suspects import auroc, calibration, calibration_table, guide_table, published, quality
from drawstream.tools.bench.suspects.cleanlab import cleanlab_score, probabilities
from drawstream.tools.bench.suspects.ranking import ranked
from shared.programs import cli
from shared.refusals import refused

LINE = ("bench", "suspects", "--data", "digits", "--epochs", 3, "--processes", 1)


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=2, max_size=60))
def test_rankings_have_the_area_and_precision_of_their_definition(rows):
    scores, marks = np.array([row[0] for row in rows], float), np.array([row[1] for row in rows])
    if marks.all() or not marks.any():
        assert np.isnan(auroc(scores, marks)) and ranked(scores, marks)["auroc"] is None
        return
    found = ranked(scores, marks)
    assert found["auroc"] == pytest.approx(100 * roc_auc_score(marks, scores))
    assert found["ap"] == pytest.approx(100 * average_precision_score(marks, scores))


def test_a_calibrated_probability_has_no_error_and_all_rows_are_in_a_bin():
    rng = np.random.default_rng(0)
    p = np.concatenate([[0.0, 1.0], rng.random(200_000)])
    curve = calibration(p, rng.random(len(p)) < p)
    assert sum(each["rows"] for each in curve) == len(p) and len(curve) == 10
    assert all(abs(each["probability"] - each["wrong"]) < 0.02 for each in curve)


@pytest.fixture(scope="module")
def grid(tmp_path_factory):
    folder = tmp_path_factory.mktemp("suspects")
    told = cli(*LINE, "--noise", ".4", "--folds", 2, "-o", folder / "out", "--json", folder / "out.json")
    return folder, told, json.loads((folder / "out.json").read_text())


def test_one_training_finds_them_and_folds_are_beside_it(grid):
    _, told, found = grid
    methods = ("margin", "confident", "loss", "agreement")
    assert [row["method"] for row in found["rows"]] == [*methods, *(f"folds-{each}" for each in methods)]
    margin, apart = found["rows"][0], found["rows"][4]
    assert margin["ap"] > 95 and margin["auroc"] > 95 and margin["suggested"] > 85 and apart["ap"] > 90
    assert margin["true"] == pytest.approx(40, abs=1.5) and margin["share"] == pytest.approx(40, abs=5)
    assert (margin["trainings"], apart["trainings"]) == (1, 2)
    assert "noise 0.4: 39.9 % of the labels are wrong" in told and "folds-confident" in told


def test_probabilities_of_a_table_are_those_it_ranks_by(grid):
    table = FeatureTable.open(grid[0] / "out/noise-0.4/seed-0/folds-2/table")
    p = probabilities(table, 10)
    np.testing.assert_allclose(p.sum(1), 1, atol=1e-4)
    rows, label = np.arange(len(p)), np.asarray(table.label)
    own = p[rows, label]
    p[rows, label] = -1
    np.testing.assert_allclose(p.max(1) - own, table.columns("margin")["margin"], atol=1e-5)
    assert quality(find_suspects(table, 10), label, label)["true"] == 0


def test_a_finished_grid_is_read_and_another_is_refused(grid):
    out = grid[0] / "out"
    again = cli(*LINE, "--noise", ".4", "--folds", 2, "-o", out)
    assert "folds-margin" in again
    assert "epochs" in cli(*LINE, "--noise", ".4", "--epochs", 4, "-o", out, status=2)


def test_what_does_not_fit_is_one_line(tmp_path):
    assert "no label is known to be wrong" in cli(*LINE, "--noise", "0", "-o", tmp_path, status=2)
    assert "unknown methods 'best'" in cli(*LINE, "--methods", "best", "-o", tmp_path, status=2)
    two = (np.array([0, 1]), np.full((2, 2), 0.5))
    refused("does not start .* give --peers-env", cleanlab_score, tmp_path, *two, by="self_confidence")


def test_the_guide_shows_the_runs_that_are_kept(request):
    guide = (request.config.rootpath / "docs/suspects.md").read_text(encoding="utf-8")
    assert guide_table() in guide
    table = calibration_table(published()["rows"][0])
    for column in range(2):
        assert " | ".join(row[column].removeprefix("0") for row in table.rows) in guide
