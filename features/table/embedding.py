"""Embeddings beside a feature table: the inputs of the model's last layer, one file that can be mapped.

    features/                        the table
    features.embedding.safetensors   tensor `embedding`, float16 (rows, D), in the order of the table's rows
    features.embedding/              the same of single shards, until all are there

The header's metadata (key `drawstream`, JSON) has `format` 1, `made`, the hash of what made the table, `table`, its
fingerprint, and `values`, xxh3-128 of the data; `seal` is xxh3-128 of these. The file is written whole, once.
"""

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from drawstream.features.table.part import ForeignPartError, part_path
from drawstream.samplers.files import write_atomically

__all__ = ["embedding_path", "has_embedding", "merge_embedding", "open_embedding", "write_embedding_part"]

FORMAT = 1
_BLOCK = 1 << 24  # values read at a time
_LONGEST = 1 << 16  # bytes of a header


def embedding_path(folder: Path, /) -> Path:
    """File of the embeddings of the table in a folder."""
    return folder.with_name(f"{folder.name}.embedding.safetensors")


def _piece_path(folder: Path, shard: int) -> Path:
    return folder.with_name(f"{folder.name}.embedding") / f"part-{shard:05d}.safetensors"


def write_embedding_part(folder: Path, shard: int, values: NDArray[np.float16], made: Mapping[str, Any], /) -> None:
    """Write the embeddings of a shard, float16 (rows, D); its part of the table comes after them."""
    _write(_piece_path(folder, shard), [values], (len(values), values.shape[1]), {"made": _hash_of(made)})


def has_embedding(folder: Path, shard: int, made: Mapping[str, Any], /) -> bool:
    """Return whether the embeddings of a shard are there.

    Raises:
        ForeignPartError: The file is of another extraction.
        ValueError: It is damaged.
    """
    path = embedding_path(folder)
    if not path.exists():
        return _piece_path(folder, shard).exists()
    if _header(path)[1].get("made") != _hash_of(made):
        raise ForeignPartError(f"{path}: of another extraction: give another output folder (-o), or remove this file")
    return True


def merge_embedding(folder: Path, fingerprint: str, made: Mapping[str, Any], /) -> Path:
    """Bring the embeddings of all shards into one file, whose metadata names the table, and remove the single ones.

    Args:
        folder: Of the finished table.
        fingerprint: Of the table.
        made: What made it.

    Raises:
        ValueError: The embeddings of a shard are missing or damaged.
    """
    path, parts = embedding_path(folder), int(made["parts"])
    pieces = [_piece_path(folder, shard) for shard in range(parts)]
    if not (path.exists() and _header(path)[1].get("table") == fingerprint):
        for piece in pieces:
            if not piece.exists():
                first = part_path(folder, pieces.index(piece))
                raise ValueError(f"{piece}: missing: remove {first} and {path.name}, and score again")
        opened = [open_embedding(piece) for piece in pieces]
        rows = sum(len(each) for each in opened)
        blocks = (block for each in opened for block in _blocks(each))
        _write(path, blocks, (rows, opened[0].shape[1]), {"made": _hash_of(made), "table": fingerprint})
    shutil.rmtree(pieces[0].parent, ignore_errors=True)
    return path


def open_embedding(path: Path, /, fingerprint: str | None = None) -> NDArray[np.float16]:
    """Map a file of embeddings, float16 (rows, D), read-only; all of it is read once to check it.

    Args:
        path: The file.
        fingerprint: Of the table that it must be of; None: any.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is damaged, of a newer format, or of another table.
    """
    start, meta, shape = _header(path)
    if fingerprint is not None and meta.get("table") != fingerprint:
        raise ValueError(f"{path}: of table {meta.get('table')}, but this one is {fingerprint}: score it again")
    if not shape[0]:
        return np.empty(shape, np.float16)
    found: NDArray[np.float16] = np.memmap(path, np.float16, "r", start, shape)
    digest = xxhash.xxh3_128()
    for block in _blocks(found):
        digest.update(np.ascontiguousarray(block).data)
    if digest.hexdigest() != meta["values"]:
        raise ValueError(f"{path}: its values are not as they were written; remove it and score again")
    return found


def _blocks(values: NDArray[np.float16]) -> Iterator[NDArray[np.float16]]:
    step = max(1, _BLOCK // max(values.shape[1], 1))
    return (values[at : at + step] for at in range(0, len(values), step))


def _write(path: Path, blocks: Iterable[NDArray[np.float16]], shape: tuple[int, int], meta: dict[str, str]) -> None:
    """Write blocks of rows; the header, whose length is known before, is filled in at the end."""
    begin = _encoded(shape, meta, "0" * 32)
    digest = xxhash.xxh3_128()
    with write_atomically(path) as temporary, temporary.open("wb") as file:
        file.write(begin)
        for block in blocks:
            data = np.ascontiguousarray(block, np.float16)
            digest.update(data.data)
            file.write(data.data)
        file.seek(0)
        file.write(_encoded(shape, meta, digest.hexdigest()))


def _encoded(shape: Sequence[int], meta: Mapping[str, str], values: str) -> bytes:
    """The header of a safetensors file of one tensor, padded to 64 bytes."""
    sealed: dict[str, Any] = {"format": FORMAT, **meta, "values": values}
    sealed["seal"] = _hash_of(sealed)
    tensor = {"dtype": "F16", "shape": list(shape), "data_offsets": [0, 2 * shape[0] * shape[1]]}
    text = json.dumps({"__metadata__": {"drawstream": json.dumps(sealed)}, "embedding": tensor}).encode()
    text += b" " * (-(8 + len(text)) % 64)
    return len(text).to_bytes(8, "little") + text


def _header(path: Path) -> tuple[int, dict[str, Any], tuple[int, int]]:
    """Byte at which the data begin, metadata, and shape; errors as `open_embedding`."""
    try:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            if size > _LONGEST:
                raise ValueError("its header is too long")
            raw = file.read(size)
        header = json.loads(raw)
        meta = json.loads(header["__metadata__"]["drawstream"])
        rows, wide = (int(each) for each in header["embedding"]["shape"])
        if meta["format"] > FORMAT:
            raise ValueError(f"format {meta['format']} is newer than {FORMAT}: upgrade drawstream")
        named = {name: meta[name] for name in ("made", "table") if name in meta}
        if _encoded((rows, wide), named, meta["values"])[8:] != raw:
            raise ValueError("its header is not as it was written")
        if path.stat().st_size != 8 + size + 2 * rows * wide:
            raise ValueError("it is not as long as it was")
    except (ValueError, KeyError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{path}: not readable embeddings ({reason}); remove the file and score again") from None
    return 8 + size, meta, (rows, wide)


def _hash_of(values: Mapping[str, Any]) -> str:
    kept = {key: value for key, value in values.items() if key not in ("device", "format")}
    return xxhash.xxh3_128_hexdigest(json.dumps(kept, sort_keys=True).encode())
