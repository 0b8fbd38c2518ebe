"""The built-in objective of the searches: train with the candidate's stream, then top-1 on the held-out set."""

from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from drawstream.features import CropScorer, state_hash
from drawstream.features.table import FeatureTable, rows_where
from drawstream.pipeline import CropFilter, Loader
from drawstream.samplers.methods import balanced
from drawstream.samplers.orders import Capped, IndexStream
from drawstream.search import Stage, Trial
from drawstream.tools.experiments import KIND_METRICS, METRICS, lower_is_better
from drawstream.tools.runs import loader_identity, model_identity, part_identity
from drawstream.tools.training.evaluation import Evaluation, Metric
from drawstream.tools.training.loop import train
from drawstream.tools.training.methods import LoopParts, make_loss
from drawstream.tools.training.models import load_weights
from drawstream.tools.training.recipe import Recipe
from drawstream.tools.training.setup import Setup, crop_rows


@dataclass(frozen=True)
class FineTune:
    """Scores probabilities over the training rows; higher is better. Workers open the files themselves.

    In the search a candidate fine-tunes the weights w0 that uniform training gave (Swift Sampler, §3.4), for a part of
    an epoch: on Fashion-MNIST with 40 % label noise a tenth of an epoch ranked 19 candidates as well as two epochs did
    (Spearman .93 with 20 epochs from scratch, both). In the confirmation the best few fine-tune for longer, under
    other seeds, or are trained from scratch.

    Attributes:
        setup: Data and model; the held-out set scores, never the test set.
        start: File of the weights w0.
        search: Recipe of the fine-tuning; its seed serves all candidates, so that they differ by their samplers alone.
        confirm: Recipe of the second run; run under the seeds of the confirmation.
        share: Draws of an epoch of the fine-tuning, as a share of the samples.
        scratch: Train from scratch in the confirmation, else fine-tune w0.
        table: Feature table whose rows may be crops; None: whole samples.
        factor: Rows that are drawn uniformly for each one that a candidate keeps, as training will do; 1: it draws by
            itself. A candidate is scored under the contrast that it will be trained with.
        random_crops: These rows are random crops of the samples, scored by w0 (`CropFilter`), not those of the table.
        metric: Of the held-out set, the score (an error counts as negative); None: the main one of its labels.
        balance: γ of the classes under every candidate, see `samplers.methods.balance`.
        where: Condition on the rows that are drawn, over the catalog's columns and the table's.
        join: Files whose columns are joined to the table.
    """

    setup: Setup
    start: Path
    search: Recipe
    confirm: Recipe
    share: float = 1.0
    scratch: bool = False
    table: Path | None = None
    factor: int = 1
    random_crops: bool = False
    metric: Metric | None = None
    balance: float = 0.0
    where: str | None = None
    join: tuple[Path, ...] = ()

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ValueError(f"`0 < share <= 1` must hold, but got {self.share}")
        if self.metric not in (None, *METRICS):
            raise ValueError(f"`metric` must be one of {', '.join(METRICS)}, but got {self.metric!r}")
        if self.factor < 1 + self.random_crops:
            raise ValueError(f"`crop-factor >= {1 + self.random_crops}` must hold, but got {self.factor}")
        if self.factor > 1 and (self.balance or self.where is not None):
            raise ValueError(
                "--crop-factor keeps a part of rows that are drawn uniformly: leave out --balance and --where"
            )

    @property
    def reads_sampler(self) -> bool:
        """Whether it needs the candidate's tables besides its probabilities."""
        return self.random_crops

    @property
    def device(self) -> str:
        """Where it trains: a Ray cluster gives each worker a GPU for "gpu"."""
        return self.setup.device

    @cached_property
    def held_out(self) -> Loader:
        """Sequential loader of the held-out set.

        Raises:
            ValueError: There is none.
        """
        held_out = self.setup.evaluation_loaders("held_out").get("held_out")
        if held_out is None:
            raise ValueError("the search needs a held-out catalog to score candidates on: give --held-out")
        return held_out

    @property
    def chosen(self) -> str:
        """Name of the metric.

        Raises:
            ValueError: The labels have no such metric.
        """
        kind = self.setup.data.label_kind
        known = KIND_METRICS[kind]
        if not known:
            self.setup.data.require_labels("scoring candidates on a held-out set")
        if self.metric is not None and self.metric not in known:
            raise ValueError(f"labels of kind {kind} have {', '.join(known)}, but --objective-metric is {self.metric}")
        return self.metric or known[0]

    @cached_property
    def weights(self) -> dict[str, Tensor]:
        """State dict w0.

        Raises:
            ValueError: The file does not fit the model.
        """
        model = self.setup.build(0)
        load_weights(model, self.start)
        return model.state_dict()

    @cached_property
    def loader(self) -> Loader:
        """Over the training rows, samples or crops; its stream is replaced by each candidate's."""
        if self.random_crops:
            return self.setup.training_loader(self.factor)
        return self.setup.training_loader(rows=crop_rows(self.table, self.setup))

    def open(self) -> None:
        """Open loaders and weights, which otherwise the first score does; errors as theirs."""
        flush_denormals()
        _ = self.chosen, self.held_out, self.weights, self.loader, self.kept

    def close(self) -> None:
        """Free the loaders."""
        self.loader.close()
        self.held_out.close()

    def __call__(self, probabilities: NDArray[np.float64], trial: Trial, /) -> float:
        """The metric, per cent, or minus an error, on the held-out set after training with these probabilities."""
        self.open()
        searching = trial.stage == "search"
        recipe = self.search if searching else replace(self.confirm, seed=trial.seed)
        loader = self._drawn(probabilities, trial, recipe.seed)
        model = self.setup.build(recipe.seed)
        if searching or not self.scratch:
            model.load_state_dict(self.weights)
        evaluation = Evaluation({"held_out": self.held_out}, every=recipe.epochs)
        loss = make_loss(recipe.loss, model, self.setup, recipe)
        parts = LoopParts(mix=self.setup.mix(self.search.seed), criterion=loss)
        found = train(model, loader, recipe, parts=parts, evaluation=evaluation).last("held_out", self.chosen)
        return -found if lower_is_better(self.chosen) else found

    def _drawn(self, probabilities: NDArray[np.float64], trial: Trial, seed: int) -> Loader | CropFilter:
        """The loader with the candidate's draws, or the filter that chooses by it among the loader's crops."""
        draws = self.draws(trial.stage)
        if self.random_crops:
            assert trial.sampler is not None, "the search gives it to an objective that reads it"
            self.loader.replace_stream(IndexStream(len(self.loader.catalog), seed=seed, draws=self.factor * draws))
            scorer = CropScorer(self._scoring, measures=trial.sampler.features)
            return CropFilter(self.loader, trial.sampler, scorer, keep=1 / self.factor)
        if self.factor > 1:
            law = Capped(probabilities, draws, batch=self.setup.global_batch, factor=self.factor)
            self.loader.replace_stream(IndexStream(law, seed=seed))
        else:
            self.loader.replace_stream(self.stream(probabilities, seed, draws))
        return self.loader

    def stream(self, probabilities: NDArray[np.float64], seed: int, draws: int, /) -> IndexStream:
        """Return the stream of a candidate, its classes balanced, over the rows that may be drawn."""
        kept = self.kept
        if self.balance:
            weights = probabilities if kept is None else probabilities * kept
            probabilities = balanced(self._rows.label, self.balance, weights=weights)
        return IndexStream(probabilities, mode="stratified", seed=seed, draws=draws, where=kept)

    @property
    def drawn(self) -> dict[str, Any]:
        """Return balance and condition, as far as they are given: a sampler that is found is drawn by them, too."""
        given = {"balance": self.balance or None, "where": self.where}
        return {name: value for name, value in given.items() if value is not None}

    @cached_property
    def _rows(self) -> FeatureTable:
        """The feature table, whose rows a candidate draws."""
        if self.table is None:
            raise ValueError("--balance and --where need the rows of a feature table")
        return FeatureTable.open(self.table, join=self.join, catalog=self.setup.data)

    @cached_property
    def kept(self) -> NDArray[np.bool_] | None:
        """Rows that may be drawn, bool (rows,); None for all.

        Raises:
            ValueError: There is no such column, or no row is left.
        """
        return None if self.where is None else rows_where(self.where, self.setup.data, self._rows)

    @cached_property
    def _scoring(self) -> nn.Module:
        """The model with the weights w0, which scores crops."""
        model = self.setup.build(0)
        model.load_state_dict(self.weights)
        return model

    @property
    def identity(self) -> dict[str, Any]:
        """Return the settings that decide the scores."""
        self.open()
        batches = {key: value for key, value in loader_identity(self.loader).items() if key != "stream"}
        return {
            **model_identity(self.setup.model),
            **batches,
            "held_out": self.held_out.catalog.fingerprint,
            "start": state_hash(self.weights),
            "fine_tune": self.search.settings(),
            "share": self.share,
            "confirm": self.confirm.settings(),
            "scratch": self.scratch,
            "factor": self.factor if self.factor > 1 else None,
            "random_crops": self.random_crops or None,
            "metric": self.chosen,
            "balance": self.balance or None,
            "where": self.where,
            "mixing": part_identity(self.setup.mix(self.search.seed)),
        }

    def draws(self, stage: Stage, /) -> int:
        """Draws of an epoch of a run."""
        samples = len(self.loader.catalog)  # fewer than rows where these are crops
        if not self.random_crops and self.table is not None:
            ids = self._rows.sample_id
            samples = len(np.unique(ids if self.kept is None else ids[self.kept]))
        return max(1, round(self.share * samples)) if stage == "search" else samples

    def steps(self, stage: Stage, /) -> int:
        """Optimizer steps of a run."""
        drawn = self.factor if self.random_crops else 1
        self.loader.replace_stream(IndexStream(self.loader.stream.rows, draws=drawn * self.draws(stage)))
        return (self.search if stage == "search" else self.confirm).epochs * len(self.loader)

    def __getstate__(self) -> dict[str, Any]:
        """The ingredients alone: what was opened stays here."""
        return {each.name: getattr(self, each.name) for each in fields(self)} | {"setup": replace(self.setup)}


def flush_denormals() -> None:
    """Treat denormal floats as 0: near-zero losses otherwise make training on the CPU three times slower."""
    torch.set_flush_denormal(True)
