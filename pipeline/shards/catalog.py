"""The catalog: one row per sample, saying where its image lies in which shard, and its label."""

import os
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from drawstream.pipeline import shown
from drawstream.pipeline.catalogs import (
    LARGE,
    Classes,
    MappedColumns,
    MemberCatalog,
    join_catalogs,
    merged_labels,
    rows_of_keys,
    source_names,
    whole_column,
)
from drawstream.pipeline.fields import FieldColumns, check_fields, read_columns
from drawstream.pipeline.labels import Kind, no_labels
from drawstream.pipeline.shards.catalog_file import (
    ENCODINGS,
    FILE,
    METADATA,
    RAW,
    SCHEMA,
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
    mapped_columns,
    read_file,
    seal,
)
from drawstream.pipeline.shards.catalog_laws import check_rows
from drawstream.pipeline.shards.keys import as_texts, find_rows, with_stems, without_stems
from drawstream.pipeline.shards.names import check_keys, check_name, check_paths
from drawstream.pipeline.shards.remote import cache_folder, download_catalog, is_url, join

__all__ = [
    "ENCODINGS", "FILE", "METADATA", "RAW", "SEAL", "AlteredCatalogError", "Catalog", "Shard", "checksum_of",
    "fingerprint", "hash_file", "seal",
]  # fmt: skip

