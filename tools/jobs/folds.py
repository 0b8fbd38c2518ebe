"""Out-of-sample predictions as a job: K trainings, each on the rows of the other folds, scored once on its own.

OUT/fold-0/ …   a finished training each, as `train_job` writes it; a killed job goes on in the one that it was in
OUT/table/      a feature table with the columns of a tracker that saw each row once, in evaluation
OUT/folds.json  the record
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from drawstream.features import Tracker, named_classes
from drawstream.features.table import FeatureTable, part_path
from drawstream.samplers.methods import fold_numbers
from drawstream.samplers.orders import IndexStream
from drawstream.tools.jobs.train import TrainingJob, train_job
from drawstream.tools.runs import Progress, finished_record, require_there, tell_finished, write_record
from drawstream.tools.training import Recipe, Setup, autocast, load_weights
from drawstream.tools.training.methods import Sampling

__all__ = ["FoldsJob", "folds_job"]


@dataclass(frozen=True)
class OtherFolds(Sampling):
    """Uniform draws from the rows of all folds but one."""

    fold: int = 0
    folds: int = 2
    seed: int = 0

    def rows(self, setup: Setup, /) -> NDArray[np.bool_] | None:
        """Return which rows are drawn, bool (rows,)."""
        drawn: NDArray[np.bool_] = fold_numbers(setup.data.label, self.folds, seed=self.seed) != self.fold
        return drawn

    def identity(self, setup: Setup, /) -> dict[str, Any]:
        """Return what decides the draws: the fold, too."""
        return {**Sampling.identity(self, setup), "fold": [self.fold, self.folds, self.seed]}


@dataclass(frozen=True)
class FoldsJob:
    """K trainings, and the table of their predictions.

    Attributes:
        setup: Data and model.
        recipe: How to train; its seed also draws the folds.
        out: Folder of the results.
        folds: K.
    """

    setup: Setup
    recipe: Recipe
    out: Path
    folds: int = 5

    @property
    def trainings(self) -> list[TrainingJob]:
        """The training of each fold.

        Raises:
            ValueError: The labels are of another kind, of one class, or of too few rows for so many folds.
        """
        data, seed = self.setup.data, self.recipe.seed
        data.require_labels("--folds", "class")
        if not named_classes(data.num_classes):
            raise ValueError(f"{data.path}: --folds needs 2 to 65535 classes, but got {data.num_classes}")
        fold_numbers(data.label, self.folds, seed=seed)
        return [
            TrainingJob(
                self.setup,
                self.recipe,
                OtherFolds(fold=fold, folds=self.folds, seed=seed),
                self.out / f"fold-{fold}",
                method=f"fold {fold + 1} of {self.folds}",
            )
            for fold in range(self.folds)
        ]


def folds_job(job: FoldsJob, /) -> FeatureTable:
    """Train on all folds but each one in turn, as far as that is not done, and predict its rows without augmentation.

    Returns:
        The feature table, from which `suspects` ranks.

    Raises:
        ValueError: Inputs do not fit each other, or `out` holds another job.
    """
    begin, path, table = time.perf_counter(), job.out / "folds.json", job.out / "table"
    ranks, trainings = job.setup.ranks, job.trainings
    records = [train_job(each) for each in trainings]
    identity = {"folds": job.folds, "trainings": [record["identity"] for record in records]}
    found = finished_record(path, "folds", identity)
    if found is not None:
        for part in range(len(job.setup.data.shards)):
            require_there(part_path(table, part), path)
        if ranks.writes:
            tell_finished(path, found["finished"])
        return FeatureTable.open(table)
    tracker = _predict(job, trainings)
    if ranks.writes:
        made = tracker.export(table, job.setup.data, model_name=job.setup.model)
        about = {"rows": len(made), "folds": job.folds, "table": "table", "table_fingerprint": made.fingerprint}
        write_record(path, "folds", {**about, "seconds": time.perf_counter() - begin, "identity": identity})
    ranks.wait()
    return FeatureTable.open(table)


@torch.inference_mode()
def _predict(job: FoldsJob, trainings: list[TrainingJob]) -> Tracker:
    """A tracker that has seen each row once, by the model that was not trained on it."""
    setup, recipe = job.setup, job.recipe
    numbers = fold_numbers(setup.data.label, job.folds, seed=recipe.seed)
    tracker = Tracker(len(setup.data), classes=named_classes(setup.data.num_classes))
    tracker.set_epoch(0)
    loader, model = setup.ordered_loader(), setup.build(recipe.seed, trained=False)
    device = next(model.parameters()).device
    with Progress("predict", "folds", quiet=not setup.ranks.writes) as progress:
        for fold, training in enumerate(trainings):
            load_weights(model, training.out / "last.safetensors")
            model.eval()
            loader.replace_stream(IndexStream(len(setup.data), where=numbers == fold))
            for batch in loader:
                with autocast(device, recipe.amp):
                    logits = model(batch.images)
                tracker.observe(batch.ids, logits, batch.labels, batch.weights)
            progress.update(fold + 1, job.folds)
    loader.close()
    tracker.reduce()
    return tracker
