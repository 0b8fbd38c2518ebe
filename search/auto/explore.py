"""Exploration: from how often rows won to the orders that children train on next.

Notation
    c      int64 (N,)    times each row was recorded, in the last cycle or in the whole run
    P      float64 (N,)  c / sum(c), Eq. 6
    s      float64 (N,)  smoothed: log(c + beta)      `log_count` (not stated in the paper; what its text says)
                                   log(N P + beta)    `log_relative` (not stated): the count in units of its mean
                                   log(P + beta)      `literal`, Eq. 7: nearly P at beta = 1, uniform above it
    L      epochs of a cycle, N_u + 1 but for the last one

A cycle is N_u full permutations and N draws of s / sum(s), all shuffled; each child draws its own, independently
(`multinomial`). A `stratified` stream over the weights N_u / N + s / sum(s) is that order with the least variance: it
gives each row N_u + floor or ceil of N s / sum(s) times, so children differ in little but the order. A cycle that the
end of the run cuts short is the first part of a whole one. Of its positions, as of those of a plain epoch, the ones
behind the last whole batch are left out, a random part of N mod B per epoch.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from drawstream.samplers import derive_keys
from drawstream.samplers.orders import IndexStream, keyed_shuffle
from drawstream.search.auto.plan import Cycle, PopulationPlan, Smoothing

SubSchedule = Callable[[int, int, int], NDArray[np.int64]]  # epoch, start, stop -> rows at positions [start, stop)
Part = Callable[[int, int], NDArray[np.int64]]  # the same of a cycle


def child_seed(seed: int, child: int, /) -> int:
    """Seed of a child's streams, in [0, 2^64): derived by key, so seed 0's child 1 is not seed 1's child 0."""
    return int(derive_keys(1, "auto", seed, child)[0])


def smooth(counts: NDArray[np.int64], /, *, beta: float, smoothing: Smoothing) -> NDArray[np.float64]:
    """The smoothed distribution over rows, float64 (N,), sums to 1.

    Raises:
        ValueError: Nothing was counted.
    """
    total = int(counts.sum())
    if total < 1:
        raise ValueError("a distribution is estimated from recorded rows, but there are none")
    match smoothing:
        case "log_count":
            values = np.log(counts + beta)
        case "log_relative":
            values = np.log(counts * (counts.size / total) + beta)
        case "literal":
            values = np.log1p(counts / total + (beta - 1))
    return values / values.sum()  # type: ignore[no-any-return]


def sub_schedule(
    plan: PopulationPlan,
    cycle: Cycle,
    child: int,
    share: NDArray[np.float64] | None,
    /,
    base: NDArray[np.float64] | None = None,
) -> SubSchedule:
    """The rows of one child in one cycle.

    Args:
        plan: Of the search.
        cycle: The cycle.
        child: Its number in the population.
        share: The smoothed distribution, float64 (N,); None in cycle 0, whose epochs are permutations.
        base: Probabilities float64 (N,) that epochs draw by, in place of permutations, with the least variance.
    """
    seed = child_seed(plan.seed, child)
    if share is None:
        whole = IndexStream(plan.rows if base is None else base, seed=seed)
        return lambda epoch, start, stop: whole.epoch(epoch)[start:stop]
    part = (_stratified if plan.mode == "stratified" else _multinomial)(plan, cycle, seed, share, base)

    def rows(epoch: int, start: int, stop: int, /) -> NDArray[np.int64]:
        before = (epoch - cycle.begin) * plan.draws
        return part(before + start, before + stop)

    return rows


def _stratified(
    plan: PopulationPlan, cycle: Cycle, seed: int, share: NDArray[np.float64], base: NDArray[np.float64] | None
) -> Part:
    """Rows at positions [start, stop) of a cycle with the least variance."""
    weights = plan.permutations * (1 / plan.rows if base is None else base) + share
    stream = IndexStream(weights, mode="stratified", seed=seed, draws=(cycle.end - cycle.begin) * plan.rows)
    order = stream.epoch(cycle.number)
    return lambda start, stop: order[start:stop]


def _multinomial(
    plan: PopulationPlan, cycle: Cycle, seed: int, share: NDArray[np.float64], base: NDArray[np.float64] | None
) -> Part:
    """Rows at positions [start, stop) of N_u permutations and N independent draws, shuffled as a whole."""
    permuted = plan.permutations * plan.rows
    places = keyed_shuffle(permuted + plan.rows, "cycle", seed, cycle.number)
    drawn = IndexStream(share, mode="multinomial", seed=seed).epoch(cycle.number)[:]
    if base is not None and permuted:
        balanced = IndexStream(base, seed=seed, draws=permuted).epoch(cycle.number)[:]
        drawn = np.concatenate([balanced, drawn])
        permuted = 0

    def rows(start: int, stop: int, /) -> NDArray[np.int64]:
        at = np.empty(stop - start, dtype=np.int64)
        places.fill(start, at)
        return np.where(at < permuted, at % plan.rows, drawn[np.maximum(at - permuted, 0)])

    return rows
