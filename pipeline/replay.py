"""Orders as DALI index files: `fn.readers.webdataset` then replays them with its own reader.

DALI reads the pairs (path of a shard, .idx file) one after another and the lines of each .idx in order, and neither has
to be unique. So the runs of an order, consecutive draws from one shard each, replay it exactly. Each run costs a file,
which bounds them: for an order that jumps between shards either pack the shards as one, or group the order by shard,
which keeps counts and the order within each shard; DALI's own buffer (`random_shuffle`) then mixes the shards.

DALI's format has no room for a checksum, so the hashes of all files lie beside them, in `replay.xxh128` as the tool
`xxh128sum` writes it; `read_replay` compares them. Repeats and order were tried with DALI 2.4; its documentation does
not promise them, tests/unit/pipeline/test_replay.py does. An .idx holds whole images: crops cannot be replayed.
"""

import json
import os
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from drawstream.pipeline.shards import Catalog, hash_file, idx_lines, write_lines
from drawstream.samplers.files import system_fault, write_atomically

__all__ = ["MOST_RUNS", "read_replay", "write_replay"]

MOST_RUNS = 10_000  # one file each; DALI 2.4 read as many without keeping them open
FILE, SUMS = "replay.json", "replay.xxh128"


def write_replay(
    catalog: Catalog, order: NDArray[np.int64], folder: str | os.PathLike[str], /, *, by_shard: bool = False
) -> dict[str, list[str]]:
    """Write an order as .idx files, and `replay.json` with the arguments for `fn.readers.webdataset`.

    Args:
        catalog: The catalog of the rows.
        order: Rows of an epoch, int64 (M,).
        folder: Folder to write; an earlier export in it is replaced.
        by_shard: Group the draws by shard, which keeps counts and the order within each shard only.

    Returns:
        `paths` and `index_paths`, one pair per run, absolute.

    Raises:
        ValueError: No draws, a row outside the catalog, more than 10 000 runs, a member name with white space,
            a damaged shard, or a folder with .idx files that are not an earlier export.
    """
    if not order.size:
        raise ValueError("an order must hold at least one draw to be written as .idx files, but got none")
    if order.min() < 0 or order.max() >= len(catalog):
        span = f"{order.min()} … {order.max()}"
        raise ValueError(f"rows must be in [0, {len(catalog)}), but got {span}: is this the catalog of the order?")
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
    try:
        return _write(catalog, runs, Path(folder))
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise system_fault(error, folder) from None  # a full disk does not say where


def _write(catalog: Catalog, runs: Sequence[tuple[int, NDArray[np.int64]]], folder: Path) -> dict[str, list[str]]:
    folder.mkdir(parents=True, exist_ok=True)
    old = sorted(folder.glob("*.idx"))
    if old and not (folder / FILE).exists():
        raise ValueError(f"{folder}: holds other .idx files ({old[0].name}, …): give a folder of its own")
    for path in (folder / SUMS, folder / FILE, *old):
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
    sums = [f"{hash_file(path)}  {path.name}\n" for path in (*names, folder / FILE)]
    with write_atomically(folder / SUMS) as draft:
        draft.write_text("".join(sums), encoding="utf-8")
    return result


def read_replay(folder: str | os.PathLike[str], /) -> dict[str, list[str]]:
    """Return the arguments for `fn.readers.webdataset` of an export, after a check of all its files.

    Args:
        folder: The export, not moved since, for the paths are absolute.

    Raises:
        FileNotFoundError: No export there, or one that was not finished.
        ValueError: A file is missing, was added, damaged or altered.
    """
    place, remedy = Path(folder), "export it again"
    if not (place / SUMS).is_file():
        raise FileNotFoundError(f"{place / SUMS}: no such file, so the export was not finished: {remedy}")
    lines = (place / SUMS).read_bytes().decode(errors="replace").removesuffix("\n").split("\n")
    sums = {name: mark for mark, _, name in (line.partition("  ") for line in lines)}
    found = {path.name for path in place.glob("*.idx")} | {FILE}
    if found != sums.keys():
        name = min(found ^ sums.keys())
        raise ValueError(f"{place / SUMS}: it and the folder must list the same files, but {name!r} differs: {remedy}")
    for name, mark in sums.items():
        if (actual := hash_file(place / name)) != mark:
            raise ValueError(f"{place / name}: hash must be {mark}, but got {actual}: damaged or altered: {remedy}")
    return json.loads((place / FILE).read_bytes())  # type: ignore[no-any-return]
