"""Workers on this machine: spawned processes, each with its own copy of the function; they end with this process."""

from __future__ import annotations

import contextlib
import importlib
import multiprocessing
import os
import pickle
import signal
import sys
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from typing import Any

from drawstream.pipeline import describe_error
from drawstream.pipeline.workers.pool import Died, answers, load, portable

PATIENCE = 5.0  # seconds for a worker to end by itself


class Processes:
    """Spawned processes; a worker is known by this process' end of its pipe."""

    def __init__(self, function: Callable[[Any], Any], workers: int, threads: int | None, what: str, /) -> None:
        """Check that the function can be sent.

        Raises:
            ValueError: It cannot be pickled.
        """
        try:
            pickle.dumps(function)
        except (AttributeError, TypeError, pickle.PicklingError) as error:
            raise ValueError(
                f"{what} cannot be sent to other processes: {describe_error(error)}: give a function of a "
                "module, or an object that can be pickled"
            ) from None
        self.size = workers
        self._function, self._threads = function, threads
        if threads is None and (torch := sys.modules.get("torch")):
            self._threads = max(1, torch.get_num_threads() // workers)
        self._processes: dict[Connection, Any] = {}
        self._busy: list[Connection] = []

    def start_worker(self) -> Connection:
        """Spawn a process."""
        context = multiprocessing.get_context("spawn")
        mine, its = context.Pipe()
        process = context.Process(target=_serve, args=(its, self._threads))
        process.start()
        its.close()
        self._processes[mine] = process
        self.send(mine, self._function)
        return mine

    def send(self, worker: Connection, task: Any, /) -> None:
        """Send the task; the death of an idle worker is seen by `receive`."""
        self._busy.append(worker)
        with contextlib.suppress(BrokenPipeError):
            worker.send(task)

    def receive(self, timeout: float | None, /) -> tuple[Connection, Any] | None:
        """Wait for a message of a worker that starts or works."""
        ready = wait(self._busy, timeout)
        if not ready:
            return None
        worker: Any = ready[0]
        try:
            message = worker.recv()
        except (EOFError, ConnectionResetError):
            process = self._processes.pop(worker)
            process.join()
            message = Died(f"with exit code {process.exitcode}")
        if isinstance(message, Died) or getattr(message, "done", True):
            self._busy.remove(worker)
        return worker, message

    def close(self, busy: list[Connection], _idle: list[Connection], /) -> None:
        """End all processes: the idle ones by themselves, those at work by a signal."""
        for pipe, process in self._processes.items():
            pipe.close()
            if pipe in busy:
                process.kill()
        for process in self._processes.values():
            process.join(PATIENCE)
            process.kill()
            process.join()
        self._processes = {}


def _serve(pipe: Connection, threads: int | None) -> None:
    """Do the tasks that come through the pipe, until it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that started this one
    threading.Thread(target=_follow_the_parent, daemon=True).start()
    if threads:
        importlib.import_module("torch").set_num_threads(threads)
    with contextlib.suppress(EOFError, ConnectionResetError, BrokenPipeError):
        function, message = load(pipe.recv)
        pipe.send(message)
        while function is not None:
            for answer in answers(function, pipe.recv()):
                pipe.send(portable(answer))


def _follow_the_parent() -> None:
    """End this process when the one that started it is gone, also in the middle of a task."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)
