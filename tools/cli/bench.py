"""`drawstream bench`: our parts beside the ones people use today, in one run."""

import os
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from drawstream.tools.runs.bounds import numbers, whole
from drawstream.tools.runs.record import write_result

app = typer.Typer(help="Benchmarks, side by side with peers in one run.", no_args_is_help=True, rich_markup_mode=None)

DryRun = Annotated[
    bool,
    typer.Option("--dry-run", help="Check all that the job needs, estimate time, disk and memory, write nothing."),
]
Json = Annotated[Path | None, typer.Option("--json", help="Write the result there as one JSON object.")]


@app.command()
def stream(
    rows: Annotated[str, typer.Option(help="Numbers of rows, comma list; 1e6 to 1e8 fit in 16 GB.")] = "1280000",
    rounds: Annotated[int, typer.Option(help="Alternating rounds; the fastest counts.")] = 5,
    seeds: Annotated[str, typer.Option(help="Seeds of weights and draws, comma list.")] = "0",
    json_path: Json = None,
) -> None:
    """Index streams beside torch, NumPy and SPDL: draws per second, set-up, peak memory, seeking.

    Example: drawstream bench stream --rows 1e6,1e7,1e8 --json stream.json
    """
    from drawstream.tools.bench.stream import missing_systems, run

    sizes, chosen = whole("rows", rows), whole("seeds", seeds)
    if min(sizes) < 2:
        raise ValueError(f"--rows >= 2 must hold, but got {rows}")
    table = [{**row, "seed": seed} for seed in chosen for row in run(sizes, rounds=rounds, seed=seed)]
    missing = missing_systems(sizes)
    for each in missing:
        print(f"{each['system']} ({each['mode']}): {each['reason']}")
    _write(json_path, {"rows": table, "missing": missing})


@app.command()
def loader(
    data: Annotated[
        str,
        typer.Option(
            help="photos, digits, fashion-mnist (Debian's files), or the path of a catalog's folder or of a source."
        ),
    ] = "photos",
    batch_sizes: Annotated[str, typer.Option(help="Comma list; JPEGs are loaded with the first.")] = "128,512",
    images: Annotated[
        int | None, typer.Option(help="Images of a round, at most; by default 2048 photos or 60000 small ones.")
    ] = None,
    rounds: Annotated[int, typer.Option(help="Alternating rounds; the median counts.")] = 7,
    threads: Annotated[int, typer.Option(help="DALI's worker threads, and the others' worker processes.")] = 2,
    device: Annotated[
        Literal["cpu", "gpu"], typer.Option(help="Where DALI works on JPEGs, and where all batches arrive.")
    ] = "cpu",
    work: Annotated[Path | None, typer.Option(help="Folder that keeps the photos for the next run.")] = None,
    peers_env: Annotated[
        Path | None, typer.Option(help="Virtual environment with Mosaic Streaming, LitData and SPDL.")
    ] = None,
    json_path: Json = None,
) -> None:
    """The loader beside DALI's own reader and other loaders on JPEGs, or beside bare DALI on small raw images.

    Example: drawstream bench loader --json loader.json; drawstream bench loader --data fashion-mnist
    """
    from drawstream.tools.bench.loader.bench import run

    sizes = whole("batch-sizes", batch_sizes)
    if min(*sizes, 1 if images is None else images, rounds, threads) < 1:
        got = f"{batch_sizes}, {images}, {rounds} and {threads}"
        raise ValueError(f"--batch-sizes, --images, --rounds and --threads must be >= 1, but got {got}")
    result = run(
        data,
        batch_sizes=sizes,
        images=images,
        rounds=rounds,
        threads=threads,
        device=device,
        work=work,
        peers_env=peers_env,
    )
    _write(json_path, result)


