"""The list of rows not to use, as ``verify`` writes it and the loader takes it.

A JSON file, one entry per row in row order: ``{"format": 1, "catalog": fingerprint, "rows": [{"row", "key", "shard",
"kind", "message"}, …]}``; a shard is its path relative to the catalog. The list holds for the one catalog whose
fingerprint it bears.
"""

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drawstream.pipeline.shards import Catalog
from drawstream.samplers.files import parse_json, read_regular, write_atomically

WHOLE = frozenset({"missing", "unreadable", "swapped", "not-a-tar"})  # kinds after which no row of the shard is usable


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong.

    Kinds about a whole shard, none of whose rows can be used: ``missing``; ``unreadable`` (the system refuses it);
    ``swapped`` (the content of another shard of the catalog); ``not-a-tar``.

    Kinds about a shard some of whose rows may be whole, each bad row having a finding of its own: ``truncated``;
    ``stale`` (a sound tar with other members: written anew after the catalog was made); ``header`` (a damaged header or
    end of the archive); ``bytes`` (the hash differs, the members do not: padding, labels or images were altered);
    ``extra`` (a sample that the catalog does not know; it has a key and no row).

    Kinds about a row: ``lost`` (past the end of its shard); ``member`` (no member of the shard with its key, place,
    length and encoding, or another field); ``checksum`` (the bytes of its image or of a field differ); ``label`` (its
    label member says something else); ``size`` (the image has other dimensions); ``decode`` (the image or a field does
    not decode).

    Attributes:
        kind: One of the above.
        shard: Number of the shard.
        row: Row of the catalog, or None where the finding is about a shard.
        key: Key of the sample, or None where the finding is about a shard.
        message: What, where and how to mend it, in one line.
    """

    kind: str
    shard: int
    row: int | None
    key: str | None
    message: str


FORMAT = 1
MOST = 4 << 30  # bytes: a line for each row of the largest catalogs


def write_quarantine(path: str | os.PathLike[str], catalog: Catalog, findings: Iterable[Finding], /) -> int:
    """Write the rows that findings name, and all rows of unusable shards; of several findings of a row the first.

    Args:
        path: The JSON file.
        catalog: The catalog that was verified.
        findings: Results of ``verify``.

    Returns:
        Number of rows listed.
    """
    first: dict[int, Finding] = {}
    for finding in findings:
        if finding.row is not None:
            first.setdefault(finding.row, finding)
        elif finding.kind in WHOLE:
            for row in range(*catalog.shard_rows(finding.shard)):
                first.setdefault(row, finding)
    rows = [
        {
            "row": row,
            "key": catalog.key(row),
            "shard": catalog.shards[of.shard].path,
            "kind": of.kind,
            "message": of.message,
        }
        for row, of in sorted(first.items())
    ]
    lines = ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    head = json.dumps({"format": FORMAT, "catalog": catalog.fingerprint})[:-1]
    with write_atomically(Path(path)) as temporary:
        temporary.write_text(f'{head}, "rows": [\n{lines}\n]}}\n', encoding="utf-8")
    return len(rows)


def read_quarantine(path: str | os.PathLike[str], catalog: Catalog, /) -> NDArray[np.int64]:
    """Return the rows listed for a catalog, int64 (n,), sorted, each once.

    Raises:
        FileNotFoundError: No such file.
        ValueError: Not such a list, a newer format, another catalog's list, or a row that the catalog does not have.
    """
    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such file: write it with `drawstream verify CATALOG --quarantine {file}`")
    made, entries = _parse(file)
    if made != catalog.fingerprint:
        raise ValueError(
            f"{file}: quarantine list of catalog {made}, but {catalog.path} is {catalog.fingerprint}: verify this one"
        )
    for entry in entries:
        row, key = entry["row"], entry["key"]
        if not 0 <= row < len(catalog) or key not in (catalog.key(row), catalog.member_key(row)):
            raise ValueError(f"{file}: row {row} ({key!r}) is not in {catalog.path}: verify it anew")
    return np.unique(np.array([entry["row"] for entry in entries], dtype=np.int64))


def _parse(file: Path) -> tuple[str, list[dict[str, Any]]]:
    """Fingerprint and entries of a list of this format."""
    remedy = "write it anew with `drawstream verify`"
    try:
        content = parse_json(read_regular(file, most=MOST))
        kind, made, entries = content["format"], content["catalog"], content["rows"]
        sound = type(kind) is int and isinstance(made, str) and isinstance(entries, list)
        newer = sound and kind > FORMAT
        sound = sound and (newer or all(type(e["row"]) is int and isinstance(e["key"], str) for e in entries))
    except (KeyError, TypeError):
        sound = newer = False
    except ValueError as error:
        raise ValueError(f"{file}: not a quarantine list ({str(error).splitlines()[0]}): {remedy}") from None
    if not sound:
        raise ValueError(f"{file}: not a quarantine list: it must hold format, catalog and rows: {remedy}")
    if newer:
        raise ValueError(f"{file}: quarantine format must be at most {FORMAT}, but got {kind}: upgrade drawstream")
    return made, entries
