"""Whose trials are orphans: what a resumed search may fail, and what it must leave to other workers."""

import os
import subprocess
import sys

import optuna
import pytest
from optuna.trial import TrialState, create_trial

from drawstream.search.swift.study import fail_orphans, owner


def running(owner):
    return create_trial(state=TrialState.RUNNING, user_attrs={"owner": owner})


@pytest.fixture
def gone():
    """Number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def states(*trials):
    study = optuna.create_study()
    study.add_trials(trials)
    fail_orphans(study)
    return [trial.state for trial in study.get_trials(deepcopy=False)]


def test_trials_of_living_processes_and_other_machines_go_on(gone):
    machine, _, start = owner()
    assert states(running([machine, os.getpid(), start]), running(["elsewhere", gone, "7"])) == [TrialState.RUNNING] * 2


def test_trials_of_ended_processes_fail_even_if_their_number_is_taken_again(gone):
    machine, process, _ = owner()
    assert states(running([machine, gone, "7"]), running([machine, process, "7"])) == [TrialState.FAIL] * 2
