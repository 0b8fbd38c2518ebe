"""Hooks: what a job tells them, the journal it leaves while it runs, TensorBoard's files."""

import io
import json
import re
import sys
import threading
import time

import pytest

from drawstream.tools.runs import Progress, progress
from drawstream.tools.runs.hooks import JOURNAL, Hooks, Journal, load_hooks, read_journal
from shared.programs import cli
from shared.refusals import refused

HOOK = """
import json

class Log:
    def __init__(self, out):
        self.out = out / "log.jsonl"
        self.lines = []
    def begin(self, kind, settings):
        self.lines.append(["begin", kind, settings["seed"]])
    def step(self, step, total, values):
        self.lines.append(["step", step, total, sorted(values), (self.out.parent / "progress.json").exists()])
    def end(self, record):
        self.lines.append(["end", record["kind"]])
        self.out.write_text("\\n".join(json.dumps(line) for line in self.lines))

not_a_factory = 3
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hooks_of_a_test.py").write_text(HOOK)
    yield "hooks_of_a_test"
    sys.modules.pop("hooks_of_a_test", None)


def test_a_training_tells_its_hooks(module, digits, tmp_path):
    command = ["train", str(digits.train), "-o", "run", "--model", "mlp", "--epochs", "3", "--held-out"]
    cli(*command, digits.held_out, "--hook", f"{module}:Log", "--tensorboard", "--seed", "4")
    lines = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    assert lines[0] == ["begin", "train", 4] and lines[-1] == ["end", "train"]
    names = ["accuracy/held_out", "balanced/held_out", "images_per_second", "loss", "lr", "seconds", "top5/held_out"]
    assert lines[1:-1] == [["step", n, 3, [*names, "wait_share"], True] for n in (1, 2, 3)]
    assert not (tmp_path / "run" / JOURNAL).exists()  # the record speaks now


def test_tensorboard_has_every_value(digits, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    command = ["train", str(digits.train), "-o", str(tmp_path / "run"), "--model", "mlp", "--epochs", "3"]
    cli(*command, "--tensorboard")
    found = EventAccumulator(str(tmp_path / "run/tensorboard"))
    found.Reload()
    record = json.loads((tmp_path / "run/run.json").read_text())
    losses = found.Scalars("train/loss")
    assert [each.step for each in losses] == [1, 2, 3]
    assert [each.value for each in losses] == pytest.approx([epoch["loss"] for epoch in record["history"]])


def test_a_journal_goes_on_after_a_kill(tmp_path):
    first = Journal(tmp_path)
    first.begin("train", {"method": "p", "seed": 1})
    for step in (1, 2, 3):
        first.step(step, 5, {"loss": 1.0 / step})
    first._write()  # the third may have been too soon after the second
    began = read_journal(tmp_path / JOURNAL)["began"]
    second = Journal(tmp_path)  # the checkpoint was of step 2
    second.begin("train", {"method": "p", "seed": 1})
    second.step(3, 5, {"loss": 9.0})
    second._write()
    found = read_journal(tmp_path / JOURNAL)
    assert [(point[1], point[2]["loss"]) for point in found["points"]] == [(1, 1.0), (2, 0.5), (3, 9.0)]
    assert found["began"] == began and found["title"] == "p seed 1"


def test_a_long_journal_stays_short(tmp_path):
    journal = Journal(tmp_path)
    journal.begin("auto", {})
    for step in range(1, 5001):
        journal.step(step, 5000, {"reward": step})
    found = read_journal(tmp_path / JOURNAL)
    assert len(found["points"]) <= 1000 and found["points"][0][1] == 1 and found["points"][-1][1] == 5000


def test_what_is_no_number_is_left_out_and_others_do_not_write(tmp_path):
    Hooks(tmp_path, writes=False).begin("train", {})
    assert not list(tmp_path.iterdir())
    hooks = Hooks(tmp_path)
    hooks.begin("search", {"path": tmp_path})
    hooks.step(1, 1, {"value": float("nan"), "best": None, "x": 2})
    assert read_journal(tmp_path / JOURNAL)["points"][0][2] == {"x": 2.0}


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format": 99}', "\x00"])
def test_a_damaged_journal_is_none(tmp_path, content):
    (tmp_path / JOURNAL).write_text(content)
    assert read_journal(tmp_path / JOURNAL) is None
    Journal(tmp_path).begin("train", {})
    assert read_journal(tmp_path / JOURNAL)["points"] == []


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_module:Log", "No module named 'no_such_module'"),
        ("{}:Missing", "give module:factory"),
        ("{}:not_a_factory", "must name a factory"),
        ("{}", "must be module:factory"),
    ],
)
def test_wrong_hooks_are_named(module, tmp_path, name, message):
    refused(message, lambda: load_hooks(tmp_path, [name.format(module)]))


# Progress in a log: plain lines, a rate per phase, nothing from ranks that keep quiet


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands until it is moved."""

    class Clock:
        now = 0.0

    monkeypatch.setattr(progress.time, "monotonic", lambda: Clock.now)
    return Clock


