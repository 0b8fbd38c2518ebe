"""Estimated time of a training and of an extraction: the job's own loop and scorer run for a few seconds."""

import time
from pathlib import Path

import torch
from torch import nn

from drawstream.features import ShardScorer, lacking_shards
from drawstream.pipeline import Loader
from drawstream.samplers.orders import Sequential
from drawstream.tools.estimate.probe import LIMIT, Probe, scratch_folder, seconds_of
from drawstream.tools.estimate.stages import Estimate, Stage, finished
from drawstream.tools.jobs import FeaturesJob, FoldsJob, TrainingJob, prepare_extraction, prepare_training
from drawstream.tools.training import EVAL_BATCH, Amp, Ranks, Setup, evaluate

FEW = 32  # images that a probe begins with


def estimate_training(job: TrainingJob, /) -> Estimate:
    """Check and estimate `train_job`; errors are its own."""
    training, setup, out = prepare_training(job), job.setup, job.out
    if training.record is not None:
        training.close()
        return finished("train", out / "run.json")
    with scratch_folder(out, ["checkpoint.pt*"]) as scratch:
        done = _epochs_of(scratch / "checkpoint.pt")
        with Probe(steps=False, ranks=setup.ranks.world_size) as probe:
            training.run(scratch / "checkpoint.pt", on_step=probe.step)
    left = training.recipe.epochs - done
    basis = f"measured: {probe.count} steps; × {left} epochs of {len(training.loader)} batches"
    stages = [
        Stage("start", probe.start_seconds, "measured: until the first step"),
        Stage(f"{left} epochs", left * probe.unit_seconds, basis),
    ]
    if sets := training.evaluation.sets:
        each = sum(evaluation_seconds(training.model, held, training.recipe.amp) for held in sets.values())
        stages.append(Stage("evaluation", left * each, f"measured: part of {', '.join(sets)}; × {left} epochs"))
    training.close()
    notes = [f"{out / 'checkpoint.pt'}: {done} epochs are done and would not be done again"] if done else []
    return Estimate("train", out, tuple(stages), (*notes, *place_notes(setup, setup.ranks)))


def estimate_folds(job: FoldsJob, /) -> Estimate:
    """Check and estimate `folds_job`: the trainings that are not finished, as many times the first of them."""
    trainings = job.trainings
    left = [each for each in trainings if not (each.out / "run.json").exists()]
    if not left and (job.out / "folds.json").exists():
        return finished("suspects", job.out / "folds.json")
    one = estimate_training(left[0] if left else trainings[0])
    stages = tuple(stage.times(len(left), f"{len(left)} folds") for stage in one.stages)
    notes = ("the predictions for the rows, one pass over all of them, are not in it",)
    return Estimate("suspects", job.out, stages, (*one.notes, *notes))


def evaluation_seconds(model: nn.Module, loader: Loader, amp: Amp, /) -> float:
    """Return the seconds of a pass over a held-out set, estimated from its first rows."""
    stream, whole = loader.stream, len(loader.catalog)
    part = min(EVAL_BATCH, whole)
    loader.replace_stream(Sequential(0, part))
    seconds = seconds_of(evaluate, model, loader, amp=amp)
    loader.replace_stream(stream)
    return seconds * whole / part


def _epochs_of(checkpoint: Path) -> int:
    if not checkpoint.exists():
        return 0
    return len(torch.load(checkpoint, map_location="cpu", weights_only=True).get("history", ()))


def place_notes(setup: Setup, ranks: Ranks, /) -> list[str]:
    """Return the notes on processes and networks."""
    notes = []
    if ranks.world_size > 1:
        notes.append(f"the time to start {ranks.world_size} processes is not in it")
    if any(member.remote for member in setup.data.members):
        notes.append("shards at a URL are read for the probe as they will be; a cache that is cold may take longer")
    return notes


def estimate_extraction(job: FeaturesJob, /) -> Estimate:
    """Check and estimate `features_job`; errors are its own."""
    begin, setup, out = time.perf_counter(), job.setup, job.out
    model, scoring, made = prepare_extraction(job)
    missing = lacking_shards(setup.data, out, made)
    if not missing:
        return finished("features", out / "part-00000.parquet")
    ranks = setup.ranks
    with ShardScorer(setup.data, model, scoring, device_id=ranks.local) as scorer:
        share = sum(map(scorer.rows_of, missing[ranks.rank :: ranks.world_size]))
        few = min(len(setup.data), scoring.batch_size, FEW)
        seconds = seconds_of(scorer.head, few)
        start = time.perf_counter() - begin
        more = min(len(setup.data), max(few, int(few * LIMIT / 2 / max(seconds, 1e-3))))
        begin = time.perf_counter()
        scored = len(next(iter(scorer.head(more).values())))
        seconds = time.perf_counter() - begin
    notes = place_notes(setup, ranks)
    if len(missing) < scorer.shards:
        notes.append(f"{out}: {scorer.shards - len(missing)} of {scorer.shards} parts are there and would be kept")
    if job.engine != "local":
        notes.append("with Ray: time of one worker on this machine; divide it by the workers")
    basis = f"measured: {scored} rows in {seconds:.2f} s; × {share} rows"
    stages = Stage("start", start, "measured: until the first rows"), Stage("scoring", seconds / scored * share, basis)
    return Estimate("features", out, stages, tuple(notes))
