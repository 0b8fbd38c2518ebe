"""P(clean): draws by the probability that a row's label is right, from the scores of `find_suspects`.

Notation
    r_i   probability that the label of row i is wrong, of mean q, the share of wrong labels by the confident joint
    P_i   probability of drawing row i, ∝ 1 − r_i; as a sampler over the rank of the score, so that it fits other rows
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from drawstream.features.suspects.find import FEW_WRONG, Suspects, wrong_labels
from drawstream.samplers.swift import MIN_GAP, SwiftFit, SwiftParams

__all__ = ["clean_params", "clean_probabilities", "clean_starts"]

_APART = 0.02  # ends of the segments of a search
FEW_ROWS = 50  # of a class; below, its rows keep the r of the whole


def clean_params(found: Suspects, /, *, segments: int = 16) -> SwiftParams:
    """Return the sampler that draws a row by P(its label is right), over the rank of the score.

    The segments' ends lie where that probability passes (1 + cos(π k / S)) / 2, close together near 1 and 0, where most
    rows are. Uniform where fewer than `FEW_WRONG` of the labels are estimated to be wrong: two components
    are always found, also in clean data.

    Args:
        found: Scores of the rows.
        segments: S.
    """
    if found.share < FEW_WRONG:
        return SwiftParams.uniform(1)
    right, ranks = 1 - found.wrong[found.order[::-1]], np.arange(1, len(found.score) + 1) / len(found.score)
    ends, values = [0.0], [float(right[0])]
    for part in (1 + np.cos(np.pi * np.arange(1, segments) / segments)) / 2:
        level = right[-1] + part * (right[0] - right[-1])
        rank = float(np.interp(level, right[::-1], ranks[::-1]))
        if rank - ends[-1] >= MIN_GAP and 1 - rank >= MIN_GAP:
            ends.append(rank)
            values.append(float(level))
    return SwiftParams((1.0,), tuple(ends[1:]), (*values, float(right[-1])))


def clean_starts(
    found: Suspects, positions: ArrayLike, /, *, segments: int = 4, features: int = 1, feature: int = 0
) -> list[SwiftParams]:
    """Return samplers near P(clean), for a search to begin with: P(clean) itself, and one that drops r above 1/2.

    None where fewer than `FEW_WRONG` of the labels are estimated to be wrong.

    Args:
        found: Scores of the rows.
        positions: T of each row, float (rows,), which rises with the score; of the transform cdf its rank.
        segments: S; the second one needs 3.
        features: Number of features of the search.
        feature: The one that is the score.
    """
    if found.share < FEW_WRONG:
        return []
    order = found.order[::-1]
    at, right = np.asarray(positions, np.float64)[order], 1 - found.wrong[order]

    def passes(level: float) -> float:
        return float(np.interp(level, right[::-1], at[::-1]))

    levels = right[-1] + (1 + np.cos(np.pi * np.arange(1, segments) / segments)) / 2 * (right[0] - right[-1])
    shapes = [([passes(each) for each in levels], [right[0], *levels, right[-1]])]
    if segments >= 3:
        edge = min(max(passes(0.5), 2 * _APART * segments), 1 - 2 * _APART)
        before = np.linspace(0, edge - _APART, segments - 1)[1:]
        shapes.append(([*before, edge + _APART], [1.0] * (segments - 1) + [0.0] * 2))
    v = tuple(float(k == feature) for k in range(features))
    return [SwiftParams(v, _spread(ends), tuple(map(float, values))) for ends, values in shapes]


def _spread(ends: ArrayLike) -> tuple[float, ...]:
    """Ends in [0, 1], rising, moved until they lie apart as those of a search do."""
    found = np.array(ends, np.float64)
    count = len(found)
    steps = _APART * np.arange(1, count + 1)
    found = np.maximum.accumulate(found - steps) + steps
    found = np.minimum(np.maximum(found, steps), 1 - steps[::-1])
    return tuple(found.tolist())


def clean_probabilities(found: Suspects, label: ArrayLike, /, *, per_class: bool = False) -> NDArray[np.float64]:
    """Return P of the rows, float64 (rows,), of sum 1: what `fit --method clean` gives, or by class.

    Args:
        found: Scores of the rows.
        label: int (rows,), given classes.
        per_class: Fit a mixture to the scores of each class, moved to the share of wrong labels of that class; classes
            of fewer than 50 rows keep the r of the whole.
    """
    if found.share < FEW_WRONG or not per_class:
        fitted = SwiftFit({"score": found.score}, features=("score",), mass=None, transform="cdf")
        return fitted.probabilities(clean_params(found))
    right = 1 - _wrong_by_class(found, np.asarray(label))
    total: float = right.sum()
    return right / total if total > 0 else np.full(len(right), 1 / len(right))


def _wrong_by_class(found: Suspects, label: NDArray[np.int64]) -> NDArray[np.float64]:
    wrong, order = found.wrong.copy(), np.argsort(label, kind="stable")
    ends = np.searchsorted(label[order], np.arange(len(found.joint) + 1))
    for c in range(len(found.joint)):
        rows = order[ends[c] : ends[c + 1]]
        if len(rows) < FEW_ROWS or np.ptp(found.score[rows]) == 0:
            continue
        share = float(1 - found.joint[c, c] / found.joint[c].sum())
        wrong[rows] = wrong_labels(found.odds[rows], found.score[rows], share)
    return wrong
