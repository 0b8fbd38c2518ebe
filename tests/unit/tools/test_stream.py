"""`drawstream stream` and `bench`: what they say is what the stream does, and bad input ends with one line."""

import json
import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from drawstream import Catalog, IndexStream, Schedule, SwiftFit, SwiftParams, effective_sample_size
from drawstream.tools.cli.app import main
from shared.programs import cli, cli_json
from shared.samples import write_table


@pytest.fixture(scope="module")
def sampled(digits, tmp_path_factory):
    """A sampler over a feature table of the digits, and its probabilities."""
    folder = tmp_path_factory.mktemp("sampled")
    loss = np.random.default_rng(0).random(500, dtype=np.float32)
    table = write_table(folder / "features", Catalog.open(digits.train), {"loss": loss})
    fit = SwiftFit({"loss": loss}, features=["loss"], transform="cdf")
    params = SwiftParams((1.0,), (0.25, 0.5, 0.75), (1.0, 1.0, 0.5, 0.0, 0.0))
    fit.sampler(params).save(folder / "sampler.json")
    return folder / "sampler.json", table, fit.probabilities(params)


def test_show_a_sampler(sampled, tmp_path, capsys):
    sampler, table, p = sampled
    result = cli_json(tmp_path, "stream", "show", sampler, "--table", table, "--seed", 3, "--epoch", 2, "--draws", 300)
    stream = IndexStream(p, seed=3, draws=300)
    assert (result["rows"], result["draws"], result["mode"], result["seed"]) == (500, 300, "stratified", 3)
    assert result["ess"] == pytest.approx(effective_sample_size(p))
    assert result["zero_rows"] == (p == 0).sum() > 0
    assert result["first_rows"] == stream.epoch(2)[:10].tolist()
    assert result["first_weights"] == pytest.approx(stream.epoch(2).weights(0, 10).tolist(), abs=1e-6)
    assert (result["fingerprint"], result["bytes"]) == (stream.fingerprint, stream.nbytes)
    text = capsys.readouterr().out
    assert "500 rows, 300 draws per epoch, mode stratified, seed 3, no window" in text
    assert f"epoch 2 begins: {' '.join(map(str, result['first_rows']))}" in text


def test_count_adds_up(tmp_path, capsys):
    options = ("--rows", 400, "--mode", "multinomial", "--seed", 5)
    result = cli_json(tmp_path, "stream", "count", *options, "--epochs", "1:6")
    stream = IndexStream(400, mode="multinomial", seed=5)
    counts = np.array([np.bincount(stream.epoch(epoch)[:], minlength=400) for epoch in range(1, 6)])
    for part, expected in zip(result["epochs"], counts, strict=True):
        assert part["histogram"] == np.bincount(expected).tolist()
        share = expected[expected > 0] / 400
        assert part["entropy"] == pytest.approx(-(share * np.log(share)).sum())
        assert part["unevenness"] == pytest.approx(1 - part["entropy"] / math.log(400))
    assert [part["epoch"] for part in result["epochs"]] == [1, 2, 3, 4, 5]
    assert result["total"]["draws"] == 2000
    assert result["total"]["histogram"] == np.bincount(counts.sum(axis=0)).tolist()
    text = capsys.readouterr().out
    assert "… and 2 more" in text
    assert "together:" in text


def test_uniform_rows_are_even(tmp_path):
    for rows in (1, 70):
        total = cli_json(tmp_path, "stream", "count", "--rows", rows)["total"]
        assert total["histogram"] == [0, rows]
        assert total["unevenness"] == pytest.approx(0, abs=1e-12)


@given(
    st.sampled_from(["stratified", "multinomial", "subset", "permutation"]),
    st.integers(1, 400),
    st.integers(0, 2**64 - 1),
    st.integers(0, 5),
    st.integers(1, 3),
    st.data(),
)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_an_exported_schedule_replays_the_same_ids(tmp_path, mode, rows, seed, first, epochs, data):
    weights = np.random.default_rng(seed).random(rows) + 0.01
    draws = data.draw(st.integers(1, rows if mode == "subset" else 2 * rows))
    np.save(tmp_path / "weights.npy", weights)
    source = ["--rows", rows] if mode == "permutation" else [tmp_path / "weights.npy"]
    options = ["--mode", mode, "--seed", seed, "--draws", draws]
    out = tmp_path / "schedule.arrow"
    cli_json(tmp_path, "stream", "export", *source, *options, "--epochs", f"{first}:{first + epochs}", "-o", out)
    stream = IndexStream(rows if mode == "permutation" else weights, mode=mode, seed=seed, draws=draws)
    replay = IndexStream(Schedule.open(out))
    for epoch in range(epochs):
        np.testing.assert_array_equal(replay.epoch(epoch)[:], stream.epoch(first + epoch)[:])
        assert np.array_equal(replay.epoch(epoch).weights(0, draws), stream.epoch(first + epoch).weights(0, draws))
    again = tmp_path / "again.arrow"
    cli_json(tmp_path, "stream", "export", out, "--epochs", ":", "-o", again)
    assert cli_json(tmp_path, "stream", "diff", out, again)["equal"]


