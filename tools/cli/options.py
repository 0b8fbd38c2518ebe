"""Options that several commands share, and what is made of them."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from drawstream.tools.runs import FEW, MANY, SEED, SOME, Options, option, pick

if TYPE_CHECKING:
    from drawstream.tools.training import Ranks, Recipe, Setup

CATALOG = "Folder with catalog.parquet, or its URL (s3://…, https://…)."
MODELS = ("mlp", "cnn", "resnet8", "resnet20", "resnet18", "timm:")
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
        "Check all that the job needs, estimate time, disk and memory, write nothing.",
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

    model: str = option("cnn", "Use mlp, cnn, resnet8, resnet20, resnet18, timm:NAME or module:factory.", known=MODELS)
    channels: int | None = option(
        None,
        "Load images with 1 or 3 channels (gray as RGB). By default 3 where one of the sets or the model needs it.",
        within=FEW,
    )
    device: Literal["cpu", "gpu"] = option("cpu", "Run on the CPU or a GPU.", decides=False)

    def setup(self, **others: Any) -> "Setup":
        """Data and model of the job; `others` are further arguments of `Setup`."""
        from drawstream.tools.training import Setup, flush_denormals

        flush_denormals()
        given = {name: getattr(self, name, None) for name in ("catalog", "held_out", "test")}
        return pick(Setup, self, **{name: value and place(value) for name, value in given.items()}, **others)


@dataclass(frozen=True, kw_only=True)
class TrainedOptions(ModelOptions):
    """Data and steps of a job that trains."""

    held_out: str | None = option(None, "Choose on this catalog (best epoch, best sampler); it is never trained on.")
    global_batch: int = option(128, "Images per training step, over all ranks.", within=MANY)
    augment: Literal["none", "standard", "randaugment", "mixup", "ricap"] = option(
        "none",
        "Augment by standard (random crops and flips; large images always have them), or with more on top: "
        "randaugment, mixup or ricap.",
    )
    seed: int = option(0, "Seed of everything that is drawn.", within=SEED)


@dataclass(frozen=True, kw_only=True)
class RecipeOptions(Options):
    """How a model is trained."""

    epochs: int = option(20, "Passes over the data or stream.", within=SOME)
    lr: float = option(0.05, "Learning rate at the start.", within=SOME)
    schedule: Literal["cosine", "linear", "step", "constant"] = option("cosine", "Schedule of the learning rate.")
    weight_decay: float = option(5e-4, "L2 penalty.", within=SOME)
    amp: Literal["off", "bf16"] = option("off", "Train and evaluate in bf16; off: float32.")

    def recipe(self) -> "Recipe":
        """How to train, as the loop takes it."""
        from drawstream.tools.training import Recipe

        return pick(Recipe, self, amp=self.amp == "bf16")


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


def place(catalog: str) -> Path | str:
    """A folder, or a URL as it stands: a path would lose its second slash."""
    from drawstream.pipeline.shards import is_url

    return catalog if is_url(catalog) else Path(catalog)


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