@app.command()
def features(
    data: Annotated[
        str, typer.Option(help="photos, digits, fashion-mnist (Debian's files), or the path of a catalog's folder.")
    ] = "photos",
    model: Annotated[
        str | None,
        typer.Option(help="As for training; by default a ResNet-18, or the CNN on small images."),
    ] = None,
    images: Annotated[
        int | None, typer.Option(help="Images of a round, at most; by default 192 photos or 20000 small ones.")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Images per forward pass; by default 32 photos or 256 small ones.")
    ] = None,
    rounds: Annotated[int, typer.Option(help="Alternating rounds; the median counts.")] = 3,
    device: Annotated[Literal["cpu", "gpu"], typer.Option(help="Where loader and model run.")] = "cpu",
    amp: Annotated[Literal["off", "bf16", "fp16"], typer.Option(help="Forward passes in bf16 or fp16.")] = "off",
    work: Annotated[Path | None, typer.Option(help="Folder that keeps the photos for the next run.")] = None,
    json_path: Json = None,
) -> None:
    """Feature extraction beside the bare model and the bare loader; a candidate's cost, and the tracker's.

    Example: drawstream bench features --json features.json; drawstream bench features --data fashion-mnist --rounds 7
    """
    from drawstream.tools.bench.features import run

    for name, value in {"images": images, "batch-size": batch_size, "rounds": rounds}.items():
        if value is not None and value < 1:
            raise ValueError(f"--{name} must be >= 1, but got {value}")
    result = run(
        data, model=model, images=images, batch_size=batch_size, rounds=rounds, device=device, amp=amp, work=work
    )
    _write(json_path, result)


@app.command()
def noise(
    data: Annotated[str, typer.Option(help="fashion-mnist or digits.")] = "fashion-mnist",
    levels: Annotated[str, typer.Option("--noise", help="Shares of wrong labels, comma list.")] = "0,0.4",
    methods: Annotated[
        str | None,
        typer.Option(
            help="Comma list of uniform, swift, swift-cgf, swift-random, swift-reinforce, drop, reed-soft, reed-hard, "
            "l2rw, mentornet, clean-only (by default all of these), swift-paper (its exact protocol), and the sets "
            "segments (swift-s2, …) and candidates (swift-5, …: result against the cost of the search)."
        ),
    ] = None,
    seeds: Annotated[str, typer.Option(help="Seeds of data, noise, weights, orders and searches, comma list.")] = "0",
    validation: Annotated[
        str, typer.Option(help="clean, noisy (as many wrong labels as in training) or clean,noisy.")
    ] = "clean",
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder of all runs; by default runs/noise-DATA.")
    ] = None,
    source: Annotated[Path | None, typer.Option(help="Folder of Fashion-MNIST's files.")] = None,
    candidates: Annotated[
        int, typer.Option("--rank-study", help="Also score so many random samplers by fine-tuning and from scratch.")
    ] = 0,
    dry_run: DryRun = False,
    json_path: Json = None,
) -> None:
    """Training on wrong labels: the Swift Sampler beside uniform, REED, L2RW, MentorNet PD, dropping, and the oracle.

    Example: drawstream bench noise --data digits --json noise.json; drawstream bench noise --seeds 0,1,2
    """
    from drawstream.tools.bench.noise.grid import NoiseGrid, run, start
    from drawstream.tools.bench.noise.methods import METHODS

    folder = out or Path("runs") / f"noise-{data}"
    grid = NoiseGrid(
        noise=numbers("noise", levels),
        methods=METHODS if methods is None else tuple(methods.split(",")),
        seeds=tuple(whole("seeds", seeds)),
        validation=tuple(validation.split(",")),
        candidates=candidates,
    )
    if dry_run:
        from drawstream.tools.bench.estimates import estimate_noise
        from drawstream.tools.estimate.stages import tell

        tell(estimate_noise(start(data), data, folder, grid, source=source), json_path)
        return
    _write(json_path, run(data, folder, grid, source=source))


