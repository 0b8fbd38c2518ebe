"""Classes that were never trained on (Swift Sampler, Tab. 3 and 6): does a sampler give better embeddings?

Some classes are held out by the seed. A model is trained on the others, uniformly and with a sampler that was searched
for accuracy on them; its last activations embed the images of the held-out classes, of which nothing was trained or
chosen.

    base            test top-1 on the trained classes after the last epoch, per cent
    K-shot          N-way K-shot accuracy on the held-out classes, all N of them in an episode (5 at most), per cent
    verification    accuracy of telling pairs of one class from pairs of two, per cent
A search that keeps uniform gives uniform's model.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from drawstream import pack
from drawstream.features import HeadInput
from drawstream.pipeline import Loader
from drawstream.pipeline.shards import FILE, Catalog
from drawstream.pipeline.sources import Source
from drawstream.samplers.orders import Sequential
from drawstream.tools import PLANS, DemoPlan, setup_of, source_and_test
from drawstream.tools.bench import Record, check_noise, plan_of
from drawstream.tools.bench.noise import CHANGED, NoiseCell
from drawstream.tools.bench.novel.tasks import few_shot, unit, verification
from drawstream.tools.cli import NovelGrid
from drawstream.tools.estimate import Estimate, estimate_runs, scratch_folder
from drawstream.tools.experiments import Entry, Row, Table, blocks, control_of, entries_of, relations, table_of
from drawstream.tools.runs import before, conclude, hold_identity
from drawstream.tools.training import EVAL_BATCH, Setup, load_weights

__all__ = ["NovelCell", "estimate", "run", "tables", "verdicts"]

METHODS = ("uniform", "swift", "swift-cgf")
WAYS = 5  # at most, as in the paper


@dataclass(frozen=True)
class NovelCell(NoiseCell):
    """Data of the trained classes and their runs, and the images of those held out.

    Attributes:
        novel: Classes that are held out.
    """

    novel: int = 4

    @cached_property
    def setups(self) -> dict[str, Setup]:
        """Data and model; labels of the held-out rows are right."""
        clean = setup_of(self.plan, self.folder)
        return {"clean": clean, "noisy": clean}

    def pack(self, data: str, source: Path | None, /) -> None:
        """Write the catalogs, as far as they are not there: of the trained classes as other cells, and `novel`."""
        train, test = source_and_test(data, source, self.seed)
        classes = len(train.classes)
        if classes < self.novel + 3:
            raise ValueError(f"{data}: {classes} classes, but {self.novel} held out leave fewer than 3: hold out fewer")
        order = np.random.default_rng([self.seed, 5]).permutation(classes)
        held, kept = np.sort(order[: self.novel]), np.sort(order[self.novel :])
        rows = int(np.isin(train.labels, kept).sum())
        sizes = {"limit": min(self.plan.limit or rows, rows), "holdout": min(self.plan.holdout, rows // 5)}
        about: dict[str, Any] = {"seed": self.seed, **sizes}
        self.folder.mkdir(parents=True, exist_ok=True)
        hold_identity(self.folder / "data.json", "novel", {**about, "held": held.tolist(), "noise": self.noise})
        for name, images, some in (("test", test, kept), ("novel", test, held)):
            if not (self.folder / name / FILE).exists():
                pack(SomeClasses.of(images, some), self.folder / name, seed=self.seed)
        if not (self.folder / "data/train" / FILE).exists():
            noise: dict[str, Any] = {"label_noise": self.noise, "noise_seed": self.seed}
            pack(SomeClasses.of(train, kept), self.folder / "data", **about, **noise)

    def outcome(self, method: str, shots: Sequence[int]) -> Record:
        """Return the accuracies of a method's model; its search comes first."""
        record = self.uniform() if method == "uniform" else self.swift(method, "clean")
        search, guard = record.get("search"), record.get("guard")
        kept = search is not None and search["winner"] != "uniform" and (guard is None or guard["better"])
        embeddings, labels = self.embeddings(f"{method}-clean" if kept else "uniform")
        ways = min(WAYS, self.novel)
        given: dict[str, Any] = {"ways": ways, "seed": self.seed}
        return {
            "base": record["history"][-1]["accuracy"]["test"],
            **{f"{count}-shot": few_shot(embeddings, labels, shots=count, **given) for count in shots},
            "verification": verification(embeddings, labels, seed=self.seed),
            "kept": "swift" if kept else "uniform",
            "search_seconds": search["seconds"] if search else 0.0,
            "train_seconds": record["seconds"],
        }

    @torch.inference_mode()
    def embeddings(self, run: str) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Embeddings of unit length of the held-out classes by a run's model, and their labels."""
        setup, catalog = self.setup, Catalog.open(self.folder / "novel")
        model = setup.build(0, trained=False)
        load_weights(model, self.folder / run / "last.safetensors")
        model.eval()
        stream, found = Sequential(0, len(catalog)), []
        place = "gpu:0" if self.plan.device == "gpu" else "cpu"
        loader = Loader(catalog, stream, transform=setup.transforms[1], batch_size=EVAL_BATCH, device=place)
        with HeadInput(model) as head:
            for batch in loader:
                inputs, _ = head.of(model(batch.images))
                found.append(inputs.float().cpu().numpy())
        loader.close()
        return unit(np.concatenate(found)), catalog.label


