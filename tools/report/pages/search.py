"""Report on searches: each one's sampler, and all of them side by side."""

from collections.abc import Sequence

from drawstream.tools.report import page
from drawstream.tools.report.figures.search import percentiles_figure, progress_figure, trials_figure
from drawstream.tools.report.figures.training import (
    confirmation_figure,
    heights_figure,
    marginals_figure,
    plane_figures,
)
from drawstream.tools.report.gallery import extremes, pictures
from drawstream.tools.report.records import SearchRecord
from drawstream.tools.report.sampled_rows import SampledRows, by_percentile, plane
from drawstream.tools.report.searches import (
    Curve,
    by_candidates,
    by_seconds,
    curves_of,
    group,
    search_names,
    uniform_score,
)

Block = tuple[str, str]  # heading and HTML
PERCENTILES = "Mean of N·P over the rows in each bin of {} percentile; above 1: drawn more often than by uniform."
TIME = "Proposals and runs one after the other, the confirmation left out."


def overview(searches: Sequence[SearchRecord], samplings: Sequence[SampledRows], /) -> str:
    """One line per search."""
    names, rows = search_names(searches, samplings), []
    for name, record, sampling in zip(names, searches, samplings, strict=True):
        scores = [trial.value for trial in record.trials if trial.value is not None]
        effective = 100 * sampling.effective_rows / len(sampling.ratio)
        noise = [f"{100 * share:.1f}" for share in (sampling.noisy_before, sampling.noisy_after) if share is not None]
        rows.append(
            [
                name[:1].upper() + name[1:],
                record.winner,
                f"{max(scores):.2f}" if scores else "–",
                f"{effective:.1f}",
                f"{100 * sampling.zero_share:.1f}",
                " → ".join(noise) or "–",
            ]
        )
    head = ["", "Winner", "Best trial", "Effective sample size (%)", "Zero rows (%)", "Wrong labels drawn (%)"]
    return page.table(head, rows, label="Searches")


def side_by_side(searches: Sequence[SearchRecord], samplings: Sequence[SampledRows], /) -> list[Block]:
    """All searches in one figure each: probability over percentiles, best so far over candidates and over seconds."""
    groups = group(searches, samplings)
    blocks = []
    shared = set.intersection(*(set(sampling.axes() or sampling.sampler.features) for sampling in samplings))
    for feature in [name for name in (*samplings[0].axes(), *samplings[0].sampler.features) if name in shared][:1]:
        lines = {
            name: [Curve(f"seed {searches[i].seed}", *by_percentile(samplings[i], feature)) for i in members]
            for name, members in groups.items()
        }
        figure = percentiles_figure(lines, feature)
        blocks.append(
            (f"Probability against {feature} percentile, all searches", page.chart(figure, PERCENTILES.format(feature)))
        )
    charts = []
    for make, axis, note in (
        (by_candidates, "Candidates scored", "Thin lines: single searches; thick ones: means."),
        (by_seconds, "Seconds of the search", TIME),
    ):
        curves = curves_of(groups, searches, make)
        if any(curve.x[-1] > 0 for each in curves.values() for curve in each):
            charts.append(page.chart(progress_figure(curves, axis), note))
    return [*blocks, ("Best score so far, all searches", page.panels(*charts))] if charts else blocks


def search_blocks(record: SearchRecord, sampling: SampledRows, images: int, /) -> list[Block]:
    """All that the page shows of one search, in order."""
    blocks = _plane_block(sampling)
    axes = sampling.axes()
    feature = axes[0] if axes else sampling.sampler.features[0]
    percentiles = percentiles_figure({"Sampler": [Curve("Sampler", *by_percentile(sampling, feature))]}, feature)
    blocks.append((f"Probability against {feature} percentile", page.chart(percentiles, PERCENTILES.format(feature))))
    blocks.append(("Best score so far over trials", _trials(record)))
    if images:
        blocks.append(("Most and least likely images", _images(sampling, images)))
    blocks.append(("Effective sample size, noise and classes", _shares(sampling)))
    blocks.append(("Parameters found", _parameters(record, sampling)))
    return blocks


