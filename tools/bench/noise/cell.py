"""One noise level under one seed: a folder with its data and a run of each method, made as far as they are missing.

data/train   with wrong labels         data/holdout   true labels: chooses under validation `clean`
test         true labels, reports      noisy/holdout  the same rows with as many wrong labels: under `noisy`
uniform/ ──tracker──▶ features/ ──▶ search-swift-clean/, …     METHOD/run.json, of a run that is finished
uniform/ and swift-clean/ ──▶ swift-clean/guard.json, which of the two is kept
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from drawstream.features import FeatureTable, Tracker
from drawstream.pipeline import Catalog, Loader
from drawstream.pipeline.shards.catalog import FILE
from drawstream.pipeline.shards.pack import pack
from drawstream.samplers import IndexStream
from drawstream.tools.bench.noise.methods import DROPPED, PAPER, PAPER_EPOCHS, SEARCHES, folders
from drawstream.tools.demo import Plan, hold_data, source_and_test
from drawstream.tools.jobs.features import features_job
from drawstream.tools.jobs.search import search_job
from drawstream.tools.runs.identity import model_identity, training_identity
from drawstream.tools.runs.progress import Progress
from drawstream.tools.runs.record import finished_record, read_record, write_record
from drawstream.tools.training.finetune import FineTune, fine_tuning
from drawstream.tools.training.guard import compare_finished
from drawstream.tools.training.loop import train
from drawstream.tools.training.methods.robust import LearnedWeights, Reed, SelfPaced
from drawstream.tools.training.methods.sampling import Sampling
from drawstream.tools.training.models import save_weights
from drawstream.tools.training.setup import Setup

__all__ = ["VALIDATION", "Cell", "Record", "right_rows", "without_highest"]

VALIDATION = {"clean": "held_out", "noisy": "held_out_noisy"}  # name of the set in a run's history
BURN_IN = 0.18  # of the epochs: 18 of 100 in MentorNet's code
TRUSTED = 1000  # rows of the validation set that L2RW has, as many as in its paper

Record = dict[str, Any]
Probabilities = NDArray[np.float64]
MakeCriterion = Callable[[nn.Module], nn.Module]  # of the model that is trained


@dataclass(frozen=True)
class Cell:
    """Data and runs of one noise level under one seed.

    Attributes:
        folder: Of all of it.
        plan: What all methods have in common.
        noise: Share of wrong labels.
        seed: Of data, noise, weights, orders and searches.
    """

    folder: Path
    plan: Plan
    noise: float
    seed: int

    def pack(self, data: str, source: Path | None, /) -> None:
        """Write the catalogs, as far as they are not there; arguments as for the demo."""
        train_source, test_source = source_and_test(data, source, self.seed)
        hold_data(
            self.folder,
            data,
            source,
            seed=self.seed,
            noise=self.noise,
            limit=self.plan.limit,
            holdout=self.plan.holdout,
        )
        kind: dict[str, Any] = {"encoding": "raw", "seed": self.seed}
        noisy = {**kind, "holdout": self.plan.holdout, "label_noise": self.noise, "noise_seed": self.seed}
        if not (self.folder / "test" / FILE).exists():
            pack(test_source, self.folder / "test", **kind)
        if not (self.folder / "data/train" / FILE).exists():
            pack(train_source, self.folder / "data", limit=self.plan.limit, **noisy)
        if self.noise and not (self.folder / "noisy/train" / FILE).exists():
            few = self.plan.holdout + 1  # the holdout is the same rows whatever the limit: leave out the others
            pack(train_source, self.folder / "noisy", limit=few, noise_holdout=True, **noisy)

    @cached_property
    def setups(self) -> dict[str, Setup]:
        """Data and model by validation; without noise both are the clean one."""
        data = self.folder / "data"
        clean = Setup(data / "train", self.plan.model, data / "holdout", self.folder / "test", self.plan.batch_size)
        return {
            "clean": clean,
            "noisy": replace(clean, held_out=self.folder / "noisy/holdout") if self.noise else clean,
        }

    @cached_property
    def loader(self) -> Loader:
        """Over the training rows; each run replaces its stream."""
        return self.setups["clean"].training_loader()

    @cached_property
    def sets(self) -> dict[str, Loader]:
        """All sets that a run is evaluated on after each epoch."""
        sets = self.setups["clean"].evaluation_loaders()
        if self.noise:
            sets["held_out_noisy"] = replace(self.setups["noisy"], test=None).evaluation_loaders()["held_out"]
        return sets

    def close(self) -> None:
        """Free the loaders."""
        for loader in (self.loader, *self.sets.values()):
            loader.close()

    def runs(self, method: str, validation: str, /) -> dict[str, Record]:
        """Records of a method's training runs, by the name in the table: one, or one for each share of `drop`."""
        judge = validation if self.noise else "clean"
        burn_in = round(BURN_IN * self.plan.recipe.epochs)
        match method:
            case "uniform":
                return {method: self.uniform()}
            case "drop":
                self.uniform()
                loss = FeatureTable.open(self.folder / "features").columns("loss")["loss"]
                names = dict(zip(folders(method, judge), DROPPED, strict=True))
                return {name: self.train(name, without_highest(loss, share)) for name, share in names.items()}
            case "clean-only":
                return {method: self.train(method, right_rows(self.setups["clean"].data))}
            case "reed-soft":
                return {method: self.train(method, criterion=lambda _: Reed("soft"))}
            case "reed-hard":
                return {method: self.train(method, criterion=lambda _: Reed("hard"))}
            case "mentornet":
                return {method: self.train(method, criterion=lambda _: SelfPaced(burn_in=burn_in))}
            case "l2rw":
                return {
                    method: self.train(folders(method, judge)[0], criterion=lambda model: self._learned(model, judge))
                }
            case _:
                return {method: self.swift(method, judge)}

    def swift(self, method: str, judge: str, /) -> Record:
        """Search a sampler, train with it, and keep uniform's model where the sampler's is no better.

        `swift-paper` is kept in any case. The record is that of the training; its `history` is the kept model's, and
        `guard` says which that is. A search that finds no sampler gives the uniform run without another training.
        """
        (name,), setup = folders(method, judge), self.setups[judge]
        search, control = self.search(method, judge), self.uniform()
        if search["winner"] == "uniform":
            return control | {"search": search, "guard": None}
        found = Sampling(self.folder / f"search-{name}/sampler.json", self.features(method))
        trained = self.train(name, found.probabilities(setup), keep=True)
        if method == PAPER:
            return trained | {"search": search, "guard": None}
        path = self.folder / name / "guard.json"
        identity = {
            "held_out": Catalog.open(setup.held_out or "").fingerprint,
            "uniform": control["identity"],
            "sampler": trained["identity"],
        }
        if finished_record(path, "guard", identity) is None:
            weights = [self.folder / run / "last.safetensors" for run in ("uniform", name)]
            test = compare_finished(setup, *weights)
            write_record(
                path, "guard", {**asdict(test), "better": test.better, "message": test.message, "identity": identity}
            )
        guard = read_record(path, "guard")
        kept = trained if guard["better"] else control
        unguarded = trained["result"]["last"]
        return trained | {"history": kept["history"], "search": search, "guard": guard, "unguarded": unguarded}

    def uniform(self) -> Record:
        """Train uniformly; the tracker's averages go to `features`, the weights to `uniform/last.safetensors`."""
        return self.train("uniform", tracker=Tracker(len(self.setups["clean"].data)))

    def train(
        self,
        name: str,
        probabilities: Probabilities | None = None,
        /,
        *,
        criterion: MakeCriterion | None = None,
        tracker: Tracker | None = None,
        keep: bool = False,
    ) -> Record:
        """Train once from scratch, in the folder `name`; a run that is finished is read, a killed one goes on.

        With a tracker its averages go to `features`. With it, or to `keep` them, the last weights are written.

        Raises:
            ValueError: The folder holds a run with other settings.
        """
        setup, folder = self.setups["clean"], self.folder / name
        recipe = replace(self.plan.recipe, seed=self.seed)
        rows = len(setup.data) if probabilities is None else probabilities
        self.loader.replace_stream(IndexStream(rows, seed=self.seed))
        model = setup.build(self.seed)
        loss = criterion(model) if criterion is not None else None
        settings: dict[str, Any] = {
            "method": name,
            "seed": self.seed,
            "model": setup.model,
            "catalog": setup.catalog,
            "catalog_fingerprint": setup.data.fingerprint,
            "stream": self.loader.stream.fingerprint,
            "criterion": repr(loss),
            "recipe": asdict(recipe),
            "global_batch": setup.global_batch,
            "identity": training_identity(
                model,
                self.loader,
                recipe,
                evaluate=self.sets,
                select="held_out",
                tracked=tracker is not None,
                criterion=loss,
                about=model_identity(setup.model),
            ),
        }
        path = folder / "run.json"
        finished = finished_record(path, "train", settings["identity"])
        if finished is not None:
            return finished
        with Progress(f"noise {self.noise:g}, seed {self.seed}, {name}", "epochs") as progress:
            run = train(
                model,
                self.loader,
                recipe,
                evaluate=self.sets,
                select="held_out",
                checkpoint=folder / "checkpoint.pt",
                tracker=tracker,
                criterion=loss,
                identity=settings["identity"],
                on_epoch=lambda epoch: progress.update(
                    epoch.epoch + 1, recipe.epochs, f"test {epoch.accuracy['test']:.2f} %"
                ),
            )
        if tracker is not None or keep:
            save_weights(folder / "last.safetensors", model.state_dict())
        if tracker is not None:
            tracker.export(self.folder / "features", setup.data, model_name=setup.model)
        result = {"set": "test", "last": run.last("test"), "best": run.best("test"), "best_epoch": run.best_epoch}
        extra = loss.work.tolist() if isinstance(loss, LearnedWeights) else [0, 0]
        done = {"history": [asdict(epoch) for epoch in run.history], "seconds": run.seconds, "result": result}
        record = write_record(path, "train", {**settings, **done, "extra_forward_backward": extra})
        (folder / "checkpoint.pt").unlink()
        return record

    def features(self, method: str, /) -> Path:
        """The feature table of a search: the tracker's averages of the uniform run; for the paper its last model's."""
        self.uniform()
        if method != PAPER:
            return self.folder / "features"
        table = self.folder / "features-last"
        features_job(self.setups["clean"], self.folder / "uniform/last.safetensors", table)
        return table

    def objective(self, judge: str, method: str = "swift") -> FineTune:
        """Scores a candidate on a validation set, as in the demo, from the last weights of the uniform run."""
        plan = self.plan
        paper = method == PAPER
        epochs = PAPER_EPOCHS if paper else plan.fine_tune.epochs
        return fine_tuning(
            self.setups[judge],
            self.folder / "uniform/last.safetensors",
            replace(plan.fine_tune, epochs=epochs, seed=self.seed),
            plan.confirm or plan.recipe,
            share=1.0 if paper else plan.share,
            scratch=plan.confirm is None,
        )

    def options(self, method: str, /) -> dict[str, Any]:
        """Keywords of a search."""
        confirm = {"confirm_top": self.plan.confirm_top, "confirm_seeds": self.plan.confirm_seeds}
        return {"trials": self.plan.trials, **confirm, **SEARCHES[method]}

    def search(self, method: str, judge: str) -> Record:
        """Search a sampler on the features of the uniform run; the record of `search_job`."""
        table, options, objective = self.features(method), self.options(method), self.objective(judge, method)
        out = self.folder / f"search-{method}-{judge}"
        try:
            return search_job(self.setups[judge], table, objective, out, seed=self.seed, options=options)
        finally:
            objective.loader.close()
            objective.held_out.close()

    def _learned(self, model: nn.Module, judge: str) -> LearnedWeights:
        """L2RW that trusts the first rows of a validation set, which are balanced over the classes."""
        images: list[Tensor] = []
        labels: list[Tensor] = []
        for batch in self.sets[VALIDATION[judge]]:
            images.append(batch.images)
            labels.append(batch.labels)
            if sum(map(len, labels)) >= TRUSTED:
                break
        trusted = torch.cat(images)[:TRUSTED], torch.cat(labels)[:TRUSTED]
        return LearnedWeights(model, *trusted, batch_size=self.plan.batch_size, seed=self.seed)


def without_highest(loss: NDArray[np.float32], share: float, /) -> Probabilities:
    """P over the rows (N,): 0 for the round(share N) rows of the highest loss, else equal; of ties the first stay."""
    kept = np.argsort(loss, kind="stable")[: loss.size - round(share * loss.size)]
    probabilities = np.zeros(loss.size)
    probabilities[kept] = 1 / kept.size
    return probabilities


def right_rows(catalog: Catalog, /) -> Probabilities:
    """P over the rows (N,): equal for those whose label is the true one, else 0."""
    if catalog.clean_label is None:
        return np.full(len(catalog), 1 / len(catalog))
    right: Probabilities = (catalog.label == catalog.clean_label).astype(np.float64)
    right /= right.sum()
    return right
