"""`bench budget` as text and as one page: the verdict, the paper's claims beside ours, the figures, every number."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from pathlib import Path

from drawstream.tools.bench.budget.cell import CONTROL, FULL, Common
from drawstream.tools.bench.budget.claims import claims
from drawstream.tools.bench.budget.results import UNIFORM, Check, Finding
from drawstream.tools.experiments import NONE, Figure, Style, Table, axes, by_name, number, style_of, table_of, trace
from drawstream.tools.report import page
from drawstream.tools.training.methods import BLUE, ORANGE

__all__ = ["headline", "tables", "write_page"]

LAST = "Accuracy after the last epoch (%)"
DEFINITIONS = (
    "Measured compute is what the training loop counted: (rows forward + 2 × rows backward) / 3, as a share of a full "
    "training. What had to be trained beforehand (to choose a core-set, to know irreducible losses) is added.",
    "The control of a method is uniform drawing with the least measured compute that is not less than the method's; "
    "where the grid had no such run within 5 %, one was made. A method is better than it if the 95 % interval of its "
    "mean difference, paired by seed, lies above zero.",
)
PARETO = (
    "A method is worth its compute only where it lies above the line of uniform draws. Bars are one standard deviation "
    "over the seeds. Core-sets are off at first: their names in the legend show them."
)
EVENNESS = (
    "H(c) is the entropy of how often each of the N rows was trained on. All real strategies reach 0.88 to 1 of log N, "
    "so exp H(c) / N is shown: the share of rows which, all equally often, would give the same entropy."
)
VARIABILITY = (
    "The paper's points: p-SGD under the step and the linear schedule, without its smoothing constant (p-no-smoothing),"
    " with the last prediction in place of the mean over epochs (p-last), and under more augmentation. For all of them "
    "give --methods p,p-no-smoothing,p-last, both --schedules, and --augments none,standard."
)


def _blocks(findings: Sequence[Finding]) -> list[list[Finding]]:
    """Findings of one augmentation and schedule together."""
    return [list(block) for _, block in groupby(findings, key=lambda each: each.where)]


def tables(findings: Sequence[Finding], /) -> list[Table]:
    """Return a table per augmentation and schedule, the control first."""
    full = {each.where: each.entry.mean("seconds") for each in findings if each.method == FULL}

    def speedup(each: Finding) -> str:
        """Time saved over the full training, as in the paper's Tab. 1."""
        return number(full.get(each.where) and 100 * (1 - each.entry.mean("seconds") / full[each.where]), ".1f")

    columns: dict[str, Callable[[Finding], str]] = {
        "method": lambda each: each.method,
        "B": lambda each: f"{each.budget:g}",
        "measured (+ beforehand)": _measured,
        "last epoch, %": lambda each: str(each.entry.spread("last")),
        "best epoch, %": lambda each: str(each.entry.spread("best")),
        "control": _control,
        "points (95 % interval)": lambda each: each.gain.text() if each.gain else NONE,
        "seconds": lambda each: f"{each.entry.mean('seconds'):.1f}",
        "speed-up, %": speedup,
        "exp H(c) / N": lambda each: f"{each.entry.mean('effective_rows'):.3f}",
    }
    return [
        table_of(block, columns, f"{block[0].where}, {max(len(each.entry.rows) for each in block)} seed(s)")
        for block in _blocks(findings)
    ]


def _measured(each: Finding) -> str:
    beforehand = each.entry.mean("prepare_budget")
    return f"{each.entry.mean('effective_budget'):.3f}" + (f" + {beforehand:.2f}" if beforehand else "")


def _control(each: Finding) -> str:
    if each.control is None:
        return NONE
    name = FULL if each.control.method == FULL else f"{CONTROL} {each.control.setting['budget']:g}"
    return name + (" (less)" if each.short else "")


def headline(findings: Sequence[Finding], /) -> list[str]:
    """Say whether anything beats uniform draws at equal measured compute."""
    found = [(each, each.gain) for each in findings if each.gain is not None]
    if not found:
        return ["Nothing but uniform draws was run, so nothing is compared."]
    counts = Counter(gain.relation for _, gain in found)
    if counts["one seed"] == len(found):
        above = sum(gain.mean > 0 for _, gain in found)
        return [
            f"One seed has no interval, so nothing is said about what beats uniform draws: {above} of {len(found)} "
            "comparisons at equal measured compute are above it, which chance alone can do."
        ]
    lines = [
        f"Of {len(found)} comparisons with uniform draws at equal measured compute {counts['better']} show a better "
        f"method, {counts['worse']} a worse one (95 % interval of the difference, paired by seed). Where nothing "
        "differs, about one in forty is called better by chance."
    ]
    lines += [
        f"Better: {each.method} at B = {each.budget:g} ({each.where}) with measured compute {each.effective:.3f}: "
        f"{gain.text()} points over {_control(each)}, higher at {gain.higher} of {gain.seeds} seeds."
        for each, gain in sorted(found, key=lambda pair: -pair[1].mean)
        if gain.relation == "better"
    ]
    short = sorted({each.method for each, _ in found if each.short})
    if short:
        lines.append(
            f"{', '.join(short)}: with what had to be trained beforehand they took more than a full training; their "
            "control is the full training, which had less."
        )
    return lines


