"""The AutoSampling benchmark: its rows and costs, its words, its page, and that a killed one ends undisturbed."""

import json
from dataclasses import replace

import numpy as np
import pytest

from drawstream.samplers.orders.schedule import Schedule
from drawstream.tools import demo
from drawstream.tools.bench.auto import bench
from drawstream.tools.bench.auto import cell as auto_cell
from drawstream.tools.bench.auto.bench import METHODS, format_table, run, summarise, verdicts
from drawstream.tools.bench.auto.cell import Settings
from drawstream.tools.cli.app import main
from drawstream.tools.report import build as report
from drawstream.tools.report.pages.schedule import SearchedSchedule, reward_words
from drawstream.tools.report.schedules import Spread

SMALL = Settings(epochs=3, population=2, interval=5, first=1, permutations=1, reward_rows=40)
STEPS = 3 * (400 // 32)  # 400 rows, batches of 32, the last one left out


@pytest.fixture(autouse=True)
def small_plan(monkeypatch):
    """3 epochs of 2 children on 400 digits."""
    plan = replace(demo.PLANS["digits"], limit=500, holdout=100)
    monkeypatch.setitem(demo.PLANS, "digits", plan)
    monkeypatch.setitem(bench.SETTINGS, "digits", SMALL)


def numbers(result):
    return [
        {key: row[key] for key in ("method", "noise", "seed", "last", "best", "forward", "backward")}
        for row in result["rows"]
    ]


def test_all_methods_at_the_command_line(tmp_path, capsys):
    path = tmp_path / "auto.json"
    assert main(["bench", "auto", "--data", "digits", "--noise", "0.4", "-o", str(tmp_path), "--json", str(path)]) == 0
    result = json.loads(path.read_text())
    rows = {row["method"]: row for row in result["rows"]}
    assert tuple(rows) == METHODS
    assert {"method", "noise", "seed", "last", "best", "seconds", "forward", "backward"} < set(rows["uniform"])
    trained, rewards = STEPS * 32, 2 * 9 * 40  # an epoch of 12 batches has 3 intervals
    assert (rows["uniform"]["forward"], rows["uniform"]["backward"]) == (trained, trained)
    assert (rows["best-of"]["forward"], rows["best-of"]["backward"]) == (2 * trained, 2 * trained)
    for name in ("random", "mixture"):
        assert (rows[name]["forward"], rows[name]["backward"]) == (2 * trained + rewards, 2 * trained)
        assert rows[name]["reward_forward"] == rewards
    for name in ("static", "replay", "replay-other"):  # what they need first is in them
        assert (rows[name]["forward"], rows[name]["backward"]) == (3 * trained + rewards, 3 * trained)
        assert rows[name]["seconds"] > rows["mixture"]["seconds"]
    for key in ("last", "best"):
        assert rows["replay"][key] == rows["mixture"][key]
    cell = tmp_path / "noise-0.4/seed-0"
    runs = [json.loads((cell / f"uniform-{k}/run.json").read_text())["history"] for k in (0, 1)]
    assert rows["uniform"]["last"] == runs[0][-1]["accuracy"]["test"]
    ends = [history[-1]["accuracy"] for history in runs]
    assert rows["best-of"]["last"] == max(ends, key=lambda each: each["held_out"])["test"]
    assert len({json.loads((cell / f"uniform-{k}/run.json").read_text())["seed"] for k in (0, 1)}) == 2
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


def test_a_killed_benchmark_goes_on_to_the_same_rows(tmp_path, monkeypatch):
    options = {"noise": [0.4], "methods": ["uniform", "mixture", "static"]}
    whole = run("digits", tmp_path / "whole", **options)
    train, calls = auto_cell.train, 0

    def killed(*arguments, on_epoch, **keywords):
        """Stops the second training, the replay, after its second epoch."""
        nonlocal calls
        calls += 1

        def stop(epoch):
            on_epoch(epoch)
            if calls == 2 and epoch.epoch == 1:
                raise KeyboardInterrupt

        return train(*arguments, on_epoch=stop, **keywords)

    monkeypatch.setattr(auto_cell, "train", killed)
    with pytest.raises(KeyboardInterrupt):
        run("digits", tmp_path / "part", **options)
    resumed = run("digits", tmp_path / "part", **options)
    assert numbers(resumed) == numbers(whole)
    calls = 0
    assert run("digits", tmp_path / "part", **options)["rows"] == resumed["rows"]
    assert calls == 0  # what is finished is read
    with pytest.raises(ValueError, match="another output folder"):
        run("digits", tmp_path / "part", **options, settings=replace(SMALL, epochs=2))


def row(method, seed, last, forward=10, backward=10):
    times = {"seconds": 2.0, "train_seconds": 1.0, "reward_forward": 0}
    return {"method": method, "noise": 0.4, "seed": seed, "last": last, "best": last, "forward": forward,
            "backward": backward, **times}  # fmt: skip


def test_work_and_table():
    rows = [
        row("uniform", 0, 70.0),
        row("uniform", 1, 74.0),
        row("random", 0, 80.0, 50, 40),
        row("random", 1, 80.0, 50, 40),
    ]
    uniform, random = summarise(rows)
    assert uniform["work"] == 1
    assert random["work"] == pytest.approx(130 / 30)
    assert uniform["last"] == 72
    assert uniform["last_std"] == pytest.approx(8**0.5)
    shown = format_table([uniform, random])
    assert "72.00 ± 2.83" in shown
    assert "4.3×" in shown


def test_words_claim_what_the_interval_bears_out():
    seeds = range(4)
    rows = [row("uniform", seed, 70.0 + seed) for seed in seeds]
    rows += [row("best-of", seed, 70.1 + 1.02 * seed) for seed in seeds]
    rows += [row("random", seed, 71.0 + seed + 0.1 * (seed % 2)) for seed in seeds]
    rows += [row("static", seed, 69.0 + seed + 0.1 * (seed % 2)) for seed in seeds]
    rows += [row("mixture", seed, 70.0 + seed + (-1) ** seed) for seed in seeds]
    rows += [row("replay", seed, 70.0 + seed + (-1) ** seed) for seed in seeds]
    against_uniform, at_best_epoch, against_best, _ = verdicts(rows)
    assert at_best_epoch == against_uniform.replace("last epoch", "best epoch")  # the same numbers here
    helps, harms, rest = against_uniform.split("; ")
    assert "random (+1.05" in helps and "best-of (+0.13" in helps
    assert "static (-0.95" in harms
    assert "mixture (+0.00" in rest and "replay" not in rest
    assert "best of as many plain trainings" in against_best and "uniform (" not in against_best
    single, _ = verdicts([each for each in rows if each["seed"] == 0 and each["method"] in ("uniform", "random")])
    assert "helps: none" in single and "random (+1.00, one seed)" in single


def test_words_on_rewards():
    def words(between, gain, repeated, agreement=0.5):
        return reward_words(Spread(between, 1.2, gain, repeated, agreement), 1000, None if repeated is None else 4000)

    assert "below the noise of one reward" in words(0.5, 0.5, None)
    assert "the children do differ" in words(3.0, 3.0, None)
    assert "+0.10 on 4,000 images that chose nothing" in words(0.5, 0.5, 0.1)
    assert "20% of the advantage was the child's own" in words(0.5, 0.5, 0.1)
    assert words(0.5, 0.5, 0.1).endswith("Most of the choice is noise.")
    assert "above the noise" in words(0.5, 0.5, 0.4)
    late = Spread(0.3, 1.2, 0.25, 0.02, 0.1)
    told = reward_words(Spread(2.0, 1.2, 2.0, 1.8, 0.9), 1000, 4000, late=late)
    assert "In the second half of the run the children differ by 0.30 points, the chosen one was 0.25 above" in told
    assert "and +0.02 on the other images" in told


def test_bad_arguments_are_named(tmp_path):
    for options, text in (
        ({"methods": ["dynamic"]}, "unknown methods 'dynamic': give some of uniform, best-of"),
        ({"seeds": [0, 0]}, "seeds must be given and differ"),
        ({"noise": [1.0]}, "0 <= noise < 1"),
    ):
        with pytest.raises(ValueError, match=text):
            run("digits", tmp_path, **{"noise": [0.0], **options})
    with pytest.raises(ValueError, match="no plan for 'cifar'"):
        run("cifar", tmp_path, noise=[0.0])


def test_a_search_whose_files_are_gone_is_refused(tmp_path):
    run("digits", tmp_path, noise=[0.4], methods=["mixture"])
    record = tmp_path / "noise-0.4/seed-0/search-mixture/auto.json"
    search = SearchedSchedule.open(record)
    assert search.counts.sum() == STEPS * 32
    assert search.ratio.mean() == pytest.approx(1)
    assert np.shape(search.rewards) == np.shape(search.again) == (9, 2)
    record.with_name("schedule.arrow").unlink()
    with pytest.raises(ValueError, match=r"auto\.json: a file that it names cannot be used: .*schedule\.arrow"):
        SearchedSchedule.open(record)
