"""Feature tables of several catalogs as one: their rows in the order of the catalogs."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from drawstream.features.table.part import Part, require_same
from drawstream.pipeline.catalogs import joint_fingerprint
from drawstream.pipeline.shards import Catalog

_EACH = ("catalog", "parts", "rows", "values")  # entries that each table has of its own
_STATISTICS = ("mean", "std")  # of the transform: each catalog is normalised by its own


def join_tables(folders: Sequence[Path], tables: Sequence[Sequence[Part]], catalog: Catalog | None, /) -> list[Part]:
    """Return the parts of all tables as those of one, which is of the joined catalog.

    Args:
        folders: Of the tables, for messages.
        tables: The parts of each, in order.
        catalog: The joined catalog; None: each table has all rows of its catalog, so its last row says their number.

    Raises:
        ValueError: Other measures, models or columns than in the first table, or a table that is not of the catalog in
            its place.
    """
    if catalog is not None:
        _check_members(folders, tables, catalog)
    for folder, parts in zip(folders[1:], tables[1:], strict=True):
        require_same(_common(parts[0].provenance), _common(tables[0][0].provenance), folder)
    made = [parts[0].provenance for parts in tables]
    prints = [str(each["catalog"]) for each in made]
    whole: dict[str, Any] = {**made[0], "catalog": catalog.fingerprint if catalog else joint_fingerprint(prints)}
    whole |= {
        "parts": sum(map(len, tables)),
        "tables": [{n: v for n, v in each.items() if n in _EACH} for each in made],
    }
    whole = {name: value for name, value in whole.items() if name not in ("rows", "values")}
    if any(each.get("transform") != made[0].get("transform") for each in made):
        whole["transform"] = {**made[0]["transform"], **dict.fromkeys(_STATISTICS)}
    joined, first = [], 0
    for g, parts in enumerate(tables):
        joined += [replace(part, provenance=whole, first=first) for part in parts]
        first += catalog.members[g].rows if catalog else _rows(parts)
    return joined


def _check_members(folders: Sequence[Path], tables: Sequence[Sequence[Part]], catalog: Catalog) -> None:
    members = catalog.members
    if len(members) != len(tables):
        raise ValueError(f"one table is needed for each of {len(members)} catalogs, but got {len(tables)}")
    for folder, parts, member in zip(folders, tables, members, strict=True):
        if (made := str(parts[0].provenance["catalog"])) != member.fingerprint:
            law = f"features of catalog {made[:12]}, but in its place is {member.path} ({member.fingerprint[:12]})"
            raise ValueError(f"{folder}: {law}: give the tables in the order of their catalogs")


def _common(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Entries that the tables have in common."""
    common = {name: value for name, value in provenance.items() if name not in _EACH}
    if isinstance(transform := common.get("transform"), Mapping):
        common["transform"] = {name: value for name, value in transform.items() if name not in _STATISTICS}
    return common


def _rows(parts: Sequence[Part]) -> int:
    """Number of samples of a table's catalog: its last row is of the last one."""
    last = next(part for part in reversed(parts) if part.rows)
    samples = np.empty(last.rows, np.int64)
    last.read("sample_id", samples)
    return int(samples[-1]) + 1
