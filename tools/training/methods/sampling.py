"""Draws of a training run: from a file, by a method of the table, or uniform; opened and checked."""

import re
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import ArrayLike, NDArray

from drawstream.features.table import FeatureTable, rows_where
from drawstream.pipeline import RowFilter
from drawstream.samplers.files import read_weights
from drawstream.samplers.orders import Schedule, is_schedule
from drawstream.samplers.swift import SwiftSampler, is_sampler
from drawstream.tools.runs import named_identity, notes_of, tell_notes
from drawstream.tools.training import Recipe, Setup, carry, crop_rows, load_weights
from drawstream.tools.training.methods.embeddings import embed
from drawstream.tools.training.methods.mixture import mixed_plan, source_recipe, source_setups
from drawstream.tools.training.methods.mixture_file import Mixture
from drawstream.tools.training.methods.plan import AS_IT_IS, FULL, Balance, Budget, Clean, Inputs, TrainingPlan
from drawstream.tools.training.methods.table import METHODS, Method, method_names, users_of

OWN = "module:factory"  # entry of the samplers that a user names


def sampler_of(text: str | None, /) -> Path | str | None:
    """Return what `--sampler` gives: a method's name or `module:factory` as text, else the path of a file."""
    return text if text is None or text in method_names() or is_own(text) else Path(text)


def is_own(name: str, /) -> bool:
    """Return True for `module:factory`, False for names of files and methods."""
    return re.fullmatch(r"[\w.]+:\w+", name) is not None