@dataclass(frozen=True, slots=True, eq=False)
class SomeClasses:
    """A source's images of some classes, numbered from 0 in their order; a `Source`.

    Attributes:
        source: All images.
        rows: Those that are taken, int64 (rows,).
        labels: Their new numbers, int64 (rows,).
        classes: Names of the classes.
    """

    source: Source
    rows: NDArray[np.int64]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]

    @classmethod
    def of(cls, source: Source, classes: NDArray[np.int64], /) -> Self:
        """Take the classes of these numbers, which increase."""
        labels = np.asarray(source.labels)
        rows = np.flatnonzero(np.isin(labels, classes))
        names = tuple(source.classes[each] for each in classes)
        return cls(source, rows, np.searchsorted(classes, labels[rows]), names)

    @property
    def name(self) -> str:
        """Name in messages and in provenance."""
        return self.source.name

    def __len__(self) -> int:
        """Rows."""
        return len(self.rows)

    def key(self, row: int, /) -> str:
        """Name of a row."""
        return self.source.key(int(self.rows[row]))

    def read(self, row: int, /) -> bytes | NDArray[np.uint8]:
        """Image of a row."""
        return self.source.read(int(self.rows[row]))


def checked_plan(grid: NovelGrid, /) -> DemoPlan:
    """Check a grid, and return the plan of its data set, or Fashion-MNIST's for a folder with `train` and `test`.

    Raises:
        ValueError: An unknown name, or a value that comes twice or is out of range.
    """
    check_noise(grid.levels, grid.seeds)
    unknown = [each for each in grid.methods if each not in METHODS]
    if unknown or not grid.methods:
        raise ValueError(f"methods must be some of {', '.join(METHODS)}, but got {list(grid.methods)}")
    if grid.novel < 2 or min(grid.shots, default=0) < 1:
        law = "at least 2 classes must be held out, and 1 shot given"
        raise ValueError(f"{law}, but got {grid.novel} and {list(grid.shots)}")
    changed = CHANGED.get(grid.data, {}) | ({} if grid.trials is None else {"trials": grid.trials})
    return plan_of(grid, **changed if grid.data in PLANS else changed | {"limit": None})


def run(grid: NovelGrid, /) -> dict[str, Any]:
    """Run the grid, print a table for each share of wrong labels, and write `novel.json` into `out`.

    What a killed benchmark finished is kept when it is started again.

    Returns:
        `rows`: method, noise, seed, base, K-shot, verification, kept, search_seconds, train_seconds. `summary`: means
        and deviations over the seeds. `verdicts`: what differs from uniform, in words.

    Raises:
        ValueError: Unknown data, too few classes, or `out` holds runs with other settings.
    """
    plan, out, rows = checked_plan(grid), grid.folder, list[Row]()
    for (level, seed), folder in grid.cells.items():
        cell = NovelCell(folder, plan, level, seed, novel=grid.novel)
        cell.pack(grid.data, grid.source)
        for method in grid.methods:
            row = Row(method, {"noise": level, "novel": grid.novel}, seed, cell.outcome(method, grid.shots))
            told = ", ".join(f"{key} {row.values[key]:.2f}" for key in _measured(grid.shots))
            print(f"noise {level:g}, seed {seed}: {method}, {told}", flush=True)
            rows.append(row)
    entries, measured = entries_of(rows), _measured(grid.shots)
    print(*(table.text() for table in tables(entries, measured)), *(lines := verdicts(entries, measured)), sep="\n\n")
    summary = [entry.as_dict(("search_seconds", "train_seconds"), measured) for entry in entries]
    result: dict[str, Any] = {"rows": [row.as_dict() for row in rows], "summary": summary, "verdicts": lines}
    crossed = {name: getattr(grid, name) for name in ("noise", "methods", "seeds", "novel", "shots")}
    crossed["noise"] = grid.levels
    record = {"data": grid.data, **result, "plan": asdict(plan), "grid": crossed}
    return {**result, **before(conclude(out / "novel.json", "bench-novel", record))}


def _measured(shots: Sequence[int]) -> list[str]:
    return ["base", *(f"{count}-shot" for count in shots), "verification"]


def tables(entries: Sequence[Entry], measured: Sequence[str], /) -> list[Table]:
    """Return a table per share of wrong labels."""
    columns = {"accuracy, %": lambda each: each.method}
    columns |= {key: lambda each, key=key: str(each.spread(key)) for key in measured}  # type: ignore[misc]
    columns |= {"search s": lambda each: f"{each.mean('search_seconds'):.1f}"}
    return [
        table_of(
            block,
            columns,
            f"{block[0].setting['noise']:.0%} wrong labels, {block[0].setting['novel']} classes held out, "
            f"{len(block[0].rows)} seed(s)",
        )
        for block in blocks(entries)
    ]


def verdicts(entries: Sequence[Entry], measured: Sequence[str], /) -> list[str]:
    """Say what differs from uniform, a line per share of wrong labels and measure."""
    lines = []
    for block in blocks(entries):
        for key in measured:
            control = control_of(block[0], block, "uniform")
            others = [each for each in block if each is not control]
            found = {each.method: gain for each in others if (gain := each.less(control, key)) is not None}
            if found:
                lines.append(f"{block[0].setting['noise']:.0%} wrong labels, {key} less uniform's: {relations(found)}")
    return lines


def estimate(grid: NovelGrid, /) -> Estimate:
    """Estimate `run`; errors are its own."""
    plan, out = checked_plan(grid), grid.folder
    cells = grid.cells.values()
    runs = {"uniform": float(sum(not (folder / "uniform/run.json").exists() for folder in cells))}
    for method in (each for each in grid.methods if each != "uniform"):
        missing = sum(not (folder / f"search-{method}-clean/search.json").exists() for folder in cells)
        runs[method] = missing * (1 + plan.search_cost(plan.trials))
    with scratch_folder(out) as scratch:
        cell = NovelCell(scratch, plan, grid.levels[-1], grid.seeds[0], novel=grid.novel)
        cell.pack(grid.data, grid.source)
        return estimate_runs("bench novel", out, cell.setup, plan.recipe, runs)
