"""One search, whoever runs its candidates: one worker, two, processes started by hand, killed ones; Ray."""

import json
import os
import signal

import pytest

from shared.processes import finish, start, wait_until

PROGRAM = """
import json, os, signal, sys, time
import numpy as np
from drawstream import search_swift
from drawstream.pipeline.workers import Workers
from drawstream.search.swift import Guard, Proposals, Study
from drawstream.tools.runs import pick

rng = np.random.default_rng(0)
LOSS = rng.exponential(size=300).astype(np.float32)
COLUMNS = {"loss": LOSS, "entropy": rng.random(300, np.float32), "grad_norm": LOSS}

def objective(p, trial):
    with open(os.environ["JOURNAL"], "a") as file:
        file.write(f"{trial.stage} {trial.number} {os.getpid()}\\n")
    if sum(1 for _ in open(os.environ["JOURNAL"])) == int(os.environ["KILL"]):
        os.kill(os.getpid(), signal.SIGKILL)
    while len({line.split()[2] for line in open(os.environ["JOURNAL"])}) < int(os.environ["MEET"]):
        time.sleep(0.01)
    time.sleep(float(os.environ["PAUSE"]))
    return float(p[LOSS < 0.9].sum()) + 0.02 * np.random.default_rng(trial.seed).standard_normal()

if __name__ == "__main__":
    options = {"trials": 9, **json.loads(sys.argv[1])}
    kinds = {"proposals": Proposals, "guard": Guard, "workers": Workers, "study": Study}
    result = search_swift(COLUMNS, objective, **{name: pick(kind, options) for name, kind in kinds.items()})
    done = [r for r in result.trials if r.state == "complete"]
    print(json.dumps({
        "trials": [[r.number, r.params.values, r.params.ends, r.value] for r in done],
        "failed": [[r.number, r.note] for r in result.trials if r.state == "failed"],
        "confirmation": [[r.candidate, r.seed, r.value] for r in result.confirmation],
        "winner": result.sampler.params.values,
        "message": result.message,
    }))
"""


RANDOM = {"seed": 3, "agent": "random"}


def start_search(tmp_path, options, journal, pause=0.0, meet=1, kill=0):
    """Start a search whose runs wait until so many processes have written to the journal, then `pause` seconds.

    It is killed at the journal's line `kill`.
    """
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    environment = {"JOURNAL": str(journal), "PAUSE": str(pause), "MEET": str(meet), "KILL": str(kill)}
    command = ["-W", "error::UserWarning", program, json.dumps(options)]
    return start(*command, env=environment, process_group=0)


def found(process):
    """The result of a search, and the trials that failed."""
    out, error = finish(process)
    assert error == ""
    told = json.loads(out)
    return told, told.pop("failed")


def lines(journal):
    return [line.split() for line in journal.read_text().splitlines()] if journal.exists() else []


def wait_for(journal, runs):
    wait_until(lambda: len(lines(journal)) >= runs)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The result of one process with one worker, in memory."""
    folder = tmp_path_factory.mktemp("alone")
    return found(start_search(folder, RANDOM, folder / "journal"))[0]


@pytest.fixture(scope="module")
def modelled(tmp_path_factory):
    """The same, by the model."""
    folder = tmp_path_factory.mktemp("modelled")
    return found(start_search(folder, {"seed": 3}, folder / "journal"))[0]


def test_two_workers_and_two_processes_find_what_one_does(alone, tmp_path):
    journal = tmp_path / "journal"
    storage = f"sqlite:///{tmp_path / 'study.db'}"
    options = {**RANDOM, "storage": storage}
    processes = [start_search(tmp_path, options, journal, 0.05) for _ in range(2)]
    processes.append(start_search(tmp_path, {**RANDOM, "count": 2}, tmp_path / "journal of workers", meet=2))
    for process in processes:
        assert found(process)[0] == alone
    searched = [(number, pid) for stage, number, pid in lines(journal) if stage == "search"]
    assert sorted(int(number) for number, _ in searched) == sorted({int(n) for n, _ in searched}), "none ran twice"
    workers = {pid for _, _, pid in lines(tmp_path / "journal of workers")}
    assert len(workers) == 2 and str(processes[2].pid) not in workers


@pytest.mark.slow
def test_a_killed_worker_and_a_killed_parent_change_nothing(modelled, tmp_path):
    journal = tmp_path / "journal"
    options = {"seed": 3, "count": 2, "storage": f"sqlite:///{tmp_path / 'study.db'}"}
    first = start_search(tmp_path, options, journal, 0.5)
    wait_for(journal, 3)
    os.kill(int(lines(journal)[-1][2]), signal.SIGKILL)
    wait_for(journal, 6)
    first.kill()
    first.communicate()
    workers = {int(pid) for _, _, pid in lines(journal)}
    wait_until(lambda: not any(alive(pid) for pid in workers))  # they do not outlive their parent
    assert found(start_search(tmp_path, options, journal))[0] == modelled


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.slow
def test_processes_that_are_killed_leave_their_candidates_to_the_others(modelled, tmp_path):
    journal = tmp_path / "journal"
    options = {"seed": 3, "storage": f"sqlite:///{tmp_path / 'study.db'}"}
    processes = [start_search(tmp_path, options, journal, 0.3) for _ in range(3)]
    for runs, process in ((4, processes[0]), (7, processes[1])):
        wait_for(journal, runs)
        process.kill()
        process.communicate()
    assert found(processes[2])[0] == modelled


@pytest.mark.slow
def test_ray_finds_the_same(alone, tmp_path):
    pytest.importorskip("ray")
    process = start_search(tmp_path, {**RANDOM, "engine": "ray", "count": 2}, tmp_path / "journal")
    assert found(process)[0] == alone
    pids = {pid for _, _, pid in lines(tmp_path / "journal")}
    assert 1 <= len(pids) <= 2 and str(process.pid) not in pids  # the first may do all before the second has started


@pytest.mark.parametrize(
    ("agent", "killed"), [("random", [1, 5]), pytest.param("gp", [1, 6], marks=pytest.mark.slow)]
)  # one candidate of the model's is too uneven
def test_killed_and_started_again(tmp_path, agent, killed):
    journal, other = tmp_path / "journal", tmp_path / "journal of the whole"
    options = {"trials": 7, "agent": agent}
    stored = {**options, "storage": f"sqlite:///{tmp_path / 'study.db'}"}
    for kill in (2, 7, 12):  # at a designed start, at a proposal, in the confirmation
        finish(start_search(tmp_path, stored, journal, kill=kill), status=-signal.SIGKILL)
    resumed, failed = found(start_search(tmp_path, stored, journal))
    assert failed == [[number, "the process was killed while this trial ran"] for number in killed]
    whole, _ = found(start_search(tmp_path, options, other))
    for key in ("trials", "confirmation"):  # their numbers are others
        assert [each[1:] for each in resumed[key]] == [each[1:] for each in whole[key]]
    assert resumed["winner"] == whole["winner"]
    assert len(lines(journal)) == len(lines(other)) + 3  # each kill cost one run and no more
