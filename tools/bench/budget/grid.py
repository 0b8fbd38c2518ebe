"""The grid of budgeted training: its points, one run of each, and the runs spread over processes or a Ray cluster.

    OUT/data, OUT/test                          catalogs of a named data set
    OUT/AUGMENT-SCHEDULE/METHOD-B/seed-S/       run.json of a run that is finished, checkpoint.pt of one that is not
A run depends on its point and on what all runs have in common, not on the process that made it or on how many there
were: each has the same number of torch threads, as sums of floating-point numbers differ with it.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch

from drawstream.pipeline import Catalog
from drawstream.pipeline.workers.engines import spread
from drawstream.samplers import CSGD, DLIS, PSGD, IndexStream, InfoBatch, OrderedSGD, RHOLoss, SelectiveBackprop
from drawstream.tools.bench.checks import check_distinct, check_names
from drawstream.tools.jobs.features import features_job
from drawstream.tools.jobs.train import train_job
from drawstream.tools.runs.config import use_config
from drawstream.tools.runs.record import read_record
from drawstream.tools.training.finetune import flush_denormals
from drawstream.tools.training.loop import Recipe
from drawstream.tools.training.methods.plan import Budget
from drawstream.tools.training.methods.sampling import Sampling
from drawstream.tools.training.setup import AUGMENT, Device, Setup

__all__ = [
    "BUDGETS",
    "CONTROL",
    "FULL",
    "METHODS",
    "SCHEDULES",
    "Common",
    "Grid",
    "Point",
    "Task",
    "finished",
    "run_point",
    "run_tasks",
    "stages",
]

CONTROL, FULL = "unif", "full"
METHODS = (
    FULL,
    CONTROL,
    "scan",
    "p",
    "c",
    "p-paper",
    "c-paper",
    "sb",
    "osgd",
    "dlis",
    "rho",
    "infobatch",
    "coreset-random",
    "coreset-forgetting",
    "coreset-k_center",
)
BUDGETS = (0.05, 0.1, 0.2, 0.3, 0.5)
SCHEDULES = ("linear", "step")

IRREDUCIBLE = "irreducible"  # the run that `rho` needs; no method
CHOSEN = ("coreset-forgetting", "coreset-k_center")  # by a trained model
SHORTER = ("scan", "infobatch")  # B T epochs in place of T

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
        """Return the run's folder, relative to the bench's."""
        return Path(f"{self.augment}-{self.schedule}") / f"{self.method}-{self.budget:g}" / f"seed-{self.seed}"


@dataclass(frozen=True, slots=True)
class Common:
    """Settings that all runs of a bench share.

    Attributes:
        catalog: Training rows.
        held_out: Rows that choose the best epoch.
        test: Rows that report; None: the held-out rows do.
        model: Name of the model.
        batch_size: Rows per step.
        recipe: Of a full training; each run has its own seed and schedule.
        evaluations: Times that a run is evaluated, evenly over its epochs, the last one included.
        threads: Of torch, for every run.
        device: `cpu` or `gpu`.
    """

    catalog: Path
    held_out: Path
    test: Path | None
    model: str
    batch_size: int
    recipe: Recipe
    evaluations: int
    threads: int
    device: Device = "cpu"

    def setup(self, augment: str, /) -> Setup:
        """Training and judging rows."""
        files = (self.catalog, self.model, self.held_out, self.test)
        return Setup(*files, self.batch_size, augment, self.device)

    def recipe_of(self, point: Point, /) -> Recipe:
        """The recipe of a full training with the schedule and seed of a point."""
        own: dict[str, Any] = {"schedule": point.schedule, "seed": point.seed}
        return replace(self.recipe, **own)


@dataclass(frozen=True, slots=True)
class Task:
    """A run to be made, in a form that can travel to another process; `config` is that of the command's config file."""

    common: Common
    point: Point
    out: Path
    config: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Grid:
    """Grid of methods, budgets, augmentations, schedules and seeds.

    Attributes:
        methods: Of `METHODS`; `full` and `unif` are always among them, as the control.
        budgets: B of every method but `full`.
        augments: Of the training images.
        schedules: Of the learning rate.
        seeds: Of weights and orders.
    """

    methods: tuple[str, ...] = METHODS
    budgets: tuple[float, ...] = BUDGETS
    augments: tuple[str, ...] = ("none",)
    schedules: tuple[str, ...] = SCHEDULES
    seeds: tuple[int, ...] = (0,)

    def __post_init__(self) -> None:
        for name, known in (("methods", METHODS), ("augments", AUGMENT), ("schedules", SCHEDULES)):
            check_names(name, getattr(self, name), known)
        check_distinct(**asdict(self))
        if not all(0 < budget <= 1 for budget in self.budgets) or min(self.seeds) < 0:
            raise ValueError(
                f"`0 < budget <= 1` and `seeds >= 0` must hold, but got {list(self.budgets)} and {list(self.seeds)}"
            )

    def points(self) -> list[Point]:
        """All points, seed by seed.

        The methods take turns in an order of its own for every seed, so that none always pays for its predecessor.
        """
        methods = [method for method in dict.fromkeys((CONTROL, *self.methods)) if method != FULL]
        points = []
        for number, seed in enumerate(self.seeds):
            order = [methods[at] for at in np.random.default_rng(number).permutation(len(methods))]
            for place in product(self.augments, self.schedules):
                points.append(Point(FULL, 1.0, *place, seed))
                points += [Point(method, budget, *place, seed) for budget in self.budgets for method in order]
        return points


