"""Write a catalog: rows are added one by one, then the file is written in one step."""

import json
import os
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from drawstream.pipeline.decoding import UPRIGHT, ImageInfo
from drawstream.pipeline.fields import ABSENT, FieldColumns, field_schema
from drawstream.pipeline.labels import kind_of
from drawstream.pipeline.shards.catalog_file import (
    ENCODINGS,
    FORMAT,
    FORMATS,
    GIVEN,
    METADATA,
    SCHEMA,
    SEAL,
    TURN,
    Shard,
    checksum_of,
    fingerprint,
    list_array,
    seal,
)
from drawstream.pipeline.shards.keys import as_texts, find_rows, shard_stems, with_stems
from drawstream.pipeline.shards.names import check_keys, check_name
from drawstream.samplers.files import write_atomically

_IMAGE = ("shard", "offset", "size", "checksum", "encoding", "height", "width", TURN)


@dataclass(slots=True)
class CatalogWriter:
    """Rows of a catalog to be.

    Three laws hold for every row, whoever adds it: keys are unique and pass ``check_name``, and raw images are all of
    one shape.
    """

    keys: list[str] = field(default_factory=list)
    images: "array[int]" = field(default_factory=lambda: array("q"))  # per row the values of _IMAGE: no objects
    channels: int = 1
    fields: tuple[str, ...] = ()  # their names
    members: "array[int]" = field(default_factory=lambda: array("q"))  # per row and field: offset, size, checksum
    _raw: tuple[str, tuple[int, int, int]] | None = None
    _seen: set[str] = field(default_factory=set)

    def add(
        self,
        key: str,
        shard: int,
        offset: int,
        data: bytes,
        info: ImageInfo,
        /,
        members: Sequence[tuple[int, bytes] | None] = (),
    ) -> None:
        """Add a row: an image member of these bytes, at this byte of its shard; ``info`` is what ``probe`` says of it.

        ``members`` are place and bytes of each of ``fields``, or None where the sample has no such member.

        Raises:
            ValueError: The key is taken or acts where it is shown, or a raw image of another shape than the first.
        """
        if key in self._seen:
            raise ValueError(f"key {key!r} must be unique, but another image has it already: rename one of them")
        check_name(key, what="key")
        if info.encoding == "raw":
            self._check_raw(key, (info.height, info.width, info.channels))
        self._seen.add(key)
        self.keys.append(key)
        self.channels = max(self.channels, info.channels)
        mark = checksum_of(memoryview(data)[info.start :])
        place = (shard, offset + info.start, len(data) - info.start)
        values = mark, ENCODINGS.index(info.encoding), info.height, info.width, info.orientation
        self.images.extend((*place, *values))
        for _, member in zip(self.fields, members, strict=True):
            self.members.extend((ABSENT, 0, 0) if member is None else _placed(*member))

    def append(self, other: "CatalogWriter", shard: int, /) -> None:
        """Add the rows of another shard, of that number; it may have keys that are here, too.

        Raises:
            ValueError: Raw images of another shape.
        """
        if other._raw:
            self._check_raw(*other._raw)
        self.keys += other.keys
        images = np.array(other.images, np.int64).reshape(-1, len(_IMAGE))
        images[:, 0] = shard
        self.images.frombytes(images.tobytes())
        self.members += other.members
        self.channels = max(self.channels, other.channels)

    def field_counts(self) -> dict[str, int]:
        """Return how many rows have each of the fields."""
        places = np.frombuffer(self.members, np.int64).reshape(len(self.keys), len(self.fields), 3)
        return dict(zip(self.fields, (places[:, :, 0] != ABSENT).sum(0).tolist(), strict=True))

    def shard(self, row: int, /) -> int:
        """Return the shard of a row."""
        return self.images[len(_IMAGE) * row]

    def find(self, keys: Sequence[str], stems: Sequence[str], /) -> NDArray[np.int64]:
        """Return the rows of keys with or without their shard's stem, int64 (n,), -1 where there is none.

        Raises:
            ValueError: A key without its stem that several shards have.
        """
        own, shard = pa.array(self.keys, pa.large_string()), np.array(self.images, np.int64)[:: len(_IMAGE)]
        whole = with_stems(own, shard, stems)
        if pc.count_distinct(own).as_py() == len(own):
            return find_rows(as_texts(keys), own, lambda: whole)
        return find_rows(as_texts(keys), whole, lambda: own)

    def keep(self, kept: NDArray[np.bool_], /) -> None:
        """Leave out the other rows."""
        self.keys = [key for key, stays in zip(self.keys, kept.tolist(), strict=True) if stays]
        for name in ("images", "members"):
            values = np.array(getattr(self, name), np.int64).reshape(len(kept), -1)[kept]
            setattr(self, name, array("q", values.tobytes()))

    def _check_raw(self, key: str, shape: tuple[int, int, int]) -> None:
        first, expected = self._raw = self._raw or (key, shape)
        if shape != expected:
            law = f"raw images must all be of one shape, but {key!r} has {shape} and {first!r} has {expected}"
            raise ValueError(f"{law}: store them as png or jpeg")

    def save(
        self,
        path: Path,
        labels: NDArray[Any] | None,
        clean: NDArray[np.int64] | None,
        /,
        *,
        shards: Sequence[Shard],
        classes: Sequence[str],
        provenance: Mapping[str, Any],
        orientation: str = "exif",
        given: NDArray[np.int64] | None = None,
    ) -> str:
        """Write the catalog under a temporary name, flush it to disk and rename it; return its fingerprint.

        Args:
            path: The Parquet file.
            labels: Of any kind (`pipeline.labels`); None without labels.
            clean: int64 (rows,), true classes, or None.
            shards: The tars that the rows count; their stems are set here.
            classes: Names of the classes, or of the values.
            provenance: JSON values that say how the catalog was made.
            orientation: The rule by which images are turned, ``exif`` or ``stored``.
            given: int64 (rows,), classes that the shards say, where they are not the labels.

        Raises:
            ValueError: No rows, gray raw images beside colour ones, or keys that stay alike with their shards' stems.
        """
        if not self.keys:
            raise ValueError(f"{path}: a catalog must have rows, but got none")
        if self._raw and self._raw[1][2] != self.channels:
            law = f"raw images must be as deep as the others, but {self._raw[0]!r} is gray and others are not"
            raise ValueError(f"{path}: {law}: store them as png or jpeg")
        for name in classes:
            check_name(name, what="class name")
        table = np.frombuffer(self.images, dtype=np.int64).reshape(-1, len(_IMAGE))
        columns: dict[str, NDArray[Any]] = {name: table[:, i] for i, name in enumerate(_IMAGE)}
        if labels is not None and kind_of(labels) != "none":
            columns["label"] = labels
        codes = columns["encoding"].astype(np.int8)
        stems = shard_stems([os.path.normpath(path.parent.absolute() / shard.path) for shard in shards])
        shards = [replace(shard, stem=stem) for shard, stem in zip(shards, stems, strict=True)]
        keys, form = self._keys(path, columns["shard"], stems)
        kind = "none" if labels is None else kind_of(labels)
        meta = {
            "format": FORMAT if kind in ("class", "none") and not self.fields else FORMATS[1],
            "fingerprint": fingerprint(shards, columns, keys, codes, orientation=orientation, label_kind=kind),
            "checksum": "xxh3_64 of more than 1024 bytes, else xxh32",
            "hash": "xxh3_128",
            "orientation": orientation,
            "label_kind": kind,
            "key_form": form,
            "fields": list(self.fields),
            "channels": self.channels,
            "classes": list(classes),
            "shards": [asdict(shard) for shard in shards],
            "provenance": dict(provenance),
        }
        arrays = {name: list_array(each) if each.ndim == 2 else pa.array(each) for name, each in columns.items()}
        arrays["key"] = keys
        arrays["encoding"] = pa.DictionaryArray.from_arrays(pa.array(codes), pa.array(ENCODINGS))
        if clean is not None:
            arrays["clean_label"] = pa.array(clean)
        fields = [column for column in SCHEMA if column.name in arrays]
        if kind in ("multi", "value"):
            fields[SCHEMA.get_field_index("label")] = pa.field("label", arrays["label"].type)
        further = [(TURN, pa.array(columns[TURN], pa.int8()))] if (columns[TURN] != UPRIGHT).any() else []
        further += [] if given is None else [(GIVEN, pa.array(given, pa.int64()))]
        further += self._further()
        fields += [pa.field(name, column.type) for name, column in further]
        text = json.dumps(meta, ensure_ascii=False).encode()
        mark = seal(text, [column.name for column in fields], clean, further)
        schema = pa.schema(fields, metadata={METADATA: text, SEAL: mark})
        arrays |= dict(further)
        rows = pa.Table.from_arrays([arrays[column.name].cast(column.type) for column in fields], schema=schema)
        with write_atomically(path) as temporary, temporary.open("wb") as file:
            pq.write_table(rows, file, compression="zstd", write_page_checksum=True)
        return str(meta["fingerprint"])

    def _further(self) -> list[tuple[str, Any]]:
        """Return names and values of the fields' columns."""
        places = np.frombuffer(self.members, np.int64).reshape(len(self.keys), len(self.fields), 3)
        found = []
        for at, name in enumerate(self.fields):
            columns = FieldColumns(places[:, at, 0], places[:, at, 1], places[:, at, 2].astype(np.uint32))
            found += [(part.name, each) for part, each in zip(field_schema(name), columns.arrow(), strict=True)]
        return found

    def _keys(self, path: Path, shard: NDArray[np.int64], stems: Sequence[str]) -> tuple[Any, str]:
        """Return the catalog's keys and their form: with stems where some key is in several shards."""
        keys = pa.array(self.keys, pa.large_string())
        if pc.count_distinct(keys).as_py() == len(keys):
            return keys, "key"
        keys = with_stems(keys, shard, stems)
        if pc.count_distinct(keys).as_py() < len(keys):
            raise ValueError(f"{path}: keys in several shards must differ with the shards' names: rename a shard")
        check_keys(keys)
        return keys, "stem/key"


def _placed(offset: int, data: bytes) -> tuple[int, int, int]:
    """Return the columns of a member: its place, its size and its checksum."""
    return offset, len(data), checksum_of(data)
