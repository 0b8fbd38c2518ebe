"""One part of a feature table: a Parquet file that is whole, says what made it, and notices a flipped byte.

Floats lie PLAIN, integers DELTA_BINARY_PACKED, nothing is compressed: a column comes back at the speed of copying, some
200 million float32 a second, so no second copy of it is kept in a faster format. The metadata (key `drawstream`, JSON):

    format    2
    …         provenance: catalog, parts, model, weights, and what else the extraction noted
    content   rows, and name, type and xxh3-128 of the values of every column, in order
    seal      xxh3-128 of all the other entries

A byte flipped in a page or an offset gives other values, one in the metadata another seal; what neither notices, no
reader of ours sees (Parquet's own statistics, the name of the writing program).
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash
from numpy.typing import NDArray

from drawstream.pipeline import ANOTHER, difference
from drawstream.samplers import DrawstreamError
from drawstream.samplers.files import atomic as files
from drawstream.samplers.files import parse_json, raise_unless_file, write_atomically

FORMAT = 2
FIXED = ("sample_id", "crop", "y0", "x0", "y1", "x1", "flip", "label")
BLOCK = 1 << 20  # rows read at a time: 4 MiB a column
_KEY = b"drawstream"
_OWN = ("content", "seal")  # entries that are no provenance
_BESIDE = ("format", "device")  # entries that are no identity


@dataclass(frozen=True, slots=True)
class Part:
    """An opened part; its values are still on disk.

    Attributes:
        path: The file.
        rows: Their number.
        types: Type of every column, in order.
        hashes: xxh3-128 of the values of every column.
        provenance: What made it, and the format.
        first: Row of the catalog that is sample 0, where the catalog is one of several.
    """

    path: Path
    rows: int
    types: Mapping[str, np.dtype[Any]]
    hashes: Mapping[str, str]
    provenance: Mapping[str, Any]
    first: int = 0

    def blocks(self, names: Sequence[str], /) -> Iterator[dict[str, NDArray[Any]]]:
        """Columns, at most 2^20 rows at a time; that they are whole is known at the end.

        Raises:
            ValueError: Damaged: not readable, or other values than were written.
        """
        states = {name: xxhash.xxh3_128() for name in names}
        rows = 0
        try:
            with pq.ParquetFile(self.path, memory_map=True) as file:
                for batch in file.iter_batches(BLOCK, columns=list(names), use_threads=False):
                    block = {name: batch.column(name).to_numpy(zero_copy_only=False) for name in names}
                    for name, values in block.items():
                        if values.dtype != self.types[name]:
                            raise ValueError(f"column {name!r} has values of {values.dtype}, not {self.types[name]}")
                        states[name].update(np.ascontiguousarray(values).data)
                    rows += batch.num_rows
                    if self.first and "sample_id" in block:
                        block["sample_id"] = block["sample_id"] + self.first
                    yield block
            if names and rows != self.rows:
                raise ValueError(f"{rows} of {self.rows} rows are there")
            for name, state in states.items():
                if state.hexdigest() != self.hashes[name]:
                    raise ValueError(f"column {name!r} is not as it was written")
        except (pa.ArrowException, OSError, KeyError, ValueError) as error:
            raise_unless_file(error, self.path)
            raise unreadable(self.path, error) from None

    def read(self, name: str, out: NDArray[Any], /) -> None:
        """Write a column into `out` (rows,).

        Raises:
            ValueError: As `blocks`.
        """
        at = 0
        for block in self.blocks([name]):
            values = block[name]
            out[at : at + values.size] = values[: out.size - at]
            at += values.size


def part_path(folder: Path, part: int) -> Path:
    """Where the part of a shard lies."""
    return folder / f"part-{part:05d}.parquet"


def write_part(path: Path, columns: Mapping[str, NDArray[Any]], provenance: Mapping[str, Any], /) -> None:
    """Write one part under a temporary name, then rename it: a part that exists is whole.

    Args:
        path: Of the part (`part_path`).
        columns: Arrays (rows,) of equal length: ids int64, crop int32, features float32.
        provenance: What made them, JSON-able; `catalog` and `parts` among it.
    """
    table = pa.table({name: pa.array(values) for name, values in columns.items()})
    content = {
        "rows": table.num_rows,
        "columns": [[name, str(values.dtype), _hash(values)] for name, values in columns.items()],
    }
    meta: dict[str, Any] = {"format": FORMAT, **provenance, "content": content}
    meta["seal"] = _seal(meta)
    integers = [field.name for field in table.schema if pa.types.is_integer(field.type)]
    with write_atomically(path) as temporary, temporary.open("wb") as file:
        pq.write_table(
            table.replace_schema_metadata({_KEY: json.dumps(meta, sort_keys=True).encode()}),
            file,
            compression="none",
            use_dictionary=False,
            column_encoding=dict.fromkeys(integers, "DELTA_BINARY_PACKED") or None,
            write_statistics=False,
            write_page_checksum=True,
        )


def remove_abandoned(folder: Path, /) -> None:
    """Remove what killed writers left under temporary names; those of running processes stay."""
    files.remove_abandoned(folder, "part-*.parquet")


def open_part(path: Path, /) -> Part:
    """Open a part and check its metadata; the values are checked when they are read.

    Raises:
        ValueError: Not a part of a feature table, damaged, or of another format.
    """
    try:
        footer = pq.read_metadata(path)
        meta = (footer.metadata or {}).get(_KEY)
        provenance = parse_json(meta, finite=False) if meta else None
        schema = footer.schema.to_arrow_schema()
        types = {field.name: np.dtype(field.type.to_pandas_dtype()) for field in schema}
        rows = footer.num_rows
    except (pa.ArrowException, OSError, ValueError, NotImplementedError, TypeError) as error:
        raise_unless_file(error, path)
        raise unreadable(path, error) from None
    if not isinstance(provenance, dict) or "format" not in provenance:
        raise ValueError(f"{path}: not a part of a feature table; give the folder that `drawstream features` wrote")
    version = provenance["format"]
    if not isinstance(version, int) or version > FORMAT:
        raise ValueError(f"{path}: format {version} is newer than {FORMAT}, which this drawstream reads: upgrade")
    if version < FORMAT:
        raise ValueError(f"{path}: format {version}, which was never released: extract it anew")
    if not (isinstance(provenance.get("parts"), int) and isinstance(provenance.get("catalog"), str)):
        raise ValueError(f"{path}: its metadata lacks `parts` or `catalog`: extract it anew")
    hashes = _open_seal(path, provenance, types, rows)
    kept = {key: value for key, value in provenance.items() if key not in _OWN}
    return Part(path, rows, types, hashes, kept)


def read_provenance(path: Path, /) -> dict[str, Any]:
    """Return the provenance of a part, its format included.

    Raises:
        ValueError: As `open_part`.
    """
    return dict(open_part(path).provenance)


class ForeignPartError(DrawstreamError):
    """A part that another extraction made."""


def require_same(found: Mapping[str, Any], expected: Mapping[str, Any], where: Path, /) -> None:
    """Refuse a part of another extraction, showing both sides; the device that it ran on does not count.

    Raises:
        ForeignPartError: Some other entry of the provenance differs.
    """
    theirs, mine = ({key: value for key, value in each.items() if key not in _BESIDE} for each in (found, expected))
    if told := difference(theirs, mine):
        raise ForeignPartError(f"{where}: made with {told}: {ANOTHER}, or remove this one")


def unreadable(path: Path, error: Exception | str, /) -> ValueError:
    """The error for a damaged part."""
    reason = (str(error) or type(error).__name__).splitlines()[0]
    return ValueError(f"{path}: not a readable Parquet file ({reason}); remove it and extract it anew")


def _open_seal(path: Path, meta: Mapping[str, Any], types: Mapping[str, np.dtype[Any]], rows: int) -> dict[str, str]:
    """Hashes of the columns, once metadata and footer agree."""
    if meta.get("seal") != _seal(meta):
        raise unreadable(path, "its metadata is not as it was written")
    content = meta["content"]
    written = [(name, kind) for name, kind, _ in content["columns"]]
    if written != [(name, str(kind)) for name, kind in types.items()] or content["rows"] != rows:
        raise unreadable(path, "its columns or rows are not those that were written")
    return {name: digest for name, _, digest in content["columns"]}


def _seal(meta: Mapping[str, Any]) -> str:
    sealed = {key: value for key, value in meta.items() if key != "seal"}
    return xxhash.xxh3_128_hexdigest(json.dumps(sealed, sort_keys=True).encode())


def _hash(values: NDArray[Any]) -> str:
    return xxhash.xxh3_128_hexdigest(np.ascontiguousarray(values).data)
