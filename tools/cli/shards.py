"""`drawstream pack`, `index` and `verify`: shards and their catalog."""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import typer

from drawstream.pipeline.shards import printable
from drawstream.tools.cli.options import ResultOptions, WhereOptions
from drawstream.tools.runs import (
    COUNT,
    FEW,
    ROWS,
    SEED,
    Progress,
    argument,
    finish,
    option,
    write_record,
    write_result,
)

if TYPE_CHECKING:
    from drawstream.pipeline.shards import IndexResult, PackResult

_FIELDS = "Captions, masks, boxes … beside the images to take, by extension, such as txt,json,seg.png; repeatable."
_KIND = "One class of each image, several (multi), numbers (value), or none."
_WORKERS = "Processes to run; by default one per core, fewer for small data."


@dataclass(frozen=True, kw_only=True)
class ImageOptions(ResultOptions):
    """How images are taken."""

    orientation: Literal["exif", "stored"] = option(
        "exif", "Turn images as their first EXIF block says, or leave them as stored (torchvision, timm)."
    )
    skip_bad: Path | None = option(None, "Leave out images that cannot be read, and list them in this file (JSON).")
    relabel: Path | None = option(
        None, "Change the labels that this relabel.json of `drawstream suspects` names; leave out what a review drops."
    )
    overwrite: bool = option(False, "Replace an earlier catalog.")
    dry_run: bool = option(
        False, "Check the images' source and the place of the catalog; write nothing.", "--dry-run", decides=False
    )


@dataclass(frozen=True, kw_only=True)
class PackOptions(ImageOptions):
    """Options of `pack`."""

    source: Path = argument(
        "IDX folder (Fashion-MNIST), class folders, .npz, images.npy + labels.npy (+ clean_labels.npy), with --labels "
        "a folder of images, Parquet or Arrow of Hugging Face, or module:factory of a map-style data set."
    )
    out: Path = argument("Folder to write: shards and catalog.parquet.")
    encoding: Literal["keep", "raw", "png", "jpeg"] = option("keep", "Store images in this encoding.")
    quality: int = option(95, "Quality of newly encoded JPEGs.", within=FEW)
    fields: list[str] = option(
        [], f"{_FIELDS} Of Parquet, Arrow or rows that are dicts: columns, such as caption or seg.png=mask."
    )
    max_side: int | None = option(
        None, "Store images whose longer side has more pixels smaller, in their own format.", within=COUNT
    )
    short_side: int | None = option(None, "The same for the shorter side; 256 suits crops of 224 pixels.", within=COUNT)
    boxes: str | None = option(None, "Field with boxes that shrink with them, boxes.npy (default) or json:PATH.TO.KEY.")
    split: Literal["train", "test", "validation"] = option(
        "train", "Take this part of a folder with IDX, Parquet or Arrow files, or of module:factory."
    )
    limit: int | None = option(None, "Rows to take, class-balanced.", within=ROWS)
    holdout: int = option(
        0, "Rows to split off into a second catalog (OUT/train, OUT/holdout); `train --held-out` takes it.", within=ROWS
    )
    long_tail: float | None = option(
        None,
        "Imbalance of the training rows: class c of C keeps n_max I^(-c/(C-1)), the last one 1/I; CIFAR-LT has 100.",
        within=(1, 10**9),
    )
    labels: Path | None = option(
        None, "Table with the labels of the images (.csv, .parquet, …): a column of files, and labels."
    )
    label_kind: Literal["class", "multi", "value", "none"] | None = option(None, _KIND)
    image_column: str | None = option(None, "Column or key with the images, of Parquet, Arrow, or rows that are dicts.")
    label_column: str | None = option(None, "Column or key with the labels.")
    workers: int | None = option(None, "Processes that read module:factory; by default one per core.", within=COUNT)
    label_noise: str = option(
        "0",
        "Share of each class to relabel into the others, or wrong labels in a .npy file.",
        "--label-noise",
        "--noise",
    )
    noise_seed: int = option(0, "Seed of the relabelling.", within=SEED)
    seed: int = option(0, "Seed of everything that is drawn.", within=SEED)


@dataclass(frozen=True, kw_only=True)
class IndexOptions(ImageOptions):
    """Options of `index`."""

    shards: list[Path] = argument("WebDataset tars, or a folder of them.")
    out: Path | None = option(None, "Folder of the catalog; by default beside the shards.", "--out", "-o")
    image: list[str] = option(
        [], "Extension of the image member, such as jpg or input.jpg; repeatable. By default any."
    )
    label: str | None = option(
        None,
        "Member with the label: cls, txt, json, json:PATH.TO.KEY, another extension, or none for no labels. "
        "By default the first of cls, json, txt that a sample has.",
        known=("cls", "txt", "json", "json:KEY", "none"),
    )
    label_kind: Literal["class", "multi", "value", "none"] | None = option(None, f"{_KIND} By default class.")
    fields: list[str] = option([], _FIELDS)
    skip_empty: bool = option(False, "Leave out samples without image or label, and count them.")
    workers: int | None = option(None, _WORKERS, within=COUNT)


