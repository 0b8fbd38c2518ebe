"""Sources of `drawstream stream`: a sampler over a table, a file of weights, a recorded schedule, or plain rows."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from drawstream.tools.cli.options import (
    ClassesOptions,
    FrozenOptions,
    JoinOptions,
    ResultOptions,
    WhereOptions,
    place,
)
from drawstream.tools.runs import MANY, ROWS, SEED, SOME, argument, notes_of, option, tell_notes

if TYPE_CHECKING:
    from drawstream.features.table import FeatureTable
    from drawstream.pipeline.shards import Catalog
    from drawstream.samplers.orders import IndexStream, MixedStream, Schedule

MOST_EPOCHS = 10**6  # of a command
LOOKED = 10**6  # draws of a mixture from which its effective sample size is taken
CLASSES = ("balanced", "effective-number", "repeat-factors")  # sources that are rules


@dataclass(frozen=True, slots=True, eq=False)
class StreamSource:
    """A stream and where it came from.

    Attributes:
        fingerprint: Of the catalog its rows belong to; "" where that is not known.
        whole_images: Whether row i is image i of the catalog (false for crops of a feature table).
        notes: What was assumed of the user's files, or left out of them, one sentence each.
        training: Epochs of the training whose progress shares follow; None: its length changes nothing.
    """

    stream: "IndexStream | MixedStream"
    weights: NDArray[np.floating[Any]] | None = None
    schedule: "Schedule | None" = None
    fingerprint: str = ""
    whole_images: bool = True
    notes: tuple[str, ...] = ()
    training: int | None = None

    def effective_rows(self, epoch: int) -> tuple[float, int]:
        """Kish's effective sample size and the number of rows that are never drawn (of a schedule: in that epoch)."""
        from drawstream.samplers import effective_sample_size
        from drawstream.samplers.orders import MixedStream

        if isinstance(self.stream, MixedStream):
            drawn = self.stream.epoch(epoch).weights(0, min(self.stream.draws, LOOKED))
            return float(self.stream.rows / np.mean(1 / drawn.astype(np.float64))), 0
        weights = self.weights if self.schedule is None else self.schedule.counts(epoch).astype(np.float64)
        if weights is None:
            return float(self.stream.rows), 0
        return effective_sample_size(weights), weights.size - int(np.count_nonzero(weights))

    def epochs(self, text: str, /) -> range:
        """Epochs named as `3`, `0:3`, or `:` for all of a schedule.

        Raises:
            ValueError: Not of this form, none, negative, too many, or more than a schedule holds.
        """
        start, colon, stop = text.partition(":")
        end = str(self.schedule.epochs) if self.schedule is not None else ""
        try:
            first = int(start or 0)
            last = int(stop or end) if colon else first + 1
        except ValueError:
            raise ValueError(f"epochs must be given as 3 or 0:3, but got {text!r}") from None
        if not 0 <= first < last:
            raise ValueError(f"epochs must be 0 or more and not none, but got {text!r}")
        if last > 1 << 64 or last - first > MOST_EPOCHS:
            raise ValueError(f"epochs must be below 2**64, and at most {MOST_EPOCHS} at once, but got {text!r}")
        if self.schedule is not None and last > self.schedule.epochs:
            raise ValueError(f"{self.schedule.path} holds the epochs 0:{self.schedule.epochs}, but got {text!r}")
        if self.training is not None and last > self.training:
            beyond = f"epochs from {self.training} on are beyond the training of {self.training} (--training-epochs)"
            tell_notes([f"{beyond}: they have the shares of its end"])
        return range(first, last)

    def check_catalog(self, catalog: "Catalog", /) -> None:
        """Check that the rows are those of the catalog.

        Raises:
            ValueError: They are of another one.
        """
        if self.fingerprint and self.fingerprint != catalog.fingerprint:
            raise ValueError(
                f"{catalog.path}: catalog {catalog.fingerprint[:12]}, but the stream's rows are those of "
                f"{self.fingerprint[:12]}: give that one"
            )
        if self.whole_images and len(catalog) != self.stream.rows:
            raise ValueError(
                f"{catalog.path}: {len(catalog)} images, but the stream has {self.stream.rows} rows: "
                "give the catalog of these rows"
            )


