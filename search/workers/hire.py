"""Open the workers that run the objective: this process, spawned processes, or Ray."""

from collections.abc import Iterator
from contextlib import contextmanager

from drawstream.search.objective import Objective
from drawstream.search.workers.crew import Alone, Crew, check_crew


@contextmanager
def hired(objective: Objective, /, *, engine: str = "local", workers: int | None = None) -> Iterator[Crew]:
    """The crew of an engine; its workers end on leaving, also those at work.

    Args:
        objective: For several workers it must be picklable: a function of a module, or an object of a class of one.
        engine: "local", "ray" (the cluster of `RAY_ADDRESS`, or a new one on this machine) or "ray:ADDRESS".
        workers: At once; by default 1, on Ray as many as there is room for.

    Raises:
        ValueError: An argument breaks its law, the objective cannot be sent, or no cluster answers.
    """
    kind, address = check_crew(engine, workers)
    if kind == "ray":
        from drawstream.search.workers.ray import cluster

        with cluster(objective, workers, address or None) as crew:
            yield crew
    elif workers is None or workers == 1:
        yield Alone(objective)
    else:
        from drawstream.search.workers.processes import Processes

        processes = Processes(objective, workers)
        try:
            yield processes
        finally:
            processes.dismiss()
