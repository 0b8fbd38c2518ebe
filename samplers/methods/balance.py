"""Weights that draw the classes of long-tailed data more alike.

Notation
    N, C   rows and classes; y_i class of row i; n_c rows of class c; T epochs of a training
    w_i    weights of a sampler, >= 0, float64 (N,); W_c = sum of w_i over class c, n_c where all are 1
    γ      balance: 0 leaves a sampler as it is, 1 draws each class alike

Balance multiplies the weight of a row by W_y^−γ. So class c is drawn with probability ∝ W_c^(1−γ), n_c^(1−γ) for
uniform draws (Kang et al., ICLR 2020, Eq. 1 with q = 1 − γ; γ = 1/2 is their square-root sampling), and the rows of a
class keep their ratios. Everything is a pure function of labels, weights and epoch:

    stream = IndexStream(balanced(labels), seed=0)                         # classes alike
    stream = IndexStream(balanced(labels, 0.5, weights=loss), seed=0)      # half way, by loss within a class
    stream = IndexStream(Progressive(balanced(labels), epochs=90), seed=0)
    stream = IndexStream(Deferred(balanced(labels), start=72), seed=0)

The batches' weights stay 1 / (N P): they say by how much a class is over-drawn.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from drawstream.samplers import check_weights, digest_array, to_vector, whole_number

__all__ = [
    "Balanced", "Deferred", "Progressive", "balanced", "class_weights", "effective_number", "repeat_factors",
]  # fmt: skip


def balanced(labels: ArrayLike, /, gamma: float = 1.0, *, weights: ArrayLike | None = None) -> NDArray[np.float64]:
    """Return weights that draw class c with probability ∝ W_c^(1−γ), float64 (N,), of any scale; γ = 0 returns w.

    Args:
        labels: int (N,), classes from 0.
        gamma: γ in [0, 1].
        weights: w, float (N,), finite and >= 0; uniform by default. A class without weight is not drawn.

    Raises:
        ValueError: γ out of range, bad labels or weights, or numbers of rows that differ.
    """
    _check_gamma(gamma)
    y = _classes(labels)
    w = np.ones(y.size) if weights is None else check_weights(weights)
    if w.size != y.size:
        raise ValueError(f"one label for each weight is needed, but got {y.size} labels and {w.size} weights")
    if gamma == 0:
        return w
    totals = np.bincount(y, weights=w)
    there = totals > 0
    factors = np.zeros(totals.size)
    factors[there] = (totals[there] / totals.max()) ** -gamma
    return w * factors[y]


def effective_number(labels: ArrayLike, /, beta: float = 0.9999) -> NDArray[np.float64]:
    """Return weights 1 / E_n, E_n = (1 − β^n) / (1 − β) the effective number of a class of n rows, float64 (N,).

    Cui et al., CVPR 2019, Eq. 2 and §4.1; they multiply losses by it, here it is drawn by. β = 0 is uniform, and
    towards β = 1 the classes are drawn alike; 1 / (1 − β) is the number of rows at which more of them add little.

    Args:
        labels: int (N,), classes from 0.
        beta: β in [0, 1); theirs are 0.9, 0.99, 0.999 and 0.9999.

    Raises:
        ValueError: β out of range, or bad labels.
    """
    y = _classes(labels)
    per_class = class_weights(np.bincount(y), beta)
    return per_class[y]


def class_weights(counts: NDArray[np.int64], beta: float, /) -> NDArray[np.float64]:
    """Return 1 / E_n of each class, float64 (C,); 0 for a class without rows. Errors as `effective_number`."""
    if not 0 <= beta < 1:
        raise ValueError(f"`0 <= beta < 1` must hold, but got {beta}: 0 is uniform, 0.9999 nearly balanced")
    there = counts > 0
    found = np.zeros(counts.size)
    found[there] = (1 - beta) / -np.expm1(counts[there] * np.log(beta)) if beta else 1.0
    return found


def repeat_factors(labels: ArrayLike, /, threshold: float = 0.001) -> NDArray[np.float64]:
    """Return how often a row of multi-label data comes in an epoch: r_i = max over its classes of max(1, √(t / f_c)).

    f_c is the share of the rows with class c (Gupta et al., LVIS, CVPR 2019, §5.1; t = 0.001 there). Rows of frequent
    classes, and those without a class, come once. In place of their random rounding, `IndexStream(r,
    draws=round(r.sum()))` gives each row ⌊r⌋ or ⌈r⌉ times.

    Args:
        labels: 0/1 matrix (N, C): row i has class c; or classes int (N,), one a row.
        threshold: t in (0, 1], the share below which a class is repeated.

    Returns:
        float64 (N,), at least 1.

    Raises:
        ValueError: t out of range, or other labels.
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"`0 < threshold <= 1` must hold, but got {threshold}: 0.001 is that of LVIS")
    given = np.asarray(labels)
    if given.ndim != 2:
        y = _classes(labels)
        return _factors(np.bincount(y), y.size, threshold)[y]
    there = given != 0
    if not there.size or not np.array_equal(given, there):
        raise ValueError(f"labels must be a matrix of 0 and 1 (rows, classes), but got {given.shape} of {given.dtype}")
    r = _factors(there.sum(0), len(there), threshold)
    found: NDArray[np.float64] = np.where(there, r, 1.0).max(1)
    return found


def _factors(counts: NDArray[np.int64], rows: int, threshold: float) -> NDArray[np.float64]:
    """Repeat factor of each class, float64 (C,)."""
    found: NDArray[np.float64] = np.sqrt(np.maximum(1.0, threshold * rows / np.maximum(counts, 1)))
    return found


