"""The report: one HTML page from the records below a folder; the result, the sampler's choices, data, provenance.

The page is a pure function of the files it reads, so the same run gives the same bytes.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from drawstream.samplers.files import write_atomically
from drawstream.tools.report import page
from drawstream.tools.report.data import name_folders, read_data
from drawstream.tools.report.data_records import DuplicatesRecord, TableRecord, read_duplicates, read_tables
from drawstream.tools.report.groups import groups_of
from drawstream.tools.report.left_out import DAMAGED, LeftOut
from drawstream.tools.report.pages import (
    Job,
    class_section,
    command_of,
    data_sections,
    date_of,
    history_sections,
    overview,
    provenance_section,
    result_section,
    schedule_sections,
    search_blocks,
    side_by_side,
)
from drawstream.tools.report.records import SearchRecord, TrainRecord, read_records
from drawstream.tools.report.sampled_rows import SampledRows
from drawstream.tools.report.schedules import SearchedSchedule, read_schedules
from drawstream.tools.report.searches import Search, search_names

__all__ = ["write_report"]

IMAGES = (24, 12)  # in each grid of the first search and of the others
ILLUSTRATED = 8  # searches with images; beyond, the page would grow past some 12 MB
DETAILED = 40  # searches with figures of their own; the others are in the table and in the common figures
COMMANDS = 6  # shown on top; all are under provenance


def write_report(
    runs: Path | Sequence[Path], out: Path, /, *, remote: bool = False, shots: tuple[int, int] | None = None
) -> LeftOut:
    """Write the page of all records of runs, searches, suspects and duplicates below a folder, or below several.

    Args:
        runs: Folder of a run, a search, or many of them; or several such folders, each named by itself on the page.
        out: The HTML file; it is replaced in one step.
        remote: Read data that a record names on a server.
        shots: Fewest and most training images of a medium-shot class; None: 20 and 100, or thirds of the classes.

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
    duplicates = [record for folder in folders for record in read_duplicates(folder, left)]
    listed = any(left.read_all(folder, "suspects.json", lambda path: path) for folder in folders)
    needed = not (schedules or duplicates or listed or left.lines)
    trained, records = read_records(*folders, names=names, needed=needed, left=left)
    tables = read_tables(folders, trained, left)
    opened = [left.read(record.path, partial(_sampled, record, left)) for record in records]
    searches = [each for each in opened if each is not None]
    about = _Data(tables, duplicates)
    jobs, shown = _Jobs(trained, searches, schedules), [name for name in names if name]
    if not any(jobs) and not any(about):
        raise ValueError(left.lines[0])
    try:
        text = _page(jobs, shown, left, shots, about)
    except DAMAGED as error:  # of a value that is used here only: find the record
        sound = _sound(jobs, left)
        if not any(sound):
            raise ValueError(left.lines[0]) from error
        if sound == jobs:
            raise
        text = _page(sound, shown, left, shots, about)
    with write_atomically(out) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return left


def _sampled(record: SearchRecord, left: LeftOut, path: Path, /) -> Search | None:
    return None if left.needs(path, record.catalog) else (record, SampledRows.open(record))


class _Jobs(NamedTuple):
    """Jobs that a page shows."""

    runs: Sequence[TrainRecord]
    searches: Sequence[Search]
    schedules: Sequence[SearchedSchedule]


class _Data(NamedTuple):
    """Records about the data themselves."""

    tables: Sequence[TableRecord] = ()
    duplicates: Sequence[DuplicatesRecord] = ()


NO_DATA = _Data()


def _sound(jobs: _Jobs, left: LeftOut) -> _Jobs:
    """Return the jobs that a page can be made of, one at a time; the others are left out."""

    def passes(path: Path, alone: _Jobs) -> bool:
        return left.read(path, lambda _: _page(alone, [], LeftOut(left.remote))) is not None

    return _Jobs(
        [run for run in jobs.runs if passes(run.path, _Jobs([run], [], []))],
        [pair for pair in jobs.searches if passes(pair[0].path, _Jobs([], [pair], []))],
        [each for each in jobs.schedules if passes(each.path, _Jobs([], [], [each]))],
    )


def _page(
    jobs: _Jobs,
    folders: Sequence[str],
    left: LeftOut,
    shots: tuple[int, int] | None = None,
    about: _Data = NO_DATA,
) -> str:
    runs, searches, schedules = jobs
    records = [record for record, _ in searches]
    for run in {run.catalog: run for run in reversed(runs)}.values():
        left.needs(run.path, run.catalog)
    data = read_data(runs, [sampling for _, sampling in searches], remote=left.remote)
    groups = groups_of(runs, data.names)
    title = "; ".join(data.described) or ("Training runs" if any(jobs) else "Suspects and duplicates")
    title += f": {', '.join(folders)}" if folders else ""
    of_data = data_sections(*about, left)
    parts = [page.paragraph(f"Left out: {line}", kind="caution") for line in left.lines]
    parts += _head([*records, *schedules, *runs, *about.tables, *about.duplicates], list(data.described.values()))
    if any(jobs):
        parts += [result_section(groups, records, data.judged), class_section(groups, shots), *history_sections(groups)]
    if runs and not searches and not schedules:
        parts.append(page.paragraph("No search lies below this folder, so there is no sampler to show.", kind="soft"))
    parts += [*_searches(searches), *schedule_sections(schedules), *of_data]
    if any(jobs):
        parts.append(page.section("Provenance", *provenance_section(groups, searches, schedules)))
    return page.document(title, *parts)


def _searches(searches: Sequence[Search]) -> list[str]:
    """Return all searches side by side, then each: the first one open, the others folded."""
    parts, names = [], search_names(searches)
    if len(searches) > 1:
        parts.append(page.section("Searches", overview(searches)))
        parts += [page.section(heading, body) for heading, body in side_by_side(searches)]
    for i, (record, sampling) in enumerate(searches[:DETAILED]):
        blocks = search_blocks(record, sampling, 0 if i >= ILLUSTRATED else IMAGES[min(i, 1)])
        if i == 0:
            where = f" (search of {names[0]})" if len(searches) > 1 else ""
            parts += [page.section(heading + where, body) for heading, body in blocks]
        else:
            name = f"Search of {names[i]} ({record.path.parent}): the same figures"
            parts.append(page.folded(name, *(page.heading(heading) + body for heading, body in blocks)))
    return parts


def _head(jobs: Sequence[Job], data: Sequence[str]) -> list[str]:
    """Return the data sets, the date of the newest record, and the commands in the order of the jobs."""
    lines = [*dict.fromkeys(data), f"Finished {max(map(date_of, jobs))}"]
    commands = list(dict.fromkeys(filter(None, (command_of(job.document) for job in jobs))))
    more = [f"… {len(commands) - COMMANDS} more under Provenance"] if len(commands) > COMMANDS else []
    typed = [page.code([*commands[:COMMANDS], *more])] if commands else []
    return [page.paragraph(". ".join(lines) + ".", kind="soft"), *typed]
