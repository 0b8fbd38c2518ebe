"""The feature table: one Parquet part per shard, one row per scored sample or crop.

A part holds `sample_id` int64, `crop` int32, for crops the window `y0 x0 y1 x1` float32 and `flip` bool, `label`
int64, then the features as float32. Its metadata says which catalog, model, weights and preprocessing made it; the
parts of one table agree on all of it.

A column is read straight into its place, part beside part on all cores: it lies in memory once, and nothing else does.
Tables larger than memory are read block by block (`blocks`), and never as a whole.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from drawstream.features.table.embedding import embedding_path, open_embedding
from drawstream.features.table.join import Joined, join_file
from drawstream.features.table.part import FIXED, Part, open_part, part_path, require_same
from drawstream.features.table.several import join_tables
from drawstream.pipeline.shards import Catalog

_WINDOW = ("y0", "x0", "y1", "x1")


class FeatureTable:
    """An opened feature table; columns are read when they are asked for and kept.

    >>> table = FeatureTable.open("features/")
    >>> table.columns("loss", "entropy")["loss"]        # float32 (rows,)

    Attributes:
        path: Its folder.
        names: Features, those of joined files last.
        parts: The opened parts, in order.
        joined: What was joined.
        provenance: What made the table.

    Made by `FeatureTable.open`, which checks that what it is given fits.

    Args:
        folder: Where the parts lie.
        parts: All parts, opened, in order.
        joined: Further columns, for the same rows in the same order.
    """

    def __init__(self, folder: Path, parts: Sequence[Part], joined: Sequence[Joined] = ()) -> None:
        self.path = folder
        self.parts = tuple(parts)
        self.joined = tuple(joined)
        self.provenance = dict(parts[0].provenance)
        if joined:
            self.provenance["joined"] = [each.as_dict() for each in joined]
        self._rows = sum(part.rows for part in parts)
        self._types = parts[0].types
        added = {name: values for each in joined for name, values in each.columns.items()}
        self.names = (*(name for name in self._types if name not in FIXED), *added)
        self._columns: dict[str, NDArray[Any]] = dict(added)
        self._labels: NDArray[Any] | None = None  # of the catalog's rows, in place of the parts'

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        /,
        *more: str | os.PathLike[str],
        join: Sequence[str | os.PathLike[str]] = (),
        catalog: Catalog | None = None,
    ) -> Self:
        """Open the folder of a finished extraction; those of several catalogs are one table, of the joined catalog.

        Args:
            path: The folder.
            *more: Tables of further catalogs, in the order of the catalogs.
            join: Files with more features of the same samples (`join_file`).
            catalog: The catalog of the features; needed where a joined file names samples by their keys, and where
                the classes of several catalogs were merged.

        Raises:
            FileNotFoundError: No such folder, no part in it, or no such file to join.
            ValueError: Parts are missing, damaged, or of different extractions; or a file does not fit.
        """
        folders = [Path(each) for each in (path, *more)]
        tables = [_open_parts(each) for each in folders]
        parts = join_tables(folders, tables, catalog) if more else tables[0]
        _require_columns(parts)
        folder = Path(", ".join(map(str, folders)))  # of several: for messages
        table = cls(folder, parts)
        if catalog is not None:
            table.check(catalog.fingerprint, str(catalog.path))
        joined: list[Joined] = []
        for file in join:
            taken = {*FIXED, *table.names, *(name for each in joined for name in each.columns)}
            found = join_file(Path(file), table.sample_id, table.crop, taken, catalog)
            if found.catalog not in ("", table.provenance["catalog"]):
                mine = table.provenance["catalog"]
                raise ValueError(
                    f"{file}: rows of catalog {found.catalog[:12]}, but {folder} is of {mine[:12]}: join its own"
                )
            joined.append(found)
        table = cls(folder, parts, joined) if joined else table
        if more and catalog is not None:
            table._labels = catalog.label  # classes may have been merged
        return table

    def __len__(self) -> int:
        return self._rows

    def __repr__(self) -> str:
        return f"FeatureTable({str(self.path)!r}: {len(self)} rows, {', '.join(self.names)})"

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the provenance and of every value, 32 hex digits; the parts know the hashes, so no value is read."""
        digest = hashlib.blake2b(json.dumps(self.provenance, sort_keys=True).encode(), digest_size=16)
        for part in self.parts:
            digest.update(json.dumps([part.rows, part.hashes]).encode())
        return digest.hexdigest()

    @property
    def sample_id(self) -> NDArray[np.int64]:
        """Row of the catalog, int64 (rows,)."""
        return self._column("sample_id")

    @property
    def crop(self) -> NDArray[np.int32]:
        """Number of the crop of its sample, int32 (rows,); 0 where rows are whole images."""
        return self._column("crop")

    @property
    def label(self) -> NDArray[np.int64]:
        """Label of the sample, int64 (rows,)."""
        return self._column("label") if self._labels is None else self._labels[self.sample_id]

    @cached_property
    def windows(self) -> NDArray[np.float32] | None:
        """Crop windows (y0, x0, y1, x1) in [0, 1], float32 (rows, 4); None where rows are whole images."""
        if "y0" not in self._types:
            return None
        windows = np.empty((len(self), 4), np.float32)
        for i, name in enumerate(_WINDOW):
            self._fill(name, windows[:, i])
        windows.setflags(write=False)
        return windows

    @property
    def flip(self) -> NDArray[np.bool_] | None:
        """Whether the crop is mirrored, bool (rows,); None where rows are whole images."""
        return self._column("flip") if "flip" in self._types else None

    def columns(self, *names: str) -> dict[str, NDArray[np.float32]]:
        """Features by name, each float32 (rows,), read-only.

        Raises:
            ValueError: No such feature.
        """
        self._require(names)
        return {name: self._column(name) for name in names}

    def blocks(self, *names: str) -> Iterator[dict[str, NDArray[np.float32]]]:
        """Features block by block, for tables larger than memory: each float32 (at most 2^20,), in order of the rows.

        Raises:
            ValueError: No such feature.
        """
        self._require(names)
        read = [name for name in names if name in self._types]
        at = 0
        for part in self.parts:
            for block in part.blocks(read or ["sample_id"]):
                stop = at + len(next(iter(block.values())))
                yield {name: block[name] if name in block else self._columns[name][at:stop] for name in names}
                at = stop

    def embedding(self) -> NDArray[np.float16]:
        """Return what the last layer saw of each row, float16 (rows, D), mapped; of several tables a copy in memory.

        Raises:
            FileNotFoundError: The table was made without it.
            ValueError: Its file is damaged or of another table.
        """
        folders = list(dict.fromkeys(part.path.parent for part in self.parts))
        found = []
        for folder in folders:
            path = embedding_path(folder)
            if not path.exists():
                raise FileNotFoundError(f"{path}: no embeddings there; run `drawstream features --embedding`")
            found.append(open_embedding(path, type(self).open(folder).fingerprint))
        if len({each.shape[1] for each in found}) > 1:
            shown = ", ".join(f"{each.shape[1]} in {folder}" for each, folder in zip(found, folders, strict=True))
            raise ValueError(f"embeddings have different widths ({shown}): score all with one model")
        return found[0] if len(found) == 1 else np.concatenate(found)

    def check(self, fingerprint: str, where: str, /) -> None:
        """Refuse a catalog that these features were not made from.

        Args:
            fingerprint: Of the catalog.
            where: What the message calls it.

        Raises:
            ValueError: Another fingerprint; both are shown.
        """
        mine = self.provenance["catalog"]
        if mine != fingerprint:
            raise ValueError(
                f"{self.path}: features of catalog {mine[:12]}, but {where} is {fingerprint[:12]}: extract them from it"
            )

    def _require(self, names: Sequence[str]) -> None:
        for name in names:
            if name not in self.names:
                raise ValueError(f"{self.path}: no feature {name!r}; there are {', '.join(self.names)}")

    def _column(self, name: str) -> NDArray[Any]:
        if name not in self._columns:
            if name not in self._types:
                raise ValueError(f"{self.path}: its parts lack the column {name!r}: extract it anew")
            values = np.empty(len(self), self._types[name])
            self._fill(name, values)
            values.setflags(write=False)
            self._columns[name] = values
        return self._columns[name]

    def _fill(self, name: str, out: NDArray[Any]) -> None:
        """Write a column into its place, part beside part."""
        ends = np.cumsum([part.rows for part in self.parts])
        with ThreadPoolExecutor(_cores()) as threads:
            done = [
                threads.submit(part.read, name, out[end - part.rows : end])
                for part, end in zip(self.parts, ends.tolist(), strict=True)
            ]
            for each in done:
                each.result()


