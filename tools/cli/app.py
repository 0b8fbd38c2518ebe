"""The command line: `drawstream …`, also `python -m drawstream.tools.cli`.

Commands open with what they need, call one function, print one summary. Bad input ends with one line and exit 2.
"""

import os
import sys
from contextlib import suppress
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer

from drawstream.pipeline.shards.names import printable
from drawstream.tools.cli.bench import app as bench_app
from drawstream.tools.cli.doctor import doctor
from drawstream.tools.cli.features import Join
from drawstream.tools.cli.features import app as features_app
from drawstream.tools.cli.fit import fit
from drawstream.tools.cli.options import (
    Annealing,
    Augment,
    Batch,
    CatalogArg,
    Channels,
    Device,
    DryRun,
    Frozen,
    HeldOut,
    HookNames,
    Json,
    LearningRate,
    Model,
    Orientation,
    Out,
    Seed,
    Tensorboard,
    TrainingAmp,
    WeightDecay,
    in_bf16,
    one_of,
    setup_of,
    words,
)
from drawstream.tools.cli.search import app as search_app
from drawstream.tools.cli.shards import index, verify
from drawstream.tools.cli.signals import (
    INTERRUPTED,
    ended_by,
    flush_output,
    mute,
    of_system,
    open_standard_streams,
    signals_as_exceptions,
    stopped,
)
from drawstream.tools.cli.stream import app as stream_app
from drawstream.tools.report.serve import serve
from drawstream.tools.runs.bounds import Bounded, whole
from drawstream.tools.runs.config import read_config
from drawstream.tools.runs.progress import Progress
from drawstream.tools.runs.record import finish, write_result
from drawstream.tools.training.methods.table import METHODS, method_names

