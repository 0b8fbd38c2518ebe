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
from dataclasses import asdict, dataclass, replace
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
from drawstream.tools.estimate import Estimate, Probe, Stage
from drawstream.tools.experiments import Entry, Row, Table, blocks, control_of, entries_of, table_of
from drawstream.tools.runs import before, conclude, finished_record, write_record
from drawstream.tools.training import Descent, Recipe, autocast, load_weights, save_weights

__all__ = ["FEATURES", "LanguageGrid", "LanguagePlan", "estimate", "run", "tables"]

FEATURES = ("frequency", "perplexity")
METHODS = ("uniform", "swift")
RECIPE = Recipe(8, 0.003, optimizer="adamw", weight_decay=0.05, clip_grad=1.0)
SCORED = 256  # rows of a forward pass of the evaluation


@dataclass(frozen=True, slots=True)
class LanguagePlan:
    """Settings that all cells have in common.

    Attributes:
        text: Of `read_text`.
        length: L.
        vocabulary: V, at most.
        width: Of the embedding.
        layers: Blocks of the GPT.
        heads: Of its attention.
        batch_size: Rows of a step.
        recipe: Of every training.
        tuning: Of a candidate, from the weights of the uniform training.
        trials: Candidates.
        confirm_top: Of these, trained from scratch beside uniform.
        confirm_seeds: Seeds of that.
        device: `cpu` or `gpu`.
    """

    text: str = "python"
    length: int = 32
    vocabulary: int = 2000
    width: int = 64
    layers: int = 2
    heads: int = 4
    batch_size: int = 32
    recipe: Recipe = RECIPE
    tuning: Recipe = replace(RECIPE, epochs=1, lr=0.001)  # noqa: RUF009 - frozen
    trials: int = 12
    confirm_top: int = 1
    confirm_seeds: int = 2
    device: str = "cpu"

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ValueError(f"`width` must be a multiple of the heads, but got {self.width} and {self.heads}")

    def settings(self) -> dict[str, Any]:
        """Return what decides a training, as a record keeps it."""
        names = ("length", "width", "layers", "heads", "batch_size")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True, slots=True)
class LanguageGrid:
    """Grid of shares of shuffled windows, and seeds of text, weights, orders and searches."""

    shuffled: tuple[float, ...] = (0.0,)
    seeds: tuple[int, ...] = (0,)

    def __post_init__(self) -> None:
        check_distinct(shuffled=self.shuffled, seeds=self.seeds)
        if not all(0 <= share < 1 for share in self.shuffled):
            raise ValueError(f"`0 <= shuffled < 1` must hold, but got {list(self.shuffled)}")


@dataclass(frozen=True, slots=True)
class LanguageCell:
    """Trainings and search of one text under one seed, in a folder of their own; what is finished is read."""

    folder: Path
    plan: LanguagePlan
    text: Text
    seed: int

    @property
    def rows(self) -> int:
        """Training rows."""
        return len(self.text.train)

    def model(self, seed: int) -> GPT:
        """Build a model on the device."""
        plan = self.plan
        sizes = {name: getattr(plan, name) for name in ("width", "layers", "heads")}
        return GPT(self.text.words, plan.length, **sizes, seed=seed).to("cuda" if plan.device == "gpu" else "cpu")

    def descend(self, model: GPT, stream: IndexStream, recipe: Recipe) -> None:
        """Train a model on the rows of a stream, whole batches alone."""
        windows, batch = self.text.train, self.plan.batch_size
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
        recipe, path = replace(self.plan.recipe, seed=self.seed), self.folder / name / "run.json"
        stream = IndexStream(self.rows if probabilities is None else probabilities, seed=self.seed)
        decides = {"recipe": recipe.settings(), "text": self.text.fingerprint, "stream": stream.fingerprint}
        identity = plain({**self.plan.settings(), **decides})
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
        plan, begin = self.plan, time.perf_counter()
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
            recipe = replace(plan.tuning, seed=self.seed) if searching else replace(plan.recipe, seed=trial.seed)
            model = self.model(recipe.seed)
            if searching:
                model.load_state_dict(weights)
            self.descend(model, IndexStream(probabilities, mode="stratified", seed=recipe.seed), recipe)
            return -perplexity(model, self.text.held_out)

        decides = {**plan.settings(), "recipe": plan.recipe.settings(), "tuning": plan.tuning.settings()}
        study = Study(sqlite_url(self.folder / "study.db"), identity=plain({**decides, "text": self.text.fingerprint}))
        proposals, guard = Proposals(plan.trials, seed=self.seed), Guard(plan.confirm_top, plan.confirm_seeds)
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


def run(out: Path, plan: LanguagePlan, grid: LanguageGrid, /) -> dict[str, Any]:
    """Run the grid, print a table for each share of shuffled windows, and write `language.json` into `out`.

    What a killed benchmark finished is kept when it is started again.

    Returns:
        `rows`: method, shuffled, seed, validation, test, ess, shuffled_drawn, winner, message, search_seconds,
        train_seconds. `summary`: means and deviations over the seeds, and the gain over uniform.

    Raises:
        ValueError: No such text, or `out` holds runs with other settings.
    """
    rows: list[Row] = []
    for share, seed, cell in _cells(out, plan, grid):
        for method in METHODS:
            row = Row(method, {"text": plan.text, "shuffled": share}, seed, cell.outcome(method))
            told = f"validation {row.values['validation']:.2f}, test {row.values['test']:.2f} {row.values['message']}"
            print(f"shuffled {share:g}, seed {seed}: {method}, perplexity {told.rstrip()}", flush=True)
            rows.append(row)
    entries = entries_of(rows)
    print(*(table.text() for table in tables(entries)), sep="\n\n")
    result: dict[str, Any] = {"rows": [row.as_dict() for row in rows], "summary": _summary(entries)}
    record = conclude(out / "language.json", "bench-language", {"plan": asdict(plan), **result})
    return {**result, **before(record)}


def _cells(out: Path, plan: LanguagePlan, grid: LanguageGrid) -> list[tuple[float, int, LanguageCell]]:
    found = []
    for share in grid.shuffled:
        for seed in grid.seeds:
            about: dict[str, Any] = {"length": plan.length, "vocabulary": plan.vocabulary}
            text = read_text(plan.text, **about, shuffled=share, seed=seed)
            found.append((share, seed, LanguageCell(out / f"shuffled-{share:g}" / f"seed-{seed}", plan, text, seed)))
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


def estimate(out: Path, plan: LanguagePlan, grid: LanguageGrid, /) -> Estimate:
    """Check and estimate `run`: some steps are measured."""
    cells = [cell for _, _, cell in _cells(out, plan, grid)]
    cell = cells[0]
    with Probe() as probe:
        cell.descend(cell.model(0), IndexStream(cell.rows), plan.recipe)
    steps = max(1, cell.rows // plan.batch_size)
    confirming = runs_of(plan.confirm_top, plan.confirm_seeds) * plan.recipe.epochs
    epochs = 2 * plan.recipe.epochs + plan.trials * plan.tuning.epochs + confirming
    missing = sum(not (each.folder / "sampler.json").exists() for each in cells)
    basis = f"measured: {probe.count} steps; × {missing} cells of {epochs} epochs of {steps} steps"
    return Estimate("bench language", out, (Stage("trainings", missing * epochs * steps * probe.unit_seconds, basis),))
