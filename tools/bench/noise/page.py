"""The label-noise benchmark as text and as one page: tables, `uniform` on top, and figures."""

from collections.abc import Sequence
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

import numpy as np

from drawstream.tools.bench.noise.methods import METHODS, STOPPED
from drawstream.tools.bench.noise.rank_study import rank_table
from drawstream.tools.bench.noise.results import Finding
from drawstream.tools.experiments import (
    Entry,
    Figure,
    Style,
    Table,
    axes,
    seeds_figure,
    signed,
    style_of,
    table_of,
    title_of,
    trace,
)
from drawstream.tools.report import page
from drawstream.tools.training.methods import BLUE, GRAY, GREEN, ORANGE, PURPLE

Row = dict[str, Any]
STYLES = {  # of what the table of methods does not hold
    STOPPED: Style(ORANGE, "circle-open", "dot"),
    "swift-cgf": Style(BLUE, "diamond", "dash"),
    "swift-random": Style(PURPLE, "square"),
    "swift-reinforce": Style(PURPLE, "triangle-up", "dash"),
    "swift-gp": Style(GREEN, "circle"),
    "swift-gp-cgf": Style(GREEN, "diamond", "dash"),
    "clean-loss": Style(GREEN, "hexagon-open", "dash"),
    "clean-class": Style(GREEN, "hexagon2", "dash"),
    "clean-refit": Style(GREEN, "hexagram", "dash"),
}
AGENTS = ("swift", "swift-cgf", "swift-random", "swift-reinforce", "swift-gp", "swift-gp-cgf")
SPAN = 0.4  # of a level's step in the figure over levels, over which its methods stand side by side
LAST = "Test accuracy after the last epoch (%)"
NOTES = (
    "Test accuracy in per cent, mean ± standard deviation over the seeds. Last epoch: nothing is chosen; best epoch: "
    "the validation set chooses it. Gain: last epoch less that of uniform at the same seed, with the 95 % interval of "
    "its mean. Gap closed: the gain as a share of the gain of training on the right rows only. Speed: epochs until "
    "uniform first has the accuracy of its last epoch, over those until the method has it. Search ÷ training: "
    "seconds of the search over those of one uniform training."
)


def _style(method: str) -> Style:
    return STYLES.get(method) or style_of("drop" if method.startswith("drop") else method)


def where(setting: Row, /) -> str:
    """Return the noise level and the validation set as text."""
    return f"{setting['noise']:.0%} wrong labels, {_judge(setting)}"


def _judge(setting: Row) -> str:
    """The validation set and the model as text."""
    return f"{setting['validation']} validation" + (f", {setting['model']}" if "model" in setting else "")


def tables(findings: Sequence[Finding], /) -> list[Table]:
    """Return a table per noise level and validation set."""
    return [
        table_of(
            block,
            {
                "": lambda each: each.name,
                "last epoch": lambda each: str(each.entry.spread("last")),
                "best epoch": lambda each: str(each.entry.spread("best")),
                "balanced": lambda each: str(each.entry.spread("balanced")),
                "gain (95 % interval)": lambda each: (
                    each.gain.text() if each.gain and each.entry.method != "uniform" else ""
                ),
                "gain, best epoch": lambda each: signed(each.best_gain.mean) if each.best_gain else "",
                "gap closed": lambda each: "" if each.gap_closed is None else f"{each.gap_closed:.0%}",
                "speed": lambda each: "" if each.speed is None else f"{each.speed:.0%}",
                "search ÷ training": lambda each: f"{each.search_cost:.2f}" if each.search_cost else "",
                "train s": lambda each: f"{each.entry.mean('train_seconds'):.1f}",
            },
            f"{where(block[0].entry.setting)}, {max(len(each.entry.rows) for each in block)} seed(s)",
        )
        for block in _blocks(findings)
    ]


def _blocks(findings: Sequence[Finding]) -> list[list[Finding]]:
    return [list(block) for _, block in groupby(findings, key=lambda each: each.entry.setting)]


