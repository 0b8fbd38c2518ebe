"""The label-noise benchmark as one page: tables with the uniform control on top, and figures; from the record alone."""

from collections.abc import Sequence
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

import numpy as np

from drawstream.samplers.files.atomic import write_atomically
from drawstream.tools.bench.noise.methods import STOPPED, label
from drawstream.tools.bench.noise.table import agreement_line, signed, spread, title
from drawstream.tools.report.figures.training import BLUE, GRAY, GREEN, ORANGE, PURPLE, Figure, axes
from drawstream.tools.report.pages.page import chart, document, folded, paragraph, section, table

Row = dict[str, Any]
Style = tuple[str, str, str]  # colour, dash, symbol
STYLES: dict[str, Style] = {
    "uniform": (ORANGE, "dash", "circle"),
    STOPPED: (ORANGE, "dot", "circle-open"),
    "swift": (BLUE, "solid", "circle"),
    "swift-cgf": (BLUE, "dash", "diamond"),
    "swift-random": (PURPLE, "solid", "square"),
    "swift-reinforce": (PURPLE, "dash", "triangle-up"),
    "reed-soft": (GRAY, "dot", "triangle-up-open"),
    "reed-hard": (GRAY, "dash", "triangle-down-open"),
    "l2rw": (GREEN, "dash", "diamond-open"),
    "mentornet": (GRAY, "solid", "square-open"),
    "clean-only": (GRAY, "dashdot", "star"),
}
DROP: Style = (GREEN, "solid", "cross")
OTHER: Style = (BLUE, "dot", "circle-open")
AGENTS = ("swift", "swift-cgf", "swift-random", "swift-reinforce")
SPAN = 0.4  # of a level's step in the figure over levels, over which its methods stand side by side


def write_page(record: Row, path: Path, /) -> None:
    """Write the page of a record of `bench noise`."""
    with write_atomically(path) as temporary:
        temporary.write_text(page(record), encoding="utf-8")


def page(record: Row, /) -> str:
    """The page's HTML."""
    summary: list[Row] = record["summary"]
    parts = [
        paragraph(
            f"{record['data']}; all methods have the same rows, recipe and initial weights. Test accuracy, per cent: "
            "mean and standard deviation over the seeds. Best epoch: chosen on the validation set; last epoch: nothing "
            "chosen."
        )
    ]
    levels = [figure for figure in (over_levels(block) for block in _by_judge(summary)) if figure is not None]
    if levels:
        parts.append(section("Accuracy and share of wrong labels", *(chart(figure, note) for figure, note in levels)))
    parts += [section(title(block[0]), _table(block), _points(block)) for block in _blocks(summary)]
    costs = [found for found in (cost_figure(block) for block in _blocks(summary)) if found is not None]
    if costs:
        parts.append(section("Result and cost of the search", *(chart(figure, note) for figure, note in costs)))
    if record["searches"]:
        parts.append(section("Best candidate so far", *(chart(*found) for found in agent_figures(record["searches"]))))
        parts.append(folded("What each search found", _stories(record["searches"])))
    if record["rank_study"]:
        lines = [paragraph(agreement_line(each)) for each in record["rank_agreement"]]
        parts.append(section("Does fine-tuning rank as training does?", *map(_ranks, _studies(record)), *lines))
    return document("Training on wrong labels", *parts)


def _blocks(summary: Sequence[Row]) -> list[list[Row]]:
    """Entries of one noise level, validation and number of seeds together."""
    keys = ("noise", "validation", "seeds")
    return [list(block) for _, block in groupby(summary, key=lambda entry: [entry[key] for key in keys])]


def _by_judge(summary: Sequence[Row]) -> list[list[Row]]:
    judges = dict.fromkeys(entry["validation"] for entry in summary)
    return [[entry for entry in summary if entry["validation"] == judge] for judge in judges]


def _name(entry: Row) -> str:
    return label(entry["method"]) + (" (best share in hindsight)" if entry["hindsight"] else "")


def _style(method: str) -> Style:
    return STYLES.get(method, DROP if method.startswith("drop") else OTHER)