@app.command()
def transfer(
    data: Annotated[str, typer.Option(help="digits or fashion-mnist.")] = "digits",
    model: Annotated[
        str | None, typer.Option(help="Model to search on; by default mlp, or cnn on Fashion-MNIST.")
    ] = None,
    targets: Annotated[
        str | None, typer.Option(help="Models to train, comma list; by default mlp-64,cnn, or resnet8.")
    ] = None,
    noise: Annotated[float, typer.Option(help="Share of wrong labels.")] = 0.4,
    seeds: Annotated[str, typer.Option(help="Seeds of data, noise, weights, orders and searches.")] = "0,1,2",
    epochs: Annotated[int | None, typer.Option(help="Of every training; by default the plan's.")] = None,
    trials: Annotated[int | None, typer.Option(help="Candidates of a search; by default the plan's.")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder of all runs; by default runs/transfer-DATA.")
    ] = None,
    source: Annotated[Path | None, typer.Option(help="Folder of Fashion-MNIST's files.")] = None,
    json_path: Json = None,
) -> None:
    """A sampler searched on one model carried to others: refitted, frozen, as probabilities; beside their own, uniform.

    Example: drawstream bench transfer --json transfer.json
    """
    from dataclasses import replace

    from drawstream.tools.bench.transfer import MODELS, TransferGrid, run
    from drawstream.tools.demo import PLANS

    if data not in MODELS:
        raise ValueError(f"no plan for {data!r}: give one of {', '.join(MODELS)}")
    source_model, target_models = MODELS[data]
    grid = TransferGrid(
        model or source_model,
        target_models if targets is None else tuple(targets.split(",")),
        noise,
        tuple(whole("seeds", seeds)),
    )
    changes: dict[str, Any] = {} if trials is None else {"trials": trials}
    if epochs is not None:
        changes["recipe"] = replace(PLANS[data].recipe, epochs=epochs)
    _write(json_path, run(data, out or Path("runs") / f"transfer-{data}", grid, files=source, **changes))


@app.command()
def budget(
    data: Annotated[
        str, typer.Option(help="fashion-mnist, digits, or the folder of a training catalog.")
    ] = "fashion-mnist",
    methods: Annotated[
        str | None,
        typer.Option(
            help="Comma list of full, unif, scan, p, c, p-paper, c-paper, sb, osgd, dlis, rho, infobatch, "
            "coreset-random, coreset-forgetting, coreset-k_center, or all; full and unif are always there."
        ),
    ] = None,
    budgets: Annotated[
        str, typer.Option(help="Parts of a full training, comma list; the whole grid has .05,.1,.2,.3,.5.")
    ] = "0.3",
    augments: Annotated[str, typer.Option(help="Of none, standard, randaugment, mixup, ricap.")] = "none",
    schedules: Annotated[str, typer.Option(help="Of linear, step.")] = "linear,step",
    seeds: Annotated[str, typer.Option(help="Seeds of weights and orders, comma list.")] = "0,1,2",
    held_out: Annotated[Path | None, typer.Option(help="Catalog that chooses epochs, for a catalog.")] = None,
    test: Annotated[Path | None, typer.Option(help="Catalog that reports, for a catalog.")] = None,
    model: Annotated[str | None, typer.Option(help="As for training; by default the data set's.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Of a full training; by default the data set's.")] = None,
    global_batch: Annotated[int | None, typer.Option(help="Images per step; by default the data set's.")] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate at the start; by default the data set's.")] = None,
    processes: Annotated[
        int | None, typer.Option(help="Runs at a time; by default one per core or, on a GPU, one.")
    ] = None,
    threads: Annotated[int, typer.Option(help="Of torch, for every run; results depend on it.")] = 1,
    device: Annotated[Literal["cpu", "gpu"], typer.Option(help="Where loaders and models run.")] = "cpu",
    engine: Annotated[str, typer.Option(help="local, ray or ray:ADDRESS.")] = "local",
    dry_run: DryRun = False,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder of all runs; by default runs/budget-DATA.")
    ] = None,
    source: Annotated[Path | None, typer.Option(help="Folder of Fashion-MNIST's files.")] = None,
    json_path: Json = None,
) -> None:
    """Methods of budgeted training beside uniform draws at equal measured compute: table, verdict, page.

    Example: drawstream bench budget --data digits --methods all; the whole grid: drawstream bench budget --methods all
    --budgets .05,.1,.2,.3,.5 --augments none,standard,randaugment,mixup,ricap
    """
    from drawstream.pipeline.workers.engines import Workers
    from drawstream.tools.bench.budget.cell import METHODS
    from drawstream.tools.bench.budget.grid import MAIN, Grid, common_of, run

    folder = out or Path("runs") / f"budget-{Path(data).name}"
    grid = Grid(
        methods=MAIN if methods is None else METHODS if methods == "all" else tuple(methods.split(",")),
        budgets=numbers("budgets", budgets),
        augments=tuple(augments.split(",")),
        schedules=tuple(schedules.split(",")),
        seeds=tuple(whole("seeds", seeds)),
    )
    Workers(engine=engine)  # refuses what is no engine
    at_once = processes or (1 if device == "gpu" else len(os.sched_getaffinity(0)))
    given: dict[str, Any] = {"model": model, "epochs": epochs, "global_batch": global_batch, "lr": lr, "device": device}
    given |= {"source": source, "held_out": held_out, "test": test, "threads": threads}
    if dry_run:
        from drawstream.tools.bench.estimates import estimate_budget
        from drawstream.tools.estimate.stages import tell

        tell(estimate_budget(data, grid, folder, processes=at_once, engine=engine, **given), json_path)
        return
    common = common_of(data, folder, **given)
    _write(json_path, run(common, grid, folder, processes=at_once, engine=engine))


