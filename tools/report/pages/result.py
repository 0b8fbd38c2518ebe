"""Report on trainings: the verdict, every number behind it, curves, and the differences between runs."""

from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from statistics import fmean

from drawstream.tools.experiments import METRICS, NONE, Difference, lower_is_better, signed
from drawstream.tools.report import (
    SENTENCES,
    Entry,
    Group,
    Pair,
    SearchRecord,
    cautions,
    compare,
    finite,
    list_differences,
    metric_of,
    page,
    pairs_of,
    verdicts,
)
from drawstream.tools.report.figures import history_figure, result_figure

__all__ = ["history_sections", "result_section"]

TOGETHER = 8  # groups in one chart; of more, a chart for each setting
MOST_CLASSES = 100  # in a table
OPEN = 4  # charts that are not folded
NOTE = "A point per seed; the bar is the mean, its whiskers one standard deviation (n − 1) over the seeds."
GAPS = ["Last epoch less uniform, points", "Control", "Its last epoch", "95 % interval"]
GAPS += ["Its best epoch", "95 % interval"]


def result_section(groups: Sequence[Group], searches: Sequence[SearchRecord], judged: Mapping[Path, str], /) -> str:
    """Return the verdict, then every number it rests on."""
    kept = [search for search in searches if search.winner == "uniform"]
    told = []
    if kept:
        seeds = ", ".join(str(search.seed) for search in kept)
        told.append(
            f"In {len(kept)} of {len(searches)} searches (seed {seeds}) no candidate beat uniform sampling when it was "
            "confirmed; the sampler written there is the uniform one."
        )
    entries = compare(groups)
    if not entries:
        story = [f"Search of seed {search.seed}: {search.message}." for search in searches]
        last = page.paragraph("No evaluated training run lies below this folder.")
        return page.section("Result", *_paragraphs(story, "verdict"), *_paragraphs(told, "caution"), last)
    shown = entries if len(groups) <= TOGETHER else [entry for entry in entries if entry.kind == "last"]
    pairs = pairs_of(groups, judged)
    sets = dict.fromkeys(entry.group.setting["evaluated on"].replace("_", "-") for entry in entries)
    return page.section(
        "Result",
        *_paragraphs(verdicts(groups, pairs), "verdict"),
        *_paragraphs([*told, *cautions(groups, judged)], "caution"),
        _numbers(shown),
        page.folded("Early stopping and best epochs too", _numbers(entries)) if len(shown) < len(entries) else "",
        _gaps(pairs) if len(pairs) > SENTENCES else "",
        *_beside(groups),
        _sources(groups),
        *(page.chart(result_figure(mine, name), NOTE) for (name, _), mine in _by_set(shown)),
        page.paragraph(
            f"“Best epoch” is the one that was best on the {' and '.join(sets)} set itself, picked in "
            "hindsight: an oracle, which no training run can follow. “Early stopping” takes the epoch that the "
            "held-out set chose.",
            kind="soft",
        ),
        page.heading("What differs between these runs") + table if (table := list_differences(groups)) else "",
    )


def _paragraphs(texts: Sequence[str], kind: str) -> list[str]:
    return [page.paragraph(text, kind=kind) for text in texts]


def _by_set(entries: Sequence[Entry]) -> list[tuple[tuple[str, str], list[Entry]]]:
    def key(entry: Entry) -> tuple[str, str]:
        return entry.group.setting["evaluated on"], entry.metric

    return [(name, list(mine)) for name, mine in groupby(sorted(entries, key=key, reverse=True), key=key)]


def _numbers(entries: Sequence[Entry]) -> str:
    """Return a table of every metric."""
    metrics = dict.fromkeys(entry.metric for entry in entries)
    return "".join(_numbers_of([each for each in entries if each.metric == metric], metric) for metric in metrics)


def _numbers_of(entries: Sequence[Entry], metric: str) -> str:
    def shown(value: float) -> str:
        return f"{value:.5g}" if lower_is_better(metric) else f"{value:.2f}"

    seeds = sorted({seed for entry in entries for seed, _ in entry.values})
    rows = []
    for entry in entries:
        cells = [", ".join(shown(value) for at, value in entry.values if at == seed) or NONE for seed in seeds]
        mean, std = entry.spread.mean, entry.spread.std
        rows.append([entry.name, shown(mean), NONE if std is None else f"± {shown(std)}", *cells])
    what = "Top-1 accuracy (%)" if metric == "top1" else f"{METRICS[metric]}{'' if lower_is_better(metric) else ' (%)'}"
    head = [what, "Mean", "Std", *(f"Seed {seed}" for seed in seeds)]
    return page.table(head, rows, label="Accuracy of every method and seed")


