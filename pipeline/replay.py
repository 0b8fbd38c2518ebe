"""Orders as DALI index files: `fn.readers.webdataset` then replays them with its own reader.

Notation
    order   int64 (M,)   rows of an epoch
    run     consecutive draws from one shard; a pair of a shard's path and an .idx file that lists its draws

DALI reads the pairs it is given one after another and the lines of each .idx in order, and neither has to be unique:
the same sample may stand on several lines, the same shard in several pairs. So the runs of an order replay it exactly.
Each run costs a file, which bounds them: an order that jumps between shards at every draw is not worth writing this
way. Then either the shards are packed as one, which makes every order a single run, or the order is grouped by shard:
counts stay exact, and so does the order within a shard, but shards come one after another, to be mixed by DALI's own
buffer (`random_shuffle`, `initial_fill`).

Repeats and order were tried with DALI 2.4; its documentation does not promise them, tests/unit/pipeline/test_replay.py
does. An .idx holds whole images: crops of a feature table cannot be replayed.
"""

import json
import os
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from drawstream.pipeline.catalog import Catalog
from drawstream.pipeline.index import idx_lines, write_lines

__all__ = ["MOST_RUNS", "write_replay"]

MOST_RUNS = 10_000  # one file each; DALI 2.4 read as many without keeping them open
FILE = "replay.json"


def write_replay(
    catalog: Catalog, order: NDArray[np.int64], folder: str | os.PathLike[str], /, *, by_shard: bool = False
) -> dict[str, list[str]]:
    """Write an order as .idx files, and `replay.json` with the arguments for `fn.readers.webdataset`.

    Args:
        catalog: The catalog of the rows.
        order: Rows, int64 (M,).
        folder: Folder to write, made where needed; an earlier export in it is replaced.
        by_shard: Group the draws by shard, which keeps counts and the order within each shard only.

    Returns:
        What `replay.json` holds: `paths` and `index_paths`, one pair per run, absolute.

    Raises:
        ValueError: No draws, a row outside the catalog, more than 10 000 runs, a member name with white space,
            a damaged shard, or a folder with .idx files that are not an earlier export.
    """
    if not order.size:
        raise ValueError("an order must hold at least one draw to be written as .idx files, but got none")
    if order.min() < 0 or order.max() >= len(catalog):
        raise ValueError(f"rows must be in [0, {len(catalog)}), but got {order.min()} … {order.max()}: another one?")
    shards = catalog.shard[order]
    if by_shard:
        grouped = np.argsort(shards, kind="stable")
        order, shards = order[grouped], shards[grouped]
    bounds = [0, *(np.flatnonzero(np.diff(shards)) + 1).tolist(), order.size]
    if len(bounds) - 1 > MOST_RUNS:
        raise ValueError(
            f"an order may have at most {MOST_RUNS} runs of one shard as .idx files, but has {len(bounds) - 1} over "
            f"{len(catalog.shards)} shards: pack the images as one shard, or group the draws by shard (--by-shard), "
            "which keeps the counts but not the order across shards"
        )
    runs = [(int(shards[start]), order[start:stop]) for start, stop in pairwise(bounds)]
    return _write(catalog, runs, Path(folder))


def _write(catalog: Catalog, runs: Sequence[tuple[int, NDArray[np.int64]]], folder: Path) -> dict[str, list[str]]:
    folder.mkdir(parents=True, exist_ok=True)
    old = sorted(folder.glob("*.idx"))
    if old and not (folder / FILE).exists():
        raise ValueError(f"{folder}: holds other .idx files ({old[0].name}, …): give a folder of its own")
    for path in (folder / FILE, *old):
        path.unlink(missing_ok=True)
    names = [folder.resolve() / f"{run:05d}.idx" for run in range(len(runs))]
    for shard in sorted({shard for shard, _ in runs}):
        lines = idx_lines(catalog, shard)
        first, stop = catalog.shard_rows(shard)
        if len(lines) != stop - first:
            held = f"shard has {len(lines)} samples, its catalog says {stop - first}"
            raise ValueError(f"{catalog.shard_path(shard)}: {held}: index anew")
        for name, (of, rows) in zip(names, runs, strict=True):
            if of == shard:
                write_lines(name, [lines[row - first] for row in rows.tolist()])
    result = {
        "paths": [str(catalog.shard_path(shard).resolve()) for shard, _ in runs],
        "index_paths": [str(name) for name in names],
    }
    (folder / FILE).write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return result
