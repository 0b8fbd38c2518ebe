"""The feature table: one Parquet part per shard, one row per scored sample or crop.

A part holds `sample_id` int64, `crop` int32, for crops the window `y0 x0 y1 x1` float32 and `flip` bool, `label`
int64, then the features as float32. Its metadata (`drawstream`, JSON) says which catalog, model, weights and
preprocessing made it; the parts of one table agree on all of it.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

FORMAT = 1
_KEY = b"drawstream"
_FIXED = ("sample_id", "crop", "y0", "x0", "y1", "x1", "flip", "label")


def part_path(folder: Path, part: int) -> Path:
    """Where the part of a shard lies."""
    return folder / f"part-{part:05d}.parquet"


def write_part(path: Path, columns: Mapping[str, NDArray[Any]], provenance: Mapping[str, Any], /) -> None:
    """Write one part under a temporary name, then rename it: a part that exists is whole."""
    table = pa.table({name: pa.array(values) for name, values in columns.items()})
    meta = json.dumps({"format": FORMAT, **provenance}, sort_keys=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            pq.write_table(table.replace_schema_metadata({_KEY: meta.encode()}), file, write_page_checksum=True)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def remove_abandoned(folder: Path, /) -> None:
    """Remove what killed writers left under temporary names; those of running processes stay."""
    for temporary in folder.glob(".part-*.parquet.*"):
        writer = temporary.suffix[1:]
        if writer.isdigit() and not Path("/proc", writer).exists():
            temporary.unlink(missing_ok=True)


def read_provenance(path: Path, /) -> dict[str, Any]:
    """Metadata of a part.

    Raises:
        ValueError: Not a part of a feature table, damaged, or of a newer format.
    """
    try:
        meta = (pq.read_schema(path).metadata or {}).get(_KEY)
        provenance = json.loads(meta) if meta else None
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _unreadable(path, error) from None
    if not isinstance(provenance, dict) or "format" not in provenance:
        raise ValueError(f"{path}: not a part of a feature table; give the folder that `drawstream features` wrote")
    if not isinstance(provenance["format"], int) or provenance["format"] > FORMAT:
        raise ValueError(
            f"{path}: format {provenance['format']} is newer than {FORMAT}, which this drawstream reads: upgrade"
        )
    if not (isinstance(provenance.get("parts"), int) and isinstance(provenance.get("catalog"), str)):
        raise ValueError(f"{path}: its metadata lacks `parts` or `catalog`: extract it anew")
    return provenance


class FeatureTable:
    """An opened feature table; columns are read when they are asked for and kept.

    >>> table = FeatureTable.open("features/")
    >>> table.columns("loss", "entropy")["loss"]        # float32 (rows,)
    """

    def __init__(self, folder: Path, parts: list[Path], provenance: dict[str, Any], schema: tuple[str, ...]) -> None:
        self.path = folder
        self.provenance = provenance
        self.names = tuple(name for name in schema if name not in _FIXED)
        self._schema = schema
        self._parts = parts
        self._columns: dict[str, NDArray[Any]] = {}

    @classmethod
    def open(cls, path: str | os.PathLike[str], /) -> Self:
        """Open the folder of a finished extraction.

        Raises:
            FileNotFoundError: No such folder, or no part in it.
            ValueError: Parts are missing, damaged, or of different extractions.
        """
        folder = Path(path)
        parts = sorted(folder.glob("part-*.parquet"))
        if not parts:
            raise FileNotFoundError(f"{folder}: no feature table there (no part-*.parquet); run `drawstream features`")
        found = [read_provenance(part) for part in parts]
        for part, provenance in zip(parts, found, strict=True):
            require_same(provenance, found[0], part)
        total = int(found[0]["parts"])
        missing = [i for i in range(total) if not part_path(folder, i).exists()]
        if missing or len(parts) != total:
            raise ValueError(
                f"{folder}: {len(parts)} of {total} parts are there; run `drawstream features` again to finish"
            )
        return cls(folder, parts, found[0], tuple(pq.read_schema(parts[0]).names))

    def __len__(self) -> int:
        return len(self.sample_id)

    def __repr__(self) -> str:
        return f"FeatureTable({str(self.path)!r}: {len(self)} rows, {', '.join(self.names)})"

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the provenance and of every value, 32 hex digits."""
        digest = hashlib.blake2b(json.dumps(self.provenance, sort_keys=True).encode(), digest_size=16)
        for name in self._schema:
            values = self._column(name)
            digest.update(f"{name} {values.dtype}\n".encode())
            digest.update(values.data)
        return digest.hexdigest()

    @property
    def sample_id(self) -> NDArray[np.int64]:
        """Row of the catalog, int64 (rows,)."""
        return self._column("sample_id")

    @property
    def label(self) -> NDArray[np.int64]:
        """Label of the sample, int64 (rows,)."""
        return self._column("label")

    @cached_property
    def windows(self) -> NDArray[np.float32] | None:
        """Crop windows (y0, x0, y1, x1) in [0, 1], float32 (rows, 4); None where rows are whole images."""
        if "y0" not in self._schema:
            return None
        windows = np.stack([self._column(name) for name in ("y0", "x0", "y1", "x1")], axis=1)
        windows.setflags(write=False)
        return windows

    @property
    def flip(self) -> NDArray[np.bool_] | None:
        """Whether the crop is mirrored, bool (rows,); None where rows are whole images."""
        return self._column("flip") if "flip" in self._schema else None

    def columns(self, *names: str) -> dict[str, NDArray[np.float32]]:
        """Features by name, each float32 (rows,).

        Raises:
            ValueError: No such feature.
        """
        for name in names:
            if name not in self.names:
                raise ValueError(f"{self.path}: no feature {name!r}; there are {', '.join(self.names)}")
        return {name: self._column(name) for name in names}

    def check(self, fingerprint: str, where: str, /) -> None:
        """Refuse a catalog that these features were not made from.

        Raises:
            ValueError: Another fingerprint; both are shown.
        """
        mine = self.provenance["catalog"]
        if mine != fingerprint:
            raise ValueError(
                f"{self.path}: features of catalog {mine[:12]}, but {where} is {fingerprint[:12]}: extract them from it"
            )

    def _column(self, name: str) -> NDArray[Any]:
        if name not in self._columns:
            values = np.concatenate([_read(part, name) for part in self._parts])
            values.setflags(write=False)
            self._columns[name] = values
        return self._columns[name]


def _read(part: Path, name: str) -> NDArray[Any]:
    try:
        table = pq.read_table(part, columns=[name], partitioning=None, page_checksum_verification=True)
        return table[name].to_numpy()  # type: ignore[no-any-return]
    except (pa.ArrowException, OSError, KeyError) as error:
        raise _unreadable(part, error) from None


def _unreadable(part: Path, error: Exception) -> ValueError:
    reason = (str(error) or type(error).__name__).splitlines()[0]
    return ValueError(f"{part}: not a readable Parquet file ({reason}); remove it and extract it anew")


def require_same(found: Mapping[str, Any], expected: Mapping[str, Any], where: Path, /) -> None:
    """Refuse a part of another extraction, showing both sides.

    Raises:
        ValueError: Some entry of the provenance differs.
    """
    for key in sorted({*found, *expected} - {"format"}):
        if found.get(key) != expected.get(key):
            raise ValueError(
                f"{where}: {key} is {json.dumps(found.get(key))}, but this extraction has "
                f"{json.dumps(expected.get(key))}: give another output folder, or remove this one"
            )
