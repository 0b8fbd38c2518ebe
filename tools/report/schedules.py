"""Effect of a recorded schedule on the rows: counts by stage, their entropy, and their relation to the loss.

Notation
    N       rows
    stage   a part of the run, about a third of it; it ends where a cycle does, for within a cycle each row comes a set
            number of times: a stage that cut one would have of a row what the next has not
    c       int64 (stages, N), times each row comes in each stage
    H(c)    entropy of c / sum, nats; exp(H) / N is 1 where all rows come equally often
    D       variance of c over its mean: 0 for whole permutations, 1 for independent draws of equal probability, more
            where some rows are preferred
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import pearsonr, spearmanr

from drawstream.samplers.orders.counts import entropy
from drawstream.samplers.orders.schedule import Schedule

__all__ = [
    "STAGES",
    "Spread",
    "children_spread",
    "correlation",
    "count_stages",
    "dispersion",
    "effective_rows",
    "segment_counts",
    "stage_epochs",
]

Counts = NDArray[np.int64]
Floats = NDArray[np.float64]
STAGES = 3  # Fig. 2 of the AutoSampling paper: epochs 80, 160 and 240


def stage_epochs(epochs: int, /, *, first: int = 1, cycle: int = 1) -> list[range]:
    """Epochs of each stage.

    Args:
        epochs: Of the schedule.
        first: Epochs before the first exploration.
        cycle: Epochs of a cycle after that, N_u + 1; the last one may be shorter.
    """
    inner = range(first, epochs, cycle)
    thirds = [epochs * part / STAGES for part in range(1, STAGES)]
    cuts = {min(inner, key=lambda end: abs(end - third)) for third in thirds} if inner else set()
    return [range(a, b) for a, b in pairwise(sorted({0, *cuts, epochs}))]


def count_stages(schedule: Schedule, stages: Sequence[Sequence[int]], /) -> Counts:
    """c, int64 (stages, rows)."""
    return np.stack([sum_counts(schedule, epochs) for epochs in stages])


def sum_counts(schedule: Schedule, epochs: Sequence[int], /) -> Counts:
    """Times each row comes in some epochs, int64 (rows,)."""
    total = np.zeros(schedule.rows, dtype=np.int64)
    for epoch in epochs:
        total += schedule.counts(epoch)
    return total


def segment_counts(counts: Counts, /, *, segments: int) -> Floats:
    """Mean count of a row over that of all rows, float64 (stages, segments); the last stage's counts rank the rows.

    Rows that tie are ranked by a fixed random order, so that a segment is no block of neighbours in the catalog.

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
    """exp(H(c)) / N, in (0, 1]."""
    return float(np.exp(entropy(counts)) / counts.size)


def dispersion(counts: Counts, /) -> float:
    """D = var(c) / mean(c)."""
    return float(counts.var() / counts.mean())


def correlation(a: NDArray[Any], b: NDArray[Any], /) -> tuple[float, float] | None:
    """Pearson's and Spearman's coefficients; None where one side is constant."""
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return None
    return float(pearsonr(a, b).statistic), float(spearmanr(a, b).statistic)


@dataclass(frozen=True, slots=True)
class Spread:
    """Differences between the children of an interval, against the reward's resolution.

    Attributes:
        between: Standard deviation between the children of an interval, root mean square over the intervals, per cent.
        binomial: Standard deviation of one child's reward over draws of as many evaluation rows, √(a(1 − a)/n), same
            mean and unit. The children see the same evaluation rows, so their differences are less noisy than this.
        gain: Mean over the intervals of the chosen child's reward less the mean of all children's, per cent. Positive
            whatever the rewards are worth.
        repeated: The same gain on rows that did not choose; None where no second set was evaluated. The share of `gain`
            that it keeps is the children's own, the rest was the luck of the evaluation rows.
        agreement: Pearson correlation, over all children less their interval's mean, of the reward and the second
            score; None likewise.
    """

    between: float
    binomial: float
    gain: float
    repeated: float | None
    agreement: float | None


def children_spread(rewards: Floats, rows: int, /, *, again: Floats | None = None) -> Spread:
    """Compare the spread of accuracies between children with the noise of an accuracy.

    Args:
        rewards: Accuracy of every child after every interval, per cent, float64 (intervals, children >= 2).
        rows: Of the set that gave them.
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
    between = float(np.sqrt(rewards.var(1, ddof=1).mean()))
    repeated = agreement = None
    if again is not None:
        other = again - again.mean(1, keepdims=True)
        repeated = float(np.take_along_axis(other, chosen, 1).mean())
        found = correlation(centred.ravel(), other.ravel())
        agreement = None if found is None else found[0]
    return Spread(
        between=between,
        binomial=float(100 * np.sqrt((share * (1 - share)).mean() / rows)),
        gain=float(np.take_along_axis(centred, chosen, 1).mean()),
        repeated=repeated,
        agreement=agreement,
    )
