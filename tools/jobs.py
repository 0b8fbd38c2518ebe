"""The steps of the main job as functions: train, score, search; the command line and the demo call the same ones.

Each writes one folder, goes on where a killed run stopped, and gives back the finished record when it is there already.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors.torch import save
from torch import Tensor, nn

from drawstream.features import FeatureTable, Scoring, ShardScorer, Tracker
from drawstream.features.cluster import write_shards_on_ray
from drawstream.features.extraction import missing_shards, write_shards
from drawstream.features.scoring import provenance
from drawstream.pipeline import CropFilter, Loader
from drawstream.pipeline.staging import claimed
from drawstream.search import Objective, search_swift
from drawstream.tools.features import tell_notes
from drawstream.tools.files import write_atomically
from drawstream.tools.hooks import Hook, Hooks
from drawstream.tools.progress import Progress
from drawstream.tools.runs import read_record, write_record
from drawstream.tools.training.filtering import Filtering
from drawstream.tools.training.finetune import FineTune
from drawstream.tools.training.loop import Epoch, Recipe, Run, train
from drawstream.tools.training.methods import Plan
from drawstream.tools.training.models import load_weights
from drawstream.tools.training.sampling import Sampling as Sampling
from drawstream.tools.training.setup import Setup


@dataclass(frozen=True, slots=True)
class Training:
    """A training run, opened and checked, before its first step.

    Attributes:
        setup: Data and model.
        recipe: How to train; its epochs are those of the plan.
        planned: What is drawn, and what is done in the loop.
        settings: What its record says of it.
        loader: Of the training stream.
        crops: Chooses among the crops that the loader gives, if anything does.
        evaluate: Loaders of the held-out sets.
        full: Rows that a full run trains on.
        record: Of the finished run, where there is one.
    """

    setup: Setup
    recipe: Recipe
    planned: Plan
    settings: dict[str, Any]
    loader: Loader
    crops: CropFilter | None
    evaluate: dict[str, Loader]
    full: int
    record: dict[str, Any] | None = None

    def run(
        self,
        model: nn.Module,
        checkpoint: Path,
        /,
        *,
        tracker: Tracker | None = None,
        every: int = 1,
        on_epoch: Callable[[Epoch], None] | None = None,
        on_step: Callable[[float], None] | None = None,
    ) -> Run:
        """Train; arguments as `train`'s."""
        return train(
            model,
            self.loader if self.crops is None else self.crops,
            self.recipe,
            evaluate=self.evaluate,
            select=next(iter(self.evaluate), None),
            checkpoint=checkpoint,
            ranks=self.setup.ranks,
            tracker=tracker,
            every=every,
            method=replace(self.planned.method, mix=self.setup.mix(self.recipe.seed)),
            on_epoch=on_epoch,
            on_step=on_step,
        )

    def close(self) -> None:
        """Free the loaders."""
        for each in (self.loader, *self.evaluate.values()):
            each.close()


def prepare_training(
    setup: Setup,
    recipe: Recipe,
    sampling: Sampling,
    out: Path,
    /,
    *,
    method: str | None = None,
    track: Path | None = None,
    filtering: Filtering | None = None,
) -> Training:
    """Open and check what `train_job` runs; arguments and errors are its own. Writes nothing."""
    evaluate = setup.evaluation_loaders()
    factor = filtering.factor if filtering else 1
    rows = crop_rows(sampling.table, setup)
    if rows is not None and track is not None:
        raise ValueError(f"a tracker follows whole images, but {sampling.table} holds crops: leave out one of them")
    loader = setup.training_loader(factor, rows=rows)
    planned = sampling.plan(setup, recipe, factor=factor)
    loader.replace_stream(planned.stream)
    full, recipe = len(setup.data) * recipe.epochs, replace(recipe, epochs=planned.epochs)
    crops = filtering.apply(setup, loader) if filtering else None
    settings = {
        "method": method or sampling.method,
        "seed": recipe.seed,
        "model": setup.model,
        "catalog": setup.catalog,
        "catalog_fingerprint": setup.data.fingerprint,
        "sampler": sampling.sampler,
        "features": sampling.table,
        "join": list(sampling.join),
        "frozen": sampling.frozen,
        "sampling": sampling.as_dict(),
        "augment": setup.augment,
        "stream": loader.stream.fingerprint,
        "transform": _plain(setup.transforms[0].as_dict()),
        "batch_size": setup.batch_size,
        "recipe": asdict(recipe),
        "evaluation": {name: path for name, path in (("held_out", setup.held_out), ("test", setup.test)) if path},
        "tracked": track,
        "crop_filter": filtering.as_dict() if filtering else None,
    }
    training = Training(setup, recipe, planned, settings, loader, crops, evaluate, full)
    record_path = out / "run.json"
    if not record_path.exists():
        return training
    keys = ("seed", "model", "catalog_fingerprint", "stream", "recipe", "sampling", "augment")
    record = finished_record(record_path, "train", settings, keys)
    if track is not None and not record.get("tracked"):
        raise ValueError(f"{record_path}: this run is finished and was not tracked: give another output folder")
    if record.get("crop_filter") != settings["crop_filter"]:  # records of 0.1.0 have none
        raise ValueError(f"{record_path}: a finished run with another crop filter: give another output folder")
    return replace(training, record=record)


