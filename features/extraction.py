"""Score every sample once: model over shards, one part per shard; a killed extraction goes on where it was.

    this process                                  a worker on Ray (an actor with `threads` cores, or a GPU)
    shards to do ──────────number──────────────▶  opens the catalog by its path, keeps model and loader
    write_part  ◀──rows so far …, columns───────  ShardScorer.score
Nodes must see the shards under the same path; they share no output folder. Values are those of this process bit for bit
where a worker computes as it would: on the same kind of processor, with as many torch threads.
"""

import importlib
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from drawstream.features.options import Scoring, provenance
from drawstream.features.shard_scorer import EMBEDDING, ShardScorer, kept_samples
from drawstream.features.table import (
    FeatureTable,
    has_embedding,
    merge_embedding,
    part_path,
    read_provenance,
    remove_abandoned,
    require_same,
    write_embedding_part,
    write_part,
)
from drawstream.pipeline import shown
from drawstream.pipeline.shards import Catalog
from drawstream.pipeline.workers import ATTEMPTS, WorkerError, Workers, open_workers
from drawstream.samplers import check_groups

PULSE = 0.5  # seconds between a worker's reports

Columns = dict[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Progress:
    """How far an extraction is.

    Attributes:
        done: Rows scored so far, with those found from before.
        rows: All rows.
    """

    done: int
    rows: int


@check_groups({}, workers=Workers)
def extract_features(
    catalog: Catalog,
    model: nn.Module,
    out: Path,
    /,
    *,
    model_name: str,
    workers: Workers = Workers(),
    progress: Callable[[Progress], None] | None = None,
    **options: Any,
) -> FeatureTable:
    """Write the feature table of a catalog, one Parquet part per shard.

    Parts that are there from a run with the same provenance are kept, whatever its engine; each batch lies within one
    shard, so the parts of a resumed run have the same bytes as those of an undisturbed one.

    Args:
        catalog: The samples to score. On Ray its folder must lie under the same path on every node, or its URL be in
            reach.
        model: Gives logits (n, classes); it is put into evaluation mode and moved to the device. On Ray it is sent to
            the workers, which must be able to import its class.
        out: Folder of the table, on this machine; made where missing.
        model_name: How the model was named by the user; part of the provenance.
        workers: This process, with that many DALI threads, or the workers of a Ray cluster.
        progress: Called after each batch, on Ray twice a second for each worker; rows of a shard that was lost are
            taken back.
        **options: Fields of `Scoring`.

    Raises:
        ValueError: The model gives another number of classes or values that are not finite, `out` holds parts of
            another extraction, `workers` are several without Ray, no cluster answers or has room, or a node has no
            such catalog.
        WorkerError: On Ray a shard failed, or its workers died, three times; or no worker was left.
    """
    if workers.local and (workers.count or 1) > 1:
        raise ValueError(
            "an extraction by several workers of this machine runs on Ray: give "
            f"`Workers({workers.count}, engine='ray')`, or `Workers(threads=…)` for one"
        )
    scoring = Scoring(**options)
    made = provenance(catalog, model, scoring, model_name=model_name)
    shards = missing_shards(catalog, out, made)
    if workers.local:
        with ShardScorer(catalog, model, scoring, threads=workers.threads) as scorer:
            write_shards(scorer, shards, out, made, progress=progress)
    else:
        remote = RemoteScorer.of(catalog, model, scoring)
        write_shards_on_ray(catalog, remote, shards, out, made, workers=workers, progress=progress)
    return finish_table(out, made)


def finish_table(out: Path, made: Mapping[str, Any], /) -> FeatureTable:
    """Open a table whose parts are all there; one process brings its embeddings into one file."""
    table = FeatureTable.open(out)
    if made.get("embedding"):
        merge_embedding(out, table.fingerprint, made)
    return table


def missing_shards(catalog: Catalog, out: Path, made: Mapping[str, Any], /) -> list[int]:
    """Make the folder, clear what killed writers left in it, and say which shards have no part yet.

    Raises:
        ValueError: A part is there, of another provenance; both sides are shown.
    """
    out.mkdir(parents=True, exist_ok=True)
    remove_abandoned(out)
    return lacking_shards(catalog, out, made)


def lacking_shards(catalog: Catalog, out: Path, made: Mapping[str, Any], /) -> list[int]:
    """Which shards have no part yet; nothing is written. Errors as `missing_shards`."""
    missing = []
    for shard in range(len(catalog.shards)):
        part = part_path(out, shard)
        if part.exists():
            require_same(read_provenance(part), made, part)
        if not part.exists() or (made.get("embedding") and not has_embedding(out, shard, made)):
            missing.append(shard)
    return missing


def write_shards(
    scorer: ShardScorer,
    shards: Sequence[int],
    out: Path,
    made: Mapping[str, Any],
    /,
    *,
    progress: Callable[[Progress], None] | None = None,
) -> None:
    """Score these shards and write their parts; the parts of other processes in the folder count as done, too."""
    for shard in shards:
        done = _rows_there(scorer, out)

        def count(batch: int) -> None:
            nonlocal done
            done += batch
            if progress:
                progress(Progress(done, scorer.rows))

        _write_columns(out, shard, scorer.score(shard, on_batch=count), made)


def _write_columns(out: Path, shard: int, columns: Columns, made: Mapping[str, Any]) -> None:
    """Write the embeddings of a shard, if there are some, and then its part."""
    if EMBEDDING in columns and columns[EMBEDDING].ndim == 2:
        write_embedding_part(out, shard, columns[EMBEDDING], made)
        columns = {name: values for name, values in columns.items() if name != EMBEDDING}
    write_part(part_path(out, shard), columns, made)


def _rows_there(scorer: ShardScorer, out: Path) -> int:
    names = {path.name for path in out.iterdir()}
    return sum(scorer.rows_of(shard) for shard in range(scorer.shards) if part_path(out, shard).name in names)


@dataclass(frozen=True)
class RemoteScorer:
    """Scores shards on some node; opened there, at the first shard.

    Attributes:
        catalog: Paths or URLs.
        fingerprint: That the catalog must have.
        model: On the CPU.
        scoring: What to compute.
        flush_denormals: Whether the computing thread takes denormal numbers for zero.
    """

    catalog: tuple[str, ...]
    fingerprint: str
    model: nn.Module
    scoring: Scoring
    flush_denormals: bool

    @classmethod
    def of(cls, catalog: Catalog, model: nn.Module, scoring: Scoring, /) -> "RemoteScorer":
        """The scorer that computes as this thread would."""
        flushes = float(torch.tensor(1e-30) * torch.tensor(1e-10)) == 0.0  # torch can set that, but does not say it
        return cls(catalog.places, catalog.fingerprint, model.cpu(), scoring, flushes)

    def __call__(self, shard: int, /) -> Generator[int, None, Columns]:
        """Yield the number of rows scored so far every now and then, and return the columns.

        Raises:
            ValueError: There is no such catalog on this node, or another one; or as `ShardScorer.score`.
            RuntimeError: Anything else, with the node's name.
        """
        rows = 0

        def count(batch: int) -> None:
            nonlocal rows
            rows += batch

        with _errors_of_node():
            scored = self._thread.submit(self._scorer.score, shard, on_batch=count)
            while not wait([scored], timeout=PULSE).done:
                yield rows
            return scored.result()

    @cached_property
    def _scorer(self) -> ShardScorer:
        try:
            catalog = Catalog.open(*self.catalog, classes="union")
        except (OSError, RuntimeError, ValueError) as error:
            raise ValueError(f"node {_node()}: {error}; every node must see the data under the same path") from None
        if catalog.fingerprint != self.fingerprint:
            places = ", ".join(map(shown, self.catalog))
            raise ValueError(
                f"node {_node()}: {places} has the fingerprint {catalog.fingerprint}, but on the machine "
                f"that started this it is {self.fingerprint}: copy the data anew"
            )
        return ShardScorer(catalog, self.model, self.scoring, threads=torch.get_num_threads())

    @cached_property
    def _thread(self) -> ThreadPoolExecutor:
        """The thread that computes, with the settings of torch that decide bits; both belong to a thread."""
        threads = torch.get_num_threads()

        def set_up() -> None:
            torch.set_num_threads(threads)
            torch.set_flush_denormal(self.flush_denormals)

        return ThreadPoolExecutor(1, initializer=set_up)


@contextmanager
def _errors_of_node() -> Iterator[None]:
    """Errors that would come back anywhere stay ValueErrors; all others get the node's name, and are tried again."""
    try:
        yield
    except Exception as error:
        if isinstance(error, ValueError) and not isinstance(error, RuntimeError):
            raise
        text = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise RuntimeError(f"node {_node()}: {text}") from None


def _node() -> str:
    """Address of the machine that this process runs on."""
    return str(importlib.import_module("ray").util.get_node_ip_address())


def write_shards_on_ray(
    catalog: Catalog,
    scorer: RemoteScorer,
    shards: Sequence[int],
    out: Path,
    made: Mapping[str, Any],
    /,
    *,
    workers: Workers,
    progress: Callable[[Progress], None] | None = None,
) -> None:
    """Score these shards on the cluster and write their parts here; the rows of all others count as done.

    Raises:
        ValueError, WorkerError: As `extract_features`.
    """
    if not shards:
        return
    name = {shard: f"shard {catalog.shards[shard].path}" for shard in shards}
    each = scorer.scoring.rows_per_sample
    bounds = [catalog.shard_rows(shard) for shard in range(len(catalog.shards))]
    kept = kept_samples(catalog, scorer.scoring.where)
    if kept is not None:
        bounds = [(first, last) for first, last in np.searchsorted(kept, bounds).tolist()]
    whole = sum(stop - start for start, stop in bounds) * each
    rows = [0 if shard in name else (stop - start) * each for shard, (start, stop) in enumerate(bounds)]
    left, failures = set(shards), Counter[int]()
    options: dict[str, Any] = {"what": "the model", "name": name.__getitem__, "device": scorer.scoring.device}
    most = min(workers.count or len(shards), len(shards))
    with open_workers(scorer, replace(workers, count=most), **options) as pool:
        for shard in shards:
            pool.start(shard)
        while left:
            answer = pool.next()
            shard, error = answer.task, answer.error
            if error is not None:
                failures[shard] += 1
                if isinstance(error, ValueError):
                    raise error
                if failures[shard] == ATTEMPTS:
                    raise WorkerError(f"{name[shard]} failed {ATTEMPTS} times, the last time: {error}")
                pool.start(shard)
            rows[shard] = 0 if error else len(answer.value["sample_id"]) if answer.done else answer.value
            if progress:
                progress(Progress(sum(rows), whole))
            if answer.done and not error:
                left.remove(shard)
                _write_columns(out, shard, answer.value, made)
