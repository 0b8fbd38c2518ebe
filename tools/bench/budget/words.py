"""The result of `bench budget` in words: the table, the verdict, and what the paper says beside what was found here.

The paper is "How Important is Importance Sampling for Deep Budgeted Training?" (Arazo et al., BMVC 2021): ResNet-18 on
CIFAR-10 and CIFAR-100, 200 epochs, budgets 0.2, 0.3 and 0.5, 3 runs.
"""

from collections.abc import Sequence
from statistics import fmean, median

from drawstream.tools.bench.budget.grid import CONTROL, FULL
from drawstream.tools.bench.budget.verdict import Comparison, Entry, chance

__all__ = ["claims", "format_table", "head_and_cells", "headline", "where"]

IMPORTANCE = ("p", "c", "p-paper", "c-paper", "sb", "osgd")  # methods of the paper
HEAD = (
    "method",
    "B",
    "measured",
    "last epoch, %",
    "best epoch, %",
    "control",
    "points",
    "seconds",
    "exp H(c) / N",
)
NOBODY = "—"


def where(entry: Entry, /) -> str:
    """Augmentation and schedule of an entry."""
    augment = "no augmentation" if entry.augment == "none" else f"augmentation {entry.augment}"
    return f"{augment}, {entry.schedule} schedule"


def head_and_cells(entries: Sequence[Entry], comparisons: Sequence[Comparison], /) -> tuple[list[str], list[list[str]]]:
    """The table of some entries as texts."""
    against = {id(each.entry): each for each in comparisons}
    return [*HEAD], [_cells(entry, against.get(id(entry))) for entry in entries]


def format_table(entries: Sequence[Entry], comparisons: Sequence[Comparison], /) -> str:
    """One block per augmentation and schedule, as lines of text."""
    lines: list[str] = []
    for place in dict.fromkeys((entry.augment, entry.schedule) for entry in entries):
        block = [entry for entry in entries if (entry.augment, entry.schedule) == place]
        head, cells = head_and_cells(block, comparisons)
        widths = [max(len(row[i]) for row in (head, *cells)) for i in range(len(head))]
        lines += ["", f"{where(block[0])}, {max(len(entry.rows) for entry in block)} seed(s)"]
        lines += [
            "  ".join(cell.ljust(width) if i == 0 else cell.rjust(width) for i, (cell, width) in enumerate(each))
            for each in (list(zip(row, widths, strict=True)) for row in (head, *cells))
        ]
    lines += [
        "measured: (forward + 2 backward) / 3 of the rows of a full training; + what had to be trained beforehand",
        "control: uniform draws with no less measured compute; points: last epoch, method less control; *: above by "
        "more than one deviation",
    ]
    return "\n".join(lines)


def headline(comparisons: Sequence[Comparison], /) -> list[str]:
    """Whether anything beats uniform draws at equal measured compute."""
    if not comparisons:
        return ["Nothing but uniform draws was run, so nothing is compared."]
    judged = [each for each in comparisons if each.beats is not None]
    if not judged:
        above = sum(each.points > 0 for each in comparisons)
        return [
            f"One seed has no standard deviation, so nothing is said about what beats uniform draws: {above} of "
            f"{len(comparisons)} comparisons at equal measured compute are above it, which chance alone can do."
        ]
    winners = sorted((each for each in judged if each.beats), key=lambda each: -each.points)
    worse = sum(each.points < -(each.deviation or 0.0) for each in judged)
    by_chance = sum(chance(each.seeds) for each in judged)
    seeds = " or ".join(map(str, sorted({each.seeds for each in judged})))
    first = (
        f"{len(winners) or 'None'} of {len(judged)} comparisons {'is' if len(winners) == 1 else 'are'} above uniform "
        f"draws by more than one standard deviation at equal measured compute ({seeds} seeds), and {worse} "
        f"{'is' if worse == 1 else 'are'} as far below. If all methods were equal to uniform draws, about "
        f"{by_chance:.1f} would be above by chance."
    )
    lines = [first, *(_winner(each) for each in winners)]
    short = sorted({each.entry.method for each in judged if each.short})
    if short:
        lines.append(
            f"{', '.join(short)}: with what had to be trained beforehand they took more than a full training; their "
            "control is the full training, which had less."
        )
    return lines