def test_lines_come_every_ten_seconds_with_the_time_left(clock, capsys):
    with Progress("features", "rows") as shown:
        for second in range(1, 31):
            clock.now = second
            shown.update(second * 10, 400, "note")
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "features: 100 of 400 rows, 10 rows/s, 30 s left, note",
        "features: 200 of 400 rows, 10 rows/s, 20 s left, note",
        "features: 300 of 400 rows, 10 rows/s, 10 s left, note",
        "features: 300 rows in 30.0 s, note",
    ]


@pytest.mark.parametrize("runs", [12, 40], ids=["another total", "the same total"])
def test_a_new_phase_has_its_own_rate(clock, capsys, runs):
    with Progress("search", "runs") as shown:
        clock.now = 1
        shown.update(40, 40)
        for run in range(1, 5):
            clock.now = 1 + 20 * run
            shown.update(run, runs)
    left = re.findall(r"(\d+) of \d+ runs, (\d+) s left", capsys.readouterr().err)
    assert left == [(str(run), str(20 * (runs - run))) for run in (2, 3, 4)]


def test_a_part_of_an_epoch_has_a_time_left(clock, capsys):
    with Progress("train", "epochs") as shown:
        for step in range(1, 41):
            clock.now = step
            shown.update(step / 40, 2)
        shown.update(1, 2, "loss 1")
    assert capsys.readouterr().err.splitlines() == [
        "train: 0.25 of 2 epochs, 70 s left",
        "train: 0.50 of 2 epochs, 60 s left",
        "train: 0.75 of 2 epochs, 50 s left",
        "train: 1.00 of 2 epochs, 40 s left",
        "train: 1 epochs in 40.0 s, loss 1",
    ]


def test_a_long_silence_is_broken(clock, monkeypatch):
    # not capsys: its readouterr reads and then empties, and loses what the other thread writes in between
    log = io.StringIO()
    monkeypatch.setattr(sys, "stderr", log)
    monkeypatch.setattr(progress, "SILENCE", 0.05)
    with Progress("train", "epochs") as shown, Progress("quiet", "epochs", quiet=True):
        for now, update in ((31.0, None), (95.4, (1, 3, "loss 2"))):
            before = len(log.getvalue())
            if update:
                shown.update(*update)
            clock.now = now
            deadline = time.perf_counter() + 60
            while not log.getvalue()[before:].endswith("\n") and time.perf_counter() < deadline:
                time.sleep(0.001)
    assert log.getvalue().splitlines() == [
        "train: at work for 31 s",
        "train: 1 of 3 epochs, at work for 95 s, loss 2",
        "train: 1 epochs in 95.4 s, loss 2",
    ]
    assert not [thread for thread in threading.enumerate() if thread.name.endswith("(_say_so)")]


def test_failed_and_quiet_jobs_print_no_summary(clock, capsys):
    with Progress("train", "epochs", quiet=True) as shown:
        shown.update(1, 2)
    with pytest.raises(ValueError, match="stop"), Progress("train", "epochs") as shown:
        shown.update(1, 2)
        raise ValueError("stop")
    assert capsys.readouterr().err == ""