def rank_tables(found: Sequence[Row], /) -> list[Table]:
    """Return the rank studies of each place as a table over the seeds."""
    parts = {where(each): [other for other in found if where(other) == where(each)] for each in found}
    return [
        rank_table(mine, f"rank study, {place}, {mine[0]['candidates']} candidates, {len(mine)} seed(s)")
        for place, mine in parts.items()
    ]


def write_page(
    path: Path,
    data: str,
    findings: Sequence[Finding],
    /,
    *,
    searches: Sequence[Row],
    rank_study: Sequence[Row],
    rank_agreement: Sequence[Row],
) -> None:
    """Write the page of `bench noise`."""
    parts = [page.paragraph(f"{data}; all methods have the same rows, recipe and initial weights. {NOTES}")]
    judges = dict.fromkeys(_judge(each.entry.setting) for each in findings)
    levels = [over_levels([each for each in findings if _judge(each.entry.setting) == name]) for name in judges]
    parts += _section("Accuracy and share of wrong labels", levels)
    for table, block in zip(tables(findings), _blocks(findings), strict=True):
        entries, names = [each.entry for each in block], [each.name for each in block]
        figure = seeds_figure(entries, "last", LAST, names=names, style=_style)
        chart = page.chart(figure, "A point per seed; mean and standard deviation as a bar.")
        parts.append(page.section(table.title, page.table(table.head, table.rows), page.folded("As a figure", chart)))
    parts += _section("Result and cost of the search", [cost_figure(block) for block in _blocks(findings)])
    parts += _section("Best candidate so far", agent_figures(searches))
    if searches:
        parts.append(page.folded("What each search found", _stories(searches)))
    lines = [page.heading(each.title) + page.table(each.head, each.rows) for each in rank_tables(rank_agreement)]
    ranks = [_rank_figure(block) for block in _by_place(rank_study)]
    parts += _section("Does fine-tuning rank as training does?", ranks, *lines)
    page.write_page(path, "Training on wrong labels", *parts)


def _section(title: str, figures: Sequence[tuple[Figure, str] | None], *more: str) -> list[str]:
    """A section of charts with their captions; none without a figure."""
    charts = [page.chart(*each) for each in figures if each is not None]
    return [page.section(title, *charts, *more)] if charts else []


def over_levels(findings: Sequence[Finding], /) -> tuple[Figure, str] | None:
    """Return last-epoch accuracy against noise under one validation set, and its caption; None for a single level.

    The methods of a level stand side by side, so that their error bars can be told apart.
    """
    levels = sorted({each.entry.setting["noise"] for each in findings})
    if len(levels) < 2:
        return None
    lines: dict[str, list[Entry]] = {}
    for each in findings:
        if each.entry.method in (*STYLES, *METHODS) or each.hindsight:
            lines.setdefault("drop" if each.hindsight else each.entry.method, []).append(each.entry)
    step = min(b - a for a, b in pairwise(levels)) * SPAN / max(len(lines), 1)
    data = []
    for place, (method, entries) in enumerate(lines.items()):
        shift = (place - (len(lines) - 1) / 2) * step
        points = [(entry.setting["noise"] + shift, entry.mean("last")) for entry in entries]
        name = "drop (best share in hindsight)" if method == "drop" else title_of(method)
        spreads = [entry.spread("last") for entry in entries]
        data.append(trace(name, points, _style(method), lines=True, spreads=spreads, hover=f"{name}: %{{y:.2f}} %"))
    layout = axes("Share of wrong labels", LAST, height=460)
    layout["xaxis"] |= {"tickvals": levels, "ticktext": [f"{level:.0%}" for level in levels]}
    judge = _judge(findings[0].entry.setting)
    return {"data": data, "layout": layout}, f"Mean and standard deviation, {judge}, drawn side by side."


