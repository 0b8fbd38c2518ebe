"""Wrong labels that are known: how well one training finds them, beside out-of-sample predictions of K trainings.

Every ranking of a cell is of the same rows, model, recipe and epochs. The tracked ones come out of one training;
`--folds K` trains K more, each on all but a part of the rows, for which it then predicts: `folds-margin` and so on are
our rankings of these predictions, `cleanlab-…` those of cleanlab's `find_label_issues`, in an environment of its own.

data/        with wrong labels, and the right ones beside them         test   reports accuracy
train/       the tracked training; features/ its table                  folds-K/ out-of-sample predictions
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from drawstream import pack
from drawstream.features import find_suspects
from drawstream.features.suspects import METHODS
from drawstream.features.table import FeatureTable
from drawstream.pipeline.shards import FILE
from drawstream.pipeline.workers import spread
from drawstream.tools import PLANS, source_and_test
from drawstream.tools.bench import Record, check_names, check_noise
from drawstream.tools.bench.suspects.cleanlab import cleanlab_score, probabilities
from drawstream.tools.bench.suspects.page import tables
from drawstream.tools.bench.suspects.ranking import quality, ranked
from drawstream.tools.cli import SuspectsGrid, level_name
from drawstream.tools.estimate import Estimate, estimate_runs, scratch_folder
from drawstream.tools.experiments import Row, entries_of
from drawstream.tools.jobs import FoldsJob, TrainingJob, folds_job, label_noise, train_job
from drawstream.tools.runs import before, conclude, hold_identity, read_record, use_config, used_config
from drawstream.tools.training import Framing, Recipe, Setup, flush_denormals
from drawstream.tools.training.methods import Sampling

__all__ = ["estimate", "run"]

CLEANLAB = ("self_confidence", "normalized_margin")


@dataclass(frozen=True, slots=True)
class Task:
    """One cell, in a form that can travel to another process; `config` is that of the command's config file."""

    setup: Setup
    recipe: Recipe
    methods: tuple[str, ...]
    folder: Path
    threads: int
    folds: int
    peers: Path | None
    config: dict[str, Any] = field(default_factory=dict)


def recipe_of(grid: SuspectsGrid, /) -> Recipe:
    """Return the recipe of a grid: of the data set, or 15 epochs from 0.2 under a cosine."""
    return grid.recipe(PLANS[grid.data].recipe if grid.data in PLANS else Recipe(15, 0.2))


def setup_of(grid: SuspectsGrid, folder: Path, test: Path, /) -> Setup:
    """Return data and model of a cell."""
    plan = PLANS.get(grid.data)
    model = grid.model or (plan.model if plan else "resnet6")
    batch = grid.global_batch or (plan.batch_size if plan else 128)
    framing = Framing(jitter=recipe_of(grid).jitter)
    augment = grid.augment or "none"
    return Setup(
        folder / "data", model, test=test, global_batch=batch, device=grid.device, augment=augment, framing=framing
    )


def pack_cell(grid: SuspectsGrid, folder: Path, test: Path, level: float | str, seed: int, /) -> None:
    """Write the training set of a cell and the test set, as far as they are not there."""
    images, others = source_and_test(grid.data, grid.source, 0)
    pack(images, folder / "data", encoding="raw", label_noise=label_noise(str(level)), noise_seed=seed)
    if not (test / FILE).exists():
        pack(others, test, encoding="raw")


def run_task(task: Task, /) -> Record:
    """Train once, tracked, or read the finished run, and return the values of every ranking, by its name."""
    torch.set_num_threads(task.threads)
    use_config(task.config)
    flush_denormals()
    track = task.folder / "features"
    job = TrainingJob(task.setup, task.recipe, Sampling(None), task.folder / "train", track=track)
    record = train_job(job)
    catalog = task.setup.data
    given, right = (np.asarray(each, np.int64) for each in (catalog.label, catalog.clean_label))
    classes = len(catalog.classes)

    def rankings(table: FeatureTable, prefix: str, about: Record) -> dict[str, Record]:
        scored = {each: find_suspects(table, classes, method=cast("Any", each)) for each in task.methods}
        return {prefix + method: {**quality(found, given, right), **about} for method, found in scored.items()}

    about = {"accuracy": record["result"]["last"], "seconds": record["seconds"], "trainings": 1}
    found = rankings(FeatureTable.open(track, catalog=catalog), "", about)
    if task.folds:
        out = task.folder / f"folds-{task.folds}"
        table = folds_job(FoldsJob(task.setup, task.recipe, out, task.folds))
        seconds = sum(read_record(out / f"fold-{k}/run.json", "train")["seconds"] for k in range(task.folds))
        about = {"seconds": seconds, "trainings": task.folds}
        found |= rankings(table, "folds-", about)
        if task.peers is not None:
            p = probabilities(table, classes)
            for by in CLEANLAB:
                score = cleanlab_score(task.peers, given, p, by=by)
                found[f"cleanlab-{by.replace('_', '-')}"] = {**ranked(score, given != right), **about}
    return found


