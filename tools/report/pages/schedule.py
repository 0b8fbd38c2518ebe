"""The figures of one schedule search: what its rewards were worth, what it drew when, which images, against what loss.

Parts of a page, for `bench auto` and for the report; each is a pure function of the files that `search auto` wrote.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from drawstream.features import FeatureTable
from drawstream.pipeline import Catalog
from drawstream.pipeline.shards.remote import is_url
from drawstream.samplers.files.system import raise_unless_file
from drawstream.samplers.orders.schedule import Schedule
from drawstream.tools.report import page
from drawstream.tools.report.figures.schedule import loss_figure, rewards_figure, segments_figure, spread_figure
from drawstream.tools.report.gallery import pictures
from drawstream.tools.report.left_out import LeftOut
from drawstream.tools.report.schedules import (
    Spread,
    children_spread,
    correlation,
    count_stages,
    dispersion,
    effective_rows,
    segment_counts,
    stage_epochs,
)
from drawstream.tools.runs.record import read_record

__all__ = ["SearchedSchedule", "read_schedules", "reward_words", "schedule_blocks", "schedule_sections"]

Block = tuple[str, str]  # heading and HTML
SEGMENTS = 100  # at most; 500 of 100 images in the paper
SHOWN = 500  # rows in the chart of count against loss, as in Fig. 4 of the paper
CLASSES, IMAGES = 4, 6  # classes with images, as in Fig. 3; images of each at both ends


@dataclass(frozen=True, slots=True)
class WholeImages:
    """Places of rows that are the samples themselves."""

    sample_id: NDArray[np.int64]
    windows: None = None
    flip: None = None


@dataclass(frozen=True)
class SearchedSchedule:
    """A schedule search with its data.

    Attributes:
        path: Its `auto.json`.
        document: All of it.
        catalog: The training data.
        schedule: What it recorded.
        loss: Of each row under the final weights, float32 (N,); None where no feature table was made.
    """

    path: Path
    document: Mapping[str, Any]
    catalog: Catalog
    schedule: Schedule
    loss: NDArray[np.float32] | None

    @classmethod
    def open(cls, path: Path, /) -> Self:
        """Open a record (`auto.json`), the files that it names, and the feature table in the folder `features` beside.

        Raises:
            ValueError: A file is missing or damaged, or they do not belong together.
        """
        document = read_record(path, "auto")
        try:
            stated = document["catalog"]
            catalog = Catalog.open(stated if is_url(stated) else path.parent / stated)
            schedule = Schedule.open(path.parent / document["schedule"], catalog=catalog.fingerprint)
            features = path.with_name("features")
            table = FeatureTable.open(features, catalog=catalog) if features.is_dir() else None
        except KeyError as error:
            raise ValueError(f"{path}: damaged record: it has no {error}") from None
        except (AttributeError, TypeError) as error:
            raise ValueError(f"{path}: damaged record: {error}") from None
        except (OSError, ValueError) as error:
            raise_unless_file(error, path)
            raise ValueError(f"{path}: a file that it names cannot be used: {error}") from None
        found = cls(path, document, catalog, schedule, None if table is None else table.columns("loss")["loss"])
        found._check()
        return found

    def _check(self) -> None:
        """Read every number of the record once.

        Raises:
            ValueError: One is missing, or no job writes it.
        """
        try:
            steps = np.array(self.document["steps"], dtype=np.float64)
            if self.rewards.shape[:1] != steps.shape or self.rewards.ndim != 2 or not (steps > 0).all():
                raise ValueError("steps and rewards do not belong together")
            if not np.isfinite(steps).all() or self.rows < 1 or not self.epochs:
                raise ValueError("a number of steps, rows or epochs is none")
            _settings(self), self.words  # these read the rest
        except KeyError as error:
            raise ValueError(f"{self.path}: damaged record: it has no {error}") from None
        except (AttributeError, TypeError, ValueError, OverflowError, IndexError) as error:
            raise ValueError(f"{self.path}: damaged record: {error}") from None

    @property
    def epochs(self) -> list[range]:
        """Epochs of each stage."""
        auto = self.document["auto"]
        if auto.get("exploration", "mixture") != "mixture":
            return stage_epochs(self.schedule.epochs)
        return stage_epochs(self.schedule.epochs, first=auto["first"], cycle=auto["permutations"] + 1)

    @cached_property
    def stages(self) -> NDArray[np.int64]:
        """Times each row comes in each stage, int64 (stages, N)."""
        return count_stages(self.schedule, self.epochs)

    @property
    def counts(self) -> NDArray[np.int64]:
        """Times each row comes in the whole run, int64 (N,)."""
        total: NDArray[np.int64] = self.stages.sum(0)
        return total

    @property
    def label(self) -> NDArray[np.int64]:
        """Class of each row as the training sees it, int64 (N,)."""
        return self.catalog.label

    @property
    def clean(self) -> NDArray[np.int64] | None:
        """True class of each row, int64 (N,), where it is known."""
        return self.catalog.clean_label

    @property
    def wrong(self) -> NDArray[np.bool_] | None:
        """Whether the label of a row is wrong, bool (N,); None where that is not known."""
        return None if self.clean is None else self.label != self.clean

    @property
    def ratio(self) -> NDArray[np.float64]:
        """Count over the mean count, float64 (N,): N P of the STATIC distribution."""
        ratio: NDArray[np.float64] = self.counts / self.counts.mean()
        return ratio

    @property
    def table(self) -> WholeImages:
        """Rows are samples."""
        return WholeImages(np.arange(len(self.catalog)))

    @property
    def rewards(self) -> NDArray[np.float64]:
        """float64 (intervals, children); not a number where a child diverged."""
        return np.array(self.document["rewards"], dtype=np.float64)

    @property
    def rows(self) -> int:
        """Held-out images that a reward is taken on."""
        return int(self.document["reward"]["rows"])

    @property
    def again(self) -> NDArray[np.float64] | None:
        """Accuracies of the same children on rows that did not choose, float64; None where there are none."""
        found = self.document.get("second_score")
        return None if found is None else np.array(found["scores"], dtype=np.float64)

    @property
    def accuracy(self) -> bool:
        """Whether the reward is an accuracy."""
        return bool(self.document["reward"]["kind"] == "accuracy")

    def spread(self, start: float = 0.0) -> Spread | None:
        """Measure how the children differ after a share `start` of the run; None for one child, or no accuracies."""
        skipped = int(start * len(self.rewards))
        rewards, again = self.rewards[skipped:], self.again
        if not self.accuracy or rewards.shape[1] < 2 or not np.isfinite(rewards).all():
            return None
        return children_spread(rewards, self.rows, again=None if again is None else again[skipped:])

    @property
    def words(self) -> str:
        """Is choosing the best child above the noise of the reward? Empty where that cannot be said."""
        spread, second = self.spread(), self.document.get("second_score")
        if spread is None:
            return ""
        return reward_words(spread, self.rows, None if second is None else int(second["rows"]), late=self.spread(0.5))


def schedule_blocks(search: SearchedSchedule, /, *, images: bool = True) -> list[Block]:
    """All that a page shows of one search, in order."""
    blocks = [("Reward over the intervals", _rewards(search)), ("How often rows were drawn, by stage", _stages(search))]
    if images:
        blocks.append(("Images drawn least and most", _images(search)))
    if search.loss is not None:
        blocks.append(("Count against loss", _against_loss(search, search.loss)))
    return blocks


def schedule_sections(searches: Sequence[SearchedSchedule], /) -> list[str]:
    """The blocks of several searches as parts of a page: the first one with its images, the others to be opened.

    Raises:
        ValueError: A record is damaged.
    """
    parts = []
    for i, search in enumerate(searches):
        try:
            with np.errstate(invalid="raise"):  # an accuracy above 100 %
                body = [page.heading(heading) + text for heading, text in schedule_blocks(search, images=i == 0)]
            body.append(page.folded("Settings", _settings(search)))
            name = f"Schedule searched with seed {search.document['seed']} ({search.path.parent})"
        except KeyError as error:
            raise ValueError(f"{search.path}: damaged record: it has no {error}") from None
        except (AttributeError, FloatingPointError, IndexError, TypeError) as error:
            raise ValueError(f"{search.path}: damaged record: {error}") from None
        parts.append(page.folded(name, *body) if i else page.section(name, *body))
    return parts


def _settings(search: SearchedSchedule) -> str:
    """Show the settings that decided the search, and its cost."""
    entries = {**search.document["auto"], "reward": search.document["reward"], "recipe": search.document["recipe"]}
    names = ("model", "forward", "backward", "seconds", "catalog_fingerprint", "held_out_fingerprint", "versions")
    entries |= {name: search.document[name] for name in names}
    lines = [[name, value if isinstance(value, str) else json.dumps(value)] for name, value in entries.items()]
    return page.table(["", ""], lines, text=True)


def read_schedules(folder: Path, left: LeftOut, /) -> list[SearchedSchedule]:
    """Every schedule search below a folder, in the order of their paths; `left` takes those that cannot be used."""

    def build(path: Path) -> SearchedSchedule | None:
        stated = read_record(path, "auto").get("catalog")
        return None if isinstance(stated, str) and left.needs(path, stated) else SearchedSchedule.open(path)

    found = [left.read(path, build) for path in left.files(folder, "auto.json")]
    return [search for search in found if search is not None]


def reward_words(spread: Spread, rows: int, again_rows: int | None, /, *, late: Spread | None = None) -> str:
    """Is choosing the best child above the noise of the reward? In words, with the numbers.

    Args:
        spread: Of the whole run.
        rows: That the reward is taken on.
        again_rows: Of the second score, if there is one.
        late: Of the second half of the run: at its beginning all children learn fast and differ much.
    """
    text = (
        f"The children of an interval differ by {spread.between:.2f} points (standard deviation); one reward, an "
        f"accuracy on {rows:,} images, is itself known to ± {spread.binomial:.2f}. The chosen child was on average "
        f"{spread.gain:.2f} points above the mean of the children"
    )
    if spread.repeated is None or again_rows is None:
        if spread.between < spread.binomial:
            return text + (
                ". The spread is below the noise of one reward; all children see the same images, so how much of the "
                "choice is luck cannot be told without a second score."
            )
        return text + ". The spread is above the noise of one reward: the children do differ."
    share = spread.repeated / spread.gain if spread.gain > 0 else 0.0
    text += f", and {spread.repeated:+.2f} on {again_rows:,} images that chose nothing"
    if spread.agreement is not None:
        text += f" (correlation of both scores of a child: {spread.agreement:.2f})"
    text += f": {share:.0%} of the advantage was the child's own, the rest the luck of the reward"
    return (
        text
        + (
            ". Most of the choice is noise."
            if share < 0.5
            else ". So the choice is above the noise; whether the child's rows were better, or just its weights at "
            "that time, only new trainings on the schedule can say."
        )
        + _late_words(late)
    )


def _late_words(late: Spread | None) -> str:
    if late is None or late.repeated is None:
        return ""
    return (
        f" In the second half of the run the children differ by {late.between:.2f} points, the chosen one was "
        f"{late.gain:.2f} above their mean, and {late.repeated:+.2f} on the other images."
    )


def _ends(search: SearchedSchedule) -> NDArray[np.float64]:
    """Epochs done at the end of each interval."""
    steps = np.cumsum(search.document["steps"])
    return steps / steps[-1] * search.schedule.epochs  # type: ignore[no-any-return]


def _rewards(search: SearchedSchedule) -> str:
    rewards, ends = search.rewards, _ends(search)
    rows = search.rows
    unit = "% points" if search.accuracy else "nats"
    name = f"Accuracy on {rows:,} held-out images (%)" if search.accuracy else "Negative loss, held-out (nats)"
    caption = "After every interval the best child's rows are recorded, and its state is given to all."
    charts = [page.chart(rewards_figure(rewards, ends, name), caption)]
    if rewards.shape[1] < 2:
        return page.panels(*charts)
    share = np.nanmean(rewards, 1) / 100
    binomial = 100 * np.sqrt(share * (1 - share) / rows) if search.accuracy else None
    note = "A point per interval. Children see the same images, so their differences are less noisy than the line."
    charts.append(page.chart(spread_figure(rewards, ends, binomial, unit), note if search.accuracy else ""))
    words = page.paragraph(search.words, kind="verdict") if search.words else ""
    return words + page.panels(*charts)


def _stages(search: SearchedSchedule) -> str:
    counts, wrong = search.stages, search.wrong
    names = [f"Epoch {s[0] + 1}" if len(s) == 1 else f"Epochs {s[0] + 1} to {s[-1] + 1}" for s in search.epochs]
    parts = segment_counts(counts, segments=min(SEGMENTS, max(1, counts.shape[1] // 10)))
    caption = (
        "Stages end where cycles do. The last one rises because it made the ranking. A stage that draws what the last "
        "one draws rises with it; one that has nothing to do with it is flat."
    )
    chance = np.random.default_rng(0).multinomial(counts.sum(), np.full(counts.shape[1], 1 / counts.shape[1]))
    lines = [
        _count_line(name, part, wrong)
        for name, part in [*zip(names, counts, strict=True), ("Whole run", counts.sum(0))]
    ]
    lines.append([*_count_line("Independent draws, for comparison", chance, None)[:4], "–"])
    lines.append(["Permutations, for comparison", "100.00", "0.00", "0.0", "–"])
    if wrong is not None:
        lines[-1][-1] = f"{100 * wrong.mean():.2f}"
    head = ["", "exp(H(c)) / N (%)", "Variance / mean of the counts", "Rows never drawn (%)", "Wrong labels drawn (%)"]
    told = [page.paragraph(_stage_words(counts), kind="")]
    return page.chart(segments_figure(parts, names), caption) + "".join(told) + page.table(head, lines)


def _count_line(name: str, counts: NDArray[np.int64], wrong: NDArray[np.bool_] | None) -> list[str]:
    noise = "–" if wrong is None else f"{100 * counts[wrong].sum() / counts.sum():.2f}"
    effective = f"{100 * effective_rows(counts):.2f}"
    return [name, effective, f"{dispersion(counts):.2f}", f"{100 * (counts == 0).mean():.1f}", noise]


def _stage_words(counts: NDArray[np.int64]) -> str:
    """Do the stages draw the same rows?"""
    if len(counts) < 2:
        return "One stage only: there is nothing to compare."
    found = correlation(counts[0], counts[-1])
    if found is None:
        return "In one of the stages all rows come equally often: there is nothing to compare."
    noise = 1 / np.sqrt(counts.shape[1])
    text = f"Counts of the first and the last stage correlate by {found[1]:.3f} (Spearman; ± {noise:.3f} by chance)"
    if abs(found[1]) < 2 * noise:
        return text + ": what was drawn often at first says nothing about what was drawn often at last."
    return text + (
        ". Where exploration draws again what it drew before, some correlation comes from that alone and is no sign "
        "that these rows are better."
        if found[1] > 0
        else ": rows drawn often at first were drawn less at last."
    )


def _images(search: SearchedSchedule) -> str:
    counts, label = search.counts, search.label
    mixed = np.random.default_rng(0).permutation(counts.size)
    parts = []
    for number in range(min(CLASSES, search.catalog.num_classes)):
        rows = mixed[label[mixed] == number]
        order = rows[np.argsort(counts[rows], kind="stable")]
        low, high = order[:IMAGES], order[::-1][:IMAGES]
        parts += [page.heading(f"Labelled {search.catalog.classes[number]}: drawn least"), _grid(search, low)]
        parts += [page.heading(f"Labelled {search.catalog.classes[number]}: drawn most"), _grid(search, high)]
    note = "Under each image its label, the true label where that differs, and its count over the mean count of a row."
    return "".join(parts) + page.paragraph(note, kind="soft")


def _grid(search: SearchedSchedule, rows: NDArray[np.int64]) -> str:
    return page.gallery(pictures(search, rows))


def _against_loss(search: SearchedSchedule, loss: NDArray[np.float32]) -> str:
    counts = search.counts
    some = np.random.default_rng(0).permutation(counts.size)[:SHOWN]
    figure = loss_figure(loss[some], counts[some], None if search.wrong is None else search.wrong[some])
    few, every = correlation(loss[some], counts[some]), correlation(loss, counts)
    if few is None or every is None:
        words = "All counts, or all losses, are equal."
    else:
        words = (
            f"Correlation over these {some.size} rows: Pearson {few[0]:.3f}, Spearman {few[1]:.3f} (± "
            f"{1 / np.sqrt(some.size):.3f} by chance); over all {counts.size:,} rows: {every[0]:.3f} and "
            f"{every[1]:.3f} (± {1 / np.sqrt(counts.size):.3f})."
        )
    return page.chart(figure, f"{some.size} rows taken at random.") + page.paragraph(words)
