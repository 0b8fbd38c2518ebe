"""The page of `bench budget`: the verdict on top, then the paper's claims beside ours, the figures and every number."""

from collections.abc import Sequence
from pathlib import Path

from drawstream.samplers.files.atomic import write_atomically
from drawstream.tools.bench.budget.figures import coreset_figure, evenness_figure, pareto_figure, schedule_figure
from drawstream.tools.bench.budget.grid import Common
from drawstream.tools.bench.budget.verdict import Check, Comparison, Entry
from drawstream.tools.bench.budget.words import claims, head_and_cells, headline, where
from drawstream.tools.report.pages.page import chart, document, folded, heading, panels, paragraph, section, table

__all__ = ["write_page"]

DEFINITIONS = (
    "Measured compute is what the training loop counted: (rows forward + 2 × rows backward) / 3, as a share of a full "
    "training. What had to be trained beforehand (to choose a core-set, to know irreducible losses) is added.",
    "The control of a method is uniform drawing with the least measured compute that is not less than the method's; "
    "where the grid had no such run within 5 %, one was made. A method is above it if its mean over the seeds is "
    "higher by more than the larger of the two standard deviations.",
)
PARETO = (
    "A method is worth its compute only where it lies above the line of uniform draws. Bars are one standard deviation "
    "over the seeds. Core-sets are off at first: their names in the legend show them."
)
EVENNESS = (
    "H(c) is the entropy of how often each of the N rows was trained on. All real strategies reach 0.88 to 1 of log N, "
    "so exp H(c) / N is shown: the share of rows which, all equally often, would give the same entropy."
)


def write_page(
    path: Path,
    entries: Sequence[Entry],
    comparisons: Sequence[Comparison],
    costs: Sequence[Check],
    /,
    *,
    common: Common,
    processes: int,
) -> None:
    """Write the page, one file that loads nothing from anywhere."""
    places = list(dict.fromkeys((entry.augment, entry.schedule) for entry in entries))
    blocks = [[entry for entry in entries if (entry.augment, entry.schedule) == place] for place in places]
    verdict, *details = headline(comparisons)
    recipe = common.recipe
    page = document(
        "Budgeted training: is anything better than uniform draws?",
        paragraph(verdict, kind="verdict"),
        *map(paragraph, details),
        paragraph(
            f"{common.model}, {recipe.epochs} epochs for a full training, batches of {common.batch_size}, SGD with "
            f"learning rate {recipe.lr:g} and momentum {recipe.momentum:g}, "
            f"{'held-out' if common.test is None else 'test'} accuracy in per cent, mean ± standard deviation over "
            f"seeds. Times were taken with {common.threads} thread(s) per run, {processes} run(s) at a time.",
            kind="soft",
        ),
        *(paragraph(text) for text in DEFINITIONS),
        section("What the paper says, and what was found here", _claims(entries, comparisons)),
        section("Accuracy against measured compute", paragraph(PARETO), _pareto(blocks)),
        section("Fixed parts of the rows (Fig. 1a, b)", *_coresets(blocks)),
        section("How evenly rows were trained on (Fig. 1c, d)", paragraph(EVENNESS), *_evenness(blocks)),
        section("Linear against step schedule", *_schedules(entries)),
        section("What the methods cost", _costs(costs)),
        section("All numbers", *(_numbers(block, comparisons) for block in blocks)),
    )
    with write_atomically(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def _claims(entries: Sequence[Entry], comparisons: Sequence[Comparison]) -> str:
    found = claims(entries, comparisons)
    if not found:
        return paragraph("These runs speak to none of its claims.")
    return table(("The paper (ResNet-18 on CIFAR-10 and CIFAR-100)", "Here"), found, text=True)


def _pareto(blocks: Sequence[Sequence[Entry]]) -> str:
    charts = [chart(pareto_figure(block), where(block[0]).capitalize()) for block in blocks]
    return panels(*charts[:2]) + (
        folded("Other augmentations and schedules", panels(*charts[2:])) if charts[2:] else ""
    )


def _coresets(blocks: Sequence[Sequence[Entry]]) -> list[str]:
    pairs = [(coreset_figure(block), where(block[0]).capitalize()) for block in blocks]
    charts = [chart(figure, f"{caption}; dashed: full training") for figure, caption in pairs if figure is not None]
    return [panels(*charts)] if charts else [paragraph("No core-set was run.")]


def _evenness(blocks: Sequence[Sequence[Entry]]) -> list[str]:
    """One chart per augmentation and schedule, at the budget that most methods have; of equal ones that nearest 0.3."""
    charts = []
    for block in blocks:
        counts: dict[float, int] = {}
        for entry in block:
            counts[entry.budget] = counts.get(entry.budget, 0) + 1
        budget = max(counts, key=lambda value: (counts[value], -abs(value - 0.3)))
        mine = [entry for entry in block if entry.budget == budget]
        charts.append(chart(evenness_figure(mine), f"{where(block[0]).capitalize()}, B = {budget:g}"))
    return [panels(*charts)]


def _schedules(entries: Sequence[Entry]) -> list[str]:
    charts = []
    for augment, budget in dict.fromkeys((entry.augment, entry.budget) for entry in entries):
        figure = schedule_figure([e for e in entries if (e.augment, e.budget) == (augment, budget)])
        if figure is not None:
            name = "no augmentation" if augment == "none" else f"augmentation {augment}"
            charts.append(chart(figure, f"B = {budget:g}, {name}"))
    return [panels(*charts)] if charts else [paragraph("Only one schedule was run.")]


def _costs(costs: Sequence[Check]) -> str:
    if not costs:
        return paragraph("None of the methods whose cost is bounded was run beside unif.")
    head = ("", "median", "from", "to", "pairs", "must be", "")
    rows = []
    for each in costs:
        least, most = each.bounds
        must = f"≤ {most:g}" if least <= 0 else f"{least:g} to {most:g}"
        numbers = [f"{value:.3f}" for value in (each.value, each.low, each.high)]
        rows.append([each.text, *numbers, str(each.pairs), must, "met" if each.met else "missed"])
    return table(head, rows)


def _numbers(block: Sequence[Entry], comparisons: Sequence[Comparison]) -> str:
    return heading(where(block[0]).capitalize()) + table(*head_and_cells(block, comparisons))
