"""The loader beside its peers on JPEGs: the same images, cores and output for all, in alternating rounds.

The output is ImageNet's training recipe: random resized crops to 224×224 (area .08 to 1, aspect 3/4 to 4/3), flips,
normalised float32 batches in CHW. A round is one epoch, from nothing to the last batch. DALI's systems have as many
threads as the others have worker processes.

    drawstream                      weighted stratified draws, ids, weights, a window per row, every read checksummed
    drawstream, checksum never      the same without checksums
    drawstream, short side S        the same over the images that `pack --short-side S` has stored (if asked for)
    drawstream, stored windows      the same over rows that bring their windows and flips, as of a feature table
    dali webdataset reader          DALI's own reader, shards from end to end: no weights, ids or checksums
    … replay                        the same reader replaying a weighted order, shard by shard (`export-idx`)
    dali external_source, …         a Python function that reads a weighted order with pread when DALI asks
    torch webdataset + Pillow       DataLoader over webdataset
    torch map-style + Pillow        DataLoader over the tars, WeightedRandomSampler
    mosaic streaming, litdata, spdl from an environment of their own (`peers`)
"""

from pathlib import Path
from typing import Any

import numpy as np

from drawstream.pipeline.shards import Catalog
from drawstream.tools.bench.loader.dali_readers import dali_systems
from drawstream.tools.bench.loader.ours import Ours, StoredWindows, row_weights, weighted_stream
from drawstream.tools.bench.loader.peers import start_peers
from drawstream.tools.bench.loader.rounds import SPEEDS, Setting, alternate, median_ratio
from drawstream.tools.experiments import Columns, table_of

__all__ = ["compare_encoded", "format_encoded"]

OURS, UNCHECKED = "drawstream", "drawstream, checksum never"
READER, TORCH = "dali webdataset reader", "torch webdataset + Pillow"


def compare_encoded(
    catalog: Catalog,
    setting: Setting,
    folder: Path,
    /,
    *,
    rounds: int,
    peers_env: Path | None = None,
    smaller: Catalog | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Measure all systems.

    Returns:
        `rows`, one per system as of `alternate`, each with `ratio`: median over the rounds of our speed over its own.
        `ratio_to_dali_reader`, `ratio_to_torch` and `ratio_of_checksums` (never over always) are three of these.
        `smaller`: of the images stored `smaller`, `ratio_to_originals`, `ratio_to_torch` (on the originals) and
        `mean_bytes`; None without them.
        `first_batch_seconds` of an epoch; `waiting`, the share of a training step's time; `missing` peers.

    Raises:
        ValueError: The images are gray.
    """
    if catalog.channels != 3:
        raise ValueError(f"images must be RGB to be compared, for the peers' are, but {catalog.path} has gray ones")
    rows = len(catalog)
    stream = weighted_stream(rows, rows, seed)
    windows = StoredWindows.draw(catalog, setting, seed)
    ours = Ours.build(catalog, stream, setting)
    variants = [
        ours.system(OURS, setting.batch_size),
        Ours.build(catalog, stream, setting, checksum="never").system(UNCHECKED, setting.batch_size),
        Ours.build(catalog, weighted_stream(2 * rows, rows, seed), setting, windows).system(
            "drawstream, stored windows", setting.batch_size
        ),
    ]
    if smaller is not None:
        side = int(np.minimum(smaller.height, smaller.width).max())
        small = Ours.build(smaller, weighted_stream(len(smaller), rows, seed), setting)
        variants.append(small.system(f"drawstream, short side {side}", setting.batch_size))
    with start_peers(
        catalog, row_weights(rows, seed), setting, folder / "peers", environment=peers_env, seed=seed
    ) as peers:
        systems = [*variants, *dali_systems(catalog, stream, setting, folder), *peers.systems]
        table = alternate(systems, rounds)
        missing = peers.missing
    speeds = {row["system"]: row["rounds"] for row in table}
    for row in table:
        row["ratio"] = median_ratio(speeds[OURS], row["rounds"])
    ratios = {row["system"]: row["ratio"] for row in table}
    found = None
    if smaller is not None:
        own = speeds[variants[-1].name]
        found = {"system": variants[-1].name, "ratio_to_originals": median_ratio(own, speeds[OURS])}
        found["ratio_to_torch"] = median_ratio(own, speeds[TORCH]) if TORCH in speeds else None
        found["mean_bytes"] = float(smaller.size.mean())
    return {
        "rows": table,
        "smaller": found,
        "ratio_to_dali_reader": ratios[READER],
        "ratio_to_torch": ratios.get(TORCH),
        "ratio_of_checksums": 1 / ratios[UNCHECKED],
        "first_batch_seconds": ours.first_batch(),
        "waiting": ours.waiting(setting.batch_size / table[0]["images_per_second"]),
        "images": rows,
        "mean_bytes": float(catalog.size.mean()),
        "missing": missing,
    }


def format_encoded(result: dict[str, Any]) -> str:
    """The result as lines of text."""
    columns: Columns[dict[str, Any]] = {
        "system": lambda row: row["system"],
        **SPEEDS,
        "drawstream / it": lambda row: f"{row['ratio']:.3f}",
    }
    lines = [table_of(result["rows"], columns).text()]
    lines += [f"{each['system']}: not measured, {each['reason']}" for each in result["missing"]]
    torch = "" if result["ratio_to_torch"] is None else f", to torch {result['ratio_to_torch']:.2f}"
    lines.append(f"{result['images']} images of {result['mean_bytes']:,.0f} bytes on average")
    lines.append(f"ratio to DALI's reader {result['ratio_to_dali_reader']:.3f}{torch}")
    lines.append(
        f"checksums leave {result['ratio_of_checksums']:.3f} of the speed; first batch after "
        f"{result['first_batch_seconds'] * 1e3:.0f} ms; a training step waits {result['waiting']:.1%} of its time"
    )
    if small := result["smaller"]:
        torch = "" if small["ratio_to_torch"] is None else f", {small['ratio_to_torch']:.2f} of torch's"
        speed = f"{small['ratio_to_originals']:.2f} of the speed on the originals{torch}"
        lines.append(f"{small['system']}: images of {small['mean_bytes']:,.0f} bytes, {speed}")
    return "\n".join(lines)
