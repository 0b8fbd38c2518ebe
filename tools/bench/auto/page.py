"""The page of the AutoSampling benchmark: the verdict, every number, and the figures of one seed's searches."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from drawstream.samplers.files.atomic import write_atomically
from drawstream.tools.report.comparison import Entry, difference, signed
from drawstream.tools.report.figures.training import BLUE, GRAY, ORANGE, Figure, axes
from drawstream.tools.report.pages import page
from drawstream.tools.report.pages.schedule import SearchedSchedule, schedule_blocks

__all__ = ["write_page"]

Record = Mapping[str, Any]
COLOURS = {"uniform": ORANGE, "best-of": GRAY}  # the controls; all others are blue
NOTES = (
    "uniform: one plain training. best-of: the best of as many independent plain trainings as a search has children, "
    "chosen on the held-out set. random, mixture: what a search ends with. static: a new training on draws of the "
    "mixture's distribution. replay: a new training on its schedule from the same initial weights; replay-other: from "
    "others. All have the same steps, data and recipe. Last epoch: nothing chosen; best epoch: chosen on the held-out "
    "set. Seconds and work (forward + 2 × backward rows, uniform = 1) are all that a method needs, search included; "
    "not counted are the evaluations after each epoch."
)


def write_page(out: Path, title: str, result: Record, /) -> None:
    """Write the page of a finished benchmark; its searches are read from where the result says.

    Args:
        out: The HTML file; it is replaced in one step.
        title: Of the page.
        result: As `drawstream.tools.bench.auto.bench.run` gives it.
    """
    parts = [page.paragraph(text, kind="verdict") for text in headlines(result["rows"])]
    parts.append(page.folded("Every comparison in words", *map(page.paragraph, result["verdicts"])))
    parts.append(page.section("Result", *_result(result["rows"], result["summary"])))
    searches: Sequence[Record] = result["searches"]
    images = True
    for search in (each for each in searches if each["seed"] == searches[0]["seed"]):
        name = f"Search {search['method']}, {search['noise']:.0%} wrong labels, seed {search['seed']}"
        opened = SearchedSchedule.open(Path(search["record"]))
        mixture = search["method"] == "mixture"
        blocks = schedule_blocks(opened, images=images and mixture)
        body = [page.heading(heading) + text for heading, text in blocks]
        parts.append(page.section(name, *body) if mixture else page.folded(name, *body))
        images = images and not mixture
    if searches:
        parts.append(page.section("All searches", _searches(searches)))
    with write_atomically(out) as temporary:
        temporary.write_text(page.document(title, *parts), encoding="utf-8")


def headlines(rows: Sequence[Record], /) -> list[str]:
    """Return a sentence per noise level: the methods better and worse than uniform after the last epoch."""
    lines = []
    for level in dict.fromkeys(row["noise"] for row in rows):
        mine = [row for row in rows if row["noise"] == level]
        relations: dict[str, list[str]] = {}
        control = _entry(mine, "uniform")
        for method in dict.fromkeys(row["method"] for row in mine if row["method"] not in ("uniform", "replay")):
            found = difference(_entry(mine, method), control) if control.values else None
            if found is not None:
                relations.setdefault(found.relation, []).append(f"{method} ({signed(found.mean)})")
        said = "; ".join(f"{relation} uniform: {', '.join(names)}" for relation, names in relations.items())
        told = said[:1].upper() + said[1:] if said else "Nothing was run to compare with uniform"
        lines.append(f"{level:.0%} wrong labels, after the last epoch, points: {told}.")
    return lines


def _entry(rows: Sequence[Record], method: str) -> Entry:
    return Entry(method, "last", tuple((row["seed"], row["last"]) for row in rows if row["method"] == method))


def _result(rows: Sequence[Record], summary: Sequence[Record]) -> list[str]:
    """A table and a figure for each noise level."""
    parts = [page.paragraph(NOTES, kind="soft")]
    head = ["Test accuracy (%)", "Last epoch", "Best epoch", "Seconds", "Forward rows", "Backward rows", "Work"]
    for level in dict.fromkeys(entry["noise"] for entry in summary):
        block = [entry for entry in summary if entry["noise"] == level]
        lines = [_line(entry) for entry in block]
        parts.append(page.heading(f"{level:.0%} wrong labels, {block[0]['seeds']} seed(s)"))
        parts.append(page.table(head, lines))
        figure = accuracy_figure([row for row in rows if row["noise"] == level])
        parts.append(page.chart(figure, "Accuracy after the last epoch: a point per seed, the mean as a bar."))
    return parts


def _line(entry: Record) -> list[str]:
    def spread(key: str) -> str:
        deviation = entry[f"{key}_std"]
        return f"{entry[key]:.2f}" + ("" if deviation is None else f" ± {deviation:.2f}")

    work = "–" if entry["work"] is None else f"{entry['work']:.1f}×"
    rows = [f"{entry[key] / 1e6:.2f} M" for key in ("forward", "backward")]
    return [entry["method"], spread("last"), spread("best"), f"{entry['seconds']:.1f}", *rows, work]


def accuracy_figure(rows: Sequence[Record], /) -> Figure:
    """Accuracy after the last epoch of every method: a point per seed, the mean as a bar."""
    data: list[Figure] = []
    methods = list(dict.fromkeys(row["method"] for row in rows))
    for method in methods:
        mine = [row for row in rows if row["method"] == method]
        values, colour = [row["last"] for row in mine], COLOURS.get(method, BLUE)
        point: Figure = {"type": "scatter", "mode": "markers", "y": [method] * len(mine), "x": values}
        point |= {"customdata": [row["seed"] for row in mine], "marker": {"color": colour, "size": 9, "opacity": 0.85}}
        point["hovertemplate"] = "seed %{customdata}: %{x:.2f} %<extra></extra>"
        bar: Figure = {"type": "scatter", "mode": "markers", "y": [method], "x": [sum(values) / len(values)]}
        bar |= {"marker": {"color": colour, "symbol": "line-ns-open", "size": 22, "line": {"width": 2}}}
        data += [point, bar | {"hovertemplate": "mean %{x:.2f} %<extra></extra>"}]
    layout = axes("Accuracy on the test set (%)", "", height=110 + 34 * len(methods), showlegend=False)
    layout["margin"]["t"] = 12
    layout["yaxis"] |= {"autorange": "reversed", "type": "category", "ticksuffix": "  "}
    return {"data": data, "layout": layout}


def _searches(searches: Sequence[Record]) -> str:
    """A line for each search: is the choice above noise, does a replay end with the same weights, what took time."""
    lines = []
    for search in searches:
        spread = search["spread"] or {}
        values = [spread.get(key) for key in ("between", "binomial", "gain", "repeated", "agreement")]
        lines.append(
            [
                f"{search['method']}, {search['noise']:.0%}, seed {search['seed']}",
                *("–" if value is None else f"{value:.2f}" for value in values),
                "the same" if search["identical"] else "DIFFERENT",
                f"{search['evaluate_and_clone_share']:.1%}",
                f"{search['write_share']:.2%}",
            ]
        )
    head = ["Search", "Spread between children", "Noise of a reward", "Chosen above mean", "… on other images"]
    head += ["Correlation", "Weights after replay", "Rewards and cloning", "Writing"]
    note = "Spreads and advantages in points of accuracy; shares of the time of the search."
    return page.table(head, lines) + page.paragraph(note, kind="soft")
