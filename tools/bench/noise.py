"""Label noise: uniform training, the Swift Sampler and its comparators on the same rows, recipe and initial weights.

All methods have the same labels: those of the training rows and of a validation set, with true labels (`clean`) or as
wrong as those of the training rows (`noisy`). It chooses the epoch of `best` and the sampler of the searches, and holds
the rows that L2RW trusts. Just `clean-only` knows which training labels are right. Test labels are always true.

    last     test accuracy after the last epoch, per cent
    best     test accuracy at the epoch that the validation set chose: early stopping, of `uniform` and all others
    seconds  of the search, fine-tuning runs and confirmation included, and of the one training run, evaluation left out
`swift` and `drop` read averages that the tracker took along the `uniform` run, so they also need that run. A training
run that does not depend on the validation set serves both.
"""

import statistics
from collections.abc import Sequence
from dataclasses import asdict, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import torch

from drawstream.tools.bench.noise_cell import METHODS, VALIDATION, Cell, Record
from drawstream.tools.bench.rank_study import rank_study
from drawstream.tools.demo import PLANS
from drawstream.tools.finetune import flush_denormals
from drawstream.tools.runs import write_record

__all__ = ["METHODS", "run"]

CHANGED: dict[str, dict[str, Any]] = {
    "digits": {"trials": 30, "confirm_seeds": 2}
}  # of the demo's plan, to take minutes
LABELS = {"mentornet": "self-paced (MentorNet PD)", "clean-only": "clean-only (oracle)"}


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
    """Run every method at every noise level under every seed, print a table, and write `noise.json` into `out`.

    What a killed benchmark finished is kept when it is started again; an unfinished run goes on after its last epoch.

    Args:
        data: Name of a plan of the demo: data, model, recipe, search.
        out: Folder of all runs.
        noise: Shares of wrong labels, each in [0, 1).
        methods: Of `METHODS`; `drop` is a run for each of some shares.
        seeds: Of everything that is drawn.
        validation: `clean`, `noisy`, or both; without noise they are the same.
        source: Folder of Fashion-MNIST's files, where it is not Debian's.
        candidates: Of a rank study at every noise level, validation and seed; 0 leaves it out.

    Returns:
        `rows`: method, noise, validation, seed, last, best, search_seconds, train_seconds. `summary`: over the seeds,
        with the images that went forward and backward beside the training steps. `searches`: who won, and why.
        `rank_study`: a row for each candidate; `rank_agreement`: what they say.

    Raises:
        ValueError: Bad names or numbers, or `out` holds runs with other settings.
    """
    _check(data, noise, methods, seeds, validation)
    if candidates and candidates < 3:
        raise ValueError(f"a rank study needs at least 3 candidates, but got {candidates}")
    flush_denormals()
    plan = replace(PLANS[data], **CHANGED.get(data, {}))
    if plan.threads is not None:
        torch.set_num_threads(plan.threads)
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
    summary = [entry | {"extra_forward_backward": extra[entry["method"]]} for entry in summarise(found["rows"])]
    result: dict[str, Any] = {**found, "summary": summary}
    print(format_table(summary))
    for each in found["rank_agreement"]:
        print(_agreement_line(each))
    write_record(out / "noise.json", "noise", {"data": data, **result, "plan": asdict(plan)})
    return result


def _compare(
    cell: Cell, methods: Sequence[str], judge: str, found: dict[str, list[Record]], extra: dict[str, list[int]]
) -> None:
    """Run the methods under one validation set; rows and searches are added to `found`."""
    key = {"noise": cell.noise, "validation": judge, "seed": cell.seed}
    for method in methods:
        for name, record in cell.runs(method, judge).items():
            row = {"method": name, **key, **_outcome(record, judge if cell.noise else "clean")}
            print(f"{_where(row)}: {name} last {row['last']:.2f}, best {row['best']:.2f}", flush=True)
            found["rows"].append(row)
            extra[name] = record["extra_forward_backward"]
            if "search" in record:
                why = {part: record["search"][part] for part in ("winner", "message")}
                found["searches"].append({"method": name, **key, **why})


def _study(cell: Cell, candidates: int, judge: str, found: dict[str, list[Record]]) -> None:
    """The rank study under one validation set; its rows are added to `found`."""
    key = {"noise": cell.noise, "validation": judge, "seed": cell.seed}
    scores, agreement = rank_study(cell, candidates, judge)
    found["rank_study"] += [key | score for score in scores]
    found["rank_agreement"].append(key | agreement)


