"""`drawstream search`: a Swift Sampler (`swift`), or a schedule by a population of children (`auto`)."""

from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import typer

from drawstream.tools.cli import options as shared
from drawstream.tools.runs import COUNT, FEW, SOME, argument, command, finish, option, pick

if TYPE_CHECKING:
    from drawstream.tools.training import FineTune, Setup

app = typer.Typer(help="Find samplers.", no_args_is_help=True, rich_markup_mode=None)

# The protocol of the Swift Sampler's paper (its §3.4): candidates one after the other, each fine-tuned for 5 epochs
# over all rows; the best one observed is taken. No designed starts, no floor of the effective sample size, no guard.
# Not stated there, so free: the learning rate of the fine-tuning and kappa.
PAPER: dict[str, Any] = {
    "transform": "cgf",
    "space": "paper10",
    "segments": 4,
    "agent": "gp",
    "trials": 40,
    "round": 1,
    "starts": False,
    "min_ess": 0.0,
    "fine_tune_epochs": 5.0,
    "confirm_top": 0,
}
TUNING: tuple[str, ...] = ("start", "held_out", "confirm", "objective_metric", "global_batch", "augment")
TUNING += ("fine_tune_epochs", "fine_tune_lr", "loss", "balance", "where")
CROPS = ("crop_filter", "crop_factor")
COURSE = ("epochs", "lr", "schedule", "milestones", "gamma", "warmup_epochs")  # of the learning rate
AGENTS = ("gp", "random", "reinforce", "optuna:TPESampler", "optuna:GPSampler")


@dataclass(frozen=True, kw_only=True)
class SwiftOptions(
    shared.TrainedOptions,
    shared.ClassesOptions,
    shared.DescentOptions,
    shared.LossOptions,
    shared.WhereOptions,
    shared.JoinOptions,
    shared.EngineOptions,
    shared.WatchedOptions,
):
    """Options of `search swift`."""

    table: Path = argument("Folder of a feature table.")
    catalog: list[str] = option(..., "Catalog that the features were made from; repeatable.", "--catalog")
    start: Path | None = option(None, "Fine-tune candidates from these weights of uniform training.")
    objective: str | None = option(None, "Score by your own module:function, instead of fine-tuning.")
    objective_metric: Literal["top1", "top5", "balanced", "map", "rmse", "mae"] | None = option(
        None, "Score of a candidate on the held-out set; by default top1, of several classes map, of values rmse."
    )
    protocol: Literal["default", "paper"] = option(
        "default", "Search by the defaults, or by the paper's exact protocol."
    )
    balance: float = option(
        0.0, "Draw the classes of every candidate more alike: 0 as it has them, 1 each alike.", within=(0, 1)
    )
    features: tuple[str, ...] = option(("loss", "entropy"), "Columns the sampler reads, comma list.")
    transform: Literal["cgf", "cdf"] = option("cgf", "Transform of the features; cgf is the paper's.")
    space: Literal["reduced", "paper10"] = option("reduced", "Space of the candidates.")
    segments: int = option(4, "Segments of H.", within=(1, 32))
    agent: str = option("gp", f"Propose by {', '.join(AGENTS)}; gp is the paper's.", known=AGENTS)
    trials: int = option(40, "Candidates to score.", within=(1, 10**6))
    round: int = option(4, "Candidates to propose at once, which can run in parallel.", within=COUNT)
    starts: bool = option(True, "Begin with designed candidates.")
    min_ess: float = option(0.3, "Least effective sample size, as a share of the rows.", within=(0, 1))
    kappa: float = option(1.0, "Weight of the deviation in UCB.", within=SOME)
    fine_tune_epochs: float = option(0.25, "Epochs of a candidate; a part of one will do.", within=SOME)
    fine_tune_lr: float = option(0.02, "Learning rate of a candidate.", within=SOME)
    crop_filter: bool = option(
        False,
        "Let candidates choose among random crops, as train --crop-filter does; --start scores these.",
    )
    crop_factor: int | None = option(
        None,
        "Rows of the table (or random crops) to draw uniformly for each one that a candidate keeps, as in train; by "
        "default 1, or 2 with --crop-filter.",
        within=FEW,
    )
    confirm: Literal["finetune", "scratch"] = option(
        "finetune", "Confirm by fine-tuning for longer with other seeds, or by training from scratch."
    )
    epochs: int | None = option(None, "Epochs of a confirmation run; by default 2, or 20 from scratch.", within=SOME)
    lr: float | None = option(None, "Learning rate of a confirmation run; by default 0.02, or 0.05.", within=SOME)
    schedule: Literal["cosine", "linear", "step", "constant"] = option(
        "cosine", "Schedule of a confirmation run from scratch."
    )
    confirm_top: int = option(3, "Candidates to confirm; 0: take the best observed.", within=SOME)
    confirm_seeds: int = option(3, "Seeds of the confirmation.", within=(2, 10**4))
    workers: int | None = option(
        None,
        "Candidates to score at once; by default 1, on Ray as many as there is room for.",
        within=COUNT,
        decides=False,
    )
    storage: str | None = option(
        None, "Optuna URL of a study that several processes share; by default OUT/study.db.", decides=False
    )
    study: str = option("swift", "Name of the study in the storage.", decides=False)

    def _of_recipe(self) -> Collection[str]:
        """Without a training from scratch none of the learning rate's course."""
        own = super()._of_recipe()
        return own if self.confirm == "scratch" else [name for name in own if name not in COURSE]

    def followed(self) -> "SwiftOptions":
        """The options under the protocol.

        Raises:
            ValueError: The command line says something else than the protocol.
        """
        if self.protocol == "default":
            return self
        for name, value in PAPER.items():
            if name in self.typed and getattr(self, name) != value:
                said = f"--protocol paper has --{name.replace('_', '-')} {value}"
                raise ValueError(f"{said}, but got {getattr(self, name)}: leave one of them out")
        return replace(self, **PAPER)


