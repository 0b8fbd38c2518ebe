"""The training loop on a GPU: selectors, mixed batches and learners as on the CPU."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from drawstream.pipeline.images import RICAP, Mixup
from drawstream.pipeline.shards.pack import pack
from drawstream.pipeline.sources import ArraySource
from drawstream.tools.training.loop import Recipe, train
from drawstream.tools.training.methods.plan import Budget, Inputs, LoopParts
from drawstream.tools.training.methods.table import METHODS
from drawstream.tools.training.setup import Setup

N = 640


@pytest.fixture(scope="module")
def catalog(tmp_path_factory):
    digits = load_digits()
    source = ArraySource((digits.images[:N] * 15.9375).astype(np.uint8), digits.target[:N])
    return pack(source, tmp_path_factory.mktemp("train") / "d").train


def go(catalog, device, name="unif", mix=None, epochs=3, lr=0.05, **options):
    setup = Setup(catalog, "mlp", global_batch=64, device=device)
    given = {"rows": N, "epochs": epochs, "budget": Budget(0.5), "seed": 3, "global_batch": 64}
    made = METHODS[name].plan(Inputs(name=name, column=lambda _: np.linspace(0, 2, N), **given))
    if name == "dlis":
        made.parts.selector.gain = 1e6
    loader = setup.training_loader()
    loader.replace_stream(made.stream)
    model = setup.build(3)
    parts = LoopParts(made.parts.learner, made.parts.selector, 64, made.parts.weighted, mix)
    run = train(model, loader, Recipe(made.epochs, lr), parts=parts, **options)
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
