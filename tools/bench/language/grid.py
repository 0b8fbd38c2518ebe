"""Language modelling (Swift Sampler, Tab. 11): uniform draws, and a sampler that reads word frequency and perplexity.

A row is a window of words. A small GPT is trained uniformly; its perplexity of each row and the mean log frequency of
the row's words are the features. From there all is as with images: search by fine-tuning from the uniform weights,
confirmation from scratch beside uniform, a new training with the sampler that is kept.

    validation, test   perplexity after the last epoch: exp of the mean cross-entropy of a word, nats
    gain               test perplexity of uniform less that of the method under the same seed
    shuffled           share of the draws whose words have lost their order, per cent
Nothing but the validation part chooses. `uniform` and `swift` draw equally many rows; what the search costs is apart.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from drawstream.pipeline import plain
from drawstream.samplers import effective_sample_size
from drawstream.samplers.orders import IndexStream
from drawstream.search import Trial
from drawstream.search.swift import Guard, Proposals, Study, runs_of, search_swift, sqlite_url
from drawstream.tools.bench import Record, check_distinct
from drawstream.tools.bench.language.model import GPT
from drawstream.tools.bench.language.text import Text, read_text
from drawstream.tools.cli import LanguageGrid
from drawstream.tools.estimate import Estimate, Probe, Stage
from drawstream.tools.experiments import Entry, Row, Table, blocks, control_of, entries_of, table_of
from drawstream.tools.runs import before, conclude, finished_record, write_record
from drawstream.tools.training import Descent, Recipe, autocast, load_weights, save_weights

__all__ = ["FEATURES", "check", "estimate", "run", "tables"]

FEATURES = ("frequency", "perplexity")
METHODS = ("uniform", "swift")
RECIPE = Recipe(8, 0.003, optimizer="adamw", weight_decay=0.05, clip_grad=1.0)
CONFIRM_SEEDS = 3  # with one candidate at two seeds nothing but a huge gain is beyond noise
PLAN = ("text", "length", "vocabulary", "width", "layers", "heads", "epochs", "lr", "global_batch", "trials")
SCORED = 256  # rows of a forward pass of the evaluation


def check(grid: LanguageGrid, /) -> None:
    """Refuse a grid that cannot be run, before anything is (ValueError)."""
    check_distinct(shuffled=grid.shuffled, seeds=grid.seeds)
    if not all(0 <= share < 1 for share in grid.shuffled):
        raise ValueError(f"`0 <= shuffled < 1` must hold, but got {list(grid.shuffled)}")
    if grid.width % grid.heads:
        raise ValueError(f"`width` must be a multiple of the heads, but got {grid.width} and {grid.heads}")


@dataclass(frozen=True, slots=True)
class LanguageCell:
    """Trainings and search of one text under one seed, in a folder of their own; what is finished is read."""

    folder: Path
    grid: LanguageGrid
    text: Text
    seed: int

    @property
    def recipe(self) -> Recipe:
        """Recipe of every training."""
        given = {name: getattr(self.grid, name) for name in ("epochs", "lr", "amp", "weight_decay")}
        return replace(RECIPE, **given)

    @property
    def tuning(self) -> Recipe:
        """Recipe of a candidate, from the weights of the uniform training."""
        return replace(self.recipe, epochs=self.grid.fine_tune_epochs, lr=self.grid.lr / 3)

    @property
    def settings(self) -> dict[str, Any]:
        """Settings that decide a training beside recipe and text, as a record keeps them."""
        found = {name: getattr(self.grid, name) for name in ("length", "width", "layers", "heads")}
        return found | {"batch_size": self.grid.global_batch}

    @property
    def rows(self) -> int:
        """Training rows."""
        return len(self.text.train)

    def model(self, seed: int) -> GPT:
        """Build a model on the device."""
        grid = self.grid
        sizes = {name: getattr(grid, name) for name in ("width", "layers", "heads")}
        return GPT(self.text.words, grid.length, **sizes, seed=seed).to("cuda" if grid.device == "gpu" else "cpu")

    def descend(self, model: GPT, stream: IndexStream, recipe: Recipe) -> None:
        """Train a model on the rows of a stream, whole batches alone."""
        windows, batch = self.text.train, self.grid.global_batch
        descent, steps = Descent(model, recipe), max(1, stream.draws // batch)
        device = next(model.parameters()).device
        with torch.random.fork_rng():  # dropout
            torch.manual_seed(recipe.seed)
            model.train()
            for epoch in range(recipe.epochs):
                order = torch.from_numpy(stream.epoch(epoch)[:])
                for step in range(steps):
                    drawn = windows[order[step * batch : (step + 1) * batch]].to(device)
                    with autocast(device, recipe.amp):
                        loss = F.cross_entropy(model(drawn[:, :-1]).flatten(0, 1), drawn[:, 1:].flatten())
                    descent.descend(loss, recipe.lr_at(epoch * steps + step, recipe.epochs * steps))

    def train(self, name: str, probabilities: NDArray[np.float64] | None = None) -> Record:
        """Train once from scratch, uniformly or with P; a finished run is read."""
        recipe, path = replace(self.recipe, seed=self.seed), self.folder / name / "run.json"
        stream = IndexStream(self.rows if probabilities is None else probabilities, seed=self.seed)
        decides = {"recipe": recipe.settings(), "text": self.text.fingerprint, "stream": stream.fingerprint}
        identity = plain({**self.settings, **decides})
        found = finished_record(path, "language", identity, ("last.safetensors",))
        if found is not None:
            return found
        begin, model = time.perf_counter(), self.model(self.seed)
        self.descend(model, stream, recipe)
        path.parent.mkdir(parents=True, exist_ok=True)
        save_weights(path.parent / "last.safetensors", model.state_dict())
        result = {"validation": perplexity(model, self.text.held_out), "test": perplexity(model, self.text.test)}
        return write_record(
            path, "language", {"identity": identity, "seconds": time.perf_counter() - begin, "result": result}
        )

    def search(self) -> tuple[Record, NDArray[np.float64]]:
        """Search a sampler from the uniform training; the record (winner, message, seconds), and P."""
        grid, begin = self.grid, time.perf_counter()
        self.train("uniform")
        start = self.model(0)
        load_weights(start, self.folder / "uniform/last.safetensors")
        weights = {name: value.clone() for name, value in start.state_dict().items()}
        columns = {
            "frequency": self.text.frequency,
            "perplexity": np.exp(row_losses(start, self.text.train)).astype(np.float32),
        }

        def score(probabilities: NDArray[np.float64], trial: Trial) -> float:
            searching = trial.stage == "search"
            recipe = replace(self.tuning, seed=self.seed) if searching else replace(self.recipe, seed=trial.seed)
            model = self.model(recipe.seed)
            if searching:
                model.load_state_dict(weights)
            self.descend(model, IndexStream(probabilities, mode="stratified", seed=recipe.seed), recipe)
            return -perplexity(model, self.text.held_out)

        decides = {**self.settings, "recipe": self.recipe.settings(), "tuning": self.tuning.settings()}
        study = Study(sqlite_url(self.folder / "study.db"), identity=plain({**decides, "text": self.text.fingerprint}))
        proposals, guard = Proposals(grid.trials, seed=self.seed), Guard(grid.confirm_top, CONFIRM_SEEDS)
        law: dict[str, Any] = {"proposals": proposals, "guard": guard, "study": study}
        found = search_swift(columns, score, features=FEATURES, mass=None, transform="cdf", **law)
        found.sampler.save(self.folder / "sampler.json")
        spent = sum(found.spent.values())
        record = {"winner": found.winner, "message": found.message, "seconds": spent or time.perf_counter() - begin}
        return record, found.probabilities

    def outcome(self, method: str) -> dict[str, Any]:
        """Return what a method ends with."""
        search: Record = {"winner": None, "message": "", "seconds": 0.0}
        probabilities = np.full(self.rows, 1 / self.rows)
        if method == "swift":
            search, probabilities = self.search()
        record = self.train("uniform") if search["winner"] in (None, "uniform") else self.train(method, probabilities)
        return {
            **record["result"],
            "ess": effective_sample_size(probabilities) / self.rows,
            "shuffled_drawn": 100 * float(probabilities[self.text.shuffled].sum()),
            "winner": search["winner"],
            "message": search["message"],
            "search_seconds": search["seconds"],
            "train_seconds": record["seconds"],
        }


@torch.inference_mode()
def row_losses(model: nn.Module, windows: Tensor, /) -> NDArray[np.float64]:
    """Mean cross-entropy of the words of each row, nats, float64 (rows,)."""
    model.eval()
    device, losses = next(model.parameters()).device, []
    for part in torch.split(windows, SCORED):
        read = part.to(device)
        words = F.cross_entropy(model(read[:, :-1]).flatten(0, 1), read[:, 1:].flatten(), reduction="none")
        losses.append(words.view(len(part), -1).double().mean(1).cpu())
    found: NDArray[np.float64] = torch.cat(losses).numpy()
    return found


def perplexity(model: nn.Module, windows: Tensor, /) -> float:
    """Exp of the mean cross-entropy over all words; rows are equally long."""
    return float(np.exp(row_losses(model, windows).mean()))


def run(grid: LanguageGrid, /) -> dict[str, Any]:
    """Run the grid, print a table for each share of shuffled windows, and write `language.json` into `out`.

    What a killed benchmark finished is kept when it is started again.

    Returns:
        `rows`: method, shuffled, seed, validation, test, ess, shuffled_drawn, winner, message, search_seconds,
        train_seconds. `summary`: means and deviations over the seeds, and the gain over uniform.

    Raises:
        ValueError: No such text, or `out` holds runs with other settings.
    """
    rows: list[Row] = []
    for share, seed, cell in _cells(grid):
        for method in METHODS:
            row = Row(method, {"text": grid.text, "shuffled": share}, seed, cell.outcome(method))
            told = f"validation {row.values['validation']:.2f}, test {row.values['test']:.2f} {row.values['message']}"
            print(f"shuffled {share:g}, seed {seed}: {method}, perplexity {told.rstrip()}", flush=True)
            rows.append(row)
    entries = entries_of(rows)
    print(*(table.text() for table in tables(entries)), sep="\n\n")
    result: dict[str, Any] = {"rows": [row.as_dict() for row in rows], "summary": _summary(entries)}
    plan = {name: getattr(grid, name) for name in PLAN}
    record = conclude(grid.out / "language.json", "bench-language", {"plan": plan, **result})
    return {**result, **before(record)}


def _cells(grid: LanguageGrid) -> list[tuple[float, int, LanguageCell]]:
    check(grid)
    found = []
    for share, seed in product(grid.shuffled, grid.seeds):
        text = read_text(grid.text, length=grid.length, vocabulary=grid.vocabulary, shuffled=share, seed=seed)
        found.append((share, seed, LanguageCell(grid.out / f"shuffled-{share:g}" / f"seed-{seed}", grid, text, seed)))
    return found


def tables(entries: Sequence[Entry], /) -> list[Table]:
    """Return a table per share of shuffled windows."""

    def gain(entry: Entry) -> str:
        control = control_of(entry, entries, "uniform")
        found = None if control is None or entry is control else control.less(entry, "test")
        return "" if found is None else found.text()

    columns = {
        "perplexity": lambda each: each.method,
        "validation": lambda each: str(each.spread("validation")),
        "test": lambda each: str(each.spread("test")),
        "lower by (95 % interval)": gain,
        "shuffled drawn %": lambda each: f"{each.mean('shuffled_drawn'):.1f}",
        "search s": lambda each: f"{each.mean('search_seconds'):.1f}",
        "train s": lambda each: f"{each.mean('train_seconds'):.1f}",
    }
    return [
        table_of(block, columns, f"{block[0].setting['shuffled']:.0%} shuffled windows, {len(block[0].rows)} seed(s)")
        for block in blocks(entries)
    ]


def _summary(entries: Sequence[Entry]) -> list[Record]:
    found = []
    for entry in entries:
        control = control_of(entry, entries, "uniform")
        gain = None if control is None else control.less(entry, "test")
        means = ("ess", "shuffled_drawn", "search_seconds", "train_seconds")
        found.append(entry.as_dict(means, ("validation", "test")) | {"gain": gain and gain.as_dict()})
    return found


def estimate(grid: LanguageGrid, /) -> Estimate:
    """Check and estimate `run`: some steps are measured."""
    cells = [cell for _, _, cell in _cells(grid)]
    cell = cells[0]
    with Probe() as probe:
        cell.descend(cell.model(0), IndexStream(cell.rows), cell.recipe)
    steps, confirming = max(1, cell.rows // grid.global_batch), runs_of(grid.confirm_top, CONFIRM_SEEDS) * grid.epochs
    epochs = 2 * grid.epochs + grid.trials * grid.fine_tune_epochs + confirming
    missing = sum(not (each.folder / "sampler.json").exists() for each in cells)
    basis = f"measured: {probe.count} steps; × {missing} cells of {epochs} epochs of {steps} steps"
    seconds = missing * epochs * steps * probe.unit_seconds
    return Estimate("bench language", grid.out, (Stage("trainings", seconds, basis),))
