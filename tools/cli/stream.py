"""`drawstream stream`: look at a stream, count what it draws, export its orders, compare two schedules."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from drawstream.tools.cli.features import Catalog, Join
from drawstream.tools.cli.options import Frozen, Json, words
from drawstream.tools.runs.progress import Progress, tell_notes
from drawstream.tools.runs.record import finish

if TYPE_CHECKING:
    from drawstream.tools.cli.stream_source import StreamSource

app = typer.Typer(help="Inspect, count, export and compare index streams.", no_args_is_help=True, rich_markup_mode=None)

Source = Annotated[
    Path | None,
    typer.Argument(
        help="sampler.json (with --table), schedule.arrow, or weights: .csv, .parquet, .npy, .json, … or a folder."
    ),
]
Rows = Annotated[int | None, typer.Option(help="Number of rows, all alike; instead of a source.")]
Table = Annotated[Path | None, typer.Option(help="Feature table that a sampler.json reads.")]
Column = Annotated[str | None, typer.Option(help="Column of a file of weights; by default weight.")]
Mode = Annotated[
    str | None,
    typer.Option(
        autocompletion=words("permutation", "stratified", "multinomial", "subset"),
        help="permutation, stratified, multinomial or subset.",
    ),
]
Seed = Annotated[int, typer.Option(help="Seed of the orders.")]
Draws = Annotated[int | None, typer.Option(help="Positions per epoch; by default the number of rows.")]
Window = Annotated[int | None, typer.Option(help="Keep neighbours within about so many positions.")]

BYTES = 12  # of a draw in a schedule: row and weight; a line of an .idx file is longer
SHOWN = 3  # epochs of a count in the text; the JSON has all


@app.command()
def show(
    source: Source = None,
    rows: Rows = None,
    table: Table = None,
    join: Join = None,
    frozen: Frozen = False,
    column: Column = None,
    mode: Mode = None,
    seed: Seed = 0,
    epoch: Annotated[int, typer.Option(help="Epoch whose first rows are shown.")] = 0,
    draws: Draws = None,
    window: Window = None,
    first: Annotated[int, typer.Option(help="How many rows to show.")] = 10,
    catalog: Catalog = None,
    json_path: Json = None,
) -> None:
    """Show what a stream is: rows, draws, effective sample size, memory, fingerprint, first rows.

    Example: drawstream stream show search/sampler.json --table features --mode stratified --seed 1
    """
    opened = _open(source, rows, (table, join, catalog, frozen), column, mode, seed, draws, window)
    stream = opened.stream
    order = stream.epoch(opened.epochs(str(epoch))[0])
    beginning = order[: max(0, first)]
    ess, zero = opened.effective_rows(epoch)
    result = {
        **_facts(opened),
        "ess": ess,
        "zero_rows": zero,
        "bytes": stream.nbytes,
        "epoch": epoch,
        "first_rows": beginning.tolist(),
        "first_weights": [round(float(weight), 6) for weight in order.weights(0, beginning.size)],
    }
    lines = [
        _title(opened),
        f"effective sample size {ess:.0f} ({ess / stream.rows:.1%} of the rows), {zero} rows never drawn",
        f"{stream.nbytes / 1e6:.1f} MB held between epochs, fingerprint {stream.fingerprint}",
        f"epoch {epoch} begins: {' '.join(map(str, beginning.tolist()))}",
    ]
    finish(result, json_path, "\n".join(lines))


@app.command()
def count(
    source: Source = None,
    rows: Rows = None,
    table: Table = None,
    join: Join = None,
    frozen: Frozen = False,
    column: Column = None,
    mode: Mode = None,
    seed: Seed = 0,
    epochs: Annotated[str, typer.Option(help="As 3 or 0:3; : is all of a schedule.")] = "0",
    draws: Draws = None,
    window: Window = None,
    catalog: Catalog = None,
    json_path: Json = None,
) -> None:
    """Count the draws of each row: how many rows come 0, 1, 2, … times, the entropy H(c), and 1 - H(c) / log N.

    Example: drawstream stream count search/sampler.json --table features --epochs 0:3
    """
    import numpy as np

    from drawstream.samplers.orders.counts import count_rows

    opened = _open(source, rows, (table, join, catalog, frozen), column, mode, seed, draws, window)
    chosen = opened.epochs(epochs)
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
    finish(result, json_path, "\n".join(lines))


@app.command()
def export(
    source: Source = None,
    rows: Rows = None,
    table: Table = None,
    join: Join = None,
    frozen: Frozen = False,
    column: Column = None,
    mode: Mode = None,
    seed: Seed = 0,
    epochs: Annotated[str, typer.Option(help="As 3 or 0:3; : is all of a schedule.")] = "0",
    draws: Draws = None,
    window: Window = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Schedule to write (.arrow).")] = None,
    idx: Annotated[
        Path | None, typer.Option(help="Folder for DALI .idx files, a folder per epoch; needs --catalog.")
    ] = None,
    catalog: Annotated[str | None, typer.Option(help="Catalog that the rows belong to.")] = None,
    by_shard: Annotated[
        bool, typer.Option("--by-shard", help=".idx files grouped by shard: exact counts, order within shards only.")
    ] = False,
    json_path: Json = None,
) -> None:
    """Write epochs down: as a schedule that replays exactly, or as .idx files for DALI's webdataset reader.

    With one shard .idx files give the exact order. With several, each change of shard costs a file, so at most 10 000
    changes are written; --by-shard groups the draws by shard.

    Example: drawstream stream export search/sampler.json --table features -o schedule.arrow --epochs 0:3
    """
    from drawstream.samplers.orders.schedule import write_schedule
    from drawstream.tools.runs.record import command, write_record

    if out is None and idx is None:
        raise ValueError("an export needs a place: -o schedule.arrow, or --idx FOLDER with --catalog")
    opened = _open(source, rows, (table, join, catalog, frozen), column, mode, seed, draws, window)
    chosen = opened.epochs(epochs)
    for place in filter(None, (out, idx)):
        _room(place, len(chosen) * opened.stream.draws)
    fingerprint = _catalog(opened, catalog).fingerprint if catalog is not None else opened.catalog
    result = {**_facts(opened), "catalog": fingerprint, "epochs": list(chosen)}
    places = []
    if idx is not None:
        result["idx"] = _write_idx(opened, chosen, catalog, idx, by_shard)
        write_record(idx / "export.json", "export", result)
        places.append(str(idx))
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        with Progress("export", "epochs") as progress:
            orders = _reported(opened, chosen, progress)
            made = {**_facts(opened), "command": command()}
            write_schedule(out, orders, rows=opened.stream.rows, catalog=fingerprint, provenance=made)
        result["schedule"] = str(out)
        places.append(str(out))
    finish(result, json_path, f"{len(chosen)} epochs of {opened.stream.draws} draws: {', '.join(places)}")


@app.command()
def diff(
    left: Annotated[Path, typer.Argument(help="A schedule (.arrow).")],
    right: Annotated[Path, typer.Argument(help="Another one.")],
    json_path: Json = None,
) -> None:
    """Compare two schedules position by position; exit 1 when they differ.

    Example: drawstream stream diff monday.arrow tuesday.arrow
    """
    from drawstream.samplers.orders.schedule import Schedule

    mine, theirs = Schedule.open(left), Schedule.open(right)
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
    finish(result, json_path, text)
    if found.first is not None:
        raise typer.Exit(1)


def _open(
    source: Path | None,
    rows: int | None,
    table: tuple[Path | None, list[Path] | None, str | Path | None, bool],
    column: str | None,
    mode: str | None,
    seed: int,
    draws: int | None,
    window: int | None,
) -> "StreamSource":
    from drawstream.tools.cli.stream_source import open_source

    folder, join, catalog, frozen = table
    opened = open_source(
        source,
        rows=rows,
        table=folder,
        join=join or (),
        catalog=catalog,
        frozen=frozen,
        column=column,
        mode=mode,
        seed=seed,
        draws=draws,
        window=window,
    )
    if catalog is not None:
        _catalog(opened, str(catalog))
    tell_notes(opened.notes)
    return opened


def _facts(opened: "StreamSource") -> dict[str, Any]:
    stream = opened.stream
    return {
        "rows": stream.rows,
        "draws": stream.draws,
        "mode": stream.mode,
        "seed": stream.seed,
        "window": stream.window,
        "catalog": opened.catalog,
        "fingerprint": stream.fingerprint,
    }


def _title(opened: "StreamSource") -> str:
    stream = opened.stream
    how = f"window {stream.window}" if stream.window else "no window"
    if opened.schedule is not None:
        how = f"{opened.schedule.epochs} epochs recorded"
    return f"{stream.rows} rows, {stream.draws} draws per epoch, mode {stream.mode}, seed {stream.seed}, {how}"


def _summary(counts: Any) -> dict[str, Any]:
    """Histogram of int64 (N,) counts, their entropy, and how far it is from the largest one, log N."""
    import math

    from drawstream.samplers.orders.counts import entropy, histogram

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


def _catalog(opened: "StreamSource", path: str) -> Any:
    """The catalog, if the rows are its rows."""
    from drawstream.pipeline import Catalog

    catalog = Catalog.open(path)
    if opened.catalog and opened.catalog != catalog.fingerprint:
        raise ValueError(
            f"{path}: catalog {catalog.fingerprint[:12]}, but the stream's rows are those of {opened.catalog[:12]}: "
            "give that one"
        )
    if opened.whole_images and len(catalog) != opened.stream.rows:
        raise ValueError(
            f"{path}: {len(catalog)} images, but the stream has {opened.stream.rows} rows: another catalog?"
        )
    return catalog


def _write_idx(
    opened: "StreamSource", epochs: range, catalog: str | None, folder: Path, by_shard: bool
) -> list[dict[str, Any]]:
    from drawstream.pipeline.replay import write_replay

    if catalog is None:
        raise ValueError("--idx needs --catalog: the .idx lines say where each image lies in its shard")
    if not opened.whole_images:
        raise ValueError("an .idx file lists whole images, but these rows are crops or a part of the catalog: use -o")
    shards = _catalog(opened, catalog)
    written = []
    with Progress("export", "epochs") as progress:
        for order, epoch in zip(_reported(opened, epochs, progress), epochs, strict=True):
            place = folder / f"epoch-{epoch:05d}"
            pairs = write_replay(shards, order[:], place, by_shard=by_shard)
            written.append(
                {
                    "epoch": epoch,
                    "folder": str(place),
                    "files": len(pairs["paths"]),
                    "exact": not by_shard or len(pairs["paths"]) == 1,
                }
            )
    return written


def _room(place: Path, draws: int) -> None:
    """Refuse an export that the disk cannot hold."""
    from drawstream.tools.estimate.stages import free_disk

    need, free = draws * BYTES, free_disk(place)
    if need > free:
        raise ValueError(
            f"{place}: {draws} draws take {need / 1e9:.0f} GB, but {free / 1e9:.1f} GB of the disk are free: "
            "export fewer draws or epochs, or name another disk"
        )


def _reported(opened: "StreamSource", epochs: range, progress: Progress) -> Any:
    """The orders of epochs, the progress told as they are used up."""
    for done, epoch in enumerate(epochs):
        yield opened.stream.epoch(epoch)
        progress.update(done + 1, len(epochs))
