"""Studies: whose trials are orphans, objectives by name and their errors, checkpoints that are whole."""

import errno
import resource
import subprocess
import sys

import numpy as np
import optuna
import pytest
import torch
from optuna.trial import TrialState, create_trial
from sqlalchemy.exc import OperationalError

from drawstream.search import ObjectiveError, Trial, load_objective
from drawstream.search.objective import evaluate
from drawstream.search.swift.study import StorageError, fail_orphans, open_study, owner
from drawstream.search.tensor_file import load_tensors, save_tensors
from shared.refusals import refused


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


def test_trials_of_ended_processes_fail_even_if_their_number_is_taken_again_and_others_go_on(gone):
    machine, process, start = owner()
    assert states(running([machine, process, start]), running(["elsewhere", gone, "7"])) == [TrialState.RUNNING] * 2
    assert states(running([machine, gone, "7"]), running([machine, process, "7"])) == [TrialState.FAIL] * 2


def test_a_function_of_the_working_folder_is_found(tmp_path, monkeypatch):
    (tmp_path / "objective_in_cwd.py").write_text("def score(p, trial):\n    return p[0] + trial.number\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    objective = load_objective("objective_in_cwd:score")
    assert evaluate(objective, np.array([0.25, 0.75]), Trial(2, 0, "search")) == 2.25


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        ("module", "objective must be module:factory, but got 'module'"),
        (":f", "must be module:factory"),
        ("module:", "must be module:factory"),
        ("no_such_module_here:f", "'no_such_module_here:f' cannot be imported: ModuleNotFoundError: No module named"),
        ("math:no_such", "cannot be imported: AttributeError: .*no_such"),
        ("math:pi", "must name a factory, but pi is float"),
    ],
)
def test_bad_names(spec, text):
    refused(text, load_objective, spec)


def test_what_an_objective_raises_names_the_trial():
    def broken(p, trial):
        raise RuntimeError("out of memory\nlong trace")

    with pytest.raises(ObjectiveError, match=r"trial 4 \(stage 'confirm', seed 9\): RuntimeError: out of memory; the"):
        evaluate(broken, np.ones(1), Trial(4, 9, "confirm"))
    refused("TypeError", lambda: evaluate(lambda p, t: None, np.ones(1), Trial(0, 0, "search")), error=ObjectiveError)


def test_an_objective_may_work_in_place():
    p = np.full(4, 0.25)

    def halve(own, trial):
        own /= 2
        return own.sum()

    assert evaluate(halve, p, Trial(0, 0, "search")) == 0.5
    assert p.sum() == 1


CONTENT = {"a": torch.arange(4000.0), "b": [1, "x"]}


def test_values_come_back(tmp_path):
    save_tensors(tmp_path / "c.pt", CONTENT)
    found = load_tensors(tmp_path / "c.pt")
    assert torch.equal(found["a"], CONTENT["a"]) and found["b"] == [1, "x"]


def test_a_full_disk_is_an_error_of_the_system_and_keeps_the_old_file(tmp_path):
    path = tmp_path / "c.pt"
    save_tensors(path, {"a": 1})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (6000, hard))
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            save_tensors(path, CONTENT)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.errno == errno.EFBIG and caught.value.filename == str(path)
    assert load_tensors(path) == {"a": 1} and list(tmp_path.iterdir()) == [path]


def test_a_flipped_bit_of_a_tensor_and_code_are_refused(tmp_path):
    path = tmp_path / "c.pt"
    save_tensors(path, CONTENT)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    refused(r"c\.pt: not a readable checkpoint", load_tensors, path)
    torch.save({"a": test_values_come_back}, path)
    refused(r"c\.pt: not a readable checkpoint", load_tensors, path)
    torch.save([1], path)
    refused("no table of values", load_tensors, path)


def fail(text):
    raise OperationalError("UPDATE", {}, Exception(text))


def test_a_failing_database_is_one_line(tmp_path):
    storage = f"sqlite:///{tmp_path / 's.db'}"
    with (
        pytest.raises(StorageError, match=r"s\.db' cannot be read or written: .*: is it whole"),
        open_study(storage, "s", {}),
    ):
        fail("disk I/O error")
    with pytest.raises(OSError, match="No space left") as caught, open_study(storage, "s", {}):
        fail("database or disk is full")
    assert caught.value.filename == str(tmp_path / "s.db")
    with pytest.raises(KeyError), open_study(storage, "s", {}):
        raise KeyError("ours")
