"""A schedule search with its data: counts by stage, their entropy, their relation to the loss, and the rewards.

Notation
    N       rows
    stage   a part of the run, about a third of it; it ends where a cycle does, for within a cycle each row comes a set
            number of times: a stage that cut one would have of a row what the next has not
    c       int64 (stages, N), times each row comes in each stage
    H(c)    entropy of c / sum, nats; exp(H) / N is 1 where all rows come equally often
    D       variance of c over its mean: 0 for whole permutations, 1 for independent draws of equal probability, more
            where some rows are preferred
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy.stats import pearsonr, spearmanr

from drawstream.pipeline.shards import Catalog
from drawstream.samplers.orders import Schedule, entropy
from drawstream.search.auto import PopulationPlan
from drawstream.tools.report.left_out import LeftOut, naming
from drawstream.tools.report.records import places_of
from drawstream.tools.runs import read_record

__all__ = ["RewardSpread", "SearchedSchedule", "children_spread", "correlation", "count_stages", "dispersion"]
__all__ += ["effective_rows", "read_schedules", "segment_counts"]

Counts = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class SearchedSchedule:
    """A schedule search with its data."""

    path: Path  # its `auto.json`
    document: Mapping[str, Any]  # all of it
    seed: int  # seed of the search
    catalog: Catalog  # the training data
    schedule: Schedule  # the schedule that it recorded
    losses: NDArray[np.float32]  # of each row at the end of each stage, float32 (stages, N)
    epochs: Sequence[range]  # epochs of each stage
    ends: Floats  # epochs done at the end of each interval, float64 (intervals,)
    rewards: Floats  # float64 (intervals, children); NaN if a child diverged
    rows: int  # held-out images that a reward is taken on
    accuracy: bool  # true if the reward is an accuracy
    again: Floats | None  # accuracies of the same children on rows that did not choose, float64; None if there are none
    again_rows: int | None  # number of these rows

    @classmethod
    def open(cls, path: Path, /) -> Self:
        """Open a record (`auto.json`) and the files that it names.

        Raises:
            ValueError: A file or number is missing or damaged, or they do not belong together.
        """
        document = read_record(path, "auto")
        auto, reward, second = document["auto"], document["reward"], document.get("second_score")
        accuracy = reward["kind"] == "accuracy"
        steps, rewards = (np.array(document[name], np.float64) for name in ("steps", "rewards"))
        if rewards.ndim != 2 or steps.shape != rewards.shape[:1] or not (np.isfinite(steps) & (steps > 0)).all():
            raise ValueError("steps and rewards do not belong together")
        if int(reward["rows"]) < 1 or (accuracy and ((rewards < 0) | (rewards > 100)).any()):
            raise ValueError("rewards must be accuracies in [0, 100] % on at least 1 row")
        with naming(path):
            catalog = Catalog.open(places_of(path, document["catalog"]), classes="union")
            schedule = Schedule.open(path.parent / document["schedule"], catalog=catalog.fingerprint)
            losses = np.stack([np.load(path.parent / name, allow_pickle=False) for name in document["losses"]])
        plan = PopulationPlan(schedule.rows, epochs=schedule.epochs, **auto)
        epochs = plan.stages()
        if losses.shape != (len(epochs), schedule.rows):
            raise ValueError(f"losses must have shape {(len(epochs), schedule.rows)}, but have {losses.shape}")
        return cls(
            path=path,
            document=document,
            seed=int(document["seed"]),
            catalog=catalog,
            schedule=schedule,
            losses=losses,
            epochs=epochs,
            ends=np.cumsum(steps) / steps.sum() * schedule.epochs,
            rewards=rewards,
            rows=int(reward["rows"]),
            accuracy=accuracy,
            again=None if second is None else np.array(second["scores"], np.float64).reshape(rewards.shape),
            again_rows=None if second is None else int(second["rows"]),
        )

    @cached_property
    def stages(self) -> Counts:
        """Times each row comes in each stage, int64 (stages, N)."""
        return count_stages(self.schedule, self.epochs)

    @property
    def counts(self) -> Counts:
        """Times each row comes in the whole run, int64 (N,)."""
        total: Counts = self.stages.sum(0)
        return total

    @property
    def wrong(self) -> NDArray[np.bool_] | None:
        """True for a wrong label, bool (N,); None if true labels are not known."""
        clean = self.catalog.clean_label
        return None if clean is None else self.catalog.label != clean

    @property
    def ratio(self) -> Floats:
        """Count over the mean count, float64 (N,): N P of the STATIC distribution."""
        ratio: Floats = self.counts / self.counts.mean()
        return ratio

    def spread(self, start: float = 0.0) -> "RewardSpread | None":
        """Measure how the children differ after a share `start` of the run; None for one child, or no accuracies."""
        skipped = int(start * len(self.rewards))
        rewards, again = self.rewards[skipped:], self.again
        if not self.accuracy or rewards.shape[1] < 2 or not np.isfinite(rewards).all():
            return None
        return children_spread(rewards, self.rows, again=None if again is None else again[skipped:])


def read_schedules(folder: Path, left: LeftOut, /) -> list[SearchedSchedule]:
    """Return every schedule search below a folder, sorted by path; `left` takes those that cannot be used."""

    def build(path: Path) -> SearchedSchedule | None:
        return None if left.needs(path, read_record(path, "auto").get("catalog")) else SearchedSchedule.open(path)

    return left.read_all(folder, "auto.json", build)


def count_stages(schedule: Schedule, stages: Sequence[Sequence[int]], /) -> Counts:
    """Return c, int64 (stages, rows)."""
    counts = np.zeros((len(stages), schedule.rows), dtype=np.int64)
    for total, epochs in zip(counts, stages, strict=True):
        for epoch in epochs:
            total += schedule.counts(epoch)
    return counts


def segment_counts(counts: Counts, /, *, segments: int) -> Floats:
    """Return the mean count of segments over that of all rows, float64 (stages, segments).

    The last stage's counts rank the rows. Rows that tie are ranked by a fixed random order, so that a segment is no
    block of neighbours in the catalog.

    Args:
        counts: int64 (stages, rows).
        segments: As even as the rows allow; at least one row each.
    """
    mixed = np.random.default_rng(0).permutation(counts.shape[1])
    order = mixed[np.argsort(counts[-1, mixed], kind="stable")]
    parts = np.array_split(order, min(segments, order.size))
    means: Floats = np.stack([counts[:, part].mean(1) for part in parts], axis=1)
    means /= counts.mean(1, keepdims=True)
    return means


def effective_rows(counts: Counts, /) -> float:
    """Return exp(H(c)) / N, in (0, 1]."""
    return float(np.exp(entropy(counts)) / counts.size)


def dispersion(counts: Counts, /) -> float:
    """Return D = var(c) / mean(c)."""
    return float(counts.var() / counts.mean())


def correlation(a: NDArray[Any], b: NDArray[Any], /) -> tuple[float, float] | None:
    """Return Pearson's and Spearman's coefficients; None if one side is constant."""
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return None
    return float(pearsonr(a, b).statistic), float(spearmanr(a, b).statistic)


@dataclass(frozen=True, slots=True)
class RewardSpread:
    """Differences between the children of an interval, against the reward's resolution."""

    # standard deviation between the children of an interval, root mean square over the intervals, per cent
    between: float
    # standard deviation of one child's reward over draws of as many evaluation rows, √(a(1 − a)/n), same mean and
    # unit. The children see the same evaluation rows, so their differences are less noisy than this.
    binomial: float
    # mean over the intervals of the chosen child's reward less the mean of all children's, per cent. Positive
    # whatever the rewards are worth.
    gain: float
    # the same gain on rows that did not choose; None if no second set was evaluated. The share of `gain` that it
    # keeps is the children's own, the rest was the luck of the evaluation rows.
    repeated: float | None
    # Pearson correlation, over all children less their interval's mean, of the reward and the second score; None
    # likewise
    agreement: float | None


