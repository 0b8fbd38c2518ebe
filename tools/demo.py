"""The demo: the whole main job on real data with label noise, for several seeds, next to ordinary shuffling."""

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from drawstream import pack
from drawstream.pipeline import refuse_other
from drawstream.pipeline.shards import FILE, is_url, printable, stratified_order
from drawstream.pipeline.sources import FASHION_MNIST, ArraySource, Source, open_source
from drawstream.search.swift import Guard, Proposals, runs_of
from drawstream.tools.experiments import Table
from drawstream.tools.jobs import FeaturesJob, SearchJob, TrainingJob, features_job, label_noise, search_job, train_job
from drawstream.tools.report import write_report
from drawstream.tools.runs import before, conclude, file_hash, hold_identity
from drawstream.tools.training import Device, FineTune, Framing, Recipe, Setup, compare_finished, flush_denormals
from drawstream.tools.training.methods import Sampling


@dataclass(frozen=True, slots=True)
class DemoPlan:
    """Training settings of a demo data set, the same for every method.

    Attributes:
        model: Name of the model.
        limit: Rows of training and held-out set together; None takes all that the test set leaves.
        holdout: Rows of the held-out set, which keeps its true labels.
        batch_size: Images per step.
        recipe: Of every training from scratch.
        fine_tune: Of the candidates in the search; each epoch is `share` of the rows.
        confirm: Of the best few, from the same weights; None trains them from scratch with `recipe`.
        trials: Candidates of the search.
        confirm_top: Of them, those that are confirmed.
        confirm_seeds: Seeds of the confirmation.
        places: Catalogs of training, held-out and test rows, if they are there already; None: `pack_plan` writes them.
        augment: Of training images.
        framing: Of all images.
        device: `cpu` or `gpu`.
        threads: Of torch; None leaves all. Layers as small as the digits' run no faster on two, and stall where
            something else uses the second core.
    """

    model: str
    limit: int | None
    holdout: int
    batch_size: int
    recipe: Recipe
    fine_tune: Recipe
    share: float
    confirm: Recipe | None
    trials: int
    confirm_top: int
    confirm_seeds: int
    places: tuple[str, str, str] | None = None
    augment: str = "none"
    framing: Framing = field(default_factory=Framing)
    device: Device = "cpu"
    threads: int | None = None

    @property
    def candidate_cost(self) -> float:
        """Work of a candidate, in trainings."""
        return self.fine_tune.epochs * self.share / self.recipe.epochs

    def search_cost(self, trials: int, /) -> float:
        """Work of a search with its confirmation, in trainings."""
        second = (self.confirm or self.recipe).epochs / self.recipe.epochs
        return trials * self.candidate_cost + second * runs_of(self.confirm_top, self.confirm_seeds)


DIGITS_TEST = 300  # of 1797 rows; Fashion-MNIST comes with a test set
PLANS = {
    "digits": DemoPlan("mlp", None, 400, 32, Recipe(60, 0.05), Recipe(4, 0.02), 1.0, None, 60, 3, 3, threads=1),
    "fashion-mnist": DemoPlan(
        "cnn", 25_000, 5_000, 128, Recipe(20, 0.05), Recipe(1, 0.02), 0.1, Recipe(1, 0.02), 24, 3, 2
    ),
}


def run_demo(data: str, out: Path, /, *, source: Path | None, noise: float, seeds: list[int]) -> dict[str, Any]:
    """Run the main job for each seed, print every accuracy, and write `demo.json` and `report.html` into `out`.

    What a killed demo finished is kept when it is started again.

    Raises:
        ValueError: Unknown data, no seeds, or `out` holds a demo with other settings.
    """
    plan = start_plan(data, seeds)
    print(f"{data}, {noise:.0%} of the training labels wrong; held-out and test labels are right", flush=True)
    rows: list[dict[str, Any]] = []
    for seed in seeds:
        pack_plan(out / f"seed-{seed}", data, source, plan, noise=noise, seed=seed)
        rows += _one_seed(plan, out / f"seed-{seed}", seed)
    print(_table(rows))
    report = out / "report.html"
    for line in write_report(out, report).lines:
        print(f"left out: {printable(line)}", file=sys.stderr)
    result = {"data": data, "noise": noise, "rows": rows, "report": report}
    record = conclude(out / "demo.json", "demo", result)
    return {**result, "report": str(report), **before(record)}


def start_plan(data: str, seeds: Sequence[int] = (0,), /, **changed: Any) -> DemoPlan:
    """Return the plan of a data set with changes, and set torch as it says.

    Raises:
        ValueError: No such plan, no seeds, or one that comes twice.
    """
    if data not in PLANS:
        raise ValueError(f"no plan for {data!r}: give one of {', '.join(PLANS)}")
    if not seeds or len(set(seeds)) < len(seeds):
        raise ValueError(f"seeds must be given and differ, but got {list(seeds)}")
    flush_denormals()
    plan = replace(PLANS[data], **changed)
    if plan.threads is not None:
        torch.set_num_threads(plan.threads)
    return plan


