"""The methods of the label-noise benchmark at one noise level under one seed: a training in a folder each.

uniform/ ──tracker──▶ features/ ──▶ search-swift-clean/, …
uniform/ and swift-clean/ ──▶ swift-clean/guard.json, which of the two is kept
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from drawstream.features import Suspects, find_suspects
from drawstream.features.table import FeatureTable
from drawstream.pipeline.shards import Catalog
from drawstream.samplers.orders import IndexStream
from drawstream.search.swift import Guard, Proposals
from drawstream.tools.bench import Cell, Record
from drawstream.tools.bench.noise.methods import CLEAN, DROPPED, PAPER, PAPER_EPOCHS, folders, search_options
from drawstream.tools.jobs import FeaturesJob, SearchJob, features_job, search_job
from drawstream.tools.runs import finished_record, pick, write_record
from drawstream.tools.training import FineTune, compare_finished
from drawstream.tools.training.methods import Clean, Sampling, make_loss

__all__ = ["NoiseCell", "right_rows", "without_highest", "without_suspects"]

Probabilities = NDArray[np.float64]
Criterion = Callable[[nn.Module], nn.Module | None]


@dataclass(frozen=True)
class NoiseCell(Cell):
    """Data and runs of the methods of the label-noise benchmark."""

    def runs(self, method: str, validation: str, /) -> dict[str, Record]:
        """Return the records of a method's training runs, by name: one, or one for each share of `drop`."""
        validation = validation if self.noise else "clean"
        if method == "uniform":
            return {method: self.uniform()}
        if search_options(method) is not None:
            return {method: self.swift(method, validation)}
        names = folders(method, validation)
        if method == "drop":
            self.uniform()
            loss = FeatureTable.open(self.folder / "features").columns("loss")["loss"]
            return {
                name: self.train(name, without_highest(loss, share)) for name, share in zip(names, DROPPED, strict=True)
            }
        if method in CLEAN:
            return {method: self.clean(method)}
        if method == "suspects":
            return {method: self.train(method, without_suspects(self.suspects()))}
        if method == "clean-only":
            return {method: self.train(method, right_rows(self.setup.data))}
        return {method: self.train(names[0], criterion=self._criterion(method, validation))}

    def _criterion(self, method: str, validation: str) -> Criterion:
        """Maker of a method's loss; the validation set has the rows that it trusts."""
        recipe = replace(self.plan.recipe, seed=self.seed)
        return lambda model: make_loss(method, model, self.setups[validation], recipe)

    def uniform(self) -> Record:
        """Train uniformly; the tracker's averages go to `features`."""
        return self.train("uniform", track=True)

    def train(self, name: str, probabilities: Probabilities | None = None, /, **options: Any) -> Record:
        """Train once on draws of P, by default uniform ones; arguments as of `train_once`."""
        stream = IndexStream(self.rows if probabilities is None else probabilities, seed=self.seed)
        return self.train_once(name, stream, replace(self.plan.recipe, seed=self.seed), **options)

    def suspects(self) -> Suspects:
        """Return what the tracker of the uniform run says of the labels."""
        self.uniform()
        return find_suspects(FeatureTable.open(self.folder / "features"), self.setup.data.num_classes)

    def clean(self, method: str, /) -> Record:
        """Train with `--sampler clean`: by the table of the uniform run, or refitted as the training goes."""
        options, recipe = Clean(**CLEAN[method]), replace(self.plan.recipe, seed=self.seed)
        if options.refresh is not None:
            return self.train_once(method, Sampling("clean", clean=options), recipe)
        self.uniform()
        return self.train_once(method, Sampling("clean", self.folder / "features", clean=options), recipe)

    def swift(self, method: str, validation: str, /) -> Record:
        """Search a sampler, train with it, and keep uniform's model where the sampler's is no better.

        `swift-paper` is kept in any case. The record is that of the training; its `history` is the kept model's, and
        `guard` says which that is. A search that finds no sampler gives the uniform run without another training.
        """
        (name,), setup = folders(method, validation), self.setups[validation]
        search, control = self.search(method, validation), self.uniform()
        if search["winner"] == "uniform":
            return control | {"search": search, "guard": None}
        found = Sampling(self.folder / f"search-{name}/sampler.json", self.features(method))
        trained = self.train(name, found.probabilities(setup))
        if method == PAPER:
            return trained | {"search": search, "guard": None}
        path = self.folder / name / "guard.json"
        held_out = Catalog.open(setup.held_out or "").fingerprint
        identity = {"held_out": held_out, "uniform": control["identity"], "sampler": trained["identity"]}
        guard = finished_record(path, "guard", identity)
        if guard is None:
            test = compare_finished(setup, *(self.folder / run / "last.safetensors" for run in ("uniform", name)))
            found_test = {**asdict(test), "better": test.better, "message": test.message}
            guard = write_record(path, "guard", {**found_test, "identity": identity})
        kept = trained if guard["better"] else control
        told = {"search": search, "guard": guard, "unguarded": trained["result"]["last"]}
        return trained | {"history": kept["history"], **told}

    def features(self, method: str, /) -> Path:
        """Return a search's features: the tracker's over the uniform run; of `swift-paper` its last model's."""
        self.uniform()
        if method != PAPER:
            return self.folder / "features"
        table = self.folder / "features-last"
        features_job(FeaturesJob(self.setup, self.folder / "uniform/last.safetensors", table))
        return table

    def objective(self, validation: str, method: str = "swift") -> FineTune:
        """Return what scores a candidate on a validation set, from the last weights of the uniform run."""
        plan, paper = self.plan, method == PAPER
        epochs = PAPER_EPOCHS if paper else plan.fine_tune.epochs
        return FineTune(
            self.setups[validation],
            self.folder / "uniform/last.safetensors",
            replace(plan.fine_tune, epochs=epochs, seed=self.seed),
            plan.confirm or plan.recipe,
            share=1.0 if paper else plan.share,
            scratch=plan.confirm is None,
        )

    def search(self, method: str, validation: str) -> Record:
        """Search a sampler on the features of the uniform run; the record of `search_job`."""
        law = {**asdict(self.plan), "seed": self.seed, **(search_options(method) or {})}
        objective, out = self.objective(validation, method), self.folder / f"search-{method}-{validation}"
        parts = {"proposals": pick(Proposals, law), "guard": pick(Guard, law), "transform": law["transform"]}
        try:
            return search_job(SearchJob(self.setups[validation], self.features(method), objective, out, **parts))
        finally:
            objective.close()


def without_highest(loss: NDArray[np.float32], share: float, /) -> Probabilities:
    """P over the rows (N,): 0 for the round(share N) rows of the highest loss, else equal; of ties the first stay."""
    kept = np.argsort(loss, kind="stable")[: loss.size - round(share * loss.size)]
    probabilities = np.zeros(loss.size)
    probabilities[kept] = 1 / kept.size
    return probabilities


def without_suspects(found: Suspects, /) -> Probabilities:
    """P over the rows (N,): 0 where the label is wrong with a probability of 1/2 or more, as `suspects` drops them."""
    kept: Probabilities = (found.wrong < 0.5).astype(np.float64)
    kept /= kept.sum()
    return kept


def right_rows(catalog: Catalog, /) -> Probabilities:
    """P over the rows (N,): equal for those whose label is the true one, else 0."""
    if catalog.clean_label is None:
        return np.full(len(catalog), 1 / len(catalog))
    right: Probabilities = (catalog.label == catalog.clean_label).astype(np.float64)
    right /= right.sum()
    return right
