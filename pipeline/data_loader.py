"""Torch's DataLoader over any map-style dataset, with the order of an index stream and an exact, elastic state."""

import reprlib
from collections.abc import Iterator
from typing import Any, TypeVar

import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler, IterableDataset

from drawstream.pipeline.place import Follower, Place, Stream
from drawstream.pipeline.reading import Batching, Plan
from drawstream.samplers.orders import RowSampler

__all__ = ["StreamDataLoader"]

_T = TypeVar("_T", covariant=True)


class StreamDataLoader(Follower, DataLoader[_T]):
    """Iterates the batches of one rank; the order is the stream's, whatever the workers, ranks and batch size.

    Ranks share each global batch as those of `Loader`; rows that only fill up the last one have weight 0. The state is
    the position up to which batches were given to the loop, not what workers have read ahead. Lightning saves and
    restores it, and sets the epoch, by itself; Accelerate must not prepare this loader.

        >>> loader = StreamDataLoader(dataset, IndexStream(weights, seed=0), batch_size=128, num_workers=8)
        >>> for epoch in range(90):
        ...     loader.set_epoch(epoch)
        ...     for images, labels in loader:
        ...         losses = F.cross_entropy(model(images), labels, reduction="none")
        ...         loss = (losses * (loader.weights > 0)).mean()

    Args:
        dataset: With `len()` and `[row]`, one entry for each row of the stream.
        stream: The stream to follow. Of weights, float (rows,), or a row sampler an `IndexStream` is made. None is for
            validation: every row once, in order.
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
        self._rows = _rows(dataset)
        for name in ("shuffle", "sampler", "batch_sampler"):
            if options.pop(name, None) is not None:
                raise ValueError(
                    f"`{name}` contradicts the stream, which decides the order: leave it out (Lightning's predict and "
                    "overfit_batches need a plain DataLoader)"
                )
        if others := [name for name in ("fields", "mask", "boxes") if name in options]:
            law = f"`{others[0]}` is an option of Loader, which decodes images"
            raise TypeError(f"{law}: give a FieldDataset(catalog, fields) or a dataset of your own that has them")
        if not options.get("in_order", True):
            raise ValueError("`in_order=False` gives batches in no order, so there is no place to save: leave it out")
        batching = Batching(batch_size, rank, world_size, drop_last)
        self._place = Place("loader", stream, batching, rows=self._rows, what="rows in the dataset")
        self._order = order = _Steps(self._place)
        super().__init__(dataset, batch_sampler=order, **options)
        # Past torch's guard: Lightning looks here for `set_epoch`, and leaves the division to a `DistributedSampler`.
        vars(self).update(sampler=order, batch_size=batching.batch_size, drop_last=drop_last)
        self._last: tuple[Plan, int] | None = None

    @property
    def epoch(self) -> int:
        """Number of the epoch that the next iteration yields."""
        return self._place.epoch

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        """Yield the batches of the current epoch: all of them, or the rest right after a load."""
        place = self._place
        plan = self._running = self._order.following = place.begin()
        batches = super().__iter__()
        self._order.following = None
        with place.leaving(plan):
            given = 0
            for step, batch in enumerate(batches):
                given = step + 1
                place.move(plan, step)
                self._last = plan, step
                yield batch
                place.go_on(plan)
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

    @property
    def identity(self) -> dict[str, Any]:
        """Values that must be equal in a state and in the loader that loads it, JSON-able."""
        return {**super().identity, "rows": self._rows}

    def _given(self) -> tuple[Any, Any]:
        if self._last is None:
            raise ValueError("no batch was given yet: ask within the loop")
        plan, step = self._last
        return plan.rows(*plan.positions(step))


class _Steps(Follower, DistributedSampler[list[int]]):
    """The batch sampler of a `StreamDataLoader`, which tells it what to give."""

    following: Plan | None = None

    def __init__(self, place: Place) -> None:
        self._place = place
        self.batch_size, self.drop_last = place.batching.batch_size, place.batching.drop_last

    @property
    def sampler(self) -> "_Steps":
        """Itself: here Lightning and Accelerate look for `set_epoch`."""
        return self

    def __len__(self) -> int:
        return self._place.steps

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
