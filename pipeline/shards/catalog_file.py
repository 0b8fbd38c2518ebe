"""The catalog file: its columns, metadata and hashes, and reading it.

A catalog is one Parquet file, ``catalog.parquet``, beside the shards (ordinary WebDataset tars). ``sample_id`` is the
row number. Columns:

========== =================== ==================================================================================
key        string              name of the sample, unique in the catalog
shard      int32               index into the shard list of the file metadata; never decreases from row to row
offset     int64               byte in the shard where the image's bytes begin
size       int64               their number
checksum   uint32              ``checksum_of`` exactly these bytes
label      by kind             as the training sees it: ``class`` int64, 0 … classes − 1; ``multi`` and ``value``
                               lists of fixed size, of uint8 and of float32; absent where it is ``none``
clean_label int64              only with label noise: the class before relabelling
encoding   dictionary<string>  ``jpeg``, ``png``, ``webp``, or ``raw``: uint8 pixels, height × width × channels
height     int32               pixels, as decoded (turned as the orientation rule says)
width      int32               pixels
given_label int64              only of relabelled shards: the class that the shard says, for ``verify``
turn       int8                only where an image is turned: its EXIF orientation, 1 … 8; 1 as it is stored
========== =================== ==================================================================================

Of each field ``NAME.offset``, ``NAME.size`` and ``NAME.checksum`` follow (``fields.columns``). Further columns may
follow; this version checks their hash and reads past them.

File metadata, key ``drawstream``: JSON with

* ``format``, 4 with fields or new kinds of labels, else 3; ``checksum`` and ``hash``: names of the hashes;
* ``fingerprint``; ``provenance``: how the catalog was made;
* ``shards``: of each the ``path`` relative to the catalog, ``size`` in bytes, ``hash`` and ``stem``;
* ``classes``: names of the classes, or of the values; ``channels``: 1 or 3; ``label_kind``: ``class``, ``none``, or in
  format 4 ``multi`` or ``value``;
* ``orientation``: ``exif``, images are turned as their first EXIF block says; ``stored``, they do not;
* ``key_form``: ``key``, as the shards have them; ``stem/key``, where a key comes in several shards;
* ``fields``: names of further members of the samples.

Key ``drawstream-hash``: a hash over that JSON, the names of the columns, and those columns that the fingerprint leaves
out.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import xxhash
from numpy.typing import NDArray

from drawstream.pipeline.catalogs import MappedColumns, whole_column
from drawstream.pipeline.decoding import RULES
from drawstream.pipeline.fields import field_schema, fill_nulls, is_field_column
from drawstream.pipeline.labels import KINDS, TYPES, Kind
from drawstream.pipeline.shards.names import PIECE, shortened
from drawstream.samplers import DrawstreamError
from drawstream.samplers.files import raise_unless_file, system_fault

FORMAT = 3  # of a catalog of classes, or without labels, with no fields
FORMATS = (FORMAT, 4)

WIDE = 1024  # bytes (240 at least); longer members have an XXH3 checksum
FILE = "catalog.parquet"
ENCODINGS = ("jpeg", "png", "webp", "raw")  # append only: the positions enter the fingerprint
RAW = ENCODINGS.index("raw")
TURN = "turn"
GIVEN = "given_label"
METADATA = b"drawstream"
SEAL = b"drawstream-hash"
SCHEMA = pa.schema(
    {
        "key": pa.string(),
        "shard": pa.int32(),
        "offset": pa.int64(),
        "size": pa.int64(),
        "checksum": pa.uint32(),
        "label": pa.int64(),
        "clean_label": pa.int64(),
        "encoding": pa.dictionary(pa.int8(), pa.string()),
        "height": pa.int32(),
        "width": pa.int32(),
    }
)
HASHED = ("shard", "offset", "size", "checksum", "label", "height", "width")  # columns of the fingerprint, in its order
_KINDS = {
    "format": int,
    "fingerprint": str,
    "channels": int,
    "classes": list,
    "shards": list,
    "provenance": dict,
    "orientation": str,
    "label_kind": str,
    "key_form": str,
    "fields": list,
}
_KNOWN = {"orientation": RULES, "label_kind": KINDS, "key_form": ("key", "stem/key")}
_REMEDY = "pack or index the data anew"


class AlteredCatalogError(DrawstreamError):
    """A file that is not a catalog as it was written: damaged, edited, or never one."""


@dataclass(frozen=True, slots=True)
class Shard:
    """One tar of a catalog.

    Attributes:
        path: Path relative to the catalog's folder, with ``/`` between its parts.
        size: Length of the file in bytes.
        hash: xxh3-128 of the whole file, 32 hex digits.
        stem: Name that stands before a key where keys alone are not unique.
    """

    path: str
    size: int
    hash: str
    stem: str = ""


def fingerprint(
    shards: Sequence[Shard],
    columns: Mapping[str, NDArray[Any]],
    keys: Any,
    codes: NDArray[np.int8],
    /,
    *,
    orientation: str = "exif",
    label_kind: Kind = "class",
) -> str:
    """Hash all that a user of the catalog can see: the shards' contents and every column but ``clean_label``.

    Class names, shard paths and provenance stay out, so a renamed shard or class is still the same data.

    Args:
        shards: The tars.
        columns: Those of ``HASHED``, (rows,) each; no label where there are none.
        keys: pyarrow large_string (rows,).
        codes: int8 (rows,), positions in ``ENCODINGS``.
        orientation: ``exif`` or ``stored``.
        label_kind: Kind of the labels.
    """
    state = xxhash.xxh3_128(f"drawstream catalog {FORMAT}\n{orientation} {label_kind}\n".encode())
    for shard in shards:
        state.update(f"{shard.hash} {shard.size}\n".encode())
    for name in HASHED:
        if name == "label" and label_kind == "none":
            continue
        kind = TYPES[label_kind] if name == "label" else np.dtype(SCHEMA.field(name).type.to_pandas_dtype())
        values = np.ascontiguousarray(columns[name], dtype=kind.newbyteorder("<"))
        if values.ndim == 2:
            state.update(f"{values.shape[1]}\n".encode())
        state.update(values.data)
    state.update(np.ascontiguousarray(codes).data)
    _update_texts(state, keys)
    return state.hexdigest()


def seal(
    metadata: bytes,
    names: Sequence[str],
    clean: NDArray[np.int64] | None,
    /,
    further: Iterable[tuple[str, Any]] = (),
) -> str:
    """Hash what the fingerprint leaves out, so that no byte of it can change unnoticed.

    Args:
        metadata: The JSON of the file metadata.
        names: The columns that the file has.
        clean: int64 (rows,), true labels, or None.
        further: Names and values (pyarrow arrays, nulls allowed) of the columns that ``SCHEMA`` does not have.
    """
    state = xxhash.xxh3_128(metadata)
    state.update("".join(f"\n{name}" for name in names).encode())
    if clean is not None:
        state.update(np.ascontiguousarray(clean, dtype="<i8").data)
    for name, column in further:
        state.update(f"\n{name}\n".encode())
        _update(state, column)
    return state.hexdigest()


def _update(state: Any, column: Any) -> None:
    """Hash a column: its type, where it has values, and the values, nulls as zeros and empty texts."""
    array = whole_column(column) if isinstance(column, pa.ChunkedArray) else column
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    kind = array.type
    nested = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    state.update(f"{'list' if nested else kind} {len(array)}\n".encode())  # Parquet gives the items another name
    state.update(np.ascontiguousarray(array.is_valid().to_numpy(zero_copy_only=False)).data)
    if nested:
        lengths = pc.list_value_length(array).fill_null(0)
        state.update(np.ascontiguousarray(lengths.to_numpy(zero_copy_only=False), dtype="<i8").data)
        _update(state, pc.list_flatten(array))
    elif pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind):
        values = array.fill_null(False if pa.types.is_boolean(kind) else 0).to_numpy(zero_copy_only=False)
        state.update(np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("<")).data)
    else:  # texts and bytes; Arrow refuses others
        whole, nothing = (pa.large_string(), "") if pa.types.is_string(kind) else (pa.large_binary(), b"")
        _update_texts(state, array.cast(whole).fill_null(nothing))


def _update_texts(state: Any, array: Any) -> None:
    """Hash the length of each of the texts, then their bytes."""
    _, offsets, text = array.buffers()
    bounds = np.frombuffer(offsets, dtype="<i8")[array.offset : array.offset + len(array) + 1]
    for start in range(0, len(array), PIECE):
        state.update(np.diff(bounds[start : start + PIECE + 1]).data)
    state.update(memoryview(text or b"")[bounds[0] : bounds[-1]])


def checksum_of(data: bytes | memoryview, /) -> int:
    """Return the checksum of an image: XXH32, or the low half of XXH3-64 of more than ``WIDE`` bytes; seed 0."""
    return xxhash.xxh3_64_intdigest(data) & 0xFFFFFFFF if len(data) > WIDE else xxhash.xxh32_intdigest(data)


def hash_file(path: Path | int, /) -> str:
    """Return xxh3-128 of a file, 32 hex digits; a descriptor is read from where it stands and left open.

    Raises:
        OSError: The file cannot be opened; or twice not be read, the error then names the byte.
    """
    state = xxhash.xxh3_128()
    buffer = memoryview(bytearray(1 << 20))
    with open(path, "rb", buffering=0, closefd=not isinstance(path, int)) as file:
        while count := _read_into(file, buffer, path):
            state.update(buffer[:count])
    return state.hexdigest()


def _read_into(file: FileIO, buffer: memoryview, where: Path | int) -> int:
    """Read the next bytes of a file, where the system refuses it a second time; how many."""
    at = file.tell()
    try:
        return file.readinto(buffer)
    except OSError:
        file.seek(at)
    try:
        return file.readinto(buffer)
    except OSError as error:
        raise system_fault(error, where if isinstance(where, Path) else None, at=at) from None


def mapped_columns(file: Path, root: Path, least: int, /) -> MappedColumns | None:
    """Return the columns of a catalog as all processes of a machine can map them; None of a small or damaged catalog.

    Args:
        file: The catalog.
        root: Folder for the columns of all catalogs.
        least: Rows of a catalog that is mapped.
    """
    try:
        if pq.read_metadata(file).num_rows < least:
            return None
        schema = pq.read_schema(file)
        metadata = schema.metadata or {}
        marks = [metadata[METADATA], metadata[SEAL], *(f"{each.name} {each.type}".encode() for each in schema)]
    except (pa.ArrowException, OSError, ValueError, KeyError):
        return None  # `read_file` says why
    kinds = {"key": pa.large_string(), "encoding": SCHEMA.field("encoding").type}
    fields = [each.with_type(kinds.get(each.name, each.type)) for each in schema]

    def load(name: str) -> Any:
        column = pq.read_table(file, columns=[name], partitioning=None, page_checksum_verification=True)[name]
        if is_field_column(name):
            return fill_nulls(whole_column(column), name)
        if name != "encoding":
            return column
        codes = encoding_codes(pa.table({name: column}), file)
        return pa.DictionaryArray.from_arrays(pa.array(codes), pa.array(ENCODINGS))

    key = xxhash.xxh3_128_hexdigest(b"\n".join(marks))
    return MappedColumns(root / key, pa.schema(fields, metadata=metadata), load)


def read_file(file: Path, mapped: pa.Table | None = None, /) -> tuple[dict[str, Any], pa.Table]:
    """Read metadata and rows of a catalog, every column of its due type and without nulls.

    Args:
        file: The catalog.
        mapped: Its columns, where they are mapped; they are checked as those of the file.

    Raises:
        AlteredCatalogError: Not a catalog, or altered.
        ValueError: Another format, or a kind of it that this version does not know.
    """
    try:
        rows, size = pq.read_metadata(file).num_rows, file.stat().st_size
        if rows > size:  # each has a checksum of four bytes that do not compress, and a key of its own
            raise ValueError(f"{rows} rows cannot lie in {size} bytes")
        table = mapped
        if table is None:
            table = pq.read_table(file, partitioning=None, page_checksum_verification=True)
        metadata, copy = table.schema.metadata or {}, pq.read_metadata(file).metadata or {}
        meta = json.loads(metadata[METADATA])
    except KeyError:
        law = f"not a catalog: the file has no {METADATA.decode()!r} metadata"
        raise AlteredCatalogError(f"{file}: {law}; {_REMEDY}") from None
    except MemoryError as error:  # a damaged file may claim any size
        law = f"does not fit into memory ({str(error) or 'no more is there'})"
        raise AlteredCatalogError(f"{file}: {law}: free memory, or {_REMEDY}") from None
    except (pa.ArrowException, OSError, ValueError, RecursionError) as error:
        raise_unless_file(error, file)
        text = (str(error).splitlines() or [""])[0]
        raise AlteredCatalogError(f"{file}: not a catalog: {text}; {_REMEDY}") from None
    meta = _checked(meta, file)
    require(table.num_rows > 0, file, "a catalog must have rows")
    for column in SCHEMA:
        _check_column(table, column, meta["label_kind"], file)
    if TURN in table.column_names:
        sound = table[TURN].null_count == 0 and table.schema.field(TURN).type == pa.int8()
        require(sound, file, f"column {TURN!r} must be int8 without nulls")
    copies = all(metadata.get(key) == copy.get(key) for key in (METADATA, SEAL))
    require(copies, file, "both copies of the metadata (Parquet's and Arrow's) must be the same")
    actual, expected = _seal_of(table, file), metadata.get(SEAL, b"").decode(errors="replace")
    law = f"the hash of the metadata is {actual}, the file says {expected!r}: the catalog was altered"
    require(actual == expected, file, law)
    fields = [column.name for name in meta["fields"] for column in field_schema(name)]
    return meta, table.select([name for name in (*SCHEMA.names, TURN, *fields) if name in table.column_names])


def given_labels(file: Path, /) -> NDArray[np.int64] | None:
    """Return the classes that the shards of an opened catalog say, int64 (rows,); None where they are its labels."""
    if GIVEN not in pq.read_schema(file).names:
        return None
    return pq.read_table(file, columns=[GIVEN], partitioning=None)[GIVEN].to_numpy()  # type: ignore[no-any-return]


def _checked(meta: Any, file: Path) -> dict[str, Any]:
    """Metadata with its shards as ``Shard``."""
    version = meta.get("format") if isinstance(meta, dict) else None
    if type(version) is int and version not in FORMATS:
        remedy = "upgrade drawstream" if version > FORMAT else _REMEDY
        raise ValueError(
            f"{file}: catalog format must be {' or '.join(map(str, FORMATS))}, but got {version}: {remedy}"
        )
    try:
        shards = tuple(
            Shard(str(each["path"]), int(each["size"]), str(each["hash"]), str(each["stem"])) for each in meta["shards"]
        )
        sound = (
            all(isinstance(meta[name], kind) for name, kind in _KINDS.items())
            and all(isinstance(name, str) for name in (*meta["classes"], *meta["fields"]))
            and meta["channels"] in (1, 3)
            and all(0 <= shard.size < 1 << 62 for shard in shards)
        )
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError):
        sound = False
    if not sound:
        raise AlteredCatalogError(f"{file}: not a catalog: its metadata must hold {', '.join(_KINDS)}; {_REMEDY}")
    for name, known in _KNOWN.items():
        if meta[name] not in known:
            law = f"{name} of a catalog must be one of {', '.join(known)}"
            raise ValueError(f"{file}: {law}, but got {shortened(meta[name])}: upgrade drawstream")
    return {**meta, "shards": shards}


def _check_column(table: pa.Table, column: pa.Field, label_kind: Kind, file: Path) -> None:
    """Refuse a column that is missing, of another type, or has nulls."""
    name = column.name
    if name not in table.column_names:
        optional = name == "clean_label" or (name == "label" and label_kind == "none")
        require(optional, file, f"column {name!r} must be there")
        return
    require(label_kind != "none" or "label" not in name, file, f"column {name!r} must not be there without labels")
    kind = table.schema.field(name).type
    if name == "label" and label_kind in ("multi", "value"):
        due = pa.from_numpy_dtype(TYPES[label_kind])
        same = pa.types.is_fixed_size_list(kind) and kind.value_type == due
        require(same, file, f"column 'label' must be fixed-size lists of {due}, but got {kind}")
        nulls = table[name].null_count or sum(chunk.flatten().null_count for chunk in table[name].chunks)
        require(nulls == 0, file, "column 'label' must have no nulls")
        return
    same = kind == column.type or (pa.types.is_dictionary(column.type) and pa.types.is_dictionary(kind))
    same |= name == "key" and pa.types.is_large_string(kind)
    require(same, file, f"column {name!r} must be {column.type}, but got {kind}")
    require(table[name].null_count == 0, file, f"column {name!r} must have no nulls")


def _seal_of(table: pa.Table, file: Path) -> str:
    names = table.column_names
    clean = column_array(table, "clean_label") if "clean_label" in names else None
    further = [(name, table[name]) for name in names if name not in SCHEMA.names]
    try:
        return seal(table.schema.metadata[METADATA], names, clean, further)
    except pa.ArrowException:
        kinds = ", ".join(f"{name} ({column.type})" for name, column in further)
        raise ValueError(f"{file}: columns of a newer kind: {kinds}: upgrade drawstream") from None


def encoding_codes(table: pa.Table, file: Path, /) -> NDArray[np.int8]:
    """Return the positions of a catalog's encodings in ``ENCODINGS``, int8 (rows,)."""
    whole = whole_column(table["encoding"])
    plain = pa.types.is_dictionary(whole.type) and pa.types.is_int8(whole.type.index_type)
    if plain and whole.null_count == 0 and whole.dictionary.to_pylist() == list(ENCODINGS):
        return frozen(whole.indices.to_numpy(zero_copy_only=False))
    try:
        names = table["encoding"].cast(pa.string())
    except pa.ArrowException as error:
        raise AlteredCatalogError(f"{file}: damaged encoding column ({error}): {_REMEDY}") from None
    codes = pc.index_in(names, value_set=pa.array(ENCODINGS)).combine_chunks()
    require(codes.null_count == 0, file, f"encoding must be one of {', '.join(ENCODINGS)}")
    return frozen(codes.to_numpy(zero_copy_only=False).astype(np.int8))


def require(law: bool | np.bool_, file: Path, text: str, /) -> None:
    """Refuse a catalog that breaks a law.

    Raises:
        AlteredCatalogError: The law does not hold.
    """
    if not law:
        raise AlteredCatalogError(f"{file}: {text}: {_REMEDY}")


def column_array(table: pa.Table, name: str, /) -> NDArray[Any]:
    """Return a column as a read-only array (rows,), or (rows, n) of lists of n items."""
    kind = table.schema.field(name).type
    if not pa.types.is_fixed_size_list(kind):
        return frozen(whole_column(table[name]).to_numpy(zero_copy_only=False))
    items = [chunk.flatten() for chunk in table[name].chunks]
    values: NDArray[Any] = whole_column(pa.chunked_array(items, kind.value_type)).to_numpy(zero_copy_only=False)
    return frozen(values.reshape(-1, kind.list_size))


def list_array(values: NDArray[Any], /) -> pa.Array:
    """Return an array (rows, n) as lists of n items, without nulls."""
    return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])


def frozen(array: NDArray[Any], /) -> NDArray[Any]:
    """Make an array read-only and return it."""
    array.flags.writeable = False
    return array
