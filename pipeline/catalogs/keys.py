"""Keys of users in several catalogs: whose row does a key mean?"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

if TYPE_CHECKING:
    from drawstream.pipeline.shards import Catalog


def rows_of_keys(keys: Any, parts: Sequence["Catalog"], names: Sequence[str], /) -> NDArray[np.int64]:
    """Find the rows of the whole that keys mean; the name of a catalog may stand before them (``name/key``) or not.

    Args:
        keys: pyarrow large_string (n,).
        parts: The catalogs.
        names: Their names.

    Returns:
        int64 (n,), -1 where no catalog has such a key.

    Raises:
        ValueError: A key that several catalogs have.
    """
    found = np.full((len(parts), len(keys)), -1, np.int64)
    first = 0
    for g, part in enumerate(parts):
        found[g] = _shifted(part.rows_of(keys), first)
        first += len(part)
    if (several := np.flatnonzero((found >= 0).sum(0) > 1)).size:
        key = keys[int(several[0])].as_py()
        owners = [g for g in range(len(parts)) if found[g, several[0]] >= 0]
        told = " and ".join(str(parts[g].path) for g in owners[:2])
        raise ValueError(f"key {key!r} is in {told}: write which one is meant, as {f'{names[owners[0]]}/{key}'!r}")
    rows: NDArray[np.int64] = found.max(0)
    first = 0
    for name, part in zip(names, parts, strict=True):
        missing = np.flatnonzero(rows < 0)
        wanted = keys.take(pa.array(missing))
        named = np.flatnonzero(pc.starts_with(wanted, f"{name}/").to_numpy(zero_copy_only=False))
        if named.size:
            own = pc.utf8_slice_codeunits(wanted.take(pa.array(named)), len(name) + 1)
            rows[missing[named]] = _shifted(part.rows_of(own), first)
        first += len(part)
    _refuse_bare(keys, rows, parts, names)
    return rows


def _refuse_bare(keys: Any, rows: NDArray[np.int64], parts: Sequence["Catalog"], names: Sequence[str]) -> None:
    """Refuse a key under the name of a catalog that is given twice: its names end in a number."""
    bare = {name.removesuffix(f" ({g})"): g for g, name in enumerate(names) if name.endswith(f" ({g})")}
    for row in np.flatnonzero(rows < 0).tolist() if bare else ():
        name, _, own = str(keys[row].as_py()).partition("/")
        if name in bare and (parts[bare[name]].rows_of([own]) >= 0).all():
            several = " or ".join(repr(f"{each}/{own}") for each in names if each.startswith(f"{name} ("))
            law = f"{parts[bare[name]].path} is given twice, so key {name + '/' + own!r} means no one row"
            raise ValueError(f"{law}: write {several}")


def _shifted(rows: NDArray[np.int64], first: int) -> NDArray[np.int64]:
    return np.where(rows < 0, -1, rows + first)
