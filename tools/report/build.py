"""The report: one HTML page from the records below a folder; the result, what the sampler does, provenance.

The page is a pure function of the files it reads, so the same run gives the same bytes.
"""

import json
import shlex
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from drawstream.pipeline import Catalog, RemoteError
from drawstream.tools.files import write_atomically
from drawstream.tools.report import page
from drawstream.tools.report.comparison import compare, methods_of, settings_that_differ, verdicts
from drawstream.tools.report.figures import history_figure, result_figure
from drawstream.tools.report.records import SearchRecord, TrainRecord, read_records
from drawstream.tools.report.sampled_rows import SampledRows
from drawstream.tools.report.schedule_page import SearchedSchedule, read_schedules, schedule_sections
from drawstream.tools.report.search_page import overview, search_blocks, side_by_side
from drawstream.tools.report.searches import search_names

IMAGES = (24, 12)  # in each grid of the first search and of the others
ILLUSTRATED = 8  # searches with images; beyond, the page would grow past some 12 MB
COMMANDS = 6  # shown on top; all are under provenance


def write_report(run: Path, out: Path, /) -> None:
    """Write the page of all `run.json`, `search.json` and `auto.json` below a folder.

    Args:
        run: Folder of a run, a search, or many of them.
        out: The HTML file; it is replaced in one step.

    Raises:
        FileNotFoundError: No such folder.
        ValueError: A record or a file it names is missing or damaged, or nothing is there to report.
    """
    if out.is_dir():
        raise ValueError(f"{out}: is a folder; name the HTML file to write")
    schedules = read_schedules(run)
    runs, searches = read_records(run, needed=not schedules)
    text = _page(runs, searches, schedules)
    with write_atomically(out) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _page(runs: Sequence[TrainRecord], searches: Sequence[SearchRecord], schedules: Sequence[SearchedSchedule]) -> str:
    samplings = [SampledRows.open(record) for record in searches]
    data = _data_sets(runs, samplings)
    title = "; ".join(dict.fromkeys(name for name, _ in data)) or "Training runs"
    parts = [*_head([*runs, *searches, *schedules], data), _result(runs, searches), *_history(runs)]
    if not searches and not schedules:
        parts.append(page.paragraph("No search lies below this folder, so there is no sampler to show.", kind="soft"))
    if len(searches) > 1:
        parts.append(page.section("Searches", overview(searches, samplings)))
        parts += [page.section(heading, body) for heading, body in side_by_side(searches, samplings)]
    names = search_names(searches, samplings) if searches else []
    for i, (record, sampling) in enumerate(zip(searches, samplings, strict=True)):
        blocks = search_blocks(record, sampling, 0 if i >= ILLUSTRATED else IMAGES[min(i, 1)])
        if i == 0:
            where = f" (search of {names[0]})" if len(searches) > 1 else ""
            parts += [page.section(heading + where, body) for heading, body in blocks]
        else:
            name = f"Search of {names[i]} ({record.path.parent}): the same figures"
            parts.append(page.folded(name, *(page.heading(heading) + body for heading, body in blocks)))
    parts += schedule_sections(schedules)
    parts.append(page.section("Provenance", *_provenance(runs, searches, samplings)))
    return page.document(title, *parts)


def _data_sets(runs: Sequence[TrainRecord], samplings: Sequence[SampledRows]) -> list[tuple[str, str]]:
    """Short name and description of every distinct data set; a run whose catalog is gone contributes none."""
    catalogs = {sampling.catalog.path.resolve(): sampling.catalog for sampling in samplings}
    for run in runs:
        known = {path.parent for path in catalogs} | catalogs.keys()
        if isinstance(run.catalog, Path) and run.catalog.resolve() in known:
            continue
        try:
            catalog = Catalog.open(run.catalog)
        except (FileNotFoundError, RemoteError):
            continue
        except ValueError as error:
            raise ValueError(f"{run.path}: {error}") from None
        stated = run.document.get("catalog_fingerprint", catalog.fingerprint)
        if stated != catalog.fingerprint:
            raise ValueError(
                f"{run.path}: trained on catalog {str(stated)[:12]}, but {catalog.path} is {catalog.fingerprint[:12]}: "
                "the data was packed anew; train again"
            )
        catalogs[catalog.path.resolve()] = catalog
    return _describe(list(catalogs.values()))


def _describe(catalogs: Sequence[Catalog]) -> list[tuple[str, str]]:
    """Catalogs that differ in their noise only, as those of a demo's seeds, are described as one data set."""
    noises: dict[tuple[str, str], list[float]] = {}
    for catalog in catalogs:
        name = Path(str(catalog.provenance.get("source", catalog.root.name))).name
        what = f"{name}: {len(catalog):,} training images, {catalog.num_classes} classes"
        known = noises.setdefault((name, what), [])
        if catalog.clean_label is not None:
            known.append(100 * float((catalog.label != catalog.clean_label).mean()))
    described = []
    for (name, what), known in noises.items():
        if not known:
            described.append((name, f"{what}, true labels not recorded"))
            continue
        low, high = f"{min(known):.2f}", f"{max(known):.2f}"
        share = low if low == high else f"{low} to {high}"
        described.append((f"{name}, {np.mean(known):.0f} % label noise", f"{what}, {share} % of the labels wrong"))
    return described


