"""`drawstream suspects` and `fit --method clean`: list, weights and review, and clean data that stay uniform."""

import json
from dataclasses import replace

import numpy as np
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from drawstream import Catalog, FeatureTable, SwiftSampler
from drawstream.search.swift import Guard, Proposals
from drawstream.tools.jobs import SearchJob, prepare_search, search_job
from drawstream.tools.training import Setup
from shared.programs import cli, cli_json
from shared.samples import pack_digits

ROWS = 800


def tracked(folder, noise):
    data = pack_digits(folder / "data", ROWS, label_noise=noise).train
    train = ["train", data, "-o", folder / "run", "--model", "mlp", "--epochs", 8, "--track", folder / "table"]
    cli(*train, "--global-batch", 32)
    return data, folder / "table"


@pytest.fixture(scope="module")
def noisy(tmp_path_factory):
    return tracked(tmp_path_factory.mktemp("noisy"), 0.3)


@pytest.fixture(scope="module")
def listed(noisy, tmp_path_factory):
    out = tmp_path_factory.mktemp("suspects")
    record = cli_json(out, "suspects", noisy[1], "--catalog", noisy[0], "-o", out)
    return record, out


def test_the_list_begins_with_wrong_labels_and_has_all_rows(noisy, listed):
    record, out = listed
    catalog, rows = Catalog.open(noisy[0]), pq.read_table(out / "suspects.parquet")
    wrong = catalog.label != catalog.clean_label
    order = rows["row"].to_numpy()
    assert sorted(order) == list(range(ROWS)) and wrong[order[:100]].mean() > 0.9
    assert (np.diff(rows["score"].to_numpy()) <= 0).all()
    assert [catalog.key(row) for row in order[:9].tolist()] == rows["key"].to_pylist()[:9]
    assert rows["given"].to_pylist() == [catalog.classes[c] for c in catalog.label[order]]
    assert record["wrong_share"] == pytest.approx(wrong.mean(), abs=0.1)
    assert record["dropped"] == rows["drop"].to_numpy().sum() == sum(each["dropped"] for each in record["classes"])
    assert sum(each["rows"] for each in record["classes"]) == ROWS and record["pairs"][0]["rows"] > 0
    again = pyarrow.csv.read_csv(out / "suspects.csv", convert_options=_strings("key", "given", "suggested"))
    assert again["key"].to_pylist() == rows["key"].to_pylist() and again["row"].to_pylist() == order.tolist()


def _strings(*names):
    return pyarrow.csv.ConvertOptions(column_types=dict.fromkeys(names, "string"))


def test_the_weights_train_on_the_rows_that_are_kept(noisy, listed, tmp_path):
    record, out = listed
    weights = ["--sampler", out / "weights.parquet", "--column", "weight", "--mode", "multinomial"]
    cli("train", noisy[0], "-o", tmp_path / "run", "--model", "mlp", "--epochs", 1, *weights)
    drawn = FeatureTable.open(noisy[1])  # of the same rows
    assert len(drawn) == ROWS
    kept = pq.read_table(out / "weights.parquet")["weight"].to_numpy()
    assert (kept == 0).sum() == record["dropped"]


def test_the_report_tells_of_the_data(noisy, listed, tmp_path):
    """By a run alone, by the list of suspects alone, and by both, where the table comes once."""
    record, out = listed
    told = f"{record['wrong_share']:.1%} of {ROWS} labels are estimated to be wrong"
    for folders in ([noisy[1].parent], [out], [noisy[1].parent, out]):
        page = tmp_path / "page.html"
        cli("report", *folders, "-o", page)
        text = page.read_text()
        assert text.count(told) == 1 and "Labels that are least likely" in text and "Most frequent confusions" in text
        assert ("rows are dropped" in text) == (out in folders)
        assert text.count('alt="') >= 24 + 10 and "Left out" not in text
    (out / "suspects.json").rename(out / "kept")
    (out / "suspects.json").write_text((out / "kept").read_text().replace('"margin"', '"magic"'))
    assert "left out" in cli("report", noisy[1].parent, out, "-o", page, status=1)
    (out / "kept").rename(out / "suspects.json")


