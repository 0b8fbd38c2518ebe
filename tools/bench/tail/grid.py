"""Long-tailed training: does drawing classes more alike help, and which way of it?

Every method trains from the same initial weights on the same rows with the same model, steps and learning rates; only
the draws differ, or, for `drw`, the loss. There is no held-out set: nothing is chosen, the last epoch counts.

    balanced             mean of the classes' test accuracies after the last epoch, per cent
    many, medium, few    the same over the classes with many training images, and so on (`ShotGroups`), per cent
    last                 test accuracy after the last epoch, per cent: equal to `balanced` on a balanced test set
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from drawstream import pack
from drawstream.pipeline.shards import FILE
from drawstream.pipeline.workers import spread
from drawstream.tools import PLANS, source_and_test
from drawstream.tools.bench import Record, check_distinct, check_names
from drawstream.tools.bench.tail.page import tables, verdict
from drawstream.tools.cli import TailGrid
from drawstream.tools.estimate import Estimate, estimate_runs, scratch_folder
from drawstream.tools.experiments import Row, entries_of
from drawstream.tools.jobs import TrainingJob, train_job
from drawstream.tools.runs import before, conclude, hold_identity, use_config, used_config
from drawstream.tools.training import Framing, Recipe, Setup, flush_denormals
from drawstream.tools.training.methods import Balance, Sampling

__all__ = ["METHODS", "estimate", "run"]

METHODS = ("uniform", "balanced", "effective-number", "progressive", "deferred", "balance-0.5", "drw")
MEASURED = ("balanced", "many", "medium", "few")
GAMMA = "balance-"  # and a number: uniform draws under --balance


@dataclass(frozen=True, slots=True)
class Task:
    """One training, in a form that can travel to another process; `config` is that of the command's config file."""

    setup: Setup
    recipe: Recipe
    method: str
    folder: Path
    threads: int
    config: dict[str, Any] = field(default_factory=dict)


def methods_of(grid: TailGrid, /) -> tuple[str, ...]:
    """Return the methods of a grid, uniform first; the grid is checked before anything runs.

    Raises:
        ValueError: An unknown name, or a value that comes twice.
    """
    given = grid.methods or METHODS
    named = [name for name in given if not (name.startswith(GAMMA) and _gamma(name) is not None)]
    if named:
        check_names("methods", named, METHODS)
    check_distinct(methods=given, seeds=grid.seeds)
    return tuple(dict.fromkeys(("uniform", *given)))


def _gamma(method: str) -> float | None:
    try:
        value = float(method.removeprefix(GAMMA))
    except ValueError:
        return None
    return value if 0 <= value <= 1 else None


def sampling_of(method: str, /) -> Sampling:
    """Return the draws of a method; `drw` draws uniformly."""
    if method.startswith(GAMMA):
        return Sampling(balance=Balance(float(method.removeprefix(GAMMA))))
    return Sampling(None if method in ("uniform", "drw") else method)


def recipe_of(grid: TailGrid, /) -> Recipe:
    """Return the recipe of a grid: of the data set, or 15 epochs from 0.1 under a cosine."""
    usual = PLANS[grid.data].recipe if grid.data in PLANS else Recipe(15, 0.1)
    return grid.recipe(usual)


def setup_of(grid: TailGrid, folder: Path, test: Path, /) -> Setup:
    """Return data and model of the runs of a seed."""
    plan = PLANS.get(grid.data)
    model = grid.model or (plan.model if plan else "resnet8")
    batch = grid.global_batch or (plan.batch_size if plan else 128)
    how: dict[str, Any] = {"augment": grid.augment or "none", "framing": Framing(jitter=recipe_of(grid).jitter)}
    return Setup(folder / "train", model, test=test, global_batch=batch, device=grid.device, **how)


def pack_tail(grid: TailGrid, folder: Path, test: Path, seed: int, /) -> None:
    """Write the training set of a seed and the test set, as far as they are not there."""
    images, others = source_and_test(grid.data, grid.source, 0)
    pack(images, folder / "train", encoding="raw", long_tail=grid.imbalance, seed=seed)
    if not (test / FILE).exists():
        pack(others, test, encoding="raw")


