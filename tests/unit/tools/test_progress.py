"""Progress in a log: plain lines, a rate per phase, nothing from ranks that keep quiet."""

import io
import re
import sys
import threading
import time

import pytest

from drawstream.tools.runs import progress
from drawstream.tools.runs.progress import Progress


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
