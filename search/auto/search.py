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
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drawstream.samplers import check_groups
from drawstream.samplers.methods import balanced
from drawstream.search.auto.group import Group, OneRank, Ranks
from drawstream.search.auto.plan import PopulationPlan
from drawstream.search.auto.run import AutoResult, AutoRun


@check_groups({"smoothing": "count_smoothing"}, plan=PopulationPlan)
def search_auto(
    group: Group,
    out: Path,
    /,
    plan: PopulationPlan,
    *,
    catalog: str = "",
    provenance: Mapping[str, Any] | None = None,
    ranks: Ranks | None = None,
    where: NDArray[np.bool_] | None = None,
    labels: NDArray[np.int64] | None = None,
    balance: float = 0.0,
    progress: Callable[[dict[str, Any]], None] | None = None,
) -> AutoResult:
    """Search a schedule; write `schedule.arrow` and `distribution.parquet` into `out`.

    Children are numbered over all processes (`children_of` says which are whose), and the result does not depend on
    their division. A search that was killed goes on after its last whole epoch, from `checkpoint.pt`; a finished one
    gives its result again.

    Args:
        group: The children of this process. All start from the state of child 0.
        out: Folder to write; process 0 writes.
        plan: The settings that decide the schedule.
        catalog: Fingerprint of the catalog that the rows belong to.
        provenance: What else decides the result (model, recipe, reward …), JSON-able: kept in both files beside the
            plan; a search that was started with another one is refused.
        ranks: The processes that share the population; None is this one alone.
        where: bool (rows of the catalog,), the rows of the plan; others are never drawn. None: all are.
        labels: Classes of the plan's rows, int64 (rows of the plan,), for `balance`.
        balance: γ in [0, 1]: a class's part of all draws is its part of the rows to the power 1 - γ, made to sum to 1;
            epochs drawn so take the place of permutations.
        progress: Called on every process after each interval with `epoch`, `done` and `total` intervals, `rewards`,
            `winner`, and `seconds` so far.

    Raises:
        ValueError: `where` has another number of rows than the plan, there are no labels to balance, the group holds
            another number of children, `out` holds another search, or no child has a reward that is a number.
    """
    settings = {**asdict(plan), **(provenance or {}), "catalog": catalog}
    if where is not None and (where.dtype != bool or np.count_nonzero(where) != plan.rows):
        raise ValueError(f"where must be bool with {plan.rows} rows that hold, the plan's, but got {where!r}")
    if balance and labels is None:
        raise ValueError(f"balance {balance} is of classes: give labels")
    base = balanced(labels, balance) if balance and labels is not None else None
    drawn: dict[str, Any] = {"where": where, "classes": labels, "base": base}
    with AutoRun(group, plan, out, settings, ranks or OneRank(), **drawn) as run:
        for epoch in range(run.done.epoch, plan.epochs):
            for start, stop in plan.spans():
                run.run_interval(epoch, start, stop)
                if progress is not None:
                    progress(run.event(epoch))
            run.end_epoch(epoch)
        return run.finish()
