"""Fields of a catalog as a map-style data set, without the images."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from drawstream.pipeline.fields.columns import ABSENT
from drawstream.pipeline.fields.request import FieldRequest
from drawstream.pipeline.fields.values import decode_value
from drawstream.pipeline.reading import ShardFiles
from drawstream.pipeline.shards import Catalog


class FieldDataset:
    """Fields of the rows of a catalog, for ``StreamDataLoader`` or another loader of map-style data sets.

    Checksums are compared. It can be sent to worker processes, each of which opens the shards for itself.

        >>> captions = FieldDataset(catalog, ("txt",))
        >>> loader = StreamDataLoader(captions, stream, batch_size=128, collate_fn=list)

    Args:
        catalog: The samples.
        fields: Their fields, by name.

    Raises:
        ValueError: The catalog has no such field.
    """

    def __init__(self, catalog: Catalog, fields: Sequence[str], /) -> None:
        request = FieldRequest.of(fields, None, None)
        request.check(catalog, None)
        self._catalog, self._fields = catalog, request.fields
        self._files: ShardFiles | None = None

    def __len__(self) -> int:
        return len(self._catalog)

    def __getitem__(self, row: int, /) -> dict[str, Any]:
        """Return the values of a row by name, None where it has no such field.

        Raises:
            BadSampleError: A field is damaged.
            IndexError: There is no such row.
        """
        if not -len(self) <= row < len(self):
            raise IndexError(f"row {row} of {len(self)}")
        self._files = files = self._files or ShardFiles(self._catalog, fields=self._fields, images=False)
        at = np.array([row % len(self)])
        data, bounds = files.read(at)
        found = {}
        for name, start, stop in zip(self._fields, bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
            absent = self._catalog.field_columns[name].offset[row] == ABSENT
            try:
                found[name] = None if absent else decode_value(name, data.data[start:stop])
            except ValueError as error:
                raise files.refusal(int(at[0]), str(error), "repair it, and index the shard anew") from None
        return found

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_files": None}