@dataclass(frozen=True, eq=False)
class Progressive:
    """A row sampler that goes from uniform draws to weights: P_e = (1 − t) U + t P with t = e / (T − 1).

    Progressively-balanced sampling with P = `balanced(labels)` (Kang et al., ICLR 2020, Eq. 3; t as in their code). U
    is uniform over the rows of positive weight. Later epochs have the last one's P.

    Attributes:
        weights: Of P, >= 0, float64 (N,).
        epochs: T, at least 1.

    Raises:
        ValueError: Bad weights, or T < 1.
    """

    weights: NDArray[np.float64]
    epochs: int

    def __post_init__(self) -> None:
        _own(self, self.weights, epochs=self.epochs, least=1)

    @property
    def fingerprint(self) -> str:
        """Equal for equal weights and epochs."""
        return f"progressive {self.epochs} {digest_array(self.weights)}"

    def probabilities(self, epoch: int, /) -> NDArray[np.float64]:
        """Return P of an epoch >= 0, float64 (N,)."""
        t = min(epoch / (self.epochs - 1), 1.0) if self.epochs > 1 else 1.0
        there = self.weights > 0
        found: NDArray[np.float64] = (1 - t) * (there / there.sum()) + t * self.weights
        return found


@dataclass(frozen=True, eq=False)
class Deferred:
    """A row sampler that draws uniformly before an epoch, and by weights from it on.

    Deferred re-sampling (DRS) with `balanced(labels)` or `effective_number(labels)`: features are learnt from all rows
    first (Cao et al., NeurIPS 2019, §3.3; from epoch 160 of 200 on there).

    Attributes:
        weights: >= 0, float64 (N,).
        start: First epoch drawn by the weights, at least 0; uniform before, over the rows of positive weight.

    Raises:
        ValueError: Bad weights, or start < 0.
    """

    weights: NDArray[np.float64]
    start: int

    def __post_init__(self) -> None:
        _own(self, self.weights, start=self.start, least=0)

    @property
    def fingerprint(self) -> str:
        """Equal for equal weights and start."""
        return f"deferred {self.start} {digest_array(self.weights)}"

    def probabilities(self, epoch: int, /) -> NDArray[np.float64]:
        """Return the weights of an epoch >= 0, float64 (N,)."""
        return self.weights if epoch >= self.start else (self.weights > 0).astype(np.float64)


@dataclass(frozen=True, eq=False)
class Balanced:
    """A row sampler whose classes are balanced: `balanced` in every epoch. What else it has, it has still.

    Attributes:
        sampler: An object with `probabilities(epoch)`, such as `PSGD`.
        labels: Classes from 0, int (N,).
        gamma: γ in [0, 1].
        where: Rows that may be drawn, bool (N,), as the stream has it; the others count in no class. None: all.

    Raises:
        ValueError: γ out of range, or bad labels.
    """

    sampler: Any
    labels: NDArray[np.int64]
    gamma: float = 1.0
    where: NDArray[np.bool_] | None = None

    def __post_init__(self) -> None:
        _check_gamma(self.gamma)
        object.__setattr__(self, "labels", _classes(self.labels))

    @property
    def fingerprint(self) -> str:
        """Equal for equal labels and γ, and samplers that say they are equal."""
        inner = getattr(self.sampler, "fingerprint", "row sampler")
        return f"balanced {self.gamma:g} {digest_array(self.labels)} {inner}"

    def probabilities(self, epoch: int, /) -> NDArray[np.float64]:
        """Return the weights of an epoch, float64 (N,); errors as `balanced`."""
        weights = check_weights(self.sampler.probabilities(epoch))
        return balanced(self.labels, self.gamma, weights=weights if self.where is None else weights * self.where)

    def __getattr__(self, name: str) -> Any:
        """Give what the sampler has: its state, and what it observes."""
        if name.startswith("_") or name == "sampler":
            raise AttributeError(name)
        return getattr(self.sampler, name)


def _own(sampler: Any, weights: ArrayLike, /, *, least: int, **number: Any) -> None:
    """Set a sampler's weights, of sum 1, and its number of epochs, checked."""
    checked = check_weights(weights)
    object.__setattr__(sampler, "weights", checked / checked.sum())
    ((name, value),) = number.items()
    whole = whole_number(value, name)
    if whole < least:
        raise ValueError(f"`{name} >= {least}` must hold, but got {whole}")
    object.__setattr__(sampler, name, whole)


def _check_gamma(gamma: float) -> None:
    if not 0 <= gamma <= 1:
        raise ValueError(f"`0 <= balance <= 1` must hold, but got {gamma}: 0 draws as before, 1 each class alike")


def _classes(labels: ArrayLike) -> NDArray[np.int64]:
    """Labels checked, int64 (N,)."""
    given = to_vector(labels, "labels")
    if given.ndim != 1 or not given.size:
        remedy = ": several labels a row are for repeat_factors (--sampler repeat-factors)" if given.ndim == 2 else ""
        raise ValueError(f"labels must be one class a row, shape (rows,), but got {given.shape}{remedy}")
    if given.dtype.kind not in "iu":
        raise ValueError(f"labels must be whole numbers, but got {given.dtype}: give class numbers from 0")
    if given.min() < 0:
        raise ValueError(f"labels must be classes from 0, but got {given.min()}: leave out rows without a class")
    return given.astype(np.int64)
