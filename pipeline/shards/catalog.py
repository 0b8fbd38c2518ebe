"""The catalog: one row per sample, saying where its image lies in which shard, and its label."""

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import get_ident
from typing import Any, Self

import numpy as np
import pyarrow as pa
import xxhash
from numpy.typing import NDArray

from drawstream.pipeline import shown
from drawstream.pipeline.decoding import MOST_PIXELS
from drawstream.pipeline.labels import Kind, broken_law, no_labels
from drawstream.pipeline.shards.catalog_file import (
    ENCODINGS,
    FILE,
    HASHED,
    METADATA,
    RAW,
    SEAL,
    TURN,
    AlteredCatalogError,
    Shard,
    checksum_of,
    column_array,
    encoding_codes,
    fingerprint,
    frozen,
    hash_file,
    read_file,
    require,
    seal,
)
from drawstream.pipeline.shards.keys import as_texts, find_rows, with_stems, without_stems
from drawstream.pipeline.shards.names import check_keys, check_name, check_paths
from drawstream.pipeline.shards.remote import MOST, Remote, RemoteError, Transfer, cache_folder, is_url, join, parent

__all__ = [
    "ENCODINGS", "FILE", "METADATA", "RAW", "SEAL", "AlteredCatalogError", "Catalog", "Shard", "checksum_of",
    "fingerprint", "hash_file", "seal",
]  # fmt: skip