def _table(block: Sequence[Row]) -> str:
    head = ["", "Last epoch", "Best epoch", "Gain", "Least", "Gain, best", "Gap closed", "Search ÷ training", "Train s"]
    rows = []
    for entry in block:
        closed = "" if entry["gap_closed"] is None else f"{100 * entry['gap_closed']:.0f} %"
        cost = f"{entry['search_cost']:.2f}" if entry["search_cost"] else ""
        gains = [signed(entry[key]) for key in ("gain", "least_gain", "best_gain")]
        times = [cost, f"{entry['train_seconds']:.1f}"]
        rows.append([_name(entry), spread(entry, "last"), spread(entry, "best"), *gains, closed, *times])
    note = (
        "Gain: last epoch, less that of uniform under the same seed, and its least over the seeds; best: the same of "
        "the best epoch. Gap closed: gain as a share of that of training on clean rows only."
    )
    return table(head, rows) + paragraph(note, kind="soft")


def _points(block: Sequence[Row]) -> str:
    """Means and deviations of a block as a figure, folded."""
    data = [
        _marks(
            entry["method"],
            [entry["last"]],
            [_name(entry).replace(" (", "<br>(")],
            errors=[entry["last_std"] or 0.0],
            across=True,
        )
        for entry in block
    ]
    layout = axes("Test accuracy after the last epoch (%)", "", height=110 + 26 * len(block), showlegend=False)
    layout["yaxis"] |= {"autorange": "reversed", "type": "category", "ticksuffix": "  "}
    figure = {"data": data, "layout": layout}
    return folded("The same as a figure", chart(figure, "Mean and standard deviation over the seeds."))


def over_levels(entries: Sequence[Row], /) -> tuple[Figure, str] | None:
    """Last-epoch accuracy against noise under one validation set, and its caption; None for a single level.

    The methods of a level stand side by side, so that their error bars can be told apart.
    """
    levels = sorted({entry["noise"] for entry in entries})
    if len(levels) < 2:
        return None
    shown = [entry for entry in entries if entry["method"] in STYLES or entry["hindsight"]]
    lines: dict[str, list[Row]] = {}
    for entry in shown:
        lines.setdefault("drop" if entry["hindsight"] else entry["method"], []).append(entry)
    step = min(b - a for a, b in pairwise(levels)) * SPAN / max(len(lines), 1)
    data = []
    for place, (method, mine) in enumerate(lines.items()):
        ordered = sorted(mine, key=lambda entry: entry["noise"])
        x = [entry["noise"] + (place - (len(lines) - 1) / 2) * step for entry in ordered]
        errors = [entry["last_std"] or 0.0 for entry in ordered]
        trace = _marks(method, x, [entry["last"] for entry in ordered], errors=errors, lines=True)
        data.append(trace | {"name": "drop (best share in hindsight)" if method == "drop" else label(method)})
    layout = axes("Share of wrong labels", "Test accuracy after the last epoch (%)", height=460)
    layout["xaxis"] |= {"tickvals": levels, "ticktext": [f"{100 * level:g} %" for level in levels]}
    note = f"Mean and standard deviation over the seeds, {entries[0]['validation']} validation, drawn side by side."
    return {"data": data, "layout": layout}, note


def cost_figure(block: Sequence[Row], /) -> tuple[Figure, str] | None:
    """Last-epoch accuracy against the cost of the search, and its caption; None without a search.

    The last epoch of uniform is in the caption: as a point it would leave no room for what the searches differ in.
    """
    searched = [entry for entry in block if entry["search_cost"]]
    if not searched:
        return None
    without = [entry for entry in block if entry["method"] in (STOPPED, "clean-only")]
    lengths = [entry for entry in searched if entry["method"] == "swift" or entry["method"][6:].isdigit()]
    curve = sorted(lengths, key=lambda entry: entry["search_cost"])
    data = [_marks(entry["method"], [0.0], [entry["last"]], errors=[entry["last_std"] or 0.0]) for entry in without]
    if len(curve) > 1:
        line = {"mode": "lines", "line": {"color": BLUE, "width": 1.5}, "hoverinfo": "skip", "showlegend": False}
        x, y = ([entry[key] for entry in curve] for key in ("search_cost", "last"))
        data.append({"type": "scatter", "x": x, "y": y} | line)
    data += [
        _marks(entry["method"], [entry["search_cost"]], [entry["last"]], errors=[entry["last_std"] or 0.0])
        for entry in searched
    ]
    layout = axes("Cost of the search (one uniform training = 1)", "Test accuracy after the last epoch (%)", height=400)
    most = max(entry["search_cost"] for entry in searched)
    layout["xaxis"]["range"] = [-0.04 * most, 1.04 * most]
    control = "".join(f"; uniform: {spread(entry, 'last')}" for entry in block if entry["method"] == "uniform")
    note = f"{title(block[0])}{control}. Line: swift with other numbers of candidates (swift-N)."
    return {"data": data, "layout": layout}, note


