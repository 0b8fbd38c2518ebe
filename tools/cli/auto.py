"""`drawstream search auto`: a population of children searches the schedule itself (AutoSampling)."""

from dataclasses import replace
from typing import Annotated, Any

import typer

from drawstream.tools.cli.options import (
    Annealing,
    Augment,
    Batch,
    CatalogArg,
    Channels,
    Device,
    DryRun,
    HookNames,
    Json,
    LearningRate,
    Model,
    Out,
    Seed,
    Tensorboard,
    TrainingAmp,
    WeightDecay,
    in_bf16,
    one_of,
    setup_of,
    words,
)
from drawstream.tools.runs.record import finish


def auto(
    catalog: CatalogArg,
    out: Out,
    held_out: Annotated[str, typer.Option(help="Catalog that rewards are taken on: chooses, so never the test set.")],
    model: Model = "cnn",
    exploration: Annotated[
        str,
        typer.Option(
            autocompletion=words("mixture", "random", "uniform"),
            help="mixture (the paper), random (exploitation only) or uniform (plain training).",
        ),
    ] = "mixture",
    population: Annotated[int | None, typer.Option(help="Children; 4, or 1 with uniform exploration.")] = None,
    interval: Annotated[int, typer.Option(help="Batches between two evaluations.")] = 20,
    explore_after: Annotated[
        int | None, typer.Option(help="Epochs before the first exploration; a twelfth, as in the paper: 20 of 240.")
    ] = None,
    permutations: Annotated[int, typer.Option(help="Full permutations of the data in a cycle, N_u.")] = 3,
    beta: Annotated[float, typer.Option(help="Smoothing factor, at least 1.")] = 1.0,
    smoothing: Annotated[str, typer.Option(help="log_count, log_relative or literal.")] = "log_count",
    estimate: Annotated[str, typer.Option(help="Rows counted for the distribution: of a cycle, or the run.")] = "cycle",
    reward: Annotated[str, typer.Option(help="accuracy, or loss (its negative).")] = "accuracy",
    reward_rows: Annotated[int, typer.Option(help="Held-out images that a reward is taken on, drawn once.")] = 1000,
    second_score: Annotated[
        bool, typer.Option(help="Score the children on the other held-out images too: how much of the choice is luck?")
    ] = False,
    epochs: Annotated[int, typer.Option(help="Of as many whole batches as the data gives.")] = 20,
    lr: LearningRate = 0.05,
    schedule: Annealing = "cosine",
    weight_decay: WeightDecay = 5e-4,
    batch_size: Batch = 128,
    seed: Seed = 0,
    augment: Augment = "none",
    amp: TrainingAmp = "off",
    channels: Channels = None,
    device: Device = "cpu",
    tensorboard: Tensorboard = False,
    hook: HookNames = None,
    dry_run: DryRun = False,
    json_path: Json = None,
) -> None:
    """Search a schedule with a population: the best child's rows of every interval, its weights cloned into all.

    Writes schedule.arrow (replays exactly), distribution.parquet (to draw from, or for another model), last.safetensors
    and auto.json. Costs as many trainings as there are children, and the rewards. A killed search goes on when started
    again.

    Example: drawstream search auto data/train -o auto --held-out data/holdout --population 4 --epochs 20

    Children on several GPUs or processes: torchrun --nproc-per-node 4 -m drawstream.tools.cli search auto …
    """
    from drawstream.tools.jobs.auto import auto_job
    from drawstream.tools.runs.hooks import check_hooks, load_hooks
    from drawstream.tools.training.loop import Recipe
    from drawstream.tools.training.ranks import join_ranks, leave_ranks

    if reward not in ("accuracy", "loss"):
        raise ValueError(f"--reward must be accuracy or loss, but got {reward!r}")
    first = max(1, round(epochs / 12)) if explore_after is None else explore_after
    if exploration == "mixture" and first >= epochs:
        raise ValueError(
            f"--explore-after must be less than --epochs, or the mixture never explores, but got {first} and {epochs}"
        )
    options = {
        "population": (1 if exploration == "uniform" else 4) if population is None else population,
        "exploration": exploration,
        "interval": interval,
        "first": first,
        "permutations": permutations,
        "beta": beta,
        "smoothing": smoothing,
        "estimate": estimate,
    }
    recipe = Recipe(epochs, lr, one_of("schedule", schedule), weight_decay=weight_decay, seed=seed, amp=in_bf16(amp))
    ranks = join_ranks(device)
    lone = replace(ranks, rank=0, world_size=1)  # a child trains on whole batches, by itself
    setup = setup_of(
        catalog, model, device, batch_size, held_out=held_out, augment=augment, ranks=lone, channels=channels
    )
    rewards = {"reward": one_of("reward", reward), "reward_rows": reward_rows, "second_score": second_score}
    if dry_run:
        from drawstream.tools.estimate.search import estimate_auto
        from drawstream.tools.estimate.stages import tell

        check_hooks(hook or (), tensorboard=tensorboard)
        found = estimate_auto(setup, recipe, out, options=options, **rewards, ranks=ranks)
        leave_ranks()
        if ranks.writes:
            tell(found, json_path)
        return
    hooks = load_hooks(out, hook or (), tensorboard=tensorboard) if ranks.writes else []
    record = auto_job(setup, recipe, out, options=options, **rewards, ranks=ranks, hooks=hooks)
    leave_ranks()
    if ranks.writes:
        finish(record, json_path, f"{summary(record)}: {out / 'schedule.arrow'}")


def summary(record: dict[str, Any], /) -> str:
    """One line on a finished search."""
    seconds, rewards = record["seconds"], record["rewards"]
    total = sum(seconds.values())
    kind = "accuracy {:.2f} %" if record["reward"]["kind"] == "accuracy" else "loss {:.4f}"
    shares = {part: seconds[part] / max(total, 1e-9) for part in seconds}
    children = len(rewards[0])
    return (
        f"{record['auto']['exploration']}, {children} {'child' if children == 1 else 'children'}, {len(rewards)} "
        "intervals in "
        f"{total:.1f} s ({shares['evaluate']:.1%} evaluating on {record['reward']['rows']} images, "
        f"{shares['clone']:.1%} cloning, {shares['write']:.2%} writing); last reward: "
        f"{kind.format(abs(max(each for each in rewards[-1] if each is not None)))}"
    )