def fixed_columns(catalog: Catalog, rows: FeatureTable | None, /) -> dict[str, NDArray[Any]]:
    """Return the columns that say what each row is: of the samples of a catalog, or of a table's rows.

    A label is a column if it is one class.

    Raises:
        ValueError: There are no labels.
    """
    catalog.require_labels("tracking")
    labelled = catalog.label_kind == "class"
    if rows is None:
        n = len(catalog)
        label = {"label": np.asarray(catalog.label)} if labelled else {}
        return {"sample_id": np.arange(n), "crop": np.zeros(n, np.int32), **label}
    fixed: dict[str, NDArray[Any]] = {"sample_id": rows.sample_id, "crop": rows.crop}
    if rows.windows is not None:
        fixed |= {name: np.ascontiguousarray(rows.windows[:, i]) for i, name in enumerate(("y0", "x0", "y1", "x1"))}
    if rows.flip is not None:
        fixed["flip"] = rows.flip
    return {**fixed, "label": rows.label} if labelled else fixed


def _open_parts(folder: Path) -> list[Part]:
    """All parts of a finished extraction, in order; errors as `FeatureTable.open`."""
    paths = sorted(folder.glob("part-*.parquet"))
    if not paths:
        raise FileNotFoundError(f"{folder}: no feature table there (no part-*.parquet); run `drawstream features`")
    with ThreadPoolExecutor(_cores()) as threads:
        parts = list(threads.map(open_part, paths))
    for part in parts:
        require_same(part.provenance, parts[0].provenance, part.path)
    _require_columns(parts)
    total = int(parts[0].provenance["parts"])
    if len(paths) != total or not all(part_path(folder, i).exists() for i in range(total)):
        raise ValueError(
            f"{folder}: {len(paths)} of {total} parts are there; run `drawstream features` again to finish"
        )
    return parts


def _require_columns(parts: Sequence[Part]) -> None:
    for part in parts:
        require_same({"columns": _listed(part)}, {"columns": _listed(parts[0])}, part.path)


def _listed(part: Part) -> Mapping[str, str]:
    return {name: str(kind) for name, kind in part.types.items()}


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
