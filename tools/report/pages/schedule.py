"""The figures of a schedule search: what its rewards were worth, what it drew when, which images, against what loss.

Parts of a page, for `bench auto` and for the report; each is a pure function of the files that `search auto` wrote.
"""

import json
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from drawstream.tools.experiments import NONE, number, signed
from drawstream.tools.report import (
    Counts,
    RewardSpread,
    SearchedSchedule,
    correlation,
    dispersion,
    effective_rows,
    page,
    pictures,
    segment_counts,
)
from drawstream.tools.report.figures import loss_figure, rewards_figure, segments_figure, spread_figure

__all__ = ["reward_words", "schedule_blocks", "schedule_sections", "words_of"]

Block = tuple[str, str]  # heading and HTML
SEGMENTS, LEAST = 500, 10  # of Fig. 2, as in the paper; fewer where they would have fewer rows than that
SHOWN = 500  # rows in the charts of count against loss, as in Fig. 4 of the paper
CLASSES, IMAGES = 4, 6  # classes with images, as in Fig. 3; images of each at both ends
SETTINGS = ("model", "forward", "backward", "seconds", "catalog_fingerprint", "held_out_fingerprint", "versions")


def schedule_blocks(search: SearchedSchedule, /, *, images: bool = True) -> list[Block]:
    """Return all that a page shows of one search, in order."""
    blocks = [("Reward over the intervals", _rewards(search)), ("How often rows were drawn, by stage", _stages(search))]
    if images:
        blocks.append(("Images drawn least and most", _images(search)))
    blocks.append(("Count against loss", _against_loss(search)))
    return blocks


def schedule_sections(searches: Sequence[SearchedSchedule], /) -> list[str]:
    """Return the blocks of several searches: the first one with its images, the others folded."""
    parts = []
    for i, search in enumerate(searches):
        body = [page.heading(heading) + text for heading, text in schedule_blocks(search, images=i == 0)]
        names = {**search.document["auto"], **{name: search.document[name] for name in ("reward", "recipe", *SETTINGS)}}
        lines = [[name, value if isinstance(value, str) else json.dumps(value)] for name, value in names.items()]
        body.append(page.folded("Settings", page.table(["", ""], lines, text=True)))
        title = f"Schedule searched with seed {search.seed} ({search.path.parent})"
        parts.append(page.folded(title, *body) if i else page.section(title, *body))
    return parts


def accuracy_words(search: SearchedSchedule, /) -> str:
    """Return the test accuracy that a search ended with; empty where it has none."""
    found = search.document.get("result")
    return "" if found is None else f"Test accuracy of the best child at the end: {found['last']:.2f} %."


def words_of(search: SearchedSchedule, /) -> str:
    """Return `reward_words` of a search; empty for one child, or no accuracies."""
    spread = search.spread()
    return "" if spread is None else reward_words(spread, search.rows, search.again_rows, late=search.spread(0.5))


def reward_words(
    spread: RewardSpread, rows: int, again_rows: int | None, /, *, late: RewardSpread | None = None
) -> str:
    """Tell in words, with the numbers, if choosing the best child is above the noise of the reward.

    Args:
        spread: Spread of the whole run.
        rows: Images that the reward is taken on.
        again_rows: Images of the second score, if there is one.
        late: Spread of the second half of the run: at its beginning all children learn fast and differ much.
    """
    text = (
        f"The children of an interval differ by {spread.between:.2f} points (standard deviation). One reward, an "
        f"accuracy on {rows:,} images, is itself known to ± {spread.binomial:.2f}. The chosen child was on average "
        f"{spread.gain:.2f} points above the mean of the children"
    )
    if spread.repeated is None or again_rows is None:
        if spread.between < spread.binomial:
            return text + (
                ". The spread is below the noise of one reward. All children see the same images, so only a second "
                "score can tell how much of the choice is luck."
            )
        return text + ". The spread is above the noise of one reward: the children do differ."
    share = spread.repeated / spread.gain if spread.gain > 0 else 0.0
    text += f", and {signed(spread.repeated)} on {again_rows:,} images that chose nothing"
    if spread.agreement is not None:
        text += f" (correlation of both scores of a child: {number(spread.agreement)})"
    text += f": {share:.0%} of the advantage was the child's own, the rest the luck of the reward. "
    if share < 0.5:
        text += "Most of the choice is noise."
    else:
        text += "So the choice is above the noise. Only new trainings on the schedule can tell if its rows are better."
    if late is not None and late.repeated is not None:
        text += (
            f" In the second half of the run the children differ by {late.between:.2f} points, the chosen one was "
            f"{late.gain:.2f} above their mean, and {signed(late.repeated)} on the other images."
        )
    return text


def _rewards(search: SearchedSchedule) -> str:
    rewards, ends, rows = search.rewards, search.ends, search.rows
    unit = "% points" if search.accuracy else "nats"
    name = f"Accuracy on {rows:,} held-out images (%)" if search.accuracy else "Negative loss, held-out (nats)"
    caption = "After every interval the best child's rows are recorded, and all children continue from its state."
    charts = [page.chart(rewards_figure(rewards, ends, name), caption)]
    if rewards.shape[1] > 1:
        share = np.nanmean(rewards, 1) / 100
        binomial = 100 * np.sqrt(share * (1 - share) / rows) if search.accuracy else None
        note = "A point per interval. Children see the same images, so their differences are less noisy than the line."
        charts.append(page.chart(spread_figure(rewards, ends, binomial, unit), note if search.accuracy else ""))
    words = " ".join(filter(None, (accuracy_words(search), words_of(search))))
    return (page.paragraph(words, kind="verdict") if words else "") + page.panels(*charts)


