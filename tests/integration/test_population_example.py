"""The example of a child of one's own runs as its docstring says, and its children hand on all of their state."""

import copy
import runpy
import sys

import numpy as np
import torch

from drawstream.tools.examples import population


def test_a_clone_goes_on_as_its_parent_would_have():
    train, held_out, _ = population.digits(0.4, seed=0)
    first, second = np.random.default_rng(0).integers(0, 1097, (2, 5 * 32))
    parent, clone = (population.Member(train, held_out, 10, seed) for seed in (0, 1))
    parent.train(first)
    clone.train(second)
    clone.load_state_dict(copy.deepcopy(parent.state_dict()))  # as `InTurn` does: optimizers keep what they are given
    parent.train(second)
    clone.train(second)
    for mine, theirs in zip(parent.model.parameters(), clone.model.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_a_short_run(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["population", "--epochs", "2", "--children", "2", "--seeds", "1"])
    runpy.run_path(population.__file__, run_name="__main__")
    shown = capsys.readouterr().out
    assert "8 intervals, 2 children; replayed, the weights are the same" in shown
    reached = {line.split()[2]: float(line.split()[-2]) for line in shown.splitlines() if "test accuracy" in line}
    assert set(reached) == {"uniform", "replayed"}
    assert all(10 < value < 100 for value in reached.values())
