"""Does a sampler that was searched on one model help another? Searched, carried over, and the uniform control.

    source ──uniform──▶ features ──search──▶ sampler.json ──┬──▶ refit     v, e, o; tables of the target's features
    target ──uniform──▶ features ───────────────────────────┼──▶ frozen    the stored tables, the target's features
                            └──────search──▶ own            └──▶ same-p    the source's P itself, row for row
All runs of a seed share rows, wrong labels, recipe and initial weights of their model; features are averages that the
tracker took along a model's uniform run. `same-p` needs no run of the target before, the others its uniform run.

    last, best   test accuracy after the last epoch, and at the epoch that the held-out set chose, per cent
    gain         of `last`, less that of the target's uniform run of the same seed, points
    wrong        share of the draws with a wrong label, per cent
"""

import statistics
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from drawstream.features import FeatureTable
from drawstream.samplers import SwiftSampler, effective_sample_size
from drawstream.tools.bench.asked import check_plan
from drawstream.tools.bench.noise.bench import CHANGED
from drawstream.tools.bench.noise.cell import Cell, Record, right_rows
from drawstream.tools.demo import PLANS
from drawstream.tools.runs.record import before, conclude
from drawstream.tools.training.finetune import flush_denormals
from drawstream.tools.training.models import mlp
from drawstream.tools.training.transfer import carry

__all__ = ["METHODS", "MODELS", "format_table", "run", "summarise"]

METHODS = ("uniform", "own", "refit", "frozen", "same-p")
MODELS = {"digits": ("mlp", ("mlp-64", "cnn")), "fashion-mnist": ("cnn", ("resnet8",))}  # source, targets
SPECS = {"mlp-64": "drawstream.tools.bench.transfer:mlp_64"}
SEARCH = "swift"  # of the cell's searches
Probabilities = NDArray[np.float64]


def mlp_64(*, num_classes: int, channels: int, size: tuple[int, int]) -> nn.Module:
    """One hidden layer of 64 units: a twentieth of the weights of `mlp` on 8×8 pixels."""
    return mlp(num_classes=num_classes, channels=channels, size=size, hidden=(64,))


def run(
    data: str,
    out: Path,
    /,
    *,
    source: str | None = None,
    targets: Sequence[str] | None = None,
    noise: float = 0.4,
    seeds: Sequence[int] = (0, 1, 2),
    files: Path | None = None,
    **changes: Any,
) -> dict[str, Any]:
    """Search on the source, train the targets in every way, print a table, and write `transfer.json` into `out`.

    What a killed study finished is kept when it is started again; an unfinished run goes on after its last epoch.

    Args:
        data: Name of a plan of the demo: data, recipe, search.
        out: Folder of all runs.
        source: Model that is searched on; by default that of `MODELS`.
        targets: Models that are trained, none of them the source.
        noise: Share of wrong labels, in [0, 1).
        seeds: Of everything that is drawn.
        files: Folder of Fashion-MNIST's files, where it is not Debian's.
        changes: Entries of the plan to replace: `trials`, `recipe`, …

    Returns:
        `rows`: source, target, method, noise, seed, last, best, gain, ess, wrong, winner, search_seconds,
        train_seconds; of the source itself `uniform` and `own`. `summary`: over the seeds.

    Raises:
        ValueError: Bad names or numbers, or `out` holds runs with other settings.
    """
    check_plan(data, PLANS)
    source = source or MODELS[data][0]
    targets = MODELS[data][1] if targets is None else targets
    if not targets or source in targets or len(set(targets)) < len(targets):
        raise ValueError(f"targets must be given and differ, also from the source {source}, but got {list(targets)}")
    if not seeds or len(set(seeds)) < len(seeds) or min(seeds) < 0 or not 0 <= noise < 1:
        raise ValueError(f"`0 <= noise < 1` and distinct `seeds >= 0` must hold, but got {noise} and {list(seeds)}")
    flush_denormals()
    plan = replace(PLANS[data], **{**CHANGED.get(data, {}), **changes})
    if plan.threads is not None:
        torch.set_num_threads(plan.threads)
    rows: list[Record] = []
    for seed in seeds:
        folder = out / f"seed-{seed}"
        cells = {
            name: Cell(folder / name.replace(":", "-"), replace(plan, model=SPECS.get(name, name)), noise, seed)
            for name in (source, *targets)
        }
        for name, cell in cells.items():
            cell.pack(data, files)
            methods = METHODS[:2] if name == source else METHODS
            rows += [_row(cell, cells[source], method, {"source": source, "target": name}) for method in methods]
            cell.close()
    for row in rows:
        row["gain"] = row["last"] - _uniform(rows, row)["last"]
    result: dict[str, Any] = {"rows": rows, "summary": summarise(rows)}
    print(format_table(result["summary"]))
    record = conclude(out / "transfer.json", "transfer", {"data": data, **result, "plan": asdict(plan)})
    return {**result, **before(record)}