@dataclass(frozen=True, kw_only=True)
class VerifyOptions(WhereOptions, ResultOptions):
    """Options of `verify`."""

    catalog: list[str] = argument("Folder with catalog.parquet, or its URL; several are checked one after the other.")
    quarantine: Path | None = option(None, "Write the rows that must not be used to this file (JSON).")
    quick: bool = option(False, "Check hashes, headers, labels and checksums only: decode no image.")
    workers: int | None = option(None, _WORKERS, within=COUNT)


def pack(given: PackOptions) -> None:
    """Write images as WebDataset shards with a catalog; files that are not taken are counted.

    Example: drawstream pack /usr/share/datasets/fashion-mnist data --holdout 5000 --label-noise 0.4
    """
    from drawstream import pack as run
    from drawstream.pipeline import BadImagesError, list_bad
    from drawstream.tools.jobs import finished_before, label_noise, open_given, tail_line, tell_source

    out, skip_bad = given.out, given.skip_bad
    how: dict[str, Any] = {"labels": given.labels, "label_kind": given.label_kind, "fields": _split(given.fields)}
    how |= {"columns": (given.image_column, given.label_column), "workers": given.workers}
    with Progress("labels", "rows") as labels:
        opened = open_given(
            given.source, split=given.split, progress=labels.update, skip_bad=skip_bad is not None, **how
        )
    told = tell_source(opened)
    passed = ("encoding", "quality", "max_side", "short_side", "boxes", "orientation", "limit", "holdout")
    drawn = ("long_tail", "noise_seed", "seed", "relabel")
    options: dict[str, Any] = {name: getattr(given, name) for name in (*passed, *drawn)}
    options["label_noise"] = label_noise(given.label_noise)
    options |= {"overwrite": given.overwrite, "skip_bad": skip_bad is not None}
    if given.dry_run:
        planned = run(opened, out, dry_run=True, **options)
        rows = planned.rows + planned.holdout_rows
        text = f"a dry run, nothing was written: {rows} images would be packed into {out}"
        text += tail_line(given.long_tail, planned.class_rows, opened.classes) + _changes(planned, given)
        text += f"; {len(planned.bad)} whose labels cannot be read are left out" if planned.bad else ""
        finish({"job": "pack", "dry_run": True, "out": str(out), "rows": rows}, given.json_path, text)
        return

    def record(done: "PackResult", folder: Path) -> None:
        parts = {"train": done.train, "holdout": done.holdout}
        for part in filter(None, parts.values()):
            places = {name: path and os.path.relpath(path, part) for name, path in parts.items()}
            write_record(folder / part.relative_to(out) / "catalog.json", "pack", asdict(done) | told | places)
        if skip_bad is not None:
            inside = skip_bad.absolute().is_relative_to(out.absolute())  # the folder takes its name behind this
            place = folder / skip_bad.absolute().relative_to(out.absolute()) if inside else skip_bad
            list_bad(place, given.source, done.bad)

    try:
        with Progress("pack", "images") as progress:
            packed = run(opened, out, **options, progress=progress.update, finish=record)
    except BadImagesError as error:
        write_result({"bad": [asdict(each) for each in error.bad], **told}, given.json_path)
        raise
    before = ""
    if not packed.ran:
        packed, before = finished_before(packed)
        if skip_bad is not None:
            list_bad(skip_bad, given.source, packed.bad)
    places = {"train": str(packed.train), "holdout": str(packed.holdout) if packed.holdout else None}
    text = _summary(packed, given, opened.classes)
    if not packed.ran:
        text = f"finished before{before}, nothing ran (--overwrite packs anew): {text}"
    finish(asdict(packed) | told | places, given.json_path, text)


def _summary(packed: "PackResult", given: PackOptions, classes: Sequence[str]) -> str:
    """Return the last line of `pack`."""
    from drawstream.tools.jobs import tail_line

    held = f", {packed.holdout_rows} held out in {packed.holdout}" if packed.holdout else ""
    text = f"{packed.rows} images in {packed.train}{held}; {packed.relabelled} relabelled"
    text += tail_line(given.long_tail, packed.class_rows, classes)
    if given.max_side or given.short_side:
        text += f"; {packed.resized}"
    text += _changes(packed, given)
    if packed.bad:
        text += f"; {len(packed.bad)} that cannot be read were left out: {given.skip_bad}"
    return text


def _changes(done: "PackResult | IndexResult", given: ImageOptions) -> str:
    """Return what --relabel did, as the end of a line."""
    if given.relabel is None:
        return ""
    return f"; {done.changed} labels changed and {done.dropped} images left out by {given.relabel}"