_NEEDED: dict[Kind, str] = {"class": "classes", "multi": "classes", "value": "values"}
Place = str | os.PathLike[str]
OWN = ("path", "remote", "fingerprint", "key_form", "orientation", "provenance")  # that members of several keep


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Catalog:
    """An opened catalog; every array has one entry per row and is read-only.

    Attributes:
        path: The Parquet file; of a remote catalog the copy of it on local disk; of several catalogs all their files,
            for messages.
        remote: URL of the folder that the shards are in, as it was given; None where they are local, and of several
            catalogs, whose `members` say it.
        shards: The tars, in the order the ``shard`` column counts them.
        orientation: ``exif``: images are turned as their EXIF block says; ``stored``: they are not.
        label_kind: ``class``; ``multi``: several classes of a sample; ``value``: numbers; ``none``: no labels.
        key_form: ``key``, or ``stem/key`` where a key comes in several shards and their stems stand before it.
        fields: Names of further members of the samples, by extension, such as ``txt`` or ``seg.png``.
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
        source: int16 (rows,), index into ``sources``: which of several catalogs a row is of; else zeros.
        field_columns: Where the members of each field lie, by name.

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
    source: NDArray[np.int16]
    field_columns: Mapping[str, FieldColumns]
    _keys: Any = field()  # pyarrow large_string (rows,)
    _starts: NDArray[np.int64] = field()  # (shards + 1,), first row of each shard
    _members: tuple[MemberCatalog, ...] = ()  # of several catalogs

    @classmethod
    def open(cls, path: Place | Sequence[Place], /, *more: Place, classes: Classes = "same") -> Self:
        """Open a catalog and check it against its shards (presence and length only; ``verify`` reads them).

        Several paths give one catalog: its rows are those of the first, then those of the second, …

        Args:
            path: The folder that holds ``catalog.parquet``, or the file itself. Also as a URL for fsspec (``s3://…``,
                ``https://…``): the file is then downloaded, and shards are checked when they are read. Or a list of
                these.
            *more: Further catalogs.
            classes: Several catalogs have the same classes in the same order (``same``), or their classes are merged
                by name (``union``), in the order in which the catalogs bring them; or labels are left out (``none``),
                and catalogs of any labels and images fit each other.

        Raises:
            FileNotFoundError: No catalog there, or a shard is missing.
            RemoteError: A remote catalog cannot be downloaded.
            ValueError: Not a catalog, another format, a missing column, rows that contradict the metadata, a shard of
                another length, or catalogs that do not fit each other.

        Example:
            >>> both = Catalog.open("photos/train", "drawings/train", classes="union")
            >>> both.sources, both.source[-1]
        """
        catalog = cls.open_rows(path, *more, classes=classes)
        for i, shard in enumerate(catalog.shards):
            member = catalog.member_of(i)
            if member.remote is not None:
                continue
            tar = catalog.shard_path(i)
            if not tar.is_file():
                law = f"shard {tar} is missing: copy it there, or pack or index anew"
                raise FileNotFoundError(f"{member.path}: {law}")
            if (size := tar.stat().st_size) != shard.size:
                law = f"shard has {size} bytes, its catalog says {shard.size}: copy it again, or index anew"
                raise ValueError(f"{tar}: {law}")
        return catalog

    @classmethod
    def open_rows(cls, path: Place | Sequence[Place], /, *more: Place, classes: Classes = "same") -> Self:
        """Open a catalog whatever has become of its shards, as ``verify`` must.

        Args:
            path: As ``open``.
            *more: As ``open``.
            classes: As ``open``.

        Raises:
            ValueError: As ``open``, but for shards that are missing or have changed.
        """
        places = (path, *more) if isinstance(path, str | os.PathLike) else (*path, *more)
        if not places:
            raise ValueError("a catalog has a place: give the path of one, or of several")
        if len(places) == 1:
            return cls._open_one(places[0])
        several = [cls._open_one(each) for each in places]
        large = sum(map(len, several)) >= LARGE
        return cls(**join_catalogs(several, classes, cache_folder() / "columns" if large else None))

    @classmethod
    def _open_one(cls, path: Place) -> Self:
        file, remote = download_catalog(str(path), FILE) if is_url(path) else (_locate(Path(path)), None)
        mapped = mapped_columns(file, cache_folder() / "columns", LARGE)
        if mapped is None:
            return cls._checked(file, remote)
        with suppress(OSError, ValueError):
            if mapped.checked:
                return cls._checked(file, remote, mapped.map())
        try:
            return cls._write_mapped(file, remote, mapped)
        except OSError as error:
            law = f"each process holds the columns of {file} in its own memory, as they cannot be kept there"
            remedy = "let XDG_CACHE_HOME name a folder with room that you may write to"
            warnings.warn(f"{mapped.folder}: {law} ({error.strerror or error}): {remedy}", stacklevel=4)
            return cls._checked(file, remote)

    @classmethod
    def _write_mapped(cls, file: Path, remote: str | None, mapped: MappedColumns) -> Self:
        """Write the columns to be mapped and check them; others wait, and find them checked."""
        with mapped.writing():
            with suppress(OSError, ValueError):
                if mapped.checked:
                    return cls._checked(file, remote, mapped.map())
            try:
                mapped.write()
                catalog = cls._checked(file, remote, mapped.map())
                mapped.confirm()
            except (pa.ArrowException, ValueError):  # the file says no more than its columns
                mapped.discard()
                return cls._checked(file, remote)
            return catalog

    @classmethod
    def _checked(cls, file: Path, remote: str | None, mapped: pa.Table | None = None) -> Self:
        """Return the catalog of a file, held against all laws."""
        meta, table = read_file(file, mapped)
        fields = _fields(table, meta["fields"], file)
        columns: dict[str, Any] = {
            name: column_array(table, name)
            for name in (*SCHEMA.names, TURN)
            if name in table.column_names and name not in ("key", "encoding")
        }
        columns.setdefault("label", frozen(no_labels(table.num_rows)))
        starts = np.searchsorted(columns["shard"], np.arange(len(meta["shards"]) + 1))
        given = ("shards", "orientation", "label_kind", "key_form", "channels", "fingerprint", "provenance")
        catalog = cls(
            path=file,
            remote=remote,
            fields=tuple(fields),
            field_columns=fields,
            classes=tuple(meta["classes"]),
            clean_label=columns.pop("clean_label", None),
            turn=columns.pop(TURN, None),
            encoding_codes=encoding_codes(table, file),
            source=np.broadcast_to(np.int16(0), table.num_rows),
            _keys=whole_column(table["key"].cast(pa.large_string())),
            _starts=frozen(starts.astype(np.int64)),
            **{name: meta[name] for name in given},
            **columns,
        )
        check_rows(catalog)
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

    def __len__(self) -> int:
        return len(self.label)

    def __repr__(self) -> str:
        labels = {"none": "no labels", "value": f"{self.num_classes} values"}
        what = labels.get(self.label_kind, f"{self.num_classes} classes")
        shape = f"{len(self)} rows, {len(self.shards)} shards, {what}"
        where = ", ".join(shown(member.place) for member in self._members) or shown(self.remote or str(self.path))
        return f"Catalog({where!r}: {shape}, fingerprint {self.fingerprint[:12]})"

    @property
    def root(self) -> Path:
        """The folder that the catalog is in, and that the paths of local shards are relative to.

        Raises:
            ValueError: Several catalogs, which lie in several folders.
        """
        if self._members:
            raise ValueError(f"{self.path}: these are several catalogs, but this takes one: give one of them")
        return self.path.parent

    @property
    def members(self) -> tuple[MemberCatalog, ...]:
        """The catalogs that this one is made of, in order; of one catalog itself alone."""
        if self._members:
            return self._members
        own = {name: getattr(self, name) for name in OWN}
        (name,) = source_names([self.remote or str(self.root)])
        return (MemberCatalog(name, rows=len(self), first_row=0, first_shard=0, **own),)

    @property
    def sources(self) -> tuple[str, ...]:
        """Short names of these catalogs."""
        return tuple(member.name for member in self.members)

    @property
    def places(self) -> tuple[str, ...]:
        """Arguments of `open` that open this catalog again: URLs, and absolute paths of files."""
        return tuple(member.place for member in self.members)

    def member_of(self, shard: int, /) -> MemberCatalog:
        """The catalog that a shard is of."""
        return next(member for member in reversed(self.members) if member.first_shard <= shard)

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
        shard = int(self.shard[row])
        stem = self.shards[shard].stem if self.member_of(shard).key_form == "stem/key" else None
        return self.key(row) if stem is None else self.key(row)[len(stem) + 1 :]

    def row_name(self, row: int, /) -> str:
        """A row for messages; of several catalogs the row of its own, too."""
        if not self._members:
            return f"row {row}"
        member = self.member_of(int(self.shard[row]))
        return f"row {row}, which is row {row - member.first_row} of {member.path}"

    def rows_of(self, keys: Any, /) -> NDArray[np.int64]:
        """Find the rows that keys mean; a shard's stem may stand before them (``stem/key``) or not.

        Of several catalogs the name of a source may stand before all that (``source/key``).

        Args:
            keys: Texts (n,): a sequence, or a pyarrow array or column.

        Returns:
            int64 (n,), -1 where the catalog has no such key.

        Raises:
            TypeError: Not texts.
            ValueError: A key without its stem that several shards have, or that several catalogs have.

        Example:
            >>> rows = catalog.rows_of(["cats/0017", "dogs/0003"])
        """
        if self._members:
            return rows_of_keys(as_texts(keys), [self.part(g) for g in range(len(self._members))], self.sources)
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

    def with_classes(self, names: Sequence[str], /) -> Self:
        """Return the catalog with labels that count in other class names, among which are all of its own.

        Args:
            names: Those of a catalog that it is used with, such as the union of several.

        Raises:
            ValueError: A class of its own is not among them.
        """
        if absent := [name for name in self.classes if name not in names]:
            raise ValueError(f"{self.path}: class {absent[0]!r} is not among the {len(names)} that it is used with")
        own = np.array([list(names).index(name) for name in self.classes], np.int64)
        clean = self.clean_label
        return replace(
            self,
            classes=tuple(names),
            label=frozen(merged_labels(self.label, own, len(names))),
            clean_label=None if clean is None else frozen(merged_labels(clean, own, len(names))),
        )

    def part(self, source: int, /) -> Self:
        """The rows of one of several catalogs as a catalog, with the classes of the whole.

        Args:
            source: Its number, as in ``source``.
        """
        if not self._members:
            return self
        g, member = source, self._members[source]
        ends = [each.first_shard for each in self._members[1:]] + [len(self.shards)]
        shards, rows = slice(member.first_shard, ends[g]), slice(member.first_row, member.first_row + member.rows)
        names = ("offset", "size", "checksum", "label", "encoding_codes", "height", "width", "clean_label", "turn")
        columns: dict[str, Any] = {
            name: None if (each := getattr(self, name)) is None else each[rows] for name in names
        }
        whole: dict[str, Any] = {name: getattr(member, name) for name in OWN}
        return replace(
            self,
            **whole,
            **columns,
            shards=self.shards[shards],
            shard=self.shard[rows] - np.int32(member.first_shard),
            source=np.broadcast_to(np.int16(0), member.rows),
            field_columns={
                name: FieldColumns(each.offset[rows], each.size[rows], each.checksum[rows])
                for name, each in self.field_columns.items()
            },
            _keys=self._keys.slice(member.first_row, member.rows),
            _starts=self._starts[member.first_shard : ends[g] + 1] - member.first_row,
            _members=(),
        )

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
        member = self.member_of(shard)
        if member.remote is not None:
            raise ValueError(f"{self.shard_name(shard)}: this needs local shards: copy the catalog's folder to a disk")
        return member.path.parent / self.shards[shard].path

    def shard_url(self, shard: int, /) -> str:
        """Where a shard of a remote catalog lies, with the credentials of the catalog's URL if it has any."""
        root = self.member_of(shard).remote
        assert root is not None
        return join(root, self.shards[shard].path)

    def shard_name(self, shard: int, /) -> str:
        """Where a shard lies, for messages: its path, or its URL without credentials."""
        local = self.member_of(shard).remote is None
        return str(self.shard_path(shard)) if local else shown(self.shard_url(shard))

    def shard_rows(self, shard: int, /) -> tuple[int, int]:
        """The rows of a shard, half open: ``start, stop``."""
        return int(self._starts[shard]), int(self._starts[shard + 1])


def _fields(table: pa.Table, names: list[str], file: Path) -> dict[str, FieldColumns]:
    """Return the columns of the fields by name."""
    try:
        return {name: read_columns(table, name) for name in check_fields(names)}
    except ValueError as error:
        raise AlteredCatalogError(f"{file}: {error}") from None


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
