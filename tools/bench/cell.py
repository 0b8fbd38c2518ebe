"""Data and trainings of one noise level under one seed, in a folder of their own; what is finished is read.

data/train   with wrong labels         data/holdout   true labels: chooses under validation `clean`
test         true labels, reports      noisy/holdout  the same rows with as many wrong labels: under `noisy`
RUN/         run.json and last.safetensors of a finished training, checkpoint.pt of an unfinished one
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import nn

from drawstream import pack
from drawstream.pipeline import Stream
from drawstream.pipeline.shards import FILE, is_url
from drawstream.tools import PLANS, DemoPlan, pack_plan, setup_of, start_plan
from drawstream.tools.cli import CatalogOptions, RecipeGrid
from drawstream.tools.jobs import TrainingJob, label_noise, prepare_training, train_job
from drawstream.tools.training import Framing, Recipe, Setup
from drawstream.tools.training.methods import Sampling, TrainingPlan

__all__ = ["VALIDATION", "Cell", "Record", "accuracies", "plan_of", "wrong_share"]

VALIDATION = {"clean": "held_out", "noisy": "held_out_noisy"}  # name of the set in a run's history

Record = dict[str, Any]


@dataclass(frozen=True)
class Drawn(Sampling):
    """Draws of a stream that a benchmark has made."""

    stream: Stream | None = None

    @property
    def method(self) -> str:
        """Return what a record calls it."""
        return "stream"

    def refuse_unused(self, loss: str = "ce") -> None:
        """Refuse nothing: no option is given."""

    def plan(self, setup: Setup, recipe: Recipe, /, *, factor: int = 1) -> TrainingPlan:  # noqa: ARG002
        """Plan the run of the stream."""
        assert self.stream is not None
        return TrainingPlan(self.stream, recipe.epochs)

    def identity(self, setup: Setup, /) -> dict[str, Any]:  # noqa: ARG002
        """Return nothing: the stream's fingerprint says all."""
        return {}


def accuracies(record: Record, validation: str = "clean", /) -> dict[str, float]:
    """Return a run's test accuracy after the last epoch (top-5 and balanced, too), and at the best validated one."""
    epochs = [epoch["accuracy"] for epoch in record["history"]]
    chosen = max(epochs, key=lambda accuracy: accuracy[VALIDATION[validation]])
    metrics = record["history"][-1]["metrics"]["test"]
    more = {name: metrics[name] for name in ("top5", "balanced")}
    return {"last": epochs[-1]["test"], "best": chosen["test"], **more}


def plan_of(grid: RecipeGrid, /, **changed: Any) -> DemoPlan:
    """Return the plan of a grid's data set, or Fashion-MNIST's for other data, with what the grid has otherwise.

    Raises:
        ValueError: There is no such data set or catalog, or nothing to choose and report on.
    """
    if grid.model is not None:
        changed["model"] = grid.model
    if grid.data not in PLANS and isinstance(grid, CatalogOptions):
        changed["places"] = _places(grid.data, grid)
    plan = start_plan(grid.data if grid.data in PLANS else "fashion-mnist", **changed)
    recipe = grid.recipe(plan.recipe)
    if recipe != plan.recipe:
        second = plan.confirm and recipe.tuning(plan.confirm.epochs, plan.confirm.lr)
        plan = replace(plan, fine_tune=recipe.tuning(plan.fine_tune.epochs, plan.fine_tune.lr), confirm=second)
    if grid.global_batch is not None:
        plan = replace(plan, batch_size=grid.global_batch)
    framing = Framing(jitter=recipe.jitter)
    return replace(plan, recipe=recipe, augment=grid.augment or plan.augment, framing=framing, device=grid.device)


def _places(data: str, given: CatalogOptions) -> tuple[str, str, str]:
    if not is_url(data) and not (Path(data) / FILE).exists():
        raise ValueError(f"no plan for {data!r}: give one of {', '.join(PLANS)}, or the folder of a catalog")
    if given.held_out is None or given.test is None:
        raise ValueError(f"{data}: rows to choose and report on are missing: give --held-out and --test")
    return data, given.held_out, given.test


def wrong_share(setup: Setup, /) -> float:
    """Return the share of wrong labels in training, as far as true ones are known."""
    clean = setup.data.clean_label
    return 0.0 if clean is None else float((clean != setup.data.label).mean())


@dataclass(frozen=True)
class Cell:
    """Data and runs of one noise level under one seed.

    Attributes:
        folder: Holds all of it.
        plan: What all methods have in common.
        noise: Share of wrong labels, or a file of labels (.npy) with wrong ones.
        seed: Of data, noise, weights, orders and searches.
    """

    folder: Path
    plan: DemoPlan
    noise: float | str
    seed: int

    def pack(self, data: str, source: Path | None, /) -> None:
        """Write the catalogs, as far as they are not there; arguments as for the demo."""
        if self.plan.places is not None:
            return
        train = pack_plan(self.folder, data, source, self.plan, noise=self.noise, seed=self.seed)
        if self.noise and not (self.folder / "noisy/train" / FILE).exists():
            few = self.plan.holdout + 1  # the holdout is the same rows whatever the limit: leave out the others
            wrong: dict[str, Any] = {"label_noise": label_noise(str(self.noise)), "noise_seed": self.seed}
            wrong["noise_holdout"] = True
            kind: dict[str, Any] = {"encoding": "raw", "seed": self.seed, "limit": few, "holdout": self.plan.holdout}
            pack(train, self.folder / "noisy", **kind, **wrong)

    @cached_property
    def setups(self) -> dict[str, Setup]:
        """Data and model by validation; without noise both are the clean one."""
        clean = setup_of(self.plan, self.folder)
        clean.data.require_labels("a benchmark of methods", "class")
        if not self.noise:
            return {"clean": clean, "noisy": clean}
        wrong = self.folder / "noisy/holdout"
        return {"clean": replace(clean, more={VALIDATION["noisy"]: wrong}), "noisy": replace(clean, held_out=wrong)}

    @property
    def setup(self) -> Setup:
        """Data and model under clean validation; runs are evaluated on the noisy set, too."""
        return self.setups["clean"]

    @property
    def rows(self) -> int:
        """Training rows."""
        return len(self.setup.data)

    def train_once(
        self,
        name: str,
        draws: Stream | Sampling,
        recipe: Recipe,
        /,
        *,
        criterion: Callable[[nn.Module], nn.Module | None] | None = None,
        track: bool = False,
    ) -> Record:
        """Train once from scratch, in the folder `name`; a finished run is read, a killed one goes on.

        With `track` the averages of the training go to `features`.

        Raises:
            ValueError: The folder holds a run with other settings.
        """
        sampling = draws if isinstance(draws, Sampling) else Drawn(stream=draws)
        job = TrainingJob(self.setup, recipe, sampling, self.folder / name, method=name)
        job = replace(job, criterion=criterion, track=self.folder / "features" if track else None)
        opened = prepare_training(job)
        opened.close()
        return opened.record or train_job(job)
