"""Crews: runs come back whoever does them, dead workers are replaced, and errors travel."""

import functools
import os
import pathlib
import signal
import time

import numpy as np
import pytest

from drawstream.search import ObjectiveError, Trial, load_objective
from drawstream.search.workers.crew import call
from drawstream.search.workers.hire import hired
from drawstream.search.workers.processes import Processes

P = np.full(10, 0.1)


def trial(number):
    return Trial(number, 1000 + number, "search")


def plain(p, trial):
    return p.sum() + trial.seed


def pid(p, trial):
    time.sleep(0.1)
    return os.getpid()


def failing(p, trial):
    raise OSError("disk full")


def deadly_once(folder, p, trial):
    """Kills its process the first time that candidate 1 is run."""
    mark = pathlib.Path(folder) / "died"
    if trial.number == 1 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return float(trial.number)


def deadly(p, trial):
    os._exit(7)


def outcomes(crew, runs):
    """Scores by number, with as many under way as the crew takes."""
    waiting, found, under_way = list(runs), {}, 0
    while waiting or under_way:
        while waiting and under_way < crew.size:
            crew.start(P, trial(waiting.pop(0)))
            under_way += 1
        outcome = crew.next()
        under_way -= 1
        found[outcome.trial.number] = outcome.score
    return found


@pytest.mark.parametrize("workers", [None, 1, 2])
def test_a_crew_does_every_run(workers):
    with hired(plain, workers=workers) as crew:
        assert outcomes(crew, range(5)) == {k: 1001 + k for k in range(5)}
        assert call(crew, P, trial(9)) == 1010


@pytest.mark.slow
def test_workers_are_other_processes_and_end_with_the_crew():
    with hired(pid, workers=2) as crew:
        pids = {int(score) for score in outcomes(crew, range(4)).values()}
        assert len(pids) == 2
        assert os.getpid() not in pids
        crew.start(P, trial(5))  # still at work when the crew is dismissed
    for each in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(each, 0)


def test_the_run_of_a_worker_that_dies_is_done_by_another(tmp_path):
    with hired(functools.partial(deadly_once, str(tmp_path)), workers=2) as crew:
        assert outcomes(crew, range(4)) == {0: 0.0, 1: 1.0, 2: 2.0, 3: 3.0}
    assert (tmp_path / "died").exists()


@pytest.mark.slow
def test_a_run_whose_workers_die_again_and_again_is_an_error():
    with (
        hired(deadly, workers=2) as crew,
        pytest.raises(ObjectiveError, match=r"trial 4 .* died 3 times.* exit code 7.*__main__"),
    ):
        outcomes(crew, [4])


@pytest.mark.slow
def test_what_the_objective_raises_travels():
    with hired(failing, workers=2) as crew:
        crew.start(P, trial(3))
        outcome = crew.next()
    assert "at trial 3" in str(outcome.error)
    assert outcome.note == "OSError: disk full"


def test_an_objective_that_no_process_could_have_is_refused_at_once():
    with pytest.raises(ValueError, match=r"cannot be sent to other processes.*function of a module"):
        Processes(lambda p, trial: 1.0, 2)


@pytest.mark.slow
def test_named_objectives_travel_by_name(tmp_path, monkeypatch):
    (tmp_path / "mine_for_crews.py").write_text("def score(p, trial):\n    return 42.0\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    with hired(load_objective("mine_for_crews:score"), workers=2) as crew:
        assert call(crew, P, trial(0)) == 42.0


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"engine": "dask"}, "engine must be local, ray or ray:ADDRESS, but got 'dask'"),
        ({"engine": "local:x"}, "but got 'local:x'"),
        ({"workers": 0}, "workers >= 1 must hold, but got 0"),
    ],
)
def test_bad_arguments(options, text):
    with pytest.raises(ValueError, match=text), hired(plain, **options):
        pass
