"""Report on searches: each one's sampler, and all of them side by side."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from drawstream.tools.experiments import METRICS, NONE, lower_is_better, number
from drawstream.tools.report import (
    Curve,
    Picture,
    SampledRows,
    Search,
    SearchRecord,
    by_candidates,
    by_percentile,
    by_seconds,
    curves_of,
    extremes,
    group,
    page,
    pictures,
    plane,
    search_names,
    uniform_score,
)
from drawstream.tools.report.figures import (
    confirmation_figure,
    heights_figure,
    marginals_figure,
    percentiles_figure,
    plane_figures,
    progress_figure,
    trials_figure,
)

Block = tuple[str, str]  # heading and HTML
PERCENTILES = "Mean of N·P over the rows in each bin of {} percentile; above 1: drawn more often than by uniform."
TIME = "Proposals and runs one after the other, the confirmation left out."
TRANSFORMS = {"cgf": "cgf, cumulative gradient norm", "cdf": "cdf, rank"}
ALONG = (
    (by_candidates, "Candidates scored", "Thin lines: single searches; thick ones: means."),
    (by_seconds, "Seconds of the search", TIME),
)


def overview(searches: Sequence[Search], /) -> str:
    """Return a table with one line per search."""
    rows = []
    for name, (record, sampling) in zip(search_names(searches), searches, strict=True):
        scores = [trial.value for trial in record.trials if trial.value is not None]
        noise = NONE if sampling.noise is None else " → ".join(f"{100 * share:.1f}" for share in sampling.noise)
        shares = (sampling.effective_rows / len(sampling.ratio), sampling.zero_share)
        percents = [f"{100 * share:.1f}" for share in shares]
        rows.append([name[:1].upper() + name[1:], record.winner, number(max(scores, default=None)), *percents, noise])
    head = ["", "Winner", "Best trial", "Effective sample size (%)", "Zero rows (%)", "Wrong labels drawn (%)"]
    return page.table(head, rows, label="Searches")


def side_by_side(searches: Sequence[Search], /) -> list[Block]:
    """Return all searches in one figure each: probability over percentiles, best so far over candidates and seconds."""
    groups, samplings = group(searches), [sampling for _, sampling in searches]
    blocks = []
    shared = set.intersection(*(set(sampling.axes() or sampling.sampler.features) for sampling in samplings))
    for feature in [name for name in (*samplings[0].axes(), *samplings[0].sampler.features) if name in shared][:1]:
        lines = {
            name: [Curve(f"seed {searches[i][0].seed}", *by_percentile(samplings[i], feature)) for i in members]
            for name, members in groups.items()
        }
        figure = page.chart(percentiles_figure(lines, feature), PERCENTILES.format(feature))
        blocks.append((f"Probability against {feature} percentile, all searches", figure))
    charts = []
    for make, axis, note in ALONG:
        curves = curves_of(groups, searches, make)
        if any(curve.x[-1] > 0 for each in curves.values() for curve in each):
            charts.append(page.chart(progress_figure(curves, axis), note))
    return [*blocks, ("Best score so far, all searches", page.panels(*charts))] if charts else blocks


def search_blocks(record: SearchRecord, sampling: SampledRows, images: int, /) -> list[Block]:
    """Return all that the page shows of one search, in order."""
    axes = sampling.axes()
    feature = axes[0] if axes else sampling.sampler.features[0]
    percentiles = percentiles_figure({"Sampler": [Curve("Sampler", *by_percentile(sampling, feature))]}, feature)
    blocks = [(f"Probability against {feature} percentile", page.chart(percentiles, PERCENTILES.format(feature)))]
    if len(axes) == 2:
        blocks.insert(0, (f"Sampler over the ({axes[0]}, {axes[1]}) plane", _plane(sampling, *axes)))
    blocks.append(("Best score so far over trials", _trials(record)))
    if images:
        blocks.append(("Most and least likely images", _images(sampling, images)))
    blocks.append(("Effective sample size, noise and classes", _shares(sampling)))
    blocks.append(("Parameters found", _parameters(record, sampling)))
    return blocks


def _plane(sampling: SampledRows, x: str, y: str) -> str:
    cells = plane(sampling, x, y)
    first = "(a) Noisy rows: share of the rows in the cell whose label is wrong."
    if cells.noisy is None:
        first = "(a) All rows: share of them in the cell; their true labels are not known."
    captions = (first, "(b) Sampler: mean probability × N of the rows in the cell; 1 is uniform.")
    note = "Each axis is the share of rows whose value is at most that of the row. Cells without rows are left empty."
    return page.panels(*map(page.chart, plane_figures(cells), captions)) + page.paragraph(note, kind="soft")


def _objective(record: SearchRecord) -> str:
    """Return the metric of fine-tuning, as far as the record says it."""
    objective = record.document.get("identity", {}).get("objective", {})
    metric = objective.get("metric", "top1") if isinstance(objective, dict) else "top1"
    if lower_is_better(metric):
        return f"minus the {METRICS[metric]}"
    return "top-1 accuracy (%)" if metric == "top1" else f"{METRICS.get(metric, metric)} (%)"


def _trials(record: SearchRecord) -> str:
    states = [trial.state for trial in record.trials]
    done, pruned = states.count("complete"), states.count("pruned")
    failed = f", {len(states) - done - pruned} failed" if len(states) > done + pruned else ""
    caption = (
        f"{done} trials scored, {pruned} degenerate and never run{failed}. The built-in objective is "
        f"{_objective(record)} on the held-out set after fine-tuning."
    )
    charts = [page.chart(trials_figure(record.trials), caption)]
    seconds = by_seconds(record)
    if any(trial.seconds for trial in record.trials) and seconds.x.size:
        figure = progress_figure({"Best so far": [seconds]}, "Seconds of the search", uniform_score(record.trials))
        charts.append(page.chart(figure, TIME))
    if record.confirmation:
        lost = sum(each.value is None for each in record.confirmation)
        note = "The best candidates and the uniform control, run again with other seeds; bar: mean."
        note += f" {lost} runs gave no finite score." if lost else ""
        charts.append(page.chart(confirmation_figure(record.confirmation), note))
    return page.panels(*charts) + page.paragraph(f"Outcome of the search: {record.message}.")


def _images(sampling: SampledRows, count: int) -> str:
    ratio, crops = sampling.ratio, sampling.table.windows is not None
    parts = []
    for name, end, rows in zip(("Most", "Least"), ("highest", "lowest"), extremes(ratio, count), strict=True):
        edge = ratio[rows[0]]
        tied = int((ratio == edge).sum())
        note = (
            f"{'The frame is the crop of the row. ' if crops else ''}Under each image its label, the true label if "
            f"that differs, and N·P. {tied:,} of {len(ratio):,} rows have the {end} value, {edge:.2f}"
            f"{'; those shown were drawn at random from them.' if tied > count else '.'}"
        )
        parts.append(page.heading(f"{name} likely{' crops' if crops else ''}"))
        parts += [page.gallery(shown_rows(sampling, rows)), page.paragraph(note, kind="soft")]
    return "".join(parts)


def shown_rows(sampling: SampledRows, rows: NDArray[np.int64], /) -> list[Picture]:
    """Return the pictures of some rows of a sampler."""
    table = sampling.table
    windows = None if table.windows is None else table.windows[rows]
    flip = None if table.flip is None else table.flip[rows]
    return pictures(sampling.catalog, table.sample_id[rows], sampling.ratio[rows], windows=windows, flip=flip)


def _shares(sampling: SampledRows) -> str:
    rows, effective = len(sampling.ratio), sampling.effective_rows
    lines = [
        ["Effective sample size (rows)", f"{rows:,}", f"{effective:,.0f}"],
        ["Effective sample size (% of rows)", "100.0", f"{100 * effective / rows:.1f}"],
        ["Rows with probability 0 (%)", "0.0", f"{100 * sampling.zero_share:.1f}"],
        ["Largest probability × N", "1.00", f"{sampling.ratio.max():.2f}"],
    ]
    if sampling.noise is not None:
        lines.append(["Draws with a wrong label (%)", *(f"{100 * share:.1f}" for share in sampling.noise)])
    if sampling.catalog.label_kind in ("value", "none"):
        return page.table(["", "Uniform", "Sampler"], lines)
    figure = marginals_figure(sampling.catalog.classes, *sampling.marginals())
    return page.table(["", "Uniform", "Sampler"], lines) + page.chart(figure, "Class marginals before and after.")


def _parameters(record: SearchRecord, sampling: SampledRows) -> str:
    sampler, params = sampling.sampler, sampling.sampler.params
    lines = [
        ["Winner of the search", record.winner],
        ["Features", ", ".join(sampler.features)],
        ["Coefficients v", _numbers(params.coefficients)],
        ["Transform T", TRANSFORMS[sampler.transform]],
        ["Inner ends e of H", _numbers(params.ends)],
        ["Values o of H", _numbers(params.values)],
    ]
    formula = "P ∝ H(T(u)) with u the sum of v · cdf over the features."
    table = page.table(["Parameter", "Value"], lines, text=True)
    return page.panels(table, page.chart(heights_figure(params, sampler.transform), formula))


def _numbers(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.4g}".replace("-", "−") for value in values)