def children_spread(rewards: Floats, rows: int, /, *, again: Floats | None = None) -> RewardSpread:
    """Compare the spread of accuracies between children with the noise of an accuracy.

    Args:
        rewards: Accuracy of every child after every interval, per cent, float64 (intervals, children >= 2).
        rows: Number of rows of the set that gave them.
        again: Accuracy of the same children on other rows, same shape.

    Raises:
        ValueError: One child only, or rewards that are no accuracies.
    """
    if rewards.ndim != 2 or rewards.shape[1] < 2:
        raise ValueError(f"rewards of at least 2 children are needed, but got an array of shape {rewards.shape}")
    if rewards.min() < 0 or rewards.max() > 100:
        raise ValueError(f"accuracies lie in [0, 100] %, but got {rewards.min()} … {rewards.max()}")
    share = rewards / 100
    chosen = rewards.argmax(1)[:, None]
    centred = rewards - rewards.mean(1, keepdims=True)
    repeated = agreement = None
    if again is not None:
        other = again - again.mean(1, keepdims=True)
        repeated = float(np.take_along_axis(other, chosen, 1).mean())
        found = correlation(centred.ravel(), other.ravel())
        agreement = None if found is None else found[0]
    return RewardSpread(
        between=float(np.sqrt(rewards.var(1, ddof=1).mean())),
        binomial=float(100 * np.sqrt((share * (1 - share)).mean() / rows)),
        gain=float(np.take_along_axis(centred, chosen, 1).mean()),
        repeated=repeated,
        agreement=agreement,
    )
