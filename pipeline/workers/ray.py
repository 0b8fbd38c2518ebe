"""Workers on a Ray cluster: actors, each with its own copy of the function; one that dies with its node is replaced."""

from __future__ import annotations

import importlib
import logging
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from drawstream.pipeline import describe_error
from drawstream.pipeline.workers.pool import Answer, Died, answers, load, portable


class Actor:
    """Does tasks on some node; lives in a process of its own."""

    def load(self, threads: int, stored: list[Any]) -> Any:
        """Take the function out of Ray's store, and return the worker's first message."""
        if threads:
            importlib.import_module("torch").set_num_threads(threads)
        self._function, message = load(lambda: importlib.import_module("ray").get(stored[0]))
        return message

    def run(self, task: Any) -> Iterator[Answer]:
        """Yield the answers of a task."""
        assert self._function is not None
        for answer in answers(self._function, task):  # not `yield from`: Ray sends into the generator
            yield portable(answer)


class RayActors:
    """Actors on the nodes of a cluster."""

    def __init__(
        self,
        ray: Any,
        function: Callable[[Any], Any],
        workers: int | None,
        threads: int | None,
        device: str,
        what: str,
        /,
    ) -> None:
        """Put the function into Ray's store, once per node.

        Raises:
            ValueError: The cluster has no room, or the function cannot be sent.
        """
        cores, places = places_of(ray, device, threads)
        self.size = min(places, workers or places)
        self._ray, self._threads = ray, cores
        try:
            self._stored = [ray.put(function)]  # in a list: the worker looks it up itself
        except TypeError as error:  # Ray's own text shows the whole function
            raise ValueError(
                f"{what} cannot be sent to other processes: {describe_error(error.__cause__ or error)}"
            ) from None
        options = {"num_cpus": cores, "num_gpus": int(device == "gpu"), "scheduling_strategy": "SPREAD"}
        self._actor = ray.remote(Actor).options(**options)
        self._workers: dict[Any, Any] = {}  # by what Ray waits for

    def start_worker(self) -> Any:
        """Ask for an actor; it may have to wait for room."""
        worker = self._actor.remote()
        self._workers[worker.load.remote(self._threads, self._stored)] = worker
        return worker

    def send(self, worker: Any, task: Any, /) -> None:
        """Send the task."""
        self._workers[worker.run.options(num_returns="streaming").remote(task)] = worker

    def receive(self, timeout: float | None, /) -> tuple[Any, Any] | None:
        """Wait for a message of a worker that starts or works."""
        ready, _ = self._ray.wait(list(self._workers), timeout=timeout)
        if not ready:
            return None
        handle = ready[0]
        worker = self._workers.pop(handle)
        try:
            message = self._ray.get(next(handle) if hasattr(handle, "__next__") else handle)
        except self._ray.exceptions.RayError as error:  # the worker, its node, or what it had sent is gone
            self._ray.kill(worker)
            return worker, Died(f"because: {describe_error(getattr(error, 'cause', error))}".splitlines()[0])
        if isinstance(message, Answer) and not message.done:
            self._workers[handle] = worker
        return worker, message

    def close(self, busy: list[Any], idle: list[Any], /) -> None:
        """End all actors."""
        for worker in [*busy, *idle]:
            self._ray.kill(worker)
        self._workers = {}


@contextmanager
def joined(address: str | None, /) -> Iterator[Any]:
    """Ray, connected to a cluster; one that this program has joined before is used, and not left.

    Raises:
        ValueError: Ray is not installed, or no cluster answers at the address.
    """
    try:
        ray = importlib.import_module("ray")
    except ImportError:
        raise ValueError("the Ray engine needs Ray: pip install 'drawstream[cluster]'") from None
    if ray.is_initialized():
        yield ray
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a cluster that is started here reports to nobody
    try:
        _require_listener(address)
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, RuntimeError, ValueError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(f"no Ray cluster answers at {address or 'this machine'}: {reason}") from None
    try:
        yield ray
    finally:
        ray.shutdown()


def _require_listener(address: str | None) -> None:
    """Fail fast if the address is closed; Ray itself would retry for minutes."""
    host, _, port = (address or "").rpartition(":")
    if host and "/" not in host:
        socket.create_connection((host, int(port)), timeout=10).close()


def places_of(ray: Any, device: str, threads: int | None, /) -> tuple[int, int]:
    """Cores per worker, and how many workers the cluster has room for.

    Raises:
        ValueError: For none.
    """
    nodes = [(int(n["Resources"].get("CPU", 0)), int(n["Resources"].get("GPU", 0))) for n in ray.nodes() if n["Alive"]]
    if device == "gpu":
        nodes = [(cpus, gpus) for cpus, gpus in nodes if cpus and gpus]
        cores = threads or max(1, min((cpus // gpus for cpus, gpus in nodes), default=1))
        places = sum(min(gpus, cpus // cores) for cpus, gpus in nodes)
    else:
        here = importlib.import_module("torch").get_num_threads
        cores = threads or min([here(), *(cpus for cpus, _ in nodes if cpus)])
        places = sum(cpus // cores for cpus, _ in nodes)
    if not places:
        what = f"{cores} cores" + (" and a GPU" if device == "gpu" else "")
        raise ValueError(f"the Ray cluster has no node with {what}: its nodes have (cores, GPUs) {nodes}")
    return cores, places
