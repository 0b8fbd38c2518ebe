"""The report's charts as plotly figures: plain dicts of data and layout; the page adds fonts and colours of its theme.

Colours are told apart with any kind of colour vision and on light and dark pages; control and sampler also differ in
line style or symbol.
"""

import html
import math
from collections.abc import Sequence
from statistics import mean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drawstream.samplers import SwiftParams
from drawstream.tools.report.comparison import Entry
from drawstream.tools.report.groups import Group
from drawstream.tools.report.records import ConfirmationPoint
from drawstream.tools.report.sampled_rows import Plane

Figure = dict[str, Any]
ORANGE, BLUE, GREEN, PURPLE, GRAY = "#d9730d", "#2f7fc1", "#1b9e77", "#a868a4", "#7d8590"
OTHERS = (BLUE, GREEN, PURPLE, GRAY)
WHOLE, BROKEN = ("solid", "dashdot", "longdash"), ("dash", "dot", "longdashdot", "dashdot")
SYMBOLS = {"last": "circle", "chosen": "diamond", "best": "circle-open"}
ACCURACY = {
    "test": "Accuracy on the test set (%)",
    "held_out": "Accuracy on the held-out set (%)",
    "held_out_noisy": "Accuracy, noisy held-out set (%)",
}


def literal(name: object, /) -> str:
    """A name from a record or a catalog as plotly shows it: its charts take some HTML for markup."""
    return html.escape(str(name), quote=False)


