"""AutoSampling beside uniform training: the same steps, data, recipe and initial weights, and what each costs in all.

    uniform        one plain training: the control
    best-of        the best of N_p independent plain trainings, chosen on the held-out set: the same work as a search
    random         what a search with exploitation only ends with
    mixture        what the whole of AutoSampling ends with
    static         a new training on draws of the mixture's distribution
    replay         a new training on the mixture's schedule from its initial weights: the mixture again, bit by bit
    replay-other   the same from other initial weights: does the order itself carry anything?

    last      test accuracy after the last epoch, per cent
    best      test accuracy at the epoch that the held-out set chose (for `best-of`: run and epoch)
    seconds, forward, backward   all that the method needs, searches included; rows, rewards counted as forward
Evaluations after each epoch, which all methods have, and the second scores of the children, which are for the figures,
are not counted. The paper (Sun et al., ICML 2021) has 20 children and 240 epochs, and its gains are 0.3 to 1 points
over uniform with ResNet-18 on CIFAR-100.
"""

import statistics
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from drawstream.tools.bench.asked import check_distinct, check_names, check_noise, check_plan
from drawstream.tools.bench.auto.cell import METHODS, AutoCell, Settings, folders
from drawstream.tools.bench.auto.page import write_page
from drawstream.tools.bench.noise.cell import Cell, Record
from drawstream.tools.demo import PLANS, Plan
from drawstream.tools.report.comparison import Difference, Entry, difference
from drawstream.tools.report.pages.schedule import SearchedSchedule
from drawstream.tools.runs.record import before, conclude
from drawstream.tools.training.finetune import flush_denormals

__all__ = ["METHODS", "SETTINGS", "format_table", "run", "start", "summarise", "verdicts"]

SETTINGS = {
    "digits": Settings(epochs=30, interval=10, first=3, reward_rows=200),  # of 400 held-out rows
    "fashion-mnist": Settings(epochs=10),  # two cycles of 4 epochs after the first 2; the paper explores 55 times
}
CONTROLS = ("uniform", "best-of")


def run(
    data: str,
    out: Path,
    /,
    *,
    noise: Sequence[float],
    methods: Sequence[str] = METHODS,
    seeds: Sequence[int] = (0,),
    settings: Settings | None = None,
    source: Path | None = None,
) -> dict[str, Any]:
    """Run every method at every noise level under every seed, and print a table.

    `bench-auto.json` and the page `auto.html` go into `out`. What a killed benchmark finished is kept when it is
    started again; an unfinished training or search goes on.

    Args:
        data: Name of a plan of the demo.
        out: Folder of all runs.
        noise: Shares of wrong training labels, each in [0, 1); held-out and test labels are true.
        methods: Of `METHODS`.
        seeds: Of everything that is drawn.
        settings: Of the searches; None takes `SETTINGS`.
        source: Folder of Fashion-MNIST's files, where it is not Debian's.

    Returns:
        `rows`: method, noise, seed, last, best, seconds, forward, backward, and of these reward_forward and
        train_seconds. `summary`: over the seeds. `verdicts`: what helps and what does not, in words. `searches`: what
        the rewards were worth, and whether the replay ended with the same weights.

    Raises:
        ValueError: Bad names or numbers, or `out` holds runs with other settings.
    """
    plan = start(data, noise, methods, seeds)
    chosen = settings or SETTINGS[data]
    rows: list[Record] = []
    searches: list[Record] = []
    for level in noise:
        for seed in seeds:
            cell = AutoCell(Cell(out / f"noise-{level:g}" / f"seed-{seed}", plan, level, seed), chosen)
            cell.data.pack(data, source)
            for method in methods:
                row = {"method": method, "noise": level, "seed": seed, **cell.runs(method)}
                told = f"{method} last {row['last']:.2f}, best {row['best']:.2f}"
                print(f"noise {level:g}, seed {seed}: {told}", flush=True)
                rows.append(row)
            searches += searches_of(cell, methods, features=seed == seeds[0])
            cell.data.close()
    summary = summarise(rows)
    words = verdicts(rows)
    first = [each["words"] for each in searches if each["seed"] == seeds[0]]  # the page has the numbers of all
    print(format_table(summary), *words, *first, sep="\n")
    result: dict[str, Any] = {"rows": rows, "summary": summary, "verdicts": words, "searches": searches}
    record = {"data": data, **result, "plan": asdict(plan), "settings": asdict(chosen)}
    record = conclude(out / "bench-auto.json", "bench-auto", record)
    write_page(out / "auto.html", f"AutoSampling on {data}", record)
    return {**result, "page": str(out / "auto.html"), **before(record)}


def start(data: str, noise: Sequence[float], methods: Sequence[str], seeds: Sequence[int], /) -> Plan:
    """Check what `run` is asked for, and set torch as the plan of the data says."""
    check_plan(data, SETTINGS)
    check_names("methods", methods, METHODS)
    check_distinct(methods=methods)
    check_noise(noise, seeds)
    flush_denormals()
    plan = PLANS[data]
    if plan.threads is not None:
        torch.set_num_threads(plan.threads)
    return plan


