"""The AutoSampling benchmark as text and as one page: the verdict, every number, and the figures of its searches."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from drawstream.tools.experiments import (
    Entry,
    Style,
    Table,
    blocks,
    control_of,
    number,
    relations,
    seeds_figure,
    table_of,
)
from drawstream.tools.report import SearchedSchedule, page
from drawstream.tools.report.pages import schedule_blocks
from drawstream.tools.training.methods import BLUE, GRAY, ORANGE

__all__ = ["summarise", "tables", "verdicts", "write_page"]

Record = dict[str, Any]
CONTROLS = {"uniform": "plain training of the same steps", "best-of": "the best of as many plain trainings"}
NOTES = (
    "uniform: one plain training. best-of: the best of as many independent plain trainings as a search has children, "
    "chosen on the held-out set. dlis, rais: importance sampling, scoring passes counted. random, mixture: what a "
    "search ends with. static: a new training on draws of the "
    "mixture's distribution. replay: a new training on its schedule from the same initial weights; replay-other: from "
    "others. All have the same steps, data and recipe. Last epoch: nothing chosen; best epoch: chosen on the held-out "
    "set. Seconds and work (forward + 2 × backward rows, uniform = 1) are all that a method needs, search included; "
    "not counted are the evaluations after each epoch."
)


def _style(method: str) -> Style:
    """Controls are orange and gray, all others blue."""
    return Style({"uniform": ORANGE, "best-of": GRAY}.get(method, BLUE))


def _work(entry: Entry, entries: Sequence[Entry]) -> float | None:
    """Forward and twice backward rows, over those of uniform training; None where that did not run."""
    control = control_of(entry, entries, "uniform")
    mine, theirs = (each and each.mean("forward") + 2 * each.mean("backward") for each in (entry, control))
    return mine / theirs if mine and theirs else None


def summarise(entries: Sequence[Entry], /) -> list[Record]:
    """Return means and deviations over the seeds, one per noise level and method, with the work."""
    means = ("seconds", "train_seconds", "forward", "backward", "reward_forward")
    return [entry.as_dict(means) | {"work": _work(entry, entries)} for entry in entries]


def tables(entries: Sequence[Entry], /) -> list[Table]:
    """Return a table per noise level."""
    columns = {
        "test accuracy, %": lambda each: each.method,
        "last epoch": lambda each: str(each.spread("last")),
        "best epoch": lambda each: str(each.spread("best")),
        "seconds": lambda each: f"{each.mean('seconds'):.1f}",
        "forward rows": lambda each: f"{each.mean('forward'):,.0f}",
        "backward rows": lambda each: f"{each.mean('backward'):,.0f}",
        "work": lambda each: number(_work(each, entries), ".1f") + " ×",
    }
    return [table_of(block, columns, f"{_level(block[0])}, {len(block[0].rows)} seed(s)") for block in blocks(entries)]


def _level(entry: Entry) -> str:
    return f"{entry.setting['noise']:.0%} wrong labels"


def verdicts(entries: Sequence[Entry], /) -> list[str]:
    """Say which methods help, in a sentence per noise level, control, and last or best epoch.

    `replay` is left out: it is `mixture` again.
    """
    lines = []
    for block in blocks(entries):
        for control in (each for each in block if each.method in CONTROLS):
            others = [each for each in block if each.method not in (control.method, "uniform", "replay")]
            for key in ("last", "best"):
                found = {each.method: gain for each in others if (gain := each.less(control, key)) is not None}
                place = f"{_level(control)}, {key} epoch less that of {control.method}"
                if found:
                    lines.append(f"{place} ({CONTROLS[control.method]}), points: {relations(found)}.")
    return lines


def write_page(out: Path, title: str, entries: Sequence[Entry], searches: Sequence[Record], /) -> None:
    """Write the page of a finished benchmark; the searches' records are read, with the images of the first mixture."""
    told = verdicts(entries)
    first = [text for text in told if "last epoch less that of uniform" in text]
    parts = [page.paragraph(text, kind="verdict") for text in first or ["Nothing was run to compare with uniform."]]
    parts.append(page.folded("Every comparison in words", *map(page.paragraph, told)))
    parts.append(page.section("Result", page.paragraph(NOTES, kind="soft"), *_results(entries)))
    images = True
    for search in (each for each in searches if each["seed"] == searches[0]["seed"]):
        name = f"Search {search['method']}, {search['noise']:.0%} wrong labels, seed {search['seed']}"
        mixture = search["method"] == "mixture"
        found = schedule_blocks(SearchedSchedule.open(Path(search["record"])), images=images and mixture)
        body = [page.heading(heading) + text for heading, text in found]
        parts.append(page.section(name, *body) if mixture else page.folded(name, *body))
        images = images and not mixture
    if searches:
        parts.append(page.section("All searches", _searches(searches)))
    page.write_page(out, title, *parts)


def _results(entries: Sequence[Entry]) -> list[str]:
    """A table and a figure for each noise level."""
    parts = []
    for block, table in zip(blocks(entries), tables(entries), strict=True):
        names = [entry.method for entry in block]
        figure = seeds_figure(block, "last", "Accuracy on the test set (%)", names=names, style=_style)
        chart = page.chart(figure, "Accuracy after the last epoch: a point per seed, mean and deviation as a bar.")
        parts.append(page.heading(table.title) + page.table(table.head, table.rows) + chart)
    return parts


def _searches(searches: Sequence[Record]) -> str:
    """A line for each search: is the choice above noise, does a replay end with the same weights, what took time."""
    columns: dict[str, Callable[[Record], str]] = {
        "Search": lambda each: f"{each['method']}, {each['noise']:.0%}, seed {each['seed']}",
        "Spread between children": _spread("between"),
        "Noise of a reward": _spread("binomial"),
        "Chosen above mean": _spread("gain"),
        "… on other images": _spread("repeated"),
        "Correlation": _spread("agreement"),
        "Weights after replay": lambda each: "the same" if each["identical"] else "DIFFERENT",
        "Rewards and cloning": lambda each: f"{each['evaluate_and_clone_share']:.1%}",
        "Writing": lambda each: f"{each['write_share']:.2%}",
    }
    table = table_of(searches, columns)
    note = "Spreads and advantages in points of accuracy; shares of the time of the search."
    return page.table(table.head, table.rows) + page.paragraph(note, kind="soft")


def _spread(key: str) -> Callable[[Record], str]:
    return lambda each: number((each["spread"] or {}).get(key))
