"""The recorded schedule: rows appended interval by interval, and the files made of them at the end.

`schedule.rows` is int64 (positions,), little-endian, nothing else, so it is mapped as it lies. An append is not synced:
how far the file counts is said by the checkpoint, with a running CRC-32, and `sync` comes before a checkpoint. What
stands behind that length was written by a process that was killed, and is cut off.
"""

import json
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from drawstream.samplers.files import write_atomically
from drawstream.samplers.orders import write_schedule

_PIECE = 1 << 20


class Recorder:
    """Appends rows to a file; opened at the length that a checkpoint vouches for.

    Args:
        path: The file; made if there is none.
        length: Rows of it that count.
        checksum: CRC-32 of these.

    Raises:
        ValueError: The file is shorter than that, or its content is another.
    """

    def __init__(self, path: Path, /, *, length: int = 0, checksum: int = 0) -> None:
        self.path, self.length, self.checksum = path, length, checksum
        size = path.stat().st_size if path.exists() else 0
        if size < 8 * length:
            raise ValueError(
                f"{path} must hold the {length} rows of its checkpoint, but holds {size // 8}: it was cut short; "
                "start again in another folder"
            )
        self._file = path.open("r+b" if path.exists() else "w+b")
        self._file.truncate(8 * length)
        self._file.seek(0, os.SEEK_END)
        found = 0
        for start in range(0, length, _PIECE):
            found = zlib.crc32(self.rows(start, min(start + _PIECE, length)).data, found)
        if found != checksum:
            self._file.close()
            raise ValueError(
                f"{path} must have checksum {checksum:08x}, but has {found:08x}: it is damaged; start again in another "
                "folder"
            )

    def append(self, rows: NDArray[np.int64], /) -> None:
        """Add rows (n,) behind all others."""
        data = np.ascontiguousarray(rows, dtype="<i8").data
        self._file.write(data)
        self.checksum = zlib.crc32(data, self.checksum)
        self.length += rows.size

    def sync(self) -> None:
        """Bring all that was appended to the disk."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def rows(self, start: int = 0, stop: int | None = None, /) -> NDArray[np.int64]:
        """Rows [start, stop) as recorded so far, int64, mapped and not copied."""
        self._file.flush()
        count = (self.length if stop is None else stop) - start
        if count < 1:
            return np.empty(0, dtype=np.int64)
        return np.memmap(self.path, dtype="<i8", mode="r", offset=8 * start, shape=(count,))

    def counts(self, start: int, stop: int, rows: int, /) -> NDArray[np.int64]:
        """Times each of `rows` rows comes at positions [start, stop), int64 (rows,)."""
        total = np.zeros(rows, dtype=np.int64)
        for begin in range(start, stop, _PIECE):
            total += np.bincount(self.rows(begin, min(begin + _PIECE, stop)), minlength=rows)
        return total

    def close(self) -> None:
        """Close the file; what was appended stays."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: type[BaseException] | None, *_: TracebackType | BaseException | None) -> None:
        self.close()


def write_orders(
    path: Path, recorder: Recorder, /, *, rows: int, draws: int, catalog: str, provenance: Mapping[str, Any]
) -> None:
    """Write the recorded rows as a schedule of epochs of `draws` positions."""
    epochs = (recorder.rows(start, start + draws) for start in range(0, recorder.length, draws))
    write_schedule(path, epochs, rows=rows, catalog=catalog, provenance=provenance)


def write_distribution(
    path: Path, counts: NDArray[np.int64], /, *, catalog: str, provenance: Mapping[str, Any]
) -> None:
    """Write P = counts / sum as `weight` float64, and `count` int64, one row of the table per row of the data.

    The file is one that `map_weights` reads: any mode of a stream draws from it.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    metadata = {"drawstream.distribution": "1", "catalog": catalog, "provenance": json.dumps(dict(provenance))}
    table = pa.table({"weight": counts / counts.sum(), "count": counts}).replace_schema_metadata(metadata)
    with write_atomically(path) as draft, draft.open("wb") as file:
        pq.write_table(table, file, write_page_checksum=True)
