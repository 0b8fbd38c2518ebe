"""The AutoSampling benchmark: its rows and costs, its words, its page, and that a killed one ends undisturbed."""

import json
from dataclasses import replace

import numpy as np
import pytest

from drawstream.samplers.files import map_weights
from drawstream.samplers.orders import IndexStream
from drawstream.samplers.orders.schedule import Schedule
from drawstream.tools.bench.auto import grid as auto_grid
from drawstream.tools.bench.auto.cell import METHODS, Settings
from drawstream.tools.bench.auto.grid import run
from drawstream.tools.bench.auto.page import summarise, tables, verdicts
from drawstream.tools.cli import AutoGrid
from drawstream.tools.cli.app import main
from drawstream.tools.experiments.results import Row, entries_of
from drawstream.tools.report import build as report
from drawstream.tools.report.pages.schedule import reward_words
from drawstream.tools.report.schedules import RewardSpread, SearchedSchedule
from shared.refusals import refused

SMALL = Settings(epochs=3, population=2, interval=5, first=1, permutations=1, reward_rows=40)
STEPS = 3 * (400 // 32)  # 400 rows, batches of 32, the last one left out
NUMBERS = ("method", "noise", "seed", "last", "best", "forward", "backward")


@pytest.fixture(autouse=True)
def small_plan(shrink, monkeypatch):
    shrink(monkeypatch)
    monkeypatch.setitem(auto_grid.SETTINGS, "digits", SMALL)


def test_all_methods_at_the_command_line(tmp_path, capsys):
    path = tmp_path / "auto.json"
    assert main(["bench", "auto", "--data", "digits", "--noise", "0.4", "-o", str(tmp_path), "--json", str(path)]) == 0
    result = json.loads(path.read_text())
    rows = {row["method"]: row for row in result["rows"]}
    assert tuple(rows) == METHODS
    assert {*NUMBERS, "seconds"} < set(rows["uniform"])
    trained, rewards = STEPS * 32, 2 * 9 * 40  # an epoch of 12 batches has 3 intervals
    work = {"uniform": (trained, trained), "best-of": (2 * trained, 2 * trained)}
    work |= dict.fromkeys(("random", "mixture"), (2 * trained + rewards, 2 * trained))
    later = dict.fromkeys(("static", "replay", "replay-other"), (3 * trained + rewards, 3 * trained))
    work |= {"rais": (trained, trained)}
    dlis = rows.pop("dlis")
    assert dlis["backward"] == trained and trained <= dlis["forward"] <= 4 * trained
    assert {name: (row["forward"], row["backward"]) for name, row in rows.items()} == work | later
    assert rows["random"]["reward_forward"] == rows["mixture"]["reward_forward"] == rewards
    assert all(rows[name]["seconds"] > rows["mixture"]["seconds"] for name in later)  # what they need first is in them
    assert all(rows["replay"][key] == rows["mixture"][key] for key in ("last", "best"))
    cell = tmp_path / "noise-0.4/seed-0"
    records = [json.loads((cell / f"uniform-{k}/run.json").read_text()) for k in (0, 1)]
    ends = [record["history"][-1]["accuracy"] for record in records]
    assert rows["uniform"]["last"] == ends[0]["test"]
    assert rows["best-of"]["last"] == max(ends, key=lambda each: each["held_out"])["test"]
    assert records[0]["seed"] != records[1]["seed"]
    assert [each["identical"] for each in result["searches"]] == [True, True]
    assert len(Schedule.open(cell / "search-mixture/schedule.arrow").epoch(0)) == STEPS // 3 * 32
    shown = capsys.readouterr().out
    assert "40% wrong labels, 1 seed(s)" in shown
    assert "The children of an interval differ by" in shown
    text = (tmp_path / "auto.html").read_text()
    headings = ("Reward over the intervals", "How often rows were drawn, by stage", "Images drawn least and most")
    for heading in (*headings, "Count against loss", "Weights after replay"):
        assert heading in text
    report.write_report(tmp_path / "noise-0.4/seed-0/search-mixture", tmp_path / "report.html")
    assert "Count against loss" in (tmp_path / "report.html").read_text()


def test_a_model_is_trained_on_what_a_search_on_another_one_drew(tmp_path):
    out = tmp_path / "out"
    command = ["bench", "auto", "--data", "digits", "--noise", "0", "--methods", "uniform,static", "--interval", "6"]
    command += ["--model", "mlp", "--sources", "cnn", "-o", str(out)]
    assert main([*command, "--dry-run"]) == 0 and main(command) == 0
    rows = json.loads((out / "bench-auto.json").read_text())["rows"]
    assert [row["method"] for row in rows] == ["uniform", "static", "static-cnn"]
    cell = out / "noise-0/seed-0"
    search, own = (json.loads((cell / f"search-mixture{end}/auto.json").read_text()) for end in ("-cnn", ""))
    assert (search["model"], own["model"], search["auto"]["interval"]) == ("cnn", "mlp", 6)
    run_record = json.loads((cell / "static-cnn/run.json").read_text())
    weights = map_weights(cell / "search-mixture-cnn/distribution.parquet", column="weight")
    assert run_record["stream"] == IndexStream(weights, seed=0, draws=STEPS // 3 * 32).fingerprint
    assert run_record["model"] == "mlp"


def test_a_killed_benchmark_goes_on_to_the_same_rows(goes_on, tmp_path):
    grid = AutoGrid(data="digits", noise=(0.4,), methods=("uniform", "mixture", "static"))
    numbers = lambda result: [{key: row[key] for key in NUMBERS} for row in result["rows"]]  # noqa: E731
    goes_on(lambda out: run(replace(grid, out=out)), numbers, 2)  # the replay
    refused("another output folder", lambda: run(replace(grid, out=tmp_path / "part", epochs=2)))


def row(method, seed, last, forward=10, backward=10):
    values = {"last": last, "best": last, "seconds": 2.0, "train_seconds": 1.0, "reward_forward": 0}
    return Row(method, {"noise": 0.4}, seed, values | {"forward": forward, "backward": backward})


def test_work_and_table():
    rows = [row("uniform", 0, 70.0), row("uniform", 1, 74.0)]
    entries = entries_of([*rows, row("random", 0, 80.0, 50, 40), row("random", 1, 80.0, 50, 40)])
    uniform, random = summarise(entries)
    assert (uniform["work"], random["work"]) == (1, pytest.approx(130 / 30))
    assert (uniform["last"], uniform["last_std"]) == (72, pytest.approx(8**0.5))
    (table,) = tables(entries)
    assert "72.00 ± 2.83" in table.text() and "4.3 ×" in table.text()


def test_words_claim_what_the_interval_bears_out():
    lasts = {
        "uniform": lambda s: 70.0 + s,
        "best-of": lambda s: 70.1 + 1.02 * s,
        "random": lambda s: 71.0 + s + 0.1 * (s % 2),
        "static": lambda s: 69.0 + s + 0.1 * (s % 2),
        "mixture": lambda s: 70.0 + s + (-1) ** s,
        "replay": lambda s: 70.0 + s + (-1) ** s,
    }
    rows = [row(name, seed, last(seed)) for name, last in lasts.items() for seed in range(4)]
    against_uniform, at_best_epoch, against_best, _ = verdicts(entries_of(rows))
    assert at_best_epoch == against_uniform.replace("last epoch", "best epoch")  # the same numbers here
    found = dict(part.split(": ", 1) for part in against_uniform.split("points: ")[1].split("; "))
    assert "random +1.05" in found["better"] and "best-of +0.13" in found["better"]
    assert "static −0.95" in found["worse"]
    assert "mixture +0.00" in found["not shown to differ"] and "replay" not in against_uniform
    assert "best of as many plain trainings" in against_best and "uniform +" not in against_best
    single, _ = verdicts(entries_of([each for each in rows if each.seed == 0 and each.method in ("uniform", "random")]))
    assert "better" not in single and "one seed: random +1.00" in single


def test_words_on_rewards():
    def words(between, gain, repeated, agreement=0.5):
        spread = RewardSpread(between, 1.2, gain, repeated, agreement)
        return reward_words(spread, 1000, None if repeated is None else 4000)

    assert "below the noise of one reward" in words(0.5, 0.5, None)
    assert "the children do differ" in words(3.0, 3.0, None)
    assert "+0.10 on 4,000 images that chose nothing" in words(0.5, 0.5, 0.1)
    assert "20% of the advantage was the child's own" in words(0.5, 0.5, 0.1)
    assert words(0.5, 0.5, 0.1).endswith("Most of the choice is noise.")
    assert "above the noise" in words(0.5, 0.5, 0.4)
    late = RewardSpread(0.3, 1.2, 0.25, 0.02, 0.1)
    told = reward_words(RewardSpread(2.0, 1.2, 2.0, 1.8, 0.9), 1000, 4000, late=late)
    assert "In the second half of the run the children differ by 0.30 points, the chosen one was 0.25 above" in told
    assert "and +0.02 on the other images" in told


def test_a_search_whose_files_are_gone_is_refused(tmp_path):
    run(AutoGrid(data="digits", noise=(0.4,), methods=("mixture",), out=tmp_path))
    record = tmp_path / "noise-0.4/seed-0/search-mixture/auto.json"
    search = SearchedSchedule.open(record)
    assert search.counts.sum() == STEPS * 32
    assert search.ratio.mean() == pytest.approx(1)
    assert np.shape(search.rewards) == np.shape(search.again) == (9, 2)
    record.with_name("schedule.arrow").unlink()
    refused(r"auto\.json: a file that it names cannot be used: .*schedule\.arrow", SearchedSchedule.open, record)
