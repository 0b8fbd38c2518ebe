"""`drawstream features`: score a catalog (the command `extract`, which needs no name), and look at what came out."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import typer
from typer.core import TyperGroup

from drawstream.pipeline.shards import printable
from drawstream.tools.cli import options
from drawstream.tools.runs import (
    BEFORE,
    FEW,
    MANY,
    SEED,
    SOME,
    Progress,
    argument,
    command,
    finish,
    notes_of,
    option,
    pick,
    tell_notes,
    write_record,
)

if TYPE_CHECKING:
    from drawstream.features.table import Description, FeatureTable
    from drawstream.tools.jobs import Extracted

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


@dataclass(frozen=True, kw_only=True)
class CheckOptions(options.ClassesOptions, options.ResultOptions):
    """A feature table, and its catalog."""

    table: Path = argument("Folder of a feature table.")
    catalog: list[str] = option([], "Catalog that the features were made from; repeatable.", "--catalog")


@dataclass(frozen=True, kw_only=True)
class TableOptions(CheckOptions, options.JoinOptions):
    """A feature table with what is joined to it."""

    def open(self) -> "FeatureTable":
        """Open the table, and say what was left out of the joined files."""
        from drawstream.features.table import FeatureTable
        from drawstream.pipeline.shards import Catalog

        catalog = Catalog.open(self.catalog, classes=self.classes) if self.catalog else None
        opened = FeatureTable.open(self.table, join=self.join, catalog=catalog)
        tell_notes(notes_of(opened))
        return opened


@dataclass(frozen=True, kw_only=True)
class ExtractOptions(
    options.WhereOptions, options.ModelOptions, options.ClassesOptions, options.EngineOptions, options.JobOptions
):
    """Options of `features`."""

    catalog: list[str] = argument(options.CATALOG)
    weights: Path = option(..., "Weights of the model: .safetensors, or a checkpoint of plain tensors.")
    grad_norm: Literal["last", "logit", "full"] = option(
        "last", "Norm of the gradient of the last linear layer, of the logits, or of all parameters (full: slow)."
    )
    head: str | None = option(None, "Name of the last linear layer; by default it is found.")
    measures: tuple[str, ...] | None = option(None, "Measures to take, comma list; by default all.")
    measure: list[str] = option(
        [], "Take your own, module:function(logits, targets, activations) -> dict of columns; repeatable."
    )
    embedding: bool = option(
        False, "Also store the input of the last linear layer, float16, in OUT.embedding.safetensors."
    )
    crops: int = option(0, "Random crops per image, each a row; 0: the whole image.", within=FEW)
    crop_seed: int = option(0, "Seed of the crops.", within=SEED)
    crop_scale: tuple[float, float] = option((0.08, 1.0), "Area range of the crops, parts of the image.", within=FEW)
    crop_ratio: tuple[float, float] = option(
        (0.75, 1.3333333), "Aspect range of the crops, width / height.", within=FEW
    )
    crop_flip: bool = option(True, "Mirror half of the crops.")
    batch_size: int = option(256, "Images per forward pass.", within=MANY)
    amp: Literal["off", "bf16", "fp16"] = option("off", "Run forward passes in bf16 or fp16; off: float32.")
    channels_last: bool = option(False, "Store model and images channels last.")
    grad_memory: int = option(256, "MiB for the gradients of --grad-norm full.", within=SOME)


@command(app, ExtractOptions)
def extract(given: ExtractOptions) -> None:
    """Score every image once: loss, entropy over the wrong classes, gradient norm, probability of the target, correct.

    A killed extraction goes on when started again.

    Example: drawstream features data/train -o features --model cnn --weights runs/uniform/best.safetensors

    On several GPUs or processes: torchrun --nproc-per-node 4 -m drawstream.tools.cli features … --device gpu
    """
    from drawstream.features import Crops, Scoring, chosen_measures, load_measure
    from drawstream.tools.estimate import estimate_extraction
    from drawstream.tools.jobs import FeaturesJob, features_job
    from drawstream.tools.training import join_ranks

    ranks = join_ranks(given.device)
    setup = given.setup(global_batch=ranks.world_size, ranks=ranks)
    names = chosen_measures(given.measures, setup.data.num_classes, setup.data.label_kind)
    measures = (*names, *(load_measure(each) for each in given.measure))
    crops = Crops(given.crops, given.crop_seed, given.crop_flip) if given.crops else None
    scoring = pick(Scoring, given, measures=measures, crops=crops, grad_memory=given.grad_memory << 20)
    if crops:
        law = replace(setup.transforms[1], scale=given.crop_scale, ratio=given.crop_ratio)
        scoring = replace(scoring, transform=law)
    job = FeaturesJob(setup, given.weights, given.out, scoring, given.engine)
    found = options.run_job(given, ranks, job, estimate_extraction, features_job)
    if found is not None:
        _record(found, given)


def _record(found: "Extracted", given: ExtractOptions) -> None:
    """Record the extraction beside its folder: all readers of Parquet take a folder of parts alone."""
    table, out = found.table, given.out.absolute()
    result = {"features": str(given.out), "rows": len(table), "columns": list(table.names)}
    result["provenance"] = table.provenance
    if found.before is not None:
        result |= {"finished": found.before, **BEFORE}
    record = out.with_name(f"{out.name}.features.json")
    try:
        if found.before is None or not record.exists():
            write_record(record, "features", {**result, "features": out})
    except PermissionError as error:  # a folder that somebody made for us; the parts say what made them
        typer.echo(f"note: no record of the command: {error.filename}: {error.strerror}", err=True)
    finish(result, given.json_path, f"{len(table)} rows, {', '.join(table.names)}: {out}")


@command(app, TableOptions)
def info(given: TableOptions) -> None:
    """Show what a table holds and what made it: rows, parts, columns, provenance, fingerprint.

    Example: drawstream features info features
    """
    opened = given.open()
    size = sum(part.path.stat().st_size for part in opened.parts)
    types = {name: str(kind) for name, kind in opened.parts[0].types.items()}
    types |= {name: "float32" for joined in opened.joined for name in joined.columns}
    result = {"rows": len(opened), "parts": len(opened.parts), "bytes": size, "columns": types}
    result |= {"fingerprint": opened.fingerprint, "provenance": opened.provenance}
    lines = [
        f"{len(opened)} rows in {len(opened.parts)} parts, {size / 1e6:.1f} MB, fingerprint {opened.fingerprint}",
        *(f"column {name}: {kind}" for name, kind in types.items()),
        *(f"{key}: {value}" for key, value in opened.provenance.items()),
    ]
    finish(result, given.json_path, "\n".join(lines))


@command(app, CheckOptions)
def check(given: CheckOptions) -> None:
    """Read every part, value and id of a table; exit 1 when something is wrong.

    Example: drawstream features check features --catalog data/train
    """
    from drawstream.features.table import check_table
    from drawstream.pipeline.shards import Catalog

    catalog = Catalog.open(given.catalog, classes=given.classes) if given.catalog else None
    with Progress("check", "parts") as progress:
        findings = check_table(given.table, catalog, progress=progress.update)
    for finding in findings:
        print(printable(finding.message))
    result = {"findings": [asdict(finding) for finding in findings]}
    finish(result, given.json_path, f"{given.table}: {len(findings)} findings")
    if findings:
        raise typer.Exit(1)


@command(app, TableOptions)
def describe(given: TableOptions) -> None:
    """Describe every column: range, mean, quantiles, ties, a histogram; exit 1 when one is not finite.

    Example: drawstream features describe features --join faces.parquet
    """
    from drawstream.features.table import describe_table as run

    opened = given.open()
    found = []
    with Progress("describe", "columns") as progress:
        for done, column in enumerate(run(opened), start=1):
            found.append(column)
            progress.update(done, len(opened.names))
    result = {"rows": len(opened), "columns": [asdict(column) for column in found]}
    finish(result, given.json_path, "\n\n".join(_text(column) for column in found))
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
