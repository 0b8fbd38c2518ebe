"""Report on classes of long-tailed data: their shares before and after, accuracy by class, many-, medium- and few-shot.

Every number is a mean over the seeds of a group of runs with the same training images of each class.
"""

from collections.abc import Sequence
from statistics import fmean

from drawstream.tools.experiments import NONE
from drawstream.tools.report import Group, page
from drawstream.tools.report.figures import classes_figure, shares_figure
from drawstream.tools.training import ShotGroups

__all__ = ["class_section"]

MOST_CLASSES = 1000  # in the figures
NOTE = "Classes in order of their training images."


def class_section(groups: Sequence[Group], bounds: tuple[int, int] | None = None, /) -> str:
    """Return the section of the runs on unequal classes; "" where there are none.

    Args:
        groups: Of the report.
        bounds: Fewest and most images of a medium class; None: 20 and 100, or thirds.

    Raises:
        ValueError: As `ShotGroups.of`.
    """
    parts: list[str] = []
    for rows, mine in _by_rows(groups).items():
        shots = ShotGroups.of(rows, bounds)
        if shots is not None and len(rows) <= MOST_CLASSES:
            parts += _panel(mine, shots)
    return page.section("Classes", *parts) if parts else ""


def _by_rows(groups: Sequence[Group]) -> dict[tuple[int, ...], list[Group]]:
    """Groups by their training images of each class, means over the seeds."""
    found: dict[tuple[int, ...], list[Group]] = {}
    for group in groups:
        known = [run.document.get("class_rows") for run in group.runs]
        if all(known) and all(run.result and run.result.classes for run in group.runs):
            rows = tuple(round(fmean(each)) for each in zip(*known, strict=True))
            found.setdefault(rows, []).append(group)
    return found


def _panel(groups: Sequence[Group], shots: ShotGroups) -> list[str]:
    first = groups[0].runs[0].result
    assert first is not None
    names = list(first.classes)
    order = sorted(range(len(names)), key=lambda each: (-shots.rows[each], each))
    shares = {group.name: _shares(group) for group in groups}
    accuracy = {group.name: _accuracy(group) for group in groups}
    table = [
        [name, *(NONE if value is None else f"{value:.2f}" for value in shots.accuracies(accuracy[name]).values())]
        for name in accuracy
    ]
    before = [each / sum(shots.rows) for each in shots.rows]
    ordered = [names[each] for each in order]
    drawn = shares_figure(ordered, [before[c] for c in order], {k: [v[c] for c in order] for k, v in shares.items()})
    by_class = classes_figure(ordered, {k: [v[c] for c in order] for k, v in accuracy.items()})
    laws = "; ".join(shots.described(name) for name in shots.members)
    return [
        page.table(["Accuracy (%), mean over the classes", *map(str.capitalize, shots.members)], table),
        page.paragraph(f"{laws} ({shots.rule}).", kind="soft"),
        page.panels(page.chart(drawn, f"{NOTE} Before: the training images."), page.chart(by_class, NOTE)),
    ]


def _shares(group: Group) -> list[float]:
    """Share of each class among the draws."""
    drawn = [run.document["class_drawn"] for run in group.runs]
    return [fmean(each) for each in zip(*([count / sum(mine) for count in mine] for mine in drawn), strict=True)]


def _accuracy(group: Group) -> list[float | None]:
    """Top-1 of each class after the last epoch, per cent."""
    runs = [list(run.result.classes.values()) for run in group.runs if run.result]
    return [
        fmean(known) if (known := [value for value in each if value is not None]) else None
        for each in zip(*runs, strict=True)
    ]
