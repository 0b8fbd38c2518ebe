"""The training loop on a GPU: selectors, mixed batches and learners as on the CPU."""

import os
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from drawstream.features import Tracker
from drawstream.pipeline.images import RICAP, Mixup
from drawstream.tools.training.loop import Recipe, train
from drawstream.tools.training.methods.plan import Budget, Inputs, LoopParts
from drawstream.tools.training.methods.table import METHODS
from drawstream.tools.training.setup import Setup
from shared.samples import pack_digits

N = 640


@pytest.fixture(scope="module")
def catalog(tmp_path_factory):
    return pack_digits(tmp_path_factory.mktemp("train") / "d", N).train


def go(catalog, device, name="unif", mix=None, epochs=3, lr=0.05, recipe=None, **options):
    setup = Setup(catalog, "mlp", global_batch=64, device=device)
    given = {"rows": N, "epochs": epochs, "budget": Budget(0.5), "seed": 3, "global_batch": 64}
    made = METHODS[name].plan(Inputs(name=name, column=lambda _: np.linspace(0, 2, N), **given))
    if name == "dlis":
        made.parts.selector.gain = 1e6
    loader = setup.training_loader()
    loader.replace_stream(made.stream)
    model = setup.build(3)
    parts = LoopParts(made.parts.learner, made.parts.selector, 64, made.parts.weighted, mix)
    run = train(model, loader, Recipe(made.epochs, lr, **(recipe or {})), parts=parts, **options)
    return run, [parameter.detach().cpu() for parameter in model.parameters()]


@pytest.mark.parametrize("name", ["p", "infobatch", "sb", "osgd", "dlis", "rho"])
def test_a_method_does_the_work_that_it_does_on_the_cpu(catalog, name):
    run, _ = go(catalog, "gpu", name, lr=1e-9)  # nothing is learnt, so that rounding changes hardly a choice
    expected, _ = go(catalog, "cpu", name, lr=1e-9)
    assert run.counts.device.type == "cpu"
    assert int((run.counts - expected.counts).abs().sum()) <= 0.02 * int(expected.counts.sum())
    assert run.forward == pytest.approx(expected.forward, rel=0.05)
    assert run.backward == pytest.approx(expected.backward, rel=0.05)