_SOURCE = {  # of several catalogs: key in a record, heading, format
    "rows": ("Rows", ",.0f"),
    "draws": ("Draws", ",.0f"),
    "loss": ("Loss, last epoch", ".3f"),
    "top1": ("Top-1 in training, last epoch (%)", ".2f"),
}
_BESIDE: dict[
    str, tuple[tuple[str, str, dict[str, str]], ...]
] = {  # by the main metric: title, part of a result, columns
    "top1": (
        ("Top-5 and balanced accuracy", "metrics", {"top5": "Top-5 (%)", "balanced": "Balanced (%)"}),
        ("Accuracy of every class", "classes", {}),
    ),
    "map": (("Average precision of every class", "classes", {}),),
    "rmse": (("Mean absolute error", "metrics", {"mae": "MAE"}), ("RMSE of every value", "classes", {})),
}


def _beside(groups: Sequence[Group]) -> list[str]:
    """Return the other metrics of the last epoch, and the main one of each class: means over the seeds of groups."""
    metrics = dict.fromkeys(map(metric_of, groups))
    return [part for metric in metrics for part in _beside_one([g for g in groups if metric_of(g) == metric], metric)]


def _beside_one(groups: Sequence[Group], metric: str) -> list[str]:
    tables, form = {}, ".5g" if lower_is_better(metric) else ".2f"
    for title, part, names in _BESIDE[metric]:
        found = {
            group.name: _means([getattr(run.result, part) for run in group.runs if run.result]) for group in groups
        }
        known = names or {name: name for name in dict.fromkeys(name for each in found.values() for name in each)}
        cells = {
            of: [f"{each[key]:{form}}" if key in each else NONE for key in known] for of, each in found.items() if each
        }
        if cells and len(known) <= MOST_CLASSES:
            tables[title] = page.table(
                ["Last epoch", *known.values()], [[of, *row] for of, row in cells.items()], label=title
            )
    return [page.folded(title, table) for title, table in tables.items()]


def _sources(groups: Sequence[Group]) -> str:
    """Return what several catalogs gave to each group's training: rows, draws, loss and top-1; means over its seeds."""
    rows = []
    for group in groups:
        of_runs = [run.document.get("sources", []) for run in group.runs]
        for same in zip(*of_runs, strict=False):
            found = _means([{key: finite(each[key]) for key in _SOURCE if key in each} for each in same])
            cells = [f"{found[key]:{form}}" if key in found else NONE for key, (_, form) in _SOURCE.items()]
            rows.append([group.name, str(same[0]["name"]), *cells])
    title = "Training by source"
    table = page.table(["Run", "Source", *(head for head, _ in _SOURCE.values())], rows, label=title)
    return page.folded(title, table) if rows else ""


def _means(parts: Sequence[Mapping[str, float | None]]) -> dict[str, float]:
    """Return means by name of what is known."""
    values: dict[str, list[float]] = {}
    for name, value in (item for part in parts for item in part.items()):
        if value is not None:
            values.setdefault(name, []).append(value)
    return {name: fmean(each) for name, each in values.items()}


def _gaps(pairs: Sequence[Pair]) -> str:
    """Return the differences as a table, for more pairs than the sentences on top can tell."""

    def cells(found: Difference | None) -> list[str]:
        if found is None:
            return [NONE, NONE]
        ends = "one seed" if found.interval is None else " to ".join(signed(end, digits) for end in found.interval)
        return [signed(found.mean, digits), ends]

    rows = []
    for pair in pairs:
        digits = 4 if lower_is_better(metric_of(pair.group)) else 1
        control = pair.control.name if pair.control else "none"
        rows.append([pair.group.name, control, *cells(pair.last), *cells(pair.best)])
    errors = any(lower_is_better(metric_of(pair.group)) for pair in pairs)
    head = [each.replace(", points", ", points; of an error how much lower") if errors else each for each in GAPS]
    return page.table(head, rows, label="Differences to uniform sampling")


def history_sections(groups: Sequence[Group], /) -> list[str]:
    """Return metrics over epochs, the set of the result first; of many groups a chart for each setting."""
    metrics = list(dict.fromkeys(map(metric_of, groups)))
    blocks = [[group for group in groups if metric_of(group) == metric] for metric in metrics]
    if len(groups) > TOGETHER:
        every = [list(mine) for _, mine in groupby(groups, key=lambda group: tuple(group.setting.items()))]
        single = [block[0] for block in every if len(block) == 1]
        blocks = [block for block in every if len(block) > 1]
        blocks += [single[i : i + TOGETHER] for i in range(0, len(single), TOGETHER)]
    charts = []
    for block in blocks:
        runs = [run for group in block for run in group.runs]
        reported = [run.result.evaluated_on for run in runs if run.result is not None]
        known = dict.fromkeys([*reported, *(name for run in runs for each in run.history for name in each.accuracy)])
        figures = [history_figure(block, name) for name in known]
        charts += [page.chart(figure, "Thin lines: single runs.") for figure in figures if figure is not None]
    if not charts:
        return []
    more = page.folded(f"{len(charts) - OPEN} more charts", page.panels(*charts[OPEN:])) if charts[OPEN:] else ""
    what = " and ".join("Accuracy" if metric == "top1" else METRICS[metric] for metric in metrics)
    return [page.section(f"{what} over epochs", page.panels(*charts[:OPEN]), more)]
