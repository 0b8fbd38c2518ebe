"""The search for a Swift Sampler as a job: its table and study, its journal, record and sampler."""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from drawstream.features import find_suspects
from drawstream.features.suspects import NEEDED, clean_starts
from drawstream.features.table import FeatureTable
from drawstream.pipeline import plain
from drawstream.pipeline.workers import Workers
from drawstream.samplers.swift import SwiftFit, SwiftParams, Transform, requested_columns
from drawstream.search import Objective
from drawstream.search.swift import Guard, Proposals, Study, search_swift, sqlite_url
from drawstream.tools.runs import (
    Hook,
    Hooks,
    Progress,
    finished_record,
    notes_of,
    objective_identity,
    reuse,
    tell_notes,
    write_record,
)
from drawstream.tools.training import Setup, origin

MASS = "grad_norm"  # column of the gradient norms, for transform "cgf"


@dataclass(frozen=True)
class SearchJob:
    """A search for a Swift Sampler.

    Attributes:
        setup: Data and model.
        table: Folder of the feature table.
        objective: Scores probabilities.
        out: Folder of the results.
        features: Columns that the sampler reads.
        transform: Of the features.
        proposals: How many candidates, and which; their seed is the job's.
        guard: How the best of them are confirmed.
        workers: Where candidates run; it decides no result.
        study: Storage (by default `study.db` in `out`) and name; it decides no result.
        join: Files whose columns are joined to the table.
        spec: The `module:function` that names the objective, if any.
    """

    setup: Setup
    table: Path
    objective: Objective
    out: Path
    features: tuple[str, ...] = ("loss", "entropy")
    transform: Transform = "cgf"
    proposals: Proposals = field(default_factory=Proposals)
    guard: Guard = field(default_factory=Guard)
    workers: Workers = field(default_factory=Workers)
    study: Study = field(default_factory=Study)
    join: tuple[Path, ...] = ()
    spec: str = ""

    @property
    def law(self) -> dict[str, Any]:
        """Keywords of `search_swift` that decide the result."""
        names = ("features", "transform", "proposals", "guard")
        return {"mass": MASS, **{name: getattr(self, name) for name in names}}

    @property
    def options(self) -> dict[str, Any]:
        """The same as plain values by name; the seed stands beside them."""
        given = {**self.law, **asdict(self.proposals), **asdict(self.guard)}
        return plain({name: value for name, value in given.items() if name not in ("proposals", "guard", "seed")})


class Searching(NamedTuple):
    """A search, opened and checked.

    `columns` are its table's, `starts` candidates near P(clean), `study` knows table and job, `settings` (with the
    identity) and `record` (if finished) are those of `search.json`.
    """

    columns: dict[str, NDArray[np.float32]]
    starts: list[SwiftParams]
    study: Study
    settings: dict[str, Any]
    record: dict[str, Any] | None


def prepare_search(job: SearchJob, /) -> Searching:
    """Open and check what `search_job` runs; errors are its own. Writes nothing."""
    table = FeatureTable.open(job.table, join=job.join, catalog=job.setup.data)
    seed, options = job.proposals.seed, job.options
    tell_notes(notes_of(table))
    decides: dict[str, Any] = {"seed": seed, "catalog": job.setup.data.fingerprint, "table": table.fingerprint}
    decides |= {"options": options, "objective": objective_identity(job.objective, job.spec)}
    settings: dict[str, Any] = {
        "seed": seed,
        "catalog": job.setup.catalog,
        "features": job.table,
        "join": list(job.join),
        "features_fingerprint": table.fingerprint,
        "options": options,
        "identity": plain(decides),
    }
    drawn = getattr(job.objective, "drawn", {})  # by fine-tuning, and by a training with the sampler
    settings |= drawn
    record = finished_record(job.out / "search.json", "search", settings["identity"], ("sampler.json",))
    names = dict.fromkeys(requested_columns(job.features, MASS, job.transform))
    columns = {} if record else table.columns(*names)
    study = replace(job.study, provenance=origin(table) | drawn, identity=settings["identity"])
    starts = _clean_starts(job, table, columns) if columns and job.proposals.starts else []
    return Searching(columns, starts, study, settings, record)


def _clean_starts(job: SearchJob, table: FeatureTable, columns: dict[str, NDArray[np.float32]]) -> list[SwiftParams]:
    """Samplers near P(clean), where the table is of a tracked training and the search reads its margin or loss."""
    score = next((name for name in ("margin", "loss") if name in job.features), None)
    if score is None or not all(name in table.names for name in NEEDED) or np.ptp(columns[score]) == 0:
        return []
    found = find_suspects(table, job.setup.data.num_classes, method="margin" if score == "margin" else "loss")
    count, at = len(job.features), job.features.index(score)
    rising = SwiftParams(
        tuple(float(k == at) for k in range(count)), (0.5,), (0.0, 0.5, 1.0)
    )  # its H leaves T as it is
    fitted = SwiftFit(columns, features=job.features, mass=MASS, transform=job.transform)
    positions = fitted.sampler(rising).score(columns)
    return clean_starts(found, positions, segments=job.proposals.segments, features=count, feature=at)


def search_job(job: SearchJob, /, hooks: Sequence[Hook] = ()) -> dict[str, Any]:
    """Search a Swift Sampler; write `study.db`, `sampler.json` and `search.json`.

    Raises:
        ValueError: The table lacks columns or is of another catalog, or `out` holds another search.
    """
    columns, starts, study, settings, record = prepare_search(job)
    out, path = job.out, job.out / "search.json"
    if record is not None:
        return reuse(path, record)
    out.mkdir(parents=True, exist_ok=True)
    study = replace(study, storage=study.storage or sqlite_url(out / "study.db"))
    begin = time.perf_counter()
    watch = Hooks(out, hooks)
    watch.begin("search", settings)
    with Progress("search", "runs") as progress:

        def show(event: dict[str, Any]) -> None:
            done, value, best = event["done"], event["value"], event.get("best")
            if event["stage"] == "search":
                watch.step(done, event["trials"], {"value": value, "best": best})
                progress.update(done, event["trials"], f"best so far {best:.2f}" if best else "")
            else:
                watch.step(done, event["runs"], {"confirmation": value, "best": best})
                progress.update(done, event["runs"], "confirming")

        given = {**job.law, "starts": starts, "workers": job.workers, "study": study}
        result = search_swift(columns, job.objective, **given, progress=show)
    result.sampler.save(out / "sampler.json")
    found = {
        "sampler": out / "sampler.json",
        "winner": result.winner,
        "message": result.message,
        "trials": [asdict(trial) for trial in result.trials],
        "confirmation": [asdict(run) for run in result.confirmation],
        "seconds": time.perf_counter() - begin,
        "spent": result.spent,
    }
    record = write_record(path, "search", settings | found)
    watch.end(record)
    return record
