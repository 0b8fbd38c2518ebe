"""Grids of trainings, as benchmarks run them and their commands take them."""

import os
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import ClassVar, Literal

from drawstream.tools.cli.options import DescentOptions, DryRunOptions, EngineOptions, ResultOptions
from drawstream.tools.runs import COUNT, FEW, SEED, SOME, Options, option

AT_LEAST_ONE = (1, 10**9)
DATA = ("fashion-mnist", "digits")


@dataclass(frozen=True, kw_only=True)
class Grid(ResultOptions):
    """Data, methods, seeds and folder of a grid of trainings."""

    bench: ClassVar[str]

    data: str = option("fashion-mnist", "Train on fashion-mnist or digits.", known=DATA)
    methods: tuple[str, ...] | None = option(None, "Methods to run, comma list; by default the main ones.")
    seeds: tuple[int, ...] = option(
        (0,), "Seeds of data, noise, weights, orders and searches, comma list.", within=SEED
    )
    out: Path | None = option(None, "Folder of all runs; by default runs/BENCH-DATA.", "--out", "-o")
    source: Path | None = option(None, "Read Fashion-MNIST's files in this folder.")

    @property
    def folder(self) -> Path:
        """Folder of all runs."""
        return self.out or Path("runs") / f"{self.bench}-{Path(self.data).name}"


@dataclass(frozen=True, kw_only=True)
class CatalogOptions(Options):
    """Catalogs in place of a data set of ours."""

    held_out: str | None = option(None, "Choose on this catalog, if --data is a catalog.")
    test: str | None = option(None, "Report on this catalog, if --data is a catalog.")


@dataclass(frozen=True, kw_only=True)
class RecipeGrid(Grid, DescentOptions, DryRunOptions):
    """A grid whose trainings may have another model and recipe than the data set's."""

    model: str | None = option(None, "Model as for training; by default the data set's.")
    epochs: int | None = option(None, "Epochs of every training; by default the data set's.", within=(1, 10**6))
    lr: float | None = option(None, "Learning rate at the start; by default the data set's.", within=SOME)
    schedule: Literal["cosine", "linear", "step", "constant"] | None = option(
        None, "Schedule of the learning rate; by default the data set's."
    )
    global_batch: int | None = option(None, "Images per step; by default the data set's.", within=AT_LEAST_ONE)
    augment: Literal["none", "standard", "randaugment", "randaugment-bt", "mixup", "ricap"] | None = option(
        None, "Augment as `train` does; by default not at all."
    )
    device: Literal["cpu", "gpu"] = option("cpu", "Run on the CPU or a GPU.")

    @property
    def of_catalog(self) -> bool:
        """Whether the data are catalogs, which have the labels that they were packed with."""
        return isinstance(self, CatalogOptions) and self.data not in DATA


@dataclass(frozen=True, kw_only=True)
class LevelsGrid(RecipeGrid):
    """A grid that is run at several shares of wrong labels, or with the labels of a catalog."""

    label_files: ClassVar[bool] = False  # whether a level may be a file of labels (.npy)

    noise: tuple[str, ...] = option(("0", "0.4"), "Shares of wrong labels, comma list.")

    @property
    def levels(self) -> tuple[float | str, ...]:
        """Shares of wrong labels, or files of labels (.npy) where the grid takes them.

        Raises:
            ValueError: Neither a number nor such a file.
        """
        return tuple(_level(str(each), files=self.label_files) for each in self.noise)

    @property
    def cells(self) -> dict[tuple[float | str, int], Path]:
        """Folder of every share of wrong labels and seed; of a catalog there is one share, 0."""
        if self.of_catalog:
            self.refuse_typed(("noise",), "fashion-mnist and digits; a catalog's wrong labels are packed into it")
            return {(0.0, seed): self.folder / f"seed-{seed}" for seed in self.seeds}
        pairs = product(self.levels, self.seeds)
        return {(level, seed): self.folder / f"noise-{level_name(level)}" / f"seed-{seed}" for level, seed in pairs}