app = typer.Typer(
    name="drawstream",
    cls=Bounded,
    help="Weighted sampling for image training: pack, score, search, train, report.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _tell_version(asked: bool) -> None:
    if asked:
        print(f"drawstream {version('drawstream')}")
        raise typer.Exit


@app.callback()
def common(
    context: typer.Context,
    config: Annotated[
        Path | None, typer.Option(help="TOML file with options of commands; it may stand after the command too.")
    ] = None,
    _version: Annotated[
        bool, typer.Option("--version", callback=_tell_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Weighted sampling for image training: pack, score, search, train, report."""
    if config is not None:
        context.default_map = read_config(config, context.command)


@app.command()
def pack(
    source: Annotated[
        Path, typer.Argument(help="IDX folder (Fashion-MNIST), class folders, .npz, or images.npy + labels.npy.")
    ],
    out: Annotated[Path, typer.Argument(help="Folder to write: shards and catalog.parquet.")],
    encoding: Annotated[
        str, typer.Option(autocompletion=words("keep", "raw", "png", "jpeg"), help="keep, raw, png or jpeg.")
    ] = "keep",
    quality: Annotated[int, typer.Option(help="Of newly encoded JPEGs.")] = 95,
    orientation: Orientation = "exif",
    split: Annotated[
        str, typer.Option(autocompletion=words("train", "test"), help="train or test, of an IDX folder.")
    ] = "train",
    limit: Annotated[int | None, typer.Option(help="Rows to take, class-balanced.")] = None,
    holdout: Annotated[int, typer.Option(help="Rows for a second catalog: OUT/train and OUT/holdout.")] = 0,
    label_noise: Annotated[float, typer.Option(help="Share of each class to relabel into the others.")] = 0.0,
    noise_seed: Annotated[int, typer.Option(help="Seed of the relabelling.")] = 0,
    seed: Seed = 0,
    skip_bad: Annotated[
        Path | None, typer.Option(help="Leave out images that cannot be read, and list them there (JSON).")
    ] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace an earlier pack.")] = False,
    dry_run: DryRun = False,
    json_path: Json = None,
) -> None:
    """Write images as WebDataset shards with a catalog; files that are not taken are counted.

    Example: drawstream pack /usr/share/datasets/fashion-mnist data --holdout 5000 --label-noise 0.4
    """
    from drawstream.pipeline import open_source
    from drawstream.pipeline.shards.pack import BadImagesError, PackResult, check_pack, holds_pack
    from drawstream.pipeline.shards.pack import pack as run
    from drawstream.pipeline.shards.staging import check_target
    from drawstream.tools.jobs.pack import finished_before, list_bad, tell_source
    from drawstream.tools.runs.record import write_record

    opened = open_source(source, split=split)
    options: dict[str, Any] = {
        "encoding": encoding,
        "quality": quality,
        "orientation": orientation,
        "limit": limit,
        "holdout": holdout,
        "label_noise": label_noise,
        "noise_seed": noise_seed,
        "seed": seed,
        "skip_bad": skip_bad is not None,
        "overwrite": overwrite,
    }
    told = tell_source(opened)
    if dry_run:
        check_target(out, replaceable=overwrite and holds_pack(out))
        rows = check_pack(opened, encoding=encoding, quality=quality, limit=limit, holdout=holdout)
        text = f"a dry run, nothing was written: {rows} images would be packed into {out}"
        finish({"job": "pack", "dry_run": True, "out": str(out), "rows": rows}, json_path, text)
        return

    def record(done: PackResult, folder: Path) -> None:
        parts = {"train": done.train, "holdout": done.holdout}
        for part in filter(None, parts.values()):
            places = {name: path and os.path.relpath(path, part) for name, path in parts.items()}
            write_record(folder / part.relative_to(out) / "catalog.json", "pack", asdict(done) | told | places)
        if skip_bad is not None:
            inside = skip_bad.absolute().is_relative_to(out.absolute())  # the folder takes its name behind this
            place = folder / skip_bad.absolute().relative_to(out.absolute()) if inside else skip_bad
            list_bad(place, source, done.bad)

    try:
        with Progress("pack", "images") as progress:
            packed = run(opened, out, **options, progress=progress.update, finish=record)
    except BadImagesError as error:
        write_result({"bad": [asdict(each) for each in error.bad], **told}, json_path)
        raise
    before = ""
    if not packed.ran:
        packed, before = finished_before(packed)
        if skip_bad is not None:
            list_bad(skip_bad, source, packed.bad)
    result = {
        **asdict(packed),
        **told,
        "train": str(packed.train),
        "holdout": str(packed.holdout) if packed.holdout else None,
    }
    held = f", {packed.holdout_rows} held out in {packed.holdout}" if packed.holdout else ""
    text = f"{packed.rows} images in {packed.train}{held}; {packed.relabelled} relabelled"
    if packed.bad:
        text += f"; {len(packed.bad)} that cannot be read were left out: {skip_bad}"
    if not packed.ran:
        text = f"finished before{before}, nothing ran (--overwrite packs anew): {text}"
    finish(result, json_path, text)


app.command()(index)
app.command()(verify)
app.command()(doctor)


@app.command()
def train(
    catalog: CatalogArg,
    out: Out,
    model: Model = "cnn",
    held_out: HeldOut = None,
    test: Annotated[str | None, typer.Option(help="Catalog that reports; never chooses.")] = None,
    sampler: Annotated[
        str | None,
        typer.Option(
            autocompletion=words(*method_names()),
            help="sampler.json, a schedule, weights (.csv, .parquet, .npy, .json, …), or a method: "
            f"{', '.join(method_names())}; or your own, module:factory. By default uniform.",
        ),
    ] = None,
    budget: Annotated[float, typer.Option(help="Part of the full run, in (0, 1].")] = 1.0,
    paper: Annotated[bool, typer.Option(help="p and c as in the paper's text, not as in its authors' code.")] = False,
    warmup: Annotated[int | None, typer.Option(help="Leading epochs that p and c draw uniformly; 1.")] = None,
    table: Annotated[Path | None, typer.Option(help="Feature table that the sampler reads.")] = None,
    column: Annotated[
        str | None,
        typer.Option(help="Of a file of weights (weight); or of the table, with rho's irreducible losses (loss)."),
    ] = None,
    join: Join = None,
    frozen: Frozen = False,
    mode: Annotated[
        str,
        typer.Option(
            autocompletion=words("stratified", "multinomial", "subset"),
            help="Stream of a sampler: stratified, multinomial or subset.",
        ),
    ] = "stratified",
    epochs: Annotated[int, typer.Option(help="Passes over the stream.")] = 20,
    lr: LearningRate = 0.05,
    schedule: Annealing = "cosine",
    weight_decay: WeightDecay = 5e-4,
    batch_size: Batch = 128,
    seed: Seed = 0,
    augment: Augment = "none",
    amp: TrainingAmp = "off",
    track: Annotated[
        Path | None, typer.Option(help="Folder for a feature table of averages over this training, at no extra pass.")
    ] = None,
    crop_filter: Annotated[Path | None, typer.Option(help="sampler.json that chooses crops of each step.")] = None,
    score_weights: Annotated[
        Path | None,
        typer.Option(help="Weights of the model that scores them; or that embeds for coreset-k_center."),
    ] = None,
    score_model: Annotated[str | None, typer.Option(help="That model, where it is another one.")] = None,
    crop_factor: Annotated[int, typer.Option(help="Crops to draw for each one trained on.")] = 2,
    channels: Channels = None,
    device: Device = "cpu",
    checksum: Annotated[
        str,
        typer.Option(
            autocompletion=words("always", "first", "never"),
            help="Check images against the catalog: always, first or never.",
        ),
    ] = "always",
    on_bad: Annotated[
        str,
        typer.Option(
            autocompletion=words("raise", "substitute"), help="A bad image: raise an error, or substitute another draw."
        ),
    ] = "raise",
    max_bad: Annotated[int, typer.Option(help="Most images that are substituted.")] = 100,
    quarantine: Annotated[Path | None, typer.Option(help="List of `drawstream verify`: images not to read.")] = None,
    tensorboard: Tensorboard = False,
    hook: HookNames = None,
    dry_run: DryRun = False,
    json_path: Json = None,
) -> None:
    """Train with the reference loop, uniformly or with a sampler; a killed run goes on when started again.

    Example: drawstream train data/train -o runs/uniform --held-out data/holdout --test data-test --epochs 20

    Three tenths of that run: … --sampler p --budget 0.3 --schedule linear --augment ricap

    On several GPUs or processes: torchrun --nproc-per-node 4 -m drawstream.tools.cli train … --device gpu
    """
    from drawstream.pipeline import Reading
    from drawstream.tools.jobs.train import train_job
    from drawstream.tools.runs.hooks import check_hooks, load_hooks
    from drawstream.tools.training.loop import Recipe
    from drawstream.tools.training.methods.filtering import filtering_of
    from drawstream.tools.training.methods.plan import Budget
    from drawstream.tools.training.methods.sampling import Sampling, sampler_of
    from drawstream.tools.training.ranks import join_ranks, leave_ranks

    embedding_methods = [name for name, method in METHODS.items() if "score_weights" in method.options]
    embedding = score_weights if sampler in embedding_methods else None
    filtering = filtering_of(crop_filter, None if embedding else score_weights, score_model, crop_factor)
    recipe = Recipe(epochs, lr, one_of("schedule", schedule), weight_decay=weight_decay, seed=seed, amp=in_bf16(amp))
    ranks = join_ranks(device)
    how = {"checksum": one_of("checksum", checksum), "on_bad": one_of("on-bad", on_bad)}
    reading = Reading(**how, max_bad=max_bad, quarantine=quarantine)
    given = {"held_out": held_out, "test": test, "augment": augment, "ranks": ranks, "reading": reading}
    setup = setup_of(catalog, model, device, batch_size, **given, channels=channels)
    spent = Budget(budget, paper, warmup)
    sampling = Sampling(sampler_of(sampler), table, mode, tuple(join or ()), frozen, spent, column, embedding)
    if dry_run:
        from drawstream.tools.estimate.stages import tell
        from drawstream.tools.estimate.training import estimate_training

        check_hooks(hook or (), tensorboard=tensorboard)
        estimate = estimate_training(setup, recipe, sampling, out, track=track, filtering=filtering)
        leave_ranks()
        if ranks.writes:
            tell(estimate, json_path)
        return
    hooks = load_hooks(out, hook or (), tensorboard=tensorboard) if ranks.writes else []
    record = train_job(setup, recipe, sampling, out, track=track, filtering=filtering, hooks=hooks)
    leave_ranks()
    if not ranks.writes:
        return
    text = f"{record['method']}, {record['recipe']['epochs']} epochs in {record['seconds']:.1f} s"
    text += f", {record['wait_share']:.1%} of it waiting for data"
    if "effective_budget" in record:  # records of earlier versions have none
        text += f"; effective budget {record['effective_budget']:.3f}"
    if record.get("bad_samples"):  # records of 0.1.0 have none
        text += f"; {len(record['bad_samples'])} bad images were substituted (listed in run.json)"
    if "result" in record:
        r = record["result"]
        text = f"{r['set']} top-1: last epoch {r['last']:.2f} %, best epoch {r['best']:.2f} %; {text}"
    finish(record, json_path, f"{text}: {out}")


app.command()(fit)
app.add_typer(features_app, name="features")
app.add_typer(search_app, name="search")
app.add_typer(stream_app, name="stream")
app.add_typer(bench_app, name="bench")


@app.command()
def report(
    runs: Annotated[
        list[Path], typer.Argument(help="Folder with runs and searches, at any depth; or several, side by side.")
    ],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="HTML file; of one folder by default RUN/report.html.")
    ] = None,
    remote: Annotated[
        bool, typer.Option("--remote", help="Read data on a server that a record names; by default nothing is fetched.")
    ] = False,
    json_path: Json = None,
) -> None:
    """Write a self-contained HTML page about the runs and searches of a folder, or compare those of several.

    A record that cannot be read is named there and here, and the exit status is 1.

    Example: drawstream report runs/demo-digits -o report.html

    Two settings side by side: drawstream report runs/lr-0.05 runs/lr-0.1 -o compared.html
    """
    from drawstream.tools.report.build import write_report

    if out is None and len(runs) > 1:
        raise ValueError(f"{len(runs)} folders: say with --out where their common page is to go")
    page = out or runs[0] / "report.html"
    left = write_report(runs, page, remote=remote)
    for line in left.lines:
        typer.echo(f"left out: {printable(line)}", err=True)
    finish({"report": str(page), "left_out": left.lines}, json_path, f"report: {page}")
    if left.damaged:
        raise typer.Exit(1)


app.command()(serve)


@app.command()
def demo(
    data: Annotated[
        str,
        typer.Option(autocompletion=words("digits", "fashion-mnist"), help="digits (scikit-learn) or fashion-mnist."),
    ] = "digits",
    source: Annotated[
        Path | None, typer.Option(help="Folder of Fashion-MNIST's IDX files; Debian's by default.")
    ] = None,
    noise: Annotated[float, typer.Option(help="Share of training labels to make wrong.")] = 0.4,
    seeds: Annotated[str, typer.Option(help="Comma list.")] = "0,1,2",
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder; by default runs/demo-DATA.")] = None,
    dry_run: DryRun = False,
    json_path: Json = None,
) -> None:
    """The main job on real data: pack, train uniformly, score, search, train with the sampler, report.

    Example: drawstream demo --data fashion-mnist
    """
    from drawstream.tools.demo import run_demo

    chosen = whole("seeds", seeds)
    folder = out or Path("runs") / f"demo-{data}"
    if dry_run:
        from drawstream.tools.estimate.demo import estimate_demo
        from drawstream.tools.estimate.stages import tell

        tell(estimate_demo(data, folder, source=source, noise=noise, seeds=chosen), json_path)
        return
    result = run_demo(data, folder, source=source, noise=noise, seeds=chosen)
    finish(result, json_path, f"report: {result['report']}")


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0 done, 1 damage found, 2 bad input, 130 and 143 stopped."""
    # Threads that spin while they wait take the cores from DALI's, or from another job: beside one other busy process
    # on two cores a training step took 129 ms, with this short spin 24; alone 6 both ways. It must be set before torch.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    open_standard_streams()
    try:
        with signals_as_exceptions():
            words = _none_empty(sys.argv[1:] if arguments is None else arguments)
            status = app(args=words, standalone_mode=False)
            flush_output()
        return stopped(status) if isinstance(status, int) else 0
    except SystemExit as ended:
        culprit = ended_by(ended)
        return _fail(culprit) if culprit else stopped(ended.code) if isinstance(ended.code, int) else 0
    except typer.TyperException as error:
        if error.format_message().startswith("Usage:"):  # a group without a command: its help
            print(error.format_message(), file=sys.stderr)
            return 2
        return _fail(_of_parser(error))
    except (typer.Abort, KeyboardInterrupt):
        return stopped(INTERRUPTED)
    except BrokenPipeError:
        mute()
        return 1
    except (ValueError, OSError, RuntimeError, ImportError, MemoryError) as error:
        message = _one_line(error)
        if message is None:
            raise
        return _fail(message)
    finally:
        if "torch" in sys.modules:  # commands that train flush denormals; who calls this function gets IEEE floats back
            sys.modules["torch"].set_flush_denormal(False)


def _none_empty(words: list[str]) -> list[str]:
    """The arguments; an empty one, which a path would take for the working folder, is refused."""
    for word in words:
        if not word or (word.startswith("--") and word.endswith("=")):
            raise ValueError(f"argument {word!r} is empty: is a variable of the shell not set?")
    return words


def _of_parser(error: typer.TyperException) -> str:
    """The parser's message, with the value, which it leaves out where pydantic found it wrong."""
    wrong = getattr(error.__context__, "errors", None)
    value = wrong()[0]["input"] if callable(wrong) else None
    return error.format_message() if value is None else f"{error.format_message()}, but got {value!r}"


def _one_line(error: Exception) -> str | None:
    """Return one line for an error that the user can fix; None for a bug of ours."""
    if isinstance(error, ImportError):  # an extra that is not installed says so itself
        whole = f"{error}: is the installation whole? `drawstream doctor` looks" if error.name else str(error)
        return None if (error.name or "").startswith("drawstream") else whole
    if "no locator available" in str(error):  # Numba's words
        return "no folder for compiled kernels may be written: let NUMBA_CACHE_DIR name one that may"
    if isinstance(error, OSError | MemoryError) or type(error) is RuntimeError:
        return of_system(error)
    return str(error)


def _fail(message: str) -> int:
    with suppress(OSError):  # stderr may lie on the disk that is full
        print(f"drawstream: {printable(' '.join(message.split()))}", file=sys.stderr)
    return 2