def searches_of(cell: AutoCell, methods: Sequence[str], *, features: bool) -> list[Record]:
    """Describe the searches that some methods need; `features` adds the figures of the mixture.

    Returns:
        method, noise, seed, `record` (its auto.json), `identical` (whether a replay ended with the same weights),
        `spread` of the children, that of the second half (`late_spread`) and its `words`, and shares of the time of the
        search, second scores left out.
    """
    searches = {folders(method, cell.settings.population)[1] for method in methods}
    found: list[Record] = []
    for name in (each for each in ("random", "mixture") if f"search-{each}" in searches):
        path = cell.folder(f"search-{name}") / "auto.json"
        same = cell.replay(name)["identical"]
        if features and name == "mixture":
            cell.score_rows()
        search = SearchedSchedule.open(path)
        spread, late = search.spread(), search.spread(0.5)
        seconds, second = search.document["seconds"], search.document["second_score"]
        total = sum(seconds.values()) - second["seconds"]
        where = f"{name}, noise {cell.data.noise:g}, seed {cell.data.seed}"
        entry: Record = {"method": name, "noise": cell.data.noise, "seed": cell.data.seed, "record": str(path)}
        entry |= {
            "identical": same,
            "spread": None if spread is None else asdict(spread),
            "late_spread": None if late is None else asdict(late),
            "words": f"{where}: {search.words}" if search.words else "",
            "evaluate_and_clone_share": (seconds["evaluate"] + seconds["clone"] - second["seconds"]) / total,
            "write_share": seconds["write"] / total,
        }
        found.append(entry)
    return found


def summarise(rows: Sequence[Record], /) -> list[Record]:
    """Means and deviations over the seeds, an entry per noise level and method, in order of the rows.

    `work` is forward and twice backward rows, over those of uniform training; None where that did not run.
    """
    summary: list[Record] = []
    for level in dict.fromkeys(row["noise"] for row in rows):
        mine = [row for row in rows if row["noise"] == level]
        control = [row["forward"] + 2 * row["backward"] for row in mine if row["method"] == "uniform"]
        for method in dict.fromkeys(row["method"] for row in mine):
            runs = [row for row in mine if row["method"] == method]
            entry: Record = {"method": method, "noise": level, "seeds": len(runs)}
            for key in ("last", "best"):
                values = [row[key] for row in runs]
                spread = statistics.stdev(values) if len(runs) > 1 else None
                entry |= {key: statistics.fmean(values), f"{key}_std": spread}
            for key in ("seconds", "train_seconds", "forward", "backward", "reward_forward"):
                entry[key] = statistics.fmean(row[key] for row in runs)
            work = entry["forward"] + 2 * entry["backward"]
            summary.append(entry | {"work": work / statistics.fmean(control) if control else None})
    return summary


def format_table(summary: Sequence[Record], /) -> str:
    """The summary as lines of text."""
    lines: list[str] = []
    block: tuple[Any, ...] = ()
    for entry in summary:
        if block != (entry["noise"], entry["seeds"]):
            block = entry["noise"], entry["seeds"]
            head = f"{'last epoch':>15}{'best epoch':>15}{'seconds':>9}{'forward':>11}{'backward':>11}{'work':>7}"
            lines += ["", f"{entry['noise']:.0%} wrong labels, {entry['seeds']} seed(s)", f"{'test top-1, %':14}{head}"]
        cells = "".join(f"{spread_text(entry, key):>15}" for key in ("last", "best"))
        work = "–" if entry["work"] is None else f"{entry['work']:.1f}×"
        rows = f"{entry['forward']:11,.0f}{entry['backward']:11,.0f}"
        lines.append(f"{entry['method']:14}{cells}{entry['seconds']:9.1f}{rows}{work:>7}")
    lines.append("seconds, forward and backward rows: all that a method needs, its search included")
    lines.append("work: forward + 2 backward, uniform = 1")
    return "\n".join(lines)


def spread_text(entry: Record, key: str, /) -> str:
    """Mean and deviation of a summary's entry."""
    deviation = entry[f"{key}_std"]
    return f"{entry[key]:.2f}" if deviation is None else f"{entry[key]:.2f} ± {deviation:.2f}"


def verdicts(rows: Sequence[Record], /) -> list[str]:
    """Say which methods help, in a sentence per noise level, control, and last or best epoch.

    A method helps if the 95 % interval of its paired differences lies above zero. `replay` is left out: it is `mixture`
    again.
    """
    lines = []
    for level in dict.fromkeys(row["noise"] for row in rows):
        mine = [row for row in rows if row["noise"] == level]
        methods = list(dict.fromkeys(row["method"] for row in mine))
        for control in (each for each in CONTROLS if each in methods):
            for epoch in ("last", "best"):
                values = {method: _entry(mine, method, epoch) for method in methods}
                others = [method for method in methods if method not in (control, "uniform", "replay")]
                found = {method: difference(values[method], values[control]) for method in others}
                against = {method: each for method, each in found.items() if each is not None}
                if against:
                    lines.append(_verdict(level, control, epoch, against))
    return lines


def _entry(rows: Sequence[Record], method: str, epoch: str) -> Entry:
    values = tuple((row["seed"], row[epoch]) for row in rows if row["method"] == method)
    return Entry(method, "last" if epoch == "last" else "chosen", values)


def _verdict(level: float, control: str, epoch: str, against: dict[str, Difference]) -> str:
    groups: dict[str, list[str]] = {"helps": [], "harms": [], "is not shown to differ": []}
    for method, each in against.items():
        low, high = each.interval or (0.0, 0.0)
        where = "helps" if low > 0 else "harms" if high < 0 else "is not shown to differ"
        bounds = f", {low:+.2f} to {high:+.2f}" if each.interval else ", one seed"
        groups[where].append(f"{method} ({each.mean:+.2f}{bounds})")
    name = "plain training of the same steps" if control == "uniform" else "the best of as many plain trainings"
    said = [f"{where}: {', '.join(methods) or 'none'}" for where, methods in groups.items()]
    return f"{level:.0%} wrong labels, against {name} ({control}), {epoch} epoch, points: " + "; ".join(said) + "."