def styles(groups: Sequence[Group], /) -> list[dict[str, str]]:
    """Colour and dash of each: orange and broken for controls, blue first for the others."""
    found, controls, others = [], 0, 0
    for group in groups:
        if group.controls:
            found.append({"color": ORANGE, "dash": BROKEN[controls % len(BROKEN)]})
            controls += 1
        else:
            found.append({"color": OTHERS[others % len(OTHERS)], "dash": WHOLE[others // len(OTHERS) % len(WHOLE)]})
            others += 1
    return found


def result_figure(entries: Sequence[Entry], evaluated_on: str, /) -> Figure:
    """Every seed of every entry as a point, mean and standard deviation beside it."""
    groups = list({id(entry.group): entry.group for entry in entries if entry.group}.values())
    palette = {id(group): style["color"] for group, style in zip(groups, styles(groups), strict=True)}
    data = []
    for entry in entries:
        colour = palette[id(entry.group)]
        label = "<br>".join(literal(entry.name).rsplit(", ", 1))
        points = {
            "type": "scatter",
            "mode": "markers",
            "x": [value for _, value in entry.values],
            "y": [label] * len(entry.values),
            "customdata": [seed for seed, _ in entry.values],
            "hovertemplate": "seed %{customdata}: %{x:.2f} %<extra></extra>",
            "marker": {"color": colour, "symbol": SYMBOLS[entry.kind], "size": 9, "opacity": 0.85},
        }
        middle = {
            "type": "scatter",
            "mode": "markers",
            "x": [entry.mean],
            "y": [label],
            "error_x": {"type": "data", "array": [entry.std or 0.0], "color": colour, "thickness": 1.5, "width": 5},
            "hovertemplate": "mean %{x:.2f} %<extra></extra>",
            "marker": {"color": colour, "symbol": "line-ns-open", "size": 22, "line": {"width": 2}},
        }
        data += [points, middle]
    height = 90 + 46 * len(entries)
    layout = axes(ACCURACY.get(evaluated_on, f"Accuracy on {evaluated_on} (%)"), "", height=height, showlegend=False)
    layout["yaxis"] |= {"autorange": "reversed", "type": "category", "ticksuffix": "  "}
    return {"data": data, "layout": layout}


def history_figure(groups: Sequence[Group], name: str, /) -> Figure | None:
    """Accuracy on one set over the epochs: a thin line per run, a group's mean on top; None without any."""
    data = []
    for place, (group, style) in enumerate(zip(groups, styles(groups), strict=True)):
        curves = [
            [(p.epoch + 1, round(p.accuracy[name], 4)) for p in run.history if name in p.accuracy] for run in group.runs
        ]
        mine = [(run, curve) for run, curve in zip(group.runs, curves, strict=True) if curve]
        called = literal(group.name)
        if len(mine) > 1:
            for run, curve in mine:
                thin = line(
                    [x for x, _ in curve], [y for _, y in curve], f"{called}, seed {run.seed}", **style, width=1
                )
                data.append(thin | {"opacity": 0.55, "showlegend": False, "legendgroup": str(place)})
        shared = sorted(set.intersection(*({x for x, _ in curve} for _, curve in mine))) if mine else []
        if shared:
            centre = [mean(dict(curve)[x] for _, curve in mine) for x in shared]
            label = called + (f", mean of {len(mine)} runs" if len(mine) > 1 else "")
            data.append(line(shared, centre, label, **style, width=2.5) | {"legendgroup": str(place)})
    if not data:
        return None
    for trace in data:
        trace["hovertemplate"] = f"{trace['name']}, epoch %{{x}}: %{{y:.2f}} %<extra></extra>"
    return {"data": data, "layout": axes("Epoch", ACCURACY.get(name, f"Accuracy on {name} (%)"))}


def plane_figures(cells: Plane, /) -> tuple[Figure, Figure]:
    """Fig. 1 of the paper: (a) noisy rows, or all rows where true labels are not known; (b) the sampler, same axes."""
    ratio = _heat(cells, cells.ratio, "N·P", "mean N·P %{z:.3f}", max(1.0, float(np.nanmax(cells.ratio))))
    if cells.noisy is None:
        share = np.where(cells.rows > 0, 100 * cells.rows / cells.rows.sum(), np.nan)
        return _heat(cells, share, "% of rows", "%{z:.2f} % of all rows", float(np.nanmax(share))), ratio
    return _heat(cells, 100 * cells.noisy, "% wrong", "%{z:.1f} % with a wrong label", 100.0), ratio


def confirmation_figure(confirmation: Sequence[ConfirmationPoint], /) -> Figure:
    """The guard's runs: scores of the confirmed candidates and the uniform control, mean as a bar."""
    data = []
    for candidate in dict.fromkeys(point.candidate for point in confirmation):
        name = "Uniform" if candidate == -1 else f"Trial {candidate}"
        colour = ORANGE if candidate == -1 else BLUE
        runs = [(p.seed, p.value) for p in confirmation if p.candidate == candidate]
        finite = [(seed, value) for seed, value in runs if value is not None]
        points = line([name] * len(finite), [value for _, value in finite], name, color=colour, width=0)
        points |= {"mode": "markers", "marker": {"color": colour, "size": 8, "opacity": 0.85}}
        points |= {"customdata": [seed for seed, _ in finite]}
        points |= {"hovertemplate": f"{name}, seed %{{customdata}}: %{{y:.4g}}<extra></extra>"}
        data.append(points)
        if finite:
            middle = line([name], [mean(value for _, value in finite)], name, color=colour, width=0)
            mark = {"color": colour, "symbol": "line-ew-open", "size": 30, "line": {"width": 2}}
            text = f"{name}, mean of {len(finite)} runs: %{{y:.4g}}<extra></extra>"
            data.append(middle | {"mode": "markers", "marker": mark, "hovertemplate": text})
    layout = axes("Candidate", "Objective value", showlegend=False)
    layout["xaxis"]["type"] = "category"
    return {"data": data, "layout": layout}


def marginals_figure(classes: Sequence[str], before: NDArray[np.float64], after: NDArray[np.float64], /) -> Figure:
    """Share of each class, uniform beside sampler."""
    data = []
    for name, shares, colour, pattern in (("Uniform", before, ORANGE, "/"), ("Sampler", after, BLUE, "")):
        bars = {"type": "bar", "name": name, "x": list(map(literal, classes)), "y": (100 * shares).tolist()}
        bars |= {"marker": {"color": colour, "pattern": {"shape": pattern}}}
        data.append(bars | {"hovertemplate": f"class %{{x}}: %{{y:.2f}} %<extra>{name}</extra>"})
    layout = axes("Class (label as trained)", "Share of the draws (%)", barmode="group", bargap=0.25)
    layout["xaxis"]["type"] = "category"
    return {"data": data, "layout": layout}


def heights_figure(params: SwiftParams, transform: str, /) -> Figure:
    """The piecewise-linear H of the found sampler."""
    x = [0.0, *params.ends, 1.0]
    drawn = line(x, list(params.values), "H", color=BLUE, width=2.5) | {"mode": "lines+markers"}
    drawn["hovertemplate"] = "T(u) = %{x:.3f}: H = %{y:.3f}<extra></extra>"
    layout = axes(f"T(u), T = {transform}", "Weight H(T(u)) (1)", height=320, showlegend=False)
    layout["xaxis"]["range"] = [0, 1]
    layout["yaxis"]["range"] = [-0.03, 1.03]
    return {"data": [drawn], "layout": layout}


def line(x: Sequence[Any], y: Sequence[float], name: str, /, **style: Any) -> Figure:
    """A line of this name; style: colour, dash, width."""
    kept = {key: value for key, value in style.items() if value is not None}
    return {
        "type": "scatter",
        "mode": "lines",
        "name": name,
        "x": list(x),
        "y": list(y),
        "line": kept,
        "hovertemplate": f"{name}: %{{y:.2f}}<extra></extra>",
    }


def _heat(cells: Plane, values: NDArray[np.float64], unit: str, text: str, top: float) -> Figure:
    x, y = map(literal, cells.names)
    middle = ((cells.edges[1:] + cells.edges[:-1]) / 2).tolist()
    numbers = [[None if math.isnan(value) else value for value in row] for row in values.tolist()]
    cell = {
        "type": "heatmap",
        "x": middle,
        "y": middle,
        "z": numbers,
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


def axes(x: str, y: str, /, *, height: int = 360, **more: Any) -> Figure:
    """The layout of a chart with these axis titles, `height` pixels high."""
    top = 68 if more.get("showlegend", True) else 36  # the tools, and two lines of a legend
    return {
        "height": height,
        "margin": {"l": 50, "r": 12, "t": top, "b": 52},
        "xaxis": {"title": {"text": x}, "automargin": True, "zeroline": False},
        "yaxis": {"title": {"text": y}, "automargin": True, "zeroline": False},
        "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "tracegroupgap": 0},
        "hoverlabel": {"namelength": -1},
        **more,
    }
