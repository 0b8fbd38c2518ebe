"""`drawstream train --crop-filter`: the training loader's crops, thinned out by a sampler and a scoring model."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from drawstream.features import CropScorer
from drawstream.pipeline import CropFilter, Loader
from drawstream.samplers.swift import SwiftSampler
from drawstream.tools.training import Setup, build_model, check_built, load_weights

FACTOR = 2  # crops drawn for each one trained on


@dataclass(frozen=True, slots=True)
class Filtering:
    """Settings of the filter that chooses among the crops of a step.

    Attributes:
        sampler: `sampler.json`, whose tables were made from crops.
        weights: Of the scoring model.
        model: Its name; None: as the trained one.
        factor: Crops drawn for each one that is trained on, m.
    """

    sampler: Path
    weights: Path
    model: str | None = None
    factor: int = FACTOR

    def __post_init__(self) -> None:
        if self.factor < 2:
            raise ValueError(f"`crop-factor >= 2` must hold, but got {self.factor}: with 1 there is nothing to choose")

    def apply(self, setup: Setup, loader: Loader) -> CropFilter:
        """The filter over a loader of batches that are `factor` times as large."""
        sampler = SwiftSampler.load(self.sampler)
        name = self.model or setup.model
        classes, channels, size = setup.data.num_classes, setup.input_channels, setup.transforms[0].size
        model = build_model(name, num_classes=classes, channels=channels, size=size, seed=0)
        check_built(model, name, num_classes=classes, channels=channels, size=size, trained=False)
        load_weights(model, self.weights)
        return CropFilter(loader, sampler, CropScorer(model, measures=sampler.features), keep=1 / self.factor)

    def as_dict(self) -> dict[str, Any]:
        """As a record keeps it."""
        return {key: str(value) if isinstance(value, Path) else value for key, value in asdict(self).items()}


def filtering_of(
    sampler: Path | None, weights: Path | None, model: str | None, factor: int | None, /
) -> Filtering | None:
    """The filtering that options ask for, or none.

    Raises:
        ValueError: One of sampler and weights is missing.
    """
    if sampler is None and weights is None and model is None:
        return None
    if sampler is None or weights is None:
        raise ValueError("a crop filter needs the model that scores: give both --crop-filter and --score-weights")
    return Filtering(sampler, weights, model, FACTOR if factor is None else factor)
