"""The catalog: one row per sample, saying where its image lies in which shard, and its label.

A catalog is one Parquet file, ``catalog.parquet``, beside the shards (ordinary WebDataset tars). ``sample_id`` is the
row number. Columns:

========== =================== ==================================================================================
key        string              name of the sample, unique in the catalog
shard      int32               index into the shard list of the file metadata; never decreases from row to row
offset     int64               byte in the shard where the image's bytes begin
size       int64               their number
checksum   uint32              ``checksum_of`` exactly these bytes
label      int64               class, 0 … classes − 1, as the training sees it
clean_label int64              only with label noise: the class before relabelling
encoding   dictionary<string>  ``jpeg``, ``png``, ``webp``, or ``raw``: uint8 pixels, height × width × channels
height     int32               pixels, as decoded (EXIF orientation applied)
width      int32               pixels
========== =================== ==================================================================================

File metadata, key ``drawstream``: JSON with the format version, the shards (path relative to the catalog, bytes, hash),
class names, channels, the fingerprint and how the catalog was made. Key ``drawstream-hash``: a hash over that JSON, the
names of the columns and ``clean_label``, which the fingerprint leaves out; files of 0.1.0 have none.
"""

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import get_ident
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import xxhash
from numpy.typing import NDArray

from drawstream.pipeline.image import MOST_PIXELS
from drawstream.pipeline.names import check_keys, check_name, check_paths
from drawstream.pipeline.remote import MOST, Remote, RemoteError, Transfer, cache_folder, is_url, join, parent, shown

FORMAT = 2
_WIDE = {1: 1 << 62, 2: 1024}  # by format: members of more bytes have an XXH3 checksum (it must be 240 at least)
FILE = "catalog.parquet"
ENCODINGS = ("jpeg", "png", "webp", "raw")  # append only: the positions enter the fingerprint
RAW = ENCODINGS.index("raw")
METADATA = b"drawstream"
SEAL = b"drawstream-hash"
SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("shard", pa.int32()),
        ("offset", pa.int64()),
        ("size", pa.int64()),
        ("checksum", pa.uint32()),
        ("label", pa.int64()),
        ("clean_label", pa.int64()),
        ("encoding", pa.dictionary(pa.int8(), pa.string())),
        ("height", pa.int32()),
        ("width", pa.int32()),
    ]
)


class AlteredCatalogError(ValueError):
    """A file that is not a catalog as it was written: damaged, edited, or never one."""


