"""Options that several commands share, and what is made of them."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from drawstream.tools.runs import COUNT, FEW, MANY, SEED, SOME, Options, option, pick
from drawstream.tools.training import RECIPES

if TYPE_CHECKING:
    from drawstream.pipeline.catalogs import Places
    from drawstream.tools.training import Ranks, Recipe, Setup

CATALOG = "Folder with catalog.parquet, or its URL (s3://…, https://…); several are one training set."
MODEL = "Use mlp, cnn, resnet6, resnet8, resnet20, resnet18, wrn-28-2, timm:NAME or module:factory."
MODELS = ("mlp", "cnn", "resnet6", "resnet8", "resnet20", "resnet18", "wrn-28-2", "timm:")
ORIENTATION = "Turn images as their first EXIF block says, or leave them as stored (torchvision, timm)."
ENGINES = ("local", "ray", "ray:")


def _new_file(path: Path | None) -> Path | None:
    """Refuse a place for `--json` before the work, not after it."""
    if path is not None and path.is_dir():
        raise ValueError(f"--json {path}: is a folder: name a file")
    if path is not None and path.exists() and not path.is_file():
        raise ValueError(f"--json {path}: is a device, a named pipe or a socket: name a file")
    return path


@dataclass(frozen=True, kw_only=True)
class ResultOptions(Options):
    """Options of every command."""

    json_path: Path | None = option(
        None, "Write the result to this file as one JSON object.", "--json", check=_new_file, decides=False
    )


@dataclass(frozen=True, kw_only=True)
class DryRunOptions(ResultOptions):
    """Options of commands that can be tried first."""

    dry_run: bool = option(
        False,
        "Check all that the job needs, estimate its time, write nothing.",
        "--dry-run",
        decides=False,
    )


@dataclass(frozen=True, kw_only=True)
class JobOptions(DryRunOptions):
    """Options of jobs that write a folder."""

    out: Path = option(..., "Folder to write.", "--out", "-o", decides=False)


@dataclass(frozen=True, kw_only=True)
class WatchedOptions(JobOptions):
    """Options of jobs that hooks follow."""

    tensorboard: bool = option(False, "Write scalars for TensorBoard into OUT/tensorboard.", decides=False)
    hook: list[str] = option([], "Call your own hook, module:factory, with OUT; repeatable.", "--hook", decides=False)


@dataclass(frozen=True, kw_only=True)
class EngineOptions(Options):
    """Where workers run."""

    engine: str = option(
        "local", "Run on local, ray (a cluster on this machine) or ray:ADDRESS.", known=ENGINES, decides=False
    )


@dataclass(frozen=True, kw_only=True)
class ModelOptions(Options):
    """Model and device of a job."""

    model: str = option("cnn", MODEL, known=MODELS)
    small_stem: bool = option(False, "Give a timm model a first layer for 32 pixels: 3×3, stride 1, no pooling.")
    size: int | None = option(
        None, "Height and width of images in batches; by default their own up to 64, else 224.", within=(1, 10**5)
    )
    crop: Literal["pad", "random"] | None = option(
        None,
        "Take whole images, with crops of padded ones in training, or resized windows. By default pad up to 64 pixels.",
    )
    channels: int | None = option(
        None,
        "Load images with 1 or 3 channels (gray as RGB). By default 3 where one of the sets or the model needs it.",
        within=FEW,
    )
    device: Literal["cpu", "gpu"] = option("cpu", "Run on the CPU or a GPU.", decides=False)
    backend: Literal["dali", "pillow"] | None = option(
        None, "Decode images with DALI or Pillow; by default DALI, or Pillow if it is not installed.", decides=False
    )

    def setup(self, **others: Any) -> "Setup":
        """Data and model of the job; `others` are further arguments of `Setup`."""
        from drawstream.tools.training import Framing, Setup, flush_denormals, small_stem

        flush_denormals()
        given = {name: getattr(self, name, None) for name in ("catalog", "held_out", "test")}
        others = {name: value and place(value) for name, value in given.items()} | others
        others |= {"model": small_stem(self.model)} if self.small_stem else {}
        return pick(Setup, self, framing=pick(Framing, self), **others)


@dataclass(frozen=True, kw_only=True)
class ClassesOptions(Options):
    """How the classes of several catalogs come together."""

    classes: Literal["same", "union"] = option(
        "same", "Several catalogs have the same classes, or these are merged by name (union)."
    )


@dataclass(frozen=True, kw_only=True)
class TrainedOptions(ModelOptions):
    """Data and steps of a job that trains."""

    held_out: str | None = option(None, "Choose on this catalog (best epoch, best sampler); it is never trained on.")
    global_batch: int = option(128, "Images per training step, over all ranks.", within=MANY)
    augment: Literal["none", "standard", "randaugment", "randaugment-bt", "mixup", "ricap"] = option(
        "none",
        "Augment by standard (random crops and flips; large images always have them), or with more on top: "
        "randaugment (DALI's operations), randaugment-bt (those of budgeted training), mixup or ricap.",
    )
    mix_order: Literal["default", "paper"] = option(
        "default",
        "Mix what a selector has chosen, the row's own patch first; or before it scores, as the paper's code (paper).",
    )
    flip: bool = option(
        True, "Mirror half of the training images, where they are augmented or large.", "--flip/--no-flip"
    )
    jitter: tuple[float, ...] = option(
        (),
        "Ranges of brightness, contrast, saturation and hue of training images, comma list, as .4,.4,.4,.1.",
        within=FEW,
    )
    seed: int = option(0, "Seed of everything that is drawn.", within=SEED)


@dataclass(frozen=True, kw_only=True)
class DescentOptions(Options):
    """How a model is trained, beside epochs, learning rate and its schedule."""

    named: Literal["ss-cifar", "ss-imagenet", "ss-fewshot", "as-cifar", "as-imagenet", "bt"] | None = option(
        None, "Train by a paper's recipe; options that are given too override its values.", "--recipe"
    )
    milestones: tuple[float, ...] = option(
        (), "Epochs after which the schedule step divides, comma list; by default a third and two thirds.", within=SOME
    )
    gamma: float = option(0.1, "Factor of the learning rate at each of them.", within=(0, 1))
    warmup_epochs: float = option(0.0, "Epochs in which the learning rate grows from 0.", within=SOME)
    optimizer: Literal["sgd", "adamw"] = option("sgd", "Descend by SGD or AdamW.")
    momentum: float = option(0.9, "Momentum of SGD, or AdamW's first beta.", within=(0, 1))
    nesterov: bool = option(True, "Use Nesterov's momentum, or plain momentum.")
    weight_decay: float = option(5e-4, "L2 penalty; with AdamW decoupled weight decay.", within=SOME)
    no_decay_norm: bool = option(False, "Keep weight decay off biases and norms.", "--no-decay-norm")
    label_smoothing: float = option(0.0, "Share of the target that all classes get alike.", within=(0, 1))
    clip_grad: float = option(0.0, "Largest norm of the gradient; 0 does not clip.", within=SOME)
    ema: float = option(0.0, "Evaluate and save an average of the weights of this decay; 0: no average.", within=(0, 1))
    accumulate: int = option(1, "Parts in which a batch goes through the model, to save memory.", within=COUNT)
    channels_last: bool = option(False, "Lay out images and weights pixel by pixel: faster.", "--channels-last")
    amp: Literal["off", "bf16", "fp16"] = option("off", "Train and evaluate in bf16 or fp16; off: float32.")
    compile: bool = option(False, "Train through torch.compile; it needs a C++ compiler.", "--compile")

    def __post_init__(self) -> None:
        """Take the named recipe's values where no option is given."""
        super().__post_init__()
        given = self._given()
        given |= {"milestones"} if "schedule" in given else set()
        taken = {name: RECIPES[self.named or ""][name] for name in self._of_recipe() if name not in given}
        if "milestones" in taken and "epochs" in given:  # of another length, at the same parts of it
            part = getattr(self, "epochs", None) / RECIPES[self.named or ""]["epochs"]
            taken["milestones"] = tuple(each * part for each in taken["milestones"])
        for name in taken:
            if hasattr(self, name):
                object.__setattr__(self, name, taken[name])

    def _given(self) -> set[str]:
        """Options that are stated, or have another value than their default."""
        changed = {each.name for each in fields(self) if getattr(self, each.name) != each.default}
        return changed | self.stated

    def _of_recipe(self) -> Collection[str]:
        """Options that a named recipe gives."""
        return RECIPES[self.named] if self.named else ()

    def recipe(self, base: "Recipe | None" = None, /, **others: Any) -> "Recipe":
        """How to train, as the loop takes it.

        Args:
            base: Recipe of the data, which options that are given change; None: the options are the recipe.
            others: Fields that no option says.
        """
        from drawstream.tools.training import Recipe

        named: dict[str, Any] = {"name": self.named or ""}
        if base is None:
            return pick(Recipe, self, **named, **others)
        said = {*self._given(), *self._of_recipe()}
        fitting = [
            each.name for each in fields(Recipe) if each.name in said and getattr(self, each.name, None) is not None
        ]
        return replace(base, **{name: getattr(self, name) for name in fitting} | named | others)


