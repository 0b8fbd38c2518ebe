"""`drawstream bench`: our parts beside the ones people use today, in one run."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import typer

from drawstream.tools.cli import grids
from drawstream.tools.cli.grids import AT_LEAST_ONE
from drawstream.tools.cli.options import ResultOptions
from drawstream.tools.runs import COUNT, SEED, SOME, Options, command, option, write_result

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def need_benchmarks() -> None:
    """Benchmarks, side by side with peers in one run; they come with the source tree."""
    if find_spec("drawstream.tools.bench") is None:
        raise ValueError(
            "benchmarks are not in the wheel: get drawstream's source tree, and install it there with "
            "`pip install -e '.[bench]'`"
        )


@dataclass(frozen=True, kw_only=True)
class StreamOptions(ResultOptions):
    """Options of `bench stream`."""

    rows: tuple[int, ...] = option(
        (1_280_000,), "Numbers of rows, comma list; 1e6 to 1e8 fit in 16 GB.", within=(2, 10**11)
    )
    rounds: int = option(5, "Alternating rounds; the fastest counts.", within=COUNT)
    seeds: tuple[int, ...] = option((0,), "Seeds of weights and draws, comma list.", within=SEED)


@command(app, StreamOptions)
def stream(given: StreamOptions) -> None:
    """Index streams beside torch, NumPy and SPDL: draws per second, set-up, peak memory, seeking.

    Example: drawstream bench stream --rows 1e6,1e7,1e8 --json stream.json
    """
    from drawstream.tools.bench import missing_systems, run_stream

    rows = {seed: run_stream(given.rows, rounds=given.rounds, seed=seed) for seed in given.seeds}
    table = [{**row, "seed": seed} for seed, found in rows.items() for row in found]
    missing = missing_systems(given.rows)
    for each in missing:
        print(f"{each['system']} ({each['mode']}): {each['reason']}")
    write_result({"rows": table, "missing": missing}, given.json_path)


@dataclass(frozen=True, kw_only=True)
class LoadOptions(ResultOptions):
    """Images and rounds of the benchmarks of the pipeline."""

    data: str = option(
        "photos",
        "Load photos, digits, fashion-mnist (Debian's files), the folder of a catalog, or a source.",
        known=("photos", "digits", "fashion-mnist"),
    )
    images: int | None = option(
        None, "Images of a round, at most; by default some seconds of work.", within=AT_LEAST_ONE
    )
    device: Literal["cpu", "gpu"] = option("cpu", "Decode JPEGs and deliver batches on the CPU or a GPU.")
    work: Path | None = option(None, "Keep the photos in this folder for the next run.")


@dataclass(frozen=True, kw_only=True)
class LoaderOptions(LoadOptions):
    """Options of `bench loader`."""

    batch_sizes: tuple[int, ...] = option(
        (128, 512), "Images per batch, comma list; JPEGs are loaded with the first.", within=AT_LEAST_ONE
    )
    rounds: int = option(7, "Alternating rounds; the median counts.", within=COUNT)
    threads: int = option(2, "Worker threads of DALI, and worker processes of the other loaders.", within=COUNT)
    short_side: int | None = option(
        None, "Run our loader also over the images as `pack --short-side` stores them.", within=COUNT
    )
    quality: int = option(90, "Quality of those JPEGs.", within=(1, 100))
    peers_env: Path | None = option(None, "Use this virtual environment with Mosaic Streaming, LitData and SPDL.")


@command(app, LoaderOptions)
def loader(given: LoaderOptions) -> None:
    """The loader beside DALI's own reader and other loaders on JPEGs, or beside bare DALI on small raw images.

    Example: drawstream bench loader --json loader.json; drawstream bench loader --data fashion-mnist

    Images that are stored smaller: drawstream bench loader --short-side 256
    """
    from drawstream.tools.bench.loader import run_loader

    write_result(run_loader(**_values(given)), given.json_path)


@dataclass(frozen=True, kw_only=True)
class FeaturesOptions(LoadOptions):
    """Options of `bench features`."""

    model: str | None = option(None, "Model as for training; by default a ResNet-18, or the CNN on small images.")
    batch_size: int | None = option(
        None, "Images per forward pass; by default 32 photos or 256 small ones.", within=AT_LEAST_ONE
    )
    rounds: int = option(3, "Alternating rounds; the median counts.", within=COUNT)
    amp: Literal["off", "bf16", "fp16"] = option("off", "Run forward passes in bf16 or fp16.")


@command(app, FeaturesOptions)
def features(given: FeaturesOptions) -> None:
    """Feature extraction beside the bare model and the bare loader; a candidate's cost, and the tracker's.

    Example: drawstream bench features --json features.json; drawstream bench features --data fashion-mnist --rounds 7
    """
    from drawstream.tools.bench import run_features

    write_result(run_features(**_values(given)), given.json_path)


@command(app, grids.NoiseGrid)
def noise(given: grids.NoiseGrid) -> None:
    """Training on wrong labels: the Swift Sampler beside uniform, REED, L2RW, MentorNet PD, dropping, and the oracle.

    Example: drawstream bench noise --data digits --json noise.json; drawstream bench noise --seeds 0,1,2
    """
    from drawstream.tools.bench import estimate_noise
    from drawstream.tools.bench.noise import run

    _run(given, estimate_noise, run)


@command(app, grids.TransferGrid)
def transfer(given: grids.TransferGrid) -> None:
    """A sampler searched on one model carried to others: refitted, frozen, as probabilities; beside their own, uniform.

    Example: drawstream bench transfer --json transfer.json
    """
    from drawstream.tools.bench import estimate_transfer, run_transfer

    _run(given, estimate_transfer, run_transfer)


@command(app, grids.BudgetGrid)
def budget(given: grids.BudgetGrid) -> None:
    """Methods of budgeted training beside uniform draws at equal measured compute: table, verdict, page.

    Example: drawstream bench budget --data digits --methods all; the whole grid: drawstream bench budget --methods all
    --budgets .05,.1,.2,.3,.5 --augments none,standard,randaugment-bt,mixup,ricap
    """
    from drawstream.tools.bench import estimate_budget
    from drawstream.tools.bench.budget import run

    _run(given, estimate_budget, run)


@command(app, grids.AutoGrid)
def auto(given: grids.AutoGrid) -> None:
    """AutoSampling beside uniform training of the same steps, and the best of as many trainings: accuracy and work.

    Example: drawstream bench auto --data digits --seeds 0,1,2 --json auto.json; drawstream bench auto --seeds 0,1,2
    """
    from drawstream.tools.bench import estimate_auto
    from drawstream.tools.bench.auto import run

    _run(given, estimate_auto, run)


@command(app, grids.LanguageGrid)
def language(given: grids.LanguageGrid) -> None:
    """A small GPT on text: a sampler that reads word frequency and perplexity beside uniform draws, in perplexity.

    Example: drawstream bench language --shuffled 0,.4 --seeds 0,1,2 --json language.json
    """
    from drawstream.tools.bench.language import estimate, run

    _run(given, estimate, run)


@command(app, grids.NovelGrid)
def novel(given: grids.NovelGrid) -> None:
    """Classes that were never trained on: few-shot and verification accuracy of embeddings, uniform and with a sampler.

    Example: drawstream bench novel --data digits --noise 0,.4 --seeds 0,1,2 --json novel.json
    """
    from drawstream.tools.bench.novel import estimate, run

    _run(given, estimate, run)


@command(app, grids.TailGrid)
def tail(given: grids.TailGrid) -> None:
    """Long-tailed training: class-balanced draws beside uniform ones and a re-weighted loss, in balanced accuracy.

    Example: drawstream bench tail --data cifar10 --model cnn --epochs 20 --augment standard --amp bf16
    --channels-last --json tail.json
    """
    from drawstream.tools.bench.tail import estimate, run

    _run(given, estimate, run)


@command(app, grids.SuspectsGrid)
def suspects(given: grids.SuspectsGrid) -> None:
    """Labels that are known to be wrong, found by one training: average precision, AUROC, estimated share, calibration.

    Example: drawstream bench suspects --data cifar10 --noise worse.npy,0.4 --seeds 0,1,2 --augment standard --amp bf16
    --channels-last --json suspects.json
    """
    from drawstream.tools.bench.suspects import estimate, run

    _run(given, estimate, run)


@dataclass(frozen=True, kw_only=True)
class PrecisionOptions(ResultOptions):
    """Options of `bench precision`."""

    data: Path = option(..., "Train on this catalog.")
    held_out: Path = option(..., "Take accuracies on this catalog.")
    model: str = option("resnet8", "Model as for training.")
    rows: int = option(2560, "Images of an epoch.", within=AT_LEAST_ONE)
    epochs: int = option(2, "Epochs of every training.", within=(1, 10**6))
    rounds: int = option(5, "Alternating rounds; the median counts.", within=COUNT)
    threads: int = option(1, "Threads of torch.", within=COUNT)


@command(app, PrecisionOptions)
def precision(given: PrecisionOptions) -> None:
    """Training in bf16 and with channels last beside float32: seconds of the same steps, and accuracy.

    Example: drawstream bench precision --data data/train --held-out data/holdout --json precision.json
    """
    from drawstream.tools.bench import run_precision

    values = _values(given)
    write_result(run_precision(values.pop("data"), values.pop("held_out"), **values), given.json_path)


@dataclass(frozen=True, kw_only=True)
class RehearsalOptions(ResultOptions):
    """Options of `bench rehearsal`."""

    out: Path = option(..., "Folder that keeps data, runs and figures: 5 kB a row.", "--out", "-o")
    rows: int = option(1_281_167, "Training rows of the full way; the other has an eighth.", within=(800, 10**11))
    photos: int = option(512, "Different photographs like ImageNet's, each 8 times; 0 skips them.", within=SOME)
    seed: int = option(0, "Seed of images, labels, orders and the search.", within=SEED)


@command(app, RehearsalOptions)
def rehearsal(given: RehearsalOptions) -> None:
    """The whole way from images to the report at ImageNet's number of rows: time, memory and disk of each stage.

    Every stage is a command in a process of its own. A finished stage is not run again, so a killed rehearsal goes on.

    Example: drawstream bench rehearsal --rows 1281167 -o runs/rehearsal --json rehearsal.json
    """
    from drawstream.tools.bench.rehearsal import run

    write_result(run(given.out, rows=given.rows, photos=given.photos, seed=given.seed), given.json_path)


def _values(given: Options) -> dict[str, Any]:
    """The options of a command as keywords."""
    return {name: value for name, value in vars(given).items() if name not in ("typed", "stated", "json_path")}


def _run(given: Any, estimate: Callable[[Any], Any], run: Callable[[Any], dict[str, Any]]) -> None:
    """Run a benchmark on its options, or print its estimate where a dry run is asked for."""
    if given.dry_run:
        from drawstream.tools.estimate import tell

        tell(estimate(given), given.json_path)
    else:
        write_result(run(given), given.json_path)
