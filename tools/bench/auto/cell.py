"""One noise level under one seed of the AutoSampling benchmark: searches, and trainings on what they found.

data/, test/      as in the noise benchmark (`noise_cell.Cell`)
uniform-K/        independent plain trainings, each with its own initial weights and order; 0 is the control
search-random/    schedule.arrow, distribution.parquet, auto.json of exploitation only;  search-mixture/  of the whole,
                  with features/, the loss of the rows under the weights that it ended with
replay-random/    trained on the schedule from the initial weights of the search;  replay-mixture/  likewise
static/           trained on draws of the mixture's distribution
replay-other/     trained on the mixture's schedule from the initial weights of uniform-1

A search looks at no test image. Its replay ends with the same weights, bit by bit, so the replay's test accuracies are
those of the search's own child.
"""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from drawstream.samplers import IndexStream
from drawstream.samplers.files.weights_file import map_weights
from drawstream.samplers.orders.schedule import Schedule
from drawstream.tools.bench.noise.cell import Cell, Record
from drawstream.tools.jobs.auto import auto_job
from drawstream.tools.jobs.features import features_job
from drawstream.tools.runs.identity import model_identity, training_identity
from drawstream.tools.runs.progress import Progress
from drawstream.tools.runs.record import finished_record, write_record
from drawstream.tools.training.loop import Recipe, train
from drawstream.tools.training.models import save_weights

__all__ = ["METHODS", "AutoCell", "Settings", "folders"]

METHODS = ("uniform", "best-of", "random", "mixture", "static", "replay", "replay-other")


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

    def options(self, exploration: str, /) -> dict[str, Any]:
        """Keywords of a search."""
        shared = {key: getattr(self, key) for key in ("population", "interval", "first", "permutations")}
        return {**shared, "exploration": exploration}


def folders(method: str, population: int, /) -> tuple[list[str], str | None]:
    """Folders of the trainings that a method needs, and of its search."""
    match method:
        case "uniform" | "best-of":
            return [f"uniform-{number}" for number in range(population if method == "best-of" else 1)], None
        case "random" | "mixture":
            return [f"replay-{method}"], f"search-{method}"
        case "replay":
            return ["replay-mixture"], "search-mixture"
    return [method], "search-mixture"


