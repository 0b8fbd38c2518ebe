"""Methods of budgeted training on two processes: the rows, steps and weights of one."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from sklearn.datasets import load_digits

from drawstream.pipeline.shards.pack import pack
from drawstream.pipeline.sources import ArraySource

METHODS = ("p", "sb", "osgd", "first")
MORE = ("infobatch", "dlis", "rho")
SCRIPT = """
import json, sys
from pathlib import Path

import numpy as np
import torch

from drawstream import IndexStream, Selected
from drawstream.tools.training.methods.plan import Budget, Inputs, LoopParts, TrainingPlan
from drawstream.tools.training.methods.table import METHODS
from drawstream.tools.training.ranks import join_ranks, leave_ranks
from drawstream.tools.training.setup import Setup
from drawstream.tools.training.loop import Recipe, train


class Double(torch.nn.Sequential):  # sums of another order must not change a choice
    def forward(self, images):
        return super().forward(images.double())


class First:  # leaves the second rank without a row
    factor, scores, before = 2, "loss", True

    def select(self, scores, /, *, epoch, step, ids):
        return Selected(np.arange(3), np.ones(3, np.float32))

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


class StopError(Exception):
    pass


catalog, out, names = sys.argv[1], Path(sys.argv[2]), sys.argv[3].split(",")
ranks = join_ranks("cpu")
setup = Setup(catalog, "mlp", global_batch=24, ranks=ranks)
N = len(setup.data)
given = {"rows": N, "epochs": 3, "budget": Budget(0.4), "seed": 5, "global_batch": 24}
found = {}
for name in names:
    for stop in (False, True):
        def start():
            if name == "first":
                made = TrainingPlan(IndexStream(N, seed=5), 3, LoopParts(selector=First(), global_batch=24))
            else:
                made = METHODS[name].plan(Inputs(name=name, column=lambda _: np.linspace(0, 2, N), **given))
            if name == "dlis":
                made.parts.selector.gain = 1e6
            loader = setup.training_loader()
            loader.replace_stream(made.stream)
            torch.manual_seed(1)
            model = Double(torch.nn.Flatten(), torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 10))
            return model.double(), loader, Recipe(made.epochs, 0.05), made.parts

        def leave(epoch):
            if epoch.epoch == 0:
                raise StopError

        checkpoint = out / f"{name}.pt" if stop else None
        if stop:
            try:
                model, loader, recipe, parts = start()
                train(model, loader, recipe, parts=parts, ranks=ranks, checkpoint=checkpoint, on_epoch=leave)
            except StopError:
                ranks.wait()
        model, loader, recipe, parts = start()
        steps = []
        model.register_full_backward_hook(lambda *_: steps.append(1))
        run = train(model, loader, recipe, parts=parts, ranks=ranks, checkpoint=checkpoint)
        found[f"{name}-resumed" if stop else name] = {
            "counts": run.counts.tolist(),
            "work": [[epoch.forward, epoch.backward] for epoch in run.history],
            "loss": [epoch.loss for epoch in run.history],
            "steps": ranks.gather(len(steps)),
            "weights": torch.cat([p.detach().flatten() for p in model.parameters()]).tolist(),
        }
        ranks.wait()
if ranks.writes:
    (out / "found.json").write_text(json.dumps(found))
leave_ranks()
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    digits = load_digits()
    images, labels = np.round(digits.images * 15).astype(np.uint8), digits.target.astype(np.int64)
    return pack(ArraySource(images[:221], labels[:221]), tmp_path_factory.mktemp("digits") / "data").train


def launch(data, tmp_path_factory, methods):
    """What one and two processes find, by method."""
    found = []
    for processes in (1, 2):
        out = tmp_path_factory.mktemp(f"ranks-{processes}")
        (out / "train.py").write_text(SCRIPT)
        ranks = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        command = [sys.executable, *(ranks if processes > 1 else []), out / "train.py", data, out, ",".join(methods)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [str(part) for part in command], capture_output=True, text=True, env=environment, timeout=180
        )
        assert done.returncode == 0, done.stderr
        found.append(json.loads((out / "found.json").read_text()))
    return found


def check(found, name):
    alone, shared = (each[name] for each in found)
    assert shared["counts"] == alone["counts"]
    assert len(set(shared["steps"])) == 1
    np.testing.assert_allclose(shared["weights"], alone["weights"], rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(shared["loss"], alone["loss"], rtol=0.05)  # fill counts in what is reported
    for (forward, backward), (own, back) in zip(shared["work"], alone["work"], strict=True):
        fill = sum(shared["steps"][:1]) + 24
        assert 0 <= forward - own <= fill and 0 <= backward - back <= fill
    for each in found:  # `steps` of the second part alone differ
        whole, resumed = ({k: v for k, v in each[key].items() if k != "steps"} for key in (name, f"{name}-resumed"))
        assert resumed == whole


@pytest.fixture(scope="module")
def found(data, tmp_path_factory):
    return launch(data, tmp_path_factory, METHODS)


@pytest.mark.parametrize("name", METHODS)
def test_two_ranks_choose_train_and_resume_as_one(found, name):
    check(found, name)


@pytest.mark.slow
def test_two_ranks_with_the_other_methods(data, tmp_path_factory):
    found = launch(data, tmp_path_factory, MORE)
    for name in MORE:
        check(found, name)
