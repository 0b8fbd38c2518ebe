"""Crops chosen online: a scoring model looks at m·B random crops of every step, and B of them are trained on.

    Loader ──m·B crops──▶ scorer ──features──▶ sampler.score ──τ──▶ Gumbel-top-B ──B crops──▶ training

The scorer is an argument, so this file knows no model and no measure: `features.CropScorer` is the one to use. On a GPU
the next step's crops are fetched and scored on a CUDA stream of their own while the current step trains; on a CPU one
thing follows the other. METHODS: "Crops" of Swift Sampler.
"""

import time
import warnings
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from fractions import Fraction
from hashlib import blake2b
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from drawstream.pipeline.batch import Batch, to_device
from drawstream.pipeline.images import key, to_unit
from drawstream.pipeline.loader import Loader
from drawstream.pipeline.place import caller
from drawstream.pipeline.reading import BadSampleError, Plan
from drawstream.pipeline.shards import Catalog
from drawstream.samplers import digest_array
from drawstream.samplers.swift import SwiftSampler

_GUMBEL = 9  # purpose of the key, beside those of `draws` (1 to 6) and `mixing` (7, 8)
_LARGEST = 1 << 20  # denominator of `keep`: 1/3 as a float becomes 1/3 again


def kept_of(count: int, share: Fraction, /) -> int:
    """Return B = ceil(share · n), exactly: the same on all ranks, for they have equally many crops."""
    return -(-count * share.numerator // share.denominator)


def gumbel(seed: int, epoch: int, start: int, count: int, /) -> NDArray[np.float64]:
    """Return standard Gumbel noise of positions [start, start + count), (count,); each depends on its position."""
    words = np.random.Philox(key=key(seed, epoch, _GUMBEL), counter=start).random_raw(4 * count)[::4]
    return -np.log(-np.log(to_unit(words) + 2.0**-54))  # the middle of each cell: never 0 nor 1


def choose(
    tau: NDArray[np.float64], real: NDArray[np.bool_], noise: NDArray[np.float64], count: int, /
) -> tuple[NDArray[np.int64], int]:
    """Choose the `count` crops with the largest keys.

    If fewer have τ > 0, those with τ = 0 follow, by their Gumbel noise alone: uniformly. Crops that are not `real`,
    which only fill up the last batch of an epoch, come last whatever their τ. All arrays are (n,).

    Returns:
        Places within the batch, int64 (B,), increasing; how many of them have τ = 0.
    """
    wanted = real & (tau > 0)
    keys = noise + np.log(tau, out=np.zeros(len(tau)), where=wanted)
    order = np.lexsort((-keys, ~wanted, ~real))  # the last one decides first
    rows = np.sort(order[:count])
    return rows, int((real & ~wanted)[rows].sum())


class Contrast:
    """Measure of how far the choice follows τ, over all steps so far.

    In each step the crops that count are ranked by τ. The wanted ratio is the mean τ of the highest quarter over that
    of the lowest, the realised ratio the crops kept of the one over those of the other.
    """

    def __init__(self) -> None:
        self._tau, self._rows = np.zeros(2), np.zeros(2)  # of dropped and kept crops
        self._wanted, self._kept = np.zeros(2), np.zeros(2)  # of the lowest and highest quarter

    def add(self, tau: NDArray[np.float64], kept: NDArray[np.bool_], /) -> None:
        """Count a step: τ and whether it was kept, of the crops that count, (n,) each."""
        order, quarter = np.argsort(tau, kind="stable"), -(-len(tau) // 4)
        for which, rows in enumerate((order[:quarter], order[len(tau) - quarter :])):
            self._tau[which] += tau[kept == which].sum()
            self._rows[which] += np.count_nonzero(kept == which)
            self._wanted[which] += tau[rows].sum()
            self._kept[which] += np.count_nonzero(kept[rows])

    def as_dict(self) -> dict[str, Any]:
        """Return mean τ of what was kept and dropped, and both ratios; None for a division by 0."""
        (low, high), (few, many) = self._wanted, self._kept
        parts = {
            "tau_kept": (self._tau[1], self._rows[1]),
            "tau_dropped": (self._tau[0], self._rows[0]),
            "wanted_ratio": (high, low),
            "realised_ratio": (many, few),
        }
        return {name: float(above / below) if below else None for name, (above, below) in parts.items()}


class Scorer(Protocol):
    """Gives the features of crops, without gradients, where the crops are."""

    @property
    def fingerprint(self) -> str:
        """Equal for scorers that give the same values."""

    def __call__(self, images: Tensor, labels: Tensor, /) -> Mapping[str, Tensor]:
        """Named features (n,) of images (n, C, H, W) with labels int64 (n,)."""


@dataclass(frozen=True, slots=True, eq=False)
class _Scored:
    """A batch whose features are on their way."""

    batch: Batch
    plan: Plan
    step: int
    values: Tensor  # float32 (F + 1, n) on the CPU: the features in the sampler's order, then the weights
    events: tuple[torch.cuda.Event, ...]  # around the scoring, on a GPU
    seconds: float  # spent scoring, on a CPU

    def wait(self) -> tuple[float, float]:
        """Wait for the values: seconds that scoring took, and those waited for it here."""
        if not self.events:
            return self.seconds, self.seconds
        began, (start, end) = time.perf_counter(), self.events
        end.synchronize()
        return start.elapsed_time(end) / 1e3, time.perf_counter() - began


class _Lane:
    """Place of the scoring: in line on a CPU, beside the training on a CUDA stream of its own."""

    def __init__(self, device: torch.device) -> None:
        self._stream: torch.cuda.Stream | None = None
        if device.type == "cuda":
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    @property
    def ahead(self) -> int:
        """Batches to begin before the one that is given."""
        return int(self._stream is not None)

    def begin(self) -> None:
        """Let earlier work, such as loading the scorer's weights, come before."""
        if self._stream is not None:
            self._stream.wait_stream(torch.cuda.current_stream(self._stream.device))

    def aside(self) -> AbstractContextManager[object]:
        """Send the work inside to the lane."""
        return nullcontext() if self._stream is None else torch.cuda.stream(self._stream)

    def score(self, batch: Batch, scorer: Scorer, names: tuple[str, ...], /, *, plan: Plan, step: int) -> _Scored:
        """Begin to score a batch; on a GPU this does not wait."""
        began, events = time.perf_counter(), []
        if self._stream is not None:
            events = [torch.cuda.Event(enable_timing=True) for _ in range(2)]  # type: ignore[no-untyped-call]
            events[0].record(self._stream)
        with self.aside():
            _keep_for_stream(batch)
            values = _stacked(scorer(batch.images, batch.labels), batch, names)
            if values.is_cuda:  # there after the event
                pinned = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
                values = pinned.copy_(values, non_blocking=True)
        if self._stream is not None:
            events[1].record(self._stream)
        return _Scored(batch, plan, step, values, tuple(events), time.perf_counter() - began)


class CropFilter:
    """Iterates batches of B = ceil(keep · n) of the n crops that a loader gives per step, chosen by a sampler.

    Choice without replacement by Gumbel-top-B, with τ from the sampler's tables. The noise belongs to (seed, epoch,
    global position) under the stream's seed, so a resumed run keeps the same crops. Kept crops stay in their order, and
    their weights are the loader's: the filter changes the distribution on purpose, and is not undone by them.

    Under several ranks each filters its own crops: all keep equally many, and a crop competes with those of its rank
    only, so another number of ranks or another batch size keeps others. An epoch has as many steps as the loader's and
    trains on `keep` of its draws: `IndexStream(rows, draws=2 * rows)` makes up for keeping half.

        >>> loader = Loader(catalog, IndexStream(len(catalog), draws=2 * len(catalog)), batch_size=256)
        >>> crops = CropFilter(loader, SwiftSampler.load("sampler.json"), CropScorer(model), keep=0.5)
        >>> for epoch in range(90):
        ...     crops.set_epoch(epoch)
        ...     for batch in crops:  # 128 crops
        ...         loss = F.cross_entropy(model(batch.images), batch.labels)
    """

    def __init__(self, loader: Loader, sampler: SwiftSampler, scorer: Scorer, /, *, keep: float = 0.5) -> None:
        """Prepare a filter; nothing is read or scored before the first batch.

        Args:
            loader: Gives m·B crops per step; its transform should crop at random.
            sampler: Gives τ of the features.
            scorer: Gives the features that the sampler reads.
            keep: Share of the crops to keep, 1/m, in (0, 1]; half as in the paper.

        Raises:
            ValueError: `keep` is out of range.
        """
        if not 0 < keep <= 1:
            raise ValueError(f"`0 < keep <= 1` must hold, but got {keep}")
        self.loader = loader
        self._sampler, self._scorer = sampler, scorer
        self._share = Fraction(keep).limit_denominator(_LARGEST)
        if not self._share:
            raise ValueError(f"`keep >= 1/{_LARGEST}` must hold, but got {keep}")
        self._contrast = Contrast()
        self._counts = dict.fromkeys(("batches", "rows_scored", "rows_kept", "rows_filled", "batches_filled"), 0)
        self._times = dict.fromkeys(("score_seconds", "score_wait_seconds"), 0.0)
        self._lane: _Lane | None = None
        self._plan: Plan | None = None
        self._position = 0
        self._warned: Plan | None = None

    def __len__(self) -> int:
        """Batches of a whole epoch, the same on every rank."""
        return len(self.loader)

    @property
    def catalog(self) -> Catalog:
        """The samples, as the loader's."""
        return self.loader.catalog

    @property
    def epoch(self) -> int:
        """Number of the epoch that the next iteration yields."""
        return self.loader.epoch

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next iteration, as `Loader.set_epoch`."""
        self.loader.set_epoch(epoch)

    def __iter__(self) -> Iterator[Batch]:
        """Yield the kept crops of each batch of the current epoch, or of its rest right after a load.

        Raises:
            BadSampleError: As the loader; the batches before it are given first.
            ValueError: The scorer does not give what the sampler reads, or values that are not finite.
        """
        begun: deque[_Scored] = deque()
        failure: BadSampleError | None = None
        try:
            for scored in self._scoring():
                begun.append(scored)
                assert self._lane is not None, "the first batch makes it"
                if len(begun) > self._lane.ahead:
                    yield self._finish(begun.popleft())
        except BadSampleError as error:
            failure = error
        while begun:
            yield self._finish(begun.popleft())
        if failure is not None:
            raise failure

    def kept(self, plan: Plan, step: int, /) -> int:
        """Return the crops that all ranks keep of a global batch, those that only fill it up left out.

        Args:
            plan: The loader's pass.
            step: Number of the batch in it.
        """
        first, m = plan.start + step * plan.batching.global_batch, len(plan.order)
        share = plan.batching.share(m - first)
        most = kept_of(share, self._share)
        return sum(min(most, max(0, m - first - rank * share)) for rank in range(plan.batching.world_size))

    @property
    def metrics(self) -> dict[str, Any]:
        """Counts and times of the filter on this rank, over all epochs, JSON-able. The loader has metrics of its own.

        `batches` (forward passes of the scorer), `rows_scored`, `rows_kept`, `rows_filled` (kept with τ = 0 for want of
        others) and `batches_filled`; `score_seconds` (on a GPU those of its stream, beside the training) and
        `score_wait_seconds`, for which the loop waited; `tau_kept` and `tau_dropped`, mean τ; `wanted_ratio`, mean τ of
        the quarter of each step with the largest τ over that of the quarter with the smallest, and `realised_ratio`,
        crops kept of the one over crops kept of the other. A ratio is None if it is infinite.
        """
        return {**self._counts, **self._times, **self._contrast.as_dict()}

    @property
    def identity(self) -> dict[str, Any]:
        """Values that must be equal in a state and in the filter that loads it, JSON-able."""
        sampler = fingerprint(self._sampler)
        own = {"keep": str(self._share), "sampler": sampler, "scorer": self._scorer.fingerprint}
        return {**self.loader.identity, "crop_filter": own}

    def state_dict(self) -> dict[str, Any]:
        """Return the JSON-able state of the loader at the batch yielded last, and what chooses."""
        state = self.loader.state_dict()
        if self._plan is not None and self.loader.plan is self._plan:  # the loader may be a batch ahead
            state["position"] = self._position
        return {**state, "crop_filter": self.identity["crop_filter"]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken. The same crops are kept if batch size and ranks are the same too.

        Raises:
            ValueError: The state belongs to another filter or none; both sides are shown. Or as the loader's.
        """
        saved, mine = state.get("crop_filter"), self.identity["crop_filter"]
        if saved != mine:
            raise ValueError(f"this state is of another crop filter: saved {saved!r}, this one has {mine!r}")
        self.loader.load_state_dict(state)

    def _scoring(self) -> Iterator[_Scored]:
        """Take the loader's batches, and begin to score each."""
        batches = iter(self.loader)
        batch = next(batches, None)
        if batch is None:
            return
        plan = self._plan = self.loader.plan
        assert plan is not None, "a loader that has given a batch is in a pass"
        self._position = plan.start
        lane = self._lane = self._lane or _Lane(batch.images.device)
        lane.begin()
        step = 0
        while batch is not None:
            self._counts["batches"] += 1
            self._counts["rows_scored"] += len(batch.ids)
            yield lane.score(batch, self._scorer, self._sampler.features, plan=plan, step=step)
            step += 1
            with lane.aside():
                batch = next(batches, None)

    def _finish(self, scored: _Scored) -> Batch:
        """Choose from a batch."""
        took, waited = scored.wait()
        self._times["score_seconds"] += took
        self._times["score_wait_seconds"] += waited
        rows = self._chosen(scored)
        self._counts["rows_kept"] += len(rows)
        if self._plan is scored.plan:
            self._position = scored.plan.end(scored.step)
        batch = scored.batch
        _keep_for_stream(batch)
        return batch.rows(to_device(rows, batch.images.device))

    def _chosen(self, scored: _Scored) -> NDArray[np.int64]:
        """Return the places within the batch to keep, int64 (B,)."""
        *features, weights = scored.values.numpy()
        plan, n, real = scored.plan, len(weights), weights > 0
        tau = self._sampler.score(dict(zip(self._sampler.features, features, strict=True)))
        noise = gumbel(plan.seed, plan.epoch, plan.positions(scored.step)[0], n)
        rows, filled = choose(tau, real, noise, kept_of(n, self._share))
        if filled:
            self._counts["rows_filled"] += filled
            self._counts["batches_filled"] += 1
            self._warn(scored, int((real & (tau > 0)).sum()), len(rows))
        kept = np.zeros(n, np.bool_)
        kept[rows] = True
        self._contrast.add(tau[real], kept[real])
        return rows

    def _warn(self, scored: _Scored, wanted: int, count: int) -> None:
        """Say once per pass that too few crops are wanted."""
        if self._warned is scored.plan:
            return
        self._warned = scored.plan
        warnings.warn(
            f"epoch {scored.plan.epoch}, step {scored.step}: only {wanted} of {len(scored.batch.ids)} crops have "
            f"tau > 0, fewer than the {count} to keep; the rest is filled uniformly, here and where it happens again "
            "in this epoch: give more crops per step, or a sampler that wants more of them",
            stacklevel=caller()[1],
        )


def fingerprint(sampler: SwiftSampler, /) -> str:
    """Return the hash of all that decides τ, 32 hex digits: equal for samplers that score alike."""
    digest = blake2b(repr((sampler.features, sampler.params, sampler.transform)).encode(), digest_size=16)
    for table in (*sampler.tables, sampler.balance):
        for values in (table.x, table.y):
            digest.update(digest_array(values).encode())
    return digest.hexdigest()


def _stacked(columns: Mapping[str, Tensor], batch: Batch, names: tuple[str, ...]) -> Tensor:
    """Stack the named columns and the batch's weights, float32 (F + 1, n)."""
    n = len(batch.ids)
    for name in names:
        if name not in columns:
            raise ValueError(f"the sampler reads {name!r}, but the scorer gives {', '.join(columns) or 'nothing'}")
        if columns[name].shape != (n,):
            raise ValueError(f"{name!r} of {n} crops must have shape ({n},), but has {tuple(columns[name].shape)}")
    return torch.stack([*(columns[name].detach().float() for name in names), batch.weights])


def _keep_for_stream(batch: Batch) -> None:
    """Tell torch's allocator that the current stream reads these tensors, which another stream may have made."""
    if batch.images.is_cuda:
        stream = torch.cuda.current_stream(batch.images.device)
        for tensor in batch.tensors:
            tensor.record_stream(stream)
