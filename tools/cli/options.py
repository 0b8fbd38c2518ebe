"""Shared parts of the commands: option types, and the conversion of strings to a job's arguments."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any

import typer


def words(*known: str) -> Callable[[str], list[str]]:
    """Return an option's shell completion: values starting with the typed text; file names if none match."""

    def begun(incomplete: str) -> list[str]:
        return [word for word in known if word.startswith(incomplete)]

    return begun


def _new_file(path: Path | None) -> Path | None:
    """Refuse a place for `--json` before the work, not behind it."""
    if path is not None and path.is_dir():
        raise ValueError(f"--json {path}: is a folder: name a file")
    if path is not None and path.exists() and not path.is_file():
        raise ValueError(f"--json {path}: is a device, a named pipe or a socket: name a file")
    return path


Json = Annotated[
    Path | None, typer.Option("--json", callback=_new_file, help="Write the result there as one JSON object.")
]
Out = Annotated[Path, typer.Option("--out", "-o", help="Folder to write.")]
CatalogArg = Annotated[str, typer.Argument(help="Folder with catalog.parquet, or its URL (s3://…, https://…).")]
HeldOut = Annotated[str | None, typer.Option(help="Catalog that chooses (best epoch, best sampler); never trained on.")]
Model = Annotated[
    str,
    typer.Option(
        autocompletion=words("mlp", "cnn", "resnet8", "resnet20", "resnet18", "timm:"),
        help="mlp, cnn, resnet8, resnet20, resnet18, timm:NAME or module:factory.",
    ),
]
Channels = Annotated[
    int | None,
    typer.Option(help="1 or 3; 3 loads gray images as RGB. By default 3 where one of the sets or the model needs it."),
]
Device = Annotated[str, typer.Option(autocompletion=words("cpu", "gpu"), help="cpu or gpu.")]
Engine = Annotated[
    str,
    typer.Option(
        autocompletion=words("local", "ray", "ray:"), help="local, ray (a cluster on this machine) or ray:ADDRESS."
    ),
]
Batch = Annotated[int, typer.Option(help="Images per training step.")]
Tensorboard = Annotated[bool, typer.Option(help="Write scalars for TensorBoard, into OUT/tensorboard.")]
HookNames = Annotated[
    list[str] | None, typer.Option("--hook", help="Your own hook, as module:factory, called with OUT; repeatable.")
]
Seed = Annotated[int, typer.Option(help="Seed of everything that is drawn.")]
Orientation = Annotated[
    str,
    typer.Option(
        autocompletion=words("exif", "stored"),
        help="exif: images are turned as their first EXIF block says; stored: they stay as stored (torchvision, timm).",
    ),
]
DryRun = Annotated[
    bool,
    typer.Option("--dry-run", help="Check all that the job needs, estimate time, disk and memory, write nothing."),
]
LearningRate = Annotated[float, typer.Option(help="Learning rate at the start.")]
Annealing = Annotated[
    str,
    typer.Option(
        autocompletion=words("cosine", "linear", "step", "constant"), help="cosine, linear, step or constant."
    ),
]
WeightDecay = Annotated[float, typer.Option(help="L2 penalty.")]
TrainingAmp = Annotated[
    str,
    typer.Option("--amp", autocompletion=words("off", "bf16"), help="Train and evaluate in bf16; off: float32."),
]
Augment = Annotated[
    str,
    typer.Option(
        autocompletion=words("none", "standard", "randaugment", "mixup", "ricap"),
        help="none, standard (random crops and flips; large images always have them), or with more on top: "
        "randaugment, mixup or ricap.",
    ),
]
Frozen = Annotated[
    bool,
    typer.Option(
        "--frozen/--refit", help="A sampler of another table: keep its tables, or rebuild them of these rows (default)."
    ),
]


def refuse_unused(context: typer.Context, names: Iterable[str], goes_with: str) -> None:
    """Refuse options of the command line that would do nothing.

    Raises:
        ValueError: One of the parameters is given; `goes_with` says what it is for.
    """
    for name in names:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            raise ValueError(f"--{name.replace('_', '-')} goes with {goes_with}: leave it out")


def setup_of(catalog: str, model: str, device: str, batch_size: int, **given: Any) -> Any:
    """Data and model of a job, as `Setup` takes them."""
    from drawstream.tools.training.finetune import flush_denormals
    from drawstream.tools.training.setup import Setup

    if device not in ("cpu", "gpu"):
        raise ValueError(f"--device must be cpu or gpu, but got {device!r}")
    flush_denormals()
    for name in ("held_out", "test"):
        given[name] = place(given[name]) if given.get(name) else None
    return Setup(place(catalog), model, device=one_of("device", device), global_batch=batch_size, **given)


def place(catalog: str) -> Path | str:
    """A folder, or a URL as it stands: a path would lose its second slash."""
    from drawstream.pipeline.shards.remote import is_url

    return catalog if is_url(catalog) else Path(catalog)


def one_of(_name: str, value: str) -> Any:
    """A string option whose values the callee checks."""
    return value


def in_bf16(amp: str) -> bool:
    """Whether to train in bfloat16; float16 would need its loss scaled, which the reference loop does not do."""
    if amp not in ("off", "bf16"):
        raise ValueError(f"--amp must be off or bf16 in training, but got {amp!r}")
    return amp == "bf16"
