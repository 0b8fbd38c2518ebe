"""Objectives by name, and their errors."""

import sys

import numpy as np
import pytest

from drawstream.search import ObjectiveError, Trial, load_objective
from drawstream.search.objective import evaluate


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
    with pytest.raises(ValueError, match=text):
        load_objective(spec)


def test_what_an_objective_raises_names_the_trial():
    def broken(p, trial):
        raise RuntimeError("out of memory\nlong trace")

    with pytest.raises(ObjectiveError, match=r"trial 4 \(stage 'confirm', seed 9\): RuntimeError: out of memory; the"):
        evaluate(broken, np.ones(1), Trial(4, 9, "confirm"))
    with pytest.raises(ObjectiveError, match="TypeError"):
        evaluate(lambda p, t: None, np.ones(1), Trial(0, 0, "search"))


def test_an_objective_may_work_in_place():
    p = np.full(4, 0.25)

    def halve(own, trial):
        own /= 2
        return own.sum()

    assert evaluate(halve, p, Trial(0, 0, "search")) == 0.5
    assert p.sum() == 1
