"""Index streams as samplers of PyTorch, for a loop that keeps a DataLoader of its own.

    sampler = StreamBatchSampler(IndexStream(weights, seed=0), batch_size=32, rank=rank, world_size=world_size)
    loader = DataLoader(dataset, batch_sampler=sampler)
    for epoch in range(90):
        sampler.set_epoch(epoch)
        for batch in loader: ...

They take the place of `DistributedSampler` or `WeightedRandomSampler`; each rank draws its own rows only. A sampler
knows what it was asked for, not what the loop was given, and workers ask ahead. So a state is refused once a DataLoader
with workers has asked; `StreamDataLoader` has an exact one. torchdata's StatefulDataLoader saves the state of a sampler
together with the batch (tried with 0.11, with workers too).
"""

import sys
import weakref
from collections.abc import Iterator, Mapping
from types import FrameType
from typing import Any, SupportsIndex, TypeVar

from numpy.typing import ArrayLike
from torch.utils.data import DistributedSampler, Sampler
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from drawstream.pipeline.numbers import whole
from drawstream.pipeline.place import FRAMEWORKS, Follower, Place, Stream
from drawstream.pipeline.reading import Batching, Plan
from drawstream.samplers.orders import RowSampler

__all__ = ["StreamBatchSampler", "StreamSampler"]

_LIBRARIES = ("torch", "torchdata", *FRAMEWORKS)
_Item = TypeVar("_Item", int, list[int])


