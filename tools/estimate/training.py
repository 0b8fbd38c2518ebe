"""Cost estimate of a training and an extraction: the job's own loop and scorer run for a few seconds."""

import time
from pathlib import Path

import torch
from torch import nn

from drawstream.features import Scoring, ShardScorer, Tracker
from drawstream.features.extraction import lacking_shards
from drawstream.features.table.part import write_part
from drawstream.pipeline import Loader
from drawstream.samplers import Sequential
from drawstream.tools.estimate.clock import Clock
from drawstream.tools.estimate.probe import LIMIT, allowed, rehearsed
from drawstream.tools.estimate.stages import Estimate, Stage, budgeted, finished, folder_size, resident
from drawstream.tools.jobs.features import prepare_extraction
from drawstream.tools.jobs.train import Training, prepare_training
from drawstream.tools.training.loop import Recipe, top1
from drawstream.tools.training.methods.filtering import Filtering
from drawstream.tools.training.methods.sampling import Sampling
from drawstream.tools.training.ranks import Ranks
from drawstream.tools.training.setup import EVAL_BATCH, Setup

__all__ = ["estimate_extraction", "estimate_training", "evaluation_seconds", "place_notes", "state_bytes"]

FEW = 32  # images that a probe begins with, twice: the second time all is warm
EVALUATED = 2 * EVAL_BATCH  # images of a held-out set that a probe goes over, at most
EPOCH_RECORD = 400  # bytes of run.json for an epoch
RECORD = 3000  # bytes of run.json besides
TRACKED = 24  # bytes of a row of the tracker's table: row, crop and label as differences, loss, entropy, …


@budgeted("train")
def estimate_training(
    setup: Setup,
    recipe: Recipe,
    sampling: Sampling,
    out: Path,
    /,
    *,
    track: Path | None = None,
    filtering: Filtering | None = None,
    job: str = "train",
) -> Estimate:
    """The estimate of `train_job`; arguments and errors are its own."""
    begin = time.perf_counter()
    training = prepare_training(setup, recipe, sampling, out, track=track, filtering=filtering)
    if training.record is not None:
        training.close()
        return finished(job, out / "run.json")
    recipe, model = training.recipe, setup.build(training.recipe.seed)
    tracker = Tracker(len(setup.data)) if track is not None else None
    with rehearsed(out, ["checkpoint.pt"]) as scratch:
        resumed = _epochs_of(scratch / "checkpoint.pt")
        units = (recipe.epochs - resumed) * len(training.loader)
        counted = lambda: training.loader.metrics["batches"]  # noqa: E731
        with Clock(counted=counted, units=units, ranks=setup.ranks) as clock:
            training.run(model, scratch / "checkpoint.pt", tracker=tracker, on_epoch=clock.epoch)
        written = folder_size(scratch)
    left = recipe.epochs - resumed
    start = clock.began - begin + clock.start_seconds
    state = state_bytes(model)
    kept = state * (2 if training.evaluate else 1) + RECORD + EPOCH_RECORD * recipe.epochs
    kept += 0 if track is None else TRACKED * len(setup.data)
    checkpoint = written or state_bytes(model, momentum=True, best=bool(training.evaluate)) + 8 * len(setup.data)
    told = "measured" if written else "computed: weights, momentum, best weights, counts"
    stages = [Stage("start", start, 0, resident(), "measured: this dry run's own, without imports")]
    stages += _epochs(training, model, clock, left)
    memory = resident() + checkpoint
    ends = "computed: weights of the last" + (" and the best epoch, " if training.evaluate else " epoch, ")
    stages.append(
        Stage("files", 0.1, kept, memory, f"{ends}record; checkpoint {told}, two of it at a time", 2 * checkpoint)
    )
    notes = [] if not resumed else [f"{out / 'checkpoint.pt'}: {resumed} epochs are done and would not be done again"]
    training.close()
    return Estimate(job, out, tuple(stages), (*notes, *place_notes(setup, setup.ranks)))


def _epochs(training: Training, model: nn.Module, clock: Clock, left: int) -> list[Stage]:
    """Steps and evaluations: of whole epochs where there were some, else of steps and a part of each held-out set."""
    recipe, whole = training.recipe, clock.epoch_seconds
    if whole is not None:
        basis = f"measured: {len(clock.epochs) - 1} whole epochs × {left / max(len(clock.epochs) - 1, 1):.3g}"
        return [Stage(f"{left} epochs", left * whole, 0, resident(), basis)]
    batches = left * len(training.loader)
    basis = f"measured: {clock.units} batches, {1000 * clock.unit_seconds:.3g} ms each; × {batches}"
    stages = [Stage(f"{left} epochs", batches * clock.unit_seconds, 0, resident(), basis)]
    if training.evaluate:
        loaders = training.evaluate.values()
        each = sum(evaluation_seconds(model, loader, recipe.amp, passes=left) for loader in loaders)
        rows = sum(len(loader.catalog) for loader in training.evaluate.values())
        basis = f"measured: parts of {', '.join(training.evaluate)}; × {rows} images × {left} epochs"
        stages.append(Stage("evaluation", left * each, 0, resident(), basis))
    return stages