def claims(entries: Sequence[Entry], comparisons: Sequence[Comparison], /) -> list[list[str]]:
    """Claim of the paper, and what was found here, for every claim that these runs can speak to."""
    found = [
        (
            "Importance sampling gives no consistent gain over uniform draws under a budget (Tab. 2).",
            _gain([each for each in comparisons if each.entry.method in IMPORTANCE]),
        ),
        (
            "Selective backprop is ahead at its nominal budget; its scoring passes are not counted there (Tab. 2).",
            _nominal(entries, comparisons),
        ),
        ("The linear schedule is better than steps for every method (Tab. 2).", _linear(entries)),
        ("Fresh random rows each epoch beat any fixed part of the rows (Fig. 1a, b).", _coresets(entries)),
        (
            "Counts are the more even the better a strategy: fixed parts < p-SGD < uniform draws (Fig. 1c, d).",
            _evenness(entries),
        ),
        (
            "With RICAP, a budget of 0.3 reaches what full training with standard augmentation reaches (Tab. 3).",
            _ricap(entries),
        ),
        ("p-SGD takes 48 minutes where uniform draws take 47, and selective backprop 91 (Tab. 5).", _times(entries)),
    ]
    return [[claim, ours] for claim, ours in found if ours]


def _cells(entry: Entry, against: Comparison | None) -> list[str]:
    beforehand = entry.mean("prepare_budget")
    measured = f"{entry.mean('effective_budget'):.3f}" + (f" + {beforehand:.2f}" if beforehand else "")
    control, points = NOBODY, NOBODY
    if against is not None:
        name = "full" if against.control.method == FULL else f"{CONTROL} {against.control.budget:g}"
        control = name + (" (less)" if against.short else "")
        points = f"{against.points:+.2f}".replace("-", "−") + (" *" if against.beats else "")
    spread = [_spread(entry, key) for key in ("last", "best")]
    numbers = [f"{entry.mean('seconds'):.1f}", f"{entry.mean('effective_rows'):.3f}"]
    return [entry.method, f"{entry.budget:g}", measured, *spread, control, points, *numbers]


def _spread(entry: Entry, key: str) -> str:
    deviation = entry.std(key)
    return f"{entry.mean(key):.2f}" + ("" if deviation is None else f" ± {deviation:.2f}")


def _winner(each: Comparison) -> str:
    entry, control = each.entry, each.control
    name = "full training" if control.method == FULL else f"unif at {control.effective:.3f}"
    return (
        f"Above: {entry.method} at B = {entry.budget:g} ({where(entry)}) with measured compute {entry.effective:.3f}: "
        f"{each.points:+.2f} points over {name}, standard deviation {each.deviation:.2f}, higher at {each.higher} of "
        f"{each.seeds} seeds."
    )


def _gain(mine: Sequence[Comparison]) -> str:
    if not mine:
        return ""
    by_method: dict[str, list[Comparison]] = {}
    for each in mine:
        by_method.setdefault(each.entry.method, []).append(each)
    parts = [
        f"{method} {_signed(fmean(each.points for each in block))} points, above by more than one deviation in "
        f"{sum(bool(each.beats) for each in block)} of {len(block)}"
        for method, block in by_method.items()
    ]
    return "At equal measured compute: " + "; ".join(parts) + "."


def _nominal(entries: Sequence[Entry], comparisons: Sequence[Comparison]) -> str:
    uniform = {_place(entry): entry for entry in entries if entry.method == CONTROL}
    mine = [each for each in comparisons if each.entry.method == "sb" and _place(each.entry) in uniform]
    if not mine:
        return ""
    nominal = fmean(each.entry.mean("last") - uniform[_place(each.entry)].mean("last") for each in mine)
    measured = fmean(each.entry.effective - each.entry.budget for each in mine)
    equal = fmean(each.points for each in mine)
    return (
        f"{_signed(nominal)} points over unif at the same B, {_signed(equal)} over unif of the same measured compute, "
        f"which is {_signed(measured)} above B."
    )


