"""Workers of a search on this machine: spawned processes, each with its own copy of the objective.

    this process                               worker
    objective, then (probabilities, trial) ──▶ runs it; ends when this process does
    Outcome ◀──────────────────────────────────
Runs move to another worker when theirs dies. Cores are divided: each worker's torch has its share of this process'
threads.
"""

from __future__ import annotations

import contextlib
import importlib
import multiprocessing
import os
import pickle
import signal
import sys
import threading
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drawstream.pipeline.secrets import describe
from drawstream.search.objective import Objective, Trial
from drawstream.search.workers.crew import Losses, Outcome, run

Run = tuple[NDArray[np.float64], Trial]
PATIENCE = 5.0  # seconds for a worker to end by itself


@dataclass(eq=False, slots=True)
class _Worker:
    process: Any
    pipe: Connection
    run: Run | None = None


class Processes:
    """A crew of spawned processes; they start when they are needed."""

    def __init__(self, objective: Objective, workers: int, /) -> None:
        """Check that the objective can be sent.

        Raises:
            ValueError: It cannot be pickled.
        """
        try:
            pickle.dumps(objective)
        except (AttributeError, TypeError, pickle.PicklingError) as error:
            raise ValueError(
                f"the objective cannot be sent to other processes ({describe(error)}): "
                "give a function of a module, or an object that can be pickled"
            ) from None
        self.size = workers
        self._objective, self._threads = objective, _share(workers)
        self._crew: list[_Worker] = []
        self._losses = Losses()

    def start(self, probabilities: NDArray[np.float64], trial: Trial, /) -> None:
        """Give the run to an idle worker, or to a new one."""
        idle = next((worker for worker in self._crew if worker.run is None), None) or self._hire()
        idle.run = probabilities, trial
        with contextlib.suppress(BrokenPipeError):  # it died idle; `next` sees the end of its pipe
            idle.pipe.send(idle.run)

    def next(self) -> Outcome:
        """Wait for one of the runs; those of dead workers are started again."""
        while True:
            busy = {worker.pipe: worker for worker in self._crew if worker.run is not None}
            worker = busy[wait(list(busy))[0]]  # type: ignore[index]
            assert worker.run is not None
            try:
                outcome: Outcome = worker.pipe.recv()
            except (EOFError, ConnectionResetError):
                lost = worker.run
                self._crew.remove(worker)
                worker.process.join()
                self._losses.count(lost[1], f"with exit code {worker.process.exitcode}")
                self.start(*lost)
            else:
                worker.run = None
                return outcome

    def dismiss(self) -> None:
        """End all workers, also those at work."""
        for worker in self._crew:
            worker.pipe.close()  # an idle one ends by itself
            if worker.run is not None:
                worker.process.kill()
        for worker in self._crew:
            worker.process.join(PATIENCE)
            worker.process.kill()
            worker.process.join()
        self._crew = []

    def _hire(self) -> _Worker:
        context = multiprocessing.get_context("spawn")
        mine, its = context.Pipe()
        process = context.Process(target=_serve, args=(its, self._threads))
        process.start()
        its.close()
        mine.send(self._objective)
        self._crew.append(_Worker(process, mine))
        return self._crew[-1]


def _share(workers: int) -> int | None:
    """Torch's threads for each worker; None where torch is not in use."""
    torch = sys.modules.get("torch")
    return max(1, torch.get_num_threads() // workers) if torch else None


def _serve(pipe: Connection, threads: int | None) -> None:
    """A worker: runs what it is sent until the pipe ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that started this one
    threading.Thread(target=_follow_the_parent, daemon=True).start()
    if threads is not None:
        importlib.import_module("torch").set_num_threads(threads)
    try:
        objective: Objective = pipe.recv()
    except Exception as error:
        reason = f"the objective cannot be loaded in a worker: {describe(error)}"

        def objective(_p: NDArray[np.float64], _trial: Trial) -> float:
            raise ValueError(reason)

    while True:
        try:
            given: Run = pipe.recv()
        except (EOFError, ConnectionResetError):
            return
        pipe.send(run(objective, *given))


def _follow_the_parent() -> None:
    """End this process when the one that started it is gone, also in the middle of a run."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)
