"""Is a feature table whole: every part read, every value, every id; one finding per fault."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drawstream.features.table.part import ForeignPartError, Part, open_part, part_path, require_same
from drawstream.pipeline.shards import Catalog

_FIXED = ("sample_id", "crop", "label")


@dataclass(frozen=True, slots=True)
class Finding:
    """One fault of a table.

    Attributes:
        kind: missing, damaged, foreign, values, ids, labels or catalog.
        part: Number of the part; None where it is about the table.
        message: What, where, and what to do.
    """

    kind: str
    part: int | None
    message: str


def check_table(
    folder: Path, catalog: Catalog | None = None, /, *, progress: Callable[[int, int], None] | None = None
) -> list[Finding]:
    """Read all of a table.

    Args:
        folder: Of the table.
        catalog: What it was made from; with it, ids and labels are compared with its rows.
        progress: Called after each part with the number of those done and of all.

    Raises:
        FileNotFoundError: There is no part at all.
    """
    paths = sorted(folder.glob("part-*.parquet"))
    if not paths:
        raise FileNotFoundError(f"{folder}: no feature table there (no part-*.parquet); run `drawstream features`")
    findings: list[Finding] = []
    first: Part | None = None
    last = (-1, -1)
    for done, path in enumerate(paths, start=1):
        number = int(path.stem.removeprefix("part-"))
        try:
            part = open_part(path)
            if first is None:
                first = part
                findings += _about_table(folder, part, len(paths), catalog)
            elif (kinds := dict(part.types)) != dict(first.types):
                findings.append(Finding("foreign", number, f"{path}: columns are {', '.join(kinds)}, not those before"))
            require_same(part.provenance, first.provenance, path)
            fixed, bad = _read(part)
            found = list(_about_part(part, number, catalog, fixed, bad))
            if "sample_id" in fixed and "crop" in fixed:
                found += [("ids", text) for text in _about_ids(fixed["sample_id"], fixed["crop"], last)]
                last = (int(fixed["sample_id"][-1]), int(fixed["crop"][-1])) if part.rows else last
            findings += [Finding(kind, number, f"{path}: {text}") for kind, text in found]
        except ValueError as error:
            kind = "foreign" if isinstance(error, ForeignPartError) else "damaged"
            findings.append(Finding(kind, number, str(error)))
        if progress:
            progress(done, len(paths))
    return findings


def _about_table(folder: Path, part: Part, parts: int, catalog: Catalog | None) -> Iterator[Finding]:
    total = int(part.provenance["parts"])
    for i in range(total):
        if not part_path(folder, i).exists():
            yield Finding("missing", i, f"{part_path(folder, i)}: missing; run `drawstream features` again to finish")
    if parts > total:
        yield Finding("foreign", None, f"{folder}: {parts} parts are there, but its extraction has {total}")
    unlabelled = part.provenance.get("label_kind", "class") != "class"
    for name in _FIXED[:2] if unlabelled else _FIXED:
        if name not in part.types:
            yield Finding("damaged", None, f"{folder}: no column {name!r}: extract it anew")
    for name, kind in part.types.items():
        if name not in (*_FIXED, "flip") and kind != np.float32:
            yield Finding("values", None, f"{folder}: column {name!r} is {kind}, not float32")
    made = part.provenance["catalog"]
    if catalog is not None and made != catalog.fingerprint:
        theirs = f"{catalog.path} is {catalog.fingerprint[:12]}: extract them from it"
        yield Finding("catalog", None, f"{folder}: features of catalog {made[:12]}, but {theirs}")


def _read(part: Part) -> tuple[dict[str, NDArray[Any]], dict[str, int]]:
    """The columns of `_FIXED`, and how many rows are not finite in each column of floats."""
    fixed = {name: np.empty(part.rows, part.types[name]) for name in _FIXED if name in part.types}
    bad = dict.fromkeys((name for name, kind in part.types.items() if kind.kind == "f"), 0)
    at = 0
    for block in part.blocks(list(part.types)):
        size = len(next(iter(block.values())))
        for name in bad:
            bad[name] += size - int(np.isfinite(block[name]).sum())
        for name, values in fixed.items():
            values[at : at + size] = block[name]
        at += size
    return fixed, bad


def _about_part(
    part: Part, number: int, catalog: Catalog | None, fixed: Mapping[str, NDArray[Any]], bad: Mapping[str, int]
) -> Iterator[tuple[str, str]]:
    """Kind and text of the faults of a part's values, rows and labels."""
    for name, count in bad.items():
        if count:
            yield "values", f"column {name!r} must be finite, but {count} of {part.rows} rows are not"
    if catalog is None or number >= len(catalog.shards) or "sample_id" not in fixed:
        return
    sample = fixed["sample_id"]
    for text in _about_rows(sample, *catalog.shard_rows(number)):
        yield "ids", text
    known = (sample >= 0) & (sample < len(catalog))
    wrong = int((fixed["label"][known] != catalog.label[sample[known]]).sum()) if "label" in fixed else 0
    if wrong:
        yield "labels", f"{wrong} labels are not those of the catalog: extract it anew"


def _about_ids(sample: NDArray[np.int64], crop: NDArray[np.int32], last: tuple[int, int]) -> Iterator[str]:
    """Samples must rise, and within a sample its crops, from part to part too."""
    sample, crop = np.append(last[0], sample), np.append(last[1], crop)
    same = sample[1:] == sample[:-1]
    twice = np.flatnonzero(same & (crop[1:] == crop[:-1]))
    if twice.size:
        yield (
            f"{twice.size} rows are there twice, the first of sample {sample[twice[0]]} crop {crop[twice[0]]}: "
            "extract it anew"
        )
    back = np.flatnonzero((sample[1:] < sample[:-1]) | (same & (crop[1:] < crop[:-1])))
    if back.size:
        yield f"rows must be in order of sample and crop, but row {back[0]} is not ({back.size} such): extract it anew"


def _about_rows(sample: NDArray[np.int64], start: int, stop: int) -> Iterator[str]:
    """A part holds every sample of its shard, all with as many crops, and no other."""
    outside = (sample < start) | (sample >= stop)
    if outside.any():
        yield f"{int(outside.sum())} rows are of samples outside its shard ({start} … {stop - 1}): extract it anew"
    counts = np.bincount(sample[~outside] - start, minlength=stop - start)
    absent = np.flatnonzero(counts == 0)
    if absent.size:
        yield (
            f"{absent.size} of {stop - start} samples of its shard are missing, the first {start + absent[0]}: "
            "extract it anew"
        )
    elif counts.size and counts.min() != counts.max():
        yield f"samples must have equally many crops, but have {counts.min()} to {counts.max()}: extract it anew"