@dataclass(frozen=True, kw_only=True)
class StreamOptions(ClassesOptions, WhereOptions, JoinOptions, FrozenOptions, ResultOptions):
    """A stream: its source, mode and seed."""

    source: Path | None = argument(
        "sampler.json (with --table), schedule.arrow, weights (.csv, .parquet, .npy, .json, … or a folder), or, with "
        "--catalog, balanced, effective-number or repeat-factors; by default the rows of --catalog, all alike.",
        None,
    )
    rows: int | None = option(None, "Number of rows, all alike; instead of a source.", within=ROWS)
    mixture: Path | None = option(
        None, "Sources and shares of this mixture.toml, as train takes it; instead of a source."
    )
    training_epochs: int | None = option(None, "Epochs of the training, for shares in steps.", within=SOME)
    global_batch: int = option(128, "Images per training step over all ranks, for batches of one source.", within=MANY)
    table: Path | None = option(None, "Feature table that a sampler.json, or --where, reads.")
    balance: float = option(
        0.0, "Draw the classes of --catalog more alike: 0 as the source has them, 1 each alike.", within=(0, 1)
    )
    column: str | None = option(None, "Column of a file of weights; by default weight.")
    mode: Literal["permutation", "stratified", "multinomial", "subset"] | None = option(None, "Mode of the stream.")
    seed: int = option(0, "Seed of the orders.", within=SEED)
    draws: int | None = option(None, "Positions per epoch; by default the number of rows.", within=ROWS)
    window: int | None = option(None, "Keep neighbours within about so many positions.", within=ROWS)
    catalog: list[str] = option([], "Catalog that the rows belong to; repeatable.", "--catalog")

    def open(self) -> tuple[StreamSource, "Catalog | None"]:
        """Open the stream and its catalog, and say what was assumed of the user's files.

        Raises:
            FileNotFoundError: A file is missing.
            ValueError: Not exactly one of source and rows, or the files do not fit each other or the options.
        """
        from drawstream.pipeline.shards import Catalog

        if self.mixture is not None:
            return self._mixed(self.mixture)
        self.refuse_typed(("training_epochs", "global_batch"), "--mixture")
        catalog = Catalog.open(self.catalog, classes=self.classes) if self.catalog else None
        opened = self._source(catalog)
        if catalog is not None:
            opened.check_catalog(catalog)
        tell_notes(opened.notes)
        return opened, catalog

    def _mixed(self, file: Path) -> tuple[StreamSource, "Catalog"]:
        """The stream of a mixture, the one that a training of this seed draws from, and the catalog of all sources."""
        from drawstream.pipeline.shards import Catalog
        from drawstream.tools.training import Recipe, Setup
        from drawstream.tools.training.methods import Sampling, read_mixture

        for name in ("source", "rows", "table", "column", "mode", "draws", "window", "where", "balance"):
            if getattr(self, name) not in (None, 0.0):
                raise ValueError(f"{file} says all of a mixture's stream, but {name} is given too: leave it out")
        if self.catalog or self.join:
            raise ValueError(f"{file} names its catalogs and tables: leave out --catalog and --join")
        mixture = read_mixture(file)
        places = place([each.catalog for each in mixture.sources])
        catalog = Catalog.open(places, classes=self.classes)
        if self.training_epochs is None and any(isinstance(each.share, list) for each in mixture.sources):
            raise ValueError(f"{file}: shares in steps need the length of the training: give --training-epochs")
        setup = Setup(places, "mlp", global_batch=self.global_batch, opened=catalog)
        recipe = Recipe(epochs=self.training_epochs or 1, seed=self.seed)
        stream: Any = Sampling(mixture=mixture).plan(setup, recipe).stream
        return StreamSource(stream, fingerprint=catalog.fingerprint, training=self.training_epochs), catalog

    def _source(self, catalog: "Catalog | None") -> StreamSource:
        from drawstream.features.table import rows_where
        from drawstream.samplers.methods import balanced
        from drawstream.samplers.orders import IndexStream, Schedule, is_schedule

        given = (self.source is not None, self.rows is not None)
        if given == (True, True) or (given == (False, False) and catalog is None):
            law = "sampler.json with --table, weights, a schedule.arrow, --rows N, --catalog or --mixture"
            raise ValueError(f"a stream needs one source: {law}")
        how: dict[str, Any] = {name: getattr(self, name) for name in ("mode", "seed", "draws", "window")}
        if self.source is not None and str(self.source) not in CLASSES and is_schedule(self.source):
            if self.where is not None or self.balance or self.table is not None:
                law = "a schedule fixes what is drawn: leave out --where, --balance and --table"
                raise ValueError(f"{self.source}: {law}")
            schedule = Schedule.open(self.source)
            return StreamSource(IndexStream(schedule, **how), schedule=schedule, fingerprint=schedule.catalog)
        table = self._table(catalog)
        where = None if self.where is None else rows_where(self.where, catalog, table)
        found = self._drawn(catalog, table, where)
        values = found.weights
        if self.balance:
            values = np.ones(found.rows) if values is None else values
            kept = values if where is None else np.where(where, values, 0)
            values = balanced(self._labels(catalog, table), self.balance, weights=kept)
        stream = IndexStream(found.rows if values is None else values, where=where, **how)
        shown = values if where is None else np.where(where, np.float64(1) if values is None else values, 0)
        return StreamSource(stream, shown, None, found.fingerprint, found.whole_images, found.notes)

    def _table(self, catalog: "Catalog | None") -> "FeatureTable | None":
        """The feature table, if one is given."""
        from drawstream.features.table import FeatureTable

        if self.table is None:
            return None
        return FeatureTable.open(self.table, join=self.join, catalog=catalog if self.join else None)

    def _labels(self, catalog: "Catalog | None", table: "FeatureTable | None") -> NDArray[Any]:
        """Labels of the rows, of the table or the catalog."""
        if table is not None and catalog is None:
            return table.label
        if catalog is None:
            raise ValueError("classes are those of a catalog: give --catalog")
        return catalog.label if table is None else catalog.label[table.sample_id]

    def _drawn(
        self, catalog: "Catalog | None", table: "FeatureTable | None", where: NDArray[np.bool_] | None
    ) -> "_Drawn":
        """Rows and weights of the source, before balance."""
        from drawstream.samplers.files import read_weights
        from drawstream.samplers.methods import balanced, effective_number, repeat_factors
        from drawstream.samplers.swift import is_sampler

        of_table = table is not None and (self.source is None or str(self.source) in CLASSES)
        if self.rows is not None:
            return _Drawn(self.rows)
        if self.source is None or str(self.source) in CLASSES:
            labels = self._labels(catalog, table)
            about: dict[str, Any] = {"fingerprint": "" if catalog is None else catalog.fingerprint}
            about |= {"whole_images": not of_table or (table is not None and _is_whole(table))}
            if self.source is None:
                return _Drawn(len(labels), **about)
            kept = slice(None) if where is None else where
            rules = (balanced, effective_number, repeat_factors)
            weights = np.zeros(len(labels))
            weights[kept] = rules[CLASSES.index(str(self.source))](labels[kept])
            return _Drawn(len(labels), weights, **about)
        if is_sampler(self.source) or (table is not None and self.source.suffix == ".json"):
            return self._weighed(self.source, table)
        if table is not None and where is None:
            law = f"--table goes with a sampler.json or --where, but the source is {self.source}: leave it out"
            raise ValueError(law)
        found = read_weights(self.source, column=self.column, catalog=catalog)
        return _Drawn(len(found.values), found.values, found.catalog, True, found.notes)

    def _weighed(self, sampler: Path, table: "FeatureTable | None") -> "_Drawn":
        """The probabilities of a sampler over a table."""
        from drawstream.samplers.swift import SwiftSampler
        from drawstream.tools.training import carry

        if table is None:
            raise ValueError(f"{sampler}: a sampler needs the feature table whose rows it weighs: give --table")
        carried = carry(SwiftSampler.load(sampler), table, frozen=self.frozen)
        weights = carried.probabilities(table.columns(*carried.features))
        notes = tuple(notes_of(table))
        return _Drawn(len(weights), weights, table.provenance["catalog"], _is_whole(table), notes)


@dataclass(frozen=True, slots=True, eq=False)
class _Drawn:
    """Rows of a source, and their weights if they differ; the other attributes as `StreamSource`."""

    rows: int
    weights: NDArray[np.floating[Any]] | None = None
    fingerprint: str = ""
    whole_images: bool = True
    notes: tuple[str, ...] = ()


def _is_whole(table: "FeatureTable") -> bool:
    """Whether row i of a table is image i of its catalog."""
    return table.windows is None and np.array_equal(table.sample_id, np.arange(len(table)))
