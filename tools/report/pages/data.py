"""Report on the data: suspects, class health, images whose label is least likely, duplicates."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from drawstream.features import Suspects, find_suspects
from drawstream.features.table import FeatureTable
from drawstream.pipeline.shards import Catalog
from drawstream.tools.report import DuplicatesRecord, LeftOut, Picture, TableRecord, page, pictures

__all__ = ["data_sections"]

IMAGES = 24  # of the most suspect rows
CLASSES, PAIRS = 20, 10  # rows of tables that are not folded
GROUPS = 12  # of duplicates with images
NEEDED = ("margin", "other", "other_label", "loss")


def data_sections(tables: Sequence[TableRecord], duplicates: Sequence[DuplicatesRecord], left: LeftOut, /) -> list[str]:
    """Return the sections on the data; what a record names and cannot be read is left out by name."""
    near = [each for each in tables if not left.needs(each.path, each.catalog)]
    found = [left.read(each.path, partial(_suspects, each)) for each in near]
    listed = [each for each in duplicates if not left.needs(each.path, each.catalog)]
    return [part for part in (*found, *(left.read(each.path, partial(_duplicates, each)) for each in listed)) if part]


def _suspects(record: TableRecord, _: Path, /) -> str:
    """Section of a tracked table; "" for one that knows nothing of other classes."""
    catalog = Catalog.open(record.catalog, classes="union")
    table = FeatureTable.open(*record.tables, catalog=catalog)
    if len(table) != len(catalog) or not set(NEEDED) <= set(table.names):
        return ""
    method = record.method or "margin"
    found = find_suspects(table, len(catalog.classes), method=method)  # type: ignore[arg-type]
    low, high = found.interval
    told = f"{found.share:.1%} of {len(catalog):,} labels are estimated to be wrong ({low:.1%} to {high:.1%})"
    told += f", by the {method} of one training" if method in ("margin", "loss") else f", by {method}"
    if record.method is not None:
        doc = record.document
        told += f"; {doc['dropped']:,} rows are dropped, {doc['reviewed']:,} were reviewed"
    unlikely = _unlikely(table)
    return page.section(
        f"Data: {_name(record.catalog)}",
        page.paragraph(f"{told}.", kind="verdict"),
        page.heading("Labels that are least likely"),
        page.gallery(_given(catalog, found, found.order[:IMAGES])),
        page.paragraph("Given → suggested label, and the probability that the given one is wrong.", kind="soft"),
        page.heading("Classes"),
        *_classes(catalog, table, found),
        *_pairs(catalog, found),
        page.heading("The least likely image of each class"),
        page.gallery(_given(catalog, found, unlikely[:IMAGES])),
        page.paragraph("By the averaged probability of the given label, the lowest first.", kind="soft"),
    )


def _name(place: object) -> str:
    several = place if isinstance(place, list | tuple) else (place,)
    folders = (str(each).removesuffix("catalog.parquet").rstrip("/") for each in several)
    return ", ".join("/".join(each.split("/")[-2:]) for each in folders)


def _given(catalog: Catalog, found: Suspects, rows: NDArray[np.int64]) -> list[Picture]:
    """Images of rows, labelled given → suggested."""
    names = catalog.classes
    return [
        replace(each, label=f"{each.label} → {names[c]}" if (c := int(found.suggested[row])) >= 0 else each.label)
        for each, row in zip(pictures(catalog, rows, found.wrong[rows]), rows.tolist(), strict=True)
    ]


def _own(table: FeatureTable) -> NDArray[np.float64]:
    """Averaged probability of the given label, float64 (rows,)."""
    columns = table.columns("other", "margin")
    return np.asarray(columns["other"], np.float64) - columns["margin"]


def _unlikely(table: FeatureTable) -> NDArray[np.int64]:
    """The row of each class whose label is least likely, the lowest first."""
    own = _own(table)
    order = np.lexsort((own, table.label))
    first = order[np.flatnonzero(np.diff(np.asarray(table.label)[order], prepend=-1))]
    chosen: NDArray[np.int64] = first[np.argsort(own[first], kind="stable")]
    return chosen


def _classes(catalog: Catalog, table: FeatureTable, found: Suspects) -> list[str]:
    """The table of classes, those with the most wrong labels first; beyond some folded."""
    label, count = np.asarray(catalog.label), len(catalog.classes)
    rows = np.bincount(label, minlength=count)
    means = [np.bincount(label, each, minlength=count) / np.maximum(rows, 1) for each in (found.wrong, _own(table))]
    wrong, own = means
    learned = table.columns("learned")["learned"] if "learned" in table.names else np.ones(len(table), np.float32)
    never = 1 - np.bincount(label, learned, minlength=count) / np.maximum(rows, 1)
    order = [c for c in np.argsort(-wrong, kind="stable").tolist() if rows[c]]
    lines = [[catalog.classes[c], f"{rows[c]:,}", f"{wrong[c]:.1%}", f"{own[c]:.1%}", f"{never[c]:.1%}"] for c in order]
    head = ["Class", "Images", "Labels wrong, estimated", "Mean probability of the label", "Never right"]
    parts = [page.table(head, lines[:CLASSES])]
    if len(lines) > CLASSES:
        parts.append(page.folded(f"{len(lines) - CLASSES} more classes", page.table(head, lines[CLASSES:])))
    return parts


def _pairs(catalog: Catalog, found: Suspects) -> list[str]:
    """The most frequent pairs of given and probable class."""
    joint = found.joint - np.diag(found.joint.diagonal())
    largest = np.argsort(-joint, axis=None, kind="stable")[:PAIRS]
    pairs = [divmod(int(at), len(joint)) for at in largest if joint.flat[at] >= 0.5]
    if not pairs:
        return []
    lines = [[f"{catalog.classes[a]} → {catalog.classes[b]}", f"{joint[a, b]:,.0f}"] for a, b in pairs]
    return [page.heading("Most frequent confusions"), page.table(["Given → probable", "Images, estimated"], lines)]


def _duplicates(record: DuplicatesRecord, _: Path, /) -> str:
    """Section of a list of duplicates."""
    doc = record.document
    try:
        catalog = Catalog.open(record.catalog, classes="union")
    except ValueError:  # of different labels
        catalog = Catalog.open(record.catalog, classes="none")
    if catalog.fingerprint != doc["catalog"]:
        raise ValueError(f"its catalog {_name(record.catalog)} is another one now: find duplicates again")
    kinds = ", ".join(f"{count:,} of equal {name}" for name, count in doc["duplicates"].items() if name != "near")
    told = f"{doc['groups']:,} groups in {doc['rows']:,} images: {kinds}, {doc['duplicates']['near']:,} nearly the same"
    told += f"; {doc['leaks']:,} groups lie in several of the catalogs" if len(catalog.sources) > 1 else ""
    told += f"; {doc['several_labels']:,} groups have several labels" if doc["several_labels"] else ""
    listed = pq.read_table(record.path.parent / "duplicates.parquet", columns=["group", "kind", "row"])
    group, row = (listed[name].to_numpy() for name in ("group", "row"))
    kind, starts = listed["kind"].to_pylist(), np.flatnonzero(np.diff(group, prepend=-1))[:GROUPS]
    places = [at for start in starts.tolist() for at in (start, start + 1)]
    shown = pictures(catalog, row[places], np.zeros(len(places)))
    labelled = [
        replace(each, label=f"{group[at] + 1}: {kind[at]}", true=None, ratio=None)
        for each, at in zip(shown, places, strict=True)
    ]
    parts = [page.gallery(labelled), page.paragraph("The first two images of each group.", kind="soft")]
    return page.section(
        f"Duplicates: {_name(record.catalog)}", page.paragraph(f"{told}.", kind="verdict"), *(parts if places else [])
    )
