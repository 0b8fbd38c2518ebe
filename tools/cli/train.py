"""`drawstream train`: the reference loop."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from drawstream.tools.cli import options
from drawstream.tools.experiments import METRICS, shown_metric
from drawstream.tools.runs import FEW, MANY, SOME, argument, finish, option, pick
from drawstream.tools.training.methods import METHODS, method_names


@dataclass(frozen=True, kw_only=True)
class TrainOptions(
    options.TrainedOptions,
    options.ClassesOptions,
    options.RecipeOptions,
    options.EvaluationOptions,
    options.LossOptions,
    options.WhereOptions,
    options.JoinOptions,
    options.FrozenOptions,
    options.WatchedOptions,
):
    """Options of `train`."""

    catalog: list[str] = argument(options.CATALOG, [])
    mixture: Path | None = option(
        None, "Draw from the sources of this mixture.toml with its shares; no catalog beside it."
    )
    test: str | None = option(None, "Report on this catalog; it never chooses.")
    sampler: str | None = option(
        None,
        "Draw by a sampler.json, a schedule, weights (.csv, .parquet, .npy, .json, …), a method "
        f"({', '.join(method_names())}), or your own module:factory. By default uniformly.",
        known=method_names,
    )
    budget: float = option(1.0, "Train for this part of the full run, in (0, 1].", within=FEW)
    paper: bool = option(False, "Draw p and c as in the paper's text, not as in its authors' code.")
    uniform_epochs: int | None = option(None, "Draw uniformly in the first epochs of p, c and rais; 1.", within=SOME)
    no_smoothing: bool = option(
        False, "Leave out the mean that p and c add to each row's importance.", "--no-smoothing"
    )
    last_only: bool = option(
        False, "Draw p and c by the last epoch with a row, not by the mean over its visits.", "--last-only"
    )
    full_epochs: bool = option(
        False, "Give osgd B N rows in all epochs, not all rows in B of the epochs.", "--full-epochs"
    )
    fall: float | None = option(
        None, "Let a score of soft-cap fall by this many standard deviations per draw; 1.", within=FEW
    )
    balance: float = option(
        0.0, "Draw the classes of any sampler more alike: 0 as it has them, 1 each alike.", within=(0, 1)
    )
    effective_beta: float = option(
        0.9999, "Beta of effective-number: 0 is uniform, towards 1 classes are alike.", within=(0, 1)
    )
    defer_until: int | None = option(
        None, "First balanced epoch of deferred and of --loss drw; by default four fifths of them.", within=SOME
    )
    repeat_threshold: float = option(
        0.001, "Share of the images below which repeat-factors repeats a class.", within=(0, 1)
    )
    refresh: int | None = option(
        None, "Epochs between two fits of clean to what this training has seen; 3.", within=(1, 10**6)
    )
    clean_score: Literal["margin", "loss"] | None = option(None, "Score labels of clean by this average; margin.")
    per_class: bool = option(False, "Fit clean to the scores of each class, not of all rows.", "--per-class")
    table: Path | None = option(None, "Read the sampler's features from this table.")
    column: str | None = option(
        None, "Column of a file of weights (weight), or of the table: rho's (loss), soft-cap's or coreset-column's."
    )
    mode: Literal["stratified", "multinomial", "subset"] = option("stratified", "Mode of a sampler's stream.")
    track: Path | None = option(
        None, "Write a feature table of averages over this training to this folder, at no extra pass."
    )
    track_grand: bool = option(
        False, "Also track GraNd, the gradient norm of the last layer over the first epochs: 12 bytes an image more."
    )
    crop_filter: Path | None = option(None, "Choose the crops of each step by this sampler.json.")
    score_weights: Path | None = option(
        None, "Weights of the model that scores those crops, or that embeds for coreset-k_center."
    )
    score_model: str | None = option(None, "Name of that model, if it is another than --model.")
    crop_factor: int | None = option(
        None,
        "Crops to draw for each one trained on; 2 with --crop-filter. Without it: rows to draw uniformly, of which the "
        "sampler keeps a part in each step; by default it draws by itself.",
        within=FEW,
    )
    save_every: str | None = option(
        "10m",
        "Write a checkpoint after this time (10m) or this many steps (500), and after every epoch.",
        decides=False,
    )
    max_time: str | None = option(
        None, "Save and end with status 75 after this time, as 3h30m; the same command goes on.", decides=False
    )
    # the next three decide what becomes of a bad image: a run that was stopped by one goes on with others
    checksum: Literal["always", "first", "never"] = option("always", "Check images against the catalog.", decides=False)
    on_bad: Literal["raise", "substitute"] = option(
        "raise", "On a bad image, raise an error or substitute another draw.", decides=False
    )
    max_bad: int = option(100, "Most images to substitute.", within=MANY, decides=False)
    quarantine: Path | None = option(None, "Do not read the images of this list of `drawstream verify`.")


def train(given: TrainOptions) -> None:
    """Train with the reference loop, uniformly or with a sampler; a killed run goes on when started again.

    On SIGTERM and SIGUSR1 it saves after the step and ends; the second signal ends it at once (docs/preemption.md).

    Example: drawstream train data/train -o runs/uniform --held-out data/holdout --test data-test --epochs 20

    Several sources with shares: drawstream train --mixture mixture.toml -o runs/mixture (docs/mixing.md)

    Three tenths of that run: … --sampler p --budget 0.3 --schedule linear --augment ricap

    On several GPUs or processes: torchrun --nproc-per-node 4 -m drawstream.tools.cli train … --device gpu
    """
    from drawstream.pipeline.reading import Reading
    from drawstream.tools.estimate import estimate_training
    from drawstream.tools.jobs import TrainingJob, train_job
    from drawstream.tools.training import join_ranks
    from drawstream.tools.training.checkpoints import Saving
    from drawstream.tools.training.methods import (
        Balance,
        Budget,
        Clean,
        Sampling,
        filtering_of,
        read_mixture,
        sampler_of,
    )

    method = METHODS.get(given.sampler or "")
    embedding = given.score_weights if method and "score_weights" in method.options else None
    scoring = None if embedding else given.score_weights
    filtering = filtering_of(given.crop_filter, scoring, given.score_model, given.crop_factor)
    budget = pick(Budget, given, share=given.budget, smoothing=not given.no_smoothing)
    recipe = given.recipe()
    ranks = join_ranks(given.device)
    mixture = None if given.mixture is None else read_mixture(given.mixture)
    if (mixture is None) != bool(given.catalog):
        raise ValueError("a training takes catalogs, or a --mixture that names them: give one of the two")
    if mixture is not None and given.sampler is not None:
        raise ValueError(f"each source of a mixture has its own sampler: leave out --sampler {given.sampler}")
    data = {} if mixture is None else {"catalog": options.place([each.catalog for each in mixture.sources])}
    setup = given.setup(ranks=ranks, reading=pick(Reading, given), **data)
    source: dict[str, Any] = {"sampler": sampler_of(given.sampler), "join": tuple(given.join), "mixture": mixture}
    capped = 1 if filtering or given.crop_factor is None else given.crop_factor
    source |= {"balance": pick(Balance, given), "clean": pick(Clean, given)}
    sampling = pick(Sampling, given, **source, budget=budget, crop_factor=capped, score_weights=embedding)
    saving = Saving.of(given.save_every, given.max_time, signals=True)
    job = TrainingJob(
        setup,
        recipe,
        sampling,
        given.out,
        track=given.track,
        grand=given.track_grand,
        filtering=filtering,
        saving=saving,
        dist_bn=given.dist_bn,
        tta=given.tta,
    )
    record = options.run_job(given, ranks, job, estimate_training, train_job)
    if record is not None:
        finish(record, given.json_path, f"{_summary(record)}: {given.out}")


def _summary(record: dict[str, Any]) -> str:
    text = f"{record['method']}, {record['recipe']['epochs']} epochs in {record['seconds']:.1f} s"
    text += f", {record['wait_share']:.1%} of it waiting for data; effective budget {record['effective_budget']:.3f}"
    if record.get("clean"):
        found = record["clean"][-1]
        text += f"; {found['wrong_share'] or 0:.1%} of the labels are probably wrong"
        text += ", too few to draw other than uniformly" if found["uniform"] else ""
    if record["bad_samples"]:
        text += f"; {len(record['bad_samples'])} bad images were substituted (listed in run.json)"
    if "result" in record:
        r = record["result"]
        metric, *others = r["metrics"]
        found = [f"{shown_metric(r['metrics'][each], each)} {METRICS[each].split()[0]}" for each in reversed(others)]
        more = ", ".join(found)
        last = f"last epoch {shown_metric(r['last'], metric)}" + (f" ({more})" if more else "")
        if r.get("shots"):
            groups = [f"{name} {value:.2f} %" for name, value in r["shots"]["accuracy"].items() if value is not None]
            text = f"{', '.join(groups)} ({r['shots']['rule']}); {text}"
        text = f"{r['set']} {METRICS[metric]}: {last}, best epoch {shown_metric(r['best'], metric)}; {text}"
    return text
