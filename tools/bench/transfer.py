"""Does a sampler that was searched on one model help another? Searched, carried over, and the uniform control.

    source ──uniform──▶ features ──search──▶ sampler.json ──┬──▶ refit     v, e, o; tables of the target's features
    target ──uniform──▶ features ───────────────────────────┼──▶ frozen    the stored tables, the target's features
                            └──────search──▶ own            └──▶ same-p    the source's P itself, row for row
All runs of a seed share rows, wrong labels, recipe and initial weights of their model; features are averages that the
tracker took along a model's uniform run. `same-p` needs no run of the target before, the others its uniform run.

    last, best   test accuracy after the last epoch, and at the epoch that the held-out set chose, per cent
    top5         top-5 of the last epoch, per cent
    gain         of `last`, less that of the target's uniform run of the same seed, points
    wrong        share of the draws with a wrong label, per cent
"""

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
from torch import nn

from drawstream.features.table import FeatureTable
from drawstream.samplers import effective_sample_size
from drawstream.samplers.swift import SwiftSampler
from drawstream.tools import DemoPlan
from drawstream.tools.bench.cell import Record, accuracies, plan_of, wrong_share
from drawstream.tools.bench.checks import check_noise
from drawstream.tools.bench.noise import CHANGED, NoiseCell, Probabilities, right_rows
from drawstream.tools.cli import TransferGrid
from drawstream.tools.experiments import Difference, Entry, Row, Table, blocks, control_of, entries_of, table_of
from drawstream.tools.runs import before, conclude
from drawstream.tools.training import carry, mlp

__all__ = ["METHODS", "run_transfer", "summarise", "tables"]

METHODS = ("uniform", "own", "refit", "frozen", "same-p")
MODELS = {"digits": ("mlp", ("mlp-64", "cnn")), "fashion-mnist": ("cnn", ("resnet8",))}  # source, targets
SPECS = {"mlp-64": "drawstream.tools.bench.transfer:mlp_64"}
SEARCH = "swift"  # of the cell's searches


def mlp_64(*, num_classes: int, channels: int, size: tuple[int, int]) -> nn.Module:
    """One hidden layer of 64 units: a twentieth of the weights of `mlp` on 8×8 pixels."""
    return mlp(num_classes=num_classes, channels=channels, size=size, hidden=(64,))


def models_of(grid: TransferGrid, /) -> tuple[str, tuple[str, ...]]:
    """Return the source and the targets of a grid, which is checked before anything runs.

    Raises:
        ValueError: Unknown data, or a value that comes twice or is out of range.
    """
    usual = MODELS.get(grid.data, MODELS["fashion-mnist"])
    source, targets = grid.model or usual[0], grid.targets or usual[1]
    if source in targets or len(set(targets)) < len(targets):
        raise ValueError(f"targets must be given and differ, also from the source {source}, but got {list(targets)}")
    check_noise((grid.noise,), grid.seeds)
    return source, targets


def transfer_plan(grid: TransferGrid, /) -> DemoPlan:
    """Return the plan of the grid's data set, and set torch as it says."""
    if grid.of_catalog:
        grid.refuse_typed(("noise",), "fashion-mnist and digits; a catalog's wrong labels are packed into it")
    changes = {} if grid.trials is None else {"trials": grid.trials}
    return plan_of(grid, **CHANGED.get(grid.data, {}) | changes)


def run_transfer(grid: TransferGrid, /) -> dict[str, Any]:
    """Search on the source, train the targets in every way, print a table, and write `transfer.json` into `out`.

    What a killed study finished is kept when it is started again; an unfinished run goes on after its last epoch.

    Returns:
        `rows`: source, target, method, noise, seed, last, best, ess, wrong, winner, search_seconds, train_seconds; of
        the source itself `uniform` and `own`. `summary`: over the seeds, with the gain over `uniform`.

    Raises:
        ValueError: Unknown data, or `out` holds runs with other settings.
    """
    (source, targets), plan, out = models_of(grid), transfer_plan(grid), grid.folder
    rows: list[Row] = []
    for seed in grid.seeds:
        cells = {
            name: NoiseCell(
                out / f"seed-{seed}" / name.replace(":", "-"),
                replace(plan, model=SPECS.get(name, name)),
                0.0 if grid.of_catalog else grid.noise,
                seed,
            )
            for name in (source, *targets)
        }
        for name, cell in cells.items():
            cell.pack(grid.data, grid.source)
            share = wrong_share(cell.setup) if grid.of_catalog else grid.noise
            setting = {"source": source, "target": name, "noise": share}
            for method in METHODS[:2] if name == source else METHODS:
                row = Row(method, setting, seed, _outcome(cell, cells[source], method))
                told = f"{method}: last {row.values['last']:.2f}, best {row.values['best']:.2f}"
                print(f"seed {seed}, {name}, {told}", flush=True)
                rows.append(row)
    entries = entries_of(rows)
    print(*(table.text() for table in tables(entries)), sep="\n\n")
    result: dict[str, Any] = {"rows": [row.as_dict() for row in rows], "summary": summarise(entries)}
    record = conclude(out / "transfer.json", "transfer", {"data": grid.data, **result, "plan": asdict(plan)})
    return {**result, **before(record)}


