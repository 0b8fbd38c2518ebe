"""The whole way at ImageNet's number of rows: every stage as the command that a user types, in a process of its own.

    images ─▶ pack ─▶ index ─▶ verify ─▶ train, uniform ─▶ features ─▶ search ─▶ train, swift ─▶ stream … ─▶ report

It is walked twice, with an eighth of the rows and with all of them, so that what a row costs in seconds, memory and
bytes on disk is measured and not guessed. A third, shorter way is that of photographs like ImageNet's (`photos`). Each
stage leaves one JSON file with its figures; a rehearsal that is started again runs only the stages that have none.
"""

import json
import os
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from drawstream.tools.bench.rehearsal.laws import PARTS, extrapolate, report
from drawstream.tools.bench.rehearsal.process import bytes_below, measure
from drawstream.tools.runs import BEFORE, hold_identity, machine, tell_finished, versions, write_json

HOLDOUT = 10_000  # rows held out, at most; a tenth of the rows where these are few
CLASSES = 1000  # as ImageNet; fewer where that leaves a class less than 50 rows
NOISE = 0.2  # share of wrong labels
TRIALS, SHARE = 4, 0.05  # candidates of the search, and the part of an epoch each trains for
RUNS = 4  # epochs of the confirmation: the best candidate and uniform under two seeds, the fewest that can be judged
COPIES = 8  # of each photograph, as hard links: packing cares for bytes, not for what they show
MOST_PHOTOS = 512  # different ones: each is encoded some six times until its size is right
CLI = (sys.executable, "-m", "drawstream.tools.cli")
IMAGES = (sys.executable, "-m", "drawstream.tools.bench.rehearsal.images")


@dataclass(frozen=True, slots=True)
class Stage:
    """One command of the way.

    Attributes:
        name: In the table.
        command: Program and arguments, paths relative to the way's folder.
        writes: What it leaves there; removed before it runs.
        rows: Rows that go through it.
    """

    name: str
    command: tuple[str, ...]
    writes: tuple[str, ...]
    rows: int


