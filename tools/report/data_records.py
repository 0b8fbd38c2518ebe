"""Records about the data themselves: tables of tracked trainings, lists of suspects and of duplicates."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drawstream.pipeline.catalogs import Places
from drawstream.tools.report.left_out import LeftOut
from drawstream.tools.report.records import TrainRecord, places_of
from drawstream.tools.runs import read_record

__all__ = ["DuplicatesRecord", "TableRecord", "read_duplicates", "read_tables"]


@dataclass(frozen=True, slots=True)
class TableRecord:
    """A tracked table, and what names it: a `run.json`, or the `suspects.json` made of it."""

    path: Path  # the record
    document: Mapping[str, Any]  # all of it
    tables: tuple[Path, ...]  # folders of the table, one for each catalog
    catalog: Places  # of its rows
    method: str | None  # how suspects were scored; None: the record is that of a training


@dataclass(frozen=True, slots=True)
class DuplicatesRecord:
    """A list of duplicates."""

    path: Path  # its `duplicates.json`
    document: Mapping[str, Any]  # all of it
    catalog: Places  # of its rows


def read_tables(folders: Sequence[Path], runs: Sequence[TrainRecord], left: LeftOut, /) -> list[TableRecord]:
    """Return the tracked tables of some folders: of each list of suspects, and of the trainings without one.

    Of trainings on the same data the first is taken.
    """
    found = [record for folder in folders for record in left.read_all(folder, "suspects.json", _suspects)]
    listed = {each.resolve() for record in found for each in record.tables}
    known: set[Any] = {record.document.get("catalog") for record in found}
    for run in runs:
        stated = run.document.get("tracked")
        fingerprint = run.document.get("catalog_fingerprint")
        if not stated or fingerprint in known:
            continue
        table = run.path.parent / str(stated)
        if table.is_dir() and table.resolve() not in listed:
            known.add(fingerprint)
            found.append(TableRecord(run.path, run.document, (table,), run.catalog, None))
    return found


def read_duplicates(folder: Path, left: LeftOut, /) -> list[DuplicatesRecord]:
    """Return the lists of duplicates below a folder."""
    return left.read_all(folder, "duplicates.json", _duplicates)


def _suspects(path: Path, /) -> TableRecord:
    document = read_record(path, "suspects")
    tables = tuple(path.parent / str(each) for each in document["tables"])
    return TableRecord(path, document, tables, places_of(path, document["data"]), str(document["method"]))


def _duplicates(path: Path, /) -> DuplicatesRecord:
    document = read_record(path, "duplicates")
    return DuplicatesRecord(path, document, places_of(path, document["data"]))
