"""Charts of searches: trials and guard, the sampler found, and several searches in one figure, a colour each."""

import math
from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drawstream.samplers.swift import SwiftParams
from drawstream.tools.experiments import Figure, Style, axes, line, literal, trace
from drawstream.tools.report import Confirmation, Curve, Plane, TrialPoint, mean_steps, uniform_score
from drawstream.tools.training.methods import BLUE, GRAY, GREEN, ORANGE, PURPLE

COLOURS = (BLUE, GREEN, PURPLE, GRAY)
DASHES = ("solid", "dot", "dashdot", "longdash")
LOST = (("pruned", "Degenerate, not run", "x-thin"), ("failed", "Failed", "triangle-down-open"))
UNIFORM: dict[str, Any] = {"color": ORANGE, "dash": "dash", "width": 2}


def percentiles_figure(groups: Mapping[str, Sequence[Curve]], feature: str, /) -> Figure:
    """Return mean sampling probability over the percentile of a feature, with uniform sampling as a level.

    Args:
        groups: Curves by name; x percentiles, y mean N P. Several of a name are thin lines below their mean.
        feature: Feature along x.
    """
    feature = literal(feature)
    data = _bundles(groups, f"{feature} percentile %{{x:.1f}}: N·P %{{y:.3f}}")
    if len(data) == 1:
        data[0] |= {"mode": "lines+markers", "marker": {"color": BLUE, "size": 5}}
    level = line([0, 100], [1, 1], "Uniform (N·P = 1)", **UNIFORM) | {"hoverinfo": "skip"}
    layout = axes(f"Percentile of the {feature} (%)", "Mean probability × N (1)")
    layout["xaxis"]["range"] = [0, 100]
    layout["yaxis"]["rangemode"] = "tozero"
    return {"data": [*data, level], "layout": layout}


def progress_figure(groups: Mapping[str, Sequence[Curve]], along: str, uniform: float | None = None, /) -> Figure:
    """Return Fig. 3 of the paper: the best score so far, as steps.

    Args:
        groups: Curves by name.
        along: Title of the x axis.
        uniform: The search's own score of uniform sampling.
    """
    data = _bundles(groups, "%{x:.4g}: %{y:.4g}", shape="hv")
    last = max(float(curve.x[-1]) for curves in groups.values() for curve in curves)
    return {"data": [*data, *_level(uniform, 0.0, last)], "layout": axes(along, "Best objective value so far")}


def trials_figure(trials: Sequence[TrialPoint], /) -> Figure:
    """Return the score of every trial, the best so far, and the candidates without a score along the bottom."""
    scored = [(trial.number, trial.value) for trial in trials if trial.value is not None]
    numbers, values = [number for number, _ in scored], [value for _, value in scored]
    shares = [
        "unknown" if each.ess is None else f"{100 * each.ess:.0f} % of N" for each in trials if each.value is not None
    ]
    hover = "trial %{x}: %{y:.4g}<br>effective sample size %{customdata}"
    best = np.maximum.accumulate(values).tolist() if values else []
    data = [trace("Trial", scored, Style(GRAY), hover=hover, told=shares)]
    data.append(line(numbers, best, "Best so far", color=BLUE, width=2.5, shape="hv"))
    floor = min(values) - 0.08 * ((max(values) - min(values)) or 1.0) if values else 0.0
    for state, name, symbol in LOST:
        lost = [each for each in trials if each.value is None and (each.state == "pruned") == (state == "pruned")]
        if lost:
            points, hover = [(each.number, floor) for each in lost], f"trial %{{x}}: {name.lower()}"
            data.append(trace(name, points, Style(PURPLE, symbol), hover=hover))
            data[-1]["marker"]["line"] = {"width": 2, "color": PURPLE}
    level = _level(uniform_score(trials), numbers[0], numbers[-1]) if numbers else []
    return {"data": [*data, *level], "layout": axes("Trial", "Objective value")}


def confirmation_figure(confirmation: Sequence[Confirmation], /) -> Figure:
    """Return the guard's runs: scores of the confirmed candidates and the uniform control, mean as a bar."""
    data = []
    for candidate in dict.fromkeys(each.candidate for each in confirmation):
        name, colour = ("Uniform", ORANGE) if candidate == -1 else (f"Trial {candidate}", BLUE)
        runs = [(each.seed, each.value) for each in confirmation if each.candidate == candidate]
        finite = [(seed, value) for seed, value in runs if value is not None]
        hover, seeds = f"{name}, seed %{{customdata}}: %{{y:.4g}}", [seed for seed, _ in finite]
        data.append(trace(name, [(name, value) for _, value in finite], Style(colour), hover=hover, told=seeds))
        if finite:
            middle, hover = mean(value for _, value in finite), f"{name}, mean of {len(finite)} runs: %{{y:.4g}}"
            data.append(trace(name, [(name, middle)], Style(colour, "line-ew-open"), hover=hover))
            data[-1]["marker"] |= {"size": 30, "line": {"width": 2}}
    layout = axes("Candidate", "Objective value", showlegend=False)
    layout["xaxis"]["type"] = "category"
    return {"data": data, "layout": layout}