def _linear(entries: Sequence[Entry]) -> str:
    steps = {(*_place(entry)[:2], entry.method): entry for entry in entries if entry.schedule == "step"}
    gaps: dict[str, list[float]] = {}
    for entry in entries:
        other = steps.get((*_place(entry)[:2], entry.method))
        if entry.schedule == "linear" and other is not None:
            gaps.setdefault(entry.method, []).append(entry.mean("last") - other.mean("last"))
    if not gaps:
        return ""
    means = {method: fmean(values) for method, values in gaps.items()}
    lower = [f"{method} ({_signed(value)})" for method, value in means.items() if value <= 0]
    return (
        f"Better for {sum(value > 0 for value in means.values())} of {len(means)} methods, by "
        f"{_signed(median(means.values()))} points (median)" + (f"; not for {', '.join(lower)}." if lower else ".")
    )


def _coresets(entries: Sequence[Entry]) -> str:
    uniform = {_place(entry): entry for entry in entries if entry.method == CONTROL}
    gaps: dict[str, list[float]] = {}
    for entry in entries:
        if entry.method.startswith("coreset") and _place(entry) in uniform:
            gaps.setdefault(entry.method, []).append(uniform[_place(entry)].mean("last") - entry.mean("last"))
    parts = [f"unif {_signed(fmean(values))} points over {method}" for method, values in gaps.items()]
    return "At the same B, what chose the rows not counted: " + "; ".join(parts) + "." if parts else ""


def _evenness(entries: Sequence[Entry]) -> str:
    """Whether the order of H(c) holds at each place where all three are, and the means."""
    by_place: dict[tuple[float, str, str], dict[str, float]] = {}
    for entry in entries:
        kind = "fixed" if entry.method.startswith("coreset") else entry.method
        if kind in ("fixed", "p", CONTROL):
            place = by_place.setdefault(_place(entry), {})
            place[kind] = max(entry.mean("count_entropy"), place.get(kind, 0.0))
    full = [place for place in by_place.values() if len(place) == 3]
    if not full:
        return ""
    holds = sum(place["fixed"] < place["p"] < place[CONTROL] for place in full)
    means = ", ".join(f"{kind} {fmean(place[kind] for place in full):.3f}" for kind in ("fixed", "p", CONTROL))
    return f"The order holds in {holds} of {len(full)} settings; mean H(c) in nats: {means}."


def _ricap(entries: Sequence[Entry]) -> str:
    parts = []
    for schedule in dict.fromkeys(entry.schedule for entry in entries):
        mine = [entry for entry in entries if entry.schedule == schedule]
        ours = [e for e in mine if e.method == CONTROL and e.augment == "ricap" and abs(e.budget - 0.3) < 1e-9]
        full = [e for e in mine if e.method == FULL and e.augment == "standard"]
        if ours and full:
            parts.append(f"{schedule}: {_spread(ours[0], 'last')} % against {_spread(full[0], 'last')} %")
    return "; ".join(parts) + "." if parts else ""


def _times(entries: Sequence[Entry]) -> str:
    uniform = {_place(entry): entry for entry in entries if entry.method == CONTROL}
    ratios = {
        method: [
            entry.mean("seconds") / uniform[_place(entry)].mean("seconds")
            for entry in entries
            if entry.method == method and _place(entry) in uniform
        ]
        for method in ("p", "sb")
    }
    parts = [f"{method} {median(values):.3f}" for method, values in ratios.items() if values]
    return f"Training time relative to unif at the same B: {', '.join(parts)}." if parts else ""


def _place(entry: Entry) -> tuple[float, str, str]:
    return entry.budget, entry.augment, entry.schedule


def _signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", "−")