@dataclass(frozen=True, slots=True)
class Shard:
    """One tar of a catalog.

    Attributes:
        path: Path relative to the catalog's folder, with ``/`` between its parts.
        size: Length of the file in bytes.
        hash: xxh3-128 of the whole file, 32 hex digits.
    """

    path: str
    size: int
    hash: str


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Catalog:
    """An opened catalog; every array has one entry per row and is read-only.

    Attributes:
        path: The Parquet file; of a remote catalog the copy of it on local disk.
        version: Of the file's format.
        remote: URL of the folder that the shards are in, as it was given; None where they are local.
        shards: The tars, in the order the ``shard`` column counts them.
        classes: Class names; label ``c`` means ``classes[c]``.
        channels: 1 or 3. Of raw rows the exact depth; encoded rows: 1 if every image is grayscale, else 3.
        fingerprint: Hash over the shards' contents and the columns without ``clean_label``; label noise changes it.
        provenance: How the catalog was made, as JSON values.
        shard: int32 (rows,), index into ``shards``.
        offset: int64 (rows,), first byte of the image in its shard.
        size: int64 (rows,), bytes.
        checksum: uint32 (rows,), of these bytes.
        label: int64 (rows,).
        clean_label: int64 (rows,), or None where no label noise was put in.
        encoding_codes: int8 (rows,), index into ``ENCODINGS``.
        height: int32 (rows,), pixels.
        width: int32 (rows,), pixels.

    Example:
        >>> catalog = Catalog.open("data/train")
        >>> len(catalog), catalog.classes[catalog.label[0]], catalog.shard_path(catalog.shard[0])
    """

    path: Path
    version: int
    remote: str | None
    shards: tuple[Shard, ...]
    classes: tuple[str, ...]
    channels: int
    fingerprint: str
    provenance: Mapping[str, Any]
    shard: NDArray[np.int32]
    offset: NDArray[np.int64]
    size: NDArray[np.int64]
    checksum: NDArray[np.uint32]
    label: NDArray[np.int64]
    clean_label: NDArray[np.int64] | None
    encoding_codes: NDArray[np.int8]
    height: NDArray[np.int32]
    width: NDArray[np.int32]
    _keys: Any = field()  # pyarrow large_string (rows,)
    _starts: NDArray[np.int64] = field()  # (shards + 1,), first row of each shard

    @classmethod
    def open(cls, path: str | os.PathLike[str], /) -> Self:
        """Open a catalog and check it against its shards (presence and length only; ``verify`` reads them).

        Args:
            path: The folder that holds ``catalog.parquet``, or the file itself. Also as a URL for fsspec (``s3://…``,
                ``https://…``): the file is then downloaded, and shards are checked when they are read.

        Raises:
            FileNotFoundError: No catalog there, or a shard is missing.
            RemoteError: A remote catalog cannot be downloaded.
            ValueError: Not a catalog, a newer format, a missing column, rows that contradict the metadata, or a shard
                of another length.
        """
        catalog = cls.open_rows(path)
        catalog._check_shards()
        return catalog

    @classmethod
    def open_rows(cls, path: str | os.PathLike[str], /) -> Self:
        """Open a catalog whatever has become of its shards, as ``verify`` must.

        Args:
            path: As ``open``, and errors otherwise too.
        """
        file, remote = _download(str(path)) if is_url(path) else (_locate(Path(path)), None)
        meta, table = _read(file)
        shards = meta["shards"]
        columns = {name: _array(table, name) for name in table.column_names if name not in ("key", "encoding")}
        catalog = cls(
            path=file,
            version=meta["format"],
            remote=remote,
            shards=shards,
            classes=tuple(meta["classes"]),
            channels=meta["channels"],
            fingerprint=meta["fingerprint"],
            provenance=meta["provenance"],
            clean_label=columns.pop("clean_label", None),
            encoding_codes=_encoding_codes(table, file),
            _keys=_flat_keys(table["key"]),
            _starts=_frozen(np.searchsorted(columns["shard"], np.arange(len(shards) + 1)).astype(np.int64)),
            **columns,
        )
        catalog._check_rows()
        try:
            check_keys(catalog._keys)
            check_paths([shard.path for shard in shards], remote=remote is not None)
            for name in catalog.classes:
                check_name(name, what="class name")
        except ValueError as error:
            raise AlteredCatalogError(f"{file}: {error}") from None
        del table, columns
        pa.default_memory_pool().release_unused()  # Arrow keeps what reading took: as much again as the rows
        return catalog

    def _check_rows(self) -> None:
        """Hold rows against metadata and fingerprint."""
        file = self.path
        actual = fingerprint(
            self.shards,
            {name: getattr(self, name) for name in ("shard", "offset", "size", "checksum", "label", "height", "width")},
            self._keys,
            self.encoding_codes,
            version=self.version,
        )
        if actual != self.fingerprint:
            raise AlteredCatalogError(
                f"{file}: the fingerprint of the rows is {actual}, the file says {self.fingerprint}: "
                "the catalog was altered; pack or index the data anew"
            )
        remedy = "pack or index the data anew"
        _require(bool((np.diff(self.shard) >= 0).all()), file, "the shard column must never decrease", remedy)
        listed = self.shard[0] >= 0 and self.shard[-1] < len(self.shards)
        _require(bool(listed), file, "shards must be in the list", remedy)
        ends = np.array([shard.size for shard in self.shards], dtype=np.int64)[self.shard]
        inside = (self.offset >= 0) & (self.size > 0) & (self.size <= ends) & (self.offset <= ends - self.size)
        _require(bool(inside.all()), file, "every image must lie inside its shard", remedy)
        apart = (self.offset[1:] >= self.offset[:-1] + self.size[:-1]) | (self.shard[1:] > self.shard[:-1])
        _require(bool(apart.all()), file, "images of a shard must follow one another and not overlap", remedy)
        sides = (self.height >= 1) & (self.width >= 1)
        pixels = self.height.astype(np.int64) * self.width  # of 31 bits each
        sound = sides & (pixels <= MOST_PIXELS)
        _require(bool(sound.all()), file, f"every image must have 1 … {MOST_PIXELS} pixels", remedy)
        whole = (self.encoding_codes != RAW) | (self.size == pixels * self.channels)
        _require(bool(whole.all()), file, "a raw image must have height × width × channels bytes", remedy)
        for labels in (self.label, self.clean_label):
            known = labels is None or bool(((labels >= 0) & (labels < self.num_classes)).all())
            _require(known, file, f"labels must lie in 0 … {self.num_classes - 1}", remedy)

    def _check_shards(self) -> None:
        """Hold the shards on disk against the metadata."""
        file = self.path
        for i, shard in enumerate(self.shards if self.remote is None else ()):
            tar = self.shard_path(i)
            if not tar.is_file():
                raise FileNotFoundError(f"{file}: shard {tar} is missing: copy it there, or pack or index anew")
            size = tar.stat().st_size
            if size != shard.size:
                raise ValueError(
                    f"{tar}: shard has {size} bytes, its catalog says {shard.size}: copy it again, or index anew"
                )

    def __len__(self) -> int:
        return len(self.label)

    def __repr__(self) -> str:
        shape = f"{len(self)} rows, {len(self.shards)} shards, {self.num_classes} classes"
        where = str(self.path) if self.remote is None else shown(self.remote)
        return f"Catalog({where!r}: {shape}, fingerprint {self.fingerprint[:12]})"

    @property
    def root(self) -> Path:
        """The folder that the catalog is in, and that the paths of local shards are relative to."""
        return self.path.parent

    @property
    def wide(self) -> int:
        """Members of more bytes than this have the other kind of checksum, see ``checksum_of``."""
        return _WIDE[self.version]

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.classes)

    @property
    def keys(self) -> list[str]:
        """The keys of all rows, as a new list."""
        return self._keys.to_pylist()  # type: ignore[no-any-return]

    @property
    def encodings(self) -> NDArray[np.str_]:
        """The encoding of every row: str (rows,)."""
        return np.array(ENCODINGS)[self.encoding_codes]

    def key(self, row: int, /) -> str:
        """The key of one row."""
        return self._keys[int(row)].as_py()  # type: ignore[no-any-return]

    def shard_path(self, shard: int, /) -> Path:
        """Where a local shard lies on disk.

        Raises:
            ValueError: The catalog is remote.
        """
        if self.remote is not None:
            raise ValueError(f"{self.shard_name(shard)}: this needs local shards: copy the catalog's folder to a disk")
        return self.root / self.shards[shard].path

    def shard_url(self, shard: int, /) -> str:
        """Where a shard of a remote catalog lies, with the credentials of the catalog's URL if it has any."""
        assert self.remote is not None
        return join(self.remote, self.shards[shard].path)

    def shard_name(self, shard: int, /) -> str:
        """Where a shard lies, for messages: its path, or its URL without credentials."""
        return str(self.shard_path(shard)) if self.remote is None else shown(self.shard_url(shard))

    def shard_rows(self, shard: int, /) -> tuple[int, int]:
        """The rows of a shard, half open: ``start, stop``."""
        return int(self._starts[shard]), int(self._starts[shard + 1])


