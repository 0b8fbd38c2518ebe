"""Where every number of the report comes from: commands, dates, machines, versions, data fingerprints, all settings."""

import json
import shlex
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from drawstream.pipeline import shown
from drawstream.tools.experiments import NONE
from drawstream.tools.report import (
    DuplicatesRecord,
    Group,
    Search,
    SearchedSchedule,
    SearchRecord,
    TableRecord,
    TrainRecord,
    page,
)

__all__ = ["Job", "command_of", "date_of", "provenance_section"]

Job = TrainRecord | SearchRecord | SearchedSchedule | TableRecord | DuplicatesRecord
FEW = 12  # records in an open table
HEAD = ["Job", "Finished", "Machine", "Data fingerprint", "Command"]


def command_of(document: Mapping[str, Any], /) -> str:
    """Return the command line that wrote a record, as it is typed; empty if the record does not say."""
    command = document.get("command")
    return shlex.join(map(str, command)) if isinstance(command, list) else ""


def date_of(job: Job, /) -> str:
    """Return when a job ended; of records that do not say, when the file was written."""
    stated = job.document.get("finished")
    when = datetime.fromtimestamp(job.path.stat().st_mtime, UTC)
    if isinstance(stated, str):
        with suppress(ValueError):
            when = datetime.fromisoformat(stated).astimezone(UTC)
    return when.strftime("%Y-%m-%d %H:%M UTC")


def provenance_section(
    groups: Sequence[Group], searches: Sequence[Search], schedules: Sequence[SearchedSchedule], /
) -> list[str]:
    """Return everything that is needed to make the records again."""
    rows, parts = [], []
    for record, sampling in searches:
        name = f"Search, seed {record.seed}"
        rows.append(_line(name, record, sampling.catalog.fingerprint))
        facts = _facts(record.document, leave=("trials", "confirmation", "format", "kind"))
        facts.append(["catalog fingerprint", sampling.catalog.fingerprint])
        facts.append(["features fingerprint", sampling.table.fingerprint])
        for kind, found in (("features", sampling.table.provenance), ("sampler", sampling.sampler.provenance)):
            facts += [[f"{kind}: {name}", text] for name, text in _facts(found)]
        parts.append(_folded(f"{name}: {record.path}", facts))
    rows += [_line(f"Schedule search, seed {each.seed}", each, each.catalog.fingerprint) for each in schedules]
    for group in groups:
        for run in group.runs:
            name = f"{group.name}, seed {run.seed}"
            rows.append(_line(name, run, run.document.get("catalog_fingerprint", NONE)))
            parts.append(_folded(f"Run, {name}: {run.path}", _facts(run.document, leave=("history", "format", "kind"))))
    table = page.table(HEAD, rows, text=True, label="Jobs")
    if len(rows) <= FEW:
        return [table, *parts]
    return [page.folded(f"All {len(rows)} jobs", table), page.folded(f"All settings of {len(rows)} jobs", *parts)]


def _line(name: str, job: Job, data: object) -> list[str]:
    found = job.document.get("machine")
    machine = ""
    if isinstance(found, Mapping):
        machine = ", ".join(str(found[key]) for key in ("cpu", "gpu") if found.get(key))
    return [name, date_of(job), machine or NONE, str(data)[:12], command_of(job.document) or NONE]


def _folded(title: str, facts: Sequence[Sequence[str]]) -> str:
    return page.folded(title, page.table(["", ""], facts, text=True, label=title))


def _facts(document: Mapping[str, Any], *, leave: Collection[str] = ()) -> list[list[str]]:
    """Return the entries of a record as pairs of texts."""
    rows = []
    for name, value in document.items():
        text = value if isinstance(value, str) else f"{value:.6g}" if isinstance(value, float) else json.dumps(value)
        if name == "command":
            text = command_of(document)
        if name not in leave:
            rows.append([name, shown(text)])
    return rows
