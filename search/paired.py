"""The last guard: two finished models on the same held-out images, before the sampler's takes the place of uniform's.

Notation: g images that the candidate alone has right, l that the control alone has right; those on which both agree say
nothing. If the candidate is not better, each of the g + l is its gain with chance 1/2 at most, and
    p = P(Binomial(g + l, 1/2) >= g)
is the exact one-sided sign test (McNemar 1947). The candidate is taken if p < 0.05.

What it guarantees, whatever the labels, the search and the training did: of candidates that are not better on images
like the held-out ones, at most one in 20 is taken; one that is truly d worse, on n images of which a share q has the
models disagree, with chance Phi(-1.64 - d sqrt(n / q)) about: 1 in 500 for d = 0.5 points, n = 5000, q = 8 %. That is
for one candidate fixed beforehand; the search chose its sampler on the same images, so p is a little too small. Wrong
labels of held-out images, drawn without regard to the images, make it take fewer good candidates, not more bad ones.
It costs one evaluation of each model: the uniform training is there anyway, for the search began from its weights. Not
stated in the paper, which has no such check.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom

LEVEL = 0.05  # chance that a candidate that is not better is taken


@dataclass(frozen=True, slots=True)
class PairedTest:
    """Outcome of the test on n images.

    Attributes:
        gained: g.
        lost: l.
        p: Of the sign test, in (0, 1].
    """

    gained: int
    lost: int
    p: float

    @property
    def better(self) -> bool:
        """Whether the candidate takes the control's place."""
        return self.p < LEVEL

    @property
    def message(self) -> str:
        """One sentence: who is kept, and why."""
        kept = "the sampler's model is better" if self.better else "the uniform model is kept"
        return (
            f"{kept}: of the held-out images {self.gained} are right with the sampler alone, {self.lost} with uniform "
            f"alone, p = {self.p:.2g}"
        )


def paired_test(control: NDArray[np.bool_], candidate: NDArray[np.bool_], /) -> PairedTest:
    """Whether the candidate is better, from which of the same images each model has right.

    Args:
        control: bool (n,), images that the uniform model has right.
        candidate: bool (n,), images that the sampler's model has right, in the same order.

    Raises:
        ValueError: The two are not of one length.
    """
    if control.shape != candidate.shape or control.ndim != 1:
        raise ValueError(
            f"both models must be judged on the same images, but got shapes {control.shape} and {candidate.shape}"
        )
    gained, lost = int((candidate & ~control).sum()), int((control & ~candidate).sum())
    return PairedTest(gained, lost, float(binom.sf(gained - 1, gained + lost, 0.5)))