def test_the_weights_of_another_catalog_are_refused(noisy, listed, tmp_path):
    other = pack_digits(tmp_path / "other", ROWS, seed=3).train
    command = ["train", other, "-o", tmp_path / "run", "--model", "mlp", "--epochs", 1, "--column", "weight"]
    assert "weights of catalog" in cli(*command, "--sampler", listed[1] / "weights.parquet", status=2)
    cli("duplicates", noisy[0], "--near", "none", "-o", tmp_path / "twice")
    assert "weights of catalog" in cli(*command, "--sampler", tmp_path / "twice/weights.parquet", status=2)


def test_rows_of_several_catalogs_have_names_of_their_own(tmp_path):
    places = [pack_digits(tmp_path / name / "data", 60).train for name in ("a", "b")]
    cli("train", *places, "-o", tmp_path / "run", "--model", "mlp", "--epochs", 1, "--track", tmp_path / "table")
    command = ["suspects", tmp_path / "table", "--catalog", places[0], "--catalog", places[1]]
    cli(*command, "-o", tmp_path / "out", "--relabel", 0.5)
    lists = [json.loads((tmp_path / f"out/relabel-{number}.json").read_text()) for number in range(2)]
    cli("index", places[1], "-o", tmp_path / "again", "--relabel", tmp_path / "out/relabel-1.json")
    assert all(len(each["relabel"]) > 3 and set(each["relabel"]) <= set(Catalog.open(places[1]).keys) for each in lists)
    rows = pq.read_table(tmp_path / "out/suspects.parquet")
    keys = rows["key"].to_pylist()
    assert len(set(keys)) == 120 and set(rows["source"].to_pylist()) == {"a", "b"}
    assert Catalog.open(*places).rows_of(keys).tolist() == rows["row"].to_pylist()


def test_a_review_decides_for_the_rows_that_it_names(noisy, listed, tmp_path):
    catalog, order = Catalog.open(noisy[0]), pq.read_table(listed[1] / "suspects.parquet")["row"].to_pylist()
    keep, drop, other = order[0], order[-1], order[1]
    decisions = {catalog.key(keep): "keep", catalog.key(drop): "drop", catalog.key(other): {"relabel": "3"}}
    review = tmp_path / "review.json"
    review.write_text(json.dumps({"format": 1, "catalog": catalog.fingerprint, "decisions": decisions}))
    command = ["suspects", noisy[1], "--catalog", noisy[0], "-o", tmp_path / "out", "--review", review]
    record = cli_json(tmp_path, *command)
    weights = pq.read_table(tmp_path / "out/weights.parquet")["weight"].to_numpy()
    assert (weights[keep], weights[drop], weights[other]) == (1, 0, 1)
    assert (record["reviewed"], record["dropped"]) == (3, listed[0]["dropped"] - 1)
    given = catalog.classes[catalog.label[other]]
    changes = {"relabel": {catalog.key(other): {"given": given, "label": "3"}}, "drop": [catalog.key(drop)]}
    assert json.loads((tmp_path / "out/relabel.json").read_text()) == {"format": 1, **changes}
    told = pq.read_table(tmp_path / "out/suspects.parquet")
    assert told["suggested"].to_pylist()[1] == "3"