@dataclass(frozen=True, kw_only=True)
class EvaluationOptions(Options):
    """How a training is evaluated."""

    eval_batch: int = option(512, "Images of each rank's batch in evaluation.", within=COUNT, decides=False)
    dist_bn: Literal["reduce", "broadcast", "off"] = option(
        "reduce",
        "Evaluate with the mean of BatchNorm's statistics over the ranks, with those of rank 0, or with each its own.",
    )
    tta: Literal["none", "flip"] = option("none", "Score images alone, or with their mirror images (flip).")


@dataclass(frozen=True, kw_only=True)
class LossOptions(Options):
    """The loss of a training."""

    loss: str = option(
        "ce",
        "Loss of the labels' kind (ce), or one that withstands wrong classes: reed-soft, reed-hard, l2rw, "
        "mentornet-pd, mentornet-dd (l2rw and mentornet-dd trust the held-out labels). drw is for long tails: it "
        "re-weights classes from four fifths of the epochs on. Or your own, module:factory.",
        known=("ce", "reed-soft", "reed-hard", "l2rw", "mentornet-pd", "mentornet-dd", "drw"),
    )


@dataclass(frozen=True, kw_only=True)
class RecipeOptions(DescentOptions):
    """How a model is trained."""

    epochs: int = option(20, "Passes over the data or stream.", within=SOME)
    lr: float = option(0.05, "Learning rate at the start; with AdamW by default 0.001.", within=SOME)
    schedule: Literal["cosine", "linear", "step", "constant"] = option("cosine", "Schedule of the learning rate.")

    def __post_init__(self) -> None:
        """Begin where AdamW does if nobody says where: at SGD's rate it diverges."""
        unsaid = "lr" not in self._given()
        super().__post_init__()
        if self.optimizer == "adamw" and unsaid:
            object.__setattr__(self, "lr", 0.001)


