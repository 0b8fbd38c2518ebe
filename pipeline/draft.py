"""A catalog while it is being made: rows are added one by one, then the file is written in one step."""

import json
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from drawstream.pipeline.catalog import ENCODINGS, FORMAT, METADATA, SCHEMA, SEAL, Shard, checksum_of, fingerprint, seal
from drawstream.pipeline.image import ImageInfo
from drawstream.pipeline.names import check_name
from drawstream.samplers.files import write_atomically


@dataclass(slots=True)
class Draft:
    """Rows of a catalog to be.

    Three laws hold for every row, whoever adds it: keys are unique and pass ``check_name``, and raw images are all of
    one shape.
    """

    keys: dict[str, int] = field(default_factory=dict)  # → shard
    images: "array[int]" = field(default_factory=lambda: array("q"))  # per row the values of _IMAGE: no objects
    channels: int = 1
    _raw: tuple[str, tuple[int, int, int]] | None = None

    def add(self, key: str, shard: int, offset: int, data: bytes, info: ImageInfo, /) -> None:
        """Add a row.

        Args:
            key: Its name.
            shard: Number of its shard.
            offset: Byte of the image member in the shard.
            data: The image member's bytes.
            info: What ``probe`` says of them.

        Raises:
            ValueError: The key is taken or acts where it is shown, or a raw image of another shape than the first.
        """
        self._must_be_new(key)
        check_name(key, what="key")
        if info.encoding == "raw":
            self._must_be_alike(key, (info.height, info.width, info.channels))
        self.keys[key] = shard
        self.channels = max(self.channels, info.channels)
        mark = checksum_of(memoryview(data)[info.start :])
        place = (shard, offset + info.start, len(data) - info.start)
        self.images.extend((*place, mark, ENCODINGS.index(info.encoding), info.height, info.width))

    def append(self, other: "Draft", /) -> None:
        """Add the rows of another draft behind those of this one.

        Raises:
            ValueError: A key is taken, or raw images of another shape.
        """
        for key in other.keys:
            self._must_be_new(key)
        if other._raw:
            self._must_be_alike(*other._raw)
        self.keys |= other.keys
        self.images.extend(other.images)
        self.channels = max(self.channels, other.channels)

    def _must_be_new(self, key: str) -> None:
        if key in self.keys:
            raise ValueError(
                f"key {key!r} must be unique, but shard {self.keys[key]} has it already: rename one of them"
            )

    def _must_be_alike(self, key: str, shape: tuple[int, int, int]) -> None:
        first, expected = self._raw = self._raw or (key, shape)
        if shape != expected:
            raise ValueError(
                f"raw images must all be of one shape, but {key!r} has {shape} and {first!r} has {expected}: "
                "store them as png or jpeg"
            )

    def save(
        self,
        path: Path,
        labels: NDArray[np.int64],
        clean: NDArray[np.int64] | None,
        /,
        *,
        shards: Sequence[Shard],
        classes: Sequence[str],
        provenance: Mapping[str, Any],
    ) -> str:
        """Write the catalog under a temporary name, flush it to disk and rename it.

        Args:
            path: The Parquet file.
            labels: int64 (rows,).
            clean: int64 (rows,), true labels, or None.
            shards: The tars that the rows count.
            classes: Class names.
            provenance: JSON values that say how the catalog was made.

        Returns:
            The fingerprint.

        Raises:
            ValueError: No rows, or gray raw images beside colour ones.
        """
        if not self.keys:
            raise ValueError(f"{path}: a catalog must have rows, but got none")
        if self._raw and self._raw[1][2] != self.channels:
            raise ValueError(
                f"{path}: raw images must be as deep as the others, but {self._raw[0]!r} is gray and others are not: "
                "store them as png or jpeg"
            )
        for name in classes:
            check_name(name, what="class name")
        keys = pa.array(self.keys, pa.large_string())
        table = np.frombuffer(self.images, dtype=np.int64).reshape(-1, len(_IMAGE))
        columns = {name: table[:, i] for i, name in enumerate(_IMAGE)} | {"label": labels}
        codes = columns["encoding"].astype(np.int8)
        meta = {
            "format": FORMAT,
            "fingerprint": fingerprint(shards, columns, keys, codes),
            "checksum": "xxh3_64 of more than 1024 bytes, else xxh32",
            "hash": "xxh3_128",
            "channels": self.channels,
            "classes": list(classes),
            "shards": [asdict(shard) for shard in shards],
            "provenance": dict(provenance),
        }
        arrays = {name: pa.array(column) for name, column in columns.items()} | {"key": keys}
        arrays["encoding"] = pa.DictionaryArray.from_arrays(pa.array(codes), pa.array(ENCODINGS))
        if clean is not None:
            arrays["clean_label"] = pa.array(clean)
        fields = [column for column in SCHEMA if column.name in arrays]
        text = json.dumps(meta, ensure_ascii=False).encode()
        mark = seal(text, [column.name for column in fields], clean)
        schema = pa.schema(fields, metadata={METADATA: text, SEAL: mark})
        rows = pa.Table.from_arrays([arrays[column.name].cast(column.type) for column in fields], schema=schema)
        with write_atomically(path) as temporary, temporary.open("wb") as file:
            pq.write_table(rows, file, compression="zstd", write_page_checksum=True)
        return str(meta["fingerprint"])


_IMAGE = ("shard", "offset", "size", "checksum", "encoding", "height", "width")
