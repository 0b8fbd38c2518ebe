"""`drawstream features`: score a catalog (the command `extract`, which needs no name), and look at what came out."""

from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from drawstream.pipeline.shards.names import printable
from drawstream.tools.cli.options import (
    CatalogArg,
    Channels,
    Device,
    DryRun,
    Engine,
    Json,
    Model,
    Out,
    one_of,
    setup_of,
    words,
)
from drawstream.tools.runs.bounds import pair
from drawstream.tools.runs.progress import Progress, notes_of, tell_notes
from drawstream.tools.runs.record import finish

if TYPE_CHECKING:
    from drawstream.features import FeatureTable
    from drawstream.features.table.describe import Description

_BAR = 40  # characters of the longest bar


class ExtractByDefault(TyperGroup):
    """A group whose first argument decides: a sub-command, or else all arguments are those of `extract`."""

    default_command = "extract"

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put the name of the command that was meant before its arguments."""
        if args and args[0] not in self.commands and args[0] not in ctx.help_option_names:
            args = [self.default_command, *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=ExtractByDefault,
    help="""Score every image of a catalog once, or look at a feature table.

    `drawstream features CATALOG -o DIR --weights W` scores: its options are shown by `drawstream features extract
    --help`. A catalog in a folder named like a command is given as ./info.

    Example: drawstream features data/train -o features --model cnn --weights runs/uniform/best.safetensors

    Example: drawstream features describe features
    """,
    no_args_is_help=True,
    rich_markup_mode=None,
)

Table = Annotated[Path, typer.Argument(help="Folder of a feature table.")]
Join = Annotated[
    list[Path] | None,
    typer.Option(
        "--join", help="File with more columns, by sample_id or key (and crop): .csv, .parquet, …; repeatable."
    ),
]
Catalog = Annotated[str | None, typer.Option(help="The catalog that the features were made from.")]


def open_table(path: Path, join: list[Path] | None, catalog: str | None = None) -> "FeatureTable":
    """Open a table with what is joined, and say what of that was left out."""
    from drawstream.features import FeatureTable
    from drawstream.pipeline import Catalog

    opened = FeatureTable.open(path, join=join or (), catalog=Catalog.open(catalog) if catalog else None)
    tell_notes(notes_of(opened))
    return opened


@app.command()
def extract(
    catalog: CatalogArg,
    out: Out,
    weights: Annotated[Path, typer.Option(help=".safetensors, or a checkpoint of plain tensors.")],
    model: Model = "cnn",
    grad_norm: Annotated[
        str,
        typer.Option(
            autocompletion=words("last", "logit", "full"),
            help="last: of the last linear layer; logit: of the logits; full: of all parameters (slow).",
        ),
    ] = "last",
    head: Annotated[str | None, typer.Option(help="Name of the last linear layer; found by itself without.")] = None,
    measures: Annotated[str | None, typer.Option(help="Comma list; by default all.")] = None,
    measure: Annotated[
        list[str] | None,
        typer.Option(help="Your own, as module:function(logits, targets, activations) -> dict of columns; repeatable."),
    ] = None,
    crops: Annotated[int, typer.Option(help="Random crops per image, each a row; 0: the whole image.")] = 0,
    crop_seed: Annotated[int, typer.Option(help="Seed of the crops.")] = 0,
    crop_scale: Annotated[str, typer.Option(help="Area range of the crops, parts of the image.")] = "0.08,1",
    crop_ratio: Annotated[str, typer.Option(help="Aspect range of the crops, width / height.")] = "0.75,1.3333333",
    crop_flip: Annotated[bool, typer.Option(help="Mirror half of the crops.")] = True,
    batch_size: Annotated[int, typer.Option(help="Images per forward pass.")] = 256,
    amp: Annotated[
        str,
        typer.Option(autocompletion=words("off", "bf16", "fp16"), help="Forward passes in bf16 or fp16; off: float32."),
    ] = "off",
    channels_last: Annotated[bool, typer.Option(help="Memory format of model and images.")] = False,
    grad_memory: Annotated[int, typer.Option(help="MiB for the gradients of --grad-norm full.")] = 256,
    engine: Engine = "local",
    channels: Channels = None,
    device: Device = "cpu",
    dry_run: DryRun = False,
    json_path: Json = None,
) -> None:
    """Score every image once: loss, renormed entropy, gradient norm, probability of the target, correct.

    A killed extraction goes on when started again.

    Example: drawstream features data/train -o features --model cnn --weights runs/uniform/best.safetensors

    On several GPUs or processes: torchrun --nproc-per-node 4 -m drawstream.tools.cli features … --device gpu
    """
    from drawstream.features import Crops, Scoring
    from drawstream.features.custom import load_measure
    from drawstream.features.measures import chosen_measures
    from drawstream.tools.jobs.features import features_job
    from drawstream.tools.runs.record import BEFORE, read_record, write_record
    from drawstream.tools.training.ranks import join_ranks, leave_ranks

    ranks = join_ranks(device)
    setup = setup_of(catalog, model, device, ranks.world_size, ranks=ranks, channels=channels)
    names = chosen_measures(measures.split(",") if measures else None, setup.data.num_classes)
    scoring = Scoring(
        measures=(*names, *(load_measure(each) for each in measure or ())),
        grad_norm=one_of("grad-norm", grad_norm),
        head=head,
        crops=Crops(crops, crop_seed, crop_flip) if crops else None,
        batch_size=batch_size,
        amp=one_of("amp", amp),
        channels_last=channels_last,
        grad_memory=grad_memory << 20,
    )
    if crops:
        law = {"scale": pair("crop-scale", crop_scale), "ratio": pair("crop-ratio", crop_ratio)}
        scoring = replace(scoring, transform=replace(setup.transforms[1], **law))
    if dry_run:
        from drawstream.tools.estimate.stages import tell
        from drawstream.tools.estimate.training import estimate_extraction

        estimate = estimate_extraction(setup, weights, out, scoring, engine=engine)
        leave_ranks()
        if ranks.writes:
            tell(estimate, json_path)
        return
    table, before = features_job(setup, weights, out, scoring, engine=engine)
    leave_ranks()
    if not ranks.writes:
        return
    result: dict[str, Any] = {
        "features": str(out),
        "rows": len(table),
        "columns": list(table.names),
        "provenance": table.provenance,
    }
    if before is not None:
        result |= {"finished": before, **BEFORE}
    out = out.absolute()  # the record lies beside the folder: all readers of Parquet take a folder of parts alone
    record = out.with_name(f"{out.name}.features.json")
    try:
        if before is None or not record.exists():
            write_record(record, "features", {**result, "features": out})
    except PermissionError as error:  # a folder that somebody made for us; the parts say what made them
        typer.echo(f"note: no record of the command: {error.filename}: {error.strerror}", err=True)
    earlier = out / "features.json"  # where earlier versions wrote it
    with suppress(ValueError):  # a file of the user's own
        read_record(earlier, "features")
        earlier.unlink()
    finish(result, json_path, f"{len(table)} rows, {', '.join(table.names)}: {out}")


@app.command()
def info(table: Table, join: Join = None, catalog: Catalog = None, json_path: Json = None) -> None:
    """Show what a table holds and what made it: rows, parts, columns, provenance, fingerprint.

    Example: drawstream features info features
    """
    opened = open_table(table, join, catalog)
    size = sum(part.path.stat().st_size for part in opened.parts)
    types = {name: str(kind) for name, kind in opened.parts[0].types.items()}
    types |= {name: "float32" for joined in opened.joined for name in joined.columns}
    result = {
        "rows": len(opened),
        "parts": len(opened.parts),
        "bytes": size,
        "columns": types,
        "fingerprint": opened.fingerprint,
        "provenance": opened.provenance,
    }
    lines = [
        f"{len(opened)} rows in {len(opened.parts)} parts, {size / 1e6:.1f} MB, fingerprint {opened.fingerprint}",
        *(f"column {name}: {kind}" for name, kind in types.items()),
        *(f"{key}: {value}" for key, value in opened.provenance.items()),
    ]
    finish(result, json_path, "\n".join(lines))


@app.command()
def check(table: Table, catalog: Catalog = None, json_path: Json = None) -> None:
    """Read every part, value and id of a table; exit 1 when something is wrong.

    Example: drawstream features check features --catalog data/train
    """
    from drawstream.features.table.check import check_table
    from drawstream.pipeline import Catalog

    with Progress("check", "parts") as progress:
        findings = check_table(table, Catalog.open(catalog) if catalog else None, progress=progress.update)
    for finding in findings:
        print(printable(finding.message))
    finish({"findings": [asdict(finding) for finding in findings]}, json_path, f"{table}: {len(findings)} findings")
    if findings:
        raise typer.Exit(1)


@app.command()
def describe(table: Table, join: Join = None, catalog: Catalog = None, json_path: Json = None) -> None:
    """Describe every column: range, mean, quantiles, ties, a histogram; exit 1 when one is not finite.

    Example: drawstream features describe features --join faces.parquet
    """
    from drawstream.features.table.describe import describe as run

    opened = open_table(table, join, catalog)
    found = []
    with Progress("describe", "columns") as progress:
        for done, column in enumerate(run(opened), start=1):
            found.append(column)
            progress.update(done, len(opened.names))
    result = {"rows": len(opened), "columns": [asdict(column) for column in found]}
    finish(result, json_path, "\n\n".join(_text(column) for column in found))
    if any(column.bad for column in found):
        raise typer.Exit(1)


def _text(column: "Description") -> str:
    lines = [f"{column.name}: {column.rows} rows"]
    if column.bad:
        lines[0] += f", {column.bad} of them NaN or infinite"
    if column.mean is None:
        return lines[0]
    lines[0] += f", {column.distinct} distinct values, {column.tied} rows tied"
    lines.append(
        f"  min {column.minimum:.6g}, max {column.maximum:.6g}, mean {column.mean:.6g}, "
        f"standard deviation {column.deviation:.6g}"
    )
    lines.append("  quantiles " + ", ".join(f"{share}: {value:.6g}" for share, value in column.quantiles.items()))
    most = max(column.counts)
    for low, count in zip(column.edges, column.counts, strict=False):
        lines.append(f"  {low:>12.5g} {'█' * round(_BAR * count / most):<{_BAR}} {count}".rstrip())
    return "\n".join(lines)