def tasks_of(grid: SuspectsGrid, /) -> Iterator[tuple[str, int, Task]]:
    """Yield level of noise, seed and task of a grid; catalogs are written as they come."""
    recipe, config = recipe_of(grid), used_config().get("config", {})
    test = grid.folder / "test"
    for (level, seed), folder in grid.cells.items():
        pack_cell(grid, folder, test, level, seed)
        own = replace(recipe, seed=seed)
        how: dict[str, Any] = {"methods": grid.methods or METHODS, "folds": grid.folds, "peers": grid.peers_env}
        where: dict[str, Any] = {"folder": folder, "threads": grid.threads, "config": config}
        yield level_name(level), seed, Task(setup_of(grid, folder, test), own, **how, **where)


def run(grid: SuspectsGrid, /) -> dict[str, Any]:
    """Run the grid, print a table, and write `suspects.json` into `out`.

    What a killed benchmark finished is kept when it is started again; an unfinished training goes on.

    Returns:
        `rows`: ranking, noise, seed, and the values of `quality`; test accuracy and seconds of its trainings, and how
        many these are. `summary`: means and deviations over the seeds.

    Raises:
        ValueError: Unknown data, or `out` holds runs with other settings.
    """
    check_names("methods", grid.methods or METHODS, METHODS)
    check_noise(grid.levels, grid.seeds)
    if 0 in grid.levels:
        raise ValueError("--noise 0: no label is known to be wrong: give shares above 0, or .npy files of labels")
    grid.folder.mkdir(parents=True, exist_ok=True)
    hold_identity(grid.folder / "common.json", "suspects-common", {"data": Path(grid.data).name})
    tasks = list(tasks_of(grid))
    where: dict[str, Any] = {"workers": grid.at_once, "threads": grid.threads, "device": grid.device}
    found = spread(run_task, [task for *_, task in tasks], **where, name=lambda task: str(task.folder))
    rows: list[Row] = []
    for (level, seed, _), rankings in zip(tasks, found, strict=True):
        for method, values in rankings.items():
            rows.append(Row(method, {"noise": level}, seed, values))
            told = f"AP {values['ap']:.2f}, AUROC {values['auroc']:.2f}"
            print(f"noise {level}, seed {seed}, {method}: {told}", flush=True)
    entries = entries_of(rows)
    print(*(table.text() for table in tables(entries)), sep="\n\n")
    summary = [each.as_dict(("seconds",), ("ap", "auroc")) for each in entries]
    setup = tasks[0][2].setup
    about: dict[str, Any] = {name: getattr(setup, name) for name in ("model", "global_batch", "augment")}
    about |= {"threads": grid.threads, "recipe": asdict(recipe_of(grid)), "data": Path(grid.data).name}
    result: dict[str, Any] = {"rows": [row.as_dict() for row in rows], "summary": summary, "common": about}
    return {**result, **before(conclude(grid.folder / "suspects.json", "bench-suspects", result))}


def estimate(grid: SuspectsGrid, /) -> Estimate:
    """Estimate `run`; errors are its own."""
    level, seed = next(iter(grid.cells))
    jobs = [each / "train" for each in grid.cells.values()]
    jobs += [each / f"folds-{grid.folds}/fold-{k}" for each in grid.cells.values() for k in range(grid.folds)]
    left = float(sum(not (each / "run.json").exists() for each in jobs))
    with scratch_folder(grid.folder) as scratch:
        pack_cell(grid, scratch, scratch / "test", level, seed)
        setup = setup_of(grid, scratch, scratch / "test")
        runs = {"train": left}  # those of folds have a part of the rows: at most this
        return estimate_runs("bench suspects", grid.folder, setup, recipe_of(grid), runs, at_once=grid.at_once)
