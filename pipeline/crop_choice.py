"""Which crops of a step are kept: Gumbel-top-B, weighted choice without replacement, and what it does to τ.

Notation
    n      crops of a step on one rank, m·B
    B      crops kept, ceil(share · n)
    τ_i    float64 (n,), in [0, 1], the sampler's wish for crop i
    G_i    float64 (n,), standard Gumbel noise, a function of (seed, epoch, global position) alone
    key_i  log τ_i + G_i; the B largest are kept                    (Vieira 2014; Kool et al. 2019)

The first place goes to crop i with probability τ_i / Σ τ, the next one likewise among the rest, and so on: successive
draws without replacement. A crop is kept at most once, which caps the contrast. Where 128 of 256 are kept and each crop
is on one of two levels of τ with probability 1/2, a ratio of 10:1 comes out as 5.0:1 and one of 100:1 as 22:1. With
exactly 128 on each level that is 5.1:1 and 29:1: chance leaves more places to the lower level. `Contrast` measures it.
"""

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drawstream.pipeline.draws import key, to_unit

_GUMBEL = 9  # purpose of the key, beside those of `draws` (1 to 6) and `augment` (7, 8)
_QUARTER = 4  # the contrast is between the quarters with the largest and the smallest τ


def kept_of(count: int, share: Fraction, /) -> int:
    """B = ceil(share · n), exactly: the same on all ranks, for they have equally many crops."""
    return -(-count * share.numerator // share.denominator)


def gumbel(seed: int, epoch: int, start: int, count: int, /) -> NDArray[np.float64]:
    """Standard Gumbel noise of positions [start, start + count), (count,); each depends on its position alone."""
    words = np.random.Philox(key=key(seed, epoch, _GUMBEL), counter=start).random_raw(4 * count)[::4]
    return -np.log(-np.log(to_unit(words) + 2.0**-54))  # the middle of each cell: never 0 nor 1


@dataclass(frozen=True, slots=True, eq=False)
class Choice:
    """What was kept of a step.

    Attributes:
        rows: Places within the batch, int64 (B,), increasing.
        filled: How many of them have τ = 0: there were too few others.
    """

    rows: NDArray[np.int64]
    filled: int


def choose(tau: NDArray[np.float64], real: NDArray[np.bool_], noise: NDArray[np.float64], count: int, /) -> Choice:
    """The `count` crops with the largest keys.

    Where fewer have τ > 0, those with τ = 0 follow, by their noise alone: uniformly. Crops that are not `real`, which
    only fill up the last batch of an epoch, come last whatever their τ.

    Args:
        tau: float64 (n,), >= 0, of any scale.
        real: bool (n,), whether the crop counts.
        noise: float64 (n,), standard Gumbel.
        count: B, at most n.
    """
    wanted = real & (tau > 0)
    keys = noise + np.log(tau, out=np.zeros(len(tau)), where=wanted)
    order = np.lexsort((-keys, ~wanted, ~real))  # the last one decides first
    rows = np.sort(order[:count])
    return Choice(rows, int((real & ~wanted)[rows].sum()))


class Contrast:
    """How far the choice follows τ, over all steps so far.

    In each step the crops that count are ranked by τ; the mean τ of the highest quarter over that of the lowest is the
    ratio that was wanted, and the number of crops kept of each the one that came out.
    """

    def __init__(self) -> None:
        self._tau, self._rows = np.zeros(2), np.zeros(2, np.int64)  # of dropped and kept crops
        self._wanted, self._kept = np.zeros(2), np.zeros(2, np.int64)  # of the lowest and highest quarter

    def add(self, tau: NDArray[np.float64], kept: NDArray[np.bool_], /) -> None:
        """Count a step: τ and whether it was kept, of the crops that count, (n,) each."""
        for which in (0, 1):
            self._tau[which] += tau[kept == which].sum()
            self._rows[which] += np.count_nonzero(kept == which)
        order, quarter = np.argsort(tau, kind="stable"), -(-len(tau) // _QUARTER)
        for which, rows in enumerate((order[:quarter], order[len(tau) - quarter :])):
            self._wanted[which] += tau[rows].sum()
            self._kept[which] += np.count_nonzero(kept[rows])

    def as_dict(self) -> dict[str, Any]:
        """Mean τ of what was kept and dropped, and both ratios; None where nothing was, or where one is infinite."""
        dropped, kept = (_ratio(float(t), int(n)) for t, n in zip(self._tau, self._rows, strict=True))
        return {
            "tau_kept": kept,
            "tau_dropped": dropped,
            "wanted_ratio": _ratio(float(self._wanted[1]), float(self._wanted[0])),
            "realised_ratio": _ratio(int(self._kept[1]), int(self._kept[0])),
        }


def _ratio(above: float, below: float) -> float | None:
    return above / below if below else None
