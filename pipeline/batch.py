"""The batch that a loader gives for one step, and copies to a GPU and back for which no step waits."""

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from drawstream.pipeline.fields import Boxes


@dataclass(frozen=True, slots=True)
class Batch:
    """n images of one step.

    Attributes:
        images: float32 (n, C, H, W), normalised.
        labels: By the catalog's kind: `class` int64 (n,); `multi` uint8 (n, C), 0 or 1; `value` float32 (n, k); `none`
            int64 (n, 0), which no loss takes.
        ids: int64 (n,), rows of the stream: samples of the catalog or rows of the feature table.
        weights: float32 (n,), 1/(N·P(row)); 0 marks rows that only fill up the last batch of a rank.
        fields: What the loader was asked for, by name: lists of n values, None where a sample has none; of the mask
            int64 (n, H, W); of the boxes a list of `Boxes`.
    """

    images: Tensor
    labels: Tensor
    ids: Tensor
    weights: Tensor
    fields: Mapping[str, Any] = field(default_factory=dict)

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """Images, labels, ids, weights, and those among the fields."""
        further = (value for value in self.fields.values() if isinstance(value, Tensor))
        return self.images, self.labels, self.ids, self.weights, *further

    @property
    def placed(self) -> tuple[str, ...]:
        """Names of the fields that follow the geometry of their images: masks and boxes."""
        return tuple(
            name
            for name, values in self.fields.items()
            if isinstance(values, Tensor) or any(isinstance(value, Boxes) for value in values)
        )

    def rows(self, index: slice | Tensor, /) -> Self:
        """Take some rows.

        Args:
            index: A slice, or int64 (m,) on the device of the batch.
        """
        places = index.tolist() if self.fields and isinstance(index, Tensor) else ()

        def taken(value: Any) -> Any:
            if isinstance(value, Tensor) or isinstance(index, slice):
                return value[index]
            return [value[place] for place in places]

        further = {name: taken(value) for name, value in self.fields.items()}
        return type(self)(self.images[index], self.labels[index], self.ids[index], self.weights[index], further)


def to_device(values: NDArray[Any] | Tensor, device: torch.device, /) -> Tensor:
    """Copy an array or a tensor of the CPU to a device, from pinned memory: a pageable copy would wait for the GPU."""
    tensor = torch.from_numpy(values) if isinstance(values, np.ndarray) else values
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


class HostCopies:
    """Copies of a step's tensors to the CPU, which nobody waits for unless the GPU lags far behind.

    Args:
        most: Copies that may be on their way before the oldest is waited for.
    """

    def __init__(self, most: int = 4, /) -> None:
        self._most = most
        self._pending: deque[tuple[Any, tuple[Tensor, ...], Callable[..., None]]] = deque()

    def put(self, tensors: Iterable[Tensor], use: Callable[..., None], /) -> None:
        """Begin to copy tensors, and call `use` with the copies when they are there; at once on a CPU."""
        tensors = tuple(tensors)
        if not any(value.is_cuda for value in tensors):
            use(*tensors)
            return
        copies = tuple(_to_host(value) for value in tensors)
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record()
        self._pending.append((event, copies, use))
        self.drain(self._most)

    def drain(self, most: int = 0, /) -> None:
        """Use what has arrived; wait only while more than `most` copies are on their way."""
        while self._pending:
            event, copies, use = self._pending[0]
            if len(self._pending) <= most and not event.query():
                return
            event.synchronize()
            self._pending.popleft()
            use(*copies)

    def clear(self) -> None:
        """Forget what is on its way."""
        self._pending.clear()


def _to_host(value: Tensor) -> Tensor:
    """A copy in pinned memory that is there after an event of the current stream; at once of a tensor of the CPU."""
    if not value.is_cuda:
        return value.clone()
    return torch.empty(value.shape, dtype=value.dtype, pin_memory=True).copy_(value, non_blocking=True)
