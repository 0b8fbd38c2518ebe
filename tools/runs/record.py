"""Run records: one JSON file beside what a job wrote, with the command, the settings and the results.

Paths inside are relative to the file's folder, so that a folder of runs can be moved as a whole.
"""

import json
import os
import platform
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from drawstream.pipeline import plain, refuse_other, shown, without_secrets
from drawstream.pipeline.shards import printable
from drawstream.samplers.files import raise_unless_file, read_json, write_atomically
from drawstream.tools.runs.config import used_config

FORMAT = 1
BEFORE = {"finished_before": True}  # of a result that was there before this command
DECIDING = (
    *("drawstream", "torch", "numpy", "numba", "nvidia-dali-cuda130", "nvidia-dali-cuda120", "pillow", "botorch"),
    "optuna",
)
BESIDE = ("processes", "engine", "page")  # of a benchmark's record: they change no figure


def write_record(path: Path, kind: str, content: dict[str, Any], /) -> dict[str, Any]:
    """Write a record and return it; `Path` values become relative to its folder, URLs lose their credentials."""
    record = {"format": FORMAT, "kind": kind, "command": command_line(), **used_config(), **content}
    record |= {"finished": datetime.now(UTC).isoformat(timespec="seconds")}
    record |= {"machine": machine(), "versions": versions()}
    record = {key: _kept(key, value, path.parent) for key, value in record.items()}
    write_json(path, record)
    return record


def command_line() -> list[str]:
    """The words of the command line of this process, without credentials; `shlex.join` gives what can be pasted."""
    return ["drawstream", *map(shown, sys.argv[1:])]


def read_record(path: Path, kind: str, /) -> dict[str, Any]:
    """Read a record.

    Raises:
        ValueError: Missing, damaged, of another kind or a newer format.
    """
    try:
        record = read_json(path, remedy="remove it and run the job again", finite=False)
    except FileNotFoundError:
        raise ValueError(f"{path}: no such record; run the job first") from None
    except OSError as error:
        raise_unless_file(error, path)
        raise ValueError(f"{path}: not readable ({error.strerror})") from None
    if not isinstance(record, dict) or record.get("kind") != kind:
        raise ValueError(f"{path}: not the record of a {kind} job")
    number = record.get("format")
    if not isinstance(number, int):
        raise ValueError(f"{path}: damaged, its format must be a number, but is {number!r}")
    if number > FORMAT:
        raise ValueError(f"{path}: format {number} is newer than {FORMAT}, which this drawstream reads: upgrade")
    return without_secrets(record)  # type: ignore[no-any-return]


def files_below(folder: Path, name: str, /, *, skip: Callable[[OSError], None] | None = None) -> list[Path]:
    """Files of that name in a folder, at any depth, sorted; `skip` is told of folders that cannot be read.

    Raises:
        OSError: A folder cannot be read, and no `skip` is given: what it holds must not be left out in silence.
    """

    def refuse(error: OSError) -> None:
        if isinstance(error, FileNotFoundError):  # a job's own, gone meanwhile
            return
        if skip is None:
            raise error
        skip(error)

    return sorted(Path(root, name) for root, _, names in os.walk(folder, onerror=refuse) if name in names)


def write_json(path: Path, value: Any, /) -> None:
    """Write one JSON object, readable by people, without secrets of URLs."""
    with write_atomically(path) as temporary:
        temporary.write_text(json.dumps(without_secrets(value), indent=2) + "\n", encoding="utf-8")


def versions() -> dict[str, str]:
    """Versions of what decides numbers."""
    found = {"python": platform.python_version()}
    for name in DECIDING:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def machine() -> dict[str, Any]:
    """Describe the machine behind the times: system, processor, cores, and the GPU if this process has used one."""
    found: dict[str, Any] = {"system": platform.platform(), "cpu": _processor(), "cores": os.cpu_count()}
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        found["gpu"] = torch.cuda.get_device_name()
    return found


def _processor() -> str:
    """The processor's name, where the system tells it."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _kept(key: str, value: Any, folder: Path) -> Any:
    """Return a value as a record has it; an identity, which holds no URL, to the letter."""
    return value if key == "identity" else without_secrets(_relative(value, folder))


def _relative(value: Any, folder: Path) -> Any:
    if isinstance(value, Path):
        return os.path.relpath(value, folder)
    if isinstance(value, dict):
        return {key: _relative(item, folder) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_relative(item, folder) for item in value]
    return value


def finished_record(
    path: Path, kind: str, identity: Mapping[str, Any], /, files: Iterable[str] = ()
) -> dict[str, Any] | None:
    """Return the record of a finished job; None if there is none.

    Raises:
        ValueError: It is of a job of another identity, and both sides are shown; or one of its `files` is gone.
    """
    if not path.exists():
        return None
    record = read_record(path, kind)
    refuse_other(path, record.get("identity"), identity)
    for name in files:
        require_there(path.parent / name, path)
    return record


def require_there(file: Path, record: Path, /) -> None:
    """Refuse, with a ValueError, to take a job for finished whose file is gone."""
    if not file.exists():
        raise ValueError(f"{file} is missing, but {record.name} says that its job is finished: remove it and run again")


def tell_finished(where: Path, finished: str, /) -> None:
    """Say on stderr that a job was finished earlier; `finished` is its time, in ISO format."""
    when = datetime.fromisoformat(finished).astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    print(printable(f"note: {where}: this job was finished on {when}; nothing was run"), file=sys.stderr, flush=True)


def reuse(path: Path, record: dict[str, Any], /, *, quiet: bool = False) -> dict[str, Any]:
    """Return the record of a job that was finished before, marked so; say it on stderr unless `quiet`."""
    if not quiet:
        tell_finished(path, record["finished"])
    return record | BEFORE


def hold_identity(path: Path, kind: str, identity: Mapping[str, Any], /) -> None:
    """Note what the jobs of a folder have in common, or compare with what is noted there; errors as `refuse_other`."""
    if path.exists():
        refuse_other(path, read_record(path, kind).get("identity"), identity)
    else:
        write_record(path, kind, {"identity": plain(identity)})


def conclude(path: Path, kind: str, content: dict[str, Any], /) -> dict[str, Any]:
    """Write the record of a job of many runs; where it stands there already, say that nothing was run.

    Measured seconds are part of the content, so equal content was read from the same finished runs.
    """
    if path.exists():
        record = read_record(path, kind)
        now = json.loads(json.dumps({key: _kept(key, value, path.parent) for key, value in content.items()}))
        if all(record.get(key) == value for key, value in now.items() if key not in BESIDE):
            return reuse(path, record)
    return write_record(path, kind, content)


def before(record: Mapping[str, Any], /) -> dict[str, Any]:
    """Return what a result takes over of a record that was there: that its job was finished before."""
    return {key: record[key] for key in (*BEFORE, "finished")} if record.keys() >= BEFORE.keys() else {}


def finish(result: dict[str, Any], json_path: Path | None, text: str) -> None:
    """Print the summary and write the JSON result."""
    write_result(result, json_path)
    print(printable(text))


def write_result(result: dict[str, Any], json_path: Path | None) -> None:
    """Write what `--json` asks for: the command, and its result."""
    if json_path is not None:
        write_json(json_path, {"command": command_line(), **result})
