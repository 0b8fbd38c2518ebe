"""AutoSampling beside uniform training: the same steps, data, recipe and initial weights, and what each costs in all.

    uniform        one plain training: the control
    best-of        the best of N_p independent plain trainings, chosen on the held-out set: the same work as a search
    dlis, rais     importance sampling: out of three times the rows of a step, and by the gradient norms seen
    random         what a search with exploitation only ends with
    mixture        what the whole of AutoSampling ends with
    static         a new training on draws of the mixture's distribution
    static-MODEL   the same of a search on another model (the paper's Tab. 5)
    replay         a new training on the mixture's schedule from its initial weights: the mixture again, bit by bit
    replay-other   the same from other initial weights: does the order itself carry anything?

    last      test accuracy after the last epoch, per cent
    best      test accuracy at the epoch that the held-out set chose (for `best-of`: run and epoch)
    seconds, forward, backward   all that the method needs, searches included; rows, rewards counted as forward
    work      forward + 2 backward, over that of uniform training
Evaluations after each epoch, which all methods have, and the second scores of the children, which are for the figures,
are not counted. The paper (Sun et al., ICML 2021) has 20 children and 240 epochs, and its gains are 0.3 to 1 points
over uniform with ResNet-18 on CIFAR-100.
"""

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from drawstream.tools.bench import Record, check_names, check_noise, plan_of, wrong_share
from drawstream.tools.bench.auto.cell import METHODS, AutoCell, Settings, folders
from drawstream.tools.bench.auto.page import summarise, tables, verdicts, write_page
from drawstream.tools.cli import AutoGrid
from drawstream.tools.experiments import Row, entries_of
from drawstream.tools.report import SearchedSchedule
from drawstream.tools.report.pages import words_of
from drawstream.tools.runs import before, conclude

__all__ = ["SETTINGS", "methods_of", "run", "settings_of"]

SETTINGS = {
    "digits": Settings(epochs=30, interval=10, first=3, reward_rows=200),  # of 400 held-out rows
    "fashion-mnist": Settings(epochs=10),  # two cycles of 4 epochs after the first 2; the paper explores 55 times
}


def methods_of(grid: AutoGrid, /) -> Sequence[str]:
    """Return the methods of a grid, which is checked before anything runs.

    Raises:
        ValueError: An unknown name, or a value that comes twice or is out of range.
    """
    check_names("methods", grid.methods or METHODS, METHODS)
    check_noise(grid.levels, grid.seeds)
    return [*(grid.methods or METHODS), *(f"static-{model}" for model in dict.fromkeys(grid.sources))]


def settings_of(grid: AutoGrid, /) -> Settings:
    """Return the settings of the searches: those of the data set, with what the grid has otherwise."""
    changed = {name: getattr(grid, name) for name in ("epochs", "population", "interval", "first")}
    if grid.epochs is not None and grid.first is None:
        changed["first"] = max(1, round(grid.epochs / 12))  # 20 of 240 in the paper
    usual = SETTINGS.get(grid.data, SETTINGS["fashion-mnist"])
    return replace(usual, **{name: value for name, value in changed.items() if value is not None})


def run(grid: AutoGrid, /) -> dict[str, Any]:
    """Run the grid, print a table, and write `bench-auto.json` and the page `auto.html` into `out`.

    What a killed benchmark finished is kept when it is started again; an unfinished training or search goes on.

    Returns:
        `rows`: method, noise, seed, last, best, seconds, forward, backward, and of these reward_forward and
        train_seconds. `summary`: over the seeds. `verdicts`: what helps and what does not, in words. `searches`: what
        the rewards were worth, and whether the replay ended with the same weights.

    Raises:
        ValueError: Unknown data, or `out` holds runs with other settings.
    """
    methods, settings, plan, out = methods_of(grid), settings_of(grid), plan_of(grid), grid.folder
    rows: list[Row] = []
    searches: list[Record] = []
    for (level, seed), folder in grid.cells.items():
        cell = AutoCell(folder, plan, level, seed, settings)
        cell.pack(grid.data, grid.source)
        for method in methods:
            share = level if plan.places is None else wrong_share(cell.setup)
            row = Row(method, {"noise": share}, seed, cell.outcome(method))
            told = f"{method} last {row.values['last']:.2f}, best {row.values['best']:.2f}"
            print(f"noise {level:g}, seed {seed}: {told}", flush=True)
            rows.append(row)
        searches += _searches_of(cell, methods)
    entries = entries_of(rows)
    result: dict[str, Any] = {"rows": [row.as_dict() for row in rows], "summary": summarise(entries)}
    result |= {"verdicts": verdicts(entries), "searches": searches}
    first = [each["words"] for each in searches if each["seed"] == grid.seeds[0]]  # the page has the numbers of all
    print(*(table.text() for table in tables(entries)), *result["verdicts"], *first, sep="\n\n")
    record = {"data": grid.data, **result, "plan": asdict(plan), "settings": asdict(settings)}
    record = conclude(out / "bench-auto.json", "bench-auto", record)
    write_page(out / "auto.html", f"AutoSampling on {grid.data}", entries, record["searches"])
    return {**result, "page": str(out / "auto.html"), **before(record)}


def _searches_of(cell: AutoCell, methods: Sequence[str]) -> list[Record]:
    """Describe the searches that some methods need.

    Returns:
        method, noise, seed, `record` (its auto.json), `identical` (a replay ended with the same weights), `spread` of
        the children, that of the second half (`late_spread`) and its `words`, and shares of the time of the search,
        second scores left out.
    """
    needed = {folders(method, cell.settings.population)[1] for method in methods}
    found: list[Record] = []
    for name in (each for each in ("random", "mixture") if f"search-{each}" in needed):
        same = cell.same_weights(name)
        search = SearchedSchedule.open(cell.folder / f"search-{name}" / "auto.json")
        spread, late = search.spread(), search.spread(0.5)
        words = words_of(search)
        seconds, second = search.document["seconds"], search.document["second_score"]["seconds"]
        total = sum(seconds.values()) - second
        where = f"{name}, noise {cell.noise:g}, seed {cell.seed}"
        found.append(
            {
                "method": name,
                "noise": cell.noise,
                "seed": cell.seed,
                "record": str(search.path),
                "identical": same,
                "spread": None if spread is None else asdict(spread),
                "late_spread": None if late is None else asdict(late),
                "words": f"{where}: {words}" if words else "",
                "evaluate_and_clone_share": (seconds["evaluate"] + seconds["clone"] - second) / total,
                "write_share": seconds["write"] / total,
            }
        )
    return found