def cost_figure(block: Sequence[Finding], /) -> tuple[Figure, str] | None:
    """Return last-epoch accuracy against the cost of the search, and its caption; None without a search.

    The last epoch of uniform is in the caption: as a point it would leave no room for what the searches differ in.
    """
    searched = [each for each in block if each.search_cost]
    if not searched:
        return None
    data = []
    for each in [each for each in block if each.entry.method in (STOPPED, "clean-only")] + searched:
        name, spread = title_of(each.entry.method), each.entry.spread("last")
        point = (each.search_cost or 0.0, spread.mean)
        data.append(trace(name, [point], _style(each.entry.method), spreads=[spread], hover=f"{name}: %{{y:.2f}} %"))
    lengths = [each for each in searched if each.entry.method == "swift" or each.entry.method[6:].isdigit()]
    curve = sorted((each.search_cost or 0.0, each.entry.mean("last")) for each in lengths)
    if len(curve) > 1:
        hidden = {"mode": "lines", "hoverinfo": "skip", "showlegend": False}
        data.insert(-len(searched), trace("swift", curve, Style(BLUE), lines=True) | hidden)
    layout = axes("Cost of the search (one uniform training = 1)", LAST, height=400)
    most = max(each.search_cost or 0.0 for each in searched)
    layout["xaxis"]["range"] = [-0.04 * most, 1.04 * most]
    control = "".join(f"; uniform: {each.entry.spread('last')}" for each in block if each.entry.method == "uniform")
    return {"data": data, "layout": layout}, (
        f"{where(block[0].entry.setting)}{control}. Line: swift with other numbers of candidates (swift-N)."
    )


def _by_place(rows: Sequence[Row]) -> list[list[Row]]:
    """Rows of one noise level and validation set together."""

    def place(row: Row) -> tuple[float, str]:
        return row["noise"], _judge(row)

    return [list(block) for _, block in groupby(sorted(rows, key=place), key=place)]


def agent_figures(searches: Sequence[Row], /) -> list[tuple[Figure, str]]:
    """Return the best score so far against the number of candidates, mean over the seeds; one figure per place."""
    found = []
    for block in _by_place([search for search in searches if search["method"] in AGENTS]):
        data = []
        for method in (name for name in AGENTS if name in {search["method"] for search in block}):
            scores = [search["scores"] for search in block if search["method"] == method]
            best = np.maximum.accumulate([each[: min(map(len, scores))] for each in scores], axis=1).mean(axis=0)
            hover = f"{title_of(method)}, %{{x}} candidates: %{{y:.2f}}"
            line = trace(title_of(method), list(enumerate(best.tolist(), 1)), _style(method), lines=True, hover=hover)
            line["line"] |= {"shape": "hv", "width": 2}
            data.append(line | {"mode": "lines"})
        layout = axes("Candidates", "Best score so far (%)", height=380, showlegend=True)
        seeds = len({search["seed"] for search in block})
        note = f"{where(block[0])}, mean of {seeds} seed(s): accuracy after fine-tuning."
        found.append(({"data": data, "layout": layout}, note))
    return found


def _stories(searches: Sequence[Row]) -> str:
    columns = {
        "Search": lambda each: title_of(each["method"]),
        "Noise": lambda each: f"{each['noise']:g}",
        "Validation": lambda each: each["validation"],
        "Seed": lambda each: str(each["seed"]),
        "Search says": lambda each: each["message"],
        "Guard of the finished models": lambda each: each["guard"] or "",
        "Last without it": lambda each: "" if each["unguarded"] is None else f"{each['unguarded']:.2f}",
    }
    table = table_of(searches, columns)
    return page.table(table.head, table.rows, text=True)


def _rank_figure(rows: Sequence[Row]) -> tuple[Figure, str]:
    data = []
    symbols = ("circle", "diamond", "square", "triangle-up", "cross", "star")
    for place, seed in enumerate(dict.fromkeys(row["seed"] for row in rows)):
        mine = [row for row in rows if row["seed"] == seed]
        points = [(row["fine_tuned"], row["from_scratch"]) for row in mine]
        style = Style(_COLOURS[place % len(_COLOURS)], symbols[place % len(symbols)])
        told = [row["candidate"] for row in mine]
        data.append(
            trace(f"seed {seed}", points, style, told=told, hover="candidate %{customdata}: %{x:.2f}, %{y:.2f}")
        )
    layout = axes("Validation accuracy after fine-tuning (%)", "Test accuracy from scratch (%)", height=420)
    return {"data": data, "layout": layout}, f"{where(rows[0])}: the last candidates of a search, scored both ways."


_COLOURS = (BLUE, ORANGE, GREEN, PURPLE, GRAY)