def way(rows: int, /, *, classes: int, seed: int) -> list[Stage]:
    """The stages over so many training rows."""
    held = min(HOLDOUT, rows // 10)
    sets = ("--catalog", "data/train", "--held-out", "data/holdout")
    drop = ("drop.json", "--table", "features")  # the search may well keep uniform: streams are looked at with weights
    seeded = ("--seed", str(seed))

    def ours(name: str, arguments: Sequence[str], writes: Sequence[str], count: float = rows) -> Stage:
        return Stage(name, (*CLI, *arguments), tuple(writes), round(count))

    def train(name: str, *extra: str) -> Stage:
        given = ("train", "data/train", "-o", f"runs/{name}", *sets[2:], "--epochs", "1", *seeded, *extra)
        return ours(f"train {name}", given, [f"runs/{name}"])

    search = ("search", "swift", "features", "-o", "search", *sets, "--start", "runs/uniform/last.safetensors", *seeded)
    few = ("--trials", str(TRIALS), "--round", str(TRIALS), "--fine-tune-epochs", str(SHARE), "--transform", "cdf")
    least = ("--confirm-top", "1", "--confirm-seeds", str(RUNS // 2), "--epochs", "1")
    pack = ("pack", "images", "data", "--holdout", str(held), "--label-noise", str(NOISE), *seeded)
    weights = ("--weights", "runs/uniform/last.safetensors")
    made = (*IMAGES, "images", str(rows + held), str(classes), str(seed))
    return [
        Stage("images", made, ("images",), rows + held),
        ours("pack", pack, ["data"], rows + held),
        ours("index", ("index", "data/train", "-o", "index"), ["index"]),
        ours("verify", ("verify", "data/train", "--quarantine", "quarantine.json"), ["quarantine.json"]),
        train("uniform"),
        ours("features", ("features", "data/train", "-o", "features", *weights), ["features"]),
        ours("search", (*search, *few, *least), ["search"], rows * (TRIALS * SHARE + RUNS)),
        train("swift", "--sampler", "search/sampler.json", "--table", "features"),
        ours("fit", ("fit", "features", "-o", drop[0], "--transform", "cdf", "--values", "1,1,1,.5,0"), [drop[0]]),
        ours("stream show", ("stream", "show", *drop, "--json", "show.json"), ["show.json"]),
        ours("stream count", ("stream", "count", *drop, "--json", "count.json"), ["count.json"]),
        ours("stream export", ("stream", "export", *drop, "-o", "schedule.arrow"), ["schedule.arrow"]),
        ours("report", ("report", ".", "-o", "report.html"), ["report.html"]),
    ]


def photo_way(photos: int, /) -> list[Stage]:
    """The stages over photographs, of which each is there `COPIES` times."""
    rows = photos * COPIES
    loads = ("bench", "loader", "--data", "photos", "--images", str(photos), "--rounds", "2", "--work", "photos")
    return [
        Stage(
            "images", (*IMAGES, "--photos", "photos", "source", str(photos), str(COPIES)), ("photos", "source"), rows
        ),
        Stage("pack", (*CLI, "pack", "source", "packed"), ("packed",), rows),
        Stage("index", (*CLI, "index", "packed", "-o", "index"), ("index",), rows),
        Stage("verify", (*CLI, "verify", "packed"), (), rows),
        Stage("load", (*CLI, *loads, "--json", "load.json"), ("load.json",), photos),
    ]


def run(folder: Path, /, *, rows: int, photos: int = MOST_PHOTOS, seed: int = 0) -> dict[str, Any]:
    """Run what has no figures yet, print the tables, and return them.

    Raises:
        ValueError: A stage failed, or the folder holds a rehearsal of another size.
    """
    hold_identity(folder / "settings.json", "rehearsal", {"rows": rows, "photos": photos, "seed": seed})
    classes = max(2, min(CLASSES, rows // 50))
    ways = {part: way(count, classes=classes, seed=seed) for part, count in zip(PARTS, (rows // 8, rows), strict=True)}
    if photos:
        ways["photos"] = photo_way(photos)
    total, done, measured = sum(map(len, ways.values())), 0, []
    for part, stages in ways.items():
        for stage in stages:
            done += 1
            measured.append(_figures(folder / part, part, stage, f"[{done}/{total}] {part}: {stage.name}"))
    rate = None if not photos else _loaded(folder / "photos" / "load.json")
    result = {
        "machine": _machine(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "versions": versions(),
        "rows": rows,
        "classes": classes,
        "stages": [each | {"measured": True} for each in measured],
        **extrapolate(measured, photos_per_second=rate),
    }
    print(report(result))
    file = folder / "rehearsal.json"
    if file.exists() and json.loads(file.read_text(encoding="utf-8"))["stages"] == result["stages"]:
        tell_finished(file, datetime.fromtimestamp(file.stat().st_mtime, UTC).isoformat(timespec="seconds"))
        return result | BEFORE
    write_json(file, result)
    return result


def _machine() -> dict[str, Any]:
    """Processor, cores, memory, and the mean load of one minute."""
    cores, memory = len(os.sched_getaffinity(0)), psutil.virtual_memory().total
    return {"processor": machine()["cpu"], "cores": cores, "memory": memory, "load": os.getloadavg()[0]}


def _figures(folder: Path, part: str, stage: Stage, title: str) -> dict[str, Any]:
    """The figures of a stage: those it has, or those of running it now."""
    # Beside the way's folder, not in it: the report takes any search.json below for a search.
    file = folder.parent / "figures" / part / f"{stage.name.replace(' ', '-')}.json"
    command = ["python" if each == sys.executable else each for each in stage.command]
    if file.exists():
        earlier: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        if earlier["command"] == command:  # else a newer version goes another way
            print(f"{title}: was done in {earlier['seconds']:.1f} s", file=sys.stderr, flush=True)
            return earlier
    for each in stage.writes:  # what a killed stage left: it would go on from there, and its time would be a part
        place = folder / each
        shutil.rmtree(place) if place.is_dir() else place.unlink(missing_ok=True)
    folder.mkdir(exist_ok=True)
    file.parent.mkdir(parents=True, exist_ok=True)
    print(f"{title}: {stage.rows} rows", file=sys.stderr, flush=True)
    began, load = time.time(), os.getloadavg()[0]
    found = measure(stage.command, cwd=folder, environment={"PYTHONUNBUFFERED": "1"})
    if found.code:
        last = next((line for line in reversed(found.lines) if line.strip()), "nothing said")
        raise ValueError(f"{folder}: {stage.name} ended with {found.code} ({last}): mend it and start again")
    figures = {
        "part": part,
        "stage": stage.name,
        "rows": stage.rows,
        **{name: value for name, value in asdict(found).items() if name not in ("code", "lines")},
        "written": sum(bytes_below(folder / each) for each in stage.writes),
        "command": command,
        "began": datetime.fromtimestamp(began, UTC).strftime("%Y-%m-%d %H:%M:%S UTC"),
        "load": load,
    }
    write_json(file, figures)
    return figures


def _loaded(file: Path) -> float:
    """Images a second of our loader, from the loader's benchmark."""
    rows = json.loads(file.read_text(encoding="utf-8"))["rows"]
    return float(next(row["images_per_second"] for row in rows if row["system"] == "drawstream"))