@app.command()
def auto(
    data: Annotated[str, typer.Option(help="fashion-mnist or digits.")] = "fashion-mnist",
    levels: Annotated[str, typer.Option("--noise", help="Shares of wrong labels, comma list.")] = "0,0.4",
    methods: Annotated[
        str | None,
        typer.Option(
            help="Comma list of uniform, best-of, random, mixture, static, replay, replay-other; by default all."
        ),
    ] = None,
    seeds: Annotated[str, typer.Option(help="Seeds of data, noise, weights, orders and searches, comma list.")] = "0",
    epochs: Annotated[int | None, typer.Option(help="Of every training; 10, or 30 of digits.")] = None,
    population: Annotated[int | None, typer.Option(help="Children of a search, and runs of best-of; 4.")] = None,
    explore_after: Annotated[
        int | None, typer.Option(help="Epochs before the first exploration; 2, or 3 of digits.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder of all runs; by default runs/auto-DATA.")
    ] = None,
    source: Annotated[Path | None, typer.Option(help="Folder of Fashion-MNIST's files.")] = None,
    dry_run: DryRun = False,
    json_path: Json = None,
) -> None:
    """AutoSampling beside uniform training of the same steps, and the best of as many trainings: accuracy and work.

    Example: drawstream bench auto --data digits --seeds 0,1,2 --json auto.json; drawstream bench auto --seeds 0,1,2
    """
    from dataclasses import replace

    from drawstream.tools.bench.auto.cell import METHODS
    from drawstream.tools.bench.auto.grid import SETTINGS, AutoGrid, run
    from drawstream.tools.bench.cell import start_plan

    if data not in SETTINGS:
        raise ValueError(f"no plan for {data!r}: give one of {', '.join(SETTINGS)}")
    given = {"epochs": epochs, "population": population, "first": explore_after}
    grid = AutoGrid(
        replace(SETTINGS[data], **{name: value for name, value in given.items() if value is not None}),
        numbers("noise", levels),
        METHODS if methods is None else tuple(methods.split(",")),
        tuple(whole("seeds", seeds)),
    )
    folder = out or Path("runs") / f"auto-{data}"
    if dry_run:
        from drawstream.tools.bench.estimates import estimate_auto
        from drawstream.tools.estimate.stages import tell

        tell(estimate_auto(start_plan(data), data, folder, grid, source=source), json_path)
        return
    _write(json_path, run(data, folder, grid, source=source))


@app.command()
def rehearsal(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder that keeps data, runs and figures: 5 kB a row.")],
    rows: Annotated[int, typer.Option(help="Training rows of the full way; the other has an eighth.")] = 1_281_167,
    photos: Annotated[
        int, typer.Option(help="Different photographs like ImageNet's, each 8 times; 0: none, nothing said of them.")
    ] = 512,
    seed: Annotated[int, typer.Option(help="Of images, labels, orders and the search.")] = 0,
    json_path: Json = None,
) -> None:
    """The whole way from images to the report at ImageNet's number of rows: time, memory and disk of each stage.

    Every stage is a command in a process of its own. One that is done is not run again, so a killed rehearsal goes on.

    Example: drawstream bench rehearsal --rows 1281167 -o runs/rehearsal --json rehearsal.json
    """
    from drawstream.tools.bench.rehearsal.bench import run

    if rows < 800:
        raise ValueError(f"--rows >= 800 must hold, but got {rows}")
    _write(json_path, run(out, rows=rows, photos=photos, seed=seed))


def _write(json_path: Path | None, result: dict[str, Any]) -> None:
    write_result(result, json_path)
