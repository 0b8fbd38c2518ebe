"""Training as a job: data, stream and method checked first, then the loop, its journal and its record."""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch import nn

from drawstream.features import CleanSampler, Tracker, named_classes
from drawstream.features.table import part_path
from drawstream.pipeline import CropFilter, Loader, plain
from drawstream.pipeline.shards import Catalog, claimed
from drawstream.search.auto import of_first
from drawstream.tools.experiments import shown_metric
from drawstream.tools.runs import (
    Hook,
    Hooks,
    Progress,
    finished_record,
    model_identity,
    quarantine_hash,
    read_record,
    require_there,
    reuse,
    training_identity,
    write_record,
)
from drawstream.tools.training import (
    Epoch,
    Evaluation,
    Recipe,
    Run,
    Setup,
    ShotGroups,
    crop_rows,
    overrides,
    refuse_unfit,
    save_weights,
    train,
)
from drawstream.tools.training.checkpoints import AFTER_EPOCHS, Saving, remove_checkpoints
from drawstream.tools.training.methods import Filtering, Sampling, TrainingPlan, make_loss


@dataclass(frozen=True)
class TrainingJob:
    """One training.

    Attributes:
        setup: Data and model.
        recipe: How to train; its seed also seeds the stream.
        sampling: What is drawn.
        out: Folder of the results.
        method: Name in reports; by default the sampling's.
        track: Folder for a feature table of averages over this training.
        grand: Also track GraNd, the norm of the last layer's gradient over the first epochs.
        filtering: Chooses among the crops of a step; the stream draws `factor` times as many.
        criterion: Makes the loss, from the model that is trained; None: the recipe's.
        every: Epochs between evaluations; there is one after the last.
        saving: When checkpoints are written within epochs, and when the training ends early.
        dist_bn: Whose statistics of BatchNorm are evaluated, see `Evaluation`.
        tta: What an image's outputs are, see `Evaluation`.
    """

    setup: Setup
    recipe: Recipe
    sampling: Sampling
    out: Path
    method: str | None = None
    track: Path | None = None
    grand: bool = False
    filtering: Filtering | None = None
    criterion: Callable[[nn.Module], nn.Module | None] | None = None
    every: int = 1
    saving: Saving = AFTER_EPOCHS
    dist_bn: Literal["reduce", "broadcast", "off"] = "reduce"
    tta: Literal["none", "flip"] = "none"


@dataclass(frozen=True, slots=True)
class Training:
    """A training, opened and checked, before its first step.

    Attributes:
        recipe: The job's, with the epochs of this budget.
        planned: What is drawn, and what is done in the loop.
        settings: What its record says of it, its identity among it.
        crops: Chooses among the crops that the loader gives, if anything does.
        full: Rows that a full run trains on.
        record: Of the finished job.
    """

    job: TrainingJob
    recipe: Recipe
    planned: TrainingPlan
    settings: dict[str, Any]
    model: nn.Module
    loader: Loader
    crops: CropFilter | None
    evaluation: Evaluation
    full: int
    record: dict[str, Any] | None

    def run(
        self,
        checkpoint: Path,
        /,
        *,
        saving: Saving = AFTER_EPOCHS,
        on_epoch: Callable[[Epoch], None] | None = None,
        on_step: Callable[[float], None] | None = None,
    ) -> Run:
        """Train; arguments as `train`'s."""
        return train(
            self.model,
            self.loader if self.crops is None else self.crops,
            self.recipe,
            parts=self.planned.parts,
            evaluation=self.evaluation,
            checkpoint=checkpoint,
            identity=self.settings["identity"],
            ranks=self.job.setup.ranks,
            saving=saving,
            on_epoch=on_epoch,
            on_step=on_step,
        )

    def close(self) -> None:
        """Free the loaders."""
        for each in (self.loader, *self.evaluation.sets.values()):
            each.close()