def test_labels_that_are_surely_wrong_are_changed_and_packed_again(noisy, tmp_path):
    before = Catalog.open(noisy[0])
    command = ["suspects", noisy[1], "--catalog", noisy[0], "-o", tmp_path / "out", "--relabel", 0.9]
    record = cli_json(tmp_path, *command)
    lists = json.loads((tmp_path / "out/relabel.json").read_text())
    assert len(lists["relabel"]) == record["relabelled"] > 50 and record["reviewed"] == 0
    weights = pq.read_table(tmp_path / "out/weights.parquet")["weight"].to_numpy()
    assert weights[before.rows_of(list(lists["relabel"]))].all() and (weights == 0).sum() == record["dropped"]
    told = cli("index", noisy[0], "-o", tmp_path / "again", "--relabel", tmp_path / "out/relabel.json")
    assert f"; {record['relabelled']} labels changed and 0 images left out by" in told
    after = Catalog.open(tmp_path / "again")
    assert (after.label != after.clean_label).mean() < (before.label != before.clean_label).mean() / 2
    cli("verify", tmp_path / "again")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"format": 2}, "is no review of format 1: save it again"),
        ({"catalog": "other"}, "is of catalog other, but"),
        ({"decisions": {"nowhere": "keep"}}, "'nowhere' is no sample of"),
        ({"decisions": {"00000000": "maybe"}}, "'00000000' has 'maybe', not keep, drop or a relabel"),
        ({"decisions": {"00000000": {"relabel": "cat"}}}, "relabelled to 'cat', which is no class of"),
    ],
)
def test_a_review_that_does_not_fit_is_one_line(noisy, tmp_path, change, text):
    review = {"format": 1, "catalog": Catalog.open(noisy[0]).fingerprint, "decisions": {}} | change
    (tmp_path / "review.json").write_text(json.dumps(review))
    command = ["suspects", noisy[1], "--catalog", noisy[0], "-o", tmp_path / "out"]
    error = cli(*command, "--review", tmp_path / "review.json", status=2)
    assert text in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("feature", ["margin", "loss"])
def test_clean_draws_by_the_probability_of_a_right_label(noisy, tmp_path, feature):
    catalog, table = Catalog.open(noisy[0]), FeatureTable.open(noisy[1])
    told = cli("fit", noisy[1], "-o", tmp_path / "clean.json", "--method", "clean", "--features", feature)
    assert "of the labels are probably wrong; effective sample size" in told
    p = SwiftSampler.load(tmp_path / "clean.json").probabilities(table.columns(feature))
    wrong = catalog.label != catalog.clean_label
    assert p[wrong].sum() < 0.12 and np.corrcoef(p > p.mean(), ~wrong)[0, 1] > 0.6


def test_clean_data_stay_uniform(tmp_path):
    _, table = tracked(tmp_path, 0.0)
    told = cli("fit", table, "-o", tmp_path / "clean.json", "--method", "clean")
    assert "fewer than 3%: uniform; effective sample size 800 of 800" in told
    told = cli("fit", table, "-o", tmp_path / "again.json", "--method", "clean", notes=True)
    assert "of the labels right: if it knows wrong ones by heart, they are not found" in told
    p = SwiftSampler.load(tmp_path / "clean.json").probabilities(FeatureTable.open(table).columns("margin"))
    np.testing.assert_allclose(p, 1 / ROWS)


def test_a_search_on_a_tracked_table_begins_near_p_clean_too(noisy, tmp_path):
    job = SearchJob(Setup(noisy[0], "mlp"), noisy[1], lambda p, trial: float(p.max()), tmp_path / "out")
    job = replace(job, proposals=Proposals(trials=7, min_ess=0.1), guard=Guard(confirm_top=0))
    starts = prepare_search(job).starts
    assert len(starts) == 2 and not prepare_search(replace(job, features=("entropy",), transform="cdf")).starts
    assert not prepare_search(replace(job, proposals=Proposals(starts=False))).starts
    tried = [trial["params"] for trial in search_job(job)["trials"]]
    for start, found in zip(starts, tried[4:6], strict=True):  # behind the designed ones
        np.testing.assert_allclose(found["ends"], start.ends, atol=0.02)
        np.testing.assert_allclose(found["values"], np.divide(start.values, max(start.values)), atol=1e-6)
        assert found["coefficients"] == pytest.approx(start.coefficients)


def test_options_that_do_not_go_together_are_one_line(noisy, tmp_path):
    fit = ["fit", noisy[1], "-o", tmp_path / "clean.json", "--method", "clean"]
    assert "--values goes with parameters" in cli(*fit, "--values", "1,0", status=2)
    assert "P(clean) reads margin or loss" in cli(*fit, "--features", "loss,entropy", status=2)
    assert "give it with --catalog" in cli("suspects", noisy[1], "-o", tmp_path / "s", status=2)