@command(app, SwiftOptions)
def swift(given: SwiftOptions) -> None:
    """Search a Swift Sampler; keep it only if it beats uniform again, in longer runs with other seeds.

    Example: drawstream search swift features -o search --catalog data/train --held-out data/holdout \
        --model cnn --start runs/uniform/last.safetensors
    """
    from drawstream.pipeline.workers import Workers
    from drawstream.search import load_objective
    from drawstream.search.swift import Guard, Proposals, Study
    from drawstream.tools.estimate import estimate_swift
    from drawstream.tools.jobs import SearchJob, search_job
    from drawstream.tools.training import Ranks

    given = given.followed()
    if given.objective is not None:
        unused = (*TUNING, *CROPS, *COURSE, *shared.DESCENT)
        given.refuse_typed(unused, "fine-tuning, which an --objective of your own takes the place of")
    elif given.confirm_top == 0:
        given.refuse_typed(("confirm", "confirm_seeds", "epochs", "lr"), "a confirmation, and --confirm-top is 0")
    setup = given.setup()
    score: Any = load_objective(given.objective) if given.objective else _fine_tuning(given, setup)
    parts: dict[str, Any] = {"proposals": pick(Proposals, given), "guard": pick(Guard, given)}
    parts |= {"workers": Workers(given.workers, given.engine), "study": Study(given.storage, given.study)}
    parts |= {"join": tuple(given.join), "spec": given.objective or ""}
    job = pick(SearchJob, given, setup=setup, objective=score, **parts)
    record = shared.run_job(given, Ranks(), job, estimate_swift, search_job)
    if record is not None:
        kept = "the uniform sampler" if record["winner"] == "uniform" else "this sampler"
        finish(record, given.json_path, f"{record['message']}; {kept} is in {given.out / 'sampler.json'}")


def _fine_tuning(given: SwiftOptions, setup: "Setup") -> "FineTune":
    """The built-in objective; what does not fit is told before the search begins."""
    from drawstream.tools.training import FineTune

    if given.start is None:
        raise ValueError("the search needs --start (weights of uniform training) or --objective (module:function)")
    length = given.fine_tune_epochs
    if length == 0:
        raise ValueError(f"--fine-tune-epochs must be above 0, but got {length}")
    if length > 1 and length != round(length):
        raise ValueError(f"--fine-tune-epochs must be whole, or a part of one, but got {length}")
    scratch = given.confirm == "scratch"
    if not scratch:
        given.refuse_typed(COURSE[2:], "--confirm scratch: fine-tuning follows a cosine")
    epochs, lr = (20, 0.05) if scratch else (2, given.fine_tune_lr)
    epochs, lr = epochs if given.epochs is None else given.epochs, lr if given.lr is None else given.lr
    own = given.recipe(epochs=epochs, lr=lr, seed=0)
    longer = own if scratch else own.tuning(epochs, lr)
    short = replace(own.tuning(max(1, round(length)), given.fine_tune_lr), seed=given.seed)
    factor = given.crop_factor if given.crop_factor is not None else 2 if given.crop_filter else 1
    kind: dict[str, Any] = {"table": given.table, "factor": factor, "random_crops": given.crop_filter}
    kind |= {"metric": given.objective_metric, "balance": given.balance, "where": given.where}
    kind["join"] = tuple(given.join)
    score = FineTune(setup, given.start, short, longer, min(1.0, length), scratch, **kind)
    score.open()
    return score


