"""`drawstream index` and `drawstream verify`: shards and their catalog."""

import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from drawstream.pipeline.shards.names import printable
from drawstream.tools.cli.options import DryRun, Json, Orientation, words
from drawstream.tools.runs.progress import Progress
from drawstream.tools.runs.record import finish, write_result

Workers = Annotated[int | None, typer.Option(min=1, help="Processes; by default one per core, fewer for small data.")]


def index(
    shards: Annotated[list[Path], typer.Argument(help="WebDataset tars, or a folder of them.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder of the catalog; by default beside the shards.")
    ] = None,
    image: Annotated[
        list[str] | None,
        typer.Option(help="Extension of the image member, such as jpg or input.jpg; may be repeated. By default any."),
    ] = None,
    label: Annotated[
        str | None,
        typer.Option(
            autocompletion=words("cls", "txt", "json", "json:KEY", "none"),
            help="Member with the label: cls, txt, json, json:PATH.TO.KEY, another extension, or none for no labels. "
            "By default the first of cls, json, txt that a sample has.",
        ),
    ] = None,
    skip_empty: Annotated[bool, typer.Option(help="Leave out samples without image or label, and count them.")] = False,
    skip_bad: Annotated[
        Path | None, typer.Option(help="Leave out samples whose image cannot be read, and list them there (JSON).")
    ] = None,
    orientation: Orientation = "exif",
    overwrite: Annotated[bool, typer.Option(help="Replace an earlier catalog.")] = False,
    workers: Workers = None,
    dry_run: DryRun = False,
    json_path: Json = None,
) -> None:
    """Make the catalog of existing WebDataset shards.

    Every sample needs one image and a label (.cls, .json or .txt); shard and key of what is wrong are named, and what
    is not taken is counted.

    Example: drawstream index /data/imagenet/train-*.tar

    Images with captions (img2dataset): drawstream index /data/cc3m --label none
    """
    from drawstream.pipeline.shards.index import IndexResult, check_index
    from drawstream.pipeline.shards.index import index as run
    from drawstream.pipeline.shards.labels import Selection
    from drawstream.pipeline.shards.pack import BadImagesError
    from drawstream.tools.jobs.pack import list_bad
    from drawstream.tools.runs.record import write_record

    chosen = [each for part in image or () for each in part.split(",")]
    selection = Selection(tuple(chosen), label, skip_empty, skip_bad is not None)
    one_or_all = shards[0] if len(shards) == 1 else shards
    if dry_run:
        paths, root = check_index(one_or_all, out=out, overwrite=overwrite)
        text = f"a dry run, nothing was written: {len(paths)} shards would be indexed into {root}"
        finish({"job": "index", "dry_run": True, "out": str(root), "shards": len(paths)}, json_path, text)
        return
    result: dict[str, Any] = {}

    def record(done: IndexResult) -> None:
        counts: dict[str, Any] = {"rows": done.rows, "shards": done.shards, "classes": done.classes}
        counts["bad"] = [asdict(each) for each in done.bad]
        result.update(catalog=str(done.catalog), **counts, left_out=done.left_out.as_json(), notes=list(done.notes))
        lines.extend([*done.notes, *(f"not taken: {line}" for line in done.left_out.lines)])
        if skip_bad is not None:
            list_bad(skip_bad, done.catalog.parent, done.bad)
        write_record(done.catalog.parent / "catalog.json", "index", {**result, "catalog": done.catalog})

    lines: list[str] = []
    try:
        with Progress("index", "shards") as progress:
            run(
                one_or_all,
                out=out,
                selection=selection,
                orientation=orientation,
                overwrite=overwrite,
                workers=workers,
                progress=_with_rate(progress, "samples"),
                finish=record,
            )
    except BadImagesError as error:
        write_result({"bad": [asdict(each) for each in error.bad]}, json_path)
        raise
    for line in lines:
        print(printable(line))
    classes = "{classes} classes" if result["classes"] else "no labels"
    text = f"{{rows}} images in {{shards}} shards, {classes}: {{catalog}}".format(**result)
    if result["bad"]:
        text += f"; {len(result['bad'])} that cannot be read were left out: {skip_bad}"
    finish(result, json_path, text)


def verify(
    catalog: Annotated[str, typer.Argument(help="Folder with catalog.parquet, or its URL.")],
    quarantine: Annotated[Path | None, typer.Option(help="Write the rows that must not be used there (JSON).")] = None,
    quick: Annotated[bool, typer.Option(help="Hashes, headers, labels and checksums only: decode no image.")] = False,
    workers: Workers = None,
    json_path: Json = None,
) -> None:
    """Check shards, members, labels and decoding against the catalog; all damage is listed, a line each.

    Exit 0 when all is well, 1 when something is damaged (catalog.parquet too), 2 when there is nothing to check.

    Example: drawstream verify data/train --quarantine data/train/quarantine.json
    """
    from drawstream.pipeline.reading.quarantine import write_quarantine
    from drawstream.pipeline.shards.catalog import AlteredCatalogError, Catalog
    from drawstream.pipeline.verify import Note
    from drawstream.pipeline.verify import verify as run

    try:
        opened = Catalog.open_rows(catalog)
    except AlteredCatalogError as error:
        print(printable(error))
        damage = {"kind": "catalog", "shard": None, "row": None, "key": None, "message": str(error)}
        finish({"findings": [damage], "rows": None}, json_path, "nothing checked: the catalog is damaged")
        raise typer.Exit(1) from None
    notes: list[Note] = []
    with Progress("verify", "images") as progress:
        rate = _with_rate(progress, "images")
        findings = run(
            opened,
            pixels=not quick,
            workers=workers,
            progress=lambda done, total: rate(done, total, done),
            note=notes.append,
        )
    for line in (*(finding.message for finding in findings), *(note.message for note in notes)):
        print(printable(line))
    listed = None if quarantine is None else write_quarantine(quarantine, opened, findings)
    result = {
        "findings": [
            {"kind": f.kind, "shard": f.shard, "row": f.row, "key": f.key, "message": f.message} for f in findings
        ],
        "notes": [asdict(note) for note in notes],
        "rows": len(opened),
        "quarantine": None if quarantine is None else str(quarantine),
        "quarantined": listed,
    }
    held = "" if quarantine is None else f"; {listed} images not to be used: {quarantine}"
    finish(result, json_path, f"{len(opened)} images checked, {len(findings)} findings{held}")
    if findings:
        raise typer.Exit(1)


def _with_rate(progress: Progress, unit: str) -> Callable[[int, int, int], None]:
    """Progress that also says how many samples were done, and how fast."""
    begin = time.monotonic()

    def report(done: int, total: int, samples: int) -> None:
        rate = samples / max(time.monotonic() - begin, 1e-9)
        progress.update(done, total, f"{samples} {unit}, {rate:.0f} a second")

    return report
