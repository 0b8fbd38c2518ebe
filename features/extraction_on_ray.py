"""Extraction on a Ray cluster: shards go out, columns come back, and this process writes the parts.

    driver (this process)                         worker (a Ray actor with `threads` cores, or a GPU)
    shards to do ──────────number──────────────▶  opens the catalog by its path, keeps model and loader
    write_part  ◀──rows so far …, columns───────  ShardScorer.score

Nodes must see the shards under the same path; they share no output folder. A worker or node that dies gives its shard
back to the queue and another worker takes its place when there is room. Values are those of `extract` bit for bit where
a worker computes as this process would: on the same kind of processor, with as many torch threads.
"""

import importlib
import logging
import os
import socket
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import nn

from drawstream.features.extraction import Progress, missing_shards
from drawstream.features.options import Scoring, provenance
from drawstream.features.shard_scorer import ShardScorer
from drawstream.features.table.table import FeatureTable, part_path, write_part
from drawstream.pipeline import Catalog
from drawstream.pipeline.secrets import shown
from drawstream.samplers.errors import DrawstreamError

ATTEMPTS = 3  # of a shard: one may fall with its node, and the next with the memory of another
PULSE = 0.5  # seconds between a worker's reports
PATIENCE = 300.0  # seconds without any worker before giving up; a node that comes back needs less than a minute

Columns = dict[str, NDArray[Any]]


class ClusterError(DrawstreamError, RuntimeError):
    """The cluster cannot finish the extraction; parts that are written stay, and the next run goes on from them."""


@dataclass(frozen=True, slots=True)
class _Job:
    """Settings of a worker. The model is not among them: Ray stores it once per node."""

    catalog: str
    fingerprint: str
    scoring: Scoring
    threads: int
    flush_denormals: bool


def extract_on_ray(
    catalog: Catalog,
    model: nn.Module,
    out: Path,
    /,
    *,
    model_name: str,
    address: str | None = None,
    threads: int | None = None,
    progress: Callable[[Progress], None] | None = None,
    **options: Any,
) -> FeatureTable:
    """Do what `extract` does with the workers of a Ray cluster; either goes on where the other was stopped.

    Args:
        catalog: The samples; its folder must lie under the same path on every node, or its URL be in reach.
        model: As in `extract_features`; it is moved to the CPU and sent to the workers, which must be able to import
            its class.
        out: Folder of the table, needed on this machine only.
        model_name: How the model was named by the user; part of the provenance.
        address: Of a running cluster (`host:6379`, `auto`); None: the one this program has joined, that of
            `RAY_ADDRESS`, or a new one on this machine.
        threads: Cores per worker; by default as many as torch uses here, or all of the smallest node if it has fewer.
        progress: Called twice a second for each worker; rows of a shard that was lost are taken back.
        **options: Fields of `Scoring`.

    Raises:
        ValueError: As in `extract_features`; or no cluster answers, or it has no free place for a worker, or a node has
            no such catalog.
        ClusterError: A shard failed, or its workers died, three times; or no worker was left.
    """
    scoring = Scoring(**options)
    made = provenance(catalog, model, scoring, model_name=model_name)
    shards = missing_shards(catalog, out, made)
    write_shards_on_ray(catalog, model, scoring, shards, out, made, address=address, threads=threads, progress=progress)
    return FeatureTable.open(out)


