"""AutoSampling as a job: data, children and the record around `search_auto`."""

import math
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from torch import Tensor, nn

from drawstream.features.table import rows_where
from drawstream.pipeline import Loader, plain
from drawstream.pipeline.shards import claimed
from drawstream.samplers import derive_keys
from drawstream.samplers.files import write_atomically
from drawstream.samplers.orders import IndexStream, Sequential
from drawstream.search.auto import Group, InTurn, PopulationPlan, children_of, of_first, search_auto
from drawstream.tools.runs import (
    Hook,
    Hooks,
    Progress,
    finished_record,
    model_identity,
    reuse,
    shapes_hash,
    write_record,
)
from drawstream.tools.training import (
    Kept,
    ModelChild,
    Ranks,
    Recipe,
    Reward,
    Setup,
    Streamed,
    TwoScores,
    keep,
    overrides,
    row_losses,
    save_weights,
    top1,
)

FILES = ("schedule.arrow", "distribution.parquet", "last.safetensors")
LOSSES = "losses/epoch-{}.npy"  # of all rows, float32 (rows,), after an epoch
KEPT = 2 << 30  # bytes of decoded training images that a process keeps in memory; above that they are streamed


@dataclass(frozen=True)
class AutoJob:
    """A search of a schedule.

    Attributes:
        setup: Data and model; the held-out set gives the rewards, and a test set is looked at once, at the end.
        recipe: Of the children.
        out: Folder of the results.
        plan: Over the rows, batches, epochs and seed of setup and recipe.
        reward: `accuracy` (per cent) or `loss` (the negative mean cross-entropy in nats).
        reward_rows: Held-out images that it is taken on, drawn once by the seed.
        second_score: Also take every child's accuracy on the other held-out images, which choose nothing: it says how
            much of the choice is luck; for one process.
        ranks: Share the population.
        balance: γ of the classes in all that is drawn, see `samplers.methods.balance`.
        where: Condition on the rows that are drawn (`pipeline.row_filter`), over the catalog's columns; the plan's rows
            are those for which it holds.
    """

    setup: Setup
    recipe: Recipe
    out: Path
    plan: PopulationPlan
    reward: Reward = "accuracy"
    reward_rows: int = 1000
    second_score: bool = False
    ranks: Ranks = field(default_factory=Ranks)
    balance: float = 0.0
    where: str | None = None


def auto_job(job: AutoJob, /, hooks: Sequence[Hook] = ()) -> dict[str, Any]:
    """Search a schedule; write `schedule.arrow`, `distribution.parquet`, `last.safetensors`, `losses`, `auto.json`.

    The losses of all rows at the end of each stage are for the report; their passes over the data are not in the
    record's work.

    Raises:
        ValueError: There is no held-out set, it is the training set, `out` holds another search, or the children
            cannot be scored twice.
    """
    setup, recipe, out, plan, ranks = job.setup, job.recipe, job.out, job.plan, job.ranks
    setup.data.require_labels("AutoSampling, by the accuracy of its children,", "class")
    settings = _settings(job)
    settings["second_rows"] = _second_rows(settings, ranks) if job.second_score else 0
    first = setup.build(recipe.seed)
    decides: dict[str, Any] = {
        **model_identity(setup.model),
        "tensors": shapes_hash(first.state_dict()),
        "held_out": settings["held_out_fingerprint"],
        "transform": setup.transforms[0].as_dict(),
        **{key: settings[key] for key in ("reward", "augment", "recipe", "second_rows")},
        **{key: settings[key] for key in ("balance", "where") if key in settings},
    }
    own = {"catalog": setup.data.fingerprint, "auto": settings["auto"], "test": settings["test_fingerprint"]}
    settings["identity"] = plain({**decides, **own})
    path = out / "auto.json"
    finished = of_first(ranks, lambda: finished_record(path, "auto", settings["identity"], FILES))
    if finished is not None:
        return reuse(path, finished, quiet=not ranks.writes)
    begin = time.perf_counter()
    rewarded = settings["reward"]["rows"]
    sets = setup.evaluation_loaders()
    images, labels = _reward_set(sets["held_out"], recipe.seed, rewarded + settings["second_rows"])
    held_out, others = (images[:rewarded], labels[:rewarded]), (images[rewarded:], labels[rewarded:])
    source = source_of(setup, recipe.seed, plan.steps)
    where = None if job.where is None else rows_where(job.where, setup.data)
    drawn: dict[str, Any] = {"where": where, "balance": job.balance}
    drawn["labels"] = setup.data.label if where is None else setup.data.label[where]
    mine = len(children_of(ranks, population=plan.population))
    about: dict[str, Any] = {"steps": plan.steps, "mix": setup.mix(recipe.seed), "reward": job.reward}
    models = [first, *(setup.build(recipe.seed) for _ in range(mine - 1))]
    ends = [stage.stop for stage in plan.stages()]
    children = [ModelChild(model, source, held_out, recipe, **about) for model in models]
    group: Group = TwoScores(children, others) if job.second_score else InTurn(children)
    watch = Hooks(out, hooks, writes=ranks.writes)
    with ExitStack() as writing, Progress("search auto", "intervals", quiet=not ranks.writes) as progress:
        of_first(ranks, lambda: writing.enter_context(claimed(out)))
        watch.begin("auto", settings)

        def show(event: dict[str, Any]) -> None:
            progress.update(event["done"], event["total"], _note(event))
            rewards = [each for each in event["rewards"] if not math.isnan(each)]
            watch.step(event["done"], event["total"], {"reward": max(rewards), "reward_mean": fmean(rewards)})
            epoch, within = divmod(event["done"], plan.intervals)
            if ranks.writes and not within and epoch in ends:
                _write_losses(out / LOSSES.format(epoch), setup, first, recipe)

        notes: dict[str, Any] = {"catalog": setup.data.fingerprint, "provenance": plain(decides)}
        result = search_auto(group, out, plan, **notes, ranks=ranks, **drawn, progress=show)
    trained = int(result.steps.sum()) * plan.batch_size * plan.population
    record = {
        **settings,
        "schedule": result.schedule,
        "distribution": result.distribution,
        "weights": out / "last.safetensors",
        "steps": result.steps.tolist(),
        "rewards": [[None if math.isnan(each) else each for each in interval] for interval in result.rewards.tolist()],
        "winners": result.winners.tolist(),
        "losses": [out / LOSSES.format(epoch) for epoch in ends],
        "seconds": result.seconds,
        "wall_seconds": time.perf_counter() - begin,
        "ranks": ranks.world_size,
        "forward": trained + result.rewards.size * rewarded,
        "backward": trained,
    }
    if isinstance(group, TwoScores):
        record["second_score"] = {"rows": len(others[1]), "scores": group.scores, "seconds": group.seconds}
    if ranks.writes:
        if "test" in sets:
            record["result"] = {"set": "test", "last": top1(first, sets["test"], amp=recipe.amp)}
        save_weights(out / "last.safetensors", result.state["model"])
        record = write_record(path, "auto", record)
        watch.end(record)
        (out / "checkpoint.pt").unlink(missing_ok=True)
    for each in sets.values():
        each.close()
    return ranks.share(record, 0)  # type: ignore[no-any-return]