_NEEDED: dict[Kind, str] = {"class": "classes", "multi": "classes", "value": "values"}


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Catalog:
    """An opened catalog; every array has one entry per row and is read-only.

    Attributes:
        path: The Parquet file; of a remote catalog the copy of it on local disk.
        remote: URL of the folder that the shards are in, as it was given; None where they are local.
        shards: The tars, in the order the ``shard`` column counts them.
        orientation: ``exif``: images are turned as their EXIF block says; ``stored``: they are not.
        label_kind: ``class``; ``multi``: several classes of a sample; ``value``: numbers; ``none``: no labels.
        key_form: ``key``, or ``stem/key`` where a key comes in several shards and their stems stand before it.
        fields: Names of further members of the samples.
        classes: Class names; label ``c`` means ``classes[c]``. Of values their names; none without labels.
        channels: 1 or 3. Of raw rows the exact depth; encoded rows: 1 if every image is grayscale, else 3.
        fingerprint: Hash over the shards' contents and the columns without ``clean_label``; label noise changes it.
        provenance: How the catalog was made, as JSON values.
        shard: int32 (rows,), index into ``shards``.
        offset: int64 (rows,), first byte of the image in its shard.
        size: int64 (rows,), bytes.
        checksum: uint32 (rows,), of these bytes.
        label: By kind: ``class`` int64 (rows,); ``multi`` uint8 (rows, C), 0 or 1; ``value`` float32 (rows, k);
            ``none`` int64 (rows, 0).
        clean_label: int64 (rows,), or None where no label noise was put in.
        encoding_codes: int8 (rows,), index into ``ENCODINGS``.
        turn: int8 (rows,), EXIF orientation 1 … 8 by which stored pixels are turned; None where no image is turned.
        height: int32 (rows,), pixels.
        width: int32 (rows,), pixels.

    Example:
        >>> catalog = Catalog.open("data/train")
        >>> len(catalog), catalog.classes[catalog.label[0]], catalog.shard_path(catalog.shard[0])
    """

    path: Path
    remote: str | None
    shards: tuple[Shard, ...]
    orientation: str
    label_kind: Kind
    key_form: str
    fields: tuple[str, ...]
    classes: tuple[str, ...]
    channels: int
    fingerprint: str
    provenance: Mapping[str, Any]
    shard: NDArray[np.int32]
    offset: NDArray[np.int64]
    size: NDArray[np.int64]
    checksum: NDArray[np.uint32]
    label: NDArray[Any]
    clean_label: NDArray[np.int64] | None
    encoding_codes: NDArray[np.int8]
    turn: NDArray[np.int8] | None
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
            ValueError: Not a catalog, another format, a missing column, rows that contradict the metadata, or a shard
                of another length.
        """
        catalog = cls.open_rows(path)
        for i, shard in enumerate(catalog.shards if catalog.remote is None else ()):
            tar = catalog.shard_path(i)
            if not tar.is_file():
                law = f"shard {tar} is missing: copy it there, or pack or index anew"
                raise FileNotFoundError(f"{catalog.path}: {law}")
            if (size := tar.stat().st_size) != shard.size:
                law = f"shard has {size} bytes, its catalog says {shard.size}: copy it again, or index anew"
                raise ValueError(f"{tar}: {law}")
        return catalog

    @classmethod
    def open_rows(cls, path: str | os.PathLike[str], /) -> Self:
        """Open a catalog whatever has become of its shards, as ``verify`` must.

        Args:
            path: As ``open``, and errors otherwise too.
        """
        file, remote = _download(str(path)) if is_url(path) else (_locate(Path(path)), None)
        meta, table = read_file(file)
        columns: dict[str, Any] = {
            name: column_array(table, name) for name in table.column_names if name not in ("key", "encoding")
        }
        columns.setdefault("label", frozen(no_labels(table.num_rows)))
        starts = np.searchsorted(columns["shard"], np.arange(len(meta["shards"]) + 1))
        given = ("shards", "orientation", "label_kind", "key_form", "channels", "fingerprint", "provenance")
        catalog = cls(
            path=file,
            remote=remote,
            fields=tuple(meta["fields"]),
            classes=tuple(meta["classes"]),
            clean_label=columns.pop("clean_label", None),
            turn=columns.pop(TURN, None),
            encoding_codes=encoding_codes(table, file),
            _keys=table["key"].cast(pa.large_string()).combine_chunks(),
            _starts=frozen(starts.astype(np.int64)),
            **{name: meta[name] for name in given},
            **columns,
        )
        catalog._check_rows()
        try:
            check_keys(catalog._keys)
            if catalog.key_form == "stem/key":
                catalog._other_keys()
            check_paths([shard.path for shard in catalog.shards], remote=remote is not None)
            for name in catalog.classes:
                check_name(name, what="class name")
        except ValueError as error:
            raise AlteredCatalogError(f"{file}: {error}") from None
        del table, columns
        pa.default_memory_pool().release_unused()  # Arrow keeps what reading took: as much again as the rows
        return catalog

    def _check_rows(self) -> None:
        """Hold rows against metadata and fingerprint."""
        file, raw = self.path, self.encoding_codes == RAW
        hashed = {name: getattr(self, name) for name in HASHED}
        data = (self.shards, hashed, self._keys, self.encoding_codes)
        actual = fingerprint(*data, orientation=self.orientation, label_kind=self.label_kind)
        law = f"the fingerprint of the rows is {actual}, the file says {self.fingerprint}: the catalog was altered"
        require(actual == self.fingerprint, file, law)
        require((np.diff(self.shard) >= 0).all(), file, "the shard column must never decrease")
        require(self.shard[0] >= 0 and self.shard[-1] < len(self.shards), file, "shards must be in the list")
        ends = np.array([shard.size for shard in self.shards], dtype=np.int64)[self.shard]
        inside = (self.offset >= 0) & (self.size > 0) & (self.size <= ends) & (self.offset <= ends - self.size)
        require(inside.all(), file, "every image must lie inside its shard")
        apart = (self.offset[1:] >= self.offset[:-1] + self.size[:-1]) | (self.shard[1:] > self.shard[:-1])
        require(apart.all(), file, "images of a shard must follow one another and not overlap")
        pixels = self.height.astype(np.int64) * self.width  # of 31 bits each
        sound = (self.height >= 1) & (self.width >= 1) & (pixels <= MOST_PIXELS)
        require(sound.all(), file, f"every image must have 1 … {MOST_PIXELS} pixels")
        whole = ~raw | (self.size == pixels * self.channels)
        require(whole.all(), file, "a raw image must have height × width × channels bytes")
        if self.turn is not None:
            law = "only encoded images of a catalog with the orientation exif can be turned, as 1 … 8 say"
            wrong = (self.turn < 1) | (self.turn > 8) | ((self.turn != 1) & raw)
            require(self.orientation == "exif" and not wrong.any(), file, law)
        require(self.label_kind != "none" or not self.classes, file, "there must be no classes without labels")
        require(self.label_kind == "class" or self.clean_label is None, file, "only classes have true labels")
        for labels in (self.label, self.clean_label):
            law = "" if labels is None else broken_law(labels, self.classes)
            require(not law, file, law)

    def __len__(self) -> int:
        return len(self.label)

    def __repr__(self) -> str:
        labels = {"none": "no labels", "value": f"{self.num_classes} values"}
        what = labels.get(self.label_kind, f"{self.num_classes} classes")
        shape = f"{len(self)} rows, {len(self.shards)} shards, {what}"
        where = str(self.path) if self.remote is None else shown(self.remote)
        return f"Catalog({where!r}: {shape}, fingerprint {self.fingerprint[:12]})"

    @property
    def root(self) -> Path:
        """The folder that the catalog is in, and that the paths of local shards are relative to."""
        return self.path.parent

    @property
    def num_classes(self) -> int:
        """Number of classes, or of values: what a model gives for each image; 0 without labels."""
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

    def member_key(self, row: int, /) -> str:
        """The key of one row as its shard has it, without the shard's stem."""
        stem = self.shards[int(self.shard[row])].stem if self.key_form == "stem/key" else None
        return self.key(row) if stem is None else self.key(row)[len(stem) + 1 :]

    def rows_of(self, keys: Any, /) -> NDArray[np.int64]:
        """Find the rows that keys mean; a shard's stem may stand before them (``stem/key``) or not.

        Args:
            keys: Texts (n,): a sequence, or a pyarrow array or column.

        Returns:
            int64 (n,), -1 where the catalog has no such key.

        Raises:
            TypeError: Not texts.
            ValueError: A key without its stem that several shards have.

        Example:
            >>> rows = catalog.rows_of(["cats/0017", "dogs/0003"])
        """
        try:
            return find_rows(as_texts(keys), self._keys, self._other_keys)
        except ValueError as error:
            raise ValueError(f"{self.path}: {error}") from None

    def _other_keys(self) -> Any:
        """All keys in the form that is not the catalog's: pyarrow large_string (rows,)."""
        stems = [shard.stem for shard in self.shards]
        if self.key_form == "stem/key":
            return without_stems(self._keys, self._starts, stems)
        return with_stems(self._keys, self.shard, stems)

    def require_labels(self, what: str, /, *kinds: Kind) -> None:
        """Refuse a catalog whose labels are of another kind, or that has none.

        Args:
            what: The work that needs them.
            kinds: The kinds that it takes; by default all but ``none``.

        Raises:
            ValueError: Its samples have no labels, or others.
        """
        kinds = kinds or ("class", "multi", "value")
        if self.label_kind == "none" and "none" not in kinds:
            remedy = "index it with --label cls, txt or json:KEY"
            raise ValueError(f"{self.path}: has no labels, but {what} needs {_NEEDED[kinds[0]]}: {remedy}")
        if self.label_kind not in kinds:
            law = f"has labels of kind {self.label_kind}, but {what} needs {' or '.join(kinds)}"
            raise ValueError(f"{self.path}: {law}: pack or index it with --label-kind {kinds[0]}, or leave that out")

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