def prepare_training(job: TrainingJob, /) -> Training:
    """Open and check what `train_job` runs; errors are its own. Writes nothing."""
    job = replace(job, sampling=job.sampling.as_searched())
    setup, recipe, sampling, filtering = job.setup, job.recipe, job.sampling, job.filtering
    sampling.refuse_unused(recipe.loss)
    evaluation = Evaluation(setup.evaluation_loaders(), job.every, job.dist_bn, job.tta)
    factor = filtering.factor if filtering else 1
    rows = crop_rows(sampling.table, setup)
    if rows is not None and job.track is not None:
        raise ValueError(f"a tracker follows whole images, but {sampling.table} holds others: leave out one of them")
    loader = setup.training_loader(factor, rows=rows)
    planned = sampling.plan(setup, recipe, factor=factor)
    loader.replace_stream(planned.stream)
    named = overrides(recipe, setup)
    kept = sampling.rows(setup)
    full, recipe = sampling.images(setup, kept) * recipe.epochs, recipe.shortened(planned.epochs)
    crops = filtering.apply(setup, loader) if filtering else None
    own = isinstance(planned.parts.learner, CleanSampler) and not job.grand  # it tracks for itself
    tracker = None if own else _tracker(job)
    model = setup.build(recipe.seed)
    mix = setup.mix(recipe.seed, selected=planned.parts.selector is not None)
    parts = replace(planned.parts, mix=mix, mix_first=setup.mix_order == "paper", tracker=tracker)
    about: dict[str, Any] = {"labels": None if kept is None else sampling.labels(setup)[kept]}
    about["defer_until"] = sampling.balance.defer_until
    loss = job.criterion(model) if job.criterion else make_loss(recipe.loss, model, setup, recipe, **about)
    planned = replace(planned, parts=replace(parts, criterion=loss))
    refuse_unfit(recipe, planned.parts, setup.data.label_kind)
    identity = training_identity(
        model,
        loader if crops is None else crops,
        recipe,
        parts=planned.parts,
        evaluation=evaluation,
        about={
            **model_identity(setup.model),
            "augment": setup.augment,
            **sampling.identity(setup),
            "crop_model": None if filtering is None else model_identity(filtering.model or setup.model),
            "tracked": job.track is not None,
            "quarantine": quarantine_hash(setup.reading.quarantine, setup.data),
        },
    )
    settings = {
        "method": job.method or (sampling.method if sampling.sampler or recipe.loss == "ce" else recipe.loss),
        "seed": recipe.seed,
        **{name: getattr(setup, name) for name in ("model", "catalog", "augment", "global_batch")},
        "catalog_fingerprint": setup.data.fingerprint,
        "backend": setup.backend,
        "sampler": sampling.sampler,
        "features": sampling.table,
        "join": list(sampling.join),
        "frozen": sampling.frozen,
        "sampling": sampling.as_dict(),
        "stream": loader.stream.fingerprint,
        "transform": plain(setup.transforms[0].as_dict()),
        "recipe": recipe.settings(),
        "named_recipe": named,
        "evaluation": setup.judges,
        "tracked": job.track,
        "crop_filter": filtering.as_dict() if filtering else None,
        "identity": identity,
    }
    files = ("last.safetensors", *(["best.safetensors"] if evaluation.sets else []))
    record = finished_record(job.out / "run.json", "train", identity, files)
    if record is not None and job.track is not None:
        _require_tracked(job.out, record, job.track, len(setup.data.shards))
    return Training(job, recipe, planned, settings, model, loader, crops, evaluation, full, record)


def _tracker(job: TrainingJob) -> Tracker | None:
    """The tracker of a job that has a folder for its table."""
    if job.track is None:
        if job.grand:
            raise ValueError("--track-grand adds a column to a tracked table: give --track too")
        return None
    if job.grand and job.recipe.compile:
        raise ValueError("--track-grand watches the last layer, which --compile hides: leave out one of them")
    data = job.setup.data
    data.require_labels("--track")
    classes = named_classes(data.num_classes) if data.label_kind == "class" else 0
    return Tracker(len(data), classes=classes, kind=data.label_kind, grand=job.grand)


