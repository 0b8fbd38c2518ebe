"""Report on trainings: the verdict, every number behind it, curves, and the differences between runs."""

from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path

from drawstream.tools.report import page
from drawstream.tools.report.comparison import Difference, Entry, compare, pairs_of, signed, verdicts
from drawstream.tools.report.differences import cautions, differences
from drawstream.tools.report.figures.training import history_figure, result_figure
from drawstream.tools.report.groups import Group
from drawstream.tools.report.records import SearchRecord

__all__ = ["history_sections", "result_section"]

TOGETHER = 8  # groups in one chart; of more, a chart for each setting
OPEN = 4  # charts that are not folded


def result_section(groups: Sequence[Group], searches: Sequence[SearchRecord], judged: Mapping[Path, str], /) -> str:
    """The verdict, then every number it rests on."""
    told = [page.paragraph(text, kind="caution") for text in _searches_that_kept_uniform(searches)]
    entries = compare(groups)
    if not entries:
        story = [
            page.paragraph(f"Search of seed {search.seed}: {search.message}.", kind="verdict") for search in searches
        ]
        return page.section(
            "Result", *story, *told, page.paragraph("No evaluated training run lies below this folder.")
        )
    told += [page.paragraph(text, kind="caution") for text in cautions(groups, judged)]
    sets = list(dict.fromkeys(entry.group.setting["evaluated on"] for entry in entries if entry.group))
    measured = " and ".join(name.replace("_", "-") for name in sets)
    shown = entries if len(groups) <= TOGETHER else [entry for entry in entries if entry.kind == "last"]
    note = "A point per seed; the bar is the mean, its whiskers one standard deviation (n − 1) over the seeds."
    return page.section(
        "Result",
        *(page.paragraph(sentence, kind="verdict") for sentence in verdicts(groups, judged)),
        *told,
        _numbers(shown),
        page.folded("Early stopping and best epochs too", _numbers(entries)) if len(shown) < len(entries) else "",
        _against_uniform(groups, judged),
        *(page.chart(result_figure(mine, name), note) for name, mine in _by_set(shown)),
        page.paragraph(
            f"“Best epoch” is the one with the highest accuracy on the {measured} set itself, picked in hindsight: an "
            "oracle, which no training run can follow. “Early stopping” takes the epoch that the held-out set chose.",
            kind="soft",
        ),
        _differences(groups),
    )


def _by_set(entries: Sequence[Entry]) -> list[tuple[str, list[Entry]]]:
    def key(entry: Entry) -> str:
        return entry.group.setting["evaluated on"] if entry.group else ""

    return [(name, list(mine)) for name, mine in groupby(sorted(entries, key=key, reverse=True), key=key)]


def _numbers(entries: Sequence[Entry]) -> str:
    seeds = sorted({seed for entry in entries for seed, _ in entry.values})
    rows = []
    for entry in entries:
        cells = [", ".join(f"{value:.2f}" for at, value in entry.values if at == seed) or "–" for seed in seeds]
        spread = "–" if entry.std is None else f"± {entry.std:.2f}"
        rows.append([entry.name, f"{entry.mean:.2f}", spread, *cells])
    head = ["Top-1 accuracy (%)", "Mean", "Std", *(f"Seed {seed}" for seed in seeds)]
    return page.table(head, rows, label="Accuracy of every method and seed")


def _against_uniform(groups: Sequence[Group], judged: Mapping[Path, str]) -> str:
    """Differences as a table, where there are more than the sentences on top can tell."""
    pairs = pairs_of(groups, judged)
    if len(verdicts(groups, judged)) == len(pairs):
        return ""
    rows = [
        [pair.group.name, pair.control.name if pair.control else "none", *_gap(pair.last), *_gap(pair.best)]
        for pair in pairs
    ]
    interval = "95 % interval"
    head = ["Last epoch less uniform, points", "Control", "Its last epoch", interval, "Its best epoch", interval]
    return page.table(head, rows, label="Differences to uniform sampling") if rows else ""


def _gap(found: Difference | None) -> list[str]:
    if found is None:
        return ["–", "–"]
    ends = "one seed" if found.interval is None else " to ".join(map(signed, found.interval))
    return [signed(found.mean), ends]


def _differences(groups: Sequence[Group]) -> str:
    table = differences(groups)
    return page.heading("What differs between these runs") + table if table else ""


def _searches_that_kept_uniform(searches: Sequence[SearchRecord]) -> list[str]:
    kept = [search for search in searches if search.winner == "uniform"]
    if not kept:
        return []
    seeds = ", ".join(str(search.seed) for search in kept)
    return [
        f"In {len(kept)} of {len(searches)} searches (seed {seeds}) no candidate beat uniform sampling when it was "
        "confirmed; the sampler written there is the uniform one."
    ]


def history_sections(groups: Sequence[Group], /) -> list[str]:
    """Accuracy over epochs, the set of the result first; of many groups a chart for each setting."""
    blocks = [list(groups)]
    if len(groups) > TOGETHER:
        blocks = [list(mine) for _, mine in groupby(groups, key=lambda group: tuple(group.setting.items()))]
        single = [block[0] for block in blocks if len(block) == 1]
        blocks = [block for block in blocks if len(block) > 1]
        blocks += [single[i : i + TOGETHER] for i in range(0, len(single), TOGETHER)]
    charts = []
    for block in blocks:
        runs = [run for group in block for run in group.runs]
        reported = [run.result.evaluated_on for run in runs if run.result is not None]
        known = dict.fromkeys([*reported, *(name for run in runs for point in run.history for name in point.accuracy)])
        figures = [history_figure(block, name) for name in known]
        charts += [page.chart(figure, "Thin lines: single runs.") for figure in figures if figure is not None]
    if not charts:
        return []
    more = page.folded(f"{len(charts) - OPEN} more charts", page.panels(*charts[OPEN:])) if charts[OPEN:] else ""
    return [page.section("Accuracy over epochs", page.panels(*charts[:OPEN]), more)]
