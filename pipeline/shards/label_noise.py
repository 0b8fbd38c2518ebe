"""Draws over labels: a shuffle in which every prefix is class-balanced, long tails, and label noise of the papers.

    n_c   rows of class c
    R     share of every class that is relabelled
    C     number of classes
    I     imbalance: rows of the largest class for each row of the smallest

All draws are keyed by a seed and a purpose, so the holdout and the noise of one seed have nothing in common.
"""

import numpy as np
from numpy.typing import NDArray

_ORDER, _NOISE = 1, 2  # purposes


def stratified_order(labels: NDArray[np.int64], /, *, seed: int) -> NDArray[np.int64]:
    """Return a random order of the rows, int64 (rows,), in which every prefix holds each class in its share.

    Row of rank r (random, 0-based) in its class gets time (r + U) / n_c with U uniform in [0, 1); the order sorts by
    time. So the first ``n`` rows hold ``n · n_c / rows`` of class c to within a few, for every ``n``.
    """
    generator = _generator(seed, _ORDER)
    shuffled = np.argsort(generator.random(len(labels)), kind="stable")
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    counts = np.bincount(labels)
    counts_of_rows = np.repeat(counts, counts)
    ranks = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    time = (ranks + generator.random(len(labels))) / counts_of_rows
    return by_class[np.argsort(time, kind="stable")].astype(np.int64)


def tail_counts(counts: NDArray[np.int64], imbalance: float, /) -> NDArray[np.int64]:
    """Return the rows that each class keeps in a long tail: ⌊n_max I^(−c / (C − 1))⌋, at least 1 and at most n_c.

    That is the exponential profile of CIFAR-LT (Cui et al. 2019, §5.1; Cao et al. 2019, §4): 12 406 of CIFAR-10's
    50 000 rows for I = 100.

    Args:
        counts: int64 (C,), n_c.
        imbalance: I, at least 1.

    Raises:
        ValueError: I < 1, or one class only.
    """
    if not 1 <= imbalance < np.inf:
        raise ValueError(f"long_tail >= 1 must hold, but got {imbalance}: 100 keeps 1 % of the last class")
    if len(counts) < 2:
        raise ValueError(f"a long tail needs at least 2 classes, but got {len(counts)}: leave out long_tail")
    wanted = counts.max() * imbalance ** (-np.arange(len(counts)) / (len(counts) - 1))
    kept: NDArray[np.int64] = np.minimum(counts, np.maximum(1, np.floor(wanted + 1e-9)).astype(np.int64))
    return kept


def long_tail(
    labels: NDArray[np.int64], /, *, imbalance: float, classes: int, order: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return the rows of a long tail: of each class the first in an order, as many as `tail_counts` says.

    Args:
        labels: int64 (rows,).
        imbalance: I ≥ 1.
        classes: C ≥ 2.
        order: int64 (n,), distinct rows in random order; others are left out.

    Returns:
        int64, in the order that was given. A smaller I keeps all rows that a larger one keeps.

    Raises:
        ValueError: As `tail_counts`.
    """
    given = labels[order]
    counts = np.bincount(given, minlength=classes)
    by_class = np.argsort(given, kind="stable")
    ranks = np.empty(len(order), np.int64)
    ranks[by_class] = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
    return order[ranks < tail_counts(counts, imbalance)[given]]


def relabel(labels: NDArray[np.int64], /, *, rate: float, classes: int, seed: int, part: int = 0) -> NDArray[np.int64]:
    """Put symmetric label noise into labels: exactly round(R · n_c) rows of each class c change class.

    The rows are drawn without replacement and each goes to one of the other C − 1 classes with equal probability
    (Swift Sampler §4.1).

    Args:
        labels: int64 (rows,), true classes.
        rate: R in [0, 1).
        classes: C ≥ 2 where R > 0.
        seed: ≥ 0.
        part: Which set of rows this is, so that sets of one seed get independent noise.

    Returns:
        int64 (rows,), a new array.

    Raises:
        ValueError: R outside [0, 1), or one class only.
    """
    if not 0 <= rate < 1:
        raise ValueError(f"label noise must be in [0, 1), but got {rate}")
    noisy = labels.copy()
    if rate == 0:
        return noisy
    if classes < 2:
        raise ValueError(f"label noise needs at least 2 classes, but got {classes}: leave it at 0")
    by_class = np.argsort(labels, kind="stable")  # one look at all rows, not one for each class
    ends = np.searchsorted(labels[by_class], np.arange(classes + 1))
    for c in range(classes):
        rows = by_class[ends[c] : ends[c + 1]]
        generator = _generator(seed, _NOISE, part, c)
        chosen = rows[np.argsort(generator.random(len(rows)), kind="stable")[: round(rate * len(rows))]]
        step = 1 + (generator.random(len(chosen)) * (classes - 1)).astype(np.int64)
        noisy[chosen] = (c + step) % classes
    return noisy


def _generator(seed: int, *key: int) -> np.random.Generator:
    if seed < 0:
        raise ValueError(f"a seed must be at least 0, but got {seed}")
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, *key])))