def train_job(job: TrainingJob, /, hooks: Sequence[Hook] = ()) -> dict[str, Any]:
    """Train once; write `run.json`, `last.safetensors` and, with a held-out set, `best.safetensors`.

    Raises:
        ValueError: Inputs do not fit each other, or `out` holds another run.
    """
    begin = time.perf_counter()
    training = prepare_training(job)
    out, ranks = job.out, job.setup.ranks
    path = out / "run.json"
    if training.record is not None:
        training.close()
        return reuse(path, training.record, quiet=not ranks.writes)
    settings, loader, model, epochs = training.settings, training.loader, training.model, training.recipe.epochs
    learner = training.planned.parts.learner
    tracker = training.planned.parts.tracker or (learner.tracker if isinstance(learner, CleanSampler) else None)
    watch = Hooks(out, hooks, writes=ranks.writes)
    title = f"train {settings['method']}"
    with ExitStack() as writing, Progress(title, "epochs", quiet=not ranks.writes) as progress:
        of_first(ranks, lambda: writing.enter_context(claimed(out)))
        watch.begin("train", settings)

        def show(epoch: Epoch) -> None:
            progress.update(epoch.epoch + 1, epochs, _epoch_note(epoch, loader))
            watch.step(epoch.epoch + 1, epochs, _epoch_values(epoch, loader))

        def step(done: float) -> None:
            progress.update(done, epochs)

        run = training.run(out / "checkpoint.pt", saving=job.saving, on_epoch=show, on_step=step)
    before = training.planned.forward
    results = _results(run, time.perf_counter() - begin, job.setup.data.classes) | {
        "forward": run.forward + before,
        "backward": run.backward,
        "effective_budget": run.effective_budget(training.full, before=before),
        "count_entropy": run.count_entropy,
    }
    results |= {"clean": learner.refits} if isinstance(learner, CleanSampler) else {}
    results |= _class_shares(run, training.job)
    if "result" in results and "class_rows" in results:
        groups = ShotGroups.of(results["class_rows"])
        by_class = list(results["result"]["classes"].values())
        results["result"]["shots"] = None if groups is None else groups.as_dict(by_class)
    results |= _of_sources(run, job.setup.data)
    met = {bad.sample_id: asdict(bad) for rank in ranks.gather(loader.bad_samples) for bad in rank}
    results |= {"loader": _of_all(ranks.gather(loader.metrics)) | {"bad_samples": len(met)}}
    results |= {"bad_samples": [met[sample] for sample in sorted(met)]}
    results |= {} if training.crops is None else {"filtered": training.crops.metrics}
    work = getattr(training.planned.parts.criterion, "work", None)
    results |= {} if work is None else {"extra_forward_backward": work.tolist()}
    if ranks.writes:
        save_weights(out / "last.safetensors", model.state_dict())
        if run.best_state:
            save_weights(out / "best.safetensors", run.best_state)
        if tracker is not None and job.track is not None:
            tracker.export(job.track, job.setup.data, model_name=job.setup.model)
        watch.end(write_record(path, "train", {**settings, **results}))
        remove_checkpoints(out / "checkpoint.pt")
    ranks.wait()
    training.close()
    return read_record(path, "train")


def _require_tracked(out: Path, record: Mapping[str, Any], track: Path, parts: int) -> None:
    """Refuse a folder that does not hold the table of a finished run; it may have been moved there."""
    run = out / "run.json"
    there = out / record["tracked"]
    if there.exists() and there.resolve() != track.resolve():
        raise ValueError(f"{run}: this training is finished, and its --track was {there}: name that folder, or copy it")
    for part in range(parts):
        require_there(part_path(track, part), run)