def _level(text: str, *, files: bool) -> float | str:
    if files and text.endswith(".npy"):
        return text
    try:
        return float(text)
    except ValueError:
        other = " or a file such as labels.npy" if files else ""
        raise ValueError(f"--noise must be shares of wrong labels such as 0.4{other}, but got {text!r}") from None


def level_name(level: float | str, /) -> str:
    """Return a level of label noise as a name: its share, or that of its file without the ending."""
    return Path(level).stem if isinstance(level, str) else f"{level:g}"


@dataclass(frozen=True, kw_only=True)
class NoiseGrid(LevelsGrid, CatalogOptions):
    """Levels of label noise, validation sets, methods, models and seeds; `candidates` of a rank study at each, or 0."""

    bench = "noise"
    label_files = True

    data: str = option("fashion-mnist", "Train on fashion-mnist, digits, or the folder of a catalog.", known=DATA)
    noise: tuple[str, ...] = option(
        ("0", "0.4"), "Shares of wrong labels, or .npy files with a label of each training image; comma list."
    )
    methods: tuple[str, ...] | None = option(
        None,
        "Methods to run, comma list: uniform, swift, swift-cgf, swift-random, swift-reinforce, clean, suspects, drop, "
        "reed-soft, reed-hard, l2rw, mentornet-pd, mentornet-dd, clean-only (by default all of these), swift-gp, "
        "swift-gp-cgf (without designed candidates), swift-paper (its exact protocol), clean-loss, clean-class, "
        "clean-refit; and the sets agents, segments, candidates.",
    )
    segments: tuple[int, ...] = option((), "Run each search with these numbers of segments (swift-s6).", within=(1, 32))
    trials: tuple[int, ...] = option((), "Run each search with these numbers of candidates (swift-20).", within=COUNT)
    models: tuple[str, ...] = option((), "Models to train, comma list; by default the data set's.")
    validation: tuple[str, ...] = option(
        ("clean",), "Validation labels: clean, noisy (as many wrong ones as in training) or clean,noisy."
    )
    candidates: int = option(
        0, "Train the last candidates of a search from scratch, too; 10 in the paper.", "--rank-study", within=FEW
    )


@dataclass(frozen=True, kw_only=True)
class TransferGrid(RecipeGrid, CatalogOptions):
    """Models and seeds at one noise level; a sampler is searched on `model`, the targets are trained too."""

    bench = "transfer"

    data: str = option("digits", "Train on digits, fashion-mnist, or the folder of a catalog.", known=DATA)
    model: str | None = option(None, "Search on this model; by default mlp, or cnn on Fashion-MNIST.")
    targets: tuple[str, ...] | None = option(None, "Models to train, comma list; by default mlp-64,cnn, or resnet8.")
    noise: float = option(0.4, "Share of wrong labels; a catalog's are packed into it.", within=FEW)
    seeds: tuple[int, ...] = option((0, 1, 2), "Seeds of data, noise, weights, orders and searches.", within=SEED)
    trials: int | None = option(None, "Candidates of a search; by default the plan's.", within=SOME)


