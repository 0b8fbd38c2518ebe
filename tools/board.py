"""What the jobs below a folder are at: those under way with their points, the finished ones with their results.

Files are read again only when they have changed, so that a folder of a thousand runs can be asked every two seconds.
"""

import json
import os
import platform
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from drawstream.tools.hooks import JOURNAL, read_journal

__all__ = ["Board"]

RECORDS = {"run.json": "train", "search.json": "search", "auto.json": "auto"}
MOST = 500  # jobs of a kind, the newest
POINTS = 200  # of a job; of more, every second, third, …

Entry = dict[str, Any]


class Board:
    """The jobs below a folder."""

    def __init__(self, folder: Path, /) -> None:
        self._folder = folder
        self._known: dict[str, tuple[tuple[int, int], Entry | None]] = {}

    def state(self) -> Entry:
        """Folder, jobs running (the latest news first) and jobs finished (the newest first), JSON-able."""
        running: list[Entry] = []
        finished: list[Entry] = []
        seen: dict[str, tuple[tuple[int, int], Entry | None]] = {}
        for path in self._files():
            try:
                status = path.stat()
            except OSError:  # replaced or ended just now
                continue
            stamp, key = (status.st_mtime_ns, status.st_size), str(path)
            known = self._known.get(key)
            entry = known[1] if known is not None and known[0] == stamp else self._read(path, status.st_mtime)
            seen[key] = stamp, entry
            if entry is not None:
                (running if path.name == JOURNAL else finished).append(entry)
        self._known = seen
        finished.sort(key=lambda entry: -entry["when"])
        running.sort(key=lambda entry: -entry["updated"])
        now = time.time()
        live = [{**job, "silent": max(0.0, now - job["updated"]), "ended": _ended(job)} for job in running[:MOST]]
        live.sort(key=lambda job: job["ended"])
        return {"folder": str(self._folder), "running": live, "finished": finished[:MOST], "jobs": len(finished)}

    def _files(self) -> Iterator[Path]:
        names = {JOURNAL, *RECORDS}
        for folder, _, found in os.walk(self._folder):
            yield from (Path(folder, name) for name in names.intersection(found))

    def _read(self, path: Path, changed: float) -> Entry | None:
        name = path.parent.relative_to(self._folder).as_posix()
        if path.name == JOURNAL:
            return _attempt(lambda: _running(path, name))
        entry = {"folder": name, "kind": RECORDS[path.name], "when": changed}
        try:
            return entry | _result(json.loads(path.read_text(encoding="utf-8")))
        except KeyError as error:
            return entry | {"title": "not readable", "text": f"damaged record: it has no {error}"}
        except (OSError, ValueError, TypeError, AttributeError) as error:
            return entry | {"title": "not readable", "text": f"damaged record: {error}"}


def _attempt(read: Callable[[], Entry | None]) -> Entry | None:
    """What a journal says; None for one that is of another version or no journal at all."""
    try:
        return read()
    except (KeyError, TypeError, ValueError, AttributeError):
        return None


def _running(path: Path, name: str) -> Entry | None:
    journal = read_journal(path)
    if journal is None:
        return None
    points = [[float(spent), int(step), dict(values)] for spent, step, values in journal["points"]]
    every = -(-len(points) // POINTS) if points else 1
    return {
        "folder": name,
        "kind": str(journal["kind"]),
        "title": str(journal["title"]),
        "step": int(journal["step"]),
        "total": int(journal["total"]),
        "updated": float(journal["updated"]),
        "process": journal.get("process"),
        "points": points[(len(points) - 1) % every :: every],  # the last one is always among them
    }


def _ended(job: Entry) -> bool:
    """Whether the process of a job is known to be gone: it ran on this machine, and there is none of its number."""
    process = job["process"]
    if os.name != "posix" or not isinstance(process, dict) or process.get("host") != platform.node():
        return False
    try:
        os.kill(int(process["pid"]), 0)
    except ProcessLookupError:
        return True
    except (OSError, KeyError, TypeError, ValueError, OverflowError):
        return False
    return False


def _result(record: Entry) -> Entry:
    """Title, one line of result, and the seconds of a finished record."""
    match record["kind"]:
        case "train":
            result = record.get("result")
            text = (
                "not evaluated"
                if result is None
                else f"{result['set']} top-1: last {result['last']:.2f} %, best epoch {result['best']:.2f} %"
            )
            return _line(f"{record['method']}, seed {record['seed']}", text, record["seconds"])
        case "search":
            return _line(record["winner"], record["message"], record["seconds"])
        case _:
            text = f"{len(record['winners'])} intervals; {Path(record['schedule']).name}"
            auto = record["auto"]
            return _line(auto.get("exploration", "mixture"), text, record["wall_seconds"])


def _line(title: str, text: str, seconds: float) -> Entry:
    return {"title": str(title), "text": str(text), "seconds": float(seconds)}