def _class_shares(run: Run, job: TrainingJob) -> dict[str, Any]:
    """Return by class the training rows, and how often they were drawn in all epochs; {} without one class a row."""
    labels, where = job.sampling.labels(job.setup), job.sampling.rows(job.setup)
    if labels.ndim != 1:
        return {}
    classes = job.setup.data.num_classes
    drawn = np.bincount(labels, weights=run.counts.numpy(), minlength=classes).astype(np.int64)
    rows = np.bincount(labels, weights=where, minlength=classes).astype(np.int64)
    return {"class_rows": rows.tolist(), "class_drawn": drawn.tolist()}


def _results(run: Run, wall: float, classes: Sequence[str]) -> dict[str, Any]:
    """Return a finished run's results: on the test set if there is one, else on the held-out set."""
    sets = list(run.history[-1].accuracy)
    results: dict[str, Any] = {
        "history": history_of(run),
        "seconds": run.seconds,
        "wall_seconds": wall,
        "wait_share": run.wait_share,
    }
    if sets:
        name = "test" if "test" in sets else sets[0]
        results["result"] = result_of(run, name, classes)
    return results


def _of_sources(run: Run, catalog: Catalog) -> dict[str, Any]:
    """Return of each of several catalogs its rows, its draws over the run, and loss and top-1 of the last epoch."""
    if len(catalog.members) == 1:
        return {}
    draws = np.bincount(catalog.source, run.counts.cpu().numpy(), len(catalog.members)).astype(np.int64).tolist()
    last = run.history[-1].sources
    return {
        "sources": [
            {"name": each.name, "rows": each.rows, **last.get(each.name, {}), "draws": drawn}
            for each, drawn in zip(catalog.members, draws, strict=True)
        ]
    }


def _of_all(metrics: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the metrics of the loaders of all ranks as one: sums, of times too, and the share of waiting in these."""
    found = {name: sum(each[name] for each in metrics) for name in metrics[0]}
    return found | {"wait_share": found["wait_seconds"] / found["seconds"] if found["seconds"] else 0.0}


def history_of(run: Run, /) -> list[dict[str, Any]]:
    """Return the epochs of a run as a record keeps them."""
    kept = [{name: value for name, value in asdict(epoch).items() if name != "classes"} for epoch in run.history]
    return [{name: value for name, value in each.items() if name != "sources" or value} for each in kept]


def result_of(run: Run, name: str, classes: Sequence[str], /) -> dict[str, Any]:
    """Return the results of a run on a set as a record keeps them; `metrics` and `classes` after the last epoch."""
    last = run.history[-1]
    found = {"set": name, "metric": next(iter(last.metrics[name])), "last": run.last(name), "best": run.best(name)}
    found["best_epoch"] = run.best_epoch
    by_class = dict(zip(classes, last.classes[name], strict=True))
    return found | {"metrics": last.metrics[name], "classes": by_class}


def _epoch_note(epoch: Epoch, loader: Loader) -> str:
    metrics = loader.metrics
    main = {name: next(iter(all_.items())) for name, all_ in epoch.metrics.items()}
    accuracy = [f"{name.replace('_', '-')} {shown_metric(value, metric)}" for name, (metric, value) in main.items()]
    speed = f"{metrics['images_per_second']:,.0f} images/s, {metrics['wait_share']:.1%} waiting"
    bad = [f"{metrics['bad_samples']} bad"] if metrics["bad_samples"] else []
    return ", ".join([f"loss {epoch.loss:.3f}", *accuracy, speed, *bad])


def _epoch_values(epoch: Epoch, loader: Loader) -> dict[str, float]:
    found = [(name, key, value) for name, all_ in epoch.metrics.items() for key, value in all_.items()]
    accuracy = {f"{'accuracy' if key == 'top1' else key}/{name}": value for name, key, value in found}
    speed = {name: loader.metrics[name] for name in ("images_per_second", "wait_share")}
    return {"loss": epoch.loss, "lr": epoch.lr, "seconds": epoch.seconds, **accuracy, **speed}