@dataclass(frozen=True, kw_only=True)
class BudgetGrid(Grid, DescentOptions, EngineOptions, DryRunOptions):
    """Methods, budgets, augmentations, schedules and seeds; `full` and `unif` are always run, as controls."""

    bench = "budget"

    data: str = option("fashion-mnist", "Train on fashion-mnist, digits, or the folder of a catalog.", known=DATA)
    methods: tuple[str, ...] | None = option(
        None, "Methods to run, comma list, or all; full and unif are always there. By default all but the slow ones."
    )
    budgets: tuple[float, ...] = option(
        (0.3,), "Parts of a full training, comma list; the whole grid has .05,.1,.2,.3,.5.", within=FEW
    )
    augments: tuple[str, ...] = option(
        ("none",), "Augmentations: none, standard, randaugment, randaugment-bt, mixup, ricap."
    )
    schedules: tuple[str, ...] = option(("linear", "step"), "Schedules of the learning rate: linear, step.")
    seeds: tuple[int, ...] = option((0, 1, 2), "Seeds of weights and orders, comma list.", within=SEED)
    held_out: Path | None = option(None, "Choose epochs on this catalog, if --data is a catalog.")
    test: Path | None = option(None, "Report on this catalog, if --data is a catalog.")
    model: str | None = option(None, "Model as for training; by default the data set's.")
    epochs: int | None = option(None, "Epochs of a full training; by default the data set's.", within=SOME)
    global_batch: int | None = option(None, "Images per step; by default the data set's.", within=AT_LEAST_ONE)
    lr: float | None = option(None, "Learning rate at the start; by default the data set's.", within=SOME)
    uniform_epochs: int | None = option(None, "Draw uniformly in the first epochs of p, c and rais; 1.", within=SOME)
    mix_order: Literal["default", "paper"] = option("default", "Order of mixup and ricap, as `train` has it.")
    flip: bool = option(True, "Mirror half of the training images, where they are augmented.", "--flip/--no-flip")
    processes: int | None = option(None, "Runs at a time; by default one per core, on a GPU one.", within=COUNT)
    threads: int = option(1, "Threads of torch in every run; results depend on it.", within=COUNT)
    device: Literal["cpu", "gpu"] = option("cpu", "Run loaders and models on the CPU or a GPU.")

    @property
    def at_once(self) -> int:
        """Runs at a time."""
        return self.processes or (1 if self.device == "gpu" else len(os.sched_getaffinity(0)))


@dataclass(frozen=True, kw_only=True)
class AutoGrid(LevelsGrid, CatalogOptions):
    """Levels of noise in the training labels, methods and seeds, and what the searches have otherwise."""

    bench = "auto"

    data: str = option("fashion-mnist", "Train on fashion-mnist, digits, or the folder of a catalog.", known=DATA)
    methods: tuple[str, ...] | None = option(
        None,
        "Methods to run, comma list: uniform, best-of, dlis, rais, random, mixture, static, replay, replay-other (by "
        "default all).",
    )
    sources: tuple[str, ...] = option(
        (), "Search on these models, too, and train on what each drew (methods static-MODEL)."
    )
    population: int | None = option(None, "Children of a search, and runs of best-of; 4.", within=COUNT)
    interval: int | None = option(None, "Batches between two evaluations; 20, or 10 of digits.", within=AT_LEAST_ONE)
    first: int | None = option(
        None, "Epochs before the first exploration; 2, or 3 of digits.", "--explore-after", within=SOME
    )


@dataclass(frozen=True, kw_only=True)
class NovelGrid(LevelsGrid):
    """Levels of noise in the labels of the trained classes, methods and seeds; `novel` classes are held out."""

    bench = "novel"

    data: str = option(
        "fashion-mnist",
        "Train on fashion-mnist, digits, or a folder with train and test (arrays, …).",
        known=DATA,
    )
    methods: tuple[str, ...] = option(("uniform", "swift"), "Methods to run: uniform, swift, swift-cgf.")
    noise: tuple[str, ...] = option(("0",), "Shares of wrong labels, comma list.")
    novel: int = option(4, "Classes to hold out.", within=COUNT)
    shots: tuple[int, ...] = option((1, 5, 10), "Labelled rows of a class in few-shot classification.", within=COUNT)
    trials: int | None = option(None, "Candidates of a search; by default the plan's.", within=SOME)