@dataclass(frozen=True)
class AutoCell:
    """Data and runs of one noise level under one seed; what is finished is read.

    Attributes:
        data: Folder, plan, catalogs and loaders, as the noise benchmark has them.
        settings: Of the searches.
    """

    data: Cell
    settings: Settings

    def runs(self, method: str, /) -> Record:
        """A method's accuracies (last, best; per cent) and its whole work from nothing.

        `seconds`, `forward` and `backward` count all that the method needs, searches included; `reward_forward` is the
        part of `forward` that went into rewards, `train_seconds` the part of `seconds` that a user spends who is given
        the schedule or the distribution. Evaluations after an epoch, which all have, are in none of them.
        """
        match method:
            case "uniform":
                return self._row([self.uniform(0)])
            case "best-of":
                return self._row([self.uniform(number) for number in range(self.settings.population)])
            case "random" | "mixture":
                return self._row([self.replay(method)], self.search(method), trained=False)
            case "static":
                return self._row([self.static()], self.search("mixture"))
            case "replay":
                return self._row([self.replay("mixture")], self.search("mixture"))
            case _:
                return self._row([self.replay_other()], self.search("mixture"))

    def _row(self, runs: list[Record], search: Record | None = None, *, trained: bool = True) -> Record:
        """Return the row of a method; the held-out set chooses the run for `last`, and run and epoch for `best`."""
        epochs = [epoch["accuracy"] for run in runs for epoch in run["history"]]
        ends = [run["history"][-1]["accuracy"] for run in runs]
        work = [search["work"]] if search else []
        work += [run["work"] for run in runs] if trained else []
        total = {key: sum(each[key] for each in work) for key in ("seconds", "forward", "backward")}
        return {
            "last": max(ends, key=lambda accuracy: accuracy["held_out"])["test"],
            "best": max(epochs, key=lambda accuracy: accuracy["held_out"])["test"],
            **total,
            "reward_forward": search["work"]["reward_forward"] if search else 0,
            "train_seconds": sum(run["work"]["seconds"] for run in runs),
        }

    def seed_of(self, number: int) -> int:
        """Seed of one of the independent runs: the cell's own for the first."""
        return int(np.random.SeedSequence([self.data.seed, number]).generate_state(1)[0]) if number else self.data.seed

    @property
    def draws(self) -> int:
        """Rows of an epoch: whole batches, as in a search, so that all trainings have as many steps."""
        batch = self.data.plan.batch_size
        return len(self.data.setups["clean"].data) // batch * batch

    def uniform(self, number: int) -> Record:
        """A plain training."""
        seed = self.seed_of(number)
        stream = IndexStream(len(self.data.setups["clean"].data), seed=seed, draws=self.draws)
        return self.train(f"uniform-{number}", stream, seed)

    def replay(self, exploration: str) -> Record:
        """Train on the schedule of a search from its own initial weights; its test accuracies are the search's.

        `identical` says whether it ended with the same weights.
        """
        search = self.search(exploration)
        stream = IndexStream(Schedule.open(self.folder(search["method"]) / "schedule.arrow"))
        record = self.train(f"replay-{exploration}", stream, self.data.seed)
        found, again = (
            load_file(self.folder(name) / "last.safetensors") for name in (search["method"], record["method"])
        )
        same = found.keys() == again.keys() and all(torch.equal(found[name], again[name]) for name in found)
        return record | {"identical": same}

    def replay_other(self) -> Record:
        """The same from the initial weights of the second plain training: does the order itself carry anything?"""
        self.search("mixture")
        stream = IndexStream(Schedule.open(self.folder("search-mixture") / "schedule.arrow"))
        return self.train("replay-other", stream, self.seed_of(1))

    def static(self) -> Record:
        """Train on draws of the distribution over the whole run."""
        self.search("mixture")
        weights = map_weights(self.folder("search-mixture") / "distribution.parquet", column="weight")
        return self.train("static", IndexStream(weights, seed=self.data.seed, draws=self.draws), self.data.seed)

    def folder(self, name: str) -> Path:
        """Return the folder of a run."""
        return self.data.folder / name

    def recipe(self, seed: int) -> Recipe:
        """Return the recipe of every training."""
        return replace(self.data.plan.recipe, epochs=self.settings.epochs, seed=seed)

    def search(self, exploration: str) -> Record:
        """Search a schedule; `work` leaves out the second scores, which are for the figures only."""
        name, settings = f"search-{exploration}", self.settings
        record = auto_job(
            self.data.setups["clean"],
            self.recipe(self.data.seed),
            self.folder(name),
            options=settings.options(exploration),
            reward_rows=settings.reward_rows,
            second_score=True,
        )
        second = record["second_score"]["seconds"]
        reward_forward = record["forward"] - record["backward"]
        work = {key: record[key] for key in ("forward", "backward")}
        work |= {"seconds": sum(record["seconds"].values()) - second, "reward_forward": reward_forward}
        return record | {"method": name, "work": work}

    def score_rows(self) -> None:
        """Make a feature table of the rows under the last weights of the mixture."""
        folder = self.folder("search-mixture")
        features_job(self.data.setups["clean"], folder / "last.safetensors", folder / "features")

    def train(self, name: str, stream: IndexStream, seed: int) -> Record:
        """Train once from scratch, in the folder `name`; a run that is finished is read, a killed one goes on.

        Raises:
            ValueError: The folder holds a run with other settings.
        """
        setup, folder, loader = self.data.setups["clean"], self.folder(name), self.data.loader
        recipe = self.recipe(seed)
        loader.replace_stream(stream)
        model = setup.build(seed)
        settings: dict[str, Any] = {
            "method": name,
            "seed": seed,
            "model": setup.model,
            "catalog": setup.catalog,
            "catalog_fingerprint": setup.data.fingerprint,
            "stream": loader.stream.fingerprint,
            "recipe": asdict(recipe),
            "global_batch": setup.global_batch,
            "identity": training_identity(
                model,
                loader,
                recipe,
                evaluate=self.data.sets,
                select="held_out",
                about=model_identity(setup.model),
            ),
        }
        path = folder / "run.json"
        finished = finished_record(path, "train", settings["identity"])
        if finished is not None:
            return finished
        with Progress(f"noise {self.data.noise:g}, seed {self.data.seed}, {name}", "epochs") as progress:
            run = train(
                model,
                loader,
                recipe,
                evaluate=self.data.sets,
                select="held_out",
                checkpoint=folder / "checkpoint.pt",
                identity=settings["identity"],
                on_epoch=lambda epoch: progress.update(
                    epoch.epoch + 1, recipe.epochs, f"test {epoch.accuracy['test']:.2f} %"
                ),
            )
        save_weights(folder / "last.safetensors", model.state_dict())
        result = {"set": "test", "last": run.last("test"), "best": run.best("test"), "best_epoch": run.best_epoch}
        work = {"seconds": run.seconds, "forward": run.forward, "backward": run.backward}
        done = {"history": [asdict(epoch) for epoch in run.history], "seconds": run.seconds, "result": result}
        record = write_record(path, "train", {**settings, **done, "work": work})
        (folder / "checkpoint.pt").unlink()
        return record
