"""Status of the jobs below a folder: running jobs with their points, finished jobs with their results.

Files are read again only when they have changed, so that a folder of a thousand runs can be asked every two seconds.
"""

import math
import os
import platform
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from drawstream.samplers.files import read_json
from drawstream.tools.experiments import METRICS, shown_metric
from drawstream.tools.runs import JOURNAL, open_journal

__all__ = ["Board"]

RECORDS = {"run.json": "train", "search.json": "search", "auto.json": "auto"}
MOST = 500  # jobs of a kind, the newest
LONGEST = 1000  # characters of a title or a result
POINTS = 200  # of a job; of more, every second, third, …

Entry = dict[str, Any]


class Board:
    """The jobs below a folder."""

    def __init__(self, folder: Path, /) -> None:
        self._folder = folder
        self._known: dict[str, tuple[tuple[int, int], Entry | None]] = {}

    def state(self) -> Entry:
        """Return the folder, running jobs (latest news first) and finished jobs (newest first), JSON-able.

        A record, a journal or a folder that cannot be read is an entry of its own, with the reason.
        """
        running: list[Entry] = []
        finished: list[Entry] = []
        seen: dict[str, tuple[tuple[int, int], Entry | None]] = {}
        for path in self._files(finished):
            try:
                status = path.stat()
            except FileNotFoundError:  # replaced or ended just now
                continue
            except OSError as error:  # a loop of links, a folder that is closed
                finished.append(self._unreadable(path, error, 0.0))
                continue
            stamp, key = (status.st_mtime_ns, status.st_size), str(path)
            known = self._known.get(key)
            entry = known[1] if known is not None and known[0] == stamp else self._read(path, status.st_mtime)
            seen[key] = stamp, entry
            if entry is not None:
                (running if "updated" in entry else finished).append(entry)
        self._known = seen
        finished.sort(key=lambda entry: -entry["when"])
        running.sort(key=lambda entry: -entry["updated"])
        now = time.time()
        live = [{**job, "silent": max(0.0, now - job["updated"]), "ended": _ended(job)} for job in running[:MOST]]
        live.sort(key=lambda job: job["ended"])
        folder = str(self._folder.resolve())
        return {"folder": folder, "running": live, "finished": finished[:MOST], "jobs": len(finished)}

    def _files(self, closed: list[Entry]) -> Iterator[Path]:
        """Return records and journals; folders that cannot be read go to `closed`."""

        def refuse(error: OSError) -> None:
            if not isinstance(error, FileNotFoundError):
                closed.append(self._unreadable(Path(error.filename, "folder"), error, 0.0))

        names = {JOURNAL, *RECORDS}
        for folder, _, found in os.walk(self._folder, onerror=refuse):
            yield from (Path(folder, name) for name in names.intersection(found))

    def _read(self, path: Path, changed: float) -> Entry | None:
        name = path.parent.relative_to(self._folder).as_posix()
        try:
            if path.name == JOURNAL:
                return _running(open_journal(path), name)
            record = read_json(path, remedy="run the job again", finite=False)
            return {"folder": name, "kind": RECORDS[path.name], "when": changed} | _result(record)
        except FileNotFoundError:
            return None
        except Exception as error:  # of a stranger's values; the other jobs are shown all the same
            return self._unreadable(path, error, changed)

    def _unreadable(self, path: Path, error: Exception, changed: float) -> Entry:
        what = {JOURNAL: "damaged journal", "folder": "folder"}.get(path.name, "damaged record")
        if isinstance(error, OSError):
            text = error.strerror or str(error)
        else:
            text = f"it has no {error}" if isinstance(error, KeyError) else str(error).removeprefix(f"{path}: ")
        name = path.parent.relative_to(self._folder).as_posix()
        kind = RECORDS.get(path.name, path.stem)
        return {"folder": name, "kind": kind, "when": changed, **_line("not readable", f"{what}: {text}")}


def _running(journal: Entry, name: str) -> Entry:
    points = [[_number(spent), int(step), _values(values)] for spent, step, values in journal["points"]]
    every = -(-len(points) // POINTS) if points else 1
    process = journal.get("process")
    return {
        "folder": name,
        "kind": str(journal["kind"]),
        "title": str(journal["title"]),
        "step": int(journal["step"]),
        "total": int(journal["total"]),
        "updated": _number(journal["updated"]),
        "process": {key: process.get(key) for key in ("pid", "host")} if isinstance(process, dict) else None,
        "points": points[(len(points) - 1) % every :: every],  # the last one is always among them
    }


def _values(values: Entry) -> dict[str, float]:
    return {str(name): _number(value) for name, value in values.items()}


def _number(value: Any) -> float:
    """Return a number of a journal; NaN and infinity are refused."""
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"numbers must be finite, but one is {number}")
    return number


def _ended(job: Entry) -> bool:
    """Return True if the job's process is known to be gone: it ran on this machine, and no process has its number."""
    process = job["process"]
    pid = process.get("pid") if process and process.get("host") == platform.node() else None
    return isinstance(pid, int) and 0 < pid < 2**31 and not psutil.pid_exists(pid)


def _result(record: Entry) -> Entry:
    """Return title, one line of result, and the seconds of a finished record."""
    if not isinstance(record, dict):
        raise TypeError(f"it must be an object, but is {type(record).__name__}")
    match record["kind"]:
        case "train":
            result = record.get("result")
            text = "not evaluated" if result is None else _numbers(result)
            return _line(f"{record['method']}, seed {record['seed']}", text, record["seconds"])
        case "search":
            return _line(record["winner"], record["message"], record["seconds"])
        case _:
            text = f"{len(record['winners'])} intervals; {Path(record['schedule']).name}"
            auto = record["auto"]
            return _line(auto.get("exploration", "mixture"), text, record["wall_seconds"])


def _numbers(result: Entry) -> str:
    metric = result.get("metric", "top1")
    last, best = (shown_metric(float(result[name]), metric) for name in ("last", "best"))
    return f"{result['set']} {METRICS[metric]}: last {last}, best epoch {best}"


def _line(title: object, text: object, seconds: float | None = None) -> Entry:
    line: Entry = {"title": str(title)[:LONGEST], "text": str(text)[:LONGEST]}
    return line if seconds is None else line | {"seconds": float(seconds)}