def _condition(text: str | None) -> str | None:
    """Read a condition on rows, or refuse it before the work."""
    if text is None:
        return None
    from drawstream.pipeline import RowFilter

    return RowFilter.parse(text).text


@dataclass(frozen=True, kw_only=True)
class WhereOptions(Options):
    """Which rows are drawn at all."""

    where: str | None = option(
        None,
        'Take only rows for which this holds, over columns of catalog and table: "height >= 128 and loss < 3".',
        check=_condition,
    )


@dataclass(frozen=True, kw_only=True)
class JoinOptions(Options):
    """Files that are joined to a feature table."""

    join: list[Path] = option(
        [], "Join columns of this file by sample_id or key (and crop): .csv, .parquet, …; repeatable.", "--join"
    )


@dataclass(frozen=True, kw_only=True)
class FrozenOptions(Options):
    """How a sampler of another table is taken."""

    frozen: bool = option(
        False, "Keep the tables of a sampler of another table, or rebuild them from these rows.", "--frozen/--refit"
    )


DESCENT = tuple(DescentOptions.__annotations__)


def place(catalog: str | Sequence[str]) -> "Places":
    """A folder, or a URL as it stands: a path would lose its second slash; of several, each."""
    from drawstream.pipeline.shards import is_url

    if isinstance(catalog, str):
        return catalog if is_url(catalog) else Path(catalog)
    several = tuple(each if is_url(each) else Path(each) for each in catalog)
    return several[0] if len(several) == 1 else several


def run_job(
    given: JobOptions, ranks: "Ranks", job: Any, estimate: Callable[[Any], Any], run: Callable[..., Any], /
) -> Any:
    """Run a job with its hooks, or estimate it; return its result, or None where nothing is left to say."""
    from drawstream.tools.runs import check_hooks, load_hooks
    from drawstream.tools.training import leave_ranks

    names = given.hook if isinstance(given, WatchedOptions) else []
    board = isinstance(given, WatchedOptions) and given.tensorboard
    if given.dry_run:
        from drawstream.tools.estimate import tell

        check_hooks(names, tensorboard=board)
        found = estimate(job)
        leave_ranks()
        if ranks.writes:
            tell(found, given.json_path)
        return None
    hooks = load_hooks(given.out, names, tensorboard=board) if ranks.writes else []
    result = run(job, hooks) if isinstance(given, WatchedOptions) else run(job)
    leave_ranks()
    return result if ranks.writes else None