def plane_figures(cells: Plane, /) -> tuple[Figure, Figure]:
    """Return Fig. 1 of the paper: (a) noisy rows, or all rows if true labels are not known; (b) the sampler."""
    ratio = _heat(cells, cells.ratio, "N·P", "mean N·P %{z:.3f}", max(1.0, float(np.nanmax(cells.ratio))))
    if cells.noisy is None:
        share = np.where(cells.rows > 0, 100 * cells.rows / cells.rows.sum(), np.nan)
        return _heat(cells, share, "% of rows", "%{z:.2f} % of all rows", float(np.nanmax(share))), ratio
    return _heat(cells, 100 * cells.noisy, "% wrong", "%{z:.1f} % with a wrong label", 100.0), ratio


def marginals_figure(classes: Sequence[str], before: NDArray[np.float64], after: NDArray[np.float64], /) -> Figure:
    """Return the share of each class, uniform beside sampler."""
    data = []
    for name, shares, colour, pattern in (("Uniform", before, ORANGE, "/"), ("Sampler", after, BLUE, "")):
        bars = {"type": "bar", "name": name, "x": list(map(literal, classes)), "y": (100 * shares).tolist()}
        bars |= {"marker": {"color": colour, "pattern": {"shape": pattern}}}
        data.append(bars | {"hovertemplate": f"class %{{x}}: %{{y:.2f}} %<extra>{name}</extra>"})
    layout = axes("Class (label as trained)", "Share of the draws (%)", barmode="group", bargap=0.25)
    layout["xaxis"]["type"] = "category"
    return {"data": data, "layout": layout}


def heights_figure(params: SwiftParams, transform: str, /) -> Figure:
    """Return the piecewise-linear H of the found sampler."""
    ends, hover = [0.0, *params.ends, 1.0], "T(u) = %{x:.3f}: H = %{y:.3f}"
    drawn = line(ends, params.values, "H", hover=hover, color=BLUE, width=2.5) | {"mode": "lines+markers"}
    layout = axes(f"T(u), T = {transform}", "Weight H(T(u)) (1)", height=320, showlegend=False)
    layout["xaxis"]["range"] = [0, 1]
    layout["yaxis"]["range"] = [-0.03, 1.03]
    return {"data": [drawn], "layout": layout}


def _bundles(groups: Mapping[str, Sequence[Curve]], hover: str, **style: str) -> list[Figure]:
    """Return a line per group, or thin ones below their mean; a colour each, from the fifth on also another dash."""
    drawn = []
    for i, (group, curves) in enumerate(groups.items()):
        own = {"color": COLOURS[i % 4], "dash": DASHES[i // 4 % 4], **style}
        name, middle = literal(group), curves[0]
        if len(curves) > 1:
            for curve in curves:
                called = f"{name}, {literal(curve.name)}"
                thin = line(curve.x.tolist(), curve.y.tolist(), called, hover=f"{called}<br>{hover}", **own, width=1)
                drawn.append(thin | {"opacity": 0.55, "showlegend": False})
            middle = mean_steps(curves)
            name = f"{name}, {middle.name}"
        drawn.append(line(middle.x.tolist(), middle.y.tolist(), name, hover=f"{name}<br>{hover}", **own, width=2.5))
    return drawn


def _level(score: float | None, low: float, high: float) -> list[Figure]:
    if score is None:
        return []
    return [line([low, high], [score, score], "Uniform, in this search", hover="Uniform: %{y:.4g}", **UNIFORM)]


def _heat(cells: Plane, values: NDArray[np.float64], unit: str, text: str, top: float) -> Figure:
    x, y = map(literal, cells.names)
    middle = ((cells.edges[1:] + cells.edges[:-1]) / 2).tolist()
    cell = {
        "type": "heatmap",
        "x": middle,
        "y": middle,
        "z": [[None if math.isnan(value) else value for value in row] for row in values.tolist()],
        "zmin": 0,
        "zmax": top,
        "customdata": cells.rows.tolist(),
        "colorscale": "Cividis",
        "colorbar": {"title": {"text": unit, "side": "right"}, "thickness": 12, "outlinewidth": 0},
        "hoverongaps": False,
        "hovertemplate": f"cdf {x} %{{x:.2f}}, cdf {y} %{{y:.2f}}<br>{text}<br>%{{customdata}} rows<extra></extra>",
    }
    layout = axes(f"cdf of the {x}", f"cdf of the {y}", height=380, showlegend=False)
    layout["xaxis"] |= {"range": [0, 1], "constrain": "domain"}
    layout["yaxis"] |= {"range": [0, 1], "scaleanchor": "x", "constrain": "domain"}
    return {"data": [cell], "layout": layout}