def fingerprint(
    shards: Sequence[Shard],
    columns: Mapping[str, NDArray[Any]],
    keys: Any,
    codes: NDArray[np.int8],
    /,
    *,
    version: int = FORMAT,
) -> str:
    """Hash what a stream over this catalog can see: the shards' contents and every column but ``clean_label``.

    Class names, shard paths and provenance stay out, so a renamed shard or class is still the same data.

    Args:
        shards: The tars.
        columns: ``shard``, ``offset``, ``size``, ``checksum``, ``label``, ``height`` and ``width``, (rows,) each.
        keys: pyarrow large_string (rows,).
        codes: int8 (rows,), positions in ``ENCODINGS``.
        version: Format of the catalog.

    Returns:
        32 hex digits of xxh3-128.
    """
    state = xxhash.xxh3_128(f"drawstream catalog {version}\n".encode())
    for shard in shards:
        state.update(f"{shard.hash} {shard.size}\n".encode())
    for name in ("shard", "offset", "size", "checksum", "label", "height", "width"):
        width = SCHEMA.field(name).type.bit_width // 8
        kind = "u" if name == "checksum" else "i"
        state.update(np.ascontiguousarray(columns[name], dtype=f"<{kind}{width}").data)
    state.update(np.ascontiguousarray(codes).data)
    _, offsets, text = keys.buffers()
    bounds = np.frombuffer(offsets, dtype="<i8")[keys.offset : keys.offset + len(keys) + 1]
    state.update(np.diff(bounds).data)
    state.update(memoryview(text)[bounds[0] : bounds[-1]])
    return state.hexdigest()