def index(given: IndexOptions) -> None:
    """Make the catalog of existing WebDataset shards.

    Every sample needs one image and a label (.cls, .json or .txt); shard and key of what is wrong are named, and what
    is not taken is counted.

    Example: drawstream index /data/imagenet/train-*.tar

    Images with captions (img2dataset): drawstream index /data/cc3m --label none --fields txt,json
    """
    from drawstream import index as run
    from drawstream.pipeline import BadImagesError, list_bad
    from drawstream.pipeline.shards import IndexResult, Selection

    skip_bad = given.skip_bad
    members = _split(given.image), given.label, given.skip_empty, skip_bad is not None, _split(given.fields)
    selection = Selection(*members, given.label_kind)
    shards = given.shards[0] if len(given.shards) == 1 else given.shards
    result: dict[str, Any] = {}
    lines: list[str] = []
    ends: list[str] = []

    def record(done: IndexResult) -> None:
        counts: dict[str, Any] = {"rows": done.rows, "shards": done.shards, "classes": done.classes}
        counts["fields"] = done.fields
        counts |= {} if given.label_kind is None else {"label_kind": given.label_kind}
        counts |= {} if given.relabel is None else {"changed": done.changed, "dropped": done.dropped}
        counts["bad"] = [asdict(each) for each in done.bad]
        result.update(catalog=str(done.catalog), **counts, left_out=done.left_out.as_json(), notes=list(done.notes))
        ends.append(_changes(done, given))
        lines.extend([*done.notes, *(f"not taken: {line}" for line in done.left_out.lines)])
        if skip_bad is not None:
            list_bad(skip_bad, done.catalog.parent, done.bad)
        write_record(done.catalog.parent / "catalog.json", "index", {**result, "catalog": done.catalog})

    passed = ("out", "relabel", "orientation", "overwrite", "workers", "dry_run")
    options: dict[str, Any] = {name: getattr(given, name) for name in passed}
    try:
        with Progress("index", "shards") as progress:
            file = run(shards, selection=selection, progress=_with_rate(progress), finish=record, **options)
    except BadImagesError as error:
        write_result({"bad": [asdict(each) for each in error.bad]}, given.json_path)
        raise
    if given.dry_run:
        text = f"a dry run, nothing was written: the first samples of every shard would be indexed into {file.parent}"
        finish({"job": "index", "dry_run": True, "out": str(file.parent)}, given.json_path, text)
        return
    for line in lines:
        print(printable(line))
    what = "values" if given.label_kind == "value" else "classes"
    classes = f"{result['classes']} {what}" if result["classes"] else "no labels"
    text = f"{result['rows']} images in {result['shards']} shards, {classes}: {result['catalog']}"
    for name, samples in result["fields"].items():
        text += f"; .{name} of {samples}"
    text += "".join(ends)
    if result["bad"]:
        text += f"; {len(result['bad'])} that cannot be read were left out: {skip_bad}"
    finish(result, given.json_path, text)


def verify(given: VerifyOptions) -> None:
    """Check shards, members, labels and decoding against the catalog; all damage is listed, a line each.

    Exit 0 when all is well, 1 when something is damaged (catalog.parquet too), 2 when there is nothing to check.

    Example: drawstream verify data/train --quarantine data/train/quarantine.json
    """
    from drawstream import verify as run
    from drawstream.pipeline import Note, RowFilter, catalog_columns
    from drawstream.pipeline.reading import write_quarantine
    from drawstream.pipeline.shards import AlteredCatalogError, Catalog

    try:
        opened = Catalog.open_rows(given.catalog, classes="union")
    except AlteredCatalogError as error:
        print(printable(error))
        damage = {"kind": "catalog", "shard": None, "row": None, "key": None, "message": str(error)}
        finish({"findings": [damage], "rows": None}, given.json_path, "nothing checked: the catalog is damaged")
        raise typer.Exit(1) from None
    notes: list[Note] = []
    where = None if given.where is None else RowFilter.parse(given.where).mask(catalog_columns(opened))
    how: dict[str, Any] = {"where": where, "pixels": not given.quick, "workers": given.workers, "note": notes.append}
    with Progress("verify", "images") as progress:
        findings = run(opened, progress=progress.update, **how)
    for line in (*(finding.message for finding in findings), *(note.message for note in notes)):
        print(printable(line))
    checked = len(opened) if where is None else int(where.sum())
    listed = None if given.quarantine is None else write_quarantine(given.quarantine, opened, findings)
    names = ("kind", "shard", "row", "key", "message")
    result = {
        "findings": [{name: getattr(finding, name) for name in names} for finding in findings],
        "notes": [asdict(note) for note in notes],
        "rows": checked,
        "quarantine": given.quarantine and str(given.quarantine),
        "quarantined": listed,
    }
    held = "" if given.quarantine is None else f"; {listed} images not to be used: {given.quarantine}"
    finish(result, given.json_path, f"{checked} images checked, {len(findings)} findings{held}")
    if findings:
        raise typer.Exit(1)


def _split(parts: list[str]) -> tuple[str, ...]:
    """Values of an option that is given several times or with commas."""
    return tuple(each for part in parts for each in part.split(","))


def _with_rate(progress: Progress) -> Callable[[int, int, int], None]:
    """Progress that also says how many samples were done, and how fast."""
    begin = time.monotonic()

    def report(done: int, total: int, samples: int) -> None:
        rate = samples / max(time.monotonic() - begin, 1e-9)
        progress.update(done, total, f"{samples} samples, {rate:.0f} a second")

    return report
