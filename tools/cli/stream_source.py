"""Sources of `drawstream stream`: a sampler over a table, a file of weights, a recorded schedule, or plain rows."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drawstream.features import FeatureTable
from drawstream.pipeline import Catalog
from drawstream.samplers import IndexStream, SwiftSampler, effective_sample_size
from drawstream.samplers.files.weights_file import read_weights
from drawstream.samplers.orders.schedule import Schedule, is_schedule
from drawstream.samplers.swift.sampler import is_sampler
from drawstream.tools.runs.progress import notes_of
from drawstream.tools.training.transfer import carry

__all__ = ["StreamSource", "is_sampler", "is_schedule", "open_source"]


MOST_EPOCHS = 10**6  # of a command


@dataclass(frozen=True, slots=True, eq=False)
class StreamSource:
    """A stream and where it came from.

    Attributes:
        stream: The stream.
        weights: What it draws by, float (N,); None for plain rows and schedules.
        schedule: The recorded orders; None elsewhere.
        catalog: Fingerprint of the catalog its rows belong to; "" where that is not known.
        whole_images: Whether row i is image i of the catalog (false for crops of a feature table).
        notes: What was assumed of the user's files, or left out of them, one sentence each.
    """

    stream: IndexStream
    weights: NDArray[np.floating[Any]] | None = None
    schedule: Schedule | None = None
    catalog: str = ""
    whole_images: bool = True
    notes: tuple[str, ...] = ()

    def effective_rows(self, epoch: int) -> tuple[float, int]:
        """Kish's effective sample size and the number of rows that are never drawn (of a schedule: in that epoch)."""
        if self.schedule is not None:
            counts = self.schedule.counts(epoch)
            return effective_sample_size(counts.astype(np.float64)), int((counts == 0).sum())
        if self.weights is None:
            return float(self.stream.rows), 0
        return effective_sample_size(self.weights), self.weights.size - int(np.count_nonzero(self.weights))

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


def open_source(
    source: Path | None,
    /,
    *,
    rows: int | None = None,
    table: Path | None = None,
    join: Sequence[Path] = (),
    catalog: str | Path | None = None,
    frozen: bool = False,
    column: str | None = None,
    mode: str | None = None,
    seed: int = 0,
    draws: int | None = None,
    window: int | None = None,
) -> StreamSource:
    """Open a stream.

    Args:
        source: `sampler.json`, a schedule (.arrow), or weights (`samplers.weights_file`); None with `rows`.
        rows: Number of rows, all alike.
        table: Feature table that a sampler reads.
        join: Files whose columns are joined to it.
        catalog: Whose rows are drawn; needed where a file names samples by their keys.
        frozen: Keep the sampler's own tables where it was fitted on another table, instead of a refit.
        column: Column of a file of weights.
        mode: Mode of the stream.
        seed: Its seed.
        draws: Positions per epoch.
        window: Its window.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: Not exactly one of source and rows, or the files do not fit each other or the options.
    """
    if (source is None) == (rows is None):
        raise ValueError("a stream needs one source: sampler.json with --table, weights, a schedule.arrow, or --rows N")
    options: dict[str, Any] = {"mode": mode, "seed": seed, "draws": draws, "window": window}
    if source is None:
        assert rows is not None
        return StreamSource(IndexStream(rows, **options))
    given = None if catalog is None else Catalog.open(catalog)
    if is_sampler(source) or (table is not None and source.suffix == ".json"):
        if table is None:
            raise ValueError(f"{source}: a sampler needs the feature table whose rows it weighs: give --table")
        opened = FeatureTable.open(table, join=join, catalog=given if join else None)
        sampler = carry(SwiftSampler.load(source), opened, frozen=frozen)
        weights = sampler.probabilities(opened.columns(*sampler.features))
        whole = opened.windows is None and np.array_equal(opened.sample_id, np.arange(len(opened)))
        stream = IndexStream(weights, **options)
        of = opened.provenance["catalog"]
        return StreamSource(stream, weights, catalog=of, whole_images=whole, notes=tuple(notes_of(opened)))
    if table is not None:
        raise ValueError(f"--table goes with a sampler.json, but the source is {source}: leave it out")
    if is_schedule(source):
        schedule = Schedule.open(source)
        return StreamSource(IndexStream(schedule, **options), schedule=schedule, catalog=schedule.catalog)
    found = read_weights(source, column=column, catalog=given)
    stream = IndexStream(found.values, **options)
    return StreamSource(stream, found.values, catalog=found.catalog, notes=found.notes)
