"""Where every number of the report comes from: commands, dates, machines, versions, data fingerprints, all settings."""

import json
import shlex
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from drawstream.pipeline.secrets import shown
from drawstream.tools.report import page
from drawstream.tools.report.groups import Group
from drawstream.tools.report.pages.schedule import SearchedSchedule
from drawstream.tools.report.records import SearchRecord, TrainRecord
from drawstream.tools.report.sampled_rows import SampledRows

__all__ = ["Job", "command_of", "date_of", "provenance"]

Job = TrainRecord | SearchRecord | SearchedSchedule
FEW = 12  # records in an open table


def command_of(document: Mapping[str, Any], /) -> str:
    """The command line that wrote a record, as it is typed; empty where it does not say."""
    command = document.get("command")
    return shlex.join(map(str, command)) if isinstance(command, list) else ""


def date_of(job: Job, /) -> str:
    """When a job ended; of records that do not say, when the file was written."""
    stated = job.document.get("finished")
    when = datetime.fromtimestamp(job.path.stat().st_mtime, UTC)
    if isinstance(stated, str):
        with suppress(ValueError):
            when = datetime.fromisoformat(stated).astimezone(UTC)
    return when.strftime("%Y-%m-%d %H:%M UTC")


def provenance(
    groups: Sequence[Group],
    searches: Sequence[SearchRecord],
    samplings: Sequence[SampledRows],
    schedules: Sequence[SearchedSchedule],
    /,
) -> list[str]:
    """Everything that is needed to make the records again."""
    rows = [
        _line(f"Search, seed {record.seed}", record, sampling.catalog.fingerprint)
        for record, sampling in zip(searches, samplings, strict=True)
    ]
    rows += [
        _line(f"Schedule search, seed {each.document['seed']}", each, each.catalog.fingerprint) for each in schedules
    ]
    parts = []
    for record, sampling in zip(searches, samplings, strict=True):
        facts = _facts(record.document, leave={"trials", "confirmation", "format", "kind"})
        facts += [
            ["catalog fingerprint", sampling.catalog.fingerprint],
            ["features fingerprint", sampling.table.fingerprint],
        ]
        facts += [[f"features: {name}", text] for name, text in _facts(sampling.table.provenance)]
        facts += [[f"sampler: {name}", text] for name, text in _facts(sampling.sampler.provenance)]
        parts.append(_folded(f"Search, seed {record.seed}: {record.path}", facts))
    for group in groups:
        for run in group.runs:
            rows.append(_line(f"{group.name}, seed {run.seed}", run, run.document.get("catalog_fingerprint", "–")))
            facts = _facts(run.document, leave={"history", "format", "kind"})
            parts.append(_folded(f"Run, {group.name}, seed {run.seed}: {run.path}", facts))
    if not rows:
        return []
    head = ["Job", "Finished", "Machine", "Data fingerprint", "Command"]
    table = page.table(head, rows, text=True, label="Jobs")
    if len(rows) <= FEW:
        return [table, *parts]
    return [page.folded(f"All {len(rows)} jobs", table), page.folded(f"All settings of {len(rows)} jobs", *parts)]


def _line(name: str, job: Job, data: object) -> list[str]:
    return [name, date_of(job), _machine(job.document), str(data)[:12], command_of(job.document) or "–"]


def _machine(document: Mapping[str, Any]) -> str:
    found = document.get("machine")
    if not isinstance(found, Mapping):
        return "–"
    return ", ".join(str(found[key]) for key in ("cpu", "gpu") if found.get(key)) or "–"


def _folded(title: str, facts: Sequence[Sequence[str]]) -> str:
    return page.folded(title, page.table(["", ""], facts, text=True, label=title))


def _facts(document: Mapping[str, Any], *, leave: Collection[str] = ()) -> list[list[str]]:
    """Entries of a record as pairs of texts."""
    rows = []
    for name, value in document.items():
        if name in leave:
            continue
        if name == "command":
            text = command_of(document)
        elif isinstance(value, float):
            text = f"{value:.6g}"
        else:
            text = value if isinstance(value, str) else json.dumps(value)
        rows.append([name, shown(text)])
    return rows
