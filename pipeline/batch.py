"""The batch that a loader gives for one step."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

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