class _Sampler(Follower, Sampler[_Item]):
    """A sampler that a DataLoader of the user asks for rows: those of one rank.

    Args:
        stream: The stream to follow; of weights, float (rows,), or a row sampler an `IndexStream` is made.
        batch_size: Rows per step and rank.
        rank: This rank, in [0, world_size).
        world_size: Number of ranks.
        drop_last: Leave out the last, smaller step. Otherwise every rank gets the same, smaller number of rows, so up
            to world_size - 1 draws at the end of an epoch are left out.
    """

    def __init__(
        self,
        stream: Stream | RowSampler | ArrayLike,
        /,
        *,
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        drop_last: bool = False,
    ) -> None:
        batching = Batching(batch_size, rank, world_size, drop_last, even=True)
        self.batch_size, self.rank, self.world_size = batching.batch_size, batching.rank, batching.world_size
        self.drop_last = drop_last
        self._place = Place("sampler", stream, batching, what="rows in the stream that it was made with")
        self._within = 0  # rows given of the step at the place
        self._first = 0  # of them, those given before a restored place
        self._ahead = ""  # who asks for rows before the loop is given them
        self._reader: weakref.ref[Any] | None = None  # the DataLoader's iterator with workers that asked last
        if self.rows < 1:
            raise ValueError(
                f"an epoch must fill one step of {self.world_size} ranks, but has {self.stream.draws} draws: draw "
                "more, or take smaller batches"
            )

    @property
    def sampler(self) -> "_Sampler[_Item]":
        """Itself: here Lightning and Accelerate look for `set_epoch`."""
        return self

    @property
    def rows(self) -> int:
        """Rows of this rank in an epoch."""
        steps, rest = divmod(self.stream.draws, self._place.batching.global_batch)
        return int(steps * self.batch_size + (0 if self.drop_last else rest // self.world_size))

    def set_epoch(self, epoch: SupportsIndex) -> None:
        """Go to the start of an epoch; right after `load_state_dict` of the same epoch the place is kept.

        Raises:
            TypeError: The epoch is not a whole number.
            ValueError: It is negative, or the workers of a DataLoader have already asked for rows of another epoch.
        """
        number = whole("epoch", epoch, least=0)
        if self._is_begun():
            if number == self._place.epoch:
                return
            raise ValueError(
                f"set_epoch({number}) comes after workers of a DataLoader asked for rows of epoch {self._place.epoch}, "
                "as in Lightning when it resumes: use StreamDataLoader(dataset, stream, …), which waits for it"
            )
        self._place.set_epoch(number)
        if not self._place.runs:
            self._within, self._ahead = self._first if self._place.resumed else 0, ""

    def state_dict(self) -> dict[str, Any]:
        """JSON-able: the stream's fingerprint, the epoch, and the global position up to which rows were given.

        Within a step (`StreamSampler` alone) also how many of its rows were given, of which batch size and ranks.

        Raises:
            ValueError: Rows were asked for ahead of the loop, so the place is not the loop's.
        """
        if self._ahead:
            raise ValueError(
                f"a sampler does not know its place, for {self._ahead} before the loop is given them: use "
                "StreamDataLoader(dataset, stream, batch_size=…, num_workers=…), whose state is exact"
            )
        return super().state_dict() | ({"within": self._within} if self._within else {})

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken, also with another batch size or number of ranks.

        Raises:
            ValueError: The state belongs to another stream, stands within a step of others, or is no state.
        """
        within = state.get("within", 0) if isinstance(state, Mapping) else 0
        if within or type(within) is not int:
            mine = {"batch_size": self.batch_size, "world_size": self.world_size}
            saved = {name: state.get(name) for name in mine}
            if saved != mine or not (type(within) is int and 0 < within < self.batch_size):
                raise ValueError(
                    f"this state stands within a step, after {within} rows of {saved}, and here it is {mine}: "
                    "resume with the same numbers, or save between two batches"
                )
        super().load_state_dict(state)
        self._within = self._first = within
        self._ahead = ""

    def _pass(self) -> Iterator[tuple[Plan, int, list[int], int]]:
        """Yield plan, step and rows of each step, and how many of these rows were given before."""
        divided = self._look_at(_askers(sys._getframe(2)))  # who waits for the generator that iterates this one
        within = self._within = self._first if self._place.resumed else 0
        plan = self._place.begin(divided=divided)
        with self._place.leaving(plan):
            for step in range(len(plan)):
                if step and not self._ahead:  # a loop asks for a second batch, and not a worker
                    self._place.go_on(plan)
                a, b = plan.positions(step)
                yield plan, step, plan.order[a:b].tolist(), within
                within = 0
            self._place.go_on(plan)

    def _look_at(self, askers: Iterator[Any]) -> bool:
        """Note whether rows are asked for ahead of the loop; return whether a framework divides them among processes.

        Raises:
            ValueError: It divides what is one rank's part already.
        """
        self._ahead, self._reader, divided = "", None, False
        for owner in askers:
            kind = type(owner).__name__
            if isinstance(owner, _MultiProcessingDataLoaderIter):
                self._ahead, self._reader = "a DataLoader with workers asks for rows", weakref.ref(owner)
            elif kind in ("DataLoaderShard", "DataLoaderDispatcher", "_DatasetSamplerWrapper"):
                self._ahead = self._ahead or "a framework asks for rows"
            dispatches = kind == "DataLoaderDispatcher" and owner.state.num_processes > 1  # one process asks for all
            divided |= kind in ("BatchSamplerShard", "_DatasetSamplerWrapper") or dispatches
        if divided and self.world_size > 1:
            raise ValueError(
                f"a framework would divide once more what is the part of rank {self.rank} of {self.world_size}: leave "
                "the DataLoader out of accelerator.prepare, set Lightning's Trainer(use_distributed_sampler=False), or "
                "make the sampler without rank and world_size"
            )
        return divided

    def _is_begun(self) -> bool:
        """Check whether the workers of a DataLoader that has given no batch yet have asked for rows."""
        reader = None if self._reader is None else self._reader()
        return reader is not None and reader._rcvd_idx == 0  # not even a batch that failed


class StreamSampler(_Sampler[int]):
    """Row numbers one by one; give the DataLoader the same `batch_size`, so that its batches are the stream's."""

    def __new__(cls, *_: Any, **options: Any) -> "StreamSampler":  # noqa: D102
        ranks = cls is StreamSampler and options.get("world_size", 1) != 1
        return super().__new__(_RankSampler if ranks else cls)

    def __len__(self) -> int:
        return self.rows

    def __iter__(self) -> Iterator[int]:
        for plan, step, rows, within in self._pass():
            for number, row in enumerate(rows[within:], within + 1):
                if self._place.plan is plan:
                    self._within = number % len(rows)
                    if number == len(rows):
                        self._place.move(plan, step)
                yield row


class _RankSampler(StreamSampler, DistributedSampler[int]):
    """The part of one rank of several: by this name Lightning knows that rows are divided, and does not do it again."""


class StreamBatchSampler(_Sampler[list[int]]):
    """Lists of row numbers, one per step: for `DataLoader(dataset, batch_sampler=…)`."""

    def __len__(self) -> int:
        return -(-self.rows // self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        for plan, step, rows, within in self._pass():
            if self._place.plan is plan:
                self._within = 0
                self._place.move(plan, step)
            yield rows[within:]


def _askers(frame: FrameType | None) -> Iterator[Any]:
    """Yield the loaders and samplers of these libraries that wait for the next row, the nearest first."""
    while frame is not None and frame.f_globals.get("__name__", "").split(".")[0] in _LIBRARIES:
        yield frame.f_locals.get("self")
        frame = frame.f_back
