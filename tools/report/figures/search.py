"""Charts of searches: one search's trials, and several searches in one figure, a colour for each kind of search."""

from collections.abc import Mapping, Sequence

import numpy as np

from drawstream.tools.report.figures.training import BLUE, GRAY, GREEN, ORANGE, PURPLE, Figure, axes, line, literal
from drawstream.tools.report.records import TrialPoint
from drawstream.tools.report.searches import Curve, mean_steps, uniform_score

COLOURS = (BLUE, GREEN, PURPLE, GRAY)
DASHES = ("solid", "dot", "dashdot", "longdash")


def percentiles_figure(groups: Mapping[str, Sequence[Curve]], feature: str, /) -> Figure:
    """Mean sampling probability over the percentile of a feature, with uniform sampling as a level.

    Args:
        groups: Curves by name; x percentiles, y mean N P. Several of a name are thin lines below their mean.
        feature: Along x.
    """
    feature = literal(feature)
    text = f"{feature} percentile %{{x:.1f}}: N·P %{{y:.3f}}"
    data = []
    for (name, curves), style in zip(groups.items(), _styles(len(groups)), strict=True):
        data += _bundle(name, curves, style, text)
    if len(data) == 1:
        data[0] |= {"mode": "lines+markers", "marker": {"color": BLUE, "size": 5}}
    level = line([0, 100], [1, 1], "Uniform (N·P = 1)", color=ORANGE, dash="dash", width=2) | {"hoverinfo": "skip"}
    layout = axes(f"Percentile of the {feature} (%)", "Mean probability × N (1)")
    layout["xaxis"]["range"] = [0, 100]
    layout["yaxis"]["rangemode"] = "tozero"
    return {"data": [*data, level], "layout": layout}


def progress_figure(groups: Mapping[str, Sequence[Curve]], along: str, uniform: float | None = None, /) -> Figure:
    """Fig. 3 of the paper: the best score so far, as steps.

    Args:
        groups: Curves by name.
        along: Title of the x axis.
        uniform: The search's own score of uniform sampling.
    """
    data = []
    for (name, curves), style in zip(groups.items(), _styles(len(groups)), strict=True):
        data += _bundle(name, curves, style, "%{x:.4g}: %{y:.4g}", steps=True)
    if uniform is not None:
        data.append(_uniform(uniform, 0.0, max(float(c.x[-1]) for each in groups.values() for c in each)))
    return {"data": data, "layout": axes(along, "Best objective value so far")}


def trials_figure(trials: Sequence[TrialPoint], /) -> Figure:
    """Score of every trial, the best so far, and the candidates without a score along the bottom."""
    scored = [(trial, trial.value) for trial in trials if trial.value is not None]
    values = [value for _, value in scored]
    numbers = [trial.number for trial, _ in scored]
    points = line(numbers, values, "Trial", color=GRAY, width=0) | {
        "mode": "markers",
        "marker": {"color": GRAY, "size": 7},
    }
    points |= {
        "customdata": ["unknown" if trial.ess is None else f"{100 * trial.ess:.0f} % of N" for trial, _ in scored],
        "hovertemplate": "trial %{x}: %{y:.4g}<br>effective sample size %{customdata}<extra></extra>",
    }
    best = line(numbers, np.maximum.accumulate(values).tolist() if values else [], "Best so far", color=BLUE, width=2.5)
    best["line"]["shape"] = "hv"
    data = [points, best]
    floor = min(values) - 0.08 * ((max(values) - min(values)) or 1.0) if values else 0.0
    for state, name, symbol in (
        ("pruned", "Degenerate, not run", "x-thin"),
        ("failed", "Failed", "triangle-down-open"),
    ):
        lost = [
            trial.number for trial in trials if trial.value is None and (trial.state == "pruned") == (state == "pruned")
        ]
        if lost:
            mark = {"color": PURPLE, "symbol": symbol, "size": 8, "line": {"width": 2, "color": PURPLE}}
            trace = line(lost, [floor] * len(lost), name, color=PURPLE, width=0) | {"mode": "markers", "marker": mark}
            data.append(trace | {"hovertemplate": f"trial %{{x}}: {name.lower()}<extra></extra>"})
    uniform = uniform_score(trials)
    if uniform is not None:
        data.append(_uniform(uniform, numbers[0], numbers[-1]))
    return {"data": data, "layout": axes("Trial", "Objective value")}


def _styles(count: int) -> list[dict[str, str]]:
    """A colour each; from the fifth on also another line."""
    return [{"color": COLOURS[i % 4], "dash": DASHES[i // 4 % 4]} for i in range(count)]


def _bundle(
    name: str, curves: Sequence[Curve], style: dict[str, str], text: str, *, steps: bool = False
) -> list[Figure]:
    """One curve, or thin ones below their mean; a legend entry in either case."""
    drawn, name = [], literal(name)
    middle = curves[0]
    if len(curves) > 1:
        for curve in curves:
            thin = line(curve.x.tolist(), curve.y.tolist(), f"{name}, {literal(curve.name)}", **style, width=1)
            drawn.append(thin | {"opacity": 0.55, "showlegend": False})
        middle = mean_steps(curves)
        name = f"{name}, {middle.name}"
    drawn.append(line(middle.x.tolist(), middle.y.tolist(), name, **style, width=2.5))
    for trace in drawn:
        trace["hovertemplate"] = f"{trace['name']}<br>{text}<extra></extra>"
        if steps:
            trace["line"]["shape"] = "hv"
    return drawn


def _uniform(score: float, low: float, high: float) -> Figure:
    level = line([low, high], [score, score], "Uniform, in this search", color=ORANGE, dash="dash", width=2)
    return level | {"hovertemplate": "Uniform: %{y:.4g}<extra></extra>"}