def write_page(
    path: Path, findings: Sequence[Finding], costs: Sequence[Check], /, *, common: Common, processes: int
) -> None:
    """Write the page, one file that loads nothing from anywhere."""
    verdict, *details = headline(findings)
    found, recipe, blocks = claims(findings), common.recipe, _blocks(findings)
    stated = page.table(("The paper (ResNet-18 on CIFAR-10 and CIFAR-100)", "Here"), found.items(), text=True)
    page.write_page(
        path,
        "Budgeted training: is anything better than uniform draws?",
        page.paragraph(verdict, kind="verdict"),
        *map(page.paragraph, details),
        page.paragraph(
            f"{common.model}, {recipe.epochs} epochs for a full training, batches of {common.global_batch}, SGD with "
            f"learning rate {recipe.lr:g} and momentum {recipe.momentum:g}, "
            f"{'held-out' if common.test is None else 'test'} accuracy in per cent, mean ± standard deviation over "
            f"seeds. Times were taken with {common.threads} thread(s) per run, {processes} run(s) at a time.",
            kind="soft",
        ),
        *map(page.paragraph, DEFINITIONS),
        page.section(
            "What the paper says, and what was found here",
            stated if found else page.paragraph("These runs speak to none of its claims."),
        ),
        page.section("Accuracy against measured compute", page.paragraph(PARETO), _charts(map(pareto_figure, blocks))),
        page.section(
            "Fixed parts of the rows (Fig. 1a, b)", _charts(map(coreset_figure, blocks), "No core-set was run.")
        ),
        page.section(
            "How evenly rows were trained on (Fig. 1c, d)",
            page.paragraph(EVENNESS),
            _charts([variability_figure(findings)]),
            page.paragraph(VARIABILITY),
            _charts(map(evenness_figure, blocks)),
        ),
        page.section("Linear against step schedule", _charts(schedule_figures(findings), "Only one schedule was run.")),
        page.section("What the methods cost", _costs(costs)),
        page.section(
            "All numbers", *(page.heading(each.title) + page.table(each.head, each.rows) for each in tables(findings))
        ),
    )


Charted = tuple[Figure, str] | None  # a figure and its caption


def _charts(figures: Iterable[Charted], none: str = "") -> str:
    """Charts side by side, those after the second to be opened; a text where there is none."""
    charts = [page.chart(*each) for each in figures if each is not None]
    more = page.folded("Other augmentations, schedules and budgets", page.panels(*charts[2:])) if charts[2:] else ""
    return page.panels(*charts[:2]) + more if charts else page.paragraph(none)


def _costs(costs: Sequence[Check]) -> str:
    if not costs:
        return page.paragraph("None of the methods whose cost is bounded was run beside unif.")
    table = table_of(
        costs,
        {
            "": lambda each: each.text,
            "median": lambda each: f"{each.value:.3f}",
            "from": lambda each: f"{min(each.ratios):.3f}",
            "to": lambda each: f"{max(each.ratios):.3f}",
            "pairs": lambda each: str(len(each.ratios)),
            "must be": lambda each: each.law,
            "bounds": lambda each: "met" if each.met else "missed",
        },
    )
    return page.table(table.head, table.rows)


def _line(name: str, findings: Sequence[Finding], x: Callable[[Finding], float]) -> Figure:
    """A trace of mean accuracies with their deviations."""
    spreads = [each.entry.spread("last") for each in findings]
    points = [(x(each), spread.mean) for each, spread in zip(findings, spreads, strict=True)]
    told = [f"{each.method} B = {each.budget:g}" for each in findings]
    hover = "%{customdata}: %{y:.2f} % at %{x:.3f}"
    style = style_of(findings[0].method)
    return trace(name, points, style, lines=len(points) > 1, spreads=spreads, hover=hover, told=told)


def pareto_figure(block: Sequence[Finding], /) -> Charted:
    """Return accuracy against measured compute under one augmentation and schedule; the uniform control as a line.

    Core-sets have a figure of their own; here, where they would flatten all else, a click on their name shows them.
    """
    mine = sorted(block, key=lambda each: each.effective)
    data = [_line("unif, full", [each for each in mine if each.method in UNIFORM], lambda each: each.effective)]
    for method in dict.fromkeys(each.method for each in block if each.method not in UNIFORM):
        line = _line(method, [each for each in mine if each.method == method], lambda each: each.effective)
        line["line"] |= {"width": 1, "dash": "dot"}
        data.append(line | ({"visible": "legendonly"} if method.startswith("coreset") else {}))
    layout = axes("Measured compute (share of a full training)", LAST, height=460)
    layout["xaxis"]["rangemode"] = "tozero"
    return {"data": data, "layout": layout}, block[0].where.capitalize()