def test_export_names_the_catalog_and_writes_idx(sampled, digits, tmp_path, capsys):
    sampler, table, p = sampled
    catalog = Catalog.open(digits.train)
    result = cli_json(
        tmp_path, "stream", "export", sampler, "--table", table, "--catalog", digits.train, "--epochs", "0:2",
        "--idx", tmp_path / "idx", "--by-shard", "-o", tmp_path / "deep" / "s.arrow",
    )  # fmt: skip
    schedule = Schedule.open(tmp_path / "deep" / "s.arrow", catalog=catalog.fingerprint)
    assert (schedule.epochs, schedule.draws) == (2, 500)
    assert [(part["epoch"], part["files"], part["exact"]) for part in result["idx"]] == [(0, 5, False), (1, 5, False)]
    order = IndexStream(p).epoch(1)[:]
    replay = json.loads((tmp_path / "idx" / "epoch-00001" / "replay.json").read_text())
    lines = [Path(name).read_text().splitlines() for name in replay["index_paths"]]
    assert [line[0] for line in lines] == [f"v1.2 {(catalog.shard[order] == shard).sum()}" for shard in range(5)]
    keys = [line.split()[3].split(".")[0] for part in lines for line in part[1:]]
    expected = np.concatenate([order[catalog.shard[order] == shard] for shard in range(5)])
    assert keys == [catalog.key(row) for row in expected]
    assert "2 epochs of 500 draws" in capsys.readouterr().out
    exact = cli_json(
        tmp_path, "stream", "export", "--rows", 500, "--catalog", digits.train, "--idx", tmp_path / "exact"
    )
    assert exact["idx"][0]["exact"]
    assert exact["idx"][0]["files"] > 300


def test_diff_finds_the_place(tmp_path, capsys):
    for name, seed in (("a", 0), ("b", 1)):
        cli_json(tmp_path, "stream", "export", "--rows", 90, "--seed", seed, "--epochs", "0:2", "-o", tmp_path / name)
    one, two = Schedule.open(tmp_path / "a"), Schedule.open(tmp_path / "b")
    result = cli_json(tmp_path, "stream", "diff", tmp_path / "a", tmp_path / "b", status=1)
    differ = np.concatenate([one.epoch(epoch)[:] != two.epoch(epoch)[:] for epoch in range(2)])
    assert result["different_positions"] == differ.sum() > 100
    assert result["first"] == {"epoch": 0, "position": int(np.argmax(differ))}
    assert result["variation"] == [0, 0]
    assert "first in epoch 0 at position" in capsys.readouterr().out