def train_job(
    setup: Setup,
    recipe: Recipe,
    sampling: Sampling,
    out: Path,
    /,
    *,
    method: str | None = None,
    track: Path | None = None,
    filtering: Filtering | None = None,
    every: int = 1,
    hooks: Sequence[Hook] = (),
) -> dict[str, Any]:
    """Train once; write `run.json`, `last.safetensors` and, with a held-out set, `best.safetensors`.

    Args:
        setup: Data and model.
        recipe: How to train; its seed also seeds the stream.
        sampling: What is drawn, and how much of the full run that the recipe describes.
        out: Folder of the run.
        method: Name in reports; by default the sampling's.
        track: Folder for a feature table of averages over this training.
        filtering: Chooses among the crops of each step; the stream then draws `factor` times as many.
        every: Evaluate after each `every`-th epoch, and after the last.
        hooks: Follow the run.

    Raises:
        ValueError: Inputs do not fit each other, or `out` holds another run.
    """
    begin = time.perf_counter()
    training = prepare_training(setup, recipe, sampling, out, method=method, track=track, filtering=filtering)
    if training.record is not None:
        return training.record
    recipe, settings, loader = training.recipe, training.settings, training.loader
    tracker = Tracker(len(setup.data)) if track is not None else None
    model = setup.build(recipe.seed)
    watch = Hooks(out, hooks, writes=setup.ranks.writes)
    writing = claimed(out) if setup.ranks.writes else nullcontext()
    with writing, Progress(f"train {settings['method']}", "epochs", quiet=not setup.ranks.writes) as progress:
        watch.begin("train", settings)

        def show(epoch: Epoch) -> None:
            progress.update(epoch.epoch + 1, recipe.epochs, _epoch_note(epoch, loader))
            watch.step(epoch.epoch + 1, recipe.epochs, _epoch_values(epoch, loader))

        def step(done: float) -> None:
            progress.update(done, recipe.epochs)

        run = training.run(model, out / "checkpoint.pt", tracker=tracker, every=every, on_epoch=show, on_step=step)
    results = _results(run, time.perf_counter() - begin) | {
        "forward": run.forward + training.planned.forward,
        "backward": run.backward,
        "effective_budget": run.effective_budget(training.full, before=training.planned.forward),
        "count_entropy": run.count_entropy,
    }
    met = {bad.sample_id: asdict(bad) for rank in setup.ranks.gather(loader.bad_samples) for bad in rank}
    results |= {"loader": loader.metrics, "bad_samples": [met[sample] for sample in sorted(met)]}
    results |= {} if training.crops is None else {"filtered": training.crops.metrics}
    if setup.ranks.writes:
        save_weights(out / "last.safetensors", model.state_dict())
        if run.best_state:
            save_weights(out / "best.safetensors", run.best_state)
        if tracker is not None and track is not None:
            tracker.export(track, setup.data, model_name=setup.model)
        watch.end(write_record(out / "run.json", "train", {**settings, **results}))
        (out / "checkpoint.pt").unlink(missing_ok=True)
    setup.ranks.wait()
    training.close()
    return read_record(out / "run.json", "train")


class Extraction(NamedTuple):
    """An extraction, opened and checked: model, what to score, and the provenance of the parts."""

    model: nn.Module
    scoring: Scoring
    made: dict[str, Any]


def prepare_extraction(setup: Setup, weights: Path, scoring: Scoring | None, /, *, engine: str) -> Extraction:
    """Open and check what `features_job` runs; arguments and errors are its own. Writes nothing."""
    kind = engine.partition(":")[0]
    if kind not in ("local", "ray") or (kind == "local" and engine != "local"):
        raise ValueError(f"the engine must be local, ray or ray:ADDRESS, but got {engine!r}")
    if kind == "ray" and setup.ranks.world_size > 1:
        raise ValueError("the Ray engine starts its own workers: start it without torchrun")
    model = setup.build(0)
    load_weights(model, weights)
    scoring = scoring or Scoring()
    scoring = replace(scoring, device=setup.device, transform=scoring.transform or setup.transforms[1])
    return Extraction(model, scoring, provenance(setup.data, model, scoring, model_name=setup.model))


