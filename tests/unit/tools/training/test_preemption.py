"""A training that is broken off within an epoch and started again ends as if nothing had happened, to the bit."""

import signal

import numpy as np
import pytest
import torch

from drawstream.tools.training import Ranks, Recipe, Setup, train
from drawstream.tools.training.checkpoints import Saving, Stopped
from drawstream.tools.training.methods import LearnedWeights
from drawstream.tools.training.methods.mentornet import MentorNet
from drawstream.tools.training.methods.robust import SelfPaced
from shared.counting import StepCounts
from shared.preempted import differing, run
from shared.refusals import refused
from shared.samples import pack_digits


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    return pack_digits(tmp_path_factory.mktemp("digits") / "data", 221, holdout=40)


@pytest.fixture
def few(both):
    return both.train


CASES = {
    "unif+bn": {"ema": 0.9, "every": 1},
    "p": {"optimizer": "adamw", "accumulate": 2},
    "sb": {"ema": 0.9},
    "infobatch": {},
    "osgd": {},
    "dlis": {},
    "mixture": {},
    "clean": {},
}


@pytest.mark.parametrize("name", CASES)
def test_broken_off_within_epochs_nothing_changes(both, tmp_path, name):
    data = (both.train, both.holdout) if name == "mixture" else both.train
    whole = run(data, name, Ranks(), **CASES[name])
    breaks = np.random.default_rng(len(name)).integers(3, 8, 3).tolist()
    again = run(data, name, Ranks(), checkpoint=tmp_path / "checkpoint.pt", breaks=breaks, **CASES[name])
    assert differing(whole, again) == []


TRUSTED = torch.rand(30, 1, 8, 8), torch.arange(30) % 10
LOSSES = {
    "l2rw": lambda model: LearnedWeights(model, *TRUSTED, batch_size=8, seed=0),
    "mentornet-pd": lambda _: SelfPaced(burn_in=1),
    "mentornet-dd": lambda model: MentorNet(model, *TRUSTED, rows=181, classes=10, epochs=3, seed=0),
}


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_that_learns_goes_on_within_an_epoch(few, tmp_path, name):
    whole = run(few, "unif", Ranks(), loss=LOSSES[name])
    again = run(few, "unif", Ranks(), loss=LOSSES[name], checkpoint=tmp_path / "checkpoint.pt", breaks=[3, 5])
    assert differing(whole, again) == []


def test_broken_off_after_each_step(few, tmp_path):
    """At the last step of an epoch too, with rows of selective backprop that wait for the next one."""
    whole = run(few, "sb", Ranks())
    again = run(few, "sb", Ranks(), checkpoint=tmp_path / "checkpoint.pt", breaks=[2] * 13, every=1)
    assert differing(whole, again) == []


def job(few, checkpoint, **options):
    """Three epochs of eight steps of a small net; its weights."""
    setup = Setup(few, "mlp", global_batch=24, backend="pillow")
    model, loader = setup.build(0), setup.training_loader()
    try:
        train(model, loader, Recipe(3), checkpoint=checkpoint, **options)
    finally:
        loader.close()
    return model.state_dict()


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGUSR1, 75)])
def test_a_signal_saves_after_the_step_and_ends(few, tmp_path, number, status):
    path, steps = tmp_path / "checkpoint.pt", []

    def step(done):
        steps.append(done)
        if len(steps) == 14:
            signal.raise_signal(number)

    usual = signal.getsignal(number)
    with pytest.raises(Stopped, match=r"epoch 2 of 3, step 6 of 8, is saved in .*checkpoint.pt") as stopped:
        job(few, path, on_step=step, saving=Saving(signals=True))
    assert stopped.value.code == status and len(steps) == 14
    assert signal.getsignal(number) == usual
    again = job(few, path, on_step=steps.append)
    assert len(steps) == 24
    whole = job(few, None)
    assert differing(whole, again) == []


def test_the_second_signal_ends_at_once(few, tmp_path):
    def step(_):
        for _ in range(2):
            signal.raise_signal(signal.SIGTERM)

    def end(number, _frame):
        raise KeyboardInterrupt

    usual = signal.signal(signal.SIGTERM, end)
    try:
        with pytest.raises(KeyboardInterrupt):
            job(few, tmp_path / "checkpoint.pt", on_step=step, saving=Saving(signals=True))
    finally:
        signal.signal(signal.SIGTERM, usual)
    assert not (tmp_path / "checkpoint.pt").exists()


def test_a_time_limit_ends_after_the_step(few, tmp_path):
    """This process is older than the limit, so each start does one step."""
    path, steps = tmp_path / "checkpoint.pt", []
    for number in range(1, 4):
        with pytest.raises(Stopped, match=f"step {number} of 8") as stopped:
            job(few, path, on_step=steps.append, saving=Saving(longest=1e-3))
        assert stopped.value.code == 75
    assert len(steps) == 3
    again = job(few, path)
    assert differing(job(few, None), again) == []


def test_the_last_two_are_kept_and_a_damaged_one_is_passed_over(few, tmp_path, capsys):
    path = tmp_path / "checkpoint.pt"

    def stop(done):
        if done > 1.5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        job(few, path, on_step=stop, saving=Saving(steps=2))
    assert sorted(each.name for each in tmp_path.iterdir()) == ["checkpoint.pt", "checkpoint.pt.1"]
    at = [torch.load(each, weights_only=True)["parts"]["epoch"]["at"] for each in (path.with_suffix(".pt.1"), path)]
    assert at == [2, 4]
    path.write_bytes(path.read_bytes()[:-100])
    again = job(few, path)
    assert "checkpoint.pt: not a readable checkpoint" in (told := capsys.readouterr().err) and "pt.1" in told
    path.unlink()
    assert differing(job(few, None), again) == []


def test_times_and_steps_are_read():
    assert Saving.of("500", "3h30m", signals=False) == Saving(steps=500, longest=12600)
    assert Saving.of("1h30s", None, signals=True) == Saving(seconds=3630, signals=True)
    assert Saving.of(None, "1.5m", signals=False).longest == 90
    for text in ("0", "10", "0m", "m", "10 m", "-1m", "1m2h", "1d"):
        if text != "10":
            refused(r"--save-every", Saving.of, text, None, signals=False)
        refused(rf"`--max-time` must be a time as 3h30m, but got '{text}'", Saving.of, None, text, signals=False)


CONTROL = ("unif", {}), ("unif", {"accumulate": 2}), ("unif", {"ema": 0.9, "clip_grad": 1.0, "amp": "bf16"})


@pytest.mark.parametrize(("name", "recipe"), [*CONTROL, ("scan", {}), ("infobatch", {}), ("p", {})])
def test_a_step_waits_for_nothing(few, name, recipe):
    """No number is read from the device and no row is chosen by a condition; what learns reads its copies alone."""
    counts = StepCounts()
    run(few, name, Ranks(), counts=counts, tracked=False, **recipe)
    copies = {"cpu", "numpy"} if name in ("infobatch", "p") else set()
    steps = StepCounts.inner(counts.steps)
    assert len(steps) >= 5 and [each for each in steps if each.keys() - copies] == []


def test_the_counts_see_what_waits():
    counts, values = StepCounts(), torch.arange(4.0)
    with counts:
        values[values > 1].sum().item()
        bool(values.any())
        counts.step(0.5)
    assert {"boolean index", "item", "__bool__", "aten._local_scalar_dense.default"} <= counts.steps[0][1].keys()