def coreset_figure(block: Sequence[Finding], /) -> Charted:
    """Return Fig. 1a, b: fixed parts of the rows beside uniform draws over the budget, the full training as a level."""
    methods = dict.fromkeys(each.method for each in block if each.method.startswith("coreset"))
    budgets = {each.budget for each in block if each.method in methods}
    lines = [[each for each in block if each.method == name and each.budget in budgets] for name in (CONTROL, *methods)]
    if not methods:
        return None
    data = [_line(line[0].method, line, lambda each: each.budget) for line in lines if line]
    layout = axes("Budget B, what chose the rows not counted", LAST)
    levels = [each.entry.mean("last") for each in block if each.method == FULL]
    line = {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "line": {"color": ORANGE, "dash": "dash", "width": 1.5}}
    layout["shapes"] = [line | {"y0": level, "y1": level} for level in levels]
    return {"data": data, "layout": layout}, f"{block[0].where.capitalize()}; dashed: full training"


def evenness_figure(block: Sequence[Finding], /) -> Charted:
    """Return Fig. 1c, d: exp H(c) / N of every method at one budget, 1 where all rows were trained on equally often.

    The budget is the one that most methods have; of equal ones that nearest 0.3.
    """
    counts = Counter(each.budget for each in block)
    budget = max(counts, key=lambda value: (counts[value], -abs(value - 0.3)))
    mine = sorted((each for each in block if each.budget == budget), key=lambda each: each.entry.mean("effective_rows"))
    bars = {
        "type": "bar",
        "orientation": "h",
        "x": [each.entry.mean("effective_rows") for each in mine],
        "y": [each.method for each in mine],
        "customdata": [each.entry.mean("count_entropy") for each in mine],
        "marker": {"color": [style_of(each.method).colour for each in mine]},
        "hovertemplate": "%{y}: exp H / N = %{x:.3f}, H = %{customdata:.3f} nats<extra></extra>",
    }
    layout = by_name("exp H(c) / N", len(mine), showlegend=False)
    layout["xaxis"]["range"] = [0, 1.02]
    layout["yaxis"]["autorange"] = True
    return {"data": [bars], "layout": layout}, f"{block[0].where.capitalize()}, B = {budget:g}"


def variability_figure(findings: Sequence[Finding], /) -> Charted:
    """Return Fig. 1c, d: accuracy against H(c) of p-SGD, its ablation and uniform draws, at one budget.

    A marker is a method, schedule and augmentation; the budget the one that most have, of equal ones that nearest 0.3.
    """
    mine = [each for each in findings if each.method in (CONTROL, "p", "p-no-smoothing", "p-last")]
    counts = Counter(each.budget for each in mine if each.method != CONTROL)
    if not counts:
        return None
    budget = max(counts, key=lambda value: (counts[value], -abs(value - 0.3)))
    data = []
    for method in dict.fromkeys(each.method for each in mine):
        entries = [each.entry for each in mine if each.method == method and each.budget == budget]
        points = [(entry.mean("count_entropy"), entry.mean("last")) for entry in entries]
        told = ["{schedule} schedule, {augment}".format(**entry.setting) for entry in entries]
        hover = f"{method}, %{{customdata}}: %{{y:.2f}} % at H(c) = %{{x:.3f}}"
        spreads = [entry.spread("last") for entry in entries]
        data.append(trace(method, points, style_of(method), spreads=spreads, hover=hover, told=told))
    return {"data": data, "layout": axes("H(c), nats", LAST)}, f"Variability and accuracy at B = {budget:g}"


def schedule_figures(findings: Sequence[Finding], /) -> list[Charted]:
    """Return the linear against the step schedule for every method, a figure per budget and augmentation."""
    return [
        _schedule_figure([each for each in findings if (each.entry.setting["augment"], each.budget) == place], place)
        for place in dict.fromkeys((each.entry.setting["augment"], each.budget) for each in findings)
    ]


def _schedule_figure(findings: Sequence[Finding], place: tuple[str, float]) -> Charted:
    found = {(each.method, each.entry.setting["schedule"]): each.entry.spread("last") for each in findings}
    methods = dict.fromkeys(each.method for each in findings)
    both = [method for method in methods if {(method, "linear"), (method, "step")} <= found.keys()]
    if len(both) < 2:  # of `full`, and of the budgets of controls, the table says enough
        return None
    data = []
    for schedule, style in (("linear", Style(BLUE)), ("step", Style(ORANGE, "diamond-open"))):
        spreads = [found[method, schedule] for method in both]
        points = [(spread.mean, method) for spread, method in zip(spreads, both, strict=True)]
        hover = f"%{{y}}, {schedule}: %{{x:.2f}} %"
        data.append(trace(schedule, points, style, spreads=spreads, across=True, hover=hover))
    augment = "no augmentation" if place[0] == "none" else f"augmentation {place[0]}"
    return {"data": data, "layout": by_name(LAST, len(both))}, f"B = {place[1]:g}, {augment}"
