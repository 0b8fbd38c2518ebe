"""Draws of a training run: from a file, by a method of budgeted training, or uniform; opened and checked."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drawstream.features import FeatureTable
from drawstream.samplers import IndexStream, SwiftSampler
from drawstream.samplers.files.weights_file import read_weights
from drawstream.samplers.orders.schedule import Schedule, is_schedule
from drawstream.samplers.swift.sampler import is_sampler
from drawstream.tools.runs.identity import named_identity
from drawstream.tools.runs.progress import notes_of, tell_notes
from drawstream.tools.training.embeddings import embed
from drawstream.tools.training.methods.methods import NAMES, WARMUP, Budget, Inputs, Plan, plan
from drawstream.tools.training.methods.own_sampler import is_own, own_plan
from drawstream.tools.training.models import load_weights
from drawstream.tools.training.recipe import Recipe
from drawstream.tools.training.setup import Setup
from drawstream.tools.training.transfer import carry

FULL = Budget()
USED = {  # options that each way of drawing uses; other methods use none
    "uniform": (),
    "schedule": (),
    "weights": ("mode", "column"),
    "swift": ("mode", "table", "join", "frozen"),
    "rho": ("table", "join", "column"),
    "coreset-forgetting": ("table", "join"),
}
GOES_WITH = {
    "mode": "a sampler.json, weights or your own sampler",
    "table": "a sampler.json, rho, coreset-forgetting or your own sampler",
    "join": "a --table",
    "frozen": "a sampler.json",
    "column": "weights or rho",
}


@dataclass(frozen=True, slots=True)
class Sampling:
    """Where the training stream comes from: a file, a method of budgeted training, or (None) uniform.

    Attributes:
        sampler: `sampler.json`; a schedule (.arrow); weights (`samplers.weights_file`); or, as a string, the name of a
            method (`methods.NAMES`), or `module:factory` (`own_sampler`).
        table: Folder of the feature table that the sampler reads.
        mode: Mode of the stream of a sampler or of weights.
        join: Files whose columns are joined to the table.
        frozen: Keep the sampler's stored tables where the feature table is not the one it was fitted on.
        budget: Part of a full run.
        column: Of a file of weights, or of the table where RHO-loss finds the irreducible losses; by default `loss`.
        score_weights: Of the model whose embeddings `coreset-k_center` takes; by default the initial ones.
    """

    sampler: Path | str | None = None
    table: Path | None = None
    mode: str = "stratified"
    join: tuple[Path, ...] = ()
    frozen: bool = False
    budget: Budget = FULL
    column: str | None = None
    score_weights: Path | None = None

    @property
    def method(self) -> str:
        """Return the method's name in reports."""
        if self.sampler is None or isinstance(self.sampler, str):
            return self.sampler or "uniform"
        if is_sampler(self.sampler):
            return "swift"
        if not self.sampler.exists():
            raise ValueError(f"the sampler must be a file or one of {', '.join(NAMES)}, but got {str(self.sampler)!r}")
        return "schedule" if is_schedule(self.sampler) else "weights"

    def plan(self, setup: Setup, recipe: Recipe, /, *, factor: int = 1) -> Plan:
        """Plan a run's draws, its epochs and its part in the loop; a filter draws `factor` times the rows.

        Raises:
            ValueError: The sampler does not fit the catalog, the table, the recipe or an option.
        """
        self.budget.require(self.method)
        draws, path = factor * self.budget.of(len(setup.data)), self.sampler
        if isinstance(path, str):
            return self._method_plan(path, setup, recipe, factor)
        if path is not None and not is_sampler(path):
            if is_schedule(path):
                return Plan(self._replay(path, setup, recipe, factor), recipe.epochs)
            weights = read_weights(path, column=self.column, catalog=setup.data)
            if setup.ranks.writes:
                tell_notes(weights.notes)
            values = np.array(weights.values)
            return Plan(IndexStream(values, mode=self.mode, seed=recipe.seed, draws=draws), recipe.epochs)
        probabilities = self.probabilities(setup)
        if probabilities is None:  # over crops too: an epoch costs what it costs over whole images
            return Plan(IndexStream(len(setup.data), seed=recipe.seed, draws=draws), recipe.epochs)
        return Plan(IndexStream(probabilities, mode=self.mode, seed=recipe.seed, draws=draws), recipe.epochs)

    def refuse_unused(self) -> None:
        """Refuse options that would do nothing here; a table without a sampler has a line of its own.

        Raises:
            ValueError: An option is given that this way of drawing does not use.
        """
        own = isinstance(self.sampler, str) and is_own(self.sampler)
        used = ("mode", "table", "join") if own else USED.get(self.method, ())
        given = {
            "mode": self.mode != "stratified",
            "table": self.table is not None and self.sampler is not None,
            "join": bool(self.join),
            "frozen": self.frozen,
            "column": self.column is not None,
        }
        for name in (name for name, is_given in given.items() if is_given):
            if name not in used or (name == "join" and self.table is None):
                what = "there is none" if self.sampler is None else f"--sampler is {self.sampler}"
                raise ValueError(f"--{name} goes with {GOES_WITH[name]}, but {what}: leave it out")

    def _replay(self, path: Path, setup: Setup, recipe: Recipe, factor: int) -> IndexStream:
        schedule = Schedule.open(path, catalog=setup.data.fingerprint)
        if factor > 1 or self.budget.share < 1:
            raise ValueError(f"{path}: a schedule fixes what is drawn: leave out --budget and --crop-filter")
        if recipe.epochs > schedule.epochs:
            raise ValueError(f"{path} holds {schedule.epochs} epochs, but --epochs is {recipe.epochs}: train fewer")
        return IndexStream(schedule, seed=recipe.seed)

    def _method_plan(self, name: str, setup: Setup, recipe: Recipe, factor: int) -> Plan:
        if factor > 1:
            raise ValueError(f"a crop filter draws for itself, but the sampler is {name}: leave out one of them")
        if is_own(name):
            rows = len(setup.data)
            offered: dict[str, Any] = {
                "rows": rows,
                "labels": setup.data.label,
                "epochs": recipe.epochs,
                "seed": recipe.seed,
            }
            offered["table"] = None if self.table is None else self._whole_images(self.table, name, setup)
            draws = self.budget.of(rows)
            return own_plan(name, recipe.epochs, offered, draws=draws, mode=self.mode, seed=recipe.seed)

        def column(wanted: str) -> NDArray[np.float32]:
            if self.table is None:
                raise ValueError(f"{name} needs a feature table with a column {wanted}: give --table")
            return self._whole_images(self.table, name, setup).columns(wanted)[wanted]

        def embeddings() -> NDArray[np.float32]:
            model = setup.build(recipe.seed)
            if self.score_weights is not None:
                load_weights(model, self.score_weights)
            return embed(setup, model)

        inputs = Inputs(lambda: setup.data.label, column, embeddings, self.column or "loss")
        sizes = {"batch_size": setup.batch_size, "seed": recipe.seed}
        return plan(name, len(setup.data), recipe.epochs, self.budget, inputs, **sizes)

    def _whole_images(self, path: Path, name: str, setup: Setup) -> FeatureTable:
        """The feature table, whose row i is image i of the catalog."""
        table = FeatureTable.open(path, join=self.join, catalog=setup.data)
        if table.windows is not None or not np.array_equal(table.sample_id, np.arange(len(setup.data))):
            raise ValueError(f"{path}: {name} needs one row for each image of the catalog, in its order")
        return table

    def identity(self, setup: Setup, /) -> dict[str, Any]:
        """Return what decides the draws beside the stream, which the training's identity has.

        The stream's fingerprint holds what came of a file, whatever its path; own samplers are known by their source.
        """
        own = str(self.sampler) if isinstance(self.sampler, str) and is_own(self.sampler) else ""
        table = None if self.table is None else FeatureTable.open(self.table, join=self.join, catalog=setup.data)
        return {
            "sampler": self.method,
            **named_identity("sampler", own),
            "mode": None if self.sampler is None or self.sampler in NAMES else self.mode,
            "table": None if table is None else table.fingerprint,
            **asdict(self.budget),
            "warmup": None if self.budget.warmup == WARMUP else self.budget.warmup,  # None is that number
        }

    def as_dict(self) -> dict[str, Any]:
        """Return what a record keeps beside the files."""
        return {
            "name": self.method,
            "budget": self.budget.share,
            "paper": self.budget.paper,
            "warmup": self.budget.warmup,
            "column": self.column,
            "score_weights": None if self.score_weights is None else str(self.score_weights),
        }

    def probabilities(self, setup: Setup) -> NDArray[np.float64] | None:
        """P over the rows of the table, float64; None for uniform.

        Raises:
            ValueError: One of sampler and table is missing, the table was made from another catalog or lacks a column.
        """
        if self.sampler is None and self.table is None:
            return None
        if self.table is None or not isinstance(self.sampler, Path):
            raise ValueError(
                "a sampler needs the feature table that it reads, and the other way round: "
                "give both --sampler and --table"
            )
        table = FeatureTable.open(self.table, join=self.join, catalog=setup.data)
        if setup.ranks.writes:
            tell_notes(notes_of(table))
        sampler = carry(SwiftSampler.load(self.sampler), table, frozen=self.frozen)
        return sampler.probabilities(table.columns(*sampler.features))
