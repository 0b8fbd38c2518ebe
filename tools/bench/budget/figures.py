"""Charts of `bench budget` as plotly figures: accuracy against measured compute, fixed parts, evenness, schedules."""

from collections.abc import Sequence
from typing import Any

from drawstream.tools.bench.budget.grid import CONTROL, FULL
from drawstream.tools.bench.budget.verdict import UNIFORM, Entry
from drawstream.tools.report.figures.training import BLUE, GRAY, GREEN, ORANGE, PURPLE, Figure, axes

__all__ = ["coreset_figure", "evenness_figure", "pareto_figure", "schedule_figure"]

STYLES = {
    CONTROL: (ORANGE, "circle"),
    FULL: (ORANGE, "circle"),
    "scan": (ORANGE, "circle-open"),
    "p": (BLUE, "circle"),
    "c": (BLUE, "square"),
    "p-paper": (BLUE, "circle-open"),
    "c-paper": (BLUE, "square-open"),
    "sb": (PURPLE, "diamond"),
    "osgd": (PURPLE, "triangle-up"),
    "dlis": (PURPLE, "diamond-open"),
    "rho": (PURPLE, "triangle-up-open"),
    "infobatch": (GREEN, "star"),
    "coreset-random": (GRAY, "circle"),
    "coreset-forgetting": (GREEN, "square"),
    "coreset-k_center": (PURPLE, "triangle-up"),
}
ACCURACY = "Accuracy after the last epoch (%)"


def pareto_figure(entries: Sequence[Entry], /) -> Figure:
    """Accuracy against measured compute under one augmentation and schedule; the uniform control as a line.

    Core-sets have a figure of their own; here, where they would flatten all else, a click on their name shows them.
    """
    control = sorted((entry for entry in entries if entry.method in UNIFORM), key=lambda entry: entry.effective)
    text = "%{customdata}: %{y:.2f} % at %{x:.3f}<extra></extra>"
    data = [_points(control, "unif, full", text) | {"mode": "lines+markers", "line": {"color": ORANGE, "width": 2}}]
    for method in dict.fromkeys(entry.method for entry in entries if entry.method not in UNIFORM):
        mine = sorted((entry for entry in entries if entry.method == method), key=lambda entry: entry.effective)
        trace = _points(mine, method, text) | {"line": {"color": STYLES[method][0], "width": 1, "dash": "dot"}}
        data.append(trace | ({"visible": "legendonly"} if method.startswith("coreset") else {}))
    layout = axes("Measured compute (share of a full training)", ACCURACY, height=460)
    layout["xaxis"]["rangemode"] = "tozero"
    return {"data": data, "layout": layout}


def coreset_figure(entries: Sequence[Entry], /) -> Figure | None:
    """Fig. 1a, b: fixed parts of the rows beside uniform draws over the budget, the full training as a level."""
    methods = [CONTROL, *dict.fromkeys(entry.method for entry in entries if entry.method.startswith("coreset"))]
    budgets = {entry.budget for entry in entries if entry.method.startswith("coreset")}
    if not budgets:
        return None
    data = []
    for method in methods:
        mine = sorted((e for e in entries if e.method == method and e.budget in budgets), key=lambda e: e.budget)
        text = f"{method} at B = %{{x:g}}: %{{y:.2f}} %<extra></extra>"
        trace = _points(mine, method, text) | {"x": [entry.budget for entry in mine], "mode": "lines+markers"}
        data.append(trace | {"line": {"color": STYLES[method][0], "width": 2.5 if method == CONTROL else 1.5}})
    layout = axes("Budget B, what chose the rows not counted", ACCURACY)
    full = [entry for entry in entries if entry.method == FULL]
    if full:
        level = {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": full[0].mean("last")}
        line = {"color": ORANGE, "dash": "dash", "width": 1.5}
        layout["shapes"] = [level | {"y1": full[0].mean("last"), "line": line}]
    return {"data": data, "layout": layout}


def evenness_figure(entries: Sequence[Entry], /) -> Figure:
    """Fig. 1c, d: exp H(c) / N of every method at one budget, 1 where every row was trained on equally often."""
    mine = sorted(entries, key=lambda entry: entry.mean("effective_rows"))
    bars = {
        "type": "bar",
        "orientation": "h",
        "x": [entry.mean("effective_rows") for entry in mine],
        "y": [entry.method for entry in mine],
        "customdata": [entry.mean("count_entropy") for entry in mine],
        "marker": {"color": [STYLES[entry.method][0] for entry in mine]},
        "hovertemplate": "%{y}: exp H / N = %{x:.3f}, H = %{customdata:.3f} nats<extra></extra>",
    }
    layout = axes("exp H(c) / N", "", height=110 + 24 * len(mine), showlegend=False)
    layout["yaxis"] |= {"type": "category", "ticksuffix": "  "}
    layout["xaxis"]["range"] = [0, 1.02]
    return {"data": [bars], "layout": layout}


def schedule_figure(entries: Sequence[Entry], /) -> Figure | None:
    """Linear against step schedule for every method at one budget and augmentation."""
    both = [
        method
        for method in dict.fromkeys(entry.method for entry in entries)
        if {entry.schedule for entry in entries if entry.method == method} >= {"linear", "step"}
    ]
    if len(both) < 2:  # of `full`, and of the budgets of controls, the table says enough
        return None
    data = []
    for schedule, colour, symbol in (("linear", BLUE, "circle"), ("step", ORANGE, "diamond-open")):
        mine = {entry.method: entry for entry in entries if entry.schedule == schedule}
        trace = _points([mine[method] for method in both], schedule, f"%{{y}}, {schedule}: %{{x:.2f}} %<extra></extra>")
        trace |= {"x": [mine[method].mean("last") for method in both], "y": both, "error_x": trace.pop("error_y")}
        data.append(trace | {"mode": "markers", "marker": {"color": colour, "symbol": symbol, "size": 9}})
    layout = axes(ACCURACY, "", height=130 + 24 * len(both))
    layout["yaxis"] |= {"type": "category", "autorange": "reversed", "ticksuffix": "  "}
    return {"data": data, "layout": layout}


def _points(entries: Sequence[Entry], name: str, text: str) -> dict[str, Any]:
    """A trace of mean accuracies with their standard deviations over the measured compute."""
    colour, symbol = STYLES[entries[0].method]
    deviations = [entry.std("last") or 0.0 for entry in entries]
    return {
        "type": "scatter",
        "mode": "lines+markers" if len(entries) > 1 else "markers",
        "name": name,
        "x": [entry.effective for entry in entries],
        "y": [entry.mean("last") for entry in entries],
        "customdata": [f"{entry.method} B = {entry.budget:g}" for entry in entries],
        "error_y": {"type": "data", "array": deviations, "color": colour, "thickness": 1.2, "width": 4},
        "marker": {"color": colour, "symbol": symbol, "size": 9},
        "hovertemplate": text,
    }
