"""Scoring a catalog as a job: on this machine, over the ranks of `torchrun`, or on a Ray cluster."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from drawstream.features import (
    RemoteScorer,
    Scoring,
    ShardScorer,
    missing_shards,
    provenance,
    write_shards,
    write_shards_on_ray,
)
from drawstream.features.table import FeatureTable, part_path
from drawstream.pipeline.workers import Workers
from drawstream.tools.runs import Progress, model_identity, tell_finished
from drawstream.tools.training import Setup, load_weights


class Extraction(NamedTuple):
    """An extraction, opened and checked: model, what to score, and the provenance of the parts."""

    model: nn.Module
    scoring: Scoring
    made: dict[str, Any]


class Extracted(NamedTuple):
    """A finished extraction.

    Attributes:
        before: When it was finished by an earlier run, ISO format; None where this run finished it.
    """

    table: FeatureTable
    before: str | None


def prepare_extraction(setup: Setup, weights: Path, scoring: Scoring | None, /, *, engine: str) -> Extraction:
    """Open and check what `features_job` runs; arguments and errors are its own. Writes nothing."""
    if not Workers(engine=engine).local and setup.ranks.world_size > 1:
        raise ValueError("the Ray engine starts its own workers: start it without torchrun")
    model = setup.build(0, trained=False)
    load_weights(model, weights)
    scoring = scoring or Scoring()
    scoring = replace(scoring, device=setup.device, transform=scoring.transform or setup.transforms[1])
    made = provenance(setup.data, model, scoring, model_name=setup.model)
    own = {name: value for name, value in model_identity(setup.model).items() if value is not None}
    return Extraction(model, scoring, made | own)


def features_job(
    setup: Setup, weights: Path, out: Path, scoring: Scoring | None = None, /, *, engine: str = "local"
) -> Extracted:
    """Score every row of the catalog with a trained model; one Parquet part per shard in `out`.

    The setup's ranks share the shards. `scoring` is by default all measures; its device is the setup's. `engine` is
    `local`; `ray`, the cluster of `RAY_ADDRESS` or a new one on this machine; or `ray:ADDRESS`.

    Raises:
        ValueError: As `extract_features`.
        WorkerError: As `extract_features`.
    """
    ranks = setup.ranks
    extraction = prepare_extraction(setup, weights, scoring, engine=engine)
    model, scoring, made = extraction.model, extraction.scoring, extraction.made
    missing = missing_shards(setup.data, out, made)
    if not missing:
        newest = max(part_path(out, shard).stat().st_mtime for shard in range(len(setup.data.shards)))
        finished = datetime.fromtimestamp(newest, UTC).isoformat(timespec="seconds")
        if ranks.writes:
            tell_finished(out, finished)
        return Extracted(FeatureTable.open(out), finished)
    if engine != "local":
        with Progress("features", "rows") as progress:
            write_shards_on_ray(
                setup.data,
                RemoteScorer.of(setup.data, model, scoring),
                missing,
                out,
                made,
                workers=Workers(engine=engine),
                progress=lambda p: progress.update(p.done, p.rows),
            )
        return Extracted(FeatureTable.open(out), None)
    ranks.wait()  # until all have looked, so that they divide the same list
    with (
        ShardScorer(setup.data, model, scoring, device_id=ranks.local) as scorer,
        Progress("features", "rows", quiet=not ranks.writes) as progress,
    ):
        mine = missing[ranks.rank :: ranks.world_size]
        write_shards(scorer, mine, out, made, progress=lambda p: progress.update(p.done, p.rows))
        ranks.wait()
        progress.update(scorer.rows, scorer.rows)
    return Extracted(FeatureTable.open(out), None)