def seal(metadata: bytes, names: Sequence[str], clean: NDArray[np.int64] | None, /) -> str:
    """Hash what the fingerprint leaves out, so that no byte of it can change unnoticed.

    Args:
        metadata: The JSON of the file metadata.
        names: The columns that the file has.
        clean: int64 (rows,), true labels, or None.

    Returns:
        32 hex digits of xxh3-128.
    """
    state = xxhash.xxh3_128(metadata)
    state.update("".join(f"\n{name}" for name in names).encode())
    if clean is not None:
        state.update(np.ascontiguousarray(clean, dtype="<i8").data)
    return state.hexdigest()


def checksum_of(data: bytes | memoryview, wide: int = _WIDE[FORMAT], /) -> int:
    """The checksum of an image's bytes: XXH32, or the low half of XXH3-64 of more than ``wide`` bytes; seed 0."""
    return xxhash.xxh3_64_intdigest(data) & 0xFFFFFFFF if len(data) > wide else xxhash.xxh32_intdigest(data)


def hash_file(path: Path | int, /) -> str:
    """xxh3-128 of a file, 32 hex digits; a descriptor is read from where it stands and left open."""
    state = xxhash.xxh3_128()
    buffer = memoryview(bytearray(1 << 20))
    with open(path, "rb", buffering=0, closefd=not isinstance(path, int)) as file:
        while count := file.readinto(buffer):
            state.update(buffer[:count])
    return state.hexdigest()


def _download(url: str) -> tuple[Path, str]:
    """A fresh copy of a remote catalog file, and the URL of the folder that it came from."""
    is_file = url.partition("?")[0].endswith(".parquet")
    root = parent(url) if is_file else join(url, ".")
    url = url if is_file else join(url, FILE)
    name = xxhash.xxh3_64_hexdigest(shown(url).encode())
    (data,) = Transfer(root, Remote()).get([(url, None, None)])
    if len(data) > MOST:
        raise RemoteError(f"{shown(url)}: a catalog must have at most {MOST} bytes: check the address")
    file = cache_folder() / "catalogs" / name / FILE
    part = file.with_name(f"{FILE}.{os.getpid()}-{get_ident()}.part")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(data)
        part.replace(file)
    except OSError as error:
        with suppress(OSError):
            part.unlink()
        raise RemoteError(
            f"{file}: the copy of {shown(url)} cannot be written ({error.strerror}): "
            "let XDG_CACHE_HOME name a folder with room that you may write to"
        ) from None
    return file, root


def _locate(path: Path) -> Path:
    """The Parquet file that a path names, or an error that helps."""
    if path.is_file():
        return path
    if (path / FILE).is_file():
        return path / FILE
    if (path / "train" / FILE).is_file():
        raise FileNotFoundError(f"{path}: holds two catalogs: open {path / 'train'} or {path / 'holdout'}")
    if path.is_dir():
        raise FileNotFoundError(
            f"{path}: no {FILE} in this folder: make one with `drawstream pack` or `drawstream index`"
        )
    raise FileNotFoundError(f"{path}: no such catalog: make one with `drawstream pack` or `drawstream index`")


