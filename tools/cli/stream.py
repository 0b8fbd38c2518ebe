"""`drawstream stream`: look at a stream, count what it draws, export its orders, compare two schedules."""

import math
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from drawstream.tools.cli.options import ResultOptions
from drawstream.tools.cli.stream_source import StreamOptions, StreamSource
from drawstream.tools.runs import SEED, SOME, Progress, argument, command, finish, option, record

if TYPE_CHECKING:
    from drawstream.pipeline.shards import Catalog
    from drawstream.samplers.orders import Order

app = typer.Typer(help="Inspect, count, export and compare index streams.", no_args_is_help=True, rich_markup_mode=None)

BYTES = 12  # of a draw in a schedule: row and weight; a line of an .idx file is longer
SHOWN = 3  # epochs of a count in the text; the JSON has all


@dataclass(frozen=True, kw_only=True)
class ShowOptions(StreamOptions):
    """Options of `stream show`."""

    epoch: int = option(0, "Epoch whose first rows are shown.", within=SEED)
    first: int = option(10, "Rows to show.", within=SOME)


@dataclass(frozen=True, kw_only=True)
class EpochsOptions(StreamOptions):
    """Options of `stream count`."""

    epochs: str = option("0", "Epochs, as 3 or 0:3; : is all of a schedule.")


@dataclass(frozen=True, kw_only=True)
class ExportOptions(EpochsOptions):
    """Options of `stream export`."""

    out: Path | None = option(None, "Write this schedule (.arrow).", "--out", "-o")
    idx: Path | None = option(None, "Write DALI .idx files to this folder, a folder per epoch; needs --catalog.")
    by_shard: bool = option(False, "Group .idx files by shard: exact counts, order within shards only.", "--by-shard")


@dataclass(frozen=True, kw_only=True)
class DiffOptions(ResultOptions):
    """Options of `stream diff`."""

    left: Path = argument("A schedule (.arrow).")
    right: Path = argument("Another one.")


@command(app, ShowOptions)
def show(given: ShowOptions) -> None:
    """Show what a stream is: rows, draws, effective sample size, memory, fingerprint, first rows.

    Example: drawstream stream show search/sampler.json --table features --mode stratified --seed 1
    """
    from drawstream.samplers.orders import MixedStream

    opened, catalog = given.open()
    stream = opened.stream
    order = stream.epoch(opened.epochs(str(given.epoch))[0])
    beginning = order[: given.first]
    ess, zero = opened.effective_rows(given.epoch)
    result: dict[str, Any] = {
        **_facts(opened),
        "ess": ess,
        "zero_rows": zero,
        "bytes": stream.nbytes,
        "epoch": given.epoch,
        "first_rows": beginning.tolist(),
        "first_weights": [round(float(weight), 6) for weight in order.weights(0, beginning.size)],
    }
    if catalog is not None and isinstance(stream, MixedStream):
        drawn = stream.drawn(given.epoch + 1) - stream.drawn(given.epoch)
        result["sources"] = [
            {"name": each.name, "rows": each.rows, "draws": count}
            for each, count in zip(catalog.members, drawn.tolist(), strict=True)
        ]
    lines = [
        _title(opened),
        *(f"{each['name']}: {each['rows']} rows, {each['draws']} draws" for each in result.get("sources", ())),
        f"effective sample size {ess:.0f} ({ess / stream.rows:.1%} of the rows), {zero} rows never drawn",
        f"{stream.nbytes / 1e6:.1f} MB held between epochs, fingerprint {stream.fingerprint}",
        f"epoch {given.epoch} begins: {' '.join(map(str, beginning.tolist()))}",
    ]
    finish(result, given.json_path, "\n".join(lines))


@command(app, EpochsOptions)
def count(given: EpochsOptions) -> None:
    """Count the draws of each row: how many rows come 0, 1, 2, … times, the entropy H(c), and 1 - H(c) / log N.

    Example: drawstream stream count search/sampler.json --table features --epochs 0:3
    """
    import numpy as np

    from drawstream.samplers.orders import count_rows

    opened, _ = given.open()
    chosen = opened.epochs(given.epochs)
    total = np.zeros(opened.stream.rows, dtype=np.int64)
    each = []
    with Progress("count", "epochs") as progress:
        for done, epoch in enumerate(chosen, start=1):
            counts = count_rows(opened.stream.epoch(epoch), opened.stream.rows)
            total += counts
            each.append({"epoch": epoch, **_summary(counts)})
            progress.update(done, len(chosen))
    result = {**_facts(opened), "epochs": each, "total": _summary(total)}
    lines = [_title(opened), *(f"epoch {part['epoch']}: {_sentence(part)}" for part in each[:SHOWN])]
    if len(each) > SHOWN:
        lines.append(f"… and {len(each) - SHOWN} more")
    if len(each) > 1:
        lines.append(f"together: {_sentence(result['total'])}")
    finish(result, given.json_path, "\n".join(lines))


