"""Trainings of several ranks that are broken off, and commands that are stopped by signals and time limits."""

import json
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from drawstream.tools.training import Ranks
from shared.counting import StepCounts
from shared.preempted import differing
from shared.preempted import run as resume
from shared.processes import finish, run, start, torchrun, wait_until
from shared.programs import cli
from shared.samples import pack_digits

PROGRAM = Path(__file__).parents[1] / "shared/preempted.py"


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    return pack_digits(tmp_path_factory.mktemp("digits") / "data", 221).train


def results(few, out, ranks, names, **options):
    """What the program gave for each method: the whole run, the one that was broken off, and its steps."""
    run(*torchrun(ranks, PROGRAM, json.dumps({"catalog": str(few), "out": str(out), "names": names, **options})))
    found = [(torch.load(out / f"{name}.whole.pt"), torch.load(out / f"{name}.again.pt")) for name in names]
    steps = {name: StepCounts.inner(json.loads((out / f"{name}.json").read_text())) for name in names}
    return dict(zip(names, found, strict=True)), steps


def check(one, other):
    """Rows are the same, sums differ by the rounding of float64."""
    for key, value in one.items():
        if key in ("counts", "tracker seen", "tracker last_epoch", "tracker forgetting"):
            assert torch.equal(value, other[key]), key
        elif key not in ("work", "statistics"):  # fill goes forward too
            torch.testing.assert_close(other[key], value, rtol=1e-5, atol=1e-7)


DDP = {"c10d.allreduce_.default": 1}  # the gradient, of a model without buffers
SCORES = "c10d._allgather_base_.default"
NAMES = ("unif", "p", "sb", "infobatch", "osgd")
NORMED = "unif+bn"  # BatchNorm, whose statistics each rank takes of its own rows


def test_two_ranks_that_are_broken_off_end_as_if_they_were_not(few, tmp_path):
    """One rank goes on with the same rows too; no step has a collective call beside DDP's and a selector's scores."""
    found, steps = results(few, tmp_path, 2, (*NAMES, NORMED), breaks=[3, 5], left=[5], dropout=0)
    assert {name: differing(*both) for name, both in found.items()} == {name: [] for name in found}
    (normed, _), _ = found.pop(NORMED), steps.pop(NORMED)
    assert len(normed["statistics"]) == 2 and torch.equal(*normed["statistics"])  # the mean of both, before evaluation
    for name, (whole, _) in found.items():
        check(whole, resume(few, name, Ranks(), checkpoint=tmp_path / f"{name}.left", dropout=0))
    for name, counts in steps.items():
        calls = [{key: value for key, value in each.items() if key.startswith("c10d")} for each in counts]
        assert calls, name
        if name in ("sb", "osgd"):
            assert all(each.pop(SCORES, 0) <= 4 for each in calls), name  # selective backprop scores a few batches
        assert [each for each in calls if each != DDP] == [], name


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [3, 4])
def test_more_ranks_that_are_broken_off_end_as_if_they_were_not(few, tmp_path, ranks):
    names = (*NAMES, NORMED, "dlis", "rho", "rais")
    found, _ = results(few, tmp_path, ranks, names, breaks=[3, 5, 7], left=[3, 4], dropout=0, ema=0.9)
    assert {name: differing(*both) for name, both in found.items()} == {name: [] for name in names}
    for name, (whole, _) in found.items():
        if name != NORMED:
            check(whole, resume(few, name, Ranks(), checkpoint=tmp_path / f"{name}.left", dropout=0, ema=0.9))


@pytest.mark.parametrize("ranks", [1, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.usefixtures("one_thread")
def test_a_command_goes_on_after_a_signal(few, tmp_path, ranks):
    """A stopped training says where it stands; torchrun passes SIGTERM on, and has an exit status of its own."""

    def command(name):
        words = ["train", few, "-o", tmp_path / name, "--model", "mlp", "--epochs", 60, "--global-batch", 24]
        return [*words, "--sampler", "p", "--ema", 0.9, "--track", tmp_path / "tracked" / name, "--backend", "pillow"]

    def end(name):
        if ranks == 1:
            cli(*command(name))
        else:
            run(*torchrun(ranks, "-m", "drawstream.tools.cli", *command(name)))

    end("whole")
    again, words = tmp_path / "again", ["-m", "drawstream.tools.cli", *command("again")]
    running = start(*(torchrun(ranks, *words) if ranks > 1 else words))
    wait_until((again / "checkpoint.pt").exists)
    running.send_signal(signal.SIGTERM if ranks > 1 else signal.SIGUSR1)
    _, told = finish(running, status=1 if ranks > 1 else 75)
    assert "of 60, step " in told and "start the same command again to go on" in told
    assert not (again / "run.json").exists()
    end("again")
    assert differing(*(load_file(tmp_path / name / "last.safetensors") for name in ("whole", "again"))) == []
    assert {each.name for each in again.iterdir()} == {each.name for each in (tmp_path / "whole").iterdir()}