def summarise(rows: Sequence[Record], /) -> list[Record]:
    """Means and deviations over the seeds, one entry per noise level, validation and method, in order of the rows.

    The entry of `drop` with the highest mean of `last` has `hindsight`: the test labels chose it.
    """

    def group(row: Record) -> tuple[float, str]:
        return row["noise"], row["validation"]

    summary: list[Record] = []
    for (level, judge), block in groupby(sorted(rows, key=group), key=group):
        mine = list(block)
        entries: list[Record] = []
        for method in dict.fromkeys(row["method"] for row in mine):
            runs = [row for row in mine if row["method"] == method]
            entry: Record = {"method": method, "noise": level, "validation": judge, "seeds": len(runs)}
            for key in ("last", "best"):
                values = [row[key] for row in runs]
                entry |= {
                    key: statistics.fmean(values),
                    f"{key}_std": statistics.stdev(values) if len(runs) > 1 else None,
                }
            for key in ("search_seconds", "train_seconds"):
                entry[key] = statistics.fmean(row[key] for row in runs)
            entries.append(entry | {"hindsight": False})
        dropping = [entry for entry in entries if entry["method"].startswith("drop-")]
        if dropping:
            max(dropping, key=lambda entry: entry["last"])["hindsight"] = True
        summary += entries
    return summary


def format_table(summary: Sequence[Record], /) -> str:
    """The summary as lines of text."""
    lines: list[str] = []
    block: tuple[Any, ...] = ()
    for entry in summary:
        if block != (entry["noise"], entry["validation"], entry["seeds"]):
            block = entry["noise"], entry["validation"], entry["seeds"]
            lines += [
                "",
                f"{entry['noise']:.0%} wrong labels, {entry['validation']} validation, {entry['seeds']} seed(s)",
            ]
            lines.append(f"{'test top-1, %':28}{'last epoch':>15}{'best epoch':>15}{'search s':>10}{'train s':>9}")
        method: str = entry["method"]
        name = LABELS.get(method, method) + (" *" if entry["hindsight"] else "")
        cells = "".join(f"{_spread(entry, key):>15}" for key in ("last", "best"))
        lines.append(f"{name:28}{cells}{entry['search_seconds']:10.1f}{entry['train_seconds']:9.1f}")
    lines.append("best epoch: chosen on the validation set (early stopping); last epoch: nothing chosen")
    if any(entry["hindsight"] for entry in summary):
        lines.append("*: best share to drop in hindsight, by the test labels; nobody knows it beforehand")
    return "\n".join(lines)


def _spread(entry: Record, key: str) -> str:
    deviation = entry[f"{key}_std"]
    return f"{entry[key]:.2f}" if deviation is None else f"{entry[key]:.2f} ± {deviation:.2f}"


def _where(row: Record) -> str:
    return f"noise {row['noise']:g}, {row['validation']} validation, seed {row['seed']}"


def _agreement_line(each: Record) -> str:
    spearman = "not defined" if each["spearman"] is None else f"{each['spearman']:.2f}"
    return (
        f"rank study, {_where(each)}: Spearman {spearman} between fine-tuning and training from scratch; the candidate "
        f"that fine-tunes best has true rank {each['true_rank']:g} of {each['candidates']}"
    )


def _outcome(record: Record, judge: str) -> Record:
    """What a run is worth when this validation set chooses the epoch; of equal epochs the first."""
    chosen = max(record["history"], key=lambda epoch: epoch["accuracy"][VALIDATION[judge]])
    return {
        "last": record["history"][-1]["accuracy"]["test"],
        "best": chosen["accuracy"]["test"],
        "search_seconds": record["search"]["seconds"] if "search" in record else 0.0,
        "train_seconds": record["seconds"],
    }


def _check(
    data: str, noise: Sequence[float], methods: Sequence[str], seeds: Sequence[int], validation: Sequence[str]
) -> None:
    if data not in PLANS:
        raise ValueError(f"no plan for {data!r}: give one of {', '.join(PLANS)}")
    for name, given, known in (("methods", methods, METHODS), ("validation", validation, VALIDATION)):
        unknown = [each for each in given if each not in known]
        if unknown:
            raise ValueError(f"unknown {name} {', '.join(map(repr, unknown))}: give some of {', '.join(known)}")
    for name, values in (("noise", noise), ("methods", methods), ("seeds", seeds), ("validation", validation)):
        if not values or len(set(values)) < len(values):
            raise ValueError(f"{name} must be given and differ, but got {list(values)}")
    if not all(0 <= level < 1 for level in noise) or min(seeds) < 0:
        raise ValueError(f"`0 <= noise < 1` and `seeds >= 0` must hold, but got {list(noise)} and {list(seeds)}")
