"""A training that is broken off at given steps and started again; as a program under torchrun, or in this process.

    python preempted.py '{"catalog": …, "out": …, "names": ["p"], "breaks": [3, 5], "left": [4], …}'

It writes what each method's run gave to OUT/NAME.whole.pt and, broken off, to OUT/NAME.again.pt, what its steps did to
OUT/NAME.json, and where it was after `left` steps to OUT/NAME.left; the other entries are arguments of `run`.
"""

import json
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from drawstream.features import Tracker
from drawstream.samplers.orders import MixedStream
from drawstream.tools.training import Recipe, Setup, join_ranks, leave_ranks, train
from drawstream.tools.training.checkpoints import Saving
from drawstream.tools.training.methods import METHODS, Budget, Inputs, LoopParts, TrainingPlan
from drawstream.tools.training.methods.mixture import MixedLearner

try:
    from shared.counting import StepCounts
except ImportError:  # as a program
    from counting import StepCounts

EPOCHS, BATCH = 3, 24


class BrokenOffError(Exception):
    """The end of a process, without notice."""


class Double(nn.Sequential):
    """Computes in float64, so that ranks differ by its rounding alone."""

    def forward(self, images):
        return super().forward(images.double())


def plan(name, setup, epochs):
    """Draws of a method; `mixture` is of two sources, one of which learns."""
    rows, seed = len(setup.data), 5
    given = {"epochs": epochs, "seed": seed, "global_batch": BATCH}
    if name == "mixture":
        sizes = [member.rows for member in setup.data.members]
        parts = [
            METHODS[each].plan(Inputs(name=each, rows=n, **given)) for each, n in zip(("p", "unif"), sizes, strict=True)
        ]
        stream = MixedStream([each.stream for each in parts], [0.6, 0.4], seed=seed, draws=rows)
        return TrainingPlan(stream, epochs, LoopParts(MixedLearner({0: parts[0].parts.learner}, stream.offsets)))
    inputs = Inputs(
        name=name,
        rows=rows,
        budget=Budget(0.4),
        labels=lambda: setup.data.label,
        column=lambda _: np.linspace(0, 2, rows),
        **given,
    )
    made = METHODS[name].plan(inputs)
    if name == "dlis":
        made.parts.selector.gain = 1e6
    return made


def run(
    catalog,
    name,
    ranks,
    *,
    checkpoint=None,
    breaks=(),
    ends=True,
    dropout=0.2,
    every=2,
    loss=None,
    tracked=True,
    counts=None,
    **recipe,
):
    """Train, breaking off after each of these numbers of steps; what came of it, without times, if it `ends`."""
    for last in (*breaks, *([None] if ends else [])):
        # as a process does that begins, or one that has drawn other numbers before it goes on
        torch.manual_seed(99 if checkpoint is not None and checkpoint.exists() else 1)
        setup = Setup(catalog, "mlp", global_batch=BATCH, ranks=ranks, backend="pillow")
        made = plan(name.removesuffix("+bn"), setup, EPOCHS)
        norm = nn.BatchNorm1d if name.endswith("+bn") else nn.LayerNorm
        loader = setup.training_loader()
        loader.replace_stream(made.stream)
        layers = [nn.Flatten(), nn.Linear(64, 32), norm(32), nn.Dropout(dropout), nn.ReLU(), nn.Linear(32, 10)]
        with torch.random.fork_rng():
            torch.manual_seed(1)
            model = Double(*(each.apply(_reset) for each in layers)).double()
        criterion = None if loss is None else loss(model)
        parts = replace(made.parts, tracker=Tracker(loader.stream.rows, classes=10, grand=True) if tracked else None)
        parts = replace(parts, criterion=criterion)
        steps = []

        def step(done, steps=steps, last=last):
            steps.append(done)
            if counts is not None:
                counts.step(done)
            if len(steps) == last:
                raise BrokenOffError

        try:
            options = {"parts": parts, "ranks": ranks, "checkpoint": checkpoint, "on_step": step}
            with counts or nullcontext():
                found = train(model, loader, Recipe(made.epochs, 0.05, **recipe), **options, saving=Saving(steps=every))
        except BrokenOffError:
            ranks.wait()
            continue
        finally:
            loader.close()
        values = {f"model {key}": value for key, value in model.state_dict().items()}
        columns = parts.tracker.columns() if tracked else {}
        values |= {f"tracker {key}": torch.from_numpy(value) for key, value in columns.items()}
        losses = torch.tensor([epoch.loss for epoch in found.history])
        work = torch.tensor([[epoch.forward, epoch.backward] for epoch in found.history])
        values["statistics"] = torch.tensor(ranks.collect([float(value.double().sum()) for value in model.buffers()]))
        return values | {"losses": losses, "work": work, "counts": found.counts}
    return None


def _reset(layer):
    if hasattr(layer, "reset_parameters"):
        layer.reset_parameters()


def differing(one, other):
    """Names of what is not equal to the bit."""
    return [name for name in one if not torch.equal(one[name], other[name])]


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    group, out, catalog = join_ranks("cpu"), Path(given.pop("out")), given.pop("catalog")
    breaks, left = given.pop("breaks"), given.pop("left", [])
    for name in given.pop("names"):
        counts = StepCounts()
        whole = run(catalog, name, group, counts=counts, **given)
        again = run(catalog, name, group, checkpoint=out / f"{name}.again", breaks=breaks, **given)
        run(catalog, name, group, checkpoint=out / f"{name}.left", breaks=left, ends=False, **given)
        if group.writes:
            torch.save(whole, out / f"{name}.whole.pt")
            torch.save(again, out / f"{name}.again.pt")
            (out / f"{name}.json").write_text(json.dumps(counts.steps))
    leave_ranks()
