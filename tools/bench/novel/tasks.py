"""Tasks on embeddings of classes that were never trained on: N-way K-shot classification, and verification.

Notation
    e      embeddings, float (rows, D), of unit length
    N, K   classes of an episode, and rows of each whose label is given; Q others of each are classified
    pair   two rows, of one class or of two, each in half of the pairs; same where e_i · e_j is above a threshold
"""

from statistics import fmean

import numpy as np
from numpy.typing import NDArray

__all__ = ["few_shot", "unit", "verification"]

Floats = NDArray[np.float32]
EPISODES, QUERIES = 600, 15  # as is usual on mini-ImageNet
PAIRS, FOLDS = 6000, 10  # as in Labeled Faces in the Wild


def unit(embeddings: Floats, /) -> Floats:
    """Return rows of length 1; a row of zeros stays."""
    norm = np.linalg.norm(embeddings, axis=1, keepdims=True)
    found: Floats = (embeddings / np.where(norm > 0, norm, 1)).astype(np.float32)
    return found


def few_shot(e: Floats, labels: NDArray[np.int64], /, *, ways: int, shots: int, seed: int) -> float:
    """Return the mean accuracy of 600 episodes, per cent: the nearest mean of the K rows of a class, by cosine.

    Raises:
        ValueError: There are fewer classes, or fewer rows of one, than an episode needs.
    """
    rows = [np.flatnonzero(labels == each) for each in np.unique(labels)]
    fewest = min(map(len, rows))
    if len(rows) < ways or fewest < shots + 1:
        raise ValueError(f"{ways}-way {shots}-shot needs more than {len(rows)} classes of {fewest} rows: hold out more")
    rng, queries, right = np.random.default_rng(seed), min(QUERIES, fewest - shots), []
    for _ in range(EPISODES):
        drawn = [rng.permutation(rows[each])[: shots + queries] for each in rng.permutation(len(rows))[:ways]]
        means = unit(np.stack([e[each[:shots]].mean(0) for each in drawn]))
        asked = np.concatenate([each[shots:] for each in drawn])
        right.append(float(((e[asked] @ means.T).argmax(1) == np.repeat(np.arange(ways), queries)).mean()))
    return 100 * fmean(right)


def verification(e: Floats, labels: NDArray[np.int64], /, *, seed: int) -> float:
    """Return the accuracy of telling 6000 pairs, per cent; each tenth by the threshold that is best on the others."""
    rng = np.random.default_rng(seed)
    first = rng.integers(len(labels), size=PAIRS)
    same = np.arange(PAIRS) % 2 == 0
    second = np.array([_partner(labels, int(row), bool(alike), rng) for row, alike in zip(first, same, strict=True)])
    cosines = np.einsum("ij,ij->i", e[first], e[second])
    fold, right = rng.permutation(PAIRS) % FOLDS, []
    for each in range(FOLDS):
        others = fold != each
        threshold = _best_threshold(cosines[others], same[others])
        right.append(float(((cosines[~others] > threshold) == same[~others]).mean()))
    return 100 * fmean(right)


def _partner(labels: NDArray[np.int64], row: int, alike: bool, rng: np.random.Generator) -> int:
    """Another row of the same class, or one of another class."""
    while True:
        other = int(rng.integers(len(labels)))
        if other != row and (labels[other] == labels[row]) == alike:
            return other


def _best_threshold(cosines: Floats, same: NDArray[np.bool_]) -> float:
    """Cosine above which pairs are taken for the same, with the fewest errors; halfway between two of the pairs."""
    order = np.argsort(cosines)
    below = np.r_[0, np.cumsum(same[order])]  # same pairs at or below a place, which would be missed
    errors = below + (~same).sum() - (np.arange(len(same) + 1) - below)
    at = int(errors.argmin())
    ranked = np.r_[cosines[order[:1]] - 1, cosines[order], cosines[order[-1:]] + 1]
    return float((ranked[at] + ranked[at + 1]) / 2)
