"""Charts of experiments as plotly figures: values with their deviations, a colour and a symbol per method."""

import html
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from drawstream.tools.experiments.compare import Spread
from drawstream.tools.experiments.results import Entry
from drawstream.tools.training.methods import BLUE, METHODS

__all__ = [
    "Figure",
    "Style",
    "axes",
    "by_name",
    "line",
    "literal",
    "rows_figure",
    "seeds_figure",
    "style_of",
    "title_of",
]
__all__ += ["trace"]

Figure = dict[str, Any]


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


def line(x: Sequence[Any], y: Sequence[Any], name: str, /, *, hover: str = "", **style: Any) -> Figure:
    """Return a line of one name; `hover` as in `trace`, by default the name and y; style: color, dash, width, shape."""
    text = f"{hover or f'{name}: %{{y:.2f}}'}<extra></extra>"
    found: Figure = {"type": "scatter", "mode": "lines", "name": name, "x": list(x), "y": list(y), "line": style}
    return found | {"hovertemplate": text}


def literal(name: object, /) -> str:
    """Return a name from a record or a catalog as plotly shows it: its charts take some HTML for markup."""
    return html.escape(str(name), quote=False)


def axes(x: str, y: str, /, *, height: int = 360, **more: Any) -> Figure:
    """Return the layout of a chart with these axis titles, `height` pixels high."""
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
    """Return a row per entry under its name, as `rows_figure` draws it."""
    rows = [
        (name.replace(" (", "<br>("), style(entry.method), list(entry.values(key).items()))
        for entry, name in zip(entries, names, strict=True)
    ]
    return rows_figure(rows, title)


def rows_figure(
    rows: Sequence[tuple[str, Style, Sequence[tuple[int, float]]]], title: str, /, *, row: int = 34
) -> Figure:
    """Return a chart with a row per name: a point per seed, and mean and deviation as a bar with whiskers.

    Args:
        rows: Name, style, and seed and value of every run.
        title: Title of the x axis.
        row: Pixels of a row.
    """
    data = []
    for name, own, values in rows:
        points, hover = [(value, name) for _, value in values], "seed %{customdata}: %{x:.2f} %"
        data.append(trace(name, points, own, hover=hover, told=[seed for seed, _ in values]))
        bar, spread, hover = Style(own.colour, "line-ns-open"), Spread.of(x for x, _ in points), "mean %{x:.2f} %"
        data.append(trace(name, [(spread.mean, name)], bar, spreads=[spread], across=True, hover=hover))
        data[-1]["marker"] |= {"size": 22, "line": {"width": 2}}
    return {"data": data, "layout": by_name(title, len(rows), row=row, showlegend=False)}