@pytest.mark.parametrize("mix", [Mixup(seed=2), RICAP(seed=2)])
def test_mixed_batches_train_as_on_the_cpu(catalog, mix):
    run, weights = go(catalog, "gpu", mix=mix)
    expected, others = go(catalog, "cpu", mix=mix)
    np.testing.assert_allclose([e.loss for e in run.history], [e.loss for e in expected.history], rtol=1e-3)
    for a, b in zip(weights, others, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("name", ["p", "sb", "osgd"])
def test_a_stopped_run_on_the_gpu_goes_on_with_its_queue(catalog, tmp_path, name):
    class StopError(Exception):
        pass

    def leave(epoch):
        if epoch.epoch == 0:
            raise StopError

    whole, expected = go(catalog, "gpu", name, mix=Mixup(seed=1))
    with pytest.raises(StopError):
        go(catalog, "gpu", name, mix=Mixup(seed=1), checkpoint=tmp_path / "c.pt", on_epoch=leave)
    resumed, weights = go(catalog, "gpu", name, mix=Mixup(seed=1), checkpoint=tmp_path / "c.pt")
    assert [e.backward for e in resumed.history] == [e.backward for e in whole.history]
    for a, b in zip(weights, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


# The tracker on logits of a GPU: the state is that of the same logits on the CPU, and no batch is waited for


ROWS = 500


def follow(device, ids_device):
    tracker, rng = Tracker(ROWS), torch.Generator().manual_seed(0)
    for epoch in range(2):
        tracker.set_epoch(epoch)
        for _ in range(20):
            ids = torch.randint(0, ROWS, (64,), generator=rng)
            labels = torch.randint(0, 10, (64,), generator=rng)
            weights = (torch.rand(64, generator=rng) > 0.1).float()
            logits = torch.randn(64, 10, generator=rng).to(device)
            around = (value.to(ids_device) for value in (ids, labels, weights))
            ids, labels, weights = around
            tracker.observe(ids, logits, labels, weights)
            for used in (ids, logits, labels):  # as a step under CUDA graphs writes its next batch over them
                used.zero_()
            assert len(tracker._copies._pending) <= 4
        tracker.reduce()
        assert not tracker._copies._pending
    return tracker.state_dict()["tensors"]


@pytest.mark.parametrize("ids_device", ["cuda", "cpu"])
def test_a_gpu_gives_the_state_of_the_cpu(ids_device):
    expected = follow("cpu", "cpu")
    assert all(value.equal(expected[name]) for name, value in follow("cuda", ids_device).items())


def test_a_full_queue_does_not_block_a_step():
    tracker = Tracker(ROWS)
    tracker.set_epoch(0)
    torch.cuda._sleep(2_000_000_000)  # the GPU is busy for about a second
    for _ in range(4):
        tracker.observe(torch.arange(64), torch.zeros(64, 10, device="cuda"), torch.zeros(64, dtype=torch.int64))
    assert len(tracker._copies._pending) == 4
    tracker.reduce()
    assert tracker.columns()["seen"].sum() == 4 * 64


def test_bad_ids_are_found_at_the_latest_in_reduce():
    tracker = Tracker(ROWS)
    tracker.set_epoch(0)
    with pytest.raises(ValueError, match=r"ids must lie in \[0, 500\), but got 500"):
        tracker.observe(torch.tensor([500]).cuda(), torch.zeros(1, 3).cuda(), torch.tensor([0]).cuda())
        tracker.reduce()


# The loop of timm's parts: it trains beside the uniform control, and goes on where it was killed


def run(*command, cwd):
    done = subprocess.run(
        [sys.executable, "-m", *(str(each) for each in command)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=600,
        env=os.environ,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_timm_loop(tmp_path):
    pytest.importorskip("timm", reason="needs timm and the torchvision that belongs to torch")
    rng = np.random.default_rng(0)
    for row in range(96):
        folder = tmp_path / "raw" / f"class{row % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 128, (96, 128, 3), dtype=np.uint8) + np.uint8(127 * (row % 2))
        Image.fromarray(pixels).save(folder / f"{row}.jpg")
    run("drawstream.tools.cli.app", "pack", "raw", "data", "--holdout", 32, cwd=tmp_path)
    np.save(tmp_path / "p.npy", rng.random(64))
    options = ("data/train", "--held-out", "data/holdout", "--model", "test_resnet", "--size", 64, "--batch-size", 8)
    command = ("drawstream.tools.examples.timm_loop", *options, "--epochs", 3, "--weights", "p.npy")
    whole = run(*command, "--out", "whole", cwd=tmp_path)
    assert re.findall(r"^(\w+): held-out top-1 [\d.]+ % after 3 epochs$", whole, re.MULTILINE) == [
        "uniform",
        "weighted",
    ]
    run(*command, "--out", "cut", "--stop-after", 10, cwd=tmp_path)
    again = run(*command, "--out", "cut", cwd=tmp_path)
    assert (
        "epoch 0" not in again.split("uniform:")[0] and "epoch 1" in again
    )  # GPU sums differ between runs: no more than that


@pytest.mark.parametrize(
    ("name", "mix", "recipe"),
    [
        ("unif", None, {}),
        ("unif", None, {"ema": 0.9, "clip_grad": 1.0, "accumulate": 2}),
        ("unif", None, {"amp": "fp16"}),
        ("unif", Mixup(seed=2), {}),
        ("unif", RICAP(seed=2), {}),
        ("p", None, {}),
        ("infobatch", None, {}),
    ],
)
def test_no_step_waits_for_the_gpu(catalog, name, mix, recipe):
    """From the second step of an epoch to its last nothing is read back, and no copy is made of pageable memory."""
    steps = []

    def step(done):
        steps.append(done)
        torch.cuda.set_sync_debug_mode("error" if 0 < done % 1 < 1 else "default")

    try:
        go(catalog, "gpu", name, mix, recipe=recipe, on_step=step)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len(steps) > 10
