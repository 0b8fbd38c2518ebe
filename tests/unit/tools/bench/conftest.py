"""A small plan on 400 digits, cells of it, and trainings that are killed."""

from dataclasses import replace

import pytest

from drawstream.tools import demo
from drawstream.tools.bench.noise import grid as noise_grid
from drawstream.tools.bench.noise.cell import NoiseCell
from drawstream.tools.jobs import train as jobs
from drawstream.tools.training.loop import Recipe


@pytest.fixture(scope="session")
def shrink():
    """Sets the plan of digits: 3 epochs, 5 candidates, and what is given."""

    def change(patch, **changes):
        small = {"limit": 500, "holdout": 100, "recipe": Recipe(3, 0.05), "confirm_top": 1}
        small |= {"fine_tune": Recipe(1, 0.02), "confirm": Recipe(1, 0.02)}
        patch.setitem(demo.PLANS, "digits", replace(demo.PLANS["digits"], **{**small, **changes}))
        patch.setitem(noise_grid.CHANGED, "digits", {"trials": 5, "confirm_seeds": 2})

    return change


@pytest.fixture
def cell(tmp_path):
    """Makes the cell of a noise level and seed, with its data."""

    def make(noise=0.4, seed=0):
        made = NoiseCell(tmp_path, demo.PLANS["digits"], noise, seed)
        made.pack("digits", None)
        return made

    return make


class Killer:
    """Trainings of cells; that of number `at` is killed after its second epoch."""

    def __init__(self, at):
        self.at, self.calls, self.train = at, 0, jobs.train

    def __call__(self, *arguments, on_epoch, **keywords):
        self.calls += 1

        def stop(epoch):
            on_epoch(epoch)
            if self.calls == self.at and epoch.epoch == 1:
                raise KeyboardInterrupt

        return self.train(*arguments, on_epoch=stop, **keywords)


@pytest.fixture
def goes_on(tmp_path, monkeypatch):
    """Checks that a benchmark whose training of number `at` is killed ends with the rows of an undisturbed one."""

    def check(run, numbers, at):
        whole = run(tmp_path / "whole")
        killer = Killer(at)
        monkeypatch.setattr(jobs, "train", killer)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "part")
        assert killer.calls == at
        resumed = run(tmp_path / "part")
        assert numbers(resumed) == numbers(whole)
        killer.calls = 0
        assert run(tmp_path / "part")["rows"] == resumed["rows"]
        assert killer.calls == 0  # what is finished is read

    return check