def _stages(search: SearchedSchedule) -> str:
    counts, wrong = search.stages, search.wrong
    names = _stage_names(search)
    parts = segment_counts(counts, segments=min(SEGMENTS, max(1, counts.shape[1] // LEAST)))
    caption = (
        "Stages end where cycles do. The last one rises because it made the ranking. A stage that draws the rows of "
        "the last one rises with it; a stage that is unrelated to it is flat."
    )
    chance = np.random.default_rng(0).multinomial(counts.sum(), np.full(counts.shape[1], 1 / counts.shape[1]))
    lines = [
        _count_line(name, part, wrong)
        for name, part in [*zip(names, counts, strict=True), ("Whole run", counts.sum(0))]
    ]
    lines.append([*_count_line("Independent draws, for comparison", chance, None)[:4], NONE])
    noise = None if wrong is None else 100 * float(wrong.mean())
    lines.append(["Permutations, for comparison", "100.00", "0.00", "0.0", number(noise)])
    head = ["", "exp(H(c)) / N (%)", "Variance / mean of the counts", "Rows never drawn (%)", "Wrong labels drawn (%)"]
    figure = page.chart(segments_figure(parts, names), caption)
    return figure + page.paragraph(_stage_words(counts)) + page.table(head, lines)


def _count_line(name: str, counts: Counts, wrong: NDArray[np.bool_] | None) -> list[str]:
    noise = None if wrong is None else 100 * counts[wrong].sum() / counts.sum()
    values = [(100 * effective_rows(counts), ".2f"), (dispersion(counts), ".2f"), (100 * (counts == 0).mean(), ".1f")]
    return [name, *(number(value, form) for value, form in values), number(noise)]


def _stage_words(counts: Counts) -> str:
    """Tell if the stages draw the same rows."""
    if len(counts) < 2:
        return "One stage only: there is nothing to compare."
    found = correlation(counts[0], counts[-1])
    if found is None:
        return "In one of the stages all rows come equally often: there is nothing to compare."
    noise = 1 / np.sqrt(counts.shape[1])
    told = f"{number(found[1], '.3f')} (Spearman; ± {noise:.3f} by chance)"
    text = f"Counts of the first and the last stage correlate by {told}"
    if abs(found[1]) < 2 * noise:
        return text + ": rows drawn often at first are drawn neither more nor less at last."
    if found[1] < 0:
        return text + ": rows drawn often at first were drawn less at last."
    return text + (
        ". Where exploration draws again the rows that it drew before, some correlation comes from that alone and is "
        "no sign that these rows are better."
    )


def _images(search: SearchedSchedule) -> str:
    counts, label, ratio = search.counts, search.catalog.label, search.ratio
    mixed = np.random.default_rng(0).permutation(counts.size)
    parts = []
    for each in range(min(CLASSES, search.catalog.num_classes)):
        rows = mixed[label[mixed] == each]
        order = rows[np.argsort(counts[rows], kind="stable")]
        for end, chosen in (("least", order[:IMAGES]), ("most", order[::-1][:IMAGES])):
            parts.append(page.heading(f"Labelled {search.catalog.classes[each]}: drawn {end}"))
            parts.append(page.gallery(pictures(search.catalog, chosen, ratio[chosen])))
    note = "Under each image its label, the true label if that differs, and its count over the mean count of a row."
    return "".join(parts) + page.paragraph(note, kind="soft")


def _against_loss(search: SearchedSchedule) -> str:
    """The counts of some rows in each stage against their losses at its end, with the correlations."""
    some = np.random.default_rng(0).permutation(search.counts.size)[:SHOWN]
    wrong = None if search.wrong is None else search.wrong[some]
    charts, lines = [], []
    for name, counts, loss in zip(_stage_names(search), search.stages, search.losses, strict=True):
        charts.append(page.chart(loss_figure(loss[some], counts[some], wrong), name))
        found = (correlation(loss[some], counts[some]), correlation(loss, counts))
        lines.append([name, *(number(value, ".3f") for each in found for value in each or (None, None))])
    few, every = (1 / np.sqrt(size) for size in (some.size, search.counts.size))
    note = (
        f"{some.size} rows taken at random: their counts in a stage against their losses under the weights at its end. "
        f"By chance a correlation is within ± {few:.3f} over these rows, and ± {every:.3f} over all."
    )
    head = ["", f"Pearson, {some.size} rows", "Spearman", f"Pearson, all {search.counts.size:,} rows", "Spearman"]
    return page.panels(*charts) + page.paragraph(note) + page.table(head, lines)


def _stage_names(search: SearchedSchedule) -> list[str]:
    return [f"Epoch {s[0] + 1}" if len(s) == 1 else f"Epochs {s[0] + 1} to {s[-1] + 1}" for s in search.epochs]
