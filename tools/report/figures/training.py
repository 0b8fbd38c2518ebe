"""Charts of trainings: plotly figures as plain dicts of data and layout; the page adds fonts and colours of its theme.

Colours are told apart with any kind of colour vision and on light and dark pages; control and sampler also differ in
line style or symbol.
"""

from collections.abc import Mapping, Sequence
from itertools import count
from statistics import mean

from drawstream.tools.experiments import METRICS, Figure, Style, axes, line, literal, lower_is_better, rows_figure
from drawstream.tools.report import Entry, Group, metric_of
from drawstream.tools.training.methods import BLUE, GRAY, GREEN, ORANGE, PURPLE

__all__ = ["classes_figure", "history_figure", "result_figure", "shares_figure"]

OTHERS = (BLUE, GREEN, PURPLE, GRAY)
WHOLE, BROKEN = ("solid", "dashdot", "longdash"), ("dash", "dot", "longdashdot", "dashdot")
SYMBOLS = {"last": "circle", "chosen": "diamond", "best": "circle-open"}
SETS = {"test": " on the test set", "held_out": " on the held-out set", "held_out_noisy": ", noisy held-out set"}


def styles(groups: Sequence[Group], /) -> list[dict[str, str]]:
    """Return colour and dash of each: orange and broken for controls, blue first for the others."""
    controls, others = count(), count()
    found = []
    for group in groups:
        i = next(controls if group.is_control else others)
        colour, dash = (
            (ORANGE, BROKEN[i % len(BROKEN)])
            if group.is_control
            else (OTHERS[i % len(OTHERS)], WHOLE[i // len(OTHERS) % len(WHOLE)])
        )
        found.append({"color": colour, "dash": dash})
    return found


def result_figure(entries: Sequence[Entry], evaluated_on: str, /) -> Figure:
    """Return every seed of every entry as a point, with mean and standard deviation."""
    groups = list(dict.fromkeys(entry.group for entry in entries))
    palette = {group: style["color"] for group, style in zip(groups, styles(groups), strict=True)}
    rows = [
        ("<br>".join(literal(each.name).rsplit(", ", 1)), Style(palette[each.group], SYMBOLS[each.kind]), each.values)
        for each in entries
    ]
    return rows_figure(rows, _title(evaluated_on, entries[0].metric), row=46)


def history_figure(groups: Sequence[Group], name: str, /) -> Figure | None:
    """Return the metric on one set over the epochs: a thin line per run, a group's mean on top; None without any."""
    data = []
    for place, (group, style) in enumerate(zip(groups, styles(groups), strict=True)):
        curves = {
            run.seed: {each.number + 1: round(each.accuracy[name], 4) for each in run.history if name in each.accuracy}
            for run in group.runs
        }
        mine = {seed: curve for seed, curve in curves.items() if curve}
        called, grouped = literal(group.name), {"legendgroup": str(place)}
        if len(mine) > 1:
            for seed, curve in mine.items():
                thin = line(list(curve), list(curve.values()), f"{called}, seed {seed}", **style, width=1)
                data.append(thin | grouped | {"opacity": 0.55, "showlegend": False})
            called += f", mean of {len(mine)} runs"
        shared = sorted(set.intersection(*map(set, mine.values()))) if mine else []
        if shared:
            centre = [mean(curve[x] for curve in mine.values()) for x in shared]
            data.append(line(shared, centre, called, **style, width=2.5) | grouped)
    if not data:
        return None
    metric = metric_of(groups[0])
    value = "%{y:.4g}" if lower_is_better(metric) else "%{y:.2f} %"
    for each in data:
        each["hovertemplate"] = f"{each['name']}, epoch %{{x}}: {value}<extra></extra>"
    return {"data": data, "layout": axes("Epoch", _title(name, metric))}


def shares_figure(names: Sequence[str], before: Sequence[float], drawn: Mapping[str, Sequence[float]], /) -> Figure:
    """Return the share of each class among the training images, as bars, and among the draws of each group, as lines.

    Args:
        names: Of the classes.
        before: Shares of the training images, in [0, 1].
        drawn: Shares of the draws by name of the group.
    """
    x = list(map(literal, names))
    bars: Figure = {"type": "bar", "name": "before", "x": x, "y": [100 * each for each in before]}
    bars |= {"marker": {"color": GRAY, "opacity": 0.5}, "hovertemplate": "%{x}: %{y:.2f} %<extra>before</extra>"}
    lines = _lines(x, {name: [100 * each for each in mine] for name, mine in drawn.items()})
    layout = axes("Class", "Share (%)")
    layout["xaxis"]["type"] = "category"
    return {"data": [bars, *lines], "layout": layout}


def classes_figure(names: Sequence[str], accuracy: Mapping[str, Sequence[float | None]], /) -> Figure:
    """Return the accuracy of each class, a line for each group, per cent; None for a class without test images."""
    layout = axes("Class", "Accuracy of the class (%)")
    layout["xaxis"]["type"] = "category"
    return {"data": _lines(list(map(literal, names)), accuracy), "layout": layout}


def _lines(x: Sequence[str], values: Mapping[str, Sequence[float | None]]) -> list[Figure]:
    colours = (ORANGE, *OTHERS)
    found = []
    for i, (name, mine) in enumerate(values.items()):
        colour, dash = colours[i % len(colours)], WHOLE[i // len(colours) % len(WHOLE)]
        found.append(line(x, mine, literal(name), color=colour, dash=dash, width=2) | {"mode": "lines+markers"})
    return found


def _title(name: str, metric: str) -> str:
    what = "Accuracy" if metric == "top1" else METRICS[metric]
    return f"{what}{SETS.get(name, f' on {name}')}{'' if lower_is_better(metric) else ' (%)'}"
