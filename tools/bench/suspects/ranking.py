"""How well a ranking finds wrong labels, and how far its probabilities and its share are from the truth.

ap               average precision of the ranking, per cent
auroc            probability that a wrong label is ranked above a right one, per cent; ties count half
suggested        of the rows with a wrong label, those whose suggested label is the right one, per cent
share, true      estimated and true share of wrong labels, per cent
ece              expected calibration error of P(wrong), per cent: mean over the rows of |P − share of wrong labels| of
their bin, ten of equal width (Guo et al., ICML 2017, eq. 3)
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from drawstream.features import Suspects
from drawstream.tools.training import average_precision

__all__ = ["auroc", "calibration", "quality"]

BINS = 10
Curve = list[dict[str, float]]


def auroc(scores: NDArray[np.float64], marks: NDArray[np.bool_], /) -> float:
    """Return the area under the ROC curve, per cent; NaN where all marks are alike.

    Args:
        scores: float64 (rows,).
        marks: bool (rows,): rows that should have high scores.
    """
    _, group, sizes = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(sizes) - (sizes - 1) / 2)[group]
    positive, negative = int(marks.sum()), int((~marks).sum())
    if not positive or not negative:
        return float("nan")
    return 100 * (float(ranks[marks].sum()) - positive * (positive + 1) / 2) / (positive * negative)


def calibration(probability: NDArray[np.float64], wrong: NDArray[np.bool_], /) -> Curve:
    """Return rows, mean probability and share of wrong labels of each bin that has rows, in [0, 1]."""
    bins = np.minimum((probability * BINS).astype(np.int64), BINS - 1)
    return [
        {
            "rows": int((bins == each).sum()),
            "probability": float(probability[bins == each].mean()),
            "wrong": float(wrong[bins == each].mean()),
        }
        for each in np.unique(bins).tolist()
    ]


def quality(found: Suspects, given: NDArray[np.int64], right: NDArray[np.int64], /) -> dict[str, Any]:
    """Return all values of a ranking, of rows with a given and a right label each."""
    wrong = given != right
    curve = calibration(found.wrong, wrong)
    return {
        **ranked(found.score, wrong),
        "suggested": 100 * float((found.suggested == right)[wrong].mean()) if wrong.any() else None,
        "share": 100 * found.share,
        "interval": [100 * each for each in found.interval],
        "true": 100 * float(wrong.mean()),
        "ece": 100 * sum(each["rows"] * abs(each["probability"] - each["wrong"]) for each in curve) / len(wrong),
        "calibration": curve,
    }


def ranked(score: NDArray[np.float64], wrong: NDArray[np.bool_], /) -> dict[str, float | None]:
    """Return AP and AUROC of a ranking; None where no label or every label is wrong."""
    area = auroc(score, wrong)
    return {
        "ap": average_precision(_ranks(score), wrong.astype(np.uint8)),
        "auroc": None if np.isnan(area) else area,
    }


def _ranks(score: NDArray[np.float64]) -> NDArray[np.float32]:
    """Equal order in float32, which numbers up to 2^24 distinct scores."""
    return np.unique(score, return_inverse=True)[1].astype(np.float32)
