"""`drawstream search`: find samplers."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from typer import Context

from drawstream.tools.cli.auto import auto
from drawstream.tools.cli.features import Join
from drawstream.tools.cli.options import (
    Augment,
    Batch,
    Channels,
    Device,
    DryRun,
    Engine,
    HeldOut,
    HookNames,
    Json,
    Model,
    Out,
    Seed,
    Tensorboard,
    refuse_unused,
    setup_of,
    words,
)
from drawstream.tools.runs.record import finish

# The protocol of the Swift Sampler's paper (its §3.4): candidates one after the other, each fine-tuned for 5 epochs
# over all rows; the best one observed is taken. No designed starts, no floor of the effective sample size, no guard.
# Not stated there, so free: the learning rate of the fine-tuning and kappa.
PAPER: dict[str, Any] = {
    "transform": "cgf",
    "space": "paper10",
    "segments": 4,
    "agent": "gp",
    "trials": 40,
    "batch": 1,
    "starts": False,
    "min_ess": 0.0,
    "fine_tune_epochs": 5.0,
    "confirm_top": 0,
}
TUNING = ("start", "held_out", "confirm", "epochs", "lr", "fine_tune_epochs", "fine_tune_lr", "batch_size", "augment")
RECIPES: dict[str, Mapping[str, Any]] = {"default": {}, "paper": PAPER}


def settled(context: Context, recipe: str, given: Mapping[str, Any], /) -> dict[str, Any]:
    """The command's parameters with those of the recipe in place.

    Args:
        context: Of the command: it knows what the command line said.
        recipe: Of `RECIPES`.
        given: Parameters by name.

    Raises:
        ValueError: No such recipe, or the command line says something else.
    """
    if recipe not in RECIPES:
        raise ValueError(f"--recipe must be one of {', '.join(RECIPES)}, but got {recipe!r}")
    for name, value in RECIPES[recipe].items():
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE" and given[name] != value:
            option = "--" + name.replace("_", "-")
            raise ValueError(f"--recipe {recipe} has {option} {value}, but got {given[name]}: leave one of them out")
    return {**given, **RECIPES[recipe]}


app = typer.Typer(help="Find samplers.", no_args_is_help=True, rich_markup_mode=None)
app.command()(auto)


@app.command()
def swift(
    context: typer.Context,
    table: Annotated[Path, typer.Argument(help="Folder of a feature table.")],
    out: Out,
    catalog: Annotated[str, typer.Option(help="The catalog that the features were made from.")],
    join: Join = None,
    model: Model = "cnn",
    held_out: HeldOut = None,
    start: Annotated[
        Path | None, typer.Option(help="Weights of uniform training, from which candidates fine-tune.")
    ] = None,
    objective: Annotated[str | None, typer.Option(help="Your own, as module:function; instead of fine-tuning.")] = None,
    recipe: Annotated[
        str, typer.Option(autocompletion=words("default", "paper"), help="default, or paper: its exact protocol.")
    ] = "default",
    columns: Annotated[str, typer.Option("--features", help="Columns the sampler reads, comma list.")] = "loss,entropy",
    transform: Annotated[str, typer.Option(autocompletion=words("cgf", "cdf"), help="cgf (the paper) or cdf.")] = "cgf",
    space: Annotated[
        str, typer.Option(autocompletion=words("reduced", "paper10"), help="reduced or paper10.")
    ] = "reduced",
    segments: Annotated[int, typer.Option(help="Segments of H.")] = 4,
    agent: Annotated[
        str,
        typer.Option(
            autocompletion=words("gp", "random", "reinforce", "optuna:TPESampler", "optuna:GPSampler"),
            help="gp (the paper), random, reinforce, optuna:TPESampler or optuna:GPSampler.",
        ),
    ] = "gp",
    trials: Annotated[int, typer.Option(help="Candidates to score.")] = 40,
    batch: Annotated[int, typer.Option(help="Candidates proposed at once, which can run in parallel.")] = 4,
    starts: Annotated[bool, typer.Option(help="Begin with designed candidates.")] = True,
    min_ess: Annotated[float, typer.Option(help="Least effective sample size, as a share of the rows.")] = 0.3,
    kappa: Annotated[float, typer.Option(help="Weight of the deviation in UCB.")] = 1.0,
    fine_tune_epochs: Annotated[float, typer.Option(help="Epochs of a candidate; a part of one will do.")] = 0.25,
    fine_tune_lr: Annotated[float, typer.Option(help="Learning rate of a candidate.")] = 0.02,
    confirm: Annotated[
        str,
        typer.Option(
            autocompletion=words("finetune", "scratch"), help="finetune: for longer, with other seeds; or scratch."
        ),
    ] = "finetune",
    epochs: Annotated[int | None, typer.Option(help="Of a confirmation run; by default 2, or 20 from scratch.")] = None,
    lr: Annotated[float | None, typer.Option(help="Of a confirmation run; by default 0.02, or 0.05.")] = None,
    confirm_top: Annotated[int, typer.Option(help="Candidates to confirm; 0: the best observed is taken.")] = 3,
    confirm_seeds: Annotated[int, typer.Option(help="Seeds of the confirmation.")] = 3,
    workers: Annotated[
        int | None, typer.Option(help="Candidates at once; by default 1, on Ray as many as there is room for.")
    ] = None,
    engine: Engine = "local",
    storage: Annotated[
        str | None, typer.Option(help="Optuna URL of a study that several processes share; by default OUT/study.db.")
    ] = None,
    study: Annotated[str, typer.Option(help="Name of the study in the storage.")] = "swift",
    batch_size: Batch = 128,
    seed: Seed = 0,
    augment: Augment = "none",
    channels: Channels = None,
    device: Device = "cpu",
    tensorboard: Tensorboard = False,
    hook: HookNames = None,
    dry_run: DryRun = False,
    json_path: Json = None,
) -> None:
    """Search a Swift Sampler; it is taken only if it beats the uniform control again, in longer runs with other seeds.

    Example: drawstream search swift features -o search --catalog data/train --held-out data/holdout \
        --model cnn --start runs/uniform/last.safetensors
    """
    from drawstream.search import load_objective
    from drawstream.tools.jobs.search import search_job
    from drawstream.tools.runs.hooks import check_hooks, load_hooks
    from drawstream.tools.training.finetune import FineTuning
    from drawstream.tools.training.loop import Recipe

    options = settled(
        context,
        recipe,
        {
            "transform": transform,
            "space": space,
            "segments": segments,
            "agent": agent,
            "trials": trials,
            "batch": batch,
            "starts": starts,
            "min_ess": min_ess,
            "kappa": kappa,
            "fine_tune_epochs": fine_tune_epochs,
            "confirm_top": confirm_top,
            "confirm_seeds": confirm_seeds,
        },
    )
    length = options.pop("fine_tune_epochs")
    if objective is not None:
        refuse_unused(context, TUNING, "fine-tuning, which an --objective of your own takes the place of")
    elif options["confirm_top"] == 0:
        refuse_unused(context, ("confirm", "confirm_seeds", "epochs", "lr"), "a confirmation, and --confirm-top is 0")
    setup = setup_of(catalog, model, device, batch_size, held_out=held_out, augment=augment, channels=channels)
    if objective is None and start is None:
        raise ValueError("the search needs --start (weights of uniform training) or --objective (module:function)")
    score: Any
    if objective is not None:
        score = load_objective(objective)
    else:
        assert start is not None
        if confirm not in ("finetune", "scratch"):
            raise ValueError(f"--confirm must be finetune or scratch, but got {confirm!r}")
        scratch = confirm == "scratch"
        if length == 0:
            raise ValueError(f"--fine-tune-epochs must be above 0, but got {length}")
        if length > 1 and length != round(length):
            raise ValueError(f"--fine-tune-epochs must be whole, or a part of one, but got {length}")
        short = Recipe(max(1, round(length)), fine_tune_lr, seed=seed)
        usual = (20, 0.05) if scratch else (2, fine_tune_lr)
        longer = Recipe(usual[0] if epochs is None else epochs, usual[1] if lr is None else lr)
        score = FineTuning(setup, start, short, longer, min(1.0, length), scratch, table)
        _ = score.built  # what does not fit is told before the search begins
    options["features"] = columns.split(",")
    running = {"storage": storage, "study_name": study, "workers": workers, "engine": engine}
    known: dict[str, Any] = {"seed": seed, "options": options, "join": join or (), "running": running}
    known["spec"] = objective or ""
    if dry_run:
        from drawstream.tools.estimate.search import estimate_swift
        from drawstream.tools.estimate.stages import tell

        check_hooks(hook or (), tensorboard=tensorboard)
        built = score.built if isinstance(score, FineTuning) else score
        tell(estimate_swift(setup, table, built, out, **known), json_path)
        return
    hooks = load_hooks(out, hook or (), tensorboard=tensorboard)
    record = search_job(setup, table, score, out, **known, hooks=hooks)
    kept = "the uniform sampler" if record["winner"] == "uniform" else "this sampler"
    finish(record, json_path, f"{record['message']}; {kept} is in {out / 'sampler.json'}")
