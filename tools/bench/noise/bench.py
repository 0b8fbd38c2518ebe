"""Label noise: uniform training, the Swift Sampler and its comparators on the same rows, recipe and initial weights.

All methods have the same labels: those of the training rows and of a validation set, with true labels (`clean`) or as
wrong as those of the training rows (`noisy`). It chooses the epoch of `best` and the sampler of the searches, and holds
the rows that L2RW trusts. Just `clean-only` knows which training labels are right. Test labels are always true.

    last     test accuracy after the last epoch, per cent
    best     test accuracy at the epoch that the validation set chose: early stopping, of `uniform` and all others
    seconds  of the search, fine-tuning runs and confirmation included, and of the one training run, evaluation left out
    gain     last, less that of `uniform` under the same seed
`swift` and `drop` read averages that the tracker took along the `uniform` run, so they also need that run. Where the
finished model of a sampler is no better than uniform's on the validation set (`search.paired`), uniform's is what the
search gives; `searches` tells both. `early-stopping` is `uniform` at its best epoch. A training run that does not
depend on the validation set serves both.
"""

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from drawstream.tools.bench.asked import check_distinct, check_names, check_noise, check_plan
from drawstream.tools.bench.noise.cell import VALIDATION, Cell, Record
from drawstream.tools.bench.noise.methods import METHODS, STOPPED, expand
from drawstream.tools.bench.noise.page import write_page
from drawstream.tools.bench.noise.rank_study import rank_study
from drawstream.tools.bench.noise.table import agreement_line, format_table, summarise, where
from drawstream.tools.demo import PLANS, Plan
from drawstream.tools.runs.record import before, conclude
from drawstream.tools.training.finetune import flush_denormals

__all__ = ["METHODS", "run", "start"]

CHANGED: dict[str, dict[str, Any]] = {
    "digits": {"trials": 30, "confirm_seeds": 2}
}  # of the demo's plan, to take minutes


def run(
    data: str,
    out: Path,
    /,
    *,
    noise: Sequence[float],
    methods: Sequence[str] = METHODS,
    seeds: Sequence[int] = (0,),
    validation: Sequence[str] = ("clean",),
    source: Path | None = None,
    candidates: int = 0,
) -> dict[str, Any]:
    """Run every method at every noise level under every seed, print a table, write `noise.json` and `noise.html`.

    What a killed benchmark finished is kept when it is started again; an unfinished run goes on after its last epoch.

    Args:
        data: Name of a plan of the demo: data, model, recipe, search.
        out: Folder of all runs.
        noise: Shares of wrong labels, each in [0, 1).
        methods: Of `METHODS`, of the other searches, or sets of them (`SETS`); `drop` is a run for each of some shares.
        seeds: Of everything that is drawn.
        validation: `clean`, `noisy`, or both; without noise they are the same.
        source: Folder of Fashion-MNIST's files, where it is not Debian's.
        candidates: Of a rank study at every noise level, validation and seed; 0 leaves it out.

    Returns:
        `rows`: method, noise, validation, seed, last, best, search_seconds, train_seconds. `summary`: over the seeds,
        with the images that went forward and backward beside the training steps. `searches`: who won, why, what the
        guard of the finished models said, `last` without it, and the candidates' scores in order. `rank_study`: a row
        for each candidate; `rank_agreement`: what they say.

    Raises:
        ValueError: Bad names or numbers, or `out` holds runs with other settings.
    """
    plan, methods = start(data, noise, methods, seeds, validation, candidates)
    found: dict[str, list[Record]] = {name: [] for name in ("rows", "searches", "rank_study", "rank_agreement")}
    extra: dict[str, list[int]] = {}
    for level in noise:
        for seed in seeds:
            cell = Cell(out / f"noise-{level:g}" / f"seed-{seed}", plan, level, seed)
            cell.pack(data, source)
            for judge in validation:
                _compare(cell, methods, judge, found, extra)
                if candidates:
                    _study(cell, candidates, judge, found)
            cell.close()
    summary = [
        entry | {"extra_forward_backward": extra.get(entry["method"], [0, 0])} for entry in summarise(found["rows"])
    ]
    result: dict[str, Any] = {**found, "summary": summary}
    print(format_table(summary))
    for each in found["rank_agreement"]:
        print(agreement_line(each))
    record = conclude(out / "noise.json", "noise", {"data": data, **result, "plan": asdict(plan)})
    write_page(record, out / "noise.html")
    return {**result, **before(record)}


def start(
    data: str,
    noise: Sequence[float],
    methods: Sequence[str],
    seeds: Sequence[int],
    validation: Sequence[str],
    candidates: int,
    /,
) -> tuple[Plan, list[str]]:
    """Check what `run` is asked for, and set torch as its plan says: plan and methods, one by one."""
    check_plan(data, PLANS)
    check_names("validation", validation, VALIDATION)
    check_distinct(validation=validation)
    check_noise(noise, seeds)
    chosen = expand(methods)
    if candidates and candidates < 3:
        raise ValueError(f"a rank study needs at least 3 candidates, but got {candidates}")
    flush_denormals()
    plan = replace(PLANS[data], **CHANGED.get(data, {}))
    if plan.threads is not None:
        torch.set_num_threads(plan.threads)
    return plan, chosen


def _compare(
    cell: Cell, methods: Sequence[str], judge: str, found: dict[str, list[Record]], extra: dict[str, list[int]]
) -> None:
    """Run the methods under one validation set; rows and searches are added to `found`."""
    key = {"noise": cell.noise, "validation": judge, "seed": cell.seed}
    for method in methods:
        for name, record in cell.runs(method, judge).items():
            row = {"method": name, **key, **_outcome(record, judge if cell.noise else "clean")}
            print(f"{where(row)}: {name} last {row['last']:.2f}, best {row['best']:.2f}", flush=True)
            found["rows"].append(row)
            extra[name] = record["extra_forward_backward"]
            if name == "uniform":
                found["rows"].append({**row, "method": STOPPED, "last": row["best"]})
            if "search" in record:
                found["searches"].append({"method": name, **key, **_story(record)})


def _study(cell: Cell, candidates: int, judge: str, found: dict[str, list[Record]]) -> None:
    """The rank study under one validation set; its rows are added to `found`."""
    key = {"noise": cell.noise, "validation": judge, "seed": cell.seed}
    scores, agreement = rank_study(cell, candidates, judge)
    found["rank_study"] += [key | score for score in scores]
    found["rank_agreement"].append(key | agreement)


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


def _outcome(record: Record, judge: str) -> Record:
    """Return a run's accuracy when this validation set chooses the epoch; the first of equal epochs."""
    chosen = max(record["history"], key=lambda epoch: epoch["accuracy"][VALIDATION[judge]])
    return {
        "last": record["history"][-1]["accuracy"]["test"],
        "best": chosen["accuracy"]["test"],
        "search_seconds": record["search"]["seconds"] if "search" in record else 0.0,
        "train_seconds": record["seconds"],
    }
