"""Names of samples: in their shard, in the catalog, and in the files of users.

A key is unique in its shard. Where keys come in several shards, as numbers that restart do, the catalog's keys are
``stem/key`` with the stem of the shard's name (``train-0001`` of ``train-0001.tar``). Users may write either.
"""

import os
from collections.abc import Sequence
from itertools import pairwise
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from drawstream.pipeline.shards.names import shortened


def shard_stems(paths: Sequence[str], /) -> list[str]:
    """Return a name of each shard that no other has: file name, or path below their common folder, without ``.tar``."""
    names = [PurePosixPath(path).name for path in paths]
    if len(set(map(_without_tar, names))) < len(paths):
        common = os.path.commonpath([PurePosixPath(path).parent for path in paths])
        names = [os.path.relpath(path, common) for path in paths]
    stems = [_without_tar(name) for name in names]
    return stems if len(set(stems)) == len(stems) else names


def _without_tar(name: str) -> str:
    return name[:-4] if name.lower().endswith(".tar") and len(name) > 4 else name


def with_stems(keys: Any, shard: NDArray[np.integer[Any]], stems: Sequence[str], /) -> Any:
    """Return the keys, large_string (rows,), as ``stem/key``; ``shard`` is the shard of each, ``stems`` the shards'."""
    before = pa.array(stems, pa.large_string()).take(pa.array(shard))
    return pc.binary_join_element_wise(before, keys, pa.scalar("/", pa.large_string()))


def without_stems(keys: Any, starts: NDArray[np.int64], stems: Sequence[str], /) -> Any:
    """Return keys as the shards have them: the inverse of ``with_stems``; ``starts`` holds each shard's first row.

    Raises:
        ValueError: A key that does not begin with its shard's stem.
    """
    parts = []
    for stem, (start, stop) in zip(stems, pairwise(starts.tolist()), strict=True):
        part = keys.slice(start, stop - start)
        if len(part) and not pc.all(pc.starts_with(part, f"{stem}/")).as_py():
            raise ValueError(f"every key of shard {shortened(stem)} must begin with {shortened(f'{stem}/')}")
        parts.append(pc.utf8_slice_codeunits(part, len(stem) + 1))
    return pa.concat_arrays(parts)


def as_texts(keys: Any, /) -> Any:
    """Return keys of a user, a sequence of texts or a pyarrow array or column, as a pyarrow large_string (n,).

    Raises:
        TypeError: Not texts.
    """
    try:
        array = keys if isinstance(keys, pa.Array | pa.ChunkedArray) else pa.array(keys)
        kind = array.type.value_type if pa.types.is_dictionary(array.type) else array.type
        if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)) and len(array) > array.null_count:
            raise TypeError
        array = array.cast(pa.large_string())
    except (pa.ArrowException, TypeError):
        raise TypeError("keys must be texts: give a list or a column of strings") from None
    return array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array


def find_rows(wanted: Any, keys: Any, other: Any, /) -> NDArray[np.int64]:
    """Find the rows that keys mean.

    Args:
        wanted: pyarrow large_string (n,), keys of a user.
        keys: pyarrow large_string (rows,), the catalog's keys: unique.
        other: Called without arguments for the other form of all keys, where some of ``wanted`` are not in ``keys``.

    Returns:
        int64 (n,), -1 where no row has such a key.

    Raises:
        ValueError: A key in the other form that several rows have.
    """
    rows = pc.index_in(wanted, value_set=keys).fill_null(-1).to_numpy().astype(np.int64)
    missing = np.flatnonzero(rows < 0)
    if not missing.size:
        return rows  # type: ignore[no-any-return]
    rest = wanted.take(pa.array(missing))
    forms = other()
    places = np.flatnonzero(pc.is_in(forms, value_set=rest).to_numpy(zero_copy_only=False))
    hits = forms.take(pa.array(places))
    counts = pc.value_counts(hits)
    several = counts.filter(pc.greater(counts.field("counts"), 1))
    if len(several):
        key, count = several[0]["values"].as_py(), several[0]["counts"].as_py()
        whole = " and ".join(repr(keys[int(row)].as_py()) for row in places[pc.equal(hits, key).to_numpy(False)][:2])
        raise ValueError(f"key {shortened(key)} is in {count} shards: write which one is meant, as {whole}")
    if len(hits):
        found = pc.index_in(rest, value_set=hits).fill_null(-1).to_numpy()
        rows[missing] = np.where(found < 0, -1, places[found])
    return rows  # type: ignore[no-any-return]
