"""Cost estimate of packing and indexing: some rows are packed or indexed into a temporary folder."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drawstream.pipeline.shards.catalog import FILE
from drawstream.pipeline.shards.index import check_index
from drawstream.pipeline.shards.index import index as run_index
from drawstream.pipeline.shards.label_noise import stratified_order
from drawstream.pipeline.shards.labels import BY_DEFAULT, Selection
from drawstream.pipeline.shards.pack import check_pack, holds_pack, pack
from drawstream.pipeline.shards.staging import check_target
from drawstream.pipeline.shards.tar import BLOCK, mapped, samples
from drawstream.pipeline.sources.source import Source
from drawstream.pipeline.workers.local import suitable_workers
from drawstream.tools.estimate.probe import LIMIT, allowed, rehearsed
from drawstream.tools.estimate.stages import Estimate, Stage, budgeted, folder_size, resident

__all__ = ["estimate_index", "estimate_pack", "packing"]

FEW = 64  # rows that are packed first, to learn how many can be
SHARD_ROWS = 10_000  # as `pack` closes them
CATALOG_ROW = 400  # bytes of memory for a row: key, numbers, and both again as they are written
RECORD = 700  # bytes of the command's own record beside a catalog
SHARD_ENTRY = 90  # bytes of the catalog for a shard: name, size, hash
MOST_INDEXED = 64 << 20  # bytes of a shard that are indexed


@dataclass(frozen=True, slots=True, eq=False)
class _Part:
    """Some rows of a source."""

    source: Source
    rows: NDArray[np.int64]

    @property
    def name(self) -> str:
        """Return the source's name."""
        return self.source.name

    @property
    def labels(self) -> NDArray[np.int64]:
        """Return the labels of these rows."""
        return self.source.labels[self.rows]

    @property
    def classes(self) -> tuple[str, ...]:
        """Return the source's classes."""
        return self.source.classes

    def __len__(self) -> int:
        return len(self.rows)

    def key(self, row: int, /) -> str:
        """Return the key of one of these rows."""
        return self.source.key(int(self.rows[row]))

    def read(self, row: int, /) -> Any:
        """One of these rows."""
        return self.source.read(int(self.rows[row]))


@budgeted("pack")
def estimate_pack(source: Source, out: Path, /, *, overwrite: bool = False, **options: Any) -> Estimate:
    """The estimate of `pack`; arguments and errors are its own."""
    notes = []
    replaced = overwrite and holds_pack(out)
    check_target(out, replaceable=replaced)
    if replaced:
        held = folder_size(out)
        notes.append(f"{out} holds a pack of {held / 1e6:.3g} MB, which would be replaced once the new one is whole")
    return Estimate("pack", out, (packing(source, out, **options),), tuple(notes))


def packing(source: Source, out: Path, /, **options: Any) -> Stage:
    """The stage of a pack; keywords are those of `pack`."""
    numbers: dict[str, Any] = {"encoding": "keep", "quality": 95, "limit": None, "holdout": 0} | options
    rows = check_pack(source, **{name: numbers[name] for name in ("encoding", "quality", "limit", "holdout")})
    whole = {**options, "limit": None, "overwrite": False}
    order = stratified_order(source.labels, seed=options.get("seed", 0))[:rows]
    count, seconds = min(FEW, rows), 0.0
    with rehearsed(out) as scratch:
        pack(_Part(source, order[:1]), scratch / "one", **{**whole, "holdout": 0})
        while True:
            taken = np.sort(order[np.linspace(0, rows - 1, count).astype(np.int64)])  # all rows: as the source has them
            held = min(count - 1, -(-count * numbers["holdout"] // rows))
            begin = time.perf_counter()
            pack(_Part(source, taken), scratch / str(count), **{**whole, "holdout": held})
            seconds = time.perf_counter() - begin
            limit = allowed(seconds / count * rows, LIMIT)
            if count == rows or seconds > limit / 4:
                break
            count = min(rows, int(count * limit / 2 / max(seconds, 1e-3)))
        shards, least_shards = (folder_size(scratch / name, ["*.tar"]) for name in (str(count), "one"))
        catalog = folder_size(scratch / str(count)) - shards
        least = folder_size(scratch / "one") - least_shards
    each = shards / count
    catalogs = 2 if numbers["holdout"] else 1
    entry = max(0.0, catalog - catalogs * least) / max(count - catalogs, 1)
    how = "all" if count == rows else f"{count} of {rows}"
    basis = f"measured: {how} rows packed in {seconds:.2f} s, {each:.0f} bytes each and {entry:.0f} in the catalog"
    disk = catalogs * RECORD
    disk += shards + catalog if count == rows else round(rows * (each + entry)) + catalogs * least
    return Stage("pack", seconds / count * rows, disk, resident() + (rows - count) * CATALOG_ROW, basis)


@budgeted("index")
def estimate_index(
    shards: Path | Sequence[Path],
    /,
    *,
    out: Path | None,
    overwrite: bool,
    workers: int | None,
    selection: Selection = BY_DEFAULT,
) -> Estimate:
    """The estimate of `index`; arguments and errors are its own."""
    paths, root = check_index(shards, out=out, overwrite=overwrite)
    sizes = []
    for path in paths:
        with mapped(path) as data:
            sizes.append(len(data))
    first, total = paths[0], sum(sizes)
    with rehearsed(first.parent) as one, rehearsed(first.parent) as part:
        with mapped(first) as data:
            end, rows, ends = 0, 0, []
            for sample in islice(samples(data, first), SHARD_ROWS):
                end = max(member.offset + -(-member.size // BLOCK) * BLOCK for member in sample.members.values())
                if not selection.leaves_out(sample, data):
                    rows += 1
                    ends.append(end)
                if end > MOST_INDEXED:
                    break
            for scratch, stop in ((one, ends[:1]), (part, ends[-1:])):
                (scratch / first.name).write_bytes(data[: sum(stop)] + bytes(2 * BLOCK))
        run_index(one / first.name, out=one / "catalog", selection=selection)
        begin = time.perf_counter()
        run_index(part / first.name, out=part / "catalog", selection=selection)
        seconds = time.perf_counter() - begin
        least, catalog = (folder_size(scratch / "catalog") for scratch in (one, part))
    at_once = min(len(paths), suitable_workers(total) if workers is None else workers)
    times = total / max(end, 1)
    basis = f"measured: {rows} samples, {end / 1e6:.3g} MB in {seconds:.2f} s; × {times:.4g} for {len(paths)} shards"
    basis += f", {at_once} at once" if at_once > 1 else ""
    disk = RECORD + least + round((catalog - least) / max(rows - 1, 1) * times * rows) + SHARD_ENTRY * len(paths)
    memory = resident() + round(times * rows) * CATALOG_ROW + max(sizes)
    stage = Stage("index", times * seconds / at_once, disk, memory, basis)
    notes = [f"{root / FILE} is there and would be replaced"] if (root / FILE).exists() else []
    notes += [f"each of the {at_once} processes maps its shard, too"] if at_once > 1 else []
    return Estimate("index", root, (stage,), tuple(notes))
