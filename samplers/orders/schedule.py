"""Schedules: orders written down once and replayed exactly, from a memory-mapped Arrow file.

File: Arrow IPC, record batches of up to 2^20 positions that do not cross epochs, all epochs equally long. Columns
`row` int64 and `weight` float32 (1 / (N P) of the draw; 1 where the recorder knew none). Schema metadata, all text:
`drawstream.schedule` format version, `rows` N, `draws` M, `catalog` fingerprint of the catalog or "", where the
recorder gave one, `provenance`, a JSON object, and `seal`: xxh3-128 over all of it, checked at every open (6 GB/s).

    write_schedule("auto.arrow", (stream.epoch(e) for e in range(90)), rows=stream.rows, catalog=catalog.fingerprint)
    stream = IndexStream(Schedule.open("auto.arrow", catalog=catalog.fingerprint))
"""

import hashlib
import json
import math
import os
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import xxhash
from numpy.typing import NDArray

from drawstream.samplers import whole_number
from drawstream.samplers.files import parse_json, raise_unless_file, write_atomically
from drawstream.samplers.orders.order import Draws, Order, count_rows

__all__ = ["Schedule", "ScheduleDiff", "write_schedule"]

_VERSION = "2"
_SEAL = "seal"
_KEY = "drawstream.schedule"
_PIECE = 1 << 20


@dataclass(frozen=True, slots=True)
class ScheduleDiff:
    """Where two schedules part.

    Attributes:
        first: (epoch, position) of the first different row; None when all are equal.
        positions: number of positions with different rows.
        variation: per epoch, total variation between the two distributions over rows, in [0, 1].
    """

    first: tuple[int, int] | None
    positions: int
    variation: tuple[float, ...]


