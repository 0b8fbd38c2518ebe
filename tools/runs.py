"""Run records: one JSON file beside what a job wrote, with the command, the settings and the results.

Paths inside are relative to the file's folder, so that a folder of runs can be moved as a whole.
"""

import json
import os
import platform
import sys
import tomllib
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from drawstream.pipeline.secrets import shown, without_secrets
from drawstream.samplers.documents import read_json
from drawstream.samplers.files import write_atomically
from drawstream.samplers.system import raise_unless_file

FORMAT = 1


def write_record(path: Path, kind: str, content: dict[str, Any], /) -> dict[str, Any]:
    """Write a record and return it; `Path` values become relative to its folder, URLs lose their credentials."""
    record = {
        "format": FORMAT,
        "kind": kind,
        "command": command(),
        **_config(sys.argv[1:]),
        **content,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "versions": versions(),
    }
    record = without_secrets({key: _relative(value, path.parent) for key, value in record.items()})
    write_json(path, record)
    return record  # type: ignore[no-any-return]


def command() -> list[str]:
    """The words of the command line of this process, without credentials; `shlex.join` gives what can be pasted."""
    return ["drawstream", *map(shown, sys.argv[1:])]


def _config(arguments: list[str]) -> dict[str, Any]:
    """What the config file of the command holds, where there is one: the command alone does not say it."""
    for i, argument in enumerate(arguments[:-1]):
        name, _, value = argument.partition("=")
        if name == "--config":
            path = Path(value or arguments[i + 1])
            return {"config": tomllib.loads(path.read_text(encoding="utf-8"))} if path.is_file() else {}
        if not argument.startswith("-"):
            break
    return {}


def read_record(path: Path, kind: str, /) -> dict[str, Any]:
    """Read a record back.

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
    if not isinstance(record.get("format"), int):
        raise ValueError(f"{path}: damaged, its format must be a number, but is {record.get('format')!r}")
    if record["format"] > FORMAT:
        raise ValueError(
            f"{path}: format {record['format']} is newer than {FORMAT}, which this drawstream reads: upgrade"
        )
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
    for name in (
        "drawstream",
        "torch",
        "numpy",
        "numba",
        "nvidia-dali-cuda130",
        "nvidia-dali-cuda120",
        "botorch",
        "optuna",
    ):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def machine() -> dict[str, Any]:
    """What decides times: system, processor, cores, and the GPU if this process has used one."""
    found: dict[str, Any] = {"system": platform.platform(), "cpu": _processor(), "cores": os.cpu_count()}
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        found["gpu"] = torch.cuda.get_device_name()
    return found


def _processor() -> str:
    """The processor's name, where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _relative(value: Any, folder: Path) -> Any:
    if isinstance(value, Path):
        return os.path.relpath(value, folder)
    if isinstance(value, dict):
        return {key: _relative(item, folder) for key, item in value.items()}
    if isinstance(value, list):
        return [_relative(item, folder) for item in value]
    return value


def finished_record(path: Path, kind: str, settings: dict[str, Any], keys: tuple[str, ...], /) -> dict[str, Any]:
    """The record of a finished job.

    Raises:
        ValueError: It was done with other settings at one of `keys`.
    """
    record = read_record(path, kind)
    for key in keys:
        if record.get(key, settings[key]) != settings[key]:  # records of earlier versions lack some keys
            raise ValueError(
                f"{path}: a finished run with {key} {record[key]!r}, not {settings[key]!r}: give another output folder"
            )
    return record


def plain(values: dict[str, Any], /) -> dict[str, Any]:
    """Settings as JSON gives them back: lists in place of tuples."""
    return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}
