"""`drawstream duplicates`: groups of images that show the same, leaks between catalogs, and weights that undo them.

duplicates.parquet, .csv   the rows of all groups: group, kind, source, key, shard, row, label
duplicates.json            the record: groups and rows by kind, groups in several catalogs, groups of several labels
weights.parquet            sample_id and weight, 1 / rows of the group; weights-0.parquet, … of several catalogs
columns.parquet            sample_id, group (-1: alone) and copy, its number in the group, 0 for a first row and one
                           that is alone; columns-0.parquet, … of several catalogs
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from drawstream.features import KINDS, Duplicates
from drawstream.pipeline.shards import Catalog
from drawstream.samplers.files import write_atomically
from drawstream.tools.runs import write_record
from drawstream.tools.suspects.write import catalog_paths

__all__ = ["write_duplicates"]


def write_duplicates(catalog: Catalog, found: Duplicates, out: Path, /, how: Mapping[str, Any]) -> dict[str, Any]:
    """Write the files, and return the record; `how` says how the groups were found."""
    out.mkdir(parents=True, exist_ok=True)
    rows = np.flatnonzero(found.group >= 0)
    rows = rows[np.argsort(found.group[rows], kind="stable")]
    table = _list(catalog, found, rows)
    with write_atomically(out / "duplicates.parquet") as temporary:
        pq.write_table(table, temporary)
    with write_atomically(out / "duplicates.csv") as temporary:
        pyarrow.csv.write_csv(table, temporary)
    _write_columns(catalog, "weights", out, {"weight": found.weights(catalog.source)})
    _write_columns(catalog, "columns", out, {"group": found.group, "copy": found.copies})
    first = found.firsts
    leaks = _several(found, rows, catalog.source)
    record = {
        "catalogs": list(catalog.sources),
        "catalog": catalog.fingerprint,
        "data": catalog_paths(catalog),
        "rows": len(catalog),
        "how": dict(how),
        "groups": found.groups,
        "duplicates": {name: int((found.kind == level).sum()) for level, name in enumerate(KINDS)},
        "leaks": len(leaks),
        "several_labels": len(_several(found, rows, catalog.label)) if catalog.label_kind == "class" else None,
        "largest": int(found.sizes.max(initial=0)),
        "first_rows": first[:20].tolist(),
    }
    return write_record(out / "duplicates.json", "duplicates", record)


def _list(catalog: Catalog, found: Duplicates, rows: NDArray[np.int64]) -> pa.Table:
    kinds = [KINDS[level] if level >= 0 else "first" for level in found.kind[rows].tolist()]
    columns = {
        "group": found.group[rows],
        "kind": pa.array(kinds, pa.string()),
        "source": pa.array([catalog.sources[source] for source in catalog.source[rows].tolist()], pa.string()),
        "key": pa.array([catalog.key(row) for row in rows.tolist()], pa.string()),
        "shard": pa.array([str(catalog.shards[shard].path) for shard in catalog.shard[rows].tolist()], pa.string()),
        "row": rows,
    }
    if catalog.label_kind == "class":
        columns["label"] = pa.array([catalog.classes[c] for c in catalog.label[rows].tolist()], pa.string())
    return pa.table(columns)


def _write_columns(catalog: Catalog, name: str, out: Path, columns: Mapping[str, NDArray[Any]]) -> None:
    """Write columns of all rows, a file for each catalog."""
    several = len(catalog.sources) > 1
    for number in range(len(catalog.sources)):
        rows = np.flatnonzero(catalog.source == number)
        of = catalog.members[number].fingerprint if several else catalog.fingerprint
        kept = pa.table({"sample_id": np.arange(len(rows))} | {key: each[rows] for key, each in columns.items()})
        kept = kept.replace_schema_metadata({"drawstream": json.dumps({"catalog": of})})
        with write_atomically(out / (f"{name}-{number}.parquet" if several else f"{name}.parquet")) as temporary:
            pq.write_table(kept, temporary)


def _several(found: Duplicates, rows: NDArray[np.int64], of: NDArray[Any]) -> NDArray[np.int64]:
    """Groups whose rows differ in a column."""
    pairs = np.unique(np.stack([found.group[rows], of[rows].astype(np.int64)]), axis=1)
    groups, count = np.unique(pairs[0], return_counts=True)
    return groups[count > 1]