def _read(file: Path) -> tuple[dict[str, Any], pa.Table]:
    """Metadata and rows of a catalog file of this format, every column of its due type and without nulls."""
    remedy = "pack or index the data anew"
    try:
        rows, size = pq.read_metadata(file).num_rows, file.stat().st_size
        if rows > size:  # each has a checksum of four bytes that do not compress, and a key of its own
            raise ValueError(f"{rows} rows cannot lie in {size} bytes")
        table = pq.read_table(file, partitioning=None, page_checksum_verification=True)
        names = table.column_names
        metadata, copy = table.schema.metadata or {}, pq.read_metadata(file).metadata or {}
        meta = json.loads(metadata[METADATA])
    except KeyError:
        raise AlteredCatalogError(
            f"{file}: not a catalog: the file has no {METADATA.decode()!r} metadata; {remedy}"
        ) from None
    except (pa.ArrowException, OSError, ValueError, RecursionError, MemoryError) as error:
        raise AlteredCatalogError(f"{file}: not a catalog: {str(error).splitlines()[0]}; {remedy}") from None
    kinds = {"format": int, "fingerprint": str, "channels": int, "classes": list, "shards": list, "provenance": dict}
    try:
        sound = all(isinstance(meta[name], kind) for name, kind in kinds.items())
        meta["shards"] = tuple(
            Shard(str(each["path"]), int(each["size"]), str(each["hash"])) for each in meta["shards"]
        )
        sound = sound and all(isinstance(name, str) for name in meta["classes"]) and meta["channels"] in (1, 3)
        sound = sound and all(0 <= shard.size < 1 << 62 for shard in meta["shards"])
    except (KeyError, TypeError, ValueError, OverflowError):
        sound = False
    if not sound:
        raise AlteredCatalogError(f"{file}: not a catalog: its metadata must hold {', '.join(kinds)}; {remedy}")
    if meta["format"] not in _WIDE:
        raise ValueError(
            f"{file}: catalog format must be in 1 … {FORMAT}, but got {meta['format']}: upgrade drawstream"
        )
    _require(table.num_rows > 0, file, "a catalog must have rows", remedy)
    for column in SCHEMA:
        if column.name not in names:
            _require(column.name == "clean_label", file, f"column {column.name!r} must be there", remedy)
            continue
        kind = table.schema.field(column.name).type
        same = kind == column.type or (pa.types.is_dictionary(column.type) and pa.types.is_dictionary(kind))
        _require(same, file, f"column {column.name!r} must be {column.type}, but got {kind}", remedy)
        _require(table[column.name].null_count == 0, file, f"column {column.name!r} must have no nulls", remedy)
    copies = all(metadata.get(key) == copy.get(key) for key in (METADATA, SEAL))
    _require(copies, file, "both copies of the metadata (Parquet's and Arrow's) must be the same", remedy)
    if SEAL in metadata:
        clean = _array(table, "clean_label") if "clean_label" in names else None
        actual, expected = seal(metadata[METADATA], names, clean), metadata[SEAL].decode(errors="replace")
        same = f"the hash of the metadata is {actual}, the file says {expected!r}: the catalog was altered"
        _require(actual == expected, file, same, remedy)
    return meta, table.select([name for name in SCHEMA.names if name in names])


def _encoding_codes(table: pa.Table, file: Path) -> NDArray[np.int8]:
    try:
        names = table["encoding"].cast(pa.string())
    except pa.ArrowException as error:
        raise AlteredCatalogError(f"{file}: damaged encoding column ({error}): pack or index the data anew") from None
    codes = pc.index_in(names, value_set=pa.array(ENCODINGS)).combine_chunks()
    _require(codes.null_count == 0, file, f"encoding must be one of {', '.join(ENCODINGS)}", "pack the data anew")
    return _frozen(codes.to_numpy(zero_copy_only=False).astype(np.int8))


def _require(law: bool, file: Path, text: str, remedy: str) -> None:
    if not law:
        raise AlteredCatalogError(f"{file}: {text}: {remedy}")


def _array(table: pa.Table, name: str) -> NDArray[Any]:
    return _frozen(table[name].combine_chunks().to_numpy(zero_copy_only=False))


def _frozen(array: NDArray[Any]) -> NDArray[Any]:
    array.flags.writeable = False
    return array


def _flat_keys(column: Any) -> Any:
    """A key column as one array with 64-bit offsets."""
    return pa.concat_arrays([chunk.cast(pa.large_string()) for chunk in column.chunks])
