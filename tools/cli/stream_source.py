"""Sources of `drawstream stream`: a sampler over a table, a file of weights, a recorded schedule, or plain rows."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from drawstream.tools.cli.options import ClassesOptions, FrozenOptions, JoinOptions, ResultOptions, place
from drawstream.tools.runs import MANY, ROWS, SEED, SOME, argument, notes_of, option, tell_notes

if TYPE_CHECKING:
    from drawstream.pipeline.shards import Catalog
    from drawstream.samplers.orders import IndexStream, MixedStream, Schedule

MOST_EPOCHS = 10**6  # of a command
LOOKED = 10**6  # draws of a mixture from which its effective sample size is taken


@dataclass(frozen=True, slots=True, eq=False)
class StreamSource:
    """A stream and where it came from.

    Attributes:
        fingerprint: Of the catalog its rows belong to; "" where that is not known.
        whole_images: Whether row i is image i of the catalog (false for crops of a feature table).
        notes: What was assumed of the user's files, or left out of them, one sentence each.
    """

    stream: "IndexStream | MixedStream"
    weights: NDArray[np.floating[Any]] | None = None
    schedule: "Schedule | None" = None
    fingerprint: str = ""
    whole_images: bool = True
    notes: tuple[str, ...] = ()

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
class StreamOptions(ClassesOptions, JoinOptions, FrozenOptions, ResultOptions):
    """A stream: its source, mode and seed."""

    source: Path | None = argument(
        "sampler.json (with --table), schedule.arrow, or weights: .csv, .parquet, .npy, .json, … or a folder.", None
    )
    rows: int | None = option(None, "Number of rows, all alike; instead of a source.", within=ROWS)
    mixture: Path | None = option(
        None, "Sources and shares of this mixture.toml, as train takes it; instead of a source."
    )
    training_epochs: int | None = option(None, "Epochs of the training, for shares in steps.", within=SOME)
    global_batch: int = option(128, "Images per training step over all ranks, for batches of one source.", within=MANY)
    table: Path | None = option(None, "Feature table that a sampler.json reads.")
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

        for name in ("source", "rows", "table", "column", "mode", "draws", "window"):
            if getattr(self, name) is not None:
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
        return StreamSource(stream, fingerprint=catalog.fingerprint), catalog

    def _source(self, catalog: "Catalog | None") -> StreamSource:
        from drawstream.samplers.files import read_weights
        from drawstream.samplers.orders import IndexStream, Schedule, is_schedule
        from drawstream.samplers.swift import is_sampler

        if (self.source is None) == (self.rows is None):
            raise ValueError(
                "a stream needs one source: sampler.json with --table, weights, a schedule.arrow, --rows N or --mixture"
            )
        how: dict[str, Any] = {name: getattr(self, name) for name in ("mode", "seed", "draws", "window")}
        if self.source is None:
            assert self.rows is not None
            return StreamSource(IndexStream(self.rows, **how))
        if is_sampler(self.source) or (self.table is not None and self.source.suffix == ".json"):
            return self._weighed(self.source, catalog, how)
        if self.table is not None:
            raise ValueError(f"--table goes with a sampler.json, but the source is {self.source}: leave it out")
        if is_schedule(self.source):
            schedule = Schedule.open(self.source)
            return StreamSource(IndexStream(schedule, **how), schedule=schedule, fingerprint=schedule.catalog)
        found = read_weights(self.source, column=self.column, catalog=catalog)
        stream = IndexStream(found.values, **how)
        return StreamSource(stream, found.values, fingerprint=found.catalog, notes=found.notes)

    def _weighed(self, sampler: Path, catalog: "Catalog | None", how: dict[str, Any]) -> StreamSource:
        """The stream of a sampler over a table."""
        from drawstream.features.table import FeatureTable
        from drawstream.samplers.orders import IndexStream
        from drawstream.samplers.swift import SwiftSampler
        from drawstream.tools.training import carry

        if self.table is None:
            raise ValueError(f"{sampler}: a sampler needs the feature table whose rows it weighs: give --table")
        table = FeatureTable.open(self.table, join=self.join, catalog=catalog if self.join else None)
        carried = carry(SwiftSampler.load(sampler), table, frozen=self.frozen)
        weights = carried.probabilities(table.columns(*carried.features))
        whole = table.windows is None and np.array_equal(table.sample_id, np.arange(len(table)))
        notes = tuple(notes_of(table))
        return StreamSource(IndexStream(weights, **how), weights, None, table.provenance["catalog"], whole, notes)