def features_job(
    setup: Setup, weights: Path, out: Path, scoring: Scoring | None = None, /, *, engine: str = "local"
) -> FeatureTable:
    """Score every row of the catalog with a trained model; one Parquet part per shard in `out`.

    Args:
        setup: Data, model and device; its ranks share the shards.
        weights: Of the model.
        out: Folder of the table.
        scoring: What to score, by default all measures; its device is the setup's, and its transform where it has none.
        engine: `local`; `ray`, the cluster of `RAY_ADDRESS` or a new one on this machine; or `ray:ADDRESS`.

    Raises:
        ValueError: As `extract` and `extract_on_ray`.
        ClusterError: As `extract_on_ray`.
    """
    ranks = setup.ranks
    extraction = prepare_extraction(setup, weights, scoring, engine=engine)
    model, scoring, made = extraction.model, extraction.scoring, extraction.made
    missing = missing_shards(setup.data, out, made)
    if engine != "local":
        with Progress("features", "rows") as progress:
            write_shards_on_ray(
                setup.data,
                model,
                scoring,
                missing,
                out,
                made,
                address=engine.partition(":")[2] or None,
                progress=lambda p: progress.update(p.done, p.rows),
            )
        return FeatureTable.open(out)
    ranks.wait()  # until all have looked, so that they divide the same list
    with (
        ShardScorer(setup.data, model, scoring, device_id=ranks.local) as scorer,
        Progress("features", "rows", quiet=not ranks.writes) as progress,
    ):
        mine = missing[ranks.rank :: ranks.world_size]
        write_shards(scorer, mine, out, made, progress=lambda p: progress.update(p.done, p.rows))
        ranks.wait()
        progress.update(scorer.rows, scorer.rows)
    return FeatureTable.open(out)


def crop_rows(table: Path | None, setup: Setup, /) -> FeatureTable | None:
    """The feature table of a folder where its rows are crops, which a loader must be told; else None."""
    opened = None if table is None else FeatureTable.open(table, catalog=setup.data)
    return None if opened is None or opened.windows is None else opened


def fine_tuning(
    setup: Setup,
    start: Path,
    search: Recipe,
    confirm: Recipe,
    /,
    *,
    share: float,
    scratch: bool,
    rows: FeatureTable | None = None,
) -> FineTune:
    """The built-in objective, over the setup's held-out set.

    Args:
        setup: Data and model.
        start: Weights from which candidates fine-tune.
        search: Recipe of the fine-tuning.
        confirm: Recipe of the second run.
        share: Draws of an epoch of the fine-tuning, as a share of the samples.
        scratch: Whether the confirmation trains from scratch.
        rows: Crops that the candidates draw from; None: whole samples.

    Raises:
        ValueError: There is no held-out set, or the weights do not fit the model.
    """
    held_out = setup.evaluation_loaders().get("held_out")
    if held_out is None:
        raise ValueError("the search needs a held-out catalog to score candidates on: give --held-out")
    model = setup.build(0)
    load_weights(model, start)
    data = (setup.training_loader(rows=rows), held_out, setup.build, model.state_dict())
    return FineTune(*data, search, confirm, share=share, scratch=scratch, mix=setup.mix(search.seed))


class Searching(NamedTuple):
    """A search, opened and checked: columns and provenance of its table, and its finished record, where there is one.

    `settings` are what its record says of it.
    """

    columns: dict[str, NDArray[np.float32]]
    provenance: dict[str, Any]
    settings: dict[str, Any]
    record: dict[str, Any] | None


def prepare_search(
    setup: Setup, table_path: Path, out: Path, /, *, seed: int, options: dict[str, Any], join: Sequence[Path] = ()
) -> Searching:
    """Open and check what `search_job` runs; arguments and errors are its own. Writes nothing."""
    table = FeatureTable.open(table_path, join=join, catalog=setup.data)
    tell_notes(table)
    names = list(dict.fromkeys([*options.get("features", ("loss", "entropy")), *_mass(options)]))
    settings = {
        "seed": seed,
        "catalog": setup.catalog,
        "features": table_path,
        "join": list(join),
        "features_fingerprint": table.fingerprint,
        "options": _plain(options),
    }
    record, path = None, out / "search.json"
    if path.exists():
        record = finished_record(path, "search", settings, ("seed", "features_fingerprint", "options"))
    columns = {} if record else table.columns(*names)
    return Searching(columns, {**table.provenance, "features": table.fingerprint}, settings, record)