def agent_figures(searches: Sequence[Row], /) -> list[tuple[Figure, str]]:
    """Best score so far against the number of candidates, mean over the seeds; one figure per noise and validation."""

    def group(search: Row) -> tuple[float, str]:
        return search["noise"], search["validation"]

    found = []
    for (noise, judge), block in groupby(sorted(searches, key=group), key=group):
        mine = list(block)
        data = []
        for method in AGENTS:
            scores = [search["scores"] for search in mine if search["method"] == method]
            if scores:
                length = min(map(len, scores))
                best = np.maximum.accumulate([each[:length] for each in scores], axis=1).mean(axis=0)
                colour, dash, _ = _style(method)
                line = {"color": colour, "dash": dash, "shape": "hv", "width": 2}
                x = list(range(1, length + 1))
                data.append({"type": "scatter", "mode": "lines", "name": label(method), "x": x, "y": best.tolist()})
                data[-1] |= {
                    "line": line,
                    "hovertemplate": f"{label(method)}, %{{x}} candidates: %{{y:.2f}}<extra></extra>",
                }
        if data:
            layout = axes("Candidates", "Best score so far (%)", height=380, showlegend=True)
            seeds = len({search["seed"] for search in mine})
            note = f"{noise:.0%} wrong labels, {judge} validation, mean of {seeds} seed(s): accuracy after fine-tuning."
            found.append(({"data": data, "layout": layout}, note))
    return found


def _stories(searches: Sequence[Row]) -> str:
    head = ["Search", "Noise", "Validation", "Seed", "Search says", "Guard of the finished models", "Last without it"]
    rows = [
        [
            label(each["method"]),
            f"{each['noise']:g}",
            each["validation"],
            str(each["seed"]),
            each["message"],
            each["guard"] or "",
            "" if each["unguarded"] is None else f"{each['unguarded']:.2f}",
        ]
        for each in searches
    ]
    return table(head, rows, text=True)


def _studies(record: Row) -> list[list[Row]]:
    def group(row: Row) -> tuple[float, str]:
        return row["noise"], row["validation"]

    rows = sorted(record["rank_study"], key=group)
    return [list(block) for _, block in groupby(rows, key=group)]


def _ranks(rows: Sequence[Row]) -> str:
    data = []
    symbols = ("circle", "diamond", "square", "triangle-up", "cross", "star")
    for place, seed in enumerate(dict.fromkeys(row["seed"] for row in rows)):
        mine = [row for row in rows if row["seed"] == seed]
        x, y = ([row[key] for row in mine] for key in ("fine_tuned", "from_scratch"))
        trace: Figure = {"type": "scatter", "mode": "markers", "name": f"seed {seed}", "x": x, "y": y}
        trace |= {"customdata": [row["candidate"] for row in mine]}
        trace |= {"marker": {"symbol": symbols[place % len(symbols)], "size": 9}}
        data.append(trace | {"hovertemplate": "candidate %{customdata}: %{x:.2f}, %{y:.2f}<extra></extra>"})
    layout = axes("Validation accuracy after fine-tuning (%)", "Test accuracy from scratch (%)", height=420)
    note = (
        f"{rows[0]['noise']:.0%} wrong labels, {rows[0]['validation']} validation: random samplers, scored both ways."
    )
    return chart({"data": data, "layout": layout}, note)


def _marks(
    method: str,
    x: Sequence[Any],
    y: Sequence[Any],
    *,
    errors: Sequence[float],
    lines: bool = False,
    across: bool = False,
) -> Figure:
    """Points with error bars along y, or along x (`across`); joined by lines or not."""
    colour, dash, symbol = _style(method)
    value = "x" if across else "y"
    return {
        "type": "scatter",
        "mode": "lines+markers" if lines else "markers",
        "name": label(method),
        "x": list(x),
        "y": list(y),
        f"error_{value}": {"type": "data", "array": list(errors), "color": colour, "thickness": 1.3, "width": 4},
        "marker": {"color": colour, "symbol": symbol, "size": 9},
        "line": {"color": colour, "dash": dash, "width": 1.5},
        "hovertemplate": f"{label(method)}: %{{{value}:.2f}} %<extra></extra>",
    }