def _settings(job: AutoJob) -> dict[str, Any]:
    """Return the settings that decide the result, as the record stores them."""
    setup = job.setup
    if setup.held_out is None:
        raise ValueError("the search needs a held-out catalog to take rewards on: give --held-out")
    if job.reward_rows < 1:
        raise ValueError(f"`reward_rows >= 1` must hold, but got {job.reward_rows}")
    if job.recipe.ema or job.recipe.accumulate > 1 or job.recipe.compile or job.recipe.loss != "ce":
        told = "the children of a search train without --ema, --accumulate, --compile and a --loss of their own"
        raise ValueError(f"{told}: leave them out")
    held_out, test = setup.evaluated["held_out"], setup.evaluated.get("test")
    beside = ("rows", "epochs", "seed")  # of the catalog and the recipe
    drawn: dict[str, Any] = {"balance": job.balance, "where": job.where}
    return {
        "seed": job.recipe.seed,
        **{name: getattr(setup, name) for name in ("model", "catalog", "held_out", "global_batch", "augment")},
        "catalog_fingerprint": setup.data.fingerprint,
        "held_out_fingerprint": held_out.fingerprint,
        "held_out_rows": len(held_out),
        "test": setup.test,
        "test_fingerprint": None if test is None else test.fingerprint,
        "reward": {"kind": job.reward, "rows": min(job.reward_rows, len(held_out))},
        "recipe": job.recipe.settings(),
        "named_recipe": overrides(job.recipe, setup),
        "auto": {name: value for name, value in asdict(job.plan).items() if name not in beside},
        **{name: value for name, value in drawn.items() if value},
    }


def _second_rows(settings: dict[str, Any], ranks: Ranks) -> int:
    """Held-out images that the reward is not taken on."""
    rows = settings["held_out_rows"]
    if rows == settings["reward"]["rows"]:
        raise ValueError(
            f"a second score needs held-out images that the reward leaves, but it takes all {rows}: give fewer "
            "reward rows"
        )
    if ranks.world_size > 1:
        raise ValueError("a second score is for children of one process: leave out torchrun")
    return int(rows - settings["reward"]["rows"])


def source_of(setup: Setup, seed: int, steps: int | None = None, /) -> Kept | Streamed:
    """Training images of a process: kept in memory where they fit and their transform draws nothing, else streamed."""
    loader, rows = setup.training_loader(), len(setup.data)
    transform, plain = setup.transforms
    height, width = plain.size
    if transform == plain and 4 * rows * setup.input_channels * height * width <= KEPT:
        loader.replace_stream(Sequential(0, rows))
        kept = Kept(loader, setup.global_batch)
        loader.close()
        return kept
    return Streamed(loader, setup.global_batch, steps or rows // setup.global_batch, seed)


def _reward_set(held_out: Loader, seed: int, rows: int) -> tuple[Tensor, Tensor]:
    """Images and labels of some held-out rows, drawn by the seed."""
    own = int(derive_keys(1, "reward", seed)[0])
    held_out.replace_stream(IndexStream(len(held_out.catalog), seed=own, draws=rows))
    return keep(held_out)


def _write_losses(path: Path, setup: Setup, model: nn.Module, recipe: Recipe) -> None:
    """Write the loss of every training row under a model."""
    with closing(setup.ordered_loader()) as loader:
        losses = row_losses(model, loader, amp=recipe.amp)
    path.parent.mkdir(exist_ok=True)
    with write_atomically(path) as draft, draft.open("wb") as file:
        np.save(file, losses)


def _note(event: dict[str, Any]) -> str:
    rewards, seconds = event["rewards"], event["seconds"]
    share = (seconds["evaluate"] + seconds["clone"]) / max(sum(seconds.values()), 1e-9)
    return f"reward {rewards[event['winner']]:.4g}, worst child {min(rewards):.4g}, {share:.0%} evaluating and cloning"
