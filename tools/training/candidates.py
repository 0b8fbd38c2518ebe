"""The built-in objective as a thing that travels: its ingredients, from which each process builds its own."""

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drawstream.search import Trial
from drawstream.tools.training.finetune import FineTune, fine_tuning, flush_denormals
from drawstream.tools.training.loop import Recipe
from drawstream.tools.training.setup import Setup, crop_rows


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
        """What decides the scores, as `FineTune.identity`."""
        return self.built.identity

    def __call__(self, probabilities: NDArray[np.float64], trial: Trial, /) -> float:
        """Top-1 per cent on the held-out set after training with these probabilities."""
        return self.built(probabilities, trial)

    def __getstate__(self) -> dict[str, Any]:
        """The ingredients alone: what was opened stays here."""
        state = {name: value for name, value in self.__dict__.items() if name != "built"}
        return state | {"setup": replace(self.setup)}