def _one_seed(plan: DemoPlan, out: Path, seed: int) -> list[dict[str, Any]]:
    """Train uniformly, score, search, train with the sampler, and compare the two, for one seed of all of it."""
    print(f"seed {seed}", flush=True)
    setup, recipe = setup_of(plan, out), replace(plan.recipe, seed=seed)
    uniform = train_job(TrainingJob(setup, recipe, Sampling(), out / "uniform"))
    features_job(FeaturesJob(setup, out / "uniform/best.safetensors", out / "features"))
    job = search_of(plan, setup, out, seed)
    search = search_job(job)
    print(f"  {search['message']}", flush=True)
    sampling = Sampling(out / "search/sampler.json", job.table)
    swift = train_job(TrainingJob(setup, recipe, sampling, out / "swift", method="swift"))
    rows = []
    for record in (uniform, swift):
        result = record["result"]
        row = {"method": record["method"], "seed": seed, "last": result["last"], "best": result["best"]}
        rows.append({**row, "seconds": record["seconds"]})
    rows[1]["search_seconds"] = search["seconds"]
    guard = compare_finished(setup, out / "uniform/last.safetensors", out / "swift/last.safetensors")
    print(f"  {guard.message}", flush=True)
    rows[1]["guard"] = asdict(guard)
    return rows


def search_of(plan: DemoPlan, setup: Setup, out: Path, seed: int, /) -> SearchJob:
    """A seed's search in its folder, on the features and the last weights of the uniform training."""
    fine_tune = replace(plan.fine_tune, seed=seed)
    start, second = out / "uniform/last.safetensors", plan.confirm or plan.recipe
    objective = FineTune(setup, start, fine_tune, second, share=plan.share, scratch=plan.confirm is None)
    proposals, guard = Proposals(trials=plan.trials, seed=seed), Guard(plan.confirm_top, plan.confirm_seeds)
    law: dict[str, Any] = {"transform": "cdf", "proposals": proposals, "guard": guard}
    return SearchJob(setup, out / "features", objective, out / "search", **law)


def pack_plan(
    out: Path, data: str, source: Path | None, plan: DemoPlan, /, *, noise: float | str = 0.0, seed: int = 0
) -> Source:
    """Write the catalogs of a plan, as far as they are not there; return the training images.

    `noise` is a share of wrong labels, or a file of labels (.npy).
    """
    train, test = source_and_test(data, source, seed)
    about: dict[str, Any] = {"seed": seed, "limit": plan.limit, "holdout": plan.holdout}
    given = {"labels": file_hash(Path(noise))} if isinstance(noise, str) else noise
    _hold_data(out, data, source, noise=given, **about)
    if not (out / "test" / FILE).exists():
        pack(test, out / "test", encoding="raw", seed=seed)
    if not (out / "data/train" / FILE).exists():
        pack(train, out / "data", encoding="raw", label_noise=label_noise(str(noise)), noise_seed=seed, **about)
    return train


def setup_of(plan: DemoPlan, out: Path, /) -> Setup:
    """Data and model over the plan's catalogs, or those that `pack_plan` writes."""
    packed: list[Path | str] = [out / "data/train", out / "data/holdout", out / "test"]
    there = None if plan.places is None else [place if is_url(place) else Path(place) for place in plan.places]
    catalog, held_out, test = there or packed
    more: dict[str, Any] = {"augment": plan.augment, "framing": plan.framing, "device": plan.device}
    return Setup(catalog, plan.model, held_out, test, global_batch=plan.batch_size, **more)


def _hold_data(out: Path, data: str, source: Path | None, /, **about: Any) -> None:
    """Note in `data.json` what the catalogs of a folder are packed from, or compare with what is noted there.

    Raises:
        ValueError: The folder holds other data; both sides are shown.
    """
    files = file_hash(source or FASHION_MNIST) if data == "fashion-mnist" else None
    path = out / "data.json"
    identity = {"data": data, "source": files, **about}
    if not path.exists() and (out / "data").exists():
        refuse_other(out / "data", None, identity)
    hold_identity(path, "data", identity)


def source_and_test(data: str, source: Path | None, seed: int, /) -> tuple[Source, Source]:
    """Training and test images of a data set of `PLANS`, or of a folder with both (`train` and `test`, or splits).

    Fashion-MNIST is that of the folder `source`, or Debian's.

    Raises:
        ValueError: The folder is not there.
    """
    if data not in PLANS:
        if (Path(data) / "train").is_dir():
            return open_source(Path(data) / "train"), open_source(Path(data) / "test")
        return open_source(data), open_source(data, split="test")
    if data == "fashion-mnist":
        folder = source or FASHION_MNIST
        if not folder.exists():
            raise ValueError(
                f"{folder}: Fashion-MNIST is not there; on Debian: apt-get install dataset-fashion-mnist; "
                "elsewhere give the folder of its four .gz files with --source"
            )
        return open_source(folder), open_source(folder, split="test")
    from sklearn.datasets import load_digits  # only this demo needs it

    digits = load_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)
    labels = digits.target.astype(np.int64)
    order = stratified_order(labels, seed=seed)
    test, train = order[:DIGITS_TEST], order[DIGITS_TEST:]
    return ArraySource(images[train], labels[train], name="digits"), ArraySource(
        images[test], labels[test], name="digits"
    )


def _table(rows: list[dict[str, Any]]) -> str:
    """Test accuracies of every seed, and their means."""
    seeds = sorted({row["seed"] for row in rows})
    cells = []
    for method in ("uniform", "swift"):
        for key in ("last", "best"):
            values = [row[key] for seed in seeds for row in rows if row["seed"] == seed and row["method"] == method]
            spread = np.std(values, ddof=1) if len(values) > 1 else 0.0
            cells.append((f"{method}, {key} epoch", *(f"{each:.2f}" for each in (*values, np.mean(values), spread))))
    head = ("test top-1, %", *(f"seed {seed}" for seed in seeds), "mean", "std")
    return f"{Table(head, tuple(cells)).text()}\nbest epoch: chosen on the held-out set; last epoch: nothing chosen"
