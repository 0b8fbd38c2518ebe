"""Which positions of an epoch a rank's batches hold: arithmetic only, the same on every rank."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Order(Protocol):
    """One epoch of a stream: rows by position."""

    def __len__(self) -> int: ...
    def __getitem__(self, positions: slice, /) -> NDArray[np.int64]: ...
    def weights(self, a: int, b: int, /) -> NDArray[np.float32]:
        """1/(N P) of the rows at positions a … b-1, float32 (b - a,)."""


def steps(draws: int, global_batch: int, /, *, drop_last: bool) -> int:
    """Batches of so many draws; the same number on every rank."""
    return draws // global_batch if drop_last else -(-draws // global_batch)


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """One pass over the rest of an epoch, for one rank.

    Attributes:
        order: The global order of the epoch.
        seed: Of the stream; keys the draws of the transform.
        epoch: Number of the epoch.
        start: Global position of the first batch.
        batch_size: Images of this rank per batch.
        rank: This rank.
        world_size: Number of ranks.
        drop_last: Leave out a last global batch that is not full.
    """

    order: Order
    seed: int
    epoch: int
    start: int
    batch_size: int
    rank: int
    world_size: int
    drop_last: bool

    @property
    def global_batch(self) -> int:
        """Positions that all ranks together use per batch."""
        return self.batch_size * self.world_size

    def __len__(self) -> int:
        """Batches of this rank; the same number on every rank."""
        return steps(len(self.order) - self.start, self.global_batch, drop_last=self.drop_last)

    def positions(self, step: int) -> tuple[int, int]:
        """Global positions [a, b) of this rank's batch; those past the end of the epoch wrap around."""
        first = self.start + step * self.global_batch
        share = min(self.batch_size, -(-(len(self.order) - first) // self.world_size))
        return first + self.rank * share, first + (self.rank + 1) * share

    def end(self, step: int) -> int:
        """Global position after the batch."""
        return min(self.start + (step + 1) * self.global_batch, len(self.order))

    def rows(self, a: int, b: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Rows (int64) and weights (float32) at positions [a, b); past the end the first ones again, with weight 0."""
        m = len(self.order)
        if b <= m:
            return self.order[a:b], self.order.weights(a, b)
        inside = max(0, m - a)
        rows, weights = [self.order[a:m]] if inside else [], np.zeros(b - a, np.float32)
        rows += [self.order[p : p + 1] for p in (np.arange(a + inside, b) % m).tolist()]
        if inside:
            weights[:inside] = self.order.weights(a, m)
        return np.concatenate(rows), weights

    def others(
        self, positions: NDArray[np.int64], attempts: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Other draws of the epoch for positions whose own cannot be used, (n,) each: rows and weights.

        The draw is a pure function of (seed, epoch, position, attempt).
        """
        pairs = zip(positions.tolist(), attempts.tolist(), strict=True)
        keys = [np.random.SeedSequence([self.seed, self.epoch, _OTHER, *pair]) for pair in pairs]
        at = [int(key.generate_state(1, np.uint64)[0]) % len(self.order) for key in keys]
        rows = [self.order[p : p + 1] for p in at]
        return np.concatenate(rows), np.concatenate([self.order.weights(p, p + 1) for p in at])


class EvenPlan(Plan):
    """A plan whose last batch leaves out what does not divide among the ranks, at most world_size - 1 draws."""

    __slots__ = ()

    def __len__(self) -> int:
        """Batches of this rank; the same number on every rank."""
        full, rest = divmod(len(self.order) - self.start, self.global_batch)
        return full + (rest >= self.world_size and not self.drop_last)

    def positions(self, step: int) -> tuple[int, int]:
        """Global positions [a, b) of this rank's batch."""
        first = self.start + step * self.global_batch
        share = min(self.batch_size, (len(self.order) - first) // self.world_size)
        return first + self.rank * share, first + (self.rank + 1) * share


_OTHER = 4  # purpose of the key, beside those of the transform's draws
