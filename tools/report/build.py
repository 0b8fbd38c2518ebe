"""The report: one HTML page from the records below a folder; the result, what the sampler does, provenance.

The page is a pure function of the files it reads, so the same run gives the same bytes.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from drawstream.samplers.files.atomic import write_atomically
from drawstream.tools.report import page
from drawstream.tools.report.data import read_data
from drawstream.tools.report.folders import name_folders
from drawstream.tools.report.groups import groups_of
from drawstream.tools.report.left_out import DAMAGED, LeftOut
from drawstream.tools.report.pages.provenance import Job, command_of, date_of, provenance
from drawstream.tools.report.pages.result import history_sections, result_section
from drawstream.tools.report.pages.schedule import SearchedSchedule, read_schedules, schedule_sections
from drawstream.tools.report.pages.search import overview, search_blocks, side_by_side
from drawstream.tools.report.records import SearchRecord, TrainRecord, read_records
from drawstream.tools.report.sampled_rows import SampledRows
from drawstream.tools.report.searches import search_names

IMAGES = (24, 12)  # in each grid of the first search and of the others
ILLUSTRATED = 8  # searches with images; beyond, the page would grow past some 12 MB
DETAILED = 40  # searches with figures of their own; the others are in the table and in the common figures
COMMANDS = 6  # shown on top; all are under provenance


def write_report(runs: Path | Sequence[Path], out: Path, /, *, remote: bool = False) -> LeftOut:
    """Write the page of all `run.json`, `search.json` and `auto.json` below a folder, or below several side by side.

    Args:
        runs: Folder of a run, a search, or many of them; or several such folders, each named by itself on the page.
        out: The HTML file; it is replaced in one step.
        remote: Whether data that a record names on a server may be read.

    Returns:
        The records that are not on the page; the page lists them, too.

    Raises:
        FileNotFoundError: No such folder.
        ValueError: There is nothing to report, or no record that can be used.
    """
    if out.is_dir():
        raise ValueError(f"{out}: is a folder; name the HTML file to write")
    folders = [runs] if isinstance(runs, Path) else list(runs)
    names = name_folders(folders)
    left = LeftOut(remote)
    schedules = [search for folder in folders for search in read_schedules(folder, left)]
    trained, searched = read_records(*folders, names=names, needed=not (schedules or left.lines), left=left)
    opened = [left.read(record.path, partial(_sampled, record, left)) for record in searched]
    jobs = _Jobs(trained, [each for each in opened if each is not None], schedules)
    if not any(jobs):
        raise ValueError(left.lines[0])
    shown = [name for name in names if name]
    try:
        text = _page(jobs, shown, left)
    except DAMAGED as error:  # of a value that is looked at here only: find the record
        sound = _sound(jobs, left)
        if not any(sound):
            raise ValueError(left.lines[0]) from error
        if sound == jobs:
            raise
        text = _page(sound, shown, left)
    with write_atomically(out) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return left


class _Jobs(NamedTuple):
    """Jobs that a page shows."""

    runs: Sequence[TrainRecord]
    searches: Sequence[tuple[SearchRecord, SampledRows]]
    schedules: Sequence[SearchedSchedule]


def _sampled(record: SearchRecord, left: LeftOut, path: Path) -> tuple[SearchRecord, SampledRows] | None:
    return None if left.needs(path, record.catalog) else (record, SampledRows.open(record))


def _sound(jobs: _Jobs, left: LeftOut) -> _Jobs:
    """The jobs that a page of themselves alone can be made of; the others are left out."""

    def passes(path: Path, alone: _Jobs) -> bool:
        return left.read(path, lambda _: _page(alone, [], LeftOut(left.remote))) is not None

    return _Jobs(
        [run for run in jobs.runs if passes(run.path, _Jobs([run], [], []))],
        [pair for pair in jobs.searches if passes(pair[0].path, _Jobs([], [pair], []))],
        [each for each in jobs.schedules if passes(each.path, _Jobs([], [], [each]))],
    )


def _page(jobs: _Jobs, folders: Sequence[str], left: LeftOut) -> str:
    runs, schedules = jobs.runs, jobs.schedules
    searches, samplings = [record for record, _ in jobs.searches], [sampling for _, sampling in jobs.searches]
    for run in {run.catalog: run for run in reversed(runs)}.values():
        left.needs(run.path, run.catalog)
    data = read_data(runs, samplings, remote=left.remote)
    groups = groups_of(runs, data.names)
    title = "; ".join(dict.fromkeys(name for name, _ in data.described)) or "Training runs"
    title += f": {', '.join(folders)}" if folders else ""
    parts = [page.paragraph(f"Left out: {line}", kind="caution") for line in left.lines]
    parts += [*_head([*runs, *searches, *schedules], [text for _, text in data.described])]
    parts += [result_section(groups, searches, data.judged), *history_sections(groups)]
    if not searches and not schedules:
        parts.append(page.paragraph("No search lies below this folder, so there is no sampler to show.", kind="soft"))
    if len(searches) > 1:
        parts.append(page.section("Searches", overview(searches, samplings)))
        parts += [page.section(heading, body) for heading, body in side_by_side(searches, samplings)]
    names = search_names(searches, samplings) if searches else []
    for i, (record, sampling) in enumerate(zip(searches, samplings, strict=True)):
        if i >= DETAILED:
            break
        blocks = search_blocks(record, sampling, 0 if i >= ILLUSTRATED else IMAGES[min(i, 1)])
        if i == 0:
            where = f" (search of {names[0]})" if len(searches) > 1 else ""
            parts += [page.section(heading + where, body) for heading, body in blocks]
        else:
            name = f"Search of {names[i]} ({record.path.parent}): the same figures"
            parts.append(page.folded(name, *(page.heading(heading) + body for heading, body in blocks)))
    parts += schedule_sections(schedules)
    parts.append(page.section("Provenance", *provenance(groups, searches, samplings, schedules)))
    return page.document(title, *parts)


def _head(jobs: Sequence[Job], data: Sequence[str]) -> list[str]:
    """Data sets, date of the newest record, and the commands, those of searches first."""
    lines = [*dict.fromkeys(data), f"Finished {max(map(date_of, jobs))}"]
    documents = [each.document for each in sorted(jobs, key=lambda each: isinstance(each, TrainRecord))]
    commands = list(dict.fromkeys(filter(None, map(command_of, documents))))
    more = [f"… {len(commands) - COMMANDS} more under Provenance"] if len(commands) > COMMANDS else []
    typed = [page.code([*commands[:COMMANDS], *more])] if commands else []
    return [page.paragraph(". ".join(lines) + ".", kind="soft"), *typed]
