"""The AutoSampling benchmark at one noise level under one seed: searches, and trainings on what they found.

dlis/, rais/      trained on rows that importance sampling draws
uniform-K/        independent plain trainings, each with its own initial weights and order; 0 is the control
search-random/    schedule.arrow, distribution.parquet, auto.json of exploitation only;  search-mixture/  of the whole
replay-random/    trained on the schedule from the initial weights of the search;  replay-mixture/  likewise
static/           trained on draws of the mixture's distribution;  static-MODEL/  of search-mixture-MODEL/'s
replay-other/     trained on the mixture's schedule from the initial weights of uniform-1

A search looks at no test image. Its replay ends with the same weights, bit by bit, so the replay's test accuracies are
those of the search's own child.
"""

from dataclasses import asdict, dataclass, replace

import numpy as np
import torch
from safetensors.torch import load_file

from drawstream.samplers.files import map_weights
from drawstream.samplers.orders import IndexStream, Schedule
from drawstream.search.auto import PopulationPlan
from drawstream.tools.bench import Cell, Record
from drawstream.tools.jobs import AutoJob, auto_job
from drawstream.tools.runs import pick
from drawstream.tools.training import Recipe
from drawstream.tools.training.methods import Budget, Sampling

__all__ = ["METHODS", "AutoCell", "Settings", "folders"]

METHODS = ("uniform", "best-of", "dlis", "rais", "random", "mixture", "static", "replay", "replay-other")
WORK = ("seconds", "forward", "backward")


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings of the searches; `epochs` also holds for trainings without a search.

    Attributes:
        epochs: The learning rate runs over them for all methods.
        population: N_p, children; and the independent runs of `best-of`. 20 in the paper.
        interval: N_s, batches; 20 in the paper.
        first: Epochs before the first exploration; 20 of 240 in the paper.
        permutations: N_u; 3 in the paper.
        reward_rows: Held-out rows that the reward is taken on; the others say what the choice is worth.
    """

    epochs: int
    population: int = 4
    interval: int = 20
    first: int = 2
    permutations: int = 3
    reward_rows: int = 1000


def folders(method: str, population: int, /) -> tuple[list[str], str | None]:
    """Return the folders of the trainings that a method needs, and of its search."""
    if method in ("uniform", "best-of"):
        return [f"uniform-{number}" for number in range(population if method == "best-of" else 1)], None
    if method in ("dlis", "rais"):
        return [method], None
    if method in ("random", "mixture"):
        return [f"replay-{method}"], f"search-{method}"
    if method.startswith("static-"):
        return [method], f"search-mixture-{method.removeprefix('static-')}"
    return ["replay-mixture" if method == "replay" else method], "search-mixture"


@dataclass(frozen=True)
class AutoCell(Cell):
    """Data and runs of the methods of the AutoSampling benchmark.

    Attributes:
        settings: Of the searches.
    """

    settings: Settings

    def outcome(self, method: str, /) -> Record:
        """Return a method's accuracies (last, best; per cent) and its whole work from nothing.

        `seconds`, `forward` and `backward` count all that the method needs, searches included; `reward_forward` is the
        part of `forward` that went into rewards, `train_seconds` the part of `seconds` that a user spends who is given
        the schedule or the distribution. Evaluations after an epoch, which all have, are in none of them. The held-out
        set chooses the run for `last`, and run and epoch for `best`.
        """
        names, found = folders(method, self.settings.population)
        search = self.search(found.removeprefix("search-")) if found else None
        runs = [self.run(name) for name in names]
        epochs = [epoch["accuracy"] for run in runs for epoch in run["history"]]
        ends = [run["history"][-1]["accuracy"] for run in runs]
        work = [search["work"]] if search else []
        work += [] if method in ("random", "mixture") else runs  # the search has trained its child itself
        return {
            "last": max(ends, key=lambda accuracy: accuracy["held_out"])["test"],
            "best": max(epochs, key=lambda accuracy: accuracy["held_out"])["test"],
            **{key: sum(each[key] for each in work) for key in WORK},
            "reward_forward": search["work"]["reward_forward"] if search else 0,
            "train_seconds": sum(run["seconds"] for run in runs),
        }

    def seed_of(self, number: int) -> int:
        """Return the seed of one of the independent runs: the cell's own for the first."""
        return int(np.random.SeedSequence([self.seed, number]).generate_state(1)[0]) if number else self.seed

    @property
    def draws(self) -> int:
        """Rows of an epoch: whole batches, as in a search, so that all trainings have as many steps."""
        return self.rows // self.plan.batch_size * self.plan.batch_size

    def run(self, name: str, /) -> Record:
        """Train in the folder `name` as its name says; a search that it needs comes first."""
        kind, _, of = name.partition("-")
        if kind == "uniform":
            seed = self.seed_of(int(of))
            return self.train_once(name, IndexStream(self.rows, seed=seed, draws=self.draws), self.recipe(seed))
        if kind in ("dlis", "rais"):
            sampling = Sampling(kind, budget=Budget(self.draws / self.rows))
            return self.train_once(name, sampling, self.recipe(self.seed))
        search = f"mixture-{of}" if kind == "static" and of else "random" if of == "random" else "mixture"
        folder = self.folder / self.search(search)["method"]
        if kind == "static":
            weights = map_weights(folder / "distribution.parquet", column="weight")
            stream = IndexStream(weights, seed=self.seed, draws=self.draws)
        else:
            stream = IndexStream(Schedule.open(folder / "schedule.arrow"))
        return self.train_once(name, stream, self.recipe(self.seed_of(1 if of == "other" else 0)))

    def same_weights(self, exploration: str) -> bool:
        """Tell whether the replay of a search ended with the same weights."""
        self.run(f"replay-{exploration}")
        found, again = (
            load_file(self.folder / f"{kind}-{exploration}" / "last.safetensors") for kind in ("search", "replay")
        )
        return found.keys() == again.keys() and all(torch.equal(found[name], again[name]) for name in found)

    def recipe(self, seed: int) -> Recipe:
        """Return the recipe of every training."""
        return replace(self.plan.recipe, epochs=self.settings.epochs, seed=seed)

    def search(self, name: str) -> Record:
        """Search a schedule: `random`, `mixture`, or `mixture-MODEL` on another model.

        `work` leaves out the second scores, which are for the figures only.
        """
        exploration, _, model = name.partition("-")
        setup = replace(self.setup, model=model or self.setup.model)
        name = f"search-{name}"
        law = {**asdict(self.settings), "rows": self.rows, "batch_size": self.plan.batch_size, "seed": self.seed}
        plan = pick(PopulationPlan, law, exploration=exploration)
        job = AutoJob(setup, self.recipe(self.seed), self.folder / name, plan, second_score=True)
        record = auto_job(replace(job, reward_rows=self.settings.reward_rows))
        work = {key: record[key] for key in ("forward", "backward")}
        work["seconds"] = sum(record["seconds"].values()) - record["second_score"]["seconds"]
        work["reward_forward"] = record["forward"] - record["backward"]
        return record | {"method": name, "work": work}