def _plane_block(sampling: SampledRows) -> list[Block]:
    axes = sampling.axes()
    if len(axes) < 2:
        return []
    cells = plane(sampling, *axes)
    left, right = plane_figures(cells)
    first = "(a) All rows: share of them in the cell; their true labels are not known."
    if cells.noisy is not None:
        first = "(a) Noisy rows: share of the rows in the cell whose label is wrong."
    second = "(b) Sampler: mean probability × N of the rows in the cell; 1 is uniform."
    note = "Each axis is the share of rows whose value is at most that of the row. Cells without rows are left empty."
    body = page.panels(page.chart(left, first), page.chart(right, second)) + page.paragraph(note, kind="soft")
    return [(f"Sampler over the ({axes[0]}, {axes[1]}) plane", body)]


def _trials(record: SearchRecord) -> str:
    states = [trial.state for trial in record.trials]
    counts = f"{states.count('complete')} trials scored, {states.count('pruned')} degenerate and never run"
    failed = len(states) - states.count("complete") - states.count("pruned")
    caption = f"{counts}{f', {failed} failed' if failed else ''}. "
    caption += "The built-in objective is top-1 accuracy on the held-out set after fine-tuning (%)."
    charts = [page.chart(trials_figure(record.trials), caption)]
    seconds = {"Best so far": [by_seconds(record)]}
    if any(trial.seconds for trial in record.trials) and seconds["Best so far"][0].x.size:
        charts.append(page.chart(progress_figure(seconds, "Seconds of the search", uniform_score(record.trials)), TIME))
    if record.confirmation:
        note = "The best candidates and the uniform control, run again with other seeds; bar: mean. "
        lost = sum(point.value is None for point in record.confirmation)
        note += f"{lost} runs gave no finite score. " if lost else ""
        charts.append(page.chart(confirmation_figure(record.confirmation), note))
    return page.panels(*charts) + page.paragraph(f"Outcome of the search: {record.message}.")


def _images(sampling: SampledRows, count: int) -> str:
    ratio = sampling.ratio
    parts = []
    for name, rows in zip(("Most likely", "Least likely"), extremes(ratio, count), strict=True):
        edge = ratio[rows[0]]
        tied = int((ratio == edge).sum())
        crops = "" if sampling.table.windows is None else "The frame is the crop that the row stands for. "
        note = crops + (
            f"Under each image its label, the true label where that differs, and N·P. {tied:,} of {len(ratio):,} rows "
        )
        note += f"have the {'highest' if name == 'Most likely' else 'lowest'} value, {edge:.2f}"
        note += "; those shown were drawn at random from them." if tied > count else "."
        shown = pictures(sampling, rows)
        parts.append(
            page.heading(f"{name}{'' if sampling.table.windows is None else ' crops'}")
            + page.gallery(shown)
            + page.paragraph(note, kind="soft")
        )
    return "".join(parts)


def _shares(sampling: SampledRows) -> str:
    rows, effective = len(sampling.ratio), sampling.effective_rows
    lines = [
        ["Effective sample size (rows)", f"{rows:,}", f"{effective:,.0f}"],
        ["Effective sample size (% of rows)", "100.0", f"{100 * effective / rows:.1f}"],
        ["Rows with probability 0 (%)", "0.0", f"{100 * sampling.zero_share:.1f}"],
        ["Largest probability × N", "1.00", f"{sampling.ratio.max():.2f}"],
    ]
    if sampling.noisy_before is not None and sampling.noisy_after is not None:
        before, after = f"{100 * sampling.noisy_before:.1f}", f"{100 * sampling.noisy_after:.1f}"
        lines.append(["Draws with a wrong label (%)", before, after])
    figure = marginals_figure(sampling.catalog.classes, *sampling.marginals())
    return page.table(["", "Uniform", "Sampler"], lines) + page.chart(figure, "Class marginals before and after.")


def _parameters(record: SearchRecord, sampling: SampledRows) -> str:
    sampler = sampling.sampler
    params = sampler.params
    lines = [
        ["Winner of the search", record.winner],
        ["Features", ", ".join(sampler.features)],
        ["Coefficients v", _numbers(params.coefficients)],
        ["Transform T", {"cgf": "cgf, cumulative gradient norm", "cdf": "cdf, rank"}[sampler.transform]],
        ["Inner ends e of H", _numbers(params.ends)],
        ["Values o of H", _numbers(params.values)],
    ]
    formula = "P ∝ H(T(u)) with u the sum of v · cdf over the features."
    table = page.table(["Parameter", "Value"], lines, text=True)
    return page.panels(table, page.chart(heights_figure(params, sampler.transform), formula))


def _numbers(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.4g}".replace("-", "−") for value in values)