def _outcome(target: NoiseCell, source: NoiseCell, method: str) -> dict[str, Any]:
    """Train the target in one way; a finished run is read."""
    search: Record = {"winner": None, "seconds": 0.0}
    if method == "uniform":
        record, probabilities = target.uniform(), np.full(target.rows, 1 / target.rows)
    else:
        search = (target if method == "own" else source).search(SEARCH, "clean")
        probabilities = _probabilities(target, source, method)
        record = target.train(method, probabilities)
    wrong = right_rows(target.setup.data) == 0
    return {
        **accuracies(record),
        "ess": effective_sample_size(probabilities) / len(probabilities),
        "wrong": 100 * float(probabilities[wrong].sum()),
        "winner": search["winner"],
        "search_seconds": search["seconds"] if method == "own" else 0.0,  # a sampler that is carried over is there
        "train_seconds": record["seconds"],
    }


def _probabilities(target: NoiseCell, source: NoiseCell, method: str) -> Probabilities:
    """P over the target's rows, which are the source's rows too."""
    home = target if method == "own" else source
    scored = source if method == "same-p" else target
    sampler = SwiftSampler.load(home.folder / f"search-{SEARCH}-clean/sampler.json")
    table = FeatureTable.open(scored.folder / "features", catalog=target.setup.data)
    carried = carry(sampler, table, frozen=method == "frozen")
    return carried.probabilities(table.columns(*carried.features))


def _gains(entries: Sequence[Entry]) -> dict[str, Difference | None]:
    """Gain of each method of one target over its uniform runs."""
    return {each.method: each.less(control_of(each, entries, "uniform"), "last") for each in entries}


def _kept_uniform(entry: Entry) -> int:
    return sum(row.values["winner"] == "uniform" for row in entry.rows)


def summarise(entries: Sequence[Entry], /) -> list[Record]:
    """Return means and deviations over the seeds, and gains over `uniform`, one per target and method."""
    summary = []
    for block in blocks(entries):
        for entry, gain in zip(block, _gains(block).values(), strict=True):
            found = entry.as_dict(("top5", "ess", "wrong", "search_seconds", "train_seconds"))
            found |= {"gain": None if gain is None else gain.as_dict(), "kept_uniform": _kept_uniform(entry)}
            summary.append(found)
    return summary


def tables(entries: Sequence[Entry], /) -> list[Table]:
    """Return a table per target; a star marks searches that found nothing better than uniform."""
    found = []
    for block in blocks(entries):
        target, source = (block[0].setting[name] for name in ("target", "source"))
        of = "the source" if target == source else f"searched on {source}"
        gains = {name: gain for name, gain in _gains(block).items() if name != "uniform"}

        def gain(entry: Entry, gains: dict[str, Difference | None] = gains) -> str:
            each = gains.get(entry.method)
            return f"{each.text()}, higher at {each.higher}/{each.seeds}" if each else ""

        columns = {
            "*: some searches kept uniform": lambda each: each.method + (" *" if _kept_uniform(each) else ""),
            "last epoch": lambda each: str(each.spread("last")),
            "best epoch": lambda each: str(each.spread("best")),
            "top-5": lambda each: str(each.spread("top5")),
            "gain of the last epoch (95 % interval)": gain,
            "wrong %": lambda each: f"{each.mean('wrong'):.1f}",
            "search s": lambda each: f"{each.mean('search_seconds'):.1f}",
        }
        title = f"{target} ({of}), {len(block[0].rows)} seed(s), test accuracy in per cent"
        found.append(table_of(block, columns, title))
    return found
