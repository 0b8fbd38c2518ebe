"""Index streams as PyTorch samplers, for any map-style dataset and `torch.utils.data.DataLoader`.

    sampler = StreamSampler(IndexStream(weights, seed=0), batch_size=32, rank=rank, world_size=world_size)
    loader = DataLoader(dataset, batch_size=32, sampler=sampler)
    for epoch in range(90):
        sampler.set_epoch(epoch)
        for batch in loader: ...

They stand where `DistributedSampler` or `WeightedRandomSampler` stood: `set_epoch` is the same, and each rank draws its
own rows only. Weights may differ from epoch to epoch: assign another stream to `sampler.stream`, or let the stream
follow a row sampler. `state_dict` serves torchdata's StatefulDataLoader (tried with 0.11, with workers too), which
saves it at the batch it has delivered, not at the one it has prefetched.
"""

from abc import abstractmethod
from collections.abc import Iterator
from typing import Any, TypeVar

from torch.utils.data import Sampler

from drawstream.samplers import IndexStream, Sequential

__all__ = ["StreamBatchSampler", "StreamSampler"]

_Item = TypeVar("_Item", int, list[int])


class _StreamOrder(Sampler[_Item]):
    """The steps of one rank, and where in them it is.

    Args:
        stream: what to follow; may be replaced between epochs.
        batch_size: rows per step and rank.
        rank: this rank, in [0, world_size).
        world_size: number of ranks.
        drop_last: leave out the last, smaller step. Otherwise every rank gets the same, smaller number of rows, so up
            to world_size - 1 draws at the end of an epoch are left out.

    Raises:
        ValueError: a number is out of its range, or an epoch has too few draws for one step.
    """

    def __init__(
        self,
        stream: IndexStream | Sequential,
        /,
        *,
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        drop_last: bool = False,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size >= 1 must hold, but got {batch_size}")
        if not 0 <= rank < world_size:
            raise ValueError(f"0 <= rank < world_size must hold, but got {rank=} and {world_size=}")
        self.stream, self.batch_size, self.drop_last = stream, batch_size, drop_last
        self.rank, self.world_size = rank, world_size
        self.epoch = self._done = self._resume = 0
        if self.rows < 1:
            raise ValueError(
                f"an epoch must fill one step of {world_size} ranks, but has {stream.draws} draws: draw more, or take "
                "smaller batches"
            )

    @property
    def rows(self) -> int:
        """Rows of this rank in an epoch."""
        steps, rest = divmod(self.stream.draws, self.batch_size * self.world_size)
        return steps * self.batch_size + (0 if self.drop_last else rest // self.world_size)

    def set_epoch(self, epoch: int) -> None:
        """Go to the start of an epoch."""
        self.epoch, self._done, self._resume = epoch, 0, 0

    def state_dict(self) -> dict[str, Any]:
        """Fingerprint of the stream, epoch, and how many rows of it this rank has been given."""
        return {"fingerprint": self.stream.fingerprint, "epoch": self.epoch, "done": self._done}

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        """Go on where `state_dict` was taken.

        Raises:
            ValueError: the state belongs to another stream.
        """
        if state["fingerprint"] != self.stream.fingerprint:
            raise ValueError(
                f"a state resumes its own stream only, but it was saved for {state['fingerprint']} and this is "
                f"{self.stream.fingerprint}: build the stream with the same weights, mode, seed and draws"
            )
        self.epoch, self._done, self._resume = state["epoch"], state["done"], state["done"]

    def _steps(self) -> Iterator[list[int]]:
        """The rows left of the epoch, step by step."""
        order, rows = self.stream.epoch(self.epoch), self.rows
        done, self._resume = self._resume, 0
        while done < rows:
            step, within = divmod(done, self.batch_size)
            size = min(self.batch_size, rows - step * self.batch_size)
            first = step * self.batch_size * self.world_size + self.rank * size
            self._done = done + size - within
            yield order[first + within : first + size].tolist()
            done += size - within

    @abstractmethod
    def __iter__(self) -> Iterator[_Item]: ...


class StreamSampler(_StreamOrder[int]):
    """Row numbers one by one; give the DataLoader the same `batch_size`, so that its batches are the stream's."""

    def __len__(self) -> int:
        return self.rows

    def __iter__(self) -> Iterator[int]:
        for rows in self._steps():
            self._done -= len(rows)
            for row in rows:
                self._done += 1
                yield row


class StreamBatchSampler(_StreamOrder[list[int]]):
    """Lists of row numbers, one per step: for `DataLoader(dataset, batch_sampler=…)`."""

    def __len__(self) -> int:
        return -(-self.rows // self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        return self._steps()
