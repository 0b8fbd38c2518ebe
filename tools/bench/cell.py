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

import torch
from torch import nn

from drawstream import pack
from drawstream.features import Tracker
from drawstream.pipeline import Loader, Stream
from drawstream.pipeline.shards import FILE
from drawstream.pipeline.sources import Source
from drawstream.tools import PLANS, DemoPlan, hold_data, source_and_test
from drawstream.tools.jobs import history_of, result_of
from drawstream.tools.runs import Progress, finished_record, model_identity, training_identity, write_record
from drawstream.tools.training import Evaluation, Recipe, Setup, flush_denormals, save_weights, train
from drawstream.tools.training.methods import NO_PARTS, LoopParts

__all__ = ["VALIDATION", "Cell", "Record", "accuracies", "pack_plan", "start_plan"]

VALIDATION = {"clean": "held_out", "noisy": "held_out_noisy"}  # name of the set in a run's history

Record = dict[str, Any]
MakeCriterion = Callable[[nn.Module], nn.Module]  # of the model that is trained


def start_plan(data: str, /, **changed: Any) -> DemoPlan:
    """Return a demo's plan with changes, and set torch as it says.

    Raises:
        ValueError: No such plan.
    """
    if data not in PLANS:
        raise ValueError(f"no plan for {data!r}: give one of {', '.join(PLANS)}")
    flush_denormals()
    plan = replace(PLANS[data], **changed)
    if plan.threads is not None:
        torch.set_num_threads(plan.threads)
    return plan


def pack_plan(
    out: Path, data: str, source: Path | None, plan: DemoPlan, /, *, noise: float = 0.0, seed: int = 0
) -> Source:
    """Write the catalogs of a plan, as far as they are not there; return the training images."""
    train, test = source_and_test(data, source, seed)
    sizes: dict[str, Any] = {"limit": plan.limit, "holdout": plan.holdout}
    hold_data(out, data, source, seed=seed, noise=noise, **sizes)
    kind: dict[str, Any] = {"encoding": "raw", "seed": seed}
    if not (out / "test" / FILE).exists():
        pack(test, out / "test", **kind)
    if not (out / "data/train" / FILE).exists():
        pack(train, out / "data", **kind, **sizes, label_noise=noise, noise_seed=seed)
    return train


def accuracies(record: Record, validation: str = "clean", /) -> dict[str, float]:
    """Return a run's test accuracy after the last epoch, and at the first best one of the validation set."""
    epochs = [epoch["accuracy"] for epoch in record["history"]]
    chosen = max(epochs, key=lambda accuracy: accuracy[VALIDATION[validation]])
    return {"last": epochs[-1]["test"], "best": chosen["test"]}


@dataclass(frozen=True)
class Cell:
    """Data and runs of one noise level under one seed.

    Attributes:
        folder: Holds all of it.
        plan: What all methods have in common.
        noise: Share of wrong labels.
        seed: Of data, noise, weights, orders and searches.
    """

    folder: Path
    plan: DemoPlan
    noise: float
    seed: int

    def pack(self, data: str, source: Path | None, /) -> None:
        """Write the catalogs, as far as they are not there; arguments as for the demo."""
        train = pack_plan(self.folder, data, source, self.plan, noise=self.noise, seed=self.seed)
        if self.noise and not (self.folder / "noisy/train" / FILE).exists():
            few = self.plan.holdout + 1  # the holdout is the same rows whatever the limit: leave out the others
            wrong: dict[str, Any] = {"label_noise": self.noise, "noise_seed": self.seed, "noise_holdout": True}
            kind: dict[str, Any] = {"encoding": "raw", "seed": self.seed, "limit": few, "holdout": self.plan.holdout}
            pack(train, self.folder / "noisy", **kind, **wrong)

    @cached_property
    def setups(self) -> dict[str, Setup]:
        """Data and model by validation; without noise both are the clean one."""
        data = self.folder / "data"
        clean = Setup(data / "train", self.plan.model, data / "holdout", self.folder / "test", self.plan.batch_size)
        noisy = replace(clean, held_out=self.folder / "noisy/holdout") if self.noise else clean
        return {"clean": clean, "noisy": noisy}

    @property
    def setup(self) -> Setup:
        """Data and model under clean validation."""
        return self.setups["clean"]

    @property
    def rows(self) -> int:
        """Training rows."""
        return len(self.setup.data)

    @cached_property
    def loader(self) -> Loader:
        """Loader of the training rows; each run replaces its stream."""
        return self.setup.training_loader()

    @cached_property
    def sets(self) -> dict[str, Loader]:
        """All sets that a run is evaluated on after each epoch."""
        sets = self.setup.evaluation_loaders()
        if self.noise:
            sets["held_out_noisy"] = self.setups["noisy"].evaluation_loaders("held_out")["held_out"]
        return sets

    def close(self) -> None:
        """Free the loaders."""
        for loader in (self.loader, *self.sets.values()):
            loader.close()

    def train_once(
        self,
        name: str,
        stream: Stream,
        recipe: Recipe,
        /,
        *,
        parts: LoopParts = NO_PARTS,
        criterion: MakeCriterion | None = None,
        tracker: Tracker | None = None,
    ) -> Record:
        """Train once from scratch, in the folder `name`; a finished run is read, a killed one goes on.

        Raises:
            ValueError: The folder holds a run with other settings.
        """
        setup, folder = self.setup, self.folder / name
        self.loader.replace_stream(stream)
        model = setup.build(recipe.seed)
        loss = criterion(model) if criterion is not None else None
        parts = replace(parts, criterion=loss, tracker=tracker)
        how: dict[str, Any] = {"parts": parts, "evaluation": Evaluation(self.sets)}
        identity = training_identity(model, self.loader, recipe, **how, about=model_identity(setup.model))
        finished = finished_record(folder / "run.json", "train", identity)
        if finished is not None:
            return finished
        with Progress(f"noise {self.noise:g}, seed {self.seed}, {name}", "epochs") as progress:
            run = train(
                model,
                self.loader,
                recipe,
                **how,
                checkpoint=folder / "checkpoint.pt",
                identity=identity,
                on_epoch=lambda epoch: progress.update(
                    epoch.epoch + 1, recipe.epochs, f"test {epoch.accuracy['test']:.2f} %"
                ),
            )
        save_weights(folder / "last.safetensors", model.state_dict())
        if tracker is not None:
            tracker.export(self.folder / "features", setup.data, model_name=setup.model)
        work = getattr(loss, "work", None)
        record = write_record(
            folder / "run.json",
            "train",
            {
                "method": name,
                "seed": recipe.seed,
                "model": setup.model,
                "catalog": setup.catalog,
                "catalog_fingerprint": setup.data.fingerprint,
                "stream": self.loader.stream.fingerprint,
                "criterion": repr(loss),
                "recipe": recipe.settings(),
                "global_batch": setup.global_batch,
                "identity": identity,
                "history": history_of(run),
                "seconds": run.seconds,
                "result": result_of(run, "test", setup.data.classes),
                "forward": run.forward,
                "backward": run.backward,
                "extra_forward_backward": [0, 0] if work is None else work.tolist(),
            },
        )
        (folder / "checkpoint.pt").unlink()
        return record
