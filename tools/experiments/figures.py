"""Charts of experiments as plotly figures: values with their deviations, a colour and a symbol per method."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from drawstream.tools.experiments.compare import Spread
from drawstream.tools.experiments.results import Entry
from drawstream.tools.report.figures.training import BLUE, Figure, axes
from drawstream.tools.training.methods.table import METHODS

__all__ = ["Style", "by_name", "seeds_figure", "style_of", "title_of", "trace"]


class Style(NamedTuple):
    """Colour, symbol and dash of a method."""

    colour: str
    symbol: str = "circle"
    dash: str = "solid"


def style_of(method: str, /) -> Style:
    """Return the style of a method: its own of the table of methods; controls are dashed, unknown names dotted."""
    found = METHODS.get(method)
    if found is None:
        return Style(BLUE, "circle-open", "dot")
    return Style(found.colour, found.marker, "dash" if found.control else "solid")


def title_of(method: str, /) -> str:
    """Return a method's name in tables and pages."""
    return METHODS[method].title if method in METHODS else method


def trace(
    name: str,
    points: Sequence[tuple[Any, Any]],
    style: Style,
    /,
    *,
    lines: bool = False,
    spreads: Sequence[Spread] = (),
    hover: str = "%{y:.2f} %",
    told: Sequence[Any] = (),
    across: bool = False,
) -> Figure:
    """Return points (x, y) of one name; `lines` joins them.

    Args:
        name: In the legend.
        points: Coordinates.
        style: Colour, symbol and dash.
        lines: Join the points.
        spreads: Deviations along y, one per point.
        hover: Text of a point, in plotly's notation; `told` are its `customdata`.
        told: One per point.
        across: The deviations are along x.
    """
    x, y = zip(*points, strict=True) if points else ((), ())
    found: Figure = {"type": "scatter", "name": name, "x": list(x), "y": list(y)}
    found["mode"] = "lines+markers" if lines else "markers"
    found["marker"] = {"color": style.colour, "symbol": style.symbol, "size": 9}
    found["line"] = {"color": style.colour, "dash": style.dash, "width": 1.5}
    found["hovertemplate"] = f"{hover}<extra></extra>"
    if spreads:
        bars = {"type": "data", "array": [each.std or 0.0 for each in spreads], "color": style.colour}
        found["error_x" if across else "error_y"] = bars | {"thickness": 1.3, "width": 4}
    if told:
        found["customdata"] = list(told)
    return found


def by_name(title: str, count: int, /, *, row: int = 26, **more: Any) -> Figure:
    """Return the layout of a chart with a row per name, the first one on top."""
    layout = axes(title, "", height=110 + row * count, **more)
    layout["yaxis"] |= {"autorange": "reversed", "type": "category", "ticksuffix": "  "}
    return layout


def seeds_figure(
    entries: Sequence[Entry],
    key: str,
    title: str,
    /,
    *,
    names: Sequence[str],
    style: Callable[[str], Style] = style_of,
) -> Figure:
    """Return a row per entry under its name: a point per seed, and mean and deviation as a bar with whiskers."""
    data = []
    for entry, name in zip(entries, names, strict=True):
        own, values, spread = style(entry.method), entry.values(key), entry.spread(key)
        label = name.replace(" (", "<br>(")
        points, hover = [(value, label) for value in values.values()], "seed %{customdata}: %{x:.2f} %"
        data.append(trace(label, points, own, hover=hover, told=list(values)))
        bar, hover = Style(own.colour, "line-ns-open"), "mean %{x:.2f} %"
        data.append(trace(label, [(spread.mean, label)], bar, spreads=[spread], across=True, hover=hover))
        data[-1]["marker"] |= {"size": 22, "line": {"width": 2}}
    return {"data": data, "layout": by_name(title, len(entries), row=34, showlegend=False)}