def write_schedule(
    path: str | Path,
    orders: Iterable[Order | NDArray[np.int64]],
    /,
    *,
    rows: int,
    catalog: str = "",
    provenance: Mapping[str, Any] | None = None,
) -> None:
    """Write one order per epoch, under a temporary name until the file is whole.

    Args:
        path: file to write.
        orders: orders of a stream, or int64 (M,) arrays of rows; all of one length.
        rows: N.
        catalog: fingerprint of the catalog the rows belong to.
        provenance: where the schedule comes from, JSON-able.

    Raises:
        ValueError: no epoch, epochs of different lengths, or a row outside [0, rows).
    """
    epochs = iter(orders)
    first = next(epochs, None)
    if first is None or len(first) == 0:
        raise ValueError("a schedule must hold at least one epoch of at least one draw, but got none")
    rows = whole_number(rows, "rows")
    metadata = {_KEY: _VERSION, "rows": str(rows), "draws": str(len(first)), "catalog": catalog}
    if provenance is not None:
        metadata["provenance"] = json.dumps(dict(provenance))
    state, blank = _begin_seal(metadata), secrets.token_hex(16)
    schema = pa.schema([("row", pa.int64()), ("weight", pa.float32())], metadata={**metadata, _SEAL: blank})
    with write_atomically(Path(path)) as draft:
        with pa.OSFile(str(draft), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
            _write_epoch(writer, schema, state, first, 0, rows, len(first))
            for number, order in enumerate(epochs, start=1):
                _write_epoch(writer, schema, state, order, number, rows, len(first))
        _replace_in_metadata(draft, blank.encode(), state.hexdigest().encode())


def _begin_seal(metadata: Mapping[str, str]) -> "xxhash.xxh3_128":
    """Begin a hash with the metadata; rows and weights of each record batch are added in turn."""
    return xxhash.xxh3_128(json.dumps(dict(sorted(metadata.items()))).encode())


def _replace_in_metadata(path: Path, old: bytes, new: bytes) -> None:
    """Replace a text by one of the same length in both copies of the schema: before the batches, and in the footer."""
    with path.open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        head = 16 + int.from_bytes(os.pread(file.fileno(), 4, 12), "little")
        foot = int.from_bytes(os.pread(file.fileno(), 4, size - 10), "little")
        for start, length in ((0, head), (size - 10 - foot, foot)):
            at = os.pread(file.fileno(), length, start).index(old)
            os.pwrite(file.fileno(), new, start + at)


def _write_epoch(
    writer: pa.ipc.RecordBatchFileWriter,
    schema: pa.Schema,
    state: "xxhash.xxh3_128",
    order: Order | NDArray[np.int64],
    epoch: int,
    rows: int,
    draws: int,
) -> None:
    if len(order) != draws:
        raise ValueError(f"all epochs must be equally long, but epoch 0 has {draws} draws and {epoch} has {len(order)}")
    for start in range(0, draws, _PIECE):
        stop = min(start + _PIECE, draws)
        drawn = np.asarray(order[start:stop], dtype=np.int64)
        if drawn.min() < 0 or drawn.max() >= rows:
            raise ValueError(f"rows must be in [0, {rows}), but epoch {epoch} holds {drawn.min()} … {drawn.max()}")
        weights = order.weights(start, stop) if isinstance(order, Order) else np.ones(stop - start, dtype=np.float32)
        writer.write_batch(pa.record_batch([pa.array(drawn), pa.array(weights)], schema=schema))
        _add(state, drawn, weights)


def _add(state: "xxhash.xxh3_128", rows: NDArray[np.int64], weights: NDArray[np.float32]) -> None:
    for part in (rows, weights):
        state.update(np.ascontiguousarray(part).view(np.uint8).data)


class Schedule:
    """Recorded orders, read where they lie in the file. Make one with `Schedule.open`; give it to `IndexStream`.

    Attributes:
        path: the file.
        rows: N.
        draws: M, positions per epoch.
        epochs: number of recorded epochs.
        catalog: fingerprint of the catalog, "" when unknown.
        provenance: where the schedule comes from; empty when unknown.

    Raises:
        ValueError: not such a file, damaged, cut short or of a newer format.
    """

    mode = "schedule"
    nbytes = 0

    def __init__(self, path: str | Path, /) -> None:
        self.path = Path(path)
        if self.path.exists() and not self.path.is_file():  # a named pipe would be waited for
            raise ValueError(f"{self.path} must be an Arrow IPC file written by write_schedule, but is no regular file")
        try:
            reader = pa.ipc.open_file(pa.memory_map(str(self.path)))
            metadata = {key.decode(): value.decode() for key, value in (reader.schema.metadata or {}).items()}
            found = metadata.get(_KEY, "none")
            if found == _VERSION:
                self._take(reader, metadata)
        except (pa.ArrowException, OSError, UnicodeDecodeError, KeyError, IndexError, TypeError, ValueError) as error:
            raise_unless_file(error, self.path)
            if isinstance(error, FileNotFoundError):
                raise
            raise ValueError(f"{self.path} must be an Arrow IPC file written by write_schedule: {error}") from error
        if found.isdecimal() and int(found) > int(_VERSION):
            raise ValueError(
                f"{self.path}: schedule format {found} is newer than {_VERSION}, which this drawstream reads: upgrade"
            )
        if found != _VERSION:
            raise ValueError(
                f"{self.path} must be a schedule of format {_VERSION}, but its format is {found}: record it again"
            )
        if (actual := self._seal(metadata)) != metadata.get(_SEAL):
            raise ValueError(
                f"{self.path}: its content has the hash {actual}, but it says {metadata.get(_SEAL)!r}: the file was "
                "damaged or altered: copy it again, or record it anew"
            )
        self._pieces = math.ceil(self.draws / _PIECE)
        self.epochs = len(self._rows) // max(1, self._pieces)
        if min(self.rows, self.draws) < 1 or sum(part.size for part in self._rows) != self.epochs * self.draws:
            raise ValueError(f"{self.path} must hold whole epochs of {self.draws} draws, but is cut short")

    def _take(self, reader: pa.RecordBatchFileReader, metadata: dict[str, str]) -> None:
        """Take the numbers of the metadata, and views of the columns in the file."""
        batches = [reader.get_batch(i) for i in range(reader.num_record_batches)]
        self.rows, self.draws, self.catalog = int(metadata["rows"]), int(metadata["draws"]), metadata["catalog"]
        self.provenance: dict[str, Any] = parse_json(metadata.get("provenance", "{}").encode(), finite=False)
        self._rows = [batch.column(0).to_numpy() for batch in batches]
        self._weights = [batch.column(1).to_numpy() for batch in batches]
        for name, parts, kind in (("row", self._rows, np.int64), ("weight", self._weights, np.float32)):
            if any(part.dtype != kind for part in parts):
                raise TypeError(f"column {name!r} must be {np.dtype(kind)}")

    def _seal(self, metadata: Mapping[str, str]) -> str:
        state = _begin_seal({key: value for key, value in metadata.items() if key != _SEAL})
        for rows, weights in zip(self._rows, self._weights, strict=True):
            _add(state, rows, weights)
        return state.hexdigest()

    @classmethod
    def open(cls, path: str | Path, /, *, catalog: str | None = None) -> "Schedule":
        """Open the schedule at `path`, optionally for one catalog.

        Raises:
            FileNotFoundError: no such file.
            ValueError: not a schedule, cut short, or recorded on another catalog than the fingerprint given.
        """
        schedule = cls(path)
        if catalog is not None and schedule.catalog != catalog:
            raise ValueError(
                f"a schedule replays only on its own catalog, but {schedule.path} was recorded on "
                f"{schedule.catalog or 'an unnamed one'} and this is {catalog}: record it again here"
            )
        return schedule

    def digest(self) -> str:
        """Return the hash of all recorded rows."""
        state = hashlib.blake2b(digest_size=16)
        for part in self._rows:
            state.update(np.ascontiguousarray(part).view(np.uint8).data)
        return state.hexdigest()

    def epoch(self, epoch: int, /) -> Order:
        """Return the recorded order of an epoch.

        Raises:
            ValueError: the epoch is not recorded.
        """
        return Order(self.draw_epoch(0, epoch), self.draws)

    def draw_epoch(self, _seed: int, epoch: int, /) -> Draws:
        """Return the draws of a recorded epoch, whatever the seed; errors as `epoch`."""
        epoch = whole_number(epoch, "epoch")
        if not 0 <= epoch < self.epochs:
            raise ValueError(
                f"0 <= epoch < {self.epochs} must hold for schedule {self.path}, but got {epoch}: record more"
            )
        return Draws(partial(self._fill, epoch), partial(self._importance, epoch))

    def _fill(self, epoch: int, start: int, out: NDArray[np.int64]) -> None:
        self._copy(self._rows, epoch, start, out)
        if out.size and (out.min() < 0 or out.max() >= self.rows):
            raise ValueError(f"rows must be in [0, {self.rows}), but {self.path} holds others: the file is damaged")

    def _importance(self, epoch: int, start: int, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        out = np.empty(rows.size, dtype=np.float32)
        self._copy(self._weights, epoch, start, out)
        return out

    def _copy(
        self, parts: list[NDArray[np.generic]], epoch: int, start: int, out: NDArray[np.int64] | NDArray[np.float32]
    ) -> None:
        done = 0
        while done < out.size:
            piece, place = divmod(start + done, _PIECE)
            part = parts[epoch * self._pieces + piece][place : place + out.size - done]
            out[done : done + part.size] = part
            done += part.size

    def counts(self, epoch: int | None = None, /) -> NDArray[np.int64]:
        """Count how often each row comes in one epoch, or in all of them, int64 (rows,)."""
        epochs = range(self.epochs) if epoch is None else [epoch]
        total = np.zeros(self.rows, dtype=np.int64)
        for number in epochs:
            total += count_rows(self.epoch(number), self.rows)
        return total

    def diff(self, other: "Schedule", /) -> ScheduleDiff:
        """Compare with an `other` schedule over the same rows.

        Raises:
            ValueError: rows, draws or epochs differ.
        """
        mine, theirs = (self.rows, self.draws, self.epochs), (other.rows, other.draws, other.epochs)
        if mine != theirs:
            raise ValueError(f"(rows, draws, epochs) must be equal to compare, but got {mine} and {theirs}")
        first, positions, variation = None, 0, []
        for epoch in range(self.epochs):
            for piece in range(epoch * self._pieces, (epoch + 1) * self._pieces):
                differ = np.flatnonzero(self._rows[piece] != other._rows[piece])
                if first is None and differ.size:
                    first = epoch, (piece - epoch * self._pieces) * _PIECE + int(differ[0])
                positions += differ.size
            variation.append(float(np.abs(self.counts(epoch) - other.counts(epoch)).sum() / (2 * self.draws)))
        return ScheduleDiff(first, positions, tuple(variation))

    def __reduce__(self) -> tuple[type["Schedule"], tuple[Path]]:
        return Schedule, (self.path,)


def is_schedule(source: Path, /) -> bool:
    """Check whether a file is a recorded schedule.

    Raises:
        ValueError: It has the name of an Arrow file and is none.
    """
    if not source.is_file() or source.suffix not in (".arrow", ".feather", ".ipc"):
        return False
    try:
        with pa.memory_map(str(source)) as data, pa.ipc.open_file(data) as reader:
            return b"drawstream.schedule" in (reader.schema.metadata or {})
    except pa.ArrowInvalid as error:
        raise ValueError(f"{source}: not an Arrow IPC file, so neither a schedule nor weights: {error}") from None