def _row(target: Cell, source: Cell, method: str, names: Record) -> Record:
    """Train the target in one way; a finished run is read."""
    search: Record = {"winner": None, "seconds": 0.0}
    if method == "uniform":
        record, rows = target.uniform(), len(target.setups["clean"].data)
        probabilities = np.full(rows, 1 / rows)
    else:
        search = (target if method == "own" else source).search(SEARCH, "clean")
        probabilities = _probabilities(target, source, method)
        record = target.train(method, probabilities)
    wrong = right_rows(target.setups["clean"].data) == 0
    chosen = max(record["history"], key=lambda epoch: epoch["accuracy"]["held_out"])  # of equal epochs the first
    row = {
        **names,
        "method": method,
        "noise": target.noise,
        "seed": target.seed,
        "last": record["history"][-1]["accuracy"]["test"],
        "best": chosen["accuracy"]["test"],
        "ess": effective_sample_size(probabilities) / len(probabilities),
        "wrong": 100 * float(probabilities[wrong].sum()),
        "winner": search["winner"],
        "search_seconds": search["seconds"] if method == "own" else 0.0,  # a sampler that is carried over is there
        "train_seconds": record["seconds"],
    }
    print(f"seed {row['seed']}, {row['target']}, {method}: last {row['last']:.2f}, best {row['best']:.2f}", flush=True)
    return row


def _probabilities(target: Cell, source: Cell, method: str) -> Probabilities:
    """P over the target's rows, which are the source's rows too."""
    home = target if method == "own" else source
    scored = source if method == "same-p" else target
    sampler = SwiftSampler.load(home.folder / f"search-{SEARCH}-clean/sampler.json")
    table = FeatureTable.open(scored.folder / "features", catalog=target.setups["clean"].data)
    carried = carry(sampler, table, frozen=method == "frozen")
    return carried.probabilities(table.columns(*carried.features))


def _uniform(rows: Sequence[Record], like: Record) -> Record:
    same = ("target", "seed")
    return next(row for row in rows if row["method"] == "uniform" and all(row[key] == like[key] for key in same))


def summarise(rows: Sequence[Record], /) -> list[Record]:
    """Means and deviations over the seeds, one entry per target and method, in order of the rows."""
    summary = []
    for target, method in dict.fromkeys((row["target"], row["method"]) for row in rows):
        mine = [row for row in rows if (row["target"], row["method"]) == (target, method)]
        entry: Record = {"source": mine[0]["source"], "target": target, "method": method, "seeds": len(mine)}
        for key in ("last", "best", "gain"):
            values = [row[key] for row in mine]
            entry[key] = statistics.fmean(values)
            entry[f"{key}_std"] = statistics.stdev(values) if len(values) > 1 else None
        for key in ("ess", "wrong", "search_seconds", "train_seconds"):
            entry[key] = statistics.fmean(row[key] for row in mine)
        entry["better"] = sum(row["gain"] > 0 for row in mine)
        entry["kept_uniform"] = sum(row["winner"] == "uniform" for row in mine)
        summary.append(entry)
    return summary


def format_table(summary: Sequence[Record], /) -> str:
    """The summary as lines of text."""
    lines: list[str] = []
    for i, entry in enumerate(summary):
        if i == 0 or entry["target"] != summary[i - 1]["target"]:
            of = "the source" if entry["target"] == entry["source"] else f"searched on {entry['source']}"
            lines += ["", f"{entry['target']} ({of}), {entry['seeds']} seed(s)"]
            head = f"{'last epoch':>15}{'best epoch':>15}{'gain, last':>15}{'higher':>8}{'wrong %':>9}{'search s':>10}"
            lines.append(f"{'test top-1, %':16}{head}")
        cells = "".join(f"{_spread(entry, key):>15}" for key in ("last", "best"))
        gain, higher = ("–", "–") if entry["method"] == "uniform" else (_gain(entry), _share(entry))
        name = entry["method"] + (" *" if entry["kept_uniform"] else "")
        more = f"{gain:>15}{higher:>8}{entry['wrong']:9.1f}{entry['search_seconds']:10.1f}"
        lines.append(f"{name:16}{cells}{more}")
    lines.append("best epoch: chosen on the held-out set; gain: paired with the uniform run of the same seed")
    if any(entry["kept_uniform"] for entry in summary):
        lines.append("*: some searches found nothing better than uniform, and their sampler is the uniform one")
    return "\n".join(lines)


def _spread(entry: Record, key: str, form: str = ".2f") -> str:
    deviation = entry[f"{key}_std"]
    return f"{entry[key]:{form}}" + ("" if deviation is None else f" ± {deviation:.2f}")


def _gain(entry: Record) -> str:
    return _spread(entry, "gain", "+.2f")


def _share(entry: Record) -> str:
    return f"{entry['better']}/{entry['seeds']}"
