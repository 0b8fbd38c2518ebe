"""Means over the seeds of the label-noise benchmark, and its table as text."""

import statistics
from collections.abc import Sequence
from itertools import groupby
from typing import Any

from drawstream.tools.bench.noise.methods import label

Row = dict[str, Any]


def summarise(rows: Sequence[Row], /) -> list[Row]:
    """Means and deviations over the seeds, one entry per noise level, validation and method, in order of the rows.

    Beside those of `last` and `best`: `gain` and `least_gain`, mean and minimum over the seeds of `last` less that of
    `uniform`; `best_gain`, mean of `best` less that of `uniform`; `gap_closed`, `gain` over that of `clean-only`;
    `search_cost`, mean of the search's seconds over those of the uniform training. None where there is no such row, and
    the gap where no label is wrong.
    The entry of `drop` with the highest mean of `last` has `hindsight`: the test labels chose it.
    """

    def group(row: Row) -> tuple[float, str]:
        return row["noise"], row["validation"]

    summary: list[Row] = []
    for (level, judge), block in groupby(sorted(rows, key=group), key=group):
        mine = list(block)
        methods = dict.fromkeys(row["method"] for row in mine)
        runs = {method: {row["seed"]: row for row in mine if row["method"] == method} for method in methods}
        control = runs.get("uniform", {})
        entries = [
            {"method": method, "noise": level, "validation": judge, **_over_seeds(runs[method], control)}
            for method in methods
        ]
        most = next((entry["gain"] for entry in entries if entry["method"] == "clean-only"), None)
        for entry in entries:
            closed = level and most and entry["gain"] is not None
            entry["gap_closed"] = entry["gain"] / most if closed else None
        dropping = [entry for entry in entries if entry["method"].startswith("drop-")]
        if dropping:
            max(dropping, key=lambda entry: entry["last"])["hindsight"] = True
        summary += entries
    return summary


def _over_seeds(runs: dict[int, Row], control: dict[int, Row]) -> Row:
    """Figures of one method, from its rows and the control's by seed."""
    entry: Row = {"seeds": len(runs)}
    for key in ("last", "best"):
        values = [row[key] for row in runs.values()]
        entry |= {key: statistics.fmean(values), f"{key}_std": statistics.stdev(values) if len(runs) > 1 else None}
    for key in ("search_seconds", "train_seconds"):
        entry[key] = statistics.fmean(row[key] for row in runs.values())
    both = [(row, control[seed]) for seed, row in runs.items() if seed in control]
    gains = [row["last"] - uniform["last"] for row, uniform in both]
    entry["gain"] = statistics.fmean(gains) if gains else None
    entry["least_gain"] = min(gains, default=None)
    entry["best_gain"] = statistics.fmean(row["best"] - uniform["best"] for row, uniform in both) if both else None
    seconds = sum(uniform["train_seconds"] for _, uniform in both)
    entry["search_cost"] = sum(row["search_seconds"] for row, _ in both) / seconds if seconds else None
    return entry | {"hindsight": False}


def format_table(summary: Sequence[Row], /) -> str:
    """The summary as lines of text."""
    lines: list[str] = []
    block: tuple[Any, ...] = ()
    for entry in summary:
        if block != (entry["noise"], entry["validation"], entry["seeds"]):
            block = entry["noise"], entry["validation"], entry["seeds"]
            lines += ["", title(entry)]
            columns = f"{'last epoch':>15}{'best epoch':>15}{'gain':>8}{'least':>8}{'search s':>10}{'train s':>9}"
            lines.append(f"{'test top-1, %':28}{columns}")
        name = label(entry["method"]) + (" *" if entry["hindsight"] else "")
        cells = "".join(f"{spread(entry, key):>15}" for key in ("last", "best"))
        gains = "".join(f"{signed(entry[key]):>8}" for key in ("gain", "least_gain"))
        lines.append(f"{name:28}{cells}{gains}{entry['search_seconds']:10.1f}{entry['train_seconds']:9.1f}")
    lines.append("best epoch: chosen on the validation set (early stopping); last epoch: nothing chosen")
    lines.append("gain: last epoch, less that of uniform under the same seed; least: of all seeds")
    if any(entry["hindsight"] for entry in summary):
        lines.append("*: best share to drop in hindsight, by the test labels; nobody knows it beforehand")
    return "\n".join(lines)


def title(entry: Row, /) -> str:
    """Noise level, validation set and number of seeds of an entry."""
    return f"{entry['noise']:.0%} wrong labels, {entry['validation']} validation, {entry['seeds']} seed(s)"


def spread(entry: Row, key: str, /) -> str:
    """Mean and deviation of an entry."""
    deviation = entry[f"{key}_std"]
    return f"{entry[key]:.2f}" if deviation is None else f"{entry[key]:.2f} ± {deviation:.2f}"


def signed(value: float | None, /) -> str:
    """A difference with its sign; nothing for None."""
    return "" if value is None else f"{value:+.2f}"


def where(row: Row, /) -> str:
    """Noise level, validation set and seed of a row."""
    return f"noise {row['noise']:g}, {row['validation']} validation, seed {row['seed']}"


def agreement_line(each: Row, /) -> str:
    """A rank study as one sentence."""
    spearman = "not defined" if each["spearman"] is None else f"{each['spearman']:.2f}"
    return (
        f"rank study, {where(each)}: Spearman {spearman} between fine-tuning and training from scratch; the candidate "
        f"that fine-tunes best has true rank {each['true_rank']:g} of {each['candidates']}"
    )