def test_a_schedule_and_weights_in_arrow_are_told_apart(tmp_path):
    weights = np.array([1.0, 3.0, 0.0, 4.0])
    pq.write_table(pa.table({"sample_id": np.arange(4), "p": weights, "loss": weights * 0 + 1}), tmp_path / "w.parquet")
    with pa.OSFile(str(tmp_path / "w.arrow"), "wb") as sink:
        batch = pa.record_batch({"p": weights})
        with pa.ipc.new_file(sink, batch.schema) as writer:
            writer.write_batch(batch)
    for arguments in (["w.parquet", "--column", "p"], ["w.arrow"]):
        result = cli_json(tmp_path, "stream", "show", tmp_path / arguments[0], *arguments[1:])
        assert result["ess"] == pytest.approx(64 / 26)
        assert (result["zero_rows"], result["fingerprint"]) == (1, IndexStream(weights).fingerprint)
    cli_json(tmp_path, "stream", "export", tmp_path / "w.arrow", "--draws", 8, "-o", tmp_path / "s.arrow")
    result = cli_json(tmp_path, "stream", "show", tmp_path / "s.arrow")
    assert (result["mode"], result["draws"], result["zero_rows"]) == ("schedule", 8, 1)
    assert result["ess"] == pytest.approx(64 / 26)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ("show", "needs one source"),
        ("show {npy} --rows 4", "needs one source"),
        ("show {sampler}", "give --table"),
        ("show {npy} --table {table}", "--table goes with a sampler.json"),
        ("show {folder}/none.npy", "no such file"),
        ("show --rows 10 --mode stratified --window 9", "window >= 1024 must hold, but got 9"),
        ("show --rows 10 --mode sideways", "'--mode': 'sideways' is not one of 'permutation'"),
        ("show --rows 100000000000000000000", "--rows must be in [0, 100000000000]"),
        ("show --rows 10 --epoch -1", "--epoch must be in [0, 18446744073709551615], but got -1"),
        ("show {npy} --mode subset", "draws <= rows with positive weight must hold"),
        ("show {text}", "not an Arrow IPC file"),
        ("count --rows 10 --epochs a:b", "as 3 or 0:3, but got 'a:b'"),
        ("count --rows 10 --epochs 3:", "as 3 or 0:3, but got '3:'"),
        ("count --rows 10 --epochs 3:3", "0 or more and not none"),
        ("export --rows 10", "needs a place"),
        ("export --rows 10 --idx {folder}/idx", "--idx needs --catalog"),
        ("export --rows 10 --idx {folder}/idx --catalog {catalog}", "500 images, but the stream has 10 rows"),
        ("export {sampler} --table {table} --catalog {held_out} -o {folder}/x", "the stream's rows are those of"),
        ("diff {npy} {npy}", "must be an Arrow IPC file"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(sampled, digits, tmp_path, arguments, text):
    sampler, table, _ = sampled
    np.save(tmp_path / "w.npy", np.array([1.0, 0.0, 2.0]))
    (tmp_path / "text.arrow").write_text("no arrow")
    names = {"npy": tmp_path / "w.npy", "sampler": sampler, "table": table, "folder": tmp_path}
    names |= {"catalog": digits.train, "held_out": digits.held_out, "text": tmp_path / "text.arrow"}
    error = cli("stream", *(part.format(**names) for part in arguments.split()), status=2)
    assert text in error
    assert error.count("\n") == 1


def test_epochs_of_a_schedule_are_bounded(tmp_path, capsys):
    cli_json(tmp_path, "stream", "export", "--rows", 9, "--epochs", "0:2", "-o", tmp_path / "s.arrow")
    assert len(cli_json(tmp_path, "stream", "count", tmp_path / "s.arrow", "--epochs", "1:")["epochs"]) == 1
    capsys.readouterr()
    assert main(["stream", "count", str(tmp_path / "s.arrow"), "--epochs", "1:3"]) == 2
    assert "holds the epochs 0:2, but got '1:3'" in capsys.readouterr().err


def test_crops_have_no_idx(tmp_path, digits):
    crops = {
        name: np.full(500, value, np.float32)
        for name, value in zip(("y0", "x0", "y1", "x1"), (0, 0, 1, 1), strict=True)
    }
    loss = np.random.default_rng(1).random(500, dtype=np.float32)
    columns = crops | {"flip": np.zeros(500, bool), "loss": loss}
    table = write_table(tmp_path / "crops", Catalog.open(digits.train), columns)
    fit = SwiftFit({"loss": loss}, features=["loss"], transform="cdf")
    fit.sampler(SwiftParams.uniform(1)).save(tmp_path / "s.json")
    source = ["stream", "export", str(tmp_path / "s.json"), "--table", str(table)]
    assert "these rows are crops" in cli(*source, "--idx", tmp_path / "i", "--catalog", digits.train, status=2)


def test_rows_of_a_catalog_by_class_and_by_condition(digits, tmp_path):
    catalog = Catalog.open(digits.train)
    counts = np.bincount(catalog.label)
    some = cli_json(tmp_path, "stream", "show", "--catalog", digits.train, "--where", "label < 3", "--first", 10**6)
    assert (
        sorted(some["first_rows"]) == np.flatnonzero(catalog.label < 3).tolist() and some["draws"] == counts[:3].sum()
    )
    for source, balance in (([], 1), (["balanced"], 0)):
        options = (*source, "--catalog", digits.train, "--balance", balance, "--where", "label < 2", "--first", 10**6)
        found = cli_json(tmp_path, "stream", "show", *options)
        assert np.bincount(catalog.label[found["first_rows"]]) == pytest.approx(counts[:2].sum() / 2, abs=15)
        weights = np.array(found["first_weights"])
        assert weights == pytest.approx(2 * counts[catalog.label[found["first_rows"]]] / counts[:2].sum(), rel=1e-4)
    some = ("--catalog", digits.train, "--where", "label < 3")
    cli_json(tmp_path, "stream", "export", *some, "-o", tmp_path / "s.arrow")
    assert set(catalog.label[IndexStream(Schedule.open(tmp_path / "s.arrow")).epoch(0)[:]]) == {0, 1, 2}
    told = cli("stream", "show", tmp_path / "s.arrow", *some, status=2)
    assert "a schedule fixes what is drawn" in told
    assert "classes are those of a catalog" in cli("stream", "show", "--rows", 4, "--balance", 1, status=2)
    assert "no column 'label'" in cli("stream", "show", "--rows", 4, "--where", "label < 1", status=2)