def evaluation_seconds(model: nn.Module, loader: Loader, amp: bool, /, *, passes: float = 1.0) -> float:
    """Return the seconds of a pass over a held-out set, estimated from its first rows, after a warm-up if time allows.

    Args:
        model: What is evaluated.
        loader: Of the set.
        amp: As `top1`.
        passes: How many the job makes; the more, the longer this may take.
    """
    stream, whole = loader.stream, len(loader.catalog)
    part, seconds = min(FEW, whole), 0.0
    try:
        for again in range(3):
            loader.replace_stream(Sequential(0, part))
            begin = time.perf_counter()
            top1(model, loader, amp=amp)
            seconds = time.perf_counter() - begin
            limit = allowed(passes * seconds * whole / part, LIMIT)
            if seconds > limit:
                break
            if again == 1:
                faster = int(part * limit / 2 / max(seconds, 1e-6))
                if faster <= part:
                    break
                part = min(whole, EVALUATED, faster)
    finally:
        loader.replace_stream(stream)
    return seconds * whole / part


def state_bytes(model: nn.Module, *, momentum: bool = False, best: bool = False) -> int:
    """Bytes of a model's state, with the optimizer's momentum and a second copy where asked for."""
    state: int = sum(value.nbytes for value in model.state_dict().values())
    weights: int = sum(value.nbytes for value in model.parameters())
    return state * (2 if best else 1) + (weights if momentum else 0)


def _epochs_of(checkpoint: Path) -> int:
    if not checkpoint.exists():
        return 0
    content = torch.load(checkpoint, map_location="cpu", weights_only=True)
    return len(content.get("history", ()))


def place_notes(setup: Setup, ranks: Ranks) -> tuple[str, ...]:
    """Return the notes on processes, networks and GPUs."""
    notes = []
    if ranks.world_size > 1:
        notes.append(
            f"memory is per process, of which there are {ranks.world_size}; starting them and the network between "
            "machines are not in the numbers beyond what the probe's own steps met"
        )
    if isinstance(setup.catalog, str):
        notes.append("shards at a URL are read for the probe as they will be; a cache that is cold may take longer")
    if setup.device == "gpu":
        held = torch.cuda.max_memory_reserved() / 1e9
        notes.append(f"GPU memory: measured, {held:.3g} GB of torch's in the probe; DALI's comes on top")
    return tuple(notes)


@budgeted("features")
def estimate_extraction(
    setup: Setup, weights: Path, out: Path, scoring: Scoring | None = None, /, *, engine: str = "local"
) -> Estimate:
    """The estimate of `features_job`; arguments and errors are its own."""
    begin = time.perf_counter()
    model, scoring, made = prepare_extraction(setup, weights, scoring, engine=engine)
    missing = lacking_shards(setup.data, out, made)
    ranks, rows = setup.ranks, 0
    with ShardScorer(setup.data, model, scoring, device_id=ranks.local) as scorer, rehearsed(out) as scratch:
        share = sum(scorer.rows_of(shard) for shard in missing[ranks.rank :: ranks.world_size])
        wanted = sum(scorer.rows_of(shard) for shard in missing)
        if not missing:
            return finished("features", out / "part-00000.parquet")
        rows = min(len(setup.data), scoring.batch_size, FEW)
        scorer.head(rows)
        start = time.perf_counter() - begin
        while True:
            again = time.perf_counter()
            columns = scorer.head(rows)
            seconds = time.perf_counter() - again
            limit = allowed(seconds / rows * share, LIMIT)
            if seconds > limit / 4 or rows == len(setup.data):
                break
            rows = min(len(setup.data), int(rows * limit / max(seconds, 1e-3) / 2))
        scored = len(next(iter(columns.values())))
        write_part(scratch / "one", {name: values[:1] for name, values in columns.items()}, made)
        write_part(scratch / "all", columns, made)
        small, large = ((scratch / name).stat().st_size for name in ("one", "all"))
    each = (large - small) / max(scored - 1, 1)
    disk = round(wanted * each + small * len(missing))
    stage = Stage(
        "scoring",
        seconds / scored * share,
        disk,
        resident() + round(each * max(map(scorer.rows_of, missing))) * 2,
        f"measured: {scored} rows in {seconds:.2f} s, {each:.3g} bytes each; × {share} rows in {len(missing)} shards",
        spare=round(each * max(map(scorer.rows_of, missing))),
    )
    notes = list(place_notes(setup, ranks))
    if len(missing) < scorer.shards:
        notes.append(f"{out}: {scorer.shards - len(missing)} of {scorer.shards} parts are there and would be kept")
    if engine != "local":
        notes.append("with Ray: time of one worker on this machine; divide it by the workers; starting is not in it")
    opened = Stage("start", start, 0, resident(), "measured: this dry run's own, without imports")
    return Estimate("features", out, (opened, stage), tuple(notes))
