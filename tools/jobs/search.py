"""The search for a Swift Sampler as a job: its table and study, its journal, record and sampler."""

import inspect
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from drawstream.features.table import FeatureTable
from drawstream.pipeline import plain
from drawstream.pipeline.workers import Workers
from drawstream.samplers.swift import requested_columns
from drawstream.search import Objective
from drawstream.search.swift import Guard, Proposals, Study, search_swift, sqlite_url
from drawstream.tools.runs import (
    BEFORE,
    Hook,
    Hooks,
    Progress,
    finished_record,
    notes_of,
    objective_identity,
    tell_finished,
    tell_notes,
    write_record,
)
from drawstream.tools.training import Setup


class Searching(NamedTuple):
    """A search, opened and checked.

    `columns` and `provenance` are its table's, `settings` (with the identity) and `record` (if finished) those of
    `search.json`.
    """

    columns: dict[str, NDArray[np.float32]]
    provenance: dict[str, Any]
    settings: dict[str, Any]
    record: dict[str, Any] | None


def prepare_search(
    setup: Setup,
    table_path: Path,
    objective: Objective,
    out: Path,
    /,
    *,
    seed: int,
    options: dict[str, Any],
    join: Sequence[Path] = (),
    spec: str = "",
) -> Searching:
    """Open and check what `search_job` runs; arguments and errors are its own. Writes nothing."""
    table = FeatureTable.open(table_path, join=join, catalog=setup.data)
    tell_notes(notes_of(table))
    decides: dict[str, Any] = {"seed": seed, "catalog": setup.data.fingerprint, "table": table.fingerprint}
    decides |= {"options": _settled(options), "objective": objective_identity(objective, spec)}
    settings: dict[str, Any] = {
        "seed": seed,
        "catalog": setup.catalog,
        "features": table_path,
        "join": list(join),
        "features_fingerprint": table.fingerprint,
        "options": plain(options),
        "identity": plain(decides),
    }
    record = finished_record(out / "search.json", "search", settings["identity"], ("sampler.json",))
    settled = decides["options"]
    names = dict.fromkeys(requested_columns(settled["features"], settled["mass"], settled["transform"]))
    columns = {} if record else table.columns(*names)
    return Searching(columns, {**table.provenance, "features": table.fingerprint}, settings, record)


def search_job(
    setup: Setup,
    table_path: Path,
    objective: Objective,
    out: Path,
    /,
    *,
    seed: int,
    options: dict[str, Any],
    join: Sequence[Path] = (),
    spec: str = "",
    running: Mapping[str, Any] | None = None,
    hooks: Sequence[Hook] = (),
) -> dict[str, Any]:
    """Search a Swift Sampler; write `study.db`, `sampler.json` and `search.json`.

    `seed` is that of proposals and runs; `options` are those of the search by name (`search_keywords`), and `running`
    those that change nothing that it finds: storage, study_name, workers, engine. `join` are files whose columns are
    joined to the table, and `spec` is the `module:function` that names the objective, if any.
    """
    prepared = prepare_search(setup, table_path, objective, out, seed=seed, options=options, join=join, spec=spec)
    path, settings = out / "search.json", prepared.settings
    if prepared.record is not None:
        tell_finished(path, prepared.record["finished"])
        return prepared.record | BEFORE
    out.mkdir(parents=True, exist_ok=True)
    how = dict(running or {})
    how["storage"] = how.get("storage") or sqlite_url(out / "study.db")
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

        story = {"provenance": prepared.provenance, "identity": settings["identity"]}
        keywords = search_keywords({**options, **how, **story, "seed": seed})
        result = search_swift(prepared.columns, objective, progress=show, **keywords)
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


def search_keywords(options: Mapping[str, Any], /) -> dict[str, Any]:
    """Keywords of `search_swift` from options by name: its own, and the fields of their dataclasses."""
    names = {"workers": "count", "study_name": "name"}
    left = {names.get(name, name): value for name, value in options.items()}
    kinds: dict[str, type] = {"proposals": Proposals, "guard": Guard, "workers": Workers, "study": Study}
    grouped = {}
    for group, kind in kinds.items():
        found = [each.name for each in fields(kind) if each.name in left]
        grouped[group] = kind(**{name: left.pop(name) for name in found})
    return left | grouped


def _settled(options: dict[str, Any]) -> dict[str, Any]:
    """The options that decide the result of `search_swift`, defaults filled in; the seed stands beside them."""
    known = inspect.signature(search_swift).parameters
    usual = {name: known[name].default for name in ("features", "mass", "transform")}
    settled = usual | asdict(Proposals()) | asdict(Guard()) | options
    return {name: value for name, value in settled.items() if name != "seed"}
