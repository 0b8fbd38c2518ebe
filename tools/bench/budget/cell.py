"""One run of the budget benchmark: what all runs share, and how a point of the grid is trained.

    OUT/data, OUT/test                          catalogs of a named data set
    OUT/AUGMENT-SCHEDULE/METHOD-B/seed-S/       run.json of a finished run, checkpoint.pt of an unfinished one
A run depends on its point and on what all runs share, not on the process that made it or on how many there were: each
has the same number of torch threads, as sums of floating-point numbers differ with it.
"""

import math
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from drawstream.pipeline.shards import Catalog
from drawstream.samplers.methods import CSGD, DLIS, PSGD, RAIS, InfoBatch, OrderedSGD, RHOLoss, SelectiveBackprop
from drawstream.samplers.orders import IndexStream
from drawstream.tools.jobs import FeaturesJob, TrainingJob, features_job, train_job
from drawstream.tools.runs import read_record, use_config
from drawstream.tools.training import Device, Framing, Recipe, Setup, flush_denormals
from drawstream.tools.training.methods import METHODS as TABLE
from drawstream.tools.training.methods import Budget, Sampling

__all__ = ["CONTROL", "FULL", "IRREDUCIBLE", "METHODS", "SCHEDULES", "Common", "Point", "Task", "finished", "run_point"]

CONTROL, FULL = "unif", "full"
METHODS = tuple(
    name
    for name, each in TABLE.items()
    if each.build and each.budgeted and not each.loss and each.given in ("name", "bench")
)
SCHEDULES = ("linear", "step")
IRREDUCIBLE = "irreducible"  # the run that `rho` needs; no method
VARIANTS: dict[str, dict[str, Any]] = {  # endings of the variants of p and c, and their options
    "-paper": {"paper": True},  # the paper's text
    "-no-smoothing": {"smoothing": False},  # Fig. 1c, d
    "-last": {"last_only": True},
}

Record = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Point:
    """One run: what differs between runs.

    Attributes:
        method: Of `METHODS`; `full` is uniform training at B = 1.
        budget: B in (0, 1].
        augment: Name of an augmentation.
        schedule: Of the learning rate.
        seed: Of weights and orders.
    """

    method: str
    budget: float
    augment: str
    schedule: str
    seed: int

    @property
    def folder(self) -> Path:
        """The run's folder, relative to the bench's."""
        return Path(f"{self.augment}-{self.schedule}") / f"{self.method}-{self.budget:g}" / f"seed-{self.seed}"

    @property
    def needs(self) -> "Point | None":
        """The run that must be finished before this one can begin."""
        match TABLE[self.method].after if self.method in TABLE else "":
            case "irreducible":
                return Point(IRREDUCIBLE, 1.0, "none", SCHEDULES[0], self.seed)
            case "full":
                return replace(self, method=FULL, budget=1.0)
        return None


@dataclass(frozen=True, slots=True)
class Common:
    """Settings that all runs of a bench share.

    Attributes:
        catalog: Training rows.
        held_out: Rows that choose the best epoch.
        test: Rows that report; None: the held-out rows do.
        model: Name of the model.
        global_batch: Rows per step.
        recipe: Of a full training; each run has its own seed and schedule.
        evaluations: Times that a run is evaluated, evenly over its epochs, the last one included.
        threads: Of torch, for every run.
        device: `cpu` or `gpu`.
        uniform_epochs: Leading epochs of the methods that learn, drawn uniformly; None: 1. 70 in the paper's Tab. 1.
        mix_order: Of the augmentations mixup and ricap, see `Setup`.
        flip: Augmentations mirror images, too.
    """

    catalog: Path
    held_out: Path
    test: Path | None
    model: str
    global_batch: int
    recipe: Recipe
    evaluations: int
    threads: int
    device: Device = "cpu"
    uniform_epochs: int | None = None
    mix_order: str = "default"
    flip: bool = True

    def setup(self, augment: str, /) -> Setup:
        """Return training and judging rows."""
        order = self.mix_order if augment in ("mixup", "ricap") else "default"
        given: dict[str, Any] = {"augment": augment, "mix_order": order, "device": self.device}
        given["framing"] = Framing(flip=self.flip, jitter=self.recipe.jitter)
        return Setup(self.catalog, self.model, self.held_out, self.test, self.global_batch, **given)

    def recipe_of(self, point: Point, /) -> Recipe:
        """Return the recipe of a full training with the schedule and seed of a point."""
        own: dict[str, Any] = {"schedule": point.schedule, "seed": point.seed}
        own |= {} if point.schedule == "step" else {"milestones": ()}
        return replace(self.recipe, **own)