@dataclass(frozen=True, slots=True)
class Sampling:
    """Where the training stream comes from: a file, a method of the table, or (None) uniform.

    Attributes:
        sampler: `sampler.json`; a schedule (.arrow); weights (`samplers.weights_file`); or, as a string, the name of a
            method (`table.METHODS`), or `module:factory` (`own_sampler`).
        table: Folder of the feature table that the sampler reads.
        mode: Mode of the stream of a sampler or of weights.
        join: Files whose columns are joined to the table.
        frozen: Keep the sampler's stored tables where the feature table is not the one it was fitted on.
        budget: Part of a full run.
        column: Of a file of weights, or of the table where RHO-loss finds the irreducible losses; by default `loss`.
        crop_factor: Rows (crops) that are drawn uniformly for each one that the sampler keeps; 1: it draws by itself.
        balance: Of the classes.
        clean: Of `clean`.
        mixture: Sources with shares, each with a sampling of its own; None: the catalog is one source.
        where: Condition on the rows that are drawn (`pipeline.row_filter`), over the catalog's columns and the table's.
        score_weights: Of the model whose embeddings `coreset-k_center` takes; by default the initial ones.
    """

    sampler: Path | str | None = None
    table: Path | None = None
    mode: str = "stratified"
    join: tuple[Path, ...] = ()
    frozen: bool = False
    budget: Budget = FULL
    column: str | None = None
    crop_factor: int = 1
    balance: Balance = AS_IT_IS
    clean: Clean = field(default_factory=Clean)
    where: str | None = None
    score_weights: Path | None = None
    mixture: Mixture | None = None

    @property
    def method(self) -> str:
        """Return the method's name in reports."""
        entry = self.entry
        return entry.name if entry.given != "own" else str(self.sampler)

    @property
    def entry(self) -> Method:
        """The method's entry in the table.

        Raises:
            ValueError: There is no such method or file.
        """
        if self.mixture is not None:
            return METHODS["mixture"]
        if self.sampler is None:
            return METHODS["uniform"]
        if isinstance(self.sampler, str) and is_own(self.sampler):
            return METHODS[OWN]
        if isinstance(self.sampler, str) and self.sampler in method_names():
            return METHODS[self.sampler]
        path = Path(self.sampler)
        if is_sampler(path):
            return METHODS["swift"]
        if not path.exists():
            names = ", ".join(method_names())
            raise ValueError(f"the sampler must be a file or one of {names}, but got {str(path)!r}")
        return METHODS["schedule" if is_schedule(path) else "weights"]

    def as_searched(self) -> "Sampling":
        """Return the sampling with balance and condition that a sampler.json was searched under, if none are given."""
        if self.mixture is not None or self.entry.name != "swift" or self.crop_factor > 1:
            return self
        found = SwiftSampler.load(Path(self.sampler or "")).provenance
        gamma, where = self.balance.balance, self.where
        if not gamma and found.get("balance"):
            gamma = float(found["balance"])
        if where is None and found.get("where"):
            where = RowFilter.parse(found["where"]).text
        return replace(self, balance=replace(self.balance, balance=gamma), where=where)

    def refuse_unused(self, loss: str = "ce") -> None:
        """Refuse options that would do nothing here.

        Args:
            loss: Of the training, by name.

        Raises:
            ValueError: An option is given that this way of drawing does not use, or a table without a sampler.
        """
        if self.mixture is not None and self.budget.share < 1:
            raise ValueError(f"--budget is of a source: give it in {self.mixture.path}")
        deferred = ("defer_until",) if loss == "drw" else ()
        balance = replace(self.balance, defer_until=None) if deferred else self.balance
        if self.mixture is not None and (self.where is not None or balance != AS_IT_IS):
            raise ValueError(f"--where and --balance are of a source: give them in {self.mixture.path}")
        if self.sampler is None and self.table is not None and self.where is None:
            _need_both()
        given = {
            "mode": self.mode != "stratified",
            "table": self.table is not None,
            "join": bool(self.join),
            "frozen": self.frozen,
            "where": self.where is not None,
            "column": self.column is not None,
            "crop_factor": self.crop_factor != 1,
            "paper": self.budget.paper,
            "uniform_epochs": self.budget.uniform_epochs is not None,
            "no_smoothing": not self.budget.smoothing,
            "last_only": self.budget.last_only,
            "full_epochs": self.budget.full_epochs,
            "fall": self.budget.fall is not None,
            **{name: value is not None for name, value in (self.balance.identity() | self.clean.identity()).items()},
        }
        if given["refresh"] and given["table"] and self.entry.name == "clean":
            law = "--refresh learns in this training, and --table is of an earlier one"
            raise ValueError(f"{law}: leave out one of them")
        used = (*self.entry.options, *deferred, *(() if self.where is None else ("table", "join")))
        if self.crop_factor > 1 and self.where is not None:
            raise ValueError("--crop-factor keeps a part of rows that are drawn from all of them: leave out --where")
        if self.crop_factor > 1 and given["mode"]:
            raise ValueError("--crop-factor keeps a part of each batch and --mode draws: leave out one of them")
        for option in (option for option, is_given in given.items() if is_given):
            if option not in used or (option == "join" and self.table is None):
                what = "there is none" if self.sampler is None else f"--sampler is {self.sampler}"
                users = "a --table" if option == "join" else users_of(option)
                users += " and --loss drw" if option == "defer_until" else ""
                raise ValueError(f"--{option.replace('_', '-')} goes with {users}, but {what}: leave it out")

    def plan(self, setup: Setup, recipe: Recipe, /, *, factor: int = 1) -> TrainingPlan:
        """Plan a run's draws, its epochs and its part in the loop; a filter draws `factor` times the rows.

        Raises:
            ValueError: The sampler does not fit the catalog, the table, the recipe or an option.
        """
        if self.mixture is not None:
            plans = []
            for g, (each, own) in enumerate(self._of_sources(setup)):
                try:
                    plans.append(each.plan(own, source_recipe(recipe, g), factor=factor))
                except ValueError as error:
                    raise ValueError(f"{self.mixture.source_name(g)}: {error}") from None
            return mixed_plan(self.mixture, plans, setup, recipe, factor=factor)
        name, where = self.method, self.rows(setup)
        if kinds := self.entry.labels:
            setup.data.require_labels(f"--sampler {name}", *kinds)
        if self.balance.balance:
            setup.data.require_labels("--balance", "class")

        def column(wanted: str) -> NDArray[np.float32]:
            table = self._whole_images(setup)
            if table is None:
                raise ValueError(f"{name} needs a feature table with a column {wanted}: give --table")
            return table.columns(wanted)[wanted]

        def embeddings() -> NDArray[np.float32]:
            model = setup.build(recipe.seed)
            if self.score_weights is not None:
                load_weights(model, self.score_weights)
            return embed(setup, model)

        inputs = Inputs(
            name=name,
            rows=len(setup.data),
            epochs=recipe.epochs,
            budget=self.budget,
            seed=recipe.seed,
            global_batch=setup.global_batch,
            mode=self.mode,
            balance=self.balance,
            clean=self.clean,
            classes=setup.data.num_classes,
            tell=lambda text: tell_notes([text] if setup.ranks.writes else []),
            where=where,
            images=self.images(setup, where),
            factor=factor,
            capped=self.crop_factor,
            chosen=self.column,
            labels=lambda: self.labels(setup),
            column=column,
            embeddings=embeddings,
            table=lambda: self._whole_images(setup),
            weights=lambda: self._weights(setup),
            schedule=lambda: Schedule.open(Path(self.sampler or ""), catalog=setup.data.fingerprint),
        )
        return self.entry.plan(inputs)

    def _weights(self, setup: Setup) -> ArrayLike:
        """The weights of a file, or the probabilities of a sampler.json."""
        if self.entry.name == "swift":
            return self.probabilities(setup)
        weights = read_weights(Path(self.sampler or ""), column=self.column, catalog=setup.data)
        if setup.ranks.writes:
            tell_notes(weights.notes)
        return np.array(weights.values)

    def rows(self, setup: Setup, /) -> NDArray[np.bool_] | None:
        """Return which rows of the stream may be drawn, bool (rows,); None for all.

        Raises:
            ValueError: There is no such column, or no row is left.
        """
        if self.where is None:
            return None
        table = None if self.table is None else FeatureTable.open(self.table, join=self.join, catalog=setup.data)
        if table is not None and self.entry.name != "swift":
            table = self._whole_images(setup)
        return rows_where(self.where, setup.data, table)

    def images(self, setup: Setup, where: NDArray[np.bool_] | None, /) -> int:
        """Return the number of images that may be drawn; several crops of an image count once."""
        rows = crop_rows(self.table, setup)
        if rows is not None:
            return len(np.unique(rows.sample_id if where is None else rows.sample_id[where]))
        return len(setup.data) if where is None else int(np.count_nonzero(where))

    def labels(self, setup: Setup, /) -> NDArray[Any]:
        """Return the labels of the rows of the stream: of images, or of a table's crops."""
        crops = crop_rows(self.table, setup)
        return setup.data.label if crops is None else setup.data.label[crops.sample_id]

    def _whole_images(self, setup: Setup) -> FeatureTable | None:
        """The feature table, whose row i is image i of the catalog; None where none is given."""
        if self.table is None:
            return None
        table = FeatureTable.open(self.table, join=self.join, catalog=setup.data)
        if table.windows is not None or not np.array_equal(table.sample_id, np.arange(len(setup.data))):
            raise ValueError(f"{self.table}: {self.method} needs one row for each image of the catalog, in its order")
        return table

    def identity(self, setup: Setup, /) -> dict[str, Any]:
        """Return what decides the draws beside the stream, which the training's identity has.

        The stream's fingerprint holds what came of a file, whatever its path; own samplers are known by their source.
        """
        if self.mixture is not None:
            parts = [each.identity(own) for each, own in self._of_sources(setup)]
            return {
                "sampler": self.method,
                "sources": [{n: v for n, v in each.items() if v is not None} for each in parts],
                **self.balance.identity(),
            }
        given = self.entry.given
        table = None if self.table is None else FeatureTable.open(self.table, join=self.join, catalog=setup.data)
        budget = self.budget
        return {
            "sampler": self.method,
            **named_identity("sampler", str(self.sampler) if given == "own" else ""),
            "mode": self.mode if given in ("file", "own") and self.crop_factor == 1 else None,
            "table": None if table is None else table.fingerprint,
            **asdict(budget),  # what is as by default stands as None, which is as good as not there
            "uniform_epochs": None if budget.uniform_epochs == 1 else budget.uniform_epochs,
            "smoothing": None if budget.smoothing else False,
            "last_only": budget.last_only or None,
            "full_epochs": budget.full_epochs or None,
            "fall": None if budget.fall == 1 else budget.fall,
            **self.balance.identity(),
            **self.clean.identity(),
            "where": self.where,
        }

    def as_dict(self) -> dict[str, Any]:
        """Return what a record keeps beside the files."""
        budget = asdict(self.budget)
        budget["budget"] = budget.pop("share")
        own = {name: getattr(self, name) for name in ("column", "crop_factor")}
        own |= {} if self.where is None else {"where": self.where}
        chosen = self.balance.identity() | self.clean.identity()
        own |= {name: value for name, value in chosen.items() if value is not None}
        weights = None if self.score_weights is None else str(self.score_weights)
        mixture = {} if self.mixture is None else {"mixture": self.mixture.as_dict()}
        return {"name": self.method, **budget, **own, "score_weights": weights, **mixture}

    def _of_sources(self, setup: Setup) -> list[tuple["Sampling", Setup]]:
        """The sampling and the setup of each source of the mixture.

        Raises:
            ValueError: An entry of the mixture's file does not fit its sampler.
        """
        mixture = self.mixture
        assert mixture is not None
        found = []
        for g, (each, own) in enumerate(zip(mixture.sources, source_setups(mixture, setup), strict=True)):
            sampling = Sampling(
                sampler_of(each.sampler),
                None if each.table is None else Path(each.table),
                each.mode,
                budget=Budget(each.budget),
                column=each.column,
                balance=Balance(each.balance),
                where=each.where,
            )
            try:
                if each.where is not None:
                    sampling = replace(sampling, where=RowFilter.parse(each.where).text)
                sampling = sampling.as_searched()
                sampling.refuse_unused()
            except ValueError as error:
                raise ValueError(f"{mixture.source_name(g)}: {error}") from None
            found.append((sampling, own))
        return found

    def probabilities(self, setup: Setup) -> NDArray[np.float64]:
        """Return P of a sampler.json over the rows of the table, float64.

        Raises:
            ValueError: There is no table, it was made from another catalog, or lacks a column.
        """
        if self.table is None or not isinstance(self.sampler, Path):
            _need_both()
        table = FeatureTable.open(self.table, join=self.join, catalog=setup.data)
        if setup.ranks.writes:
            tell_notes(notes_of(table))
        sampler = carry(SwiftSampler.load(self.sampler), table, frozen=self.frozen)
        return sampler.probabilities(table.columns(*sampler.features))


def _need_both() -> NoReturn:
    raise ValueError(
        "a sampler needs the feature table that it reads, and the other way round: give both --sampler and --table"
    )
