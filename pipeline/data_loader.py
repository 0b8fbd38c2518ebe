"""Torch's DataLoader over any map-style dataset, with the order of an index stream and an exact, elastic state."""

import reprlib
from collections.abc import Iterator
from typing import Any, SupportsIndex, TypeVar

import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler, IterableDataset

from drawstream.pipeline.place import Stream, draws_of
from drawstream.pipeline.reading.plan import Plan, steps
from drawstream.pipeline.torch_sampler import StreamOrder
from drawstream.samplers import RowSampler

__all__ = ["StreamDataLoader"]

_T = TypeVar("_T", covariant=True)
_DECIDED = ("shuffle", "sampler", "batch_sampler")  # by the stream


class StreamDataLoader(DataLoader[_T]):
    """Iterates the batches of one rank; the order is the stream's, whatever the workers, ranks and batch size.

    Global batch g holds positions [g·G, (g+1)·G) of the epoch with G = batch_size · world_size; a rank takes its
    contiguous part. The last global batch may be smaller: every rank then gets the same, smaller number of rows, and
    what is missing to that is filled from the start of the epoch with rows whose `weights` are 0.

    The state is the position up to which batches were given to the loop, not what workers have read ahead. Lightning
    saves and restores it, and sets the epoch, by itself; Accelerate must not prepare this loader.

        >>> loader = StreamDataLoader(dataset, IndexStream(weights, seed=0), batch_size=128, num_workers=8)
        >>> for epoch in range(90):
        ...     loader.set_epoch(epoch)
        ...     for images, labels in loader:
        ...         losses = F.cross_entropy(model(images), labels, reduction="none")
        ...         loss = (losses * (loader.weights > 0)).mean()

    Args:
        dataset: With `len()` and `[row]`, one entry for each row of the stream.
        stream: Which row at which position. Of weights, float (rows,), or a row sampler an `IndexStream` is made.
            None is for validation: every row once, in order.
        batch_size: Rows per batch of this rank.
        rank: This process, in [0, world_size).
        world_size: Number of processes.
        drop_last: Leave out the last global batch when it is not full.
        options: Other options of torch's DataLoader: num_workers, collate_fn, pin_memory, persistent_workers, …

    Raises:
        TypeError: The dataset has no rows by number, or a number is not a whole one.
        ValueError: The stream draws from another number of rows, or an option contradicts the stream.
    """

    def __init__(
        self,
        dataset: Dataset[_T],
        stream: Stream | RowSampler | ArrayLike | None = None,
        *,
        batch_size: int = 1,
        rank: int = 0,
        world_size: int = 1,
        drop_last: bool = False,
        **options: Any,
    ) -> None:
        rows = _rows(dataset)
        for name in _DECIDED:
            if options.pop(name, None) is not None:
                raise ValueError(
                    f"`{name}` contradicts the stream, which decides the order: leave it out (Lightning's predict and "
                    "overfit_batches need a plain DataLoader)"
                )
        if not options.get("in_order", True):
            raise ValueError("`in_order=False` gives batches in no order, so there is no place to save: leave it out")
        order = _Steps(stream, rows, batch_size=batch_size, rank=rank, world_size=world_size, drop_last=drop_last)
        super().__init__(dataset, batch_sampler=order, **options)
        # Past torch's guard: Lightning looks here for `set_epoch`, and leaves the division to a `DistributedSampler`.
        vars(self).update(sampler=order, batch_size=order.batch_size, drop_last=drop_last)
        self._steps = order
        self._rows = rows
        self._running: Plan | None = None  # the pass begun last
        self._last: tuple[Plan, int] | None = None

    @property
    def stream(self) -> Any:
        """Which row stands at which position; one that is assigned is followed from the start of the epoch."""
        return self._steps.stream

    @stream.setter
    def stream(self, stream: Stream | RowSampler | ArrayLike | None) -> None:
        """Follow another stream over the same rows."""
        self._steps.stream = stream

    @property
    def epoch(self) -> int:
        """Number of the epoch that the next iteration yields."""
        return self._steps.place.epoch

    def set_epoch(self, epoch: SupportsIndex) -> None:
        """Choose the epoch of the next iteration, from its start, or from the restored position right after a load.

        Raises:
            TypeError: The epoch is not a whole number.
            ValueError: It is negative.
        """
        self._steps.set_epoch(epoch)

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        """Yield the batches of the current epoch: all of them, or the rest right after a load."""
        order = self._steps
        plan = self._running = order.plan(order.place.start)
        order.place.begin(plan)
        order.following = plan
        batches = super().__iter__()
        order.following = None
        with order.place.leaving(plan):
            given = 0
            for step, batch in enumerate(batches):
                given = step + 1
                order.place.move(plan, step)
                self._last = plan, step
                yield batch
                order.place.go_on(plan)
                if self.persistent_workers and self._running is not plan:
                    raise ValueError(
                        "a second loop over this loader took its workers: end one loop before the next, or set "
                        "persistent_workers=False"
                    )
            if given < len(plan):
                rows = reprlib.repr(plan.rows(*plan.positions(given))[0].tolist())
                raise RuntimeError(
                    f"the dataset or collate_fn raised StopIteration in batch {given} of {len(plan)}, at one of the "
                    f"rows {rows}: let it give a row for each number"
                )

    @property
    def ids(self) -> Tensor:
        """Rows of the batch given last, int64 (n,): what a sampler that learns is told."""
        return torch.from_numpy(self._given()[0])

    @property
    def weights(self) -> Tensor:
        """1/(N·P) of the rows of the batch given last, float32 (n,); 0 for rows that only fill up a last batch."""
        return torch.from_numpy(self._given()[1])

    def state_dict(self) -> dict[str, Any]:
        """JSON-able position: what was given to the loop so far, and what it means; with what the stream has learnt."""
        return self._steps.place.state(self._identity())

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken, also with other workers, another batch size or number of ranks.

        Raises:
            ValueError: The state belongs to another stream or number of rows (both sides are shown), or is no state.
        """
        self._steps.place.load(state, self._identity())

    def _identity(self) -> dict[str, Any]:
        return {**self._steps.identity(), "rows": self._rows}

    def _given(self) -> tuple[Any, Any]:
        if self._last is None:
            raise ValueError("no batch was given yet: ask within the loop")
        plan, step = self._last
        return plan.rows(*plan.positions(step))


class _Steps(StreamOrder[list[int]], DistributedSampler[list[int]]):
    """The batch sampler of a `StreamDataLoader`, which tells it what to give."""

    owner = "loader"
    kind = Plan
    following: Plan | None = None

    def set_epoch(self, epoch: SupportsIndex) -> None:
        """As the loader's."""
        self.place.set_epoch(epoch)

    def __len__(self) -> int:
        return steps(
            draws_of(self.stream, self.place.epoch), self.batch_size * self.world_size, drop_last=self.drop_last
        )

    def __iter__(self) -> Iterator[list[int]]:
        return self._lists(self.following)

    def _lists(self, plan: Plan | None) -> Iterator[list[int]]:
        if plan is None:  # said at the first row, where torch's workers can end well
            raise ValueError(
                "this sampler is a StreamDataLoader's, but another loader iterates it: leave the loader out of "
                "accelerator.prepare, and in place of skip_first_batches call load_state_dict"
            )
        for step in range(len(plan)):
            yield plan.rows(*plan.positions(step))[0].tolist()


def _rows(dataset: Any) -> int:
    """Number of rows of a dataset that has them by number."""
    if isinstance(dataset, IterableDataset) or not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
        raise TypeError(
            f"a stream needs a dataset with len() and [row], but {type(dataset).__name__} is iterated: give a "
            "map-style dataset"
        )
    if not len(dataset):
        raise ValueError("the dataset has no rows: give one that has some")
    return len(dataset)
