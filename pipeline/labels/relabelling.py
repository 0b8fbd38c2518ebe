"""Labels that were changed after a review: the file `relabel.json` of `drawstream suspects`.

    {"format": 1, "relabel": {KEY: {"given": CLASS, "label": CLASS}, …}, "drop": [KEY, …]}

`given` is the label that the sample had: where it has another one, the file is of other data.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from drawstream.samplers.files import read_json

__all__ = ["Relabelled", "Relabelling"]

FORMAT = 1
_REMEDY = "write it again with `drawstream suspects`"


@dataclass(frozen=True, slots=True)
class Relabelled:
    """Result of a relabelling on some rows.

    Attributes:
        labels: int64 (rows,), the new ones.
        kept: bool (rows,), False for rows that are left out.
        changed: Labels that changed.
        dropped: Rows that are left out.
    """

    labels: NDArray[np.int64]
    kept: NDArray[np.bool_]
    changed: int
    dropped: int


@dataclass(frozen=True, slots=True)
class Relabelling:
    """Labels to change and samples to leave out, by key.

    Attributes:
        path: The file.
        changes: Given and new class of each sample, by key.
        drop: Keys of the samples to leave out.
        digest: Hash of all that, whatever the order in the file.
    """

    path: Path
    changes: Mapping[str, tuple[str, str]]
    drop: tuple[str, ...]
    digest: str

    @classmethod
    def read(cls, path: Path, /) -> "Relabelling":
        """Read the file.

        Raises:
            OSError: It cannot be read.
            ValueError: It is no such file, or a sample is both relabelled and left out.
        """
        found = read_json(path, remedy=_REMEDY)
        if isinstance(found, dict) and "decisions" in found:
            law = f"{path}: is a review, which does not hold the given labels"
            raise ValueError(f"{law}: give the relabel.json that `drawstream suspects --review {path.name}` writes")
        if not isinstance(found, dict) or found.get("format") != FORMAT or not isinstance(found.get("relabel"), dict):
            raise ValueError(f"{path}: is no relabel.json of format {FORMAT}: {_REMEDY}")
        drop = found.get("drop", [])
        if not isinstance(drop, list) or not all(isinstance(key, str) for key in drop):
            raise ValueError(f"{path}: drop must be a list of keys: {_REMEDY}")
        changes = {key: _change(key, value, path) for key, value in found["relabel"].items()}
        if both := [key for key in drop if key in changes]:
            raise ValueError(f"{path}: {both[0]!r} is both relabelled and left out: {_REMEDY}")
        lines = [f"{key}\t{given}\t{label}" for key, (given, label) in sorted(changes.items())]
        digest = xxhash.xxh3_64_hexdigest("\n".join([*lines, "", *sorted(drop)]).encode())
        return cls(path, changes, tuple(drop), digest)

    def apply(
        self,
        find: Callable[[Sequence[str]], NDArray[np.int64]],
        labels: NDArray[np.int64],
        classes: Sequence[str],
        /,
        where: str,
        *,
        absent: Callable[[str], bool] = lambda _: False,
    ) -> Relabelled:
        """Change the labels of some rows.

        Args:
            find: Rows of keys, int64 (n,), -1 where there is no such row.
            labels: int64 (rows,), as they were given.
            classes: Names of the classes.
            where: The data, for messages.
            absent: Whether a sample of this key may be missing among the rows.

        Raises:
            ValueError: A key, class or given label that these rows do not have.
        """
        keys = [*self.changes, *self.drop]
        rows = find(keys)
        for at in np.flatnonzero(rows < 0).tolist():
            if not absent(keys[at]):
                raise ValueError(f"{self.path}: {keys[at]!r} is no sample of {where}: give the list of these data")
        number = {name: c for c, name in enumerate(classes)}
        new, kept = labels.copy(), np.ones(len(labels), np.bool_)
        for row, (key, (given, label)) in zip(rows.tolist(), self.changes.items(), strict=False):
            if label not in number:
                raise ValueError(f"{self.path}: {key!r} is relabelled to {label!r}, which is no class of {where}")
            if row < 0:
                continue
            if given != (here := classes[labels[row]]):
                law = f"{self.path}: {key!r} must have the label {given!r}, but in {where} it has {here!r}"
                raise ValueError(f"{law}: give the list of these data, or write it again with `drawstream suspects`")
            new[row] = number[label]
        gone = rows[len(self.changes) :]
        kept[gone[gone >= 0]] = False
        return Relabelled(new, kept, int((new != labels).sum()), int((~kept).sum()))

    def provenance(self, found: Relabelled, /) -> dict[str, Any]:
        """Return what a catalog keeps: hash, and the counts of changed labels and rows left out."""
        return {"relabel": {"hash": self.digest, "changed": found.changed, "dropped": found.dropped}}


def _change(key: str, value: Any, path: Path) -> tuple[str, str]:
    given, label = (value.get(name) for name in ("given", "label")) if isinstance(value, dict) else (None, None)
    if not isinstance(given, str) or not isinstance(label, str):
        raise ValueError(f"{path}: {key!r} must have a given class and a label: {_REMEDY}")
    return given, label
