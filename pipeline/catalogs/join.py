"""Several catalogs as one: first the rows of the first one, then those of the second.

Notation
    G     members, the catalogs that are joined; ``source`` says of each row which one it is of
    C     classes of the whole: those of every member, or the union of their names
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import xxhash
from numpy.typing import NDArray

from drawstream.pipeline import shown
from drawstream.pipeline.catalogs.columns import JoinedColumns
from drawstream.pipeline.fields import FieldColumns
from drawstream.pipeline.labels import no_labels
from drawstream.pipeline.shards import RAW

if TYPE_CHECKING:
    from drawstream.pipeline.shards import Catalog

Classes = Literal["same", "union", "none"]
Places = Path | str | tuple[Path | str, ...]  # of one catalog or of several, as jobs and records hold them
MOST = 1 << 15  # members: `source` is int16


@dataclass(frozen=True, slots=True)
class MemberCatalog:
    """One of the catalogs that an opened catalog is made of.

    Attributes:
        name: Short name that no other member has: ``b`` of ``data/b/train`` beside ``data/a/train``.
        path: Its Parquet file; of a remote catalog the copy of it on local disk.
        remote: URL of the folder of its shards; None where they are local.
        fingerprint: Its own.
        key_form: Its own.
        orientation: Its own.
        rows: Their number.
        first_row: Row of the whole that is its row 0.
        first_shard: Shard of the whole that is its shard 0.
        provenance: How it was made.
    """

    name: str
    path: Path
    remote: str | None
    fingerprint: str
    key_form: str
    orientation: str
    rows: int
    first_row: int
    first_shard: int
    provenance: Mapping[str, Any]

    @property
    def place(self) -> str:
        """Argument of `Catalog.open`: the URL of its folder, or the absolute path of its file."""
        return self.remote or str(self.path.absolute())


def source_names(places: Sequence[str], /) -> list[str]:
    """Return a short name of each catalog: the part of its path that tells it from the others.

    Args:
        places: Paths or URLs of the catalogs' folders.
    """
    parts = [PurePosixPath(shown(place).partition("://")[2] or Path(place).absolute()).parts for place in places]
    for depth in range(1, max(map(len, parts)) + 1):
        one = [each[-depth] if depth <= len(each) else "" for each in parts]
        for names in (one, ["/".join(each[-depth:]) for each in parts]):
            if len(set(names)) == len(names) and "" not in names:
                return names
    return [f"{each[-1]} ({i})" for i, each in enumerate(parts)]  # one catalog that is given twice


def joint_fingerprint(fingerprints: Sequence[str], maps: Sequence[NDArray[np.int64]] = (), /) -> str:
    """Return the fingerprint of joined catalogs, 32 hex digits.

    Args:
        fingerprints: Those of the members, in order.
        maps: The class of the whole for each class of each member, int64, where some differ.
    """
    state = xxhash.xxh3_128("\n".join(("drawstream catalogs 1", *fingerprints)).encode())
    for each in maps:
        state.update(f"\n{len(each)}\n".encode())
        state.update(each.astype("<i8").data)
    return state.hexdigest()


def join_catalogs(catalogs: Sequence["Catalog"], classes: Classes, root: Path | None = None, /) -> dict[str, Any]:
    """Return the attributes of the catalog that holds the rows of all, in order.

    Args:
        catalogs: The members, each one catalog.
        classes: ``same``: all have the same classes in the same order; ``union``: classes are merged by name, in the
            order in which the members bring them; ``none``: labels are left out, and any catalogs fit.
        root: Folder for the mapped columns of all catalogs; None: columns are held in memory.

    Raises:
        ValueError: The members do not fit each other: classes, kind of labels, depth of raw images; both are named.
    """
    if classes not in ("same", "union", "none"):
        raise ValueError(f"`classes` must be same, union or none, but got {classes!r}")
    if len(catalogs) > MOST:
        raise ValueError(f"at most {MOST} catalogs can be joined, but got {len(catalogs)}")
    labels = classes != "none"
    if labels:
        _check_alike(catalogs)
    names, maps = _merged_classes(catalogs, classes) if labels else ((), ())
    rows = list(accumulate((len(each) for each in catalogs), initial=0))
    shards = list(accumulate((len(each.shards) for each in catalogs), initial=0))
    places = [each.remote or str(each.path.parent) for each in catalogs]
    given = ("path", "remote", "fingerprint", "key_form", "orientation", "provenance")
    members = tuple(
        MemberCatalog(
            name, rows=len(each), first_row=rows[g], first_shard=shards[g], **{n: getattr(each, n) for n in given}
        )
        for g, (each, name) in enumerate(zip(catalogs, source_names(places), strict=True))
    )
    turned = any(each.orientation == "exif" for each in catalogs)
    prints = [each.fingerprint for each in catalogs] + ([] if labels else ["no labels"])
    fields = tuple(dict.fromkeys(name for each in catalogs for name in each.fields))
    fingerprint, joined = joint_fingerprint(prints, maps), JoinedColumns(catalogs, shards, maps, labels, fields)
    kept = fingerprint + (f"-{xxhash.xxh3_64_hexdigest(','.join(fields).encode())}" if fields else "")
    columns = joined.held() if root is None else joined.mapped(root / kept)
    own = {name: FieldColumns(*(columns.pop(f"{name}.{part}") for part in FieldColumns._fields)) for name in fields}
    return {
        "path": Path(", ".join(str(each.path) for each in catalogs)),
        "remote": None,
        "shards": tuple(shard for each in catalogs for shard in each.shards),
        "orientation": "exif" if turned else "stored",
        "label_kind": catalogs[0].label_kind if labels else "none",
        "key_form": "key",
        "fields": fields,
        "field_columns": own,
        "classes": names,
        "channels": max(each.channels for each in catalogs),
        "fingerprint": fingerprint,
        "provenance": {"by": "join", "sources": [each.name for each in members]},
        "_members": members,
        "_starts": np.concatenate([*(each._starts[:-1] + rows[g] for g, each in enumerate(catalogs)), [rows[-1]]]),
        "clean_label": None,
        "turn": None,
        **({} if labels else {"label": no_labels(rows[-1])}),
        **columns,
    }


def _check_alike(catalogs: Sequence["Catalog"]) -> None:
    first, raw = catalogs[0], None
    for each in catalogs:
        if each.label_kind != first.label_kind:
            law = f"joined catalogs must have labels of one kind, but {first.path} has {first.label_kind}"
            raise ValueError(f"{law} and {each.path} has {each.label_kind}: index one of them anew (--label)")
        if (each.encoding_codes == RAW).any():
            raw = raw or each
            if each.channels != raw.channels:
                law = f"raw images must be of one depth, but {raw.path} has {raw.channels} channels"
                raise ValueError(f"{law} and {each.path} has {each.channels}: pack them as png")


def _merged_classes(
    catalogs: Sequence["Catalog"], how: Classes
) -> tuple[tuple[str, ...], tuple[NDArray[np.int64], ...]]:
    """Names of all classes, and of each member the class of the whole for each of its own; no maps where all agree."""
    first = catalogs[0]
    other = next((each for each in catalogs if each.classes != first.classes), None)
    if other is None:
        return first.classes, ()
    if how == "same":
        sides = " and ".join(f"{each.path} has {_some(each.classes)}" for each in (first, other))
        law = f"joined catalogs must have the same classes in the same order, but {sides}"
        raise ValueError(f"{law}: pack them alike, or merge classes by name with classes='union' (--classes union)")
    if first.label_kind == "value":
        law = f"joined catalogs must have the same values, but {first.path} has {_some(first.classes)}"
        raise ValueError(f"{law} and {other.path} has {_some(other.classes)}: index one of them anew (--label)")
    names = tuple(dict.fromkeys(name for each in catalogs for name in each.classes))
    number = {name: c for c, name in enumerate(names)}
    return names, tuple(np.array([number[name] for name in each.classes], np.int64) for each in catalogs)


def _some(names: Sequence[str]) -> str:
    return f"{len(names)} ({', '.join(names[:3])}{', …' if len(names) > 3 else ''})"