def _head(
    records: Sequence[TrainRecord | SearchRecord | SearchedSchedule], data: Sequence[tuple[str, str]]
) -> list[str]:
    """Data sets, date of the newest record, and the commands, those of searches first."""
    date = datetime.fromtimestamp(max(each.path.stat().st_mtime for each in records), UTC).strftime(
        "%Y-%m-%d %H:%M UTC"
    )
    lines = [*dict.fromkeys(text for _, text in data), f"Finished {date}"]
    documents = [each.document for each in sorted(records, key=lambda each: isinstance(each, TrainRecord))]
    commands = list(dict.fromkeys(filter(None, map(_command, documents))))
    more = [f"… {len(commands) - COMMANDS} more under Provenance"] if len(commands) > COMMANDS else []
    typed = [page.code([*commands[:COMMANDS], *more])] if commands else []
    return [page.paragraph(". ".join(lines) + ".", kind="soft"), *typed]


def _command(document: Mapping[str, Any]) -> str:
    return shlex.join(str(word) for word in document.get("command") or [])


def _result(runs: Sequence[TrainRecord], searches: Sequence[SearchRecord]) -> str:
    """The verdict, then every number it rests on."""
    evaluated = [run for run in runs if run.result is not None]
    told = [page.paragraph(text, kind="caution") for text in _searches_that_kept_uniform(searches)]
    if not evaluated:
        story = [
            page.paragraph(f"Search of seed {search.seed}: {search.message}.", kind="verdict") for search in searches
        ]
        return page.section(
            "Result", *story, *told, page.paragraph("No evaluated training run lies below this folder.")
        )
    entries = compare(evaluated)
    seeds = sorted({run.seed for run in evaluated})
    rows = []
    for entry in entries:
        cells = [", ".join(f"{value:.2f}" for at, value in entry.values if at == seed) or "–" for seed in seeds]
        spread = "–" if entry.std is None else f"± {entry.std:.2f}"
        rows.append([entry.name, f"{entry.mean:.2f}", spread, *cells])
    unlike = settings_that_differ(evaluated)
    if unlike:
        told.append(page.paragraph(f"The runs do not share all settings ({'; '.join(unlike)}).", kind="caution"))
    sets = list(dict.fromkeys(run.result.evaluated_on for run in evaluated if run.result is not None))
    measured = " and ".join(name.replace("_", "-") for name in sets)
    return page.section(
        "Result",
        *(page.paragraph(sentence, kind="verdict") for sentence in verdicts(entries)),
        *told,
        page.table(["Top-1 accuracy (%)", "Mean", "Std", *(f"Seed {seed}" for seed in seeds)], rows),
        page.chart(
            result_figure(entries, sets[0]),
            "A point per seed; the bar is the mean, its whiskers one standard deviation (n − 1) over the seeds.",
        ),
        page.paragraph(
            f"“Best epoch” is the one with the highest accuracy on the {measured} set itself, picked in hindsight: an "
            "oracle, which no training run can follow. “Early stopping” takes the epoch that the held-out set chose.",
            kind="soft",
        ),
    )


def _searches_that_kept_uniform(searches: Sequence[SearchRecord]) -> list[str]:
    kept = [search for search in searches if search.winner == "uniform"]
    if not kept:
        return []
    seeds = ", ".join(str(search.seed) for search in kept)
    return [
        f"In {len(kept)} of {len(searches)} searches (seed {seeds}) no candidate beat uniform sampling when it was "
        "confirmed; the sampler written there is the uniform one."
    ]


def _history(runs: Sequence[TrainRecord]) -> list[str]:
    """Accuracy over epochs, the set of the result first."""
    reported = [run.result.evaluated_on for run in runs if run.result is not None]
    known = dict.fromkeys([*reported, *(name for run in runs for point in run.history for name in point.accuracy)])
    figures = [(name, history_figure(runs, name)) for name in known]
    charts = [page.chart(figure, "Thin lines: single runs.") for _, figure in figures if figure is not None]
    return [page.section("Accuracy over epochs", page.panels(*charts))] if charts else []


def _provenance(
    runs: Sequence[TrainRecord], searches: Sequence[SearchRecord], samplings: Sequence[SampledRows]
) -> list[str]:
    """Everything that is needed to make the records again."""
    parts = []
    for record, sampling in zip(searches, samplings, strict=True):
        rows = _facts(record.document, leave={"trials", "confirmation", "format", "kind"})
        rows += [
            ["catalog fingerprint", sampling.catalog.fingerprint],
            ["features fingerprint", sampling.table.fingerprint],
        ]
        rows += [[f"features: {name}", text] for name, text in _facts(sampling.table.provenance)]
        rows += [[f"sampler: {name}", text] for name, text in _facts(sampling.sampler.provenance)]
        parts.append(page.folded(f"Search, seed {record.seed}: {record.path}", page.table(["", ""], rows, text=True)))
    for method in methods_of(runs):
        for run in (each for each in runs if each.method == method):
            rows = _facts(run.document, leave={"history", "format", "kind"})
            parts.append(
                page.folded(f"Run, {method}, seed {run.seed}: {run.path}", page.table(["", ""], rows, text=True))
            )
    return parts


def _facts(document: Mapping[str, Any], *, leave: Collection[str] = ()) -> list[list[str]]:
    """Entries of a record as pairs of texts."""
    rows = []
    for name, value in document.items():
        if name in leave:
            continue
        if name == "command":
            text = _command(document)
        elif isinstance(value, float):
            text = f"{value:.6g}"
        else:
            text = value if isinstance(value, str) else json.dumps(value)
        rows.append([name, text])
    return rows