def run_task(task: Task, /) -> Record:
    """Train once, or read the finished run, and return its values."""
    torch.set_num_threads(task.threads)
    use_config(task.config)
    flush_denormals()
    recipe = replace(task.recipe, loss="drw") if task.method == "drw" else task.recipe
    job = TrainingJob(task.setup, recipe, sampling_of(task.method), task.folder, method=task.method)
    record = train_job(replace(job, every=recipe.epochs))
    result, groups = record["result"], record["result"]["shots"]
    drawn = record["class_drawn"]
    return {
        "balanced": result["metrics"]["balanced"],
        "last": result["last"],
        **(groups["accuracy"] if groups else {}),
        "classes": result["classes"],
        "class_rows": record["class_rows"],
        "class_shares": [each / sum(drawn) for each in drawn],
        "shots": groups and {name: groups[name] for name in ("rule", "classes")},
        "seconds": record["seconds"],
    }


def tasks_of(grid: TailGrid, /) -> Iterator[tuple[int, Task]]:
    """Yield seeds and trainings of a grid; catalogs are written as they come."""
    recipe, config = recipe_of(grid), used_config().get("config", {})
    test = grid.folder / "test"
    for seed in grid.seeds:
        folder = grid.folder / f"seed-{seed}"
        pack_tail(grid, folder, test, seed)
        setup = setup_of(grid, folder, test)
        for method in methods_of(grid):
            own = replace(recipe, seed=seed)
            yield seed, Task(setup, own, method, folder / method, grid.threads, config)


def run(grid: TailGrid, /) -> dict[str, Any]:
    """Run the grid, print a table, and write `tail.json` into `out`.

    What a killed benchmark finished is kept when it is started again; an unfinished training goes on.

    Returns:
        `rows`: method, imbalance, seed, balanced, last, many, medium, few, accuracy and shares of the classes, seconds.
        `summary`: means and deviations over the seeds, and the gain over uniform. `verdict`: in words.

    Raises:
        ValueError: Unknown data or methods, or `out` holds runs with other settings.
    """
    methods = methods_of(grid)
    grid.folder.mkdir(parents=True, exist_ok=True)
    hold_identity(grid.folder / "common.json", "tail-common", {"data": grid.data, "imbalance": grid.imbalance})
    pairs = list(tasks_of(grid))
    where: dict[str, Any] = {"workers": grid.at_once, "threads": grid.threads, "device": grid.device}
    found = spread(run_task, [task for _, task in pairs], **where, name=lambda task: str(task.folder))
    rows: list[Row] = []
    for (seed, task), values in zip(pairs, found, strict=True):
        rows.append(Row(task.method, {"imbalance": grid.imbalance}, seed, values))
        told = ", ".join(f"{name} {values[name]:.2f}" for name in MEASURED if name in values)
        print(f"{len(rows)}/{len(pairs)} seed {seed}, {task.method}: {told}, {values['seconds']:.1f} s", flush=True)
    entries = entries_of(rows)
    lines = verdict(entries)
    print(*(table.text() for table in tables(entries)), *lines, sep="\n\n")
    measured = [name for name in ("last", *MEASURED) if name in rows[0].values]
    summary = [each.as_dict(("seconds",), measured) for each in entries]
    result: dict[str, Any] = {"rows": [row.as_dict() for row in rows], "summary": summary, "verdict": lines}
    setup, recipe = pairs[0][1].setup, recipe_of(grid)
    about: dict[str, Any] = {name: getattr(setup, name) for name in ("model", "global_batch", "augment")}
    about |= {"threads": grid.threads, "recipe": asdict(recipe), "methods": methods, "data": Path(grid.data).name}
    return {**result, **before(conclude(grid.folder / "tail.json", "bench-tail", {**result, "common": about}))}


def estimate(grid: TailGrid, /) -> Estimate:
    """Estimate `run`; errors are its own."""
    methods, out = methods_of(grid), grid.folder
    runs = {
        method: float(sum(not (out / f"seed-{seed}" / method / "run.json").exists() for seed in grid.seeds))
        for method in methods
    }
    with scratch_folder(out) as scratch:
        pack_tail(grid, scratch, scratch / "test", grid.seeds[0])
        setup = setup_of(grid, scratch, scratch / "test")
        return estimate_runs("bench tail", out, setup, recipe_of(grid), runs, at_once=grid.at_once)