@dataclass(frozen=True, kw_only=True)
class AutoOptions(
    shared.TrainedOptions, shared.ClassesOptions, shared.RecipeOptions, shared.WhereOptions, shared.WatchedOptions
):
    """Options of `search auto`."""

    catalog: list[str] = argument(shared.CATALOG)
    held_out: str = option(..., "Take rewards on this catalog; it chooses, so it is never the test set.")
    test: str | None = option(None, "Report the best child's accuracy on this catalog, once at the end.")
    exploration: Literal["mixture", "random", "uniform"] = option(
        "mixture", "Explore by mixture (the paper), random (exploitation only) or uniform (plain training)."
    )
    population: int | None = option(None, "Children to train; 4, or 1 with uniform exploration.", within=COUNT)
    interval: int = option(20, "Batches between two evaluations.", within=(1, 10**9))
    explore_after: int | None = option(
        None, "Epochs before the first exploration; a twelfth, as in the paper: 20 of 240.", within=SOME
    )
    permutations: int = option(3, "Full permutations of the data in a cycle, N_u.", within=FEW)
    beta: float = option(1.0, "Smoothing factor, at least 1.", within=(1, 10**6))
    count_smoothing: Literal["log_count", "log_relative", "literal"] = option(
        "log_count", "Smooth the counts of draws by this rule."
    )
    estimate: Literal["cycle", "run"] = option(
        "cycle", "Count the rows of a cycle, or of the run, for the distribution."
    )
    mode: Literal["multinomial", "stratified"] = option(
        "multinomial",
        "Draw each child's rows from it independently, or with the least variance (stratified).",
    )
    reward: Literal["accuracy", "loss"] = option("accuracy", "Reward children by accuracy, or loss (its negative).")
    reward_rows: int = option(1000, "Held-out images that a reward is taken on, drawn once.", within=(1, 10**9))
    balance: float = option(
        0.0, "Draw the classes more alike in all epochs: 0 as they are, 1 each alike.", within=(0, 1)
    )
    second_score: bool = option(
        False, "Score the children on the other held-out images too: how much of the choice is luck?"
    )


@command(app, AutoOptions)
def auto(given: AutoOptions) -> None:
    """Search a schedule with a population: the best child's rows of every interval, its weights cloned into all.

    Writes schedule.arrow (replays exactly), distribution.parquet (to draw from, or for another model), losses of the
    rows at three epochs, last.safetensors and auto.json. Costs as many trainings as there are children, and the
    rewards. A killed search goes on when started again.

    Example: drawstream search auto data/train -o auto --held-out data/holdout --population 4 --epochs 20

    Children on several GPUs or processes: torchrun --nproc-per-node 4 -m drawstream.tools.cli search auto …
    """
    from drawstream.features.table import rows_where
    from drawstream.search.auto import PopulationPlan
    from drawstream.tools.estimate import estimate_auto
    from drawstream.tools.jobs import AutoJob, auto_job
    from drawstream.tools.training import join_ranks

    first = max(1, round(given.epochs / 12)) if given.explore_after is None else given.explore_after
    if given.exploration == "mixture" and first >= given.epochs:
        raise ValueError(
            "--explore-after must be less than --epochs, or the mixture never explores, but got "
            f"{first} and {given.epochs}"
        )
    population = given.population or (1 if given.exploration == "uniform" else 4)
    ranks = join_ranks(given.device)
    setup = given.setup(ranks=replace(ranks, rank=0, world_size=1))  # a child trains on whole batches, by itself
    rows = len(setup.data) if given.where is None else int(rows_where(given.where, setup.data).sum())
    sizes = {"rows": rows, "population": population, "batch_size": given.global_batch}
    plan = pick(PopulationPlan, given, first=first, **sizes)
    job = pick(AutoJob, given, setup=setup, recipe=given.recipe(), plan=plan, ranks=ranks)
    record = shared.run_job(given, ranks, job, estimate_auto, auto_job)
    if record is not None:
        finish(record, given.json_path, f"{summary(record)}: {given.out / 'schedule.arrow'}")


def summary(record: dict[str, Any], /) -> str:
    """One line on a finished search."""
    seconds, rewards = record["seconds"], record["rewards"]
    total = sum(seconds.values())
    share = {part: spent / max(total, 1e-9) for part, spent in seconds.items()}
    children = len(rewards[0])
    last = abs(max(each for each in rewards[-1] if each is not None))
    reward = f"accuracy {last:.2f} %" if record["reward"]["kind"] == "accuracy" else f"loss {last:.4f}"
    test = f"test top-1 {record['result']['last']:.2f} %; " if "result" in record else ""
    return (
        f"{test}{record['auto']['exploration']}, {children} {'child' if children == 1 else 'children'}, {len(rewards)} "
        f"intervals in {total:.1f} s ({share['evaluate']:.1%} evaluating on {record['reward']['rows']} images, "
        f"{share['clone']:.1%} cloning, {share['write']:.2%} writing); last reward: {reward}"
    )