@dataclass(frozen=True, slots=True)
class Task:
    """A run to be made, in a form that can travel to another process; `config` is that of the command's config file."""

    common: Common
    point: Point
    out: Path
    config: dict[str, Any] = field(default_factory=dict)


def finished(out: Path, point: Point, /) -> Record | None:
    """Return the record of a point's run; None where it is not finished."""
    path = out / point.folder / "run.json"
    return read_record(path, "train") if path.exists() else None


def run_point(task: Task, /) -> Record:
    """Make a run, or read it if it is finished, and return its values."""
    torch.set_num_threads(task.common.threads)
    use_config(task.config)
    flush_denormals()
    _compile()
    common, point, folder = task.common, task.point, task.out / task.point.folder
    if point.method == IRREDUCIBLE:
        return _irreducible(task)
    record = finished(task.out, point)
    if record is None:
        recipe = common.recipe_of(point)
        epochs = max(1, round(point.budget * recipe.epochs)) if TABLE[point.method].fewer_epochs else recipe.epochs
        job = TrainingJob(common.setup(point.augment), recipe, _sampling(task), folder, method=point.method)
        track = folder / "features" if point.method == FULL else None
        record = train_job(replace(job, track=track, every=max(1, epochs // common.evaluations)))
    rows = len(Catalog.open(common.catalog))
    return {
        **{key: record["result"][key] for key in ("last", "best")},
        **{key: record[key] for key in ("seconds", "forward", "backward", "count_entropy", "effective_budget")},
        "prepare_budget": _beforehand(task, rows),
        "effective_rows": math.exp(record["count_entropy"]) / rows,
    }


@cache
def _compile() -> None:
    """Use every sampler and selector once, so that no run of this process pays for compiling or loading its kernels."""
    ids, scores = np.arange(8), np.ones(8)
    for learner in (PSGD(8), CSGD(8), PSGD(8, paper=True), RAIS(8), InfoBatch(8, epochs=2)):
        learner.observe(ids, np.zeros((8, 2), np.float32), ids % 2)
        learner.reduce()
        mode = "multinomial" if isinstance(learner, RAIS) else "subset"
        stream = learner.stream(0) if isinstance(learner, InfoBatch) else IndexStream(learner, mode=mode, draws=4)
        stream.epoch(1)[:]
    for selector in (SelectiveBackprop(budget=0.5), OrderedSGD(), DLIS(memory=0.0), RHOLoss(scores)):
        for step in range(2):
            selector.select(scores, epoch=1, step=step, ids=ids)
    IndexStream(8, draws=4).epoch(0)[:]


def _sampling(task: Task) -> Sampling:
    """How the rows of a point are drawn."""
    point = task.point
    options, before = TABLE[point.method].options, task.out / point.needs.folder if point.needs else Path()
    early = task.common.uniform_epochs if "uniform_epochs" in options else None
    ending = next((ending for ending in VARIANTS if point.method.endswith(ending)), "")
    budget = Budget(point.budget, uniform_epochs=early, **VARIANTS.get(ending, {}))
    name = CONTROL if point.method == FULL else point.method.removesuffix(ending)
    return Sampling(
        name,
        before / "features" if "table" in options else None,
        budget=budget,
        score_weights=before / "last.safetensors" if "score_weights" in options else None,
    )


def _beforehand(task: Task, rows: int) -> float:
    """Work of what had to be trained before the run, as a part of a full training; `rho` also scores all rows once."""
    before = task.point.needs
    if before is None:
        return 0.0
    record = finished(task.out, before)
    assert record is not None
    work: float = record["forward"] + 2 * record["backward"] + (rows if before.method == IRREDUCIBLE else 0)
    return work / (3 * rows * task.common.recipe.epochs)


def _irreducible(task: Task) -> Record:
    """Train on the held-out rows, and take the losses of the training rows."""
    common, folder = task.common, task.out / task.point.folder
    rows = replace(common.setup("none"), held_out=None, test=None)
    other = replace(rows, catalog=common.held_out)
    train_job(TrainingJob(other, common.recipe_of(task.point), Sampling(CONTROL), folder))
    features_job(FeaturesJob(rows, folder / "last.safetensors", folder / "features"))
    return {}
