"""Decisions of a person about suspects, as the page saves them.

    {"format": 1, "catalog": FINGERPRINT, "decisions": {KEY: "keep" | "drop" | {"relabel": CLASS}, …}}

Keys that are in several shards stand as `SHARD/KEY`, as in all messages.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drawstream.pipeline.shards import Catalog
from drawstream.samplers.files import read_json

__all__ = ["DECISIONS", "Review", "read_review"]

DECISIONS = ("keep", "relabel", "drop")


@dataclass(frozen=True, slots=True)
class Review:
    """Rows that were looked at.

    Attributes:
        keep: Rows whose label is right, int64 (k,).
        drop: Rows that are not to be drawn, int64 (d,).
        relabel: Class of the rows with another label.
    """

    keep: NDArray[np.int64]
    drop: NDArray[np.int64]
    relabel: Mapping[int, int]


def read_review(path: Path, catalog: Catalog, rows: Mapping[str, int], /) -> Review:
    """Read the decisions that the page saved.

    Args:
        path: The file.
        catalog: The catalog that was looked at.
        rows: Row of each name, see `write_suspects`.

    Raises:
        ValueError: It is no review, of another catalog, or names a row or class that is not there.
    """
    remedy = "save it again from the page of `drawstream suspects`"
    found = read_json(path, remedy=remedy)
    if not isinstance(found, dict) or found.get("format") != 1 or not isinstance(found.get("decisions"), dict):
        raise ValueError(f"{path}: is no review of format 1: {remedy}")
    if found.get("catalog") != catalog.fingerprint:
        raise ValueError(f"{path}: is of catalog {found.get('catalog')}, but {catalog.path} is {catalog.fingerprint}")
    parts: dict[str, list[int]] = {name: [] for name in DECISIONS}
    relabel = {}
    for key, decision in found["decisions"].items():
        if key not in rows:
            raise ValueError(f"{path}: {key!r} is no sample of {catalog.path}: {remedy}")
        name = "relabel" if isinstance(decision, dict) else decision
        if name not in DECISIONS or (name == "relabel") != isinstance(decision, dict):
            raise ValueError(f"{path}: {key!r} has {decision!r}, not keep, drop or a relabel: {remedy}")
        parts[name].append(rows[key])
        if name == "relabel":
            relabel[rows[key]] = _class_of(decision, key, catalog, path)
    return Review(np.array(parts["keep"], np.int64), np.array(parts["drop"], np.int64), relabel)


def _class_of(decision: Mapping[str, Any], key: str, catalog: Catalog, path: Path) -> int:
    name = decision.get("relabel")
    if name not in catalog.classes:
        raise ValueError(f"{path}: {key!r} is relabelled to {name!r}, which is no class of {catalog.path}")
    return catalog.classes.index(name)