def _download(url: str) -> tuple[Path, str]:
    """Copy a remote catalog file to the cache; return the copy and the URL of the folder that it came from."""
    is_file = url.partition("?")[0].endswith(".parquet")
    root = parent(url) if is_file else join(url, ".")
    url = url if is_file else join(url, FILE)
    name = xxhash.xxh3_64_hexdigest(shown(url).encode())
    (data,) = Transfer(root, Remote()).get([(url, None, None)])
    if len(data) > MOST:
        raise RemoteError(f"{shown(url)}: a catalog must have at most {MOST} bytes: check the address")
    file = cache_folder() / "catalogs" / name / FILE
    part = file.with_name(f"{FILE}.{os.getpid()}-{get_ident()}.part")  # threads may open one catalog at once
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(data)
        part.replace(file)
    except OSError as error:
        with suppress(OSError):
            part.unlink()
        law = f"the copy of {shown(url)} cannot be written ({error.strerror})"
        remedy = "let XDG_CACHE_HOME name a folder with room that you may write to"
        raise RemoteError(f"{file}: {law}: {remedy}") from None
    return file, root


def _locate(path: Path) -> Path:
    """Return the Parquet file that a path names."""
    if path.is_file():
        return path
    if (path / FILE).is_file():
        return path / FILE
    if (path / "train" / FILE).is_file():
        raise FileNotFoundError(f"{path}: holds two catalogs: open {path / 'train'} or {path / 'holdout'}")
    law = f"no {FILE} in this folder" if path.is_dir() else "no such catalog"
    raise FileNotFoundError(f"{path}: {law}: make one with `drawstream pack` or `drawstream index`")