def write_shards_on_ray(
    catalog: Catalog,
    model: nn.Module,
    scoring: Scoring,
    shards: Sequence[int],
    out: Path,
    made: Mapping[str, Any],
    /,
    *,
    address: str | None = None,
    threads: int | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> None:
    """Score these shards on the cluster and write their parts here; the rows of all others count as done."""
    if not shards:
        return
    with joined(address) as ray:
        cores, places = places_of(ray, scoring.device, threads)
        where = catalog.remote or str(catalog.path.absolute())
        job = _Job(where, catalog.fingerprint, scoring, cores, _flushes_denormals())
        crew = _Crew(ray, catalog, job, model, min(places, len(shards)))
        try:
            for shard, columns in crew.score(shards, progress):
                write_part(part_path(out, shard), columns, made)
        finally:
            crew.dismiss()


class Worker:
    """Scores shards on some node; lives in a process of its own as a Ray actor."""

    def open(self, job: _Job, model: nn.Module) -> None:
        """Open the catalog here and keep the model.

        Raises:
            ValueError: There is no such catalog on this node, or another one.
        """
        node = _node()
        try:
            catalog = Catalog.open(job.catalog)
        except (OSError, RuntimeError, ValueError) as error:
            raise ValueError(f"node {node}: {error}; every node must see the data under the same path") from None
        if catalog.fingerprint != job.fingerprint:
            raise ValueError(
                f"node {node}: {shown(job.catalog)} has the fingerprint {catalog.fingerprint}, but on the machine that "
                f"started this it is {job.fingerprint}: copy the data anew"
            )
        with _plain_errors():
            self._scorer = ShardScorer(catalog, model, job.scoring, threads=job.threads)
        self._thread = ThreadPoolExecutor(1, initializer=_like_the_driver, initargs=(job,))

    def score(self, shard: int) -> Iterator[int | Columns]:
        """Yield the number of rows scored so far every now and then, and the columns at last."""
        rows = 0

        def count(batch: int) -> None:
            nonlocal rows
            rows += batch

        scored = self._thread.submit(self._scorer.score, shard, on_batch=count)
        while not wait([scored], timeout=PULSE).done:
            yield rows
        with _plain_errors():
            yield scored.result()


@contextmanager
def _plain_errors() -> Iterator[None]:
    """Errors as types that can travel: many exceptions cannot be unpickled."""
    try:
        yield
    except Exception as error:
        if isinstance(error, ValueError) and not isinstance(error, RuntimeError):
            raise ValueError(str(error)) from None
        raise RuntimeError(f"node {_node()}: {_line(error)}") from None


def _node() -> str:
    """Address of the machine that this process runs on."""
    return str(importlib.import_module("ray").util.get_node_ip_address())


def _like_the_driver(job: _Job) -> None:
    """Settings of torch that decide bits; both belong to the thread that computes."""
    torch.set_num_threads(job.threads)
    torch.set_flush_denormal(job.flush_denormals)


def _flushes_denormals() -> bool:
    """Whether this thread takes denormal numbers for zero; torch can set that, but does not say it."""
    return float(torch.tensor(1e-30) * torch.tensor(1e-10)) == 0.0


@contextmanager
def joined(address: str | None) -> Iterator[Any]:
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
        _knock(address)
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, RuntimeError, ValueError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(f"no Ray cluster answers at {address or 'this machine'}: {reason}") from None
    try:
        yield ray
    finally:
        ray.shutdown()


def _knock(address: str | None) -> None:
    """Fail fast if the address is closed; Ray itself would retry for minutes."""
    host, _, port = (address or "").rpartition(":")
    if host and "/" not in host:
        socket.create_connection((host, int(port)), timeout=10).close()


def places_of(ray: Any, device: str, threads: int | None) -> tuple[int, int]:
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
        cores = threads or min([torch.get_num_threads(), *(cpus for cpus, _ in nodes if cpus)])
        places = sum(cpus // cores for cpus, _ in nodes)
    if not places:
        what = f"{cores} cores" + (" and a GPU" if device == "gpu" else "")
        raise ValueError(f"the Ray cluster has no node with {what}: its nodes have (cores, GPUs) {nodes}")
    return cores, places


@dataclass(frozen=True, slots=True)
class _Task:
    """A worker's current task: opening the model if it has no shard, else scoring the shard."""

    worker: Any
    shard: int | None = None


class _Crew:
    """The workers; each gets one shard after the other."""

    def __init__(self, ray: Any, catalog: Catalog, job: _Job, model: nn.Module, size: int) -> None:
        self._ray, self._catalog, self._job = ray, catalog, job
        try:
            self._model = ray.put(model.cpu())
        except TypeError as error:
            reason = _line(error.__cause__ or error)  # Ray's own text shows the whole model
            raise ValueError(f"the model cannot be sent to other processes: {reason}") from None
        gpus = 1 if job.scoring.device == "gpu" else 0
        self._actor = ray.remote(Worker).options(num_cpus=job.threads, num_gpus=gpus, scheduling_strategy="SPREAD")
        self._tasks: dict[Any, _Task] = {}  # by what Ray waits for
        self._idle: list[Any] = []
        self._failures: Counter[int | None] = Counter()  # by shard; None: starts in a row
        for _ in range(size):
            self._hire()

    def score(
        self, shards: Sequence[int], progress: Callable[[Progress], None] | None
    ) -> Iterator[tuple[int, Columns]]:
        """Yield the columns of each shard as they come.

        Raises:
            ValueError: The data or the model are refused by a worker.
            ClusterError: A shard failed too often, or there are no workers.
        """
        queue, left, catalog = deque(shards), set(shards), self._catalog
        each = self._job.scoring.rows_per_sample
        rows = dict.fromkeys(range(len(catalog.shards)), 0)  # scored so far
        for shard in rows.keys() - left:
            start, stop = catalog.shard_rows(shard)
            rows[shard] = (stop - start) * each
        while left:
            while self._idle and queue:
                shard = queue.popleft()
                worker = self._idle.pop()
                self._tasks[worker.score.options(num_returns="streaming").remote(shard)] = _Task(worker, shard)
            task, answer = self._next()
            if task.shard is None:
                continue
            if answer is None:
                queue.append(task.shard)
            rows[task.shard] = answer if isinstance(answer, int) else len(answer["sample_id"]) if answer else 0
            if progress:
                progress(Progress(sum(rows.values()), len(catalog) * each))
            if isinstance(answer, dict):
                left.remove(task.shard)
                yield task.shard, answer

    def dismiss(self) -> None:
        """End all workers, also those at work."""
        for worker in [*self._idle, *(task.worker for task in self._tasks.values())]:
            self._ray.kill(worker)
        self._idle, self._tasks = [], {}

    def _hire(self) -> None:
        """Ask for one more worker; it may have to wait for room."""
        worker = self._actor.remote()
        self._tasks[worker.open.remote(self._job, self._model)] = _Task(worker)

    def _next(self) -> tuple[_Task, int | Columns | None]:
        """The next answer of a worker: rows so far, columns, or None for one that opened or failed."""
        working = any(task.shard is not None for task in self._tasks.values())
        ready, _ = self._ray.wait(list(self._tasks), timeout=None if working else PATIENCE)
        if not ready:
            raise ClusterError(f"no worker could start within {PATIENCE:g} s: see `ray status` for what is missing")
        handle = ready[0]
        task = self._tasks.pop(handle)
        errors = self._ray.exceptions
        try:
            answer = self._ray.get(handle if task.shard is None else next(handle))
        except errors.RayTaskError as error:
            self._idle.append(task.worker)
            self._refused(task, error)
            return task, None
        except errors.RayError as error:  # the worker, its node, or what it had sent is gone
            self._ray.kill(task.worker)
            self._count(task, f"its worker died ({_line(error)})")
            self._hire()
            return task, None
        self._failures[None] = 0
        if isinstance(answer, int):
            self._tasks[handle] = task
        else:
            self._idle.append(task.worker)
        return task, answer

    def _refused(self, task: _Task, error: Any) -> None:
        """An exception of the worker's: what would come back anywhere is raised, the rest is tried again."""
        cause = error.cause
        if isinstance(cause, ValueError):
            raise ValueError(str(cause)) from None
        if task.shard is None:
            raise ClusterError(f"a worker cannot start: {_line(cause)}")
        self._count(task, _line(cause))

    def _count(self, task: _Task, reason: str) -> None:
        self._failures[task.shard] += 1
        if self._failures[task.shard] >= ATTEMPTS:
            what = "starting a worker" if task.shard is None else f"shard {self._catalog.shards[task.shard].path}"
            raise ClusterError(f"{what} failed {ATTEMPTS} times, the last time: {reason}")


def _line(error: BaseException) -> str:
    """The first line of what an error says."""
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
