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

from drawstream.search.auto.group import Alone, Group, Processes
from drawstream.search.auto.plan import Estimate, Exploration, Plan, Smoothing
from drawstream.search.auto.run import AutoResult, AutoRun

__all__ = ["AutoResult", "search_auto"]


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
    their division. A search that was killed goes on after its last whole epoch, from `checkpoint.pt`; a finished one
    gives its result again.

    Args:
        group: The children of this process. All start from the state of child 0.
        rows: N, of the training set.
        out: Folder to write; process 0 writes.
        population: N_p, children of all processes together.
        batch_size: B.
        epochs: Of floor(N / B) batches.
        exploration: `uniform` (plain training, a population of 1), `random` (exploitation only) or `mixture`.
        interval: N_s, batches between two evaluations; 20 in the paper.
        first: Epochs before the first exploration; 20 in the paper.
        permutations: N_u, full permutations in a cycle of N_u + 1 epochs; 3 in the paper.
        beta: Smoothing factor, at least 1.
        smoothing: `log_count`, `log_relative` or `literal` (`drawstream.search.auto.explore`).
        estimate: Rows counted for the distribution: of the last `cycle`, or of the whole `run`.
        seed: Of the orders.
        catalog: Fingerprint of the catalog that the rows belong to.
        provenance: What else decides the result (model, recipe, reward …), JSON-able: kept in both files beside the
            settings above; a search that was started with another one is refused.
        ranks: The processes that share the population; None is this one alone.
        progress: Called on every process after each interval with `epoch`, `done` and `total` intervals, `rewards`,
            `winner`, and `seconds` so far.

    Raises:
        ValueError: A setting is out of range, the group holds another number of children, `out` holds another search,
            or no child has a reward that is a number.
    """
    plan = Plan(
        rows=rows,
        population=population,
        batch_size=batch_size,
        epochs=epochs,
        exploration=exploration,
        interval=interval,
        first=first,
        permutations=permutations,
        beta=beta,
        smoothing=smoothing,
        estimate=estimate,
        seed=seed,
    )
    settings = {**asdict(plan), **(provenance or {}), "catalog": catalog}
    with AutoRun(group, plan, out, settings, ranks or Alone()) as run:
        for epoch in range(run.done.epoch, plan.epochs):
            for start, stop in plan.spans():
                run.run_interval(epoch, start, stop)
                if progress is not None:
                    progress(run.event(epoch))
            run.end_epoch(epoch)
        return run.finish()
