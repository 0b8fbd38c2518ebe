"""A dry run takes at most a tenth of the estimated time and ends whatever it is at; by a clock of the test."""

import json
import signal
import time

import pytest
import torch
from torch import nn

from drawstream.tools.cli.app import main
from drawstream.tools.estimate import probe
from drawstream.tools.estimate.clock import Clock
from drawstream.tools.estimate.probe import Enough, alarm, allowed, left, limited
from drawstream.tools.estimate.stages import Estimate, Stage, budgeted
from drawstream.tools.training.loop import Recipe, make_optimizer


@pytest.mark.parametrize(
    ("estimated", "seconds"), [(None, 3.0), (0.0, 0.5), (4.0, 0.5), (10.0, 1.0), (25.0, 2.5), (1e6, 3.0)]
)
def test_a_probe_takes_a_tenth_of_the_job_and_at_most_its_limit(estimated, seconds):
    assert allowed(estimated, 3.0) == pytest.approx(seconds)


@pytest.fixture
def now(monkeypatch):
    """The time in seconds, which the test sets."""
    time_now = [0.0]
    monkeypatch.setattr(probe.time, "perf_counter", lambda: time_now[0])
    return time_now


def test_all_probes_end_with_the_dry_run(now):
    assert left() == probe.MOST
    with limited():
        assert left() == 15.0
        now[0] = 13.5
        with limited():  # a benchmark's dry run holds those of its jobs
            assert left() == 1.5 and allowed(None, 3.0) == 1.5 and allowed(1e6, 3.0) == 1.5
        now[0] = 99.0
        assert left() == 0.0 and allowed(1e6, 3.0) == 0.0
    assert left() == probe.MOST


def steps(now: list[float], seconds: float, units: int) -> Clock:
    """A loop whose steps take so long by the test's clock."""
    model = nn.Linear(2, 2)
    optimizer = make_optimizer(model, Recipe(1, 0.1))
    with limited(), Clock(units=units) as clock:
        for _ in range(10_000):
            now[0] += seconds
            model(torch.ones(1, 2)).sum().backward()
            optimizer.step()
    return clock


@pytest.mark.parametrize(("seconds", "units"), [(0.1, 1000), (0.02, 2000), (0.5, 100), (0.5, 10_000), (2.0, 500)])
def test_steps_are_tried_for_a_tenth_of_all_of_them(now, seconds, units):
    clock = steps(now, seconds, units)
    assert clock.stopped and clock.unit_seconds == pytest.approx(seconds, rel=0.1)
    assert clock.marks[-1][0] - clock.began <= min(0.1 * seconds * units, 2 * 3.0) + 8 * seconds
    assert clock.marks[-1][0] - clock.began < probe.MOST


@pytest.mark.parametrize("seconds", [8.0, 20.0, 300.0])
def test_a_step_as_long_as_the_whole_dry_run_is_the_last(now, seconds):
    clock = steps(now, seconds, 100)
    assert clock.stopped and clock.units <= 2


def test_an_alarm_ends_a_step_that_does_not_end():
    begin = time.perf_counter()
    with Clock() as clock, alarm(0.05):
        while True:
            time.sleep(0.01)
    assert clock.stopped and not clock.units and 0.05 <= clock.unit_seconds < 5
    assert time.perf_counter() - begin < 5
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0


def test_alarms_nest_and_leave_the_handler_as_it_was():
    usual = signal.getsignal(signal.SIGALRM)

    def sleep() -> None:
        with alarm(60):
            assert signal.getitimer(signal.ITIMER_REAL)[0] > 50
        time.sleep(5)

    with pytest.raises(Enough), alarm(0.1):
        sleep()
    assert signal.getsignal(signal.SIGALRM) is usual and signal.getitimer(signal.ITIMER_REAL)[0] == 0


def test_what_is_not_known_in_time_is_said_to_be_unknown(monkeypatch):
    monkeypatch.setattr("drawstream.tools.estimate.stages.limited", lambda: limited(0.05))

    @budgeted("train")
    def endless() -> Estimate:
        while True:
            try:
                time.sleep(0.01)
            except Enough as error:  # as an import of an extension module may turn it
                raise ImportError("half an import") from error

    found = endless()
    assert found.seconds is None and found.stages[0].basis.startswith("unknown: ") and 0 < found.took < 5
    assert "unknown" in found.text()


def test_an_estimate_says_what_it_took(tmp_path):
    @budgeted("pack")
    def quick() -> Estimate:
        return Estimate("pack", tmp_path, (Stage("a", 1.0, 1, 1, "computed"),))

    found = quick()
    assert 0 <= found.took < 1 and f"it took {found.took:.1f} s, imports aside" in found.text()
    assert found.as_dict()["took"] == found.took


def test_the_command_says_it(digits, tmp_path, capsys):
    command = ["train", str(digits.train), "-o", str(tmp_path / "o"), "--model", "mlp", "--epochs", "1", "--dry-run"]
    assert main([*command, "--json", str(tmp_path / "x.json")]) == 0
    assert "nothing was written; it took" in capsys.readouterr().out
    assert 0 < json.loads((tmp_path / "x.json").read_text())["took"] < 20
