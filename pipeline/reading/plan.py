"""Which positions of an epoch a rank's batches hold: arithmetic only, the same on every rank."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from drawstream.pipeline import whole
from drawstream.samplers import whole_number

_OTHER = 4  # purpose of the key, beside those of the transform's draws


class Order(Protocol):
    """One epoch of a stream: rows by position."""

    def __len__(self) -> int: ...
    def __getitem__(self, positions: slice, /) -> NDArray[np.int64]: ...
    def weights(self, a: int, b: int, /) -> NDArray[np.float32]:
        """Return 1/(N P) of the rows at positions a … b-1, float32 (b - a,)."""


@dataclass(frozen=True, slots=True)
class Batching:
    """Division of an epoch into batches, and of each batch among ranks.

    Attributes:
        batch_size: Rows per batch of this rank.
        rank: This rank, in [0, world_size).
        world_size: Number of ranks.
        drop_last: Leave out a last global batch that is not full.
        even: Leave out what does not divide among the ranks, at most world_size - 1 draws; else the first rows fill up.
    """

    batch_size: int
    rank: int = 0
    world_size: int = 1
    drop_last: bool = False
    even: bool = False

    def __post_init__(self) -> None:
        for name in ("batch_size", "world_size"):
            object.__setattr__(self, name, whole(name, getattr(self, name), least=1))
        object.__setattr__(self, "rank", whole_number(self.rank, "`rank`"))
        if not 0 <= self.rank < self.world_size:
            raise ValueError(f"`0 <= rank < world_size` must hold, but got rank {self.rank} of {self.world_size}")

    @property
    def global_batch(self) -> int:
        """Rows of a step over all ranks."""
        return self.batch_size * self.world_size

    @property
    def least(self) -> int:
        """Fewest rows that make a batch."""
        return self.global_batch if self.drop_last else self.world_size if self.even else 1

    def steps(self, draws: int, /) -> int:
        """Return the batches of so many draws; the same number on every rank."""
        full, rest = divmod(draws, self.global_batch)
        return full + (rest >= self.least)

    def share(self, draws: int, /) -> int:
        """Return the rows of each rank in the batch before which so many draws are left."""
        return min(self.batch_size, draws // self.world_size if self.even else -(-draws // self.world_size))


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """One pass over the rest of an epoch, for one rank."""

    order: Order  # of the whole epoch
    seed: int  # of the stream; keys the draws of the transform
    epoch: int
    start: int  # global position of the first batch
    batching: Batching

    def __len__(self) -> int:
        """Batches of this rank; the same number on every rank."""
        return self.batching.steps(len(self.order) - self.start)

    def positions(self, step: int) -> tuple[int, int]:
        """Return the global positions [a, b) of this rank's batch; those past the end of the epoch wrap around."""
        first = self.start + step * self.batching.global_batch
        share = self.batching.share(len(self.order) - first)
        return first + self.batching.rank * share, first + (self.batching.rank + 1) * share

    def end(self, step: int) -> int:
        """Return the global position after the batch."""
        return min(self.start + (step + 1) * self.batching.global_batch, len(self.order))

    def count(self, step: int) -> int:
        """Return the rows of the global batch, those that only fill it up left out."""
        return self.end(step) - self.start - step * self.batching.global_batch

    def rows(self, a: int, b: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Return rows and weights at positions [a, b); past the end the first ones again, with weight 0."""
        m = len(self.order)
        if b <= m:
            rows_there = self.order[a:b]
            known = getattr(self.order, "importance", None)  # of our own orders: rows are not made twice
            return rows_there, self.order.weights(a, b) if known is None else known(a, rows_there)
        inside = max(0, m - a)
        rows, weights = [self.order[a:m]] if inside else [], np.zeros(b - a, np.float32)
        rows += [self.order[p : p + 1] for p in (np.arange(a + inside, b) % m).tolist()]
        if inside:
            weights[:inside] = self.order.weights(a, m)
        return np.concatenate(rows), weights

    def others(
        self, positions: NDArray[np.int64], attempts: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Return rows and weights of other draws for positions (n,) whose own cannot be used.

        The draw is a pure function of (seed, epoch, position, attempt).
        """
        pairs = zip(positions.tolist(), attempts.tolist(), strict=True)
        keys = [np.random.SeedSequence([self.seed, self.epoch, _OTHER, *pair]) for pair in pairs]
        at = [int(key.generate_state(1, np.uint64)[0]) % len(self.order) for key in keys]
        rows = [self.order[p : p + 1] for p in at]
        return np.concatenate(rows), np.concatenate([self.order.weights(p, p + 1) for p in at])
