"""Scoring a catalog as a job: on this machine, over the ranks of `torchrun`, or on a Ray cluster."""

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from drawstream.features import (
    RemoteScorer,
    Scoring,
    ShardScorer,
    finish_table,
    missing_shards,
    provenance,
    write_shards,
    write_shards_on_ray,
)
from drawstream.features.table import FeatureTable, part_path
from drawstream.pipeline.workers import Workers
from drawstream.tools.runs import Progress, model_identity, tell_finished
from drawstream.tools.training import Setup, load_weights


@dataclass(frozen=True)
class FeaturesJob:
    """An extraction of features.

    Attributes:
        setup: Data, model and device; its ranks share the shards.
        weights: File of the model's weights.
        out: Folder of the table.
        scoring: What is taken of every row; its device is the setup's, its transform by default too.
        engine: `local`; `ray`, the cluster of `RAY_ADDRESS` or a new one on this machine; or `ray:ADDRESS`.
    """

    setup: Setup
    weights: Path
    out: Path
    scoring: Scoring = field(default_factory=Scoring)
    engine: str = "local"


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


def prepare_extraction(job: FeaturesJob, /) -> Extraction:
    """Open and check what `features_job` runs; errors are its own. Writes nothing."""
    setup, scoring = job.setup, job.scoring
    if not Workers(engine=job.engine).local and setup.ranks.world_size > 1:
        raise ValueError("the Ray engine starts its own workers: start it without torchrun")
    model = setup.build(0, trained=False)
    load_weights(model, job.weights)
    scoring = replace(scoring, device=setup.device, transform=scoring.transform or setup.transforms[1])
    made = provenance(setup.data, model, scoring, model_name=setup.model)
    own = {name: value for name, value in model_identity(setup.model).items() if value is not None}
    return Extraction(model, scoring, made | own)


def features_job(job: FeaturesJob, /) -> Extracted:
    """Score every row of the catalog with a trained model; one Parquet part per shard in the folder.

    Raises:
        ValueError: As `extract_features`.
        WorkerError: As `extract_features`.
    """
    setup, out, ranks = job.setup, job.out, job.setup.ranks
    model, scoring, made = prepare_extraction(job)
    missing = missing_shards(setup.data, out, made)
    if not missing:
        newest = max(part_path(out, shard).stat().st_mtime for shard in range(len(setup.data.shards)))
        finished = datetime.fromtimestamp(newest, UTC).isoformat(timespec="seconds")
        if ranks.writes:
            tell_finished(out, finished)
        return Extracted(_finished(job, made), finished)
    if job.engine != "local":
        with Progress("features", "rows") as progress:
            write_shards_on_ray(
                setup.data,
                RemoteScorer.of(setup.data, model, scoring),
                missing,
                out,
                made,
                workers=Workers(engine=job.engine),
                progress=lambda p: progress.update(p.done, p.rows),
            )
        return Extracted(_finished(job, made), None)
    ranks.wait()  # until all have looked, so that they divide the same list
    with (
        ShardScorer(setup.data, model, scoring, device_id=ranks.local) as scorer,
        Progress("features", "rows", quiet=not ranks.writes) as progress,
    ):
        mine = missing[ranks.rank :: ranks.world_size]
        write_shards(scorer, mine, out, made, progress=lambda p: progress.update(p.done, p.rows))
        ranks.wait()
        progress.update(scorer.rows, scorer.rows)
    return Extracted(_finished(job, made), None)


def _finished(job: FeaturesJob, made: dict[str, Any]) -> FeatureTable:
    """The finished table, once the first rank has written what belongs to all parts."""
    if job.setup.ranks.writes:
        finish_table(job.out, made)
    job.setup.ranks.wait()
    return FeatureTable.open(job.out)
