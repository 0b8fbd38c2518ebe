"""The built-in objective of the searches: train with the candidate's stream, then top-1 on the held-out set."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from drawstream.features import FeatureTable
from drawstream.features.options import state_hash
from drawstream.pipeline import RICAP, Loader, Mixup
from drawstream.samplers import IndexStream
from drawstream.search import Trial
from drawstream.search.objective import Stage
from drawstream.tools.runs.identity import loader_identity, model_identity, part_identity
from drawstream.tools.training.loop import Recipe, train
from drawstream.tools.training.methods.plan import LoopParts
from drawstream.tools.training.models import load_weights
from drawstream.tools.training.setup import Setup, crop_rows


@dataclass(slots=True)
class FineTune:
    """Scores probabilities over the rows of `loader`; higher is better (per cent).

    In the search a candidate fine-tunes the weights w0 that uniform training gave (Swift Sampler, §3.4), for a part of
    an epoch: on Fashion-MNIST with 40 % label noise a tenth of an epoch ranked 19 candidates as well as two epochs did
    (Spearman .93 with 20 epochs from scratch, both). In the confirmation the best few fine-tune for longer, under
    other seeds, or are trained from scratch.

    Attributes:
        loader: Over the training rows, samples or crops; its stream is replaced by each candidate's.
        held_out: Sequential loader of the held-out set, never the test set.
        build: Makes a freshly initialised model from a seed.
        start: State dict w0.
        search: Recipe of the fine-tuning; its seed serves all candidates, so that they differ by their samplers alone.
        confirm: Recipe of the second run; run under the seeds of the confirmation.
        share: Draws of an epoch of the fine-tuning, as a share of the samples.
        scratch: Whether the confirmation trains from scratch; else it fine-tunes w0.
        mix: Mixes the images of a step, as in the training that the search is for.
        model: What a record says of the model: `model_identity`.
    """

    loader: Loader
    held_out: Loader
    build: Callable[[int], nn.Module]
    start: dict[str, Tensor]
    search: Recipe
    confirm: Recipe
    share: float = 1.0
    scratch: bool = False
    mix: Mixup | RICAP | None = None
    model: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ValueError(f"`0 < share <= 1` must hold, but got {self.share}")

    def __call__(self, probabilities: NDArray[np.float64], trial: Trial, /) -> float:
        """Top-1 per cent on the held-out set after training with these probabilities."""
        searching = trial.stage == "search"
        recipe = self.search if searching else replace(self.confirm, seed=trial.seed)
        draws = self.draws(trial.stage)
        self.loader.replace_stream(IndexStream(probabilities, mode="stratified", seed=recipe.seed, draws=draws))
        model = self.build(recipe.seed)
        if searching or not self.scratch:
            model.load_state_dict(self.start)
        sets, parts = {"held_out": self.held_out}, LoopParts(mix=self.mix)
        run = train(model, self.loader, recipe, evaluate=sets, every=recipe.epochs, parts=parts)
        return run.last("held_out")

    @property
    def identity(self) -> dict[str, Any]:
        """Return the settings that decide the scores."""
        batches = {key: value for key, value in loader_identity(self.loader).items() if key != "stream"}
        return {
            **self.model,
            **batches,
            "held_out": self.held_out.catalog.fingerprint,
            "start": state_hash(self.start),
            "fine_tune": asdict(self.search),
            "share": self.share,
            "confirm": asdict(self.confirm),
            "scratch": self.scratch,
            "mixing": part_identity(self.mix),
        }

    def draws(self, stage: Stage, /) -> int:
        """Draws of an epoch of a run."""
        samples = len(self.loader.catalog)  # fewer than rows where these are crops
        return max(1, round(self.share * samples)) if stage == "search" else samples

    def steps(self, stage: Stage, /) -> int:
        """Optimizer steps of a run."""
        self.loader.replace_stream(IndexStream(self.loader.stream.rows, draws=self.draws(stage)))
        return (self.search if stage == "search" else self.confirm).epochs * len(self.loader)


def flush_denormals() -> None:
    """Treat denormal floats as 0: near-zero losses otherwise make training on the CPU three times slower."""
    torch.set_flush_denormal(True)


def fine_tuning(
    setup: Setup,
    start: Path,
    search: Recipe,
    confirm: Recipe,
    /,
    *,
    share: float,
    scratch: bool,
    rows: FeatureTable | None = None,
) -> FineTune:
    """The built-in objective, over the setup's held-out set.

    Args:
        setup: Data and model.
        start: Weights from which candidates fine-tune.
        search: Recipe of the fine-tuning.
        confirm: Recipe of the second run.
        share: Draws of an epoch of the fine-tuning, as a share of the samples.
        scratch: Whether the confirmation trains from scratch.
        rows: Crops that the candidates draw from; None: whole samples.

    Raises:
        ValueError: There is no held-out set, or the weights do not fit the model.
    """
    held_out = setup.evaluation_loaders().get("held_out")
    if held_out is None:
        raise ValueError("the search needs a held-out catalog to score candidates on: give --held-out")
    model = setup.build(0)
    load_weights(model, start)
    data = (setup.training_loader(rows=rows), held_out, setup.build, model.state_dict())
    known = model_identity(setup.model)
    return FineTune(*data, search, confirm, share=share, scratch=scratch, mix=setup.mix(search.seed), model=known)


@dataclass(frozen=True)
class FineTuning:
    """An objective for the workers of a search; the arguments are those of `fine_tuning`, with files by their paths.

    Attributes:
        setup: Data and model.
        start: Weights from which candidates fine-tune.
        search: Recipe of the fine-tuning.
        confirm: Recipe of the second run.
        share: Draws of an epoch of the fine-tuning, as a share of the samples.
        scratch: Whether the confirmation trains from scratch.
        table: Feature table whose rows may be crops.
    """

    setup: Setup
    start: Path
    search: Recipe
    confirm: Recipe
    share: float
    scratch: bool
    table: Path

    @property
    def device(self) -> str:
        """Where it trains: a Ray cluster gives each worker a GPU for "gpu"."""
        return self.setup.device

    @cached_property
    def built(self) -> FineTune:
        """Loaders and weights, opened in this process.

        Raises:
            ValueError: There is no held-out set, or the weights do not fit the model.
        """
        flush_denormals()
        return fine_tuning(
            self.setup,
            self.start,
            self.search,
            self.confirm,
            share=self.share,
            scratch=self.scratch,
            rows=crop_rows(self.table, self.setup),
        )

    @property
    def identity(self) -> dict[str, Any]:
        """Return the settings that decide the scores, as `FineTune.identity`."""
        return self.built.identity

    def __call__(self, probabilities: NDArray[np.float64], trial: Trial, /) -> float:
        """Top-1 per cent on the held-out set after training with these probabilities."""
        return self.built(probabilities, trial)

    def __getstate__(self) -> dict[str, Any]:
        """The ingredients alone: what was opened stays here."""
        state = {name: value for name, value in self.__dict__.items() if name != "built"}
        return state | {"setup": replace(self.setup)}
