"""Run the commands of a table, and keep what they printed with machine and date."""

import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from drawstream.tools.papers.entry import PaperTable
from drawstream.tools.runs import finished_record, hold_identity, tell_finished, write_record

__all__ = ["run_table"]

KIND = "paper-table"


def run_table(table: PaperTable, out: Path, /, *, small: bool, data: Path = Path("data")) -> dict[str, Any]:
    """Run the commands of a table in a folder; killed and started again, they go on where they were.

    Args:
        table: The table or figure.
        out: Folder of its runs; `table.json` in it holds what they printed.
        small: The size for two cores, in place of the paper's.
        data: Folder of the data at the paper's size.

    Returns:
        The record: identity (table, size, commands), printed, seconds (of the last start), machine, versions, finished.

    Raises:
        ValueError: The folder holds another table, size or data; or a command failed, which has said why.
    """
    size = "small" if small else "paper"
    commands = table.commands("OUT", small=small, data=str(data))
    identity = {"table": table.name, "size": size, "commands": commands}
    out.mkdir(parents=True, exist_ok=True)
    hold_identity(out / "table-identity.json", KIND, identity)
    done = finished_record(out / "table.json", KIND, identity)
    if done is not None:
        tell_finished(out / "table.json", done["finished"])
        print(done["printed"], end="")
        return done
    started = time.perf_counter()
    runs = shlex.quote(str(out / "runs"))
    lines = table.commands(runs, small=small, data=shlex.quote(str(data)))
    printed = "".join(_printed(line) for line in lines)
    seconds = round(time.perf_counter() - started, 1)
    content = {"identity": identity, "printed": printed.replace(str(out / "runs"), "OUT"), "seconds": seconds}
    return write_record(out / "table.json", KIND, content)


def _printed(command: str) -> str:
    """Run a command of ours, show its output as it comes, return it; its progress goes to stderr as always."""
    words = [sys.executable, "-m", "drawstream.tools.cli", *shlex.split(command)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603 - a command of ours
        assert process.stdout is not None
        lines = []
        try:
            for line in process.stdout:
                print(line, end="", flush=True)
                lines.append(line)
        except BaseException:
            process.terminate()
            raise
    if process.returncode:
        raise ValueError(f"`drawstream {command}` ended with status {process.returncode}; it says why above")
    return "".join(lines)