@command(app, ExportOptions)
def export(given: ExportOptions) -> None:
    """Write epochs down: as a schedule that replays exactly, or as .idx files for DALI's webdataset reader.

    With one shard .idx files give the exact order. With several, each change of shard costs a file, so at most 10 000
    changes are written; --by-shard groups the draws by shard.

    Example: drawstream stream export search/sampler.json --table features -o schedule.arrow --epochs 0:3
    """
    from drawstream.samplers.orders import write_schedule

    if given.out is None and given.idx is None:
        raise ValueError("an export needs a place: -o schedule.arrow, or --idx FOLDER with --catalog")
    opened, catalog = given.open()
    chosen = opened.epochs(given.epochs)
    places = [place for place in (given.idx, given.out) if place is not None]
    for place in places:
        _check_space(place, len(chosen) * opened.stream.draws)
    fingerprint = catalog.fingerprint if catalog is not None else opened.fingerprint
    result = {**_facts(opened), "catalog": fingerprint, "epochs": list(chosen)}
    if given.idx is not None:
        result["idx"] = _write_idx(opened, chosen, catalog, given.idx, given.by_shard)
        record.write_record(given.idx / "export.json", "export", result)
    if given.out is not None:
        given.out.parent.mkdir(parents=True, exist_ok=True)
        made = {**_facts(opened), "command": record.command_line()}
        orders = _orders(opened, chosen)
        write_schedule(given.out, orders, rows=opened.stream.rows, catalog=fingerprint, provenance=made)
        result["schedule"] = str(given.out)
    where = ", ".join(map(str, places))
    finish(result, given.json_path, f"{len(chosen)} epochs of {opened.stream.draws} draws: {where}")


@command(app, DiffOptions)
def diff(given: DiffOptions) -> None:
    """Compare two schedules position by position; exit 1 when they differ.

    Example: drawstream stream diff monday.arrow tuesday.arrow
    """
    from drawstream.samplers.orders import Schedule

    mine, theirs = Schedule.open(given.left), Schedule.open(given.right)
    found = mine.diff(theirs)
    draws = mine.epochs * mine.draws
    result = {
        "equal": found.first is None,
        "first": None if found.first is None else {"epoch": found.first[0], "position": found.first[1]},
        "different_positions": found.positions,
        "positions": draws,
        "variation": list(found.variation),
        "catalogs": [mine.catalog, theirs.catalog],
    }
    text = f"equal: {mine.epochs} epochs of {mine.draws} draws"
    if found.first is not None:
        text = (
            f"different in {found.positions} of {draws} positions, first in epoch {found.first[0]} at position "
            f"{found.first[1]}; total variation between the draws of an epoch at most {max(found.variation):.4f}"
        )
    if mine.catalog != theirs.catalog:
        text += f"; recorded on different catalogs ({mine.catalog[:12] or '?'}, {theirs.catalog[:12] or '?'})"
    finish(result, given.json_path, text)
    if found.first is not None:
        raise typer.Exit(1)


def _facts(opened: StreamSource) -> dict[str, Any]:
    stream = opened.stream
    facts = {name: getattr(stream, name) for name in ("rows", "draws", "mode", "seed", "window")}
    return facts | {"catalog": opened.fingerprint, "fingerprint": stream.fingerprint}


def _title(opened: StreamSource) -> str:
    stream = opened.stream
    how = f"window {stream.window}" if stream.window else "no window"
    if opened.schedule is not None:
        how = f"{opened.schedule.epochs} epochs recorded"
    return f"{stream.rows} rows, {stream.draws} draws per epoch, mode {stream.mode}, seed {stream.seed}, {how}"


def _summary(counts: Any) -> dict[str, Any]:
    """Histogram of int64 (N,) counts, their entropy, and how far it is from the largest one, log N."""
    from drawstream.samplers.orders import entropy, histogram

    found = entropy(counts)
    most = math.log(counts.size)
    return {
        "draws": int(counts.sum()),
        "histogram": histogram(counts).tolist(),
        "entropy": found,
        "unevenness": max(0.0, 1 - found / most) if most else 0.0,
    }


def _sentence(summary: dict[str, Any]) -> str:
    bars = summary["histogram"]
    parts = [f"{rows} rows {times}×" for times, rows in enumerate(bars[:8]) if rows]
    if len(bars) > 8:
        parts.append(f"{sum(bars[8:])} rows 8 to {len(bars) - 1}×")
    return f"{', '.join(parts)}; H(c) = {summary['entropy']:.4f}, 1 - H(c) / log N = {summary['unevenness']:.5f}"


def _write_idx(
    opened: StreamSource, epochs: range, catalog: "Catalog | None", folder: Path, by_shard: bool
) -> list[dict[str, Any]]:
    from drawstream.pipeline import write_replay

    if catalog is None:
        raise ValueError("--idx needs --catalog: the .idx lines say where each image lies in its shard")
    if not opened.whole_images:
        raise ValueError("an .idx file lists whole images, but these rows are crops or a part of the catalog: use -o")
    written = []
    for order, epoch in zip(_orders(opened, epochs), epochs, strict=True):
        place = folder / f"epoch-{epoch:05d}"
        files = len(write_replay(catalog, order[:], place, by_shard=by_shard)["paths"])
        exact = not by_shard or files == 1
        written.append({"epoch": epoch, "folder": str(place), "files": files, "exact": exact})
    return written


def _check_space(place: Path, draws: int) -> None:
    """Refuse an export that the disk cannot hold."""
    there = next(each for each in (place.absolute(), *place.absolute().parents) if each.exists())
    need, free = draws * BYTES, shutil.disk_usage(there).free
    if need > free:
        raise ValueError(
            f"{place}: {draws} draws take {need / 1e9:.0f} GB, but {free / 1e9:.1f} GB of the disk are free: "
            "export fewer draws or epochs, or name another disk"
        )


def _orders(opened: StreamSource, epochs: range) -> Iterator["Order"]:
    """Yield the orders of epochs, with progress."""
    with Progress("export", "epochs") as progress:
        for done, epoch in enumerate(epochs, start=1):
            yield opened.stream.epoch(epoch)
            progress.update(done, len(epochs))
