"""Probably wrong labels, from the predictions of a training averaged over it (`Tracker(rows, classes=C)`).

Notation
    p̄_i     prediction for row i, averaged over its visits; (C,)
    y_i     given label
    m_i     margin max_{j≠y} p̄_ij − p̄_iy, in [-1, 1]; the suggested label is that j
    t_c     threshold of class c: mean of p̄_ic over the rows labelled c
    Q       confident joint (Northcutt, Jiang, Chuang, JAIR 2021): rows labelled c whose largest p̄_ij with p̄_ij >= t_j
            is that of j, counted, then scaled so that row c sums to the rows labelled c
    q       estimated share of wrong labels: what of Q lies off the diagonal; its deviation is that of binomial shares
            per label, Σ (n_c / n)² w_c (1 − w_c) / k_c, w_c of the k_c rows counted for label c lying off it
    a_i     log odds max_{j≠y} p̄_ij / p̄_iy, within ±3: beyond 20 to 1 averages tell no more. Of these P(the label is
            wrong) is the posterior (`fit_mixture`), given to the rows in the order of their score

Where a tracker kept two candidates of many classes, p̄ of the others counts as 0.
"""

from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from drawstream.features.table import FeatureTable
from drawstream.samplers.methods import fit_mixture, rescaled

__all__ = [
    "FEW_WRONG",
    "METHODS",
    "NEEDED",
    "Suspects",
    "find_suspects",
    "suspects_of",
    "told_by_heart",
    "wrong_labels",
]

Method = Literal["margin", "confident", "loss", "agreement"]
METHODS = ("margin", "confident", "loss", "agreement")
NEEDED = ("margin", "other", "other_label", "loss")  # columns of a tracker
FEW_WRONG = 0.03  # share of wrong labels below which draws stay uniform
_BY_HEART = 0.99  # share of right labels at the end
_SURE = 3.0  # largest log odds
Means = tuple[NDArray[np.float64], NDArray[np.int64]]


@dataclass(frozen=True, slots=True)
class Suspects:
    """Rows by how likely their label is wrong.

    Attributes:
        score: The method's, float64 (rows,); the higher, the more suspect.
        wrong: P(the label is wrong), float64 (rows,), of mean `share`.
        suggested: Most probable other class, int64 (rows,); -1 for a row never seen.
        share: Estimated share of wrong labels.
        interval: 95 % of it, over the rows: what the model itself gets wrong is not in it.
        joint: Q, float64 (C, C): rows by given and probable label.
        method: How they were scored.
        odds: a, float64 (rows,).
    """

    score: NDArray[np.float64]
    wrong: NDArray[np.float64]
    suggested: NDArray[np.int64]
    share: float
    interval: tuple[float, float]
    joint: NDArray[np.float64]
    method: str
    odds: NDArray[np.float64]

    @property
    def order(self) -> NDArray[np.int64]:
        """Rows, the most suspect first, int64 (rows,); ties by row."""
        return np.argsort(-self.score, kind="stable")


def find_suspects(table: FeatureTable, /, classes: int | None = None, *, method: Method = "margin") -> Suspects:
    """Score the labels of a table that a tracker wrote.

    Args:
        table: With the columns that `Tracker.export` writes where it keeps classes.
        classes: C; by default as many as labels and suggestions name.
        method: `margin`; `confident`, the margin over thresholds of the classes, above 0 for what the confident joint
            counts as wrong; `loss`, averaged; or `agreement`, the mean of the three ranks.

    Raises:
        ValueError: There is no such method, or the table lacks a column.
    """
    missing = [name for name in NEEDED if name not in table.names]
    if missing:
        raise ValueError(
            f"{table.path} has no column {', '.join(missing)}: make the table with `drawstream train --track FOLDER`"
        )
    suggested = table.columns("other_label")["other_label"]
    classes = classes or int(max(table.label.max(), suggested.max())) + 1
    columns = table.columns(*_columns(table.names, classes))
    return suspects_of({**columns, "other_label": suggested}, table.label, classes, method=method)


def told_by_heart(table: FeatureTable, found: Suspects, /) -> str:
    """Say where few labels seem wrong to a training that ended with nearly all of them right; "" elsewhere."""
    if found.share >= FEW_WRONG or not {"right_since", "last_epoch"} <= set(table.names):
        return ""
    columns = table.columns("right_since", "last_epoch")
    right = float((columns["right_since"] <= columns["last_epoch"].max()).mean())
    if right < _BY_HEART:
        return ""
    return (
        f"{table.path}: the training ended with {right:.1%} of the labels right: if it knows wrong ones by heart, they "
        "are not found; a shorter training would tell"
    )