@dataclass(frozen=True, kw_only=True)
class TailGrid(RecipeGrid):
    """Methods and seeds on a long-tailed training set, which the seed draws; a balanced test set reports."""

    bench = "tail"

    data: str = option(
        "fashion-mnist",
        "Train on fashion-mnist, digits, or a folder with train and test (arrays, …).",
        known=DATA,
    )
    methods: tuple[str, ...] | None = option(
        None,
        "Methods to run, comma list: uniform, balanced, effective-number, progressive, deferred, balance-0.5 (or "
        "another number), drw (by default all of these).",
    )
    imbalance: float = option(100.0, "Images of the largest class for each of the smallest.", within=(1, 10**9))
    seeds: tuple[int, ...] = option((0, 1, 2), "Seeds of rows, weights and orders, comma list.", within=SEED)
    processes: int | None = option(None, "Runs at a time; by default one per core, on a GPU one.", within=COUNT)
    threads: int = option(1, "Threads of torch in every run; results depend on it.", within=COUNT)

    @property
    def at_once(self) -> int:
        """Runs at a time."""
        return self.processes or (1 if self.device == "gpu" else len(os.sched_getaffinity(0)))


@dataclass(frozen=True, kw_only=True)
class SuspectsGrid(LevelsGrid):
    """Labels that are known to be wrong, by share or file, and seeds; one tracked training finds them."""

    bench = "suspects"
    label_files = True

    data: str = option(
        "fashion-mnist",
        "Train on fashion-mnist, digits, or a folder with train and test (arrays, …).",
        known=DATA,
    )
    methods: tuple[str, ...] | None = option(
        None, "Rankings to compare, comma list: margin, confident, loss, agreement (by default all of these)."
    )
    noise: tuple[str, ...] = option(
        ("0.4",), "Shares of wrong labels, or .npy files with a label of each training image; comma list."
    )
    folds: int = option(0, "Rank by out-of-sample predictions of so many more trainings, too.", within=SOME)
    peers_env: Path | None = option(None, "Rank those by cleanlab, too, in this virtual environment.")
    processes: int | None = option(None, "Runs at a time; by default one per core, on a GPU one.", within=COUNT)
    threads: int = option(1, "Threads of torch in every run; results depend on it.", within=COUNT)

    @property
    def at_once(self) -> int:
        """Runs at a time."""
        return self.processes or (1 if self.device == "gpu" else len(os.sched_getaffinity(0)))


@dataclass(frozen=True, kw_only=True)
class LanguageGrid(DryRunOptions):
    """Shares of shuffled windows and seeds, and what their trainings of a GPT have in common."""

    text: str = option("python", "Train on python (its reference), or on a folder of files *train*, *valid*, *test*.")
    shuffled: tuple[float, ...] = option((0.0,), "Shares of training windows with shuffled words.", within=FEW)
    seeds: tuple[int, ...] = option((0,), "Seeds of text, weights, orders and searches, comma list.", within=SEED)
    length: int = option(32, "Words that the model reads.", within=(2, 10**5))
    vocabulary: int = option(2000, "Words that have a number of their own.", within=(2, 10**7))
    width: int = option(64, "Width of the GPT.", within=COUNT)
    layers: int = option(2, "Blocks of the GPT.", within=COUNT)
    heads: int = option(4, "Heads of its attention.", within=COUNT)
    epochs: int = option(8, "Epochs of every training.", within=(1, 10**6))
    lr: float = option(0.003, "Learning rate of AdamW.", within=SOME)
    weight_decay: float = option(0.05, "Weight decay of AdamW.", within=SOME)
    global_batch: int = option(32, "Windows per step.", within=AT_LEAST_ONE)
    trials: int = option(12, "Candidates of a search.", within=(1, 10**6))
    fine_tune_epochs: int = option(1, "Epochs of a candidate.", within=(1, 10**6))
    confirm_top: int = option(2, "Candidates to confirm; 0: take the best observed.", within=SOME)
    amp: Literal["off", "bf16", "fp16"] = option("off", "Train in bf16 or fp16.")
    device: Literal["cpu", "gpu"] = option("cpu", "Run on the CPU or a GPU.")
    out: Path = option(Path("runs/language"), "Folder of all runs.", "--out", "-o")
