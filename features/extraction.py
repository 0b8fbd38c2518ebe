"""Score every sample once: model over shards, one part per shard; a killed extraction goes on where it was."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from drawstream.features.options import Scoring, provenance
from drawstream.features.shard_scorer import ShardScorer
from drawstream.features.table.table import (
    FeatureTable,
    part_path,
    read_provenance,
    remove_abandoned,
    require_same,
    write_part,
)
from drawstream.pipeline import Catalog


@dataclass(frozen=True, slots=True)
class Progress:
    """How far an extraction is.

    Attributes:
        done: Rows scored so far, with those found from before.
        rows: All rows.
    """

    done: int
    rows: int


def extract_features(
    catalog: Catalog,
    model: nn.Module,
    out: Path,
    /,
    *,
    model_name: str,
    progress: Callable[[Progress], None] | None = None,
    **options: Any,
) -> FeatureTable:
    """Write the feature table of a catalog, one Parquet part per shard.

    Parts that are there from a run with the same provenance are kept; each batch lies within one shard, so the parts of
    a resumed run have the same bytes as those of an undisturbed one.

    Args:
        catalog: The samples to score.
        model: Gives logits (n, classes); it is put into evaluation mode and moved to the device.
        out: Folder of the table, made where missing.
        model_name: How the model was named by the user; part of the provenance.
        progress: Called after each batch.
        **options: Fields of `Scoring`.

    Raises:
        ValueError: The model gives another number of classes or values that are not finite, or `out` holds parts of
            another extraction.
    """
    scoring = Scoring(**options)
    made = provenance(catalog, model, scoring, model_name=model_name)
    shards = missing_shards(catalog, out, made)
    with ShardScorer(catalog, model, scoring) as scorer:
        write_shards(scorer, shards, out, made, progress=progress)
    return FeatureTable.open(out)


def missing_shards(catalog: Catalog, out: Path, made: Mapping[str, Any], /) -> list[int]:
    """Make the folder, clear what killed writers left in it, and say which shards have no part yet.

    Raises:
        ValueError: A part is there, of another provenance; both sides are shown.
    """
    out.mkdir(parents=True, exist_ok=True)
    remove_abandoned(out)
    return lacking_shards(catalog, out, made)


def lacking_shards(catalog: Catalog, out: Path, made: Mapping[str, Any], /) -> list[int]:
    """Which shards have no part yet; nothing is written. Errors as `missing_shards`."""
    missing = []
    for shard in range(len(catalog.shards)):
        part = part_path(out, shard)
        if part.exists():
            require_same(read_provenance(part), made, part)
        else:
            missing.append(shard)
    return missing


def write_shards(
    scorer: ShardScorer,
    shards: Sequence[int],
    out: Path,
    made: Mapping[str, Any],
    /,
    *,
    progress: Callable[[Progress], None] | None = None,
) -> None:
    """Score these shards and write their parts; the parts of other processes in the folder count as done, too."""
    for shard in shards:
        done = _rows_there(scorer, out)

        def count(batch: int) -> None:
            nonlocal done
            done += batch
            if progress:
                progress(Progress(done, scorer.rows))

        write_part(part_path(out, shard), scorer.score(shard, on_batch=count), made)


def _rows_there(scorer: ShardScorer, out: Path) -> int:
    names = {path.name for path in out.iterdir()}
    return sum(scorer.rows_of(shard) for shard in range(scorer.shards) if part_path(out, shard).name in names)
