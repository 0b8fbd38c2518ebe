"""Estimated cost of a training and of an extraction: the job's own loop and scorer run for a few seconds."""

import time
from pathlib import Path

import torch
from torch import nn

from drawstream.features import ShardScorer, lacking_shards
from drawstream.features.table import write_part
from drawstream.pipeline import Loader
from drawstream.samplers.orders import Sequential
from drawstream.tools.estimate.probe import LIMIT, Probe, scratch_folder, seconds_of
from drawstream.tools.estimate.stages import Estimate, Stage, finished, peak_rss
from drawstream.tools.jobs import FeaturesJob, TrainingJob, prepare_extraction, prepare_training
from drawstream.tools.training import EVAL_BATCH, Amp, Ranks, Setup, top1

FEW = 32  # images that a probe begins with
EPOCH_RECORD = 400  # bytes of run.json for an epoch
RECORD = 3000  # bytes of run.json besides
TRACKED = 24  # bytes of a row of the tracker's table


def estimate_training(job: TrainingJob, /) -> Estimate:
    """Check and estimate `train_job`; errors are its own."""
    training, setup, out = prepare_training(job), job.setup, job.out
    if training.record is not None:
        training.close()
        return finished("train", out / "run.json")
    epochs, rows, model = training.recipe.epochs, len(setup.data), training.model
    with scratch_folder(out, ["checkpoint.pt"]) as scratch:
        done = _epochs_of(scratch / "checkpoint.pt")
        with Probe(steps=False, ranks=setup.ranks.world_size) as probe:
            training.run(scratch / "checkpoint.pt", on_step=probe.step)
    left, copies = epochs - done, 2 if training.evaluation.sets else 1
    basis = f"measured: {probe.count} steps; × {left} epochs of {len(training.loader)} batches"
    stages = [
        Stage("start", probe.start_seconds, 0, peak_rss(), "measured: until the first step"),
        Stage(f"{left} epochs", left * probe.unit_seconds, 0, peak_rss(), basis),
    ]
    if training.evaluation.sets:
        each = sum(evaluation_seconds(model, held, training.recipe.amp) for held in training.evaluation.sets.values())
        basis = f"measured: part of {', '.join(training.evaluation.sets)}; × {left} epochs"
        stages.append(Stage("evaluation", left * each, 0, peak_rss(), basis))
    kept = copies * state_bytes(model) + RECORD + EPOCH_RECORD * epochs + (TRACKED * rows if job.track else 0)
    spare = 2 * (state_bytes(model, momentum=True) + state_bytes(model) * (copies - 1) + 8 * rows)
    basis = "computed: weights and record; two checkpoints at a time"
    stages.append(Stage("files", 0.1, kept, peak_rss() + spare // 2, basis, spare))
    training.close()
    notes = [f"{out / 'checkpoint.pt'}: {done} epochs are done and would not be done again"] if done else []
    return Estimate("train", out, tuple(stages), (*notes, *place_notes(setup, setup.ranks)))


def evaluation_seconds(model: nn.Module, loader: Loader, amp: Amp, /) -> float:
    """Return the seconds of a pass over a held-out set, estimated from its first rows."""
    stream, whole = loader.stream, len(loader.catalog)
    part = min(EVAL_BATCH, whole)
    loader.replace_stream(Sequential(0, part))
    seconds = seconds_of(top1, model, loader, amp=amp)
    loader.replace_stream(stream)
    return seconds * whole / part


def state_bytes(model: nn.Module, /, *, momentum: bool = False) -> int:
    """Return the bytes of a model's state, with the optimizer's momentum where asked for."""
    tensors = [*model.state_dict().values(), *(model.parameters() if momentum else ())]
    return sum(int(value.nbytes) for value in tensors)


def _epochs_of(checkpoint: Path) -> int:
    if not checkpoint.exists():
        return 0
    content = torch.load(checkpoint, map_location="cpu", weights_only=True)
    return len(content.get("history", ()))


def place_notes(setup: Setup, ranks: Ranks, /) -> list[str]:
    """Return the notes on processes, networks and GPUs."""
    notes = []
    if ranks.world_size > 1:
        notes.append(f"memory is per process, of which there are {ranks.world_size}; starting them is not in the time")
    if isinstance(setup.catalog, str):
        notes.append("shards at a URL are read for the probe as they will be; a cache that is cold may take longer")
    if setup.device == "gpu":
        held = torch.cuda.max_memory_reserved() / 1e9
        notes.append(f"GPU memory: measured, {held:.3g} GB of torch's in the probe; DALI's comes on top")
    return notes


def estimate_extraction(job: FeaturesJob, /) -> Estimate:
    """Check and estimate `features_job`; errors are its own."""
    begin, setup, out = time.perf_counter(), job.setup, job.out
    model, scoring, made = prepare_extraction(job)
    missing = lacking_shards(setup.data, out, made)
    if not missing:
        return finished("features", out / "part-00000.parquet")
    ranks = setup.ranks
    with ShardScorer(setup.data, model, scoring, device_id=ranks.local) as scorer, scratch_folder(out) as scratch:
        wanted = sum(map(scorer.rows_of, missing))
        share = sum(map(scorer.rows_of, missing[ranks.rank :: ranks.world_size]))
        rows = min(len(setup.data), scoring.batch_size, FEW)
        seconds = seconds_of(scorer.head, rows)
        start = time.perf_counter() - begin
        rows = min(len(setup.data), max(rows, int(rows * LIMIT / 2 / max(seconds, 1e-3))))
        begin = time.perf_counter()
        columns = scorer.head(rows)
        seconds = time.perf_counter() - begin
        scored = len(next(iter(columns.values())))
        write_part(scratch / "one", {name: values[:1] for name, values in columns.items()}, made)
        write_part(scratch / "all", columns, made)
        small, large = ((scratch / name).stat().st_size for name in ("one", "all"))
    each = (large - small) / max(scored - 1, 1)
    part = round(each * max(map(scorer.rows_of, missing)))
    basis = f"measured: {scored} rows in {seconds:.2f} s, {each:.3g} bytes each; × {share} rows"
    disk = round(wanted * each + small * len(missing))
    scoring_stage = Stage("scoring", seconds / scored * share, disk, peak_rss() + 2 * part, basis, spare=part)
    notes = place_notes(setup, ranks)
    if len(missing) < scorer.shards:
        notes.append(f"{out}: {scorer.shards - len(missing)} of {scorer.shards} parts are there and would be kept")
    if job.engine != "local":
        notes.append("with Ray: time of one worker on this machine; divide it by the workers")
    opened = Stage("start", start, 0, peak_rss(), "measured: until the first rows")
    return Estimate("features", out, (opened, scoring_stage), tuple(notes))