def finished(out: Path, point: Point, /) -> Record | None:
    """The record of a point's run; None where it is not finished."""
    path = out / point.folder / "run.json"
    return read_record(path, "train") if path.exists() else None


def stages(points: Sequence[Point], /) -> list[list[Point]]:
    """The points in parts: each needs at most what those before it leave behind, and its runs do not need each other.

    RHO-loss needs the losses of a model trained on the held-out rows, one for each seed; the core-sets that are chosen
    by a trained model take the full training of their seed, augmentation and schedule.
    """
    seeds = dict.fromkeys(point.seed for point in points if point.method == "rho")
    others = [Point(IRREDUCIBLE, 1.0, "none", SCHEDULES[0], seed) for seed in seeds]
    chosen = [point for point in points if point.method in CHOSEN]
    return [others, [point for point in points if point not in chosen], chosen]


def run_point(task: Task, /) -> Record:
    """Make a run, or read it if it is finished, and give its row."""
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
        epochs = recipe.epochs if point.method not in SHORTER else max(1, round(point.budget * recipe.epochs))
        record = train_job(
            common.setup(point.augment),
            recipe,
            _sampling(task),
            folder,
            method=point.method,
            track=folder / "features" if point.method == FULL else None,
            every=max(1, epochs // common.evaluations),
        )
    rows = len(Catalog.open(common.catalog))
    return {
        **asdict(point),
        "last": record["result"]["last"],
        "best": record["result"]["best"],
        **{key: record[key] for key in ("seconds", "forward", "backward", "count_entropy", "effective_budget")},
        "prepare_budget": _beforehand(task, rows),
        "effective_rows": math.exp(record["count_entropy"]) / rows,
    }


@cache
def _compile() -> None:
    """Use every sampler and selector once, so that no run of this process pays for compiling or loading its kernels."""
    ids, scores = np.arange(8), np.ones(8)
    for learner in (PSGD(8), CSGD(8), PSGD(8, paper=True), InfoBatch(8, epochs=2)):
        learner.observe(ids, np.zeros((8, 2), np.float32), ids % 2)
        learner.reduce()
        stream = learner.stream(0) if isinstance(learner, InfoBatch) else IndexStream(learner, mode="subset", draws=4)
        stream.epoch(1)[:]
    for selector in (SelectiveBackprop(budget=0.5), OrderedSGD(), DLIS(memory=0.0), RHOLoss(scores)):
        for step in range(2):
            selector.select(scores, epoch=1, step=step, ids=ids)
    IndexStream(8, draws=4).epoch(0)[:]


def _sampling(task: Task) -> Sampling:
    """How the rows of a point are drawn."""
    point, out = task.point, task.out
    name = point.method.removesuffix("-paper")
    budget = Budget(point.budget, paper=point.method.endswith("-paper"))
    full = out / _source(point).folder
    match name:
        case "full":
            return Sampling(CONTROL, budget=budget)
        case "rho" | "coreset-forgetting":
            return Sampling(name, full / "features", budget=budget)
        case "coreset-k_center":
            return Sampling(name, budget=budget, score_weights=full / "last.safetensors")
    return Sampling(name, budget=budget)


def _source(point: Point) -> Point:
    """The run that must be finished before this one can begin."""
    if point.method == "rho":
        return Point(IRREDUCIBLE, 1.0, "none", SCHEDULES[0], point.seed)
    return replace(point, method=FULL, budget=1.0)


def _beforehand(task: Task, rows: int) -> float:
    """Work of what had to be trained before the run, as a part of a full training; `rho` also scores all rows once."""
    if task.point.method not in (*CHOSEN, "rho"):
        return 0.0
    record = finished(task.out, _source(task.point))
    assert record is not None
    work: float = record["forward"] + 2 * record["backward"] + (rows if task.point.method == "rho" else 0)
    return work / (3 * rows * task.common.recipe.epochs)


def _irreducible(task: Task) -> Record:
    """Train on the held-out rows, and take the losses of the training rows."""
    common, folder = task.common, task.out / task.point.folder
    recipe = common.recipe_of(task.point)
    rows = replace(common.setup("none"), held_out=None, test=None)
    train_job(replace(rows, catalog=common.held_out), recipe, Sampling(CONTROL), folder)
    features_job(rows, folder / "last.safetensors", folder / "features")
    return {}


def run_tasks(tasks: Sequence[Task], /, *, processes: int, engine: str) -> Iterator[Record]:
    """Make the runs and give their rows, in the order of the tasks.

    Args:
        tasks: All of them can be made at once; those that are finished cost a look at their record.
        processes: Runs at a time on this machine; each process takes the next run when it has finished one.
        engine: `local`, `ray` or `ray:ADDRESS`; Ray's nodes must see all folders under the same paths.

    Raises:
        ValueError: An unknown engine, no process, or a folder that holds another run.
        WorkerError: A run was lost again and again.
    """
    if tasks:
        local, common = engine == "local", tasks[0].common
        yield from spread(
            run_point,
            tasks,
            workers=processes if local else None,
            engine=engine,
            threads=0 if local else common.threads,
            device=common.device,
            name=lambda task: str(task.point.folder),
        )