def suspects_of(
    columns: Mapping[str, ArrayLike], label: ArrayLike, classes: int, /, *, method: Method = "margin"
) -> Suspects:
    """Score labels by the columns of a tracker, float (rows,): `NEEDED`, and up to 64 classes `other_0` ….

    Raises:
        ValueError: There is no such method, or all scores are equal.
    """
    if method not in METHODS:
        raise ValueError(f"no method {method!r}: give one of {', '.join(METHODS)}")
    label = np.asarray(label, np.int64)
    suggested = np.asarray(columns["other_label"], np.float64).astype(np.int64)
    found = {name: np.asarray(columns[name], np.float64) for name in _columns(columns, classes)}
    means = _means(found, label, suggested, classes)
    thresholds = _thresholds(means, label, classes)
    scores = {"margin": found["margin"], "loss": found["loss"], "confident": _over(means, label, thresholds)}
    if method == "agreement":
        scores["agreement"] = np.mean([_ranks(each) for each in scores.values()], axis=0)
    sizes = np.bincount(label, minlength=classes)
    counts = _counts(means, label, thresholds)
    share, interval = _share(counts, sizes)
    odds = _odds(found["other"], found["margin"])
    parts = (suggested, share, interval, _scaled(counts, sizes), method, odds)
    return Suspects(scores[method], wrong_labels(odds, scores[method], share), *parts)


def wrong_labels(odds: NDArray[np.float64], score: NDArray[np.float64], share: float, /) -> NDArray[np.float64]:
    """Return P(the label is wrong), float64 (rows,), of mean `share`: rises with the score, values by the odds."""
    if np.ptp(odds) == 0:
        return np.full(len(odds), share)
    found = np.empty(len(odds))
    found[np.argsort(score, kind="stable")] = np.sort(rescaled(fit_mixture(odds, share).wrong(odds), share))
    return found


def _odds(other: NDArray[np.float64], margin: NDArray[np.float64]) -> NDArray[np.float64]:
    """a_i, float64 (rows,)."""
    own, least = other - margin, 1e-6
    found: NDArray[np.float64] = np.log(np.maximum(other, least)) - np.log(np.maximum(own, least))
    return np.clip(found, -_SURE, _SURE)


def _columns(names: Container[str], classes: int) -> list[str]:
    every = [f"other_{c}" for c in range(classes)]
    return ["margin", "other", "loss", *(every if every[0] in names else [])]


def _means(
    found: dict[str, NDArray[np.float64]], label: NDArray[np.int64], suggested: NDArray[np.int64], classes: int
) -> Means:
    """p̄ of the classes of each row that are known, (rows, k), and which they are, (rows, k)."""
    own = found["other"] - found["margin"]
    if "other_0" not in found:
        return np.stack([own, found["other"]], 1), np.stack([label, suggested], 1)
    rest = np.stack([found[f"other_{c}"] for c in range(classes)], 1)
    rest[np.arange(len(label)), label] = own
    return rest, np.broadcast_to(np.arange(classes), rest.shape)


def _thresholds(means: Means, label: NDArray[np.int64], classes: int) -> NDArray[np.float64]:
    """t_c, float64 (C,); above every probability for a class that no row is labelled with."""
    p, names = means
    own = (p * (names == label[:, None])).sum(1)
    sizes = np.bincount(label, minlength=classes)
    found: NDArray[np.float64] = np.where(
        sizes, np.bincount(label, own, minlength=classes) / np.maximum(sizes, 1), np.inf
    )
    return found


def _over(means: Means, label: NDArray[np.int64], thresholds: NDArray[np.float64]) -> NDArray[np.float64]:
    """Largest p̄_j − t_j of the other classes less that of the label, float64 (rows,); 0 where no other is known."""
    p, names = means
    over = np.where(names >= 0, p - thresholds[names], -np.inf)
    own = names == label[:, None]
    other = np.where(own, -np.inf, over).max(1)
    mine = np.where(own, over, -np.inf).max(1)
    return np.where(np.isfinite(other), other - mine, 0.0)


def _counts(means: Means, label: NDArray[np.int64], thresholds: NDArray[np.float64]) -> NDArray[np.int64]:
    """Rows by label and by the most probable of the classes that reach their threshold, int64 (C, C)."""
    p, names = means
    reached = np.where((names >= 0) & (p >= thresholds[names]), p, -1.0)
    best = reached.argmax(1)
    rows = np.flatnonzero(reached[np.arange(len(p)), best] >= 0)
    classes = len(thresholds)
    pairs = label[rows] * classes + names[rows, best[rows]]
    counted: NDArray[np.int64] = np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)
    return counted


def _scaled(counts: NDArray[np.int64], sizes: NDArray[np.int64]) -> NDArray[np.float64]:
    """Q of the counts; a label without any counts as right."""
    told = counts.sum(1)
    joint: NDArray[np.float64] = counts * (sizes / np.maximum(told, 1))[:, None]
    joint[np.diag_indices(len(sizes))] += np.where(told, 0, sizes)
    return joint


def _share(counts: NDArray[np.int64], sizes: NDArray[np.int64]) -> tuple[float, tuple[float, float]]:
    """Q and its interval."""
    told, part = np.maximum(counts.sum(1), 1), sizes / sizes.sum()
    off = (counts.sum(1) - counts.diagonal()) / told
    share = float(part @ off)
    half = 1.96 * float(np.sqrt((part**2 * off * (1 - off) / told).sum()))
    return share, (max(share - half, 0.0), min(share + half, 1.0))


def _ranks(score: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rank of each row in (0, 1], ties by row."""
    ranks = np.empty(len(score))
    ranks[np.argsort(score, kind="stable")] = np.arange(1, len(score) + 1) / len(score)
    return ranks
