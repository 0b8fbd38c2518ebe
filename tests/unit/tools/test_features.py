"""`drawstream features`: scoring without a name, and what info, check and describe say."""

import json
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from drawstream.features.table.part import part_path, write_part
from drawstream.pipeline.shards import Catalog
from drawstream.samplers.files.weights_file import map_weights
from drawstream.tools.cli.app import main
from drawstream.tools.report.records import read_records
from drawstream.tools.report.sampled_rows import SampledRows
from drawstream.tools.runs.record import read_record
from drawstream.tools.training.methods.sampling import Sampling
from drawstream.tools.training.ranks import Ranks

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


def run(capsys, *arguments):
    capsys.readouterr()
    status = main([str(each) for each in arguments])
    return status, *capsys.readouterr()


def test_help_shows_scoring_and_the_sub_commands(capsys):
    status, out, _ = run(capsys, "features", "--help")
    assert status == 0 and all(text in out for text in ("info", "check", "describe", "extract"))
    assert "--grad-norm" in run(capsys, "features", "data/train", "--help")[1]


@pytest.mark.parametrize("order", [("nowhere", "-o", "x"), ("-o", "x", "nowhere"), ("extract", "nowhere", "-o", "x")])
def test_all_else_is_scoring(capsys, order, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, _, err = run(capsys, "features", *order, "--weights", "w.safetensors")
    assert status == 2 and "nowhere: no such catalog" in err


def test_info(capsys, table, tmp_path):
    status, out, _ = run(capsys, "features", "info", table, "--json", tmp_path / "i.json")
    result = json.loads((tmp_path / "i.json").read_text())
    assert status == 0 and out.startswith("100 rows in 2 parts")
    assert result["columns"]["loss"] == "float32" and result["provenance"]["model"] == "m"
    assert result["bytes"] == sum(path.stat().st_size for path in table.iterdir())
    assert f"fingerprint {result['fingerprint']}" in out and "model: m" in out


def test_describe(capsys, table, tmp_path):
    status, out, _ = run(capsys, "features", "describe", table, "--json", tmp_path / "d.json")
    result = json.loads((tmp_path / "d.json").read_text())
    assert status == 0 and "loss: 100 rows, 100 distinct values, 0 rows tied" in out
    values = np.concatenate([pq.read_table(part_path(table, i))["loss"].to_numpy() for i in range(2)])
    found = result["columns"][0]
    assert found["minimum"] == values.min() and found["maximum"] == values.max()
    assert found["mean"] == pytest.approx(values.mean(dtype=float)) and found["deviation"] == pytest.approx(
        values.std()
    )
    assert found["quantiles"]["0.25"] == np.quantile(values, 0.25, method="inverted_cdf")
    assert found["counts"] == np.histogram(values, 12)[0].tolist()
    assert "█" in out


def test_describe_counts_what_is_not_finite_and_ties(capsys, table):
    bad = np.zeros(50, np.float32)
    bad[:5] = [np.nan, np.inf, 1, 2, 2]
    provenance = {"catalog": "c" * 32, "parts": 2, "model": "m"}
    for i in range(2):
        write_part(part_path(table, i), columns(50 * i, 50, extra=bad), provenance)
    status, out, _ = run(capsys, "features", "describe", table)
    assert status == 1
    assert "extra: 100 rows, 4 of them NaN or infinite, 3 distinct values, 96 rows tied" in out
    assert "quantiles 0.01: 0, 0.05: 0, 0.25: 0, 0.5: 0, 0.75: 0, 0.95: 1, 0.99: 2" in out


def test_check_of_a_sound_table(capsys, table):
    status, out, _ = run(capsys, "features", "check", table)
    assert status == 0 and out == f"{table}: 0 findings\n"


def test_fit_with_a_joined_column_and_weights_on_disk(capsys, table, tmp_path):
    pq.write_table(pa.table({"sample_id": np.arange(120), "margin": RNG.random(120)}), tmp_path / "more.parquet")
    command = ("fit", table, "--features", "loss,margin", "--coefficients", "1,-1", "--join", tmp_path / "more.parquet")
    status, out, err = run(capsys, *command, "-o", tmp_path / "a.json")
    assert status == 0 and "20 of 120 rows belong to no row of the table" in err
    again = run(capsys, *command, "-o", tmp_path / "b.json", "--probabilities", tmp_path / "w.npy")
    assert again[0] == 0 and again[1].split(":")[0] == out.split(":")[0]
    assert (tmp_path / "a.json").read_text() == (tmp_path / "b.json").read_text()
    assert map_weights(tmp_path / "w.npy").sum() == pytest.approx(1)
    provenance = json.loads((tmp_path / "a.json").read_text())["provenance"]
    assert list(provenance["joined"][0]) == ["margin"]
    show = ("stream", "show", tmp_path / "a.json", "--table", table)
    assert run(capsys, *show, "--join", tmp_path / "more.parquet")[1].startswith("100 rows, 100 draws per epoch")
    status, _, err = run(capsys, *show)
    assert status == 2 and "has no margin: compute or join" in err
    status, _, err = run(capsys, "fit", table, "--features", "loss,margin", "-o", tmp_path / "c.json")
    assert status == 2 and "no feature 'margin'" in err


def test_search_train_and_report_with_a_joined_column(capsys, digits, tmp_path, monkeypatch):
    """By key, as the sampler sees it: rows of a clean label get the weight, in each step that opens the table."""
    catalog = Catalog.open(digits.train)
    folder, more = tmp_path / "features", tmp_path / "more.parquet"
    folder.mkdir()
    for shard in range(len(catalog.shards)):
        start, stop = catalog.shard_rows(shard)
        part = columns(start, stop - start, label=catalog.label[start:stop])
        write_part(part_path(folder, shard), part, {"catalog": catalog.fingerprint, "parts": len(catalog.shards)})
    noisy = (catalog.label != catalog.clean_label).astype(float)
    order = RNG.permutation(len(catalog))
    pq.write_table(pa.table({"key": [catalog.key(i) for i in order], "noisy": noisy[order]}), more)
    (tmp_path / "judge_of_joined.py").write_text("def judge(probabilities, trial):\n    return probabilities.max()\n")
    monkeypatch.chdir(tmp_path)
    swift = ("search", "swift", folder, "-o", tmp_path / "search", "--catalog", digits.train, "--features", "noisy")
    options = ("--objective", "judge_of_joined:judge", "--trials", 3, "--agent", "random", "--transform", "cdf")
    assert run(capsys, *swift, *options, "--min-ess", 0.1, "--join", more)[0] == 0
    assert run(capsys, *swift, *options, "--min-ess", 0.1)[0] == 2
    record = read_record(tmp_path / "search/search.json", "search")
    assert record["join"] == ["../more.parquet"]
    (search,) = read_records(tmp_path / "search")[1]
    assert SampledRows.open(search).table.names[-1] == "noisy"

    fit = ("fit", folder, "-o", "s.json", "--features", "noisy", "--coefficients", 1, "--transform", "cdf")
    heights = ("--ends", 0.99, "--values", "1,1,0", "--join", more)
    assert run(capsys, *fit, *heights)[2].strip().endswith("give the catalog too")
    assert run(capsys, *fit, *heights, "--catalog", digits.train)[0] == 0
    sampling = Sampling(tmp_path / "s.json", folder, join=(more,))
    setup = SimpleNamespace(data=catalog, ranks=Ranks())
    weights = sampling.probabilities(setup)
    assert weights[noisy == 1].max() == 0 and weights[noisy == 0].min() > 0
    with pytest.raises(ValueError, match="the table has no noisy"):
        Sampling(tmp_path / "s.json", folder).probabilities(setup)
