"""`drawstream suspects`: the ranked list, and the files that act on it.

    suspects.parquet, .csv   all rows, the most suspect first: key, source, shard, row, given and suggested label, score
                             and wrong (the probability that the given label is), drop, reason
    suspects.json            the record: share of wrong labels with its interval, classes, pairs of classes
    suspects.html            the page: images of the first rows, by pair of classes, to be reviewed with the keyboard
    weights.parquet          sample_id and weight, 0 for rows that are dropped: `train --sampler weights.parquet`
    relabel.json             labels to change and rows that the review drops: `pack|index --relabel relabel.json`;
                             of several catalogs relabel-0.json, …

Shards are never touched. Rows are dropped where the label is wrong with a probability of at least `drop`, and have the
suggested label from a probability of `relabel` on; a review decides for the rows that it names.
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

from drawstream.features import Suspects, find_suspects, told_by_heart
from drawstream.features.table import FeatureTable
from drawstream.pipeline.shards import Catalog, is_url
from drawstream.samplers.files import write_atomically
from drawstream.tools.report.pages import write_review_page
from drawstream.tools.runs import tell_notes, write_json, write_record
from drawstream.tools.suspects.review import Review, read_review

__all__ = ["write_suspects"]

PAIRS = 20  # pairs of classes in the record

_NOBODY = Review(np.empty(0, np.int64), np.empty(0, np.int64), {})


def write_suspects(
    table: FeatureTable,
    catalog: Catalog,
    out: Path,
    /,
    *,
    method: Any = "margin",
    drop: float = 0.5,
    relabel: float | None = None,
    images: int = 200,
    review: Path | None = None,
) -> dict[str, Any]:
    """Rank the rows of a tracked table by how likely their label is wrong, and write all files into `out`.

    Args:
        table: Features that a tracker wrote.
        catalog: The catalog that was trained on.
        out: Folder to write.
        method: See `find_suspects`.
        drop: Least probability of a wrong label for which a row is dropped.
        relabel: Least probability for which it has the suggested label instead; None: only a review changes labels.
        images: Rows on the page.
        review: Decisions that the page saved.

    Returns:
        The record.

    Raises:
        ValueError: The table is of another catalog or of crops, lacks a column, or the review does not fit.
    """
    table.check(catalog.fingerprint, str(catalog.path))
    if len(table) != len(catalog):
        raise ValueError(f"{table.path} has {len(table)} rows of {len(catalog)} samples: suspects are whole images")
    found = find_suspects(table, len(catalog.classes), method=method)
    tell_notes(filter(None, [told_by_heart(table, found)]))
    names = _names(catalog)
    looked = _NOBODY if review is None else read_review(review, catalog, {name: row for row, name in enumerate(names)})
    dropped = found.wrong >= drop
    relabelled = _suggested(found, relabel, [*looked.keep.tolist(), *looked.drop.tolist()]) | dict(looked.relabel)
    dropped[looked.keep] = False
    dropped[list(relabelled)] = False
    dropped[looked.drop] = True
    out.mkdir(parents=True, exist_ok=True)
    _write_list(out, catalog, names, found, dropped, relabelled)
    weights = pa.table({"sample_id": np.arange(len(catalog)), "weight": np.where(dropped, 0.0, 1.0).astype(np.float32)})
    _write_table(weights, out / "weights.parquet", catalog)
    _write_relabel(out, catalog, relabelled, looked.drop)
    first = found.order[:images]
    write_review_page(out / "suspects.html", catalog, found, first, [names[row] for row in first])
    record = {
        "catalog": catalog.fingerprint,
        "data": catalog_paths(catalog),
        "tables": list(dict.fromkeys(part.path.parent for part in table.parts)),
        "rows": len(catalog),
        "method": method,
        "wrong_share": found.share,
        "interval": list(found.interval),
        "drop": drop,
        "relabel": relabel,
        "dropped": int(dropped.sum()),
        "relabelled": len(relabelled),
        "reviewed": int(looked.keep.size + looked.drop.size + len(looked.relabel)),
        "classes": _by_class(catalog, found, dropped),
        "pairs": _pairs(catalog, found),
    }
    return write_record(out / "suspects.json", "suspects", record)


def catalog_paths(catalog: Catalog, /) -> list[Path | str]:
    """Return where the members of a catalog lie, as a record keeps them."""
    return [place if is_url(place) else Path(place) for place in catalog.places]


def _suggested(found: Suspects, least: float | None, decided: list[int]) -> dict[int, int]:
    """Classes of the rows that get the suggested label, but for those of which a person decided."""
    if least is None:
        return {}
    chosen = (found.wrong >= least) & (found.suggested >= 0)
    chosen[decided] = False
    return {row: int(found.suggested[row]) for row in np.flatnonzero(chosen).tolist()}


def _write_relabel(out: Path, catalog: Catalog, relabelled: Mapping[int, int], drop: NDArray[np.int64]) -> None:
    """Write the labels to change, a file for each of several catalogs, under their own keys."""
    names, several = catalog.classes, len(catalog.sources) > 1
    for number, member in enumerate(catalog.members):
        rows = range(member.first_row, member.first_row + member.rows)
        changes = {
            catalog.key(row): {"given": names[int(catalog.label[row])], "label": names[c]}
            for row, c in sorted(relabelled.items())
            if row in rows
        }
        gone = [catalog.key(row) for row in np.sort(drop).tolist() if row in rows]
        path = out / (f"relabel-{number}.json" if several else "relabel.json")
        write_json(path, {"format": 1, "relabel": changes, "drop": gone})


def _names(catalog: Catalog) -> list[str]:
    """Key of each row, with its source and shard where several have it."""
    keys = catalog.keys
    if len(set(keys)) == len(keys):
        return keys
    if len(catalog.sources) > 1:
        keys = [f"{catalog.sources[of]}/{key}" for of, key in zip(catalog.source.tolist(), keys, strict=True)]
    if len(set(keys)) == len(keys):
        return keys
    return [f"{catalog.shards[shard].path}/{key}" for shard, key in zip(catalog.shard.tolist(), keys, strict=True)]


def _write_list(
    out: Path,
    catalog: Catalog,
    names: list[str],
    found: Suspects,
    dropped: NDArray[np.bool_],
    relabelled: Mapping[int, int],
) -> None:
    order = found.order
    classes = pa.array(list(catalog.classes))
    given, suggested = np.asarray(catalog.label)[order], found.suggested[order].copy()
    for place in np.flatnonzero(np.isin(order, list(relabelled))):
        suggested[place] = relabelled[int(order[place])]
    shards = pa.array([str(shard.path) for shard in catalog.shards])
    table = pa.table(
        {
            "key": pa.array(names).take(pa.array(order)),
            "source": pa.array(catalog.sources).take(pa.array(np.asarray(catalog.source)[order])),
            "shard": shards.take(pa.array(np.asarray(catalog.shard)[order])),
            "row": order,
            "given": classes.take(pa.array(given)),
            "suggested": classes.take(pa.array(suggested, mask=suggested < 0)),
            "score": found.score[order],
            "wrong": found.wrong[order],
            "drop": dropped[order],
            "reason": pa.array(_reasons(found, order), pa.string()),
        }
    )
    _write_table(table, out / "suspects.parquet", catalog)
    with write_atomically(out / "suspects.csv") as temporary:
        pyarrow.csv.write_csv(table, temporary)


def _reasons(found: Suspects, rows: NDArray[np.int64]) -> list[str]:
    """Why each row lies where it lies."""
    told = {"margin": "another label is more probable by", "loss": "mean loss, nats,"}
    what = told.get(found.method, f"{found.method} score")
    seen = zip(found.suggested[rows].tolist(), found.score[rows].tolist(), strict=True)
    return ["never seen in training" if suggested < 0 else f"{what} {score:.2f}" for suggested, score in seen]


def _write_table(table: pa.Table, path: Path, catalog: Catalog) -> None:
    kept = table.replace_schema_metadata({"drawstream": json.dumps({"catalog": catalog.fingerprint})})
    with write_atomically(path) as temporary:
        pq.write_table(kept, temporary)


def _by_class(catalog: Catalog, found: Suspects, dropped: NDArray[np.bool_]) -> list[dict[str, Any]]:
    label, count = np.asarray(catalog.label), len(catalog.classes)
    rows, wrong = np.bincount(label, minlength=count), np.bincount(label, found.wrong, minlength=count)
    out = np.bincount(label, dropped, minlength=count)
    return [
        {"class": name, "rows": int(rows[c]), "wrong": float(wrong[c]), "dropped": int(out[c])}
        for c, name in enumerate(catalog.classes)
    ]


def _pairs(catalog: Catalog, found: Suspects) -> list[dict[str, Any]]:
    """Pairs of given and probable class with the most rows by the confident joint."""
    joint = found.joint - np.diag(found.joint.diagonal())
    largest = np.argsort(-joint, axis=None, kind="stable")[:PAIRS]
    pairs = [divmod(int(at), len(joint)) for at in largest if joint.flat[at] > 0]
    return [{"given": catalog.classes[a], "probable": catalog.classes[b], "rows": joint[a, b]} for a, b in pairs]