def search_job(
    setup: Setup,
    table_path: Path,
    objective: Objective,
    out: Path,
    /,
    *,
    seed: int,
    options: dict[str, Any],
    join: Sequence[Path] = (),
    running: Mapping[str, Any] | None = None,
    hooks: Sequence[Hook] = (),
) -> dict[str, Any]:
    """Search a Swift Sampler; write `study.db`, `sampler.json` and `search.json`.

    Args:
        setup: Data; its catalog must be the table's.
        table_path: Folder of the feature table.
        objective: Scores probabilities.
        out: Folder of the search.
        seed: Of proposals and runs.
        options: Keywords of `search_swift`.
        join: Files whose columns are joined to the table.
        running: Keywords of `search_swift` that change nothing that it finds: storage, study_name, workers, engine.
        hooks: Follow the search.
    """
    prepared = prepare_search(setup, table_path, out, seed=seed, options=options, join=join)
    if prepared.record is not None:
        return prepared.record
    settings, record_path = prepared.settings, out / "search.json"
    out.mkdir(parents=True, exist_ok=True)
    how = dict(running or {})
    how["storage"] = how.get("storage") or f"sqlite:///{out / 'study.db'}"
    begin = time.perf_counter()
    watch = Hooks(out, hooks)
    watch.begin("search", settings)
    with Progress("search", "runs") as progress:

        def show(event: dict[str, Any]) -> None:
            searching = event["stage"] == "search"
            values = {"value" if searching else "confirmation": event["value"], "best": event.get("best")}
            watch.step(event["done"], event["trials"] if searching else event["runs"], values)
            if event["stage"] == "search":
                progress.update(
                    event["done"], event["trials"], f"best so far {event['best']:.2f}" if event["best"] else ""
                )
            else:
                progress.update(event["done"], event["runs"], "confirming")

        result = search_swift(
            prepared.columns,
            objective,
            seed=seed,
            progress=show,
            provenance=prepared.provenance,
            **options,
            **how,
        )
    result.sampler.save(out / "sampler.json")
    record = write_record(
        record_path,
        "search",
        {
            **settings,
            "sampler": out / "sampler.json",
            "winner": result.winner,
            "message": result.message,
            "trials": [asdict(trial) for trial in result.trials],
            "confirmation": [asdict(run) for run in result.confirmation],
            "seconds": time.perf_counter() - begin,
            "spent": result.spent,
        },
    )
    watch.end(record)
    return record


def _mass(options: dict[str, Any]) -> list[str]:
    mass = options.get("mass", "grad_norm")
    return [mass] if mass and options.get("transform", "cgf") == "cgf" else []


def _results(run: Run, wall: float) -> dict[str, Any]:
    """What a finished run is worth: on the test set where there is one, else on the held-out set."""
    sets = list(run.history[-1].accuracy)
    results: dict[str, Any] = {
        "history": [asdict(epoch) for epoch in run.history],
        "seconds": run.seconds,
        "wall_seconds": wall,
        "wait_share": run.wait_share,
    }
    if sets:
        name = "test" if "test" in sets else sets[0]
        results["result"] = {"set": name, "last": run.last(name), "best": run.best(name), "best_epoch": run.best_epoch}
    return results


def finished_record(path: Path, kind: str, settings: dict[str, Any], keys: tuple[str, ...], /) -> dict[str, Any]:
    """The record of a finished job.

    Raises:
        ValueError: It was done with other settings at one of `keys`.
    """
    record = read_record(path, kind)
    for key in keys:
        if record.get(key, settings[key]) != settings[key]:  # records of earlier versions lack some keys
            raise ValueError(
                f"{path}: a finished run with {key} {record[key]!r}, not {settings[key]!r}: give another output folder"
            )
    return record


def save_weights(path: Path, state: dict[str, Tensor], /) -> None:
    """Write a state dict as safetensors."""
    tensors = {name: value.detach().cpu().contiguous() for name, value in state.items()}
    with write_atomically(path) as temporary:
        temporary.write_bytes(save(tensors))


def _epoch_note(epoch: Epoch, loader: Loader) -> str:
    metrics = loader.metrics
    accuracy = [f"{name.replace('_', '-')} {value:.2f} %" for name, value in epoch.accuracy.items()]
    speed = f"{metrics['images_per_second']:,.0f} images/s, {metrics['wait_share']:.1%} waiting"
    bad = [f"{metrics['bad_samples']} bad"] if metrics["bad_samples"] else []
    return ", ".join([f"loss {epoch.loss:.3f}", *accuracy, speed, *bad])


def _epoch_values(epoch: Epoch, loader: Loader) -> dict[str, float]:
    accuracy = {f"accuracy/{name}": value for name, value in epoch.accuracy.items()}
    speed = {name: loader.metrics[name] for name in ("images_per_second", "wait_share")}
    return {"loss": epoch.loss, "lr": epoch.lr, "seconds": epoch.seconds, **accuracy, **speed}


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    """As JSON gives it back."""
    return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}
