"""Label noise: uniform training, the Swift Sampler and its comparators on the same rows, recipe and initial weights.

All methods have the same labels: those of the training rows and of a validation set, with true labels (`clean`) or as
wrong as those of the training rows (`noisy`). It chooses the epoch of `best` and the sampler of the searches, and holds
the rows that L2RW trusts. Only `clean-only` knows which training labels are right. Test labels are always true.

    last     test accuracy after the last epoch, per cent
    best     test accuracy at the epoch that the validation set chose: early stopping, of `uniform` and all others
    seconds  of the search, fine-tuning runs and confirmation included, and of the one training run, evaluation left out
    balanced the same of the last epoch, averaged over the classes
    gain     last, less that of `uniform` under the same seed
    speed    epochs until `uniform` first has its last accuracy, over those until the method has it
`swift`, `clean` (P(clean)), `suspects` (rows that are probably wrong are left out) and `drop` read averages that the
tracker took along the `uniform` run, so they also need that run. Where the
finished model of a sampler is no better than uniform's on the validation set (`search.paired`), the search gives
uniform's; `searches` tells both. `early-stopping` is `uniform` at its best epoch. A training run that does not depend
on the validation set serves both.
"""

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from drawstream.tools import DemoPlan
from drawstream.tools.bench import VALIDATION, Record, accuracies, check_names, check_noise, plan_of, wrong_share
from drawstream.tools.bench.noise.cell import NoiseCell
from drawstream.tools.bench.noise.methods import METHODS, STOPPED, expand, varied
from drawstream.tools.bench.noise.page import rank_tables, tables, where, write_page
from drawstream.tools.bench.noise.rank_study import agreements, rank_study
from drawstream.tools.bench.noise.results import findings_of
from drawstream.tools.cli import NoiseGrid
from drawstream.tools.experiments import Row
from drawstream.tools.runs import before, conclude

__all__ = ["CHANGED", "Results", "cells_of", "methods_of", "run", "start"]

CHANGED: dict[str, dict[str, Any]] = {
    "digits": {"trials": 30, "confirm_seeds": 2}
}  # of the demo's plan, to take minutes


@dataclass(frozen=True, slots=True)
class Results:
    """Results of all cells, in the order of the grid."""

    rows: list[Row]
    searches: list[Record]
    rank_study: list[Row]


def methods_of(grid: NoiseGrid, /) -> list[str]:
    """Return the methods of a grid, which is checked before anything runs.

    Raises:
        ValueError: An unknown name, a value that comes twice or is out of range, or too few candidates.
    """
    check_names("validation", grid.validation, VALIDATION)
    check_noise(grid.levels, grid.seeds)
    if grid.candidates and grid.candidates < 3:
        raise ValueError(f"a rank study needs at least 3 candidates, but got {grid.candidates}")
    return expand(varied(grid.methods or METHODS, grid.segments, grid.trials))


def cells_of(grid: NoiseGrid, /) -> dict[tuple[float | str, int, str], Path]:
    """Return the folder of every noise level, seed and model, "" for the plan's."""
    found = {}
    for (level, seed), folder in grid.cells.items():
        for model in grid.models or ("",):
            found[level, seed, model] = folder / re.sub(r"\W", "-", model)
    return found


def start(grid: NoiseGrid, /) -> DemoPlan:
    """Return the plan of the grid's data set, and set torch as it says."""
    return plan_of(grid, **CHANGED.get(grid.data, {}))


def run(grid: NoiseGrid, /) -> dict[str, Any]:
    """Run the grid, print a table, write `noise.json` and `noise.html`.

    What a killed benchmark finished is kept when it is started again; an unfinished run goes on after its last epoch.

    Returns:
        `rows`: method, noise, validation, seed, last, best, search_seconds, train_seconds, and the images that went
        forward and backward beside the training steps. `summary`: over the seeds. `searches`: who won, why, what the
        guard of the finished models said, `last` without it, and the candidates' scores in order. `rank_study`: a row
        for each candidate; `rank_agreement`: what they say.

    Raises:
        ValueError: Unknown data, or `out` holds runs with other settings.
    """
    methods, plan, out = methods_of(grid), start(grid), grid.folder
    results = Results([], [], [])
    for (level, seed, model), folder in cells_of(grid).items():
        cell = NoiseCell(folder, replace(plan, model=model or plan.model), level, seed)
        cell.pack(grid.data, grid.source)
        share = level if plan.places is None and isinstance(level, float) else wrong_share(cell.setup)
        for validation in grid.validation:
            setting: dict[str, Any] = {"noise": share, "validation": validation} | ({"model": model} if model else {})
            _compare(cell, methods, setting, results)
            if grid.candidates:
                results.rank_study.extend(rank_study(cell, grid.candidates, setting))
    findings = findings_of(results.rows)
    ranks = {"rank_study": results.rank_study, "rank_agreement": agreements(results.rank_study)}
    more = {"searches": results.searches} | {name: [row.as_dict() for row in rows] for name, rows in ranks.items()}
    print(*(table.text() for table in (*tables(findings), *rank_tables(more["rank_agreement"]))), sep="\n\n")
    result: dict[str, Any] = {"rows": [row.as_dict() for row in results.rows], **more}
    result["summary"] = [finding.as_dict() for finding in findings]
    record = conclude(out / "noise.json", "noise", {"data": grid.data, **result, "plan": asdict(plan)})
    write_page(out / "noise.html", grid.data, findings, **more)
    return {**result, **before(record)}


def _compare(cell: NoiseCell, methods: Sequence[str], setting: dict[str, Any], results: Results) -> None:
    """Run the methods under one validation set; rows and searches are added to the results."""
    validation, place = setting["validation"], f"{where(setting)}, seed {cell.seed}"
    for method in methods:
        for name, record in cell.runs(method, validation).items():
            found: dict[str, Any] = accuracies(record, validation if cell.noise else "clean")
            found["curve"] = [epoch["accuracy"]["test"] for epoch in record["history"]]
            found["search_seconds"] = record["search"]["seconds"] if "search" in record else 0.0
            found |= {
                "train_seconds": record["seconds"],
                "extra_forward_backward": record.get("extra_forward_backward", [0, 0]),
            }
            row = Row(name, setting, cell.seed, found)
            print(f"{place}: {name} last {row.values['last']:.2f}, best {row.values['best']:.2f}", flush=True)
            results.rows.append(row)
            if name == "uniform":
                results.rows.append(Row(STOPPED, setting, cell.seed, row.values | {"last": row.values["best"]}))
            if "search" in record:
                results.searches.append({"method": name, **setting, "seed": cell.seed, **_story(record)})


def _story(record: Record) -> Record:
    """Summarise a search and the guard's verdict on the finished models."""
    search, guard = record["search"], record["guard"]
    return {
        "winner": search["winner"],
        "message": search["message"],
        "kept": search["winner"] if guard is None or guard["better"] else "uniform",
        "guard": None if guard is None else guard["message"],
        "unguarded": record.get("unguarded"),
        "scores": [trial["value"] for trial in search["trials"] if trial["value"] is not None],
    }
