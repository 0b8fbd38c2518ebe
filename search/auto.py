"""AutoSampling: a population of children searches the schedule itself (Sun et al., ICML 2021).

Notation
    N    rows         of the training set
    B    batch size   an epoch is floor(N / B) whole batches, as of a loader that drops the last one
    N_p  population   children, all from one set of weights
    N_s  interval     batches between two evaluations; the last interval of an epoch ends with it
    N_u  permutations full permutations in a cycle of N_u + 1 epochs
    H*   schedule     int64: the winners' rows, interval after interval

    for each interval:                                                               Alg. 1
        every child trains N_s batches of its own order; all are evaluated
        the best one's rows are appended to H*, its state is cloned into all
    every N_u + 1 epochs, first after `first` ones:                                  Alg. 2
        count(x in H*) -> P -> smoothed P -> N_u permutations + N draws of P, shuffled, for each child by its own seed

Uniform exploration is plain training, random exploration leaves out the second loop, mixture is both.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from drawstream.search.auto_group import Alone, Child, Group, InTurn, Processes, children_of

__all__ = ["Alone", "AutoResult", "Child", "Group", "InTurn", "Processes", "children_of", "search_auto"]

Exploration = Literal["uniform", "random", "mixture"]
Smoothing = Literal["log_count", "log_relative", "literal"]
Estimate = Literal["cycle", "run"]


@dataclass(frozen=True, slots=True, eq=False)
class AutoResult:
    """What a search gave; the same on every process, but for `seconds`.

    Attributes:
        schedule: `schedule.arrow`, to be replayed by `IndexStream(Schedule.open(...))`.
        distribution: `distribution.parquet`, to be drawn from: `IndexStream(map_weights(..., column="weight"))`.
        rewards: float64 (intervals, population), of every child at the end of every interval.
        winners: int64 (intervals,), the child whose rows were recorded.
        steps: int64 (intervals,), batches of each.
        state: State of the best child at the end.
        seconds: Of this process, by `train`, `evaluate`, `wait` (for other processes), `clone`, `write` (the schedule),
            `explore` and `checkpoint`; of all its starts together.
    """

    schedule: Path
    distribution: Path
    rewards: NDArray[np.float64]
    winners: NDArray[np.int64]
    steps: NDArray[np.int64]
    state: dict[str, Any]
    seconds: dict[str, float]


def search_auto(
    group: Group,
    rows: int,
    out: Path,
    /,
    *,
    population: int,
    batch_size: int,
    epochs: int,
    exploration: Exploration = "mixture",
    interval: int = 20,
    first: int = 20,
    permutations: int = 3,
    beta: float = 1.0,
    smoothing: Smoothing = "log_count",
    estimate: Estimate = "cycle",
    seed: int = 0,
    catalog: str = "",
    provenance: Mapping[str, Any] | None = None,
    ranks: Processes | None = None,
    progress: Callable[[dict[str, Any]], None] | None = None,
) -> AutoResult:
    """Search a schedule; write `schedule.arrow` and `distribution.parquet` into `out`.

    Children are numbered over all processes (`children_of` says which are whose), and the result does not depend on
    their division. A search that was killed goes on after its last whole epoch, from `checkpoint.pt`.
    """
    raise NotImplementedError
