"""Workers of a search on a Ray cluster: actors, each with its own copy of the objective.

The study stays with this process; workers get probabilities and give scores, so they need no storage. An objective with
an attribute `device` equal to "gpu" gets a GPU for each worker. A worker that dies with its node is replaced.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drawstream.pipeline.secrets import describe
from drawstream.search.objective import Objective, Trial
from drawstream.search.workers.crew import Losses, Outcome, run

Run = tuple[NDArray[np.float64], Trial]


class Worker:
    """Runs the objective on some node; lives in a process of its own as a Ray actor."""

    def __init__(self, objective: Objective, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        self._objective = objective

    def run(self, probabilities: NDArray[np.float64], trial: Trial) -> Outcome:
        """One run."""
        return run(self._objective, probabilities, trial)


class Cluster:
    """A crew of Ray actors; they start when they are needed."""

    def __init__(self, ray: Any, objective: Objective, size: int, threads: int, /) -> None:
        """Put the objective into Ray's store.

        Raises:
            ValueError: It cannot be sent.
        """
        self.size = size
        self._ray, self._threads = ray, threads
        try:
            self._objective = ray.put(objective)
        except TypeError as error:
            reason = describe(error.__cause__ or error)
            raise ValueError(f"the objective cannot be sent to other processes: {reason}") from None
        gpus = int(_device(objective) == "gpu")
        self._actor = ray.remote(Worker).options(num_cpus=threads, num_gpus=gpus, scheduling_strategy="SPREAD")
        self._idle: list[Any] = []
        self._busy: dict[Any, tuple[Any, Run]] = {}  # by what Ray waits for
        self._losses = Losses()

    def start(self, probabilities: NDArray[np.float64], trial: Trial, /) -> None:
        """Give the run to an idle worker, or to a new one."""
        worker = self._idle.pop() if self._idle else self._actor.remote(self._objective, self._threads)
        self._busy[worker.run.remote(probabilities, trial)] = worker, (probabilities, trial)

    def next(self) -> Outcome:
        """Wait for one of the runs; those of dead workers are started again."""
        while True:
            ready, _ = self._ray.wait(list(self._busy))
            worker, lost = self._busy.pop(ready[0])
            try:
                outcome: Outcome = self._ray.get(ready[0])
            except self._ray.exceptions.RayError as error:
                self._ray.kill(worker)
                self._losses.count(lost[1], f"because: {describe(error)}")
                self.start(*lost)
            else:
                self._idle.append(worker)
                return outcome

    def dismiss(self) -> None:
        """End all workers, also those at work."""
        for worker in [*self._idle, *(worker for worker, _ in self._busy.values())]:
            self._ray.kill(worker)
        self._idle, self._busy = [], {}


def _device(objective: Objective) -> str:
    return str(getattr(objective, "device", "cpu"))


@contextmanager
def cluster(objective: Objective, workers: int | None, address: str | None, /) -> Iterator[Cluster]:
    """The crew on a cluster; `workers` None: as many as it has room for.

    Raises:
        ValueError: No cluster answers, it has no room, or the objective cannot be sent.
    """
    from drawstream.features.extraction_on_ray import joined, places_of

    with joined(address) as ray:
        threads, places = places_of(ray, _device(objective), None)
        crew = Cluster(ray, objective, min(places, workers or places), threads)
        try:
            yield crew
        finally:
            crew.dismiss()
