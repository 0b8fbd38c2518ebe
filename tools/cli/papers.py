"""`drawstream papers`: every table and figure of the three papers, with its command."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from drawstream.tools.cli.options import ResultOptions
from drawstream.tools.runs import argument, command, finish, option, write_result

app = typer.Typer(no_args_is_help=False, invoke_without_command=True, rich_markup_mode=None)


@app.callback()
def papers(context: typer.Context) -> None:
    """Every table and figure of the three papers, and the command that makes it.

    Example: drawstream papers; drawstream papers run ss-table-1 --small -o runs/ss-table-1
    """
    if context.invoked_subcommand is None:
        _show(PapersOptions())


@dataclass(frozen=True, kw_only=True)
class PapersOptions(ResultOptions):
    """Options of `papers list`."""

    data: Path = option(Path("data"), "Folder of the data at the papers' size.")


@command(app, PapersOptions, "list")
def list_(given: PapersOptions) -> None:
    """Show every table and figure with its two commands: at the paper's size, and for two cores.

    Example: drawstream papers list --data /data
    """
    _show(given)


def _show(given: PapersOptions) -> None:
    from drawstream.tools.papers import PAPERS, TABLES

    listed: list[dict[str, Any]] = []
    for table in TABLES.values():
        title = PAPERS[table.name.partition("-")[0]]
        if not any(each["paper"] == title for each in listed):
            print(f"\n{title}")
        folder = f"runs/{table.name}"
        full, small = (table.commands(folder, small=size, data=str(given.data)) for size in (False, True))
        print(f"\n  {table.name:14} {table.shows}")
        for size, lines in (("paper", full), ("small", small)):
            print("\n".join(f"    {size}: drawstream {line}" for line in lines))
        listed.append({"name": table.name, "paper": title, "shows": table.shows, "full": full, "small": small})
    write_result({"tables": listed}, given.json_path)


@dataclass(frozen=True, kw_only=True)
class RunOptions(ResultOptions):
    """Options of `papers run`."""

    table: str = argument("Name of the table or figure, as `drawstream papers list` has it.")
    small: bool = option(False, "Run at a size for two cores, in place of the paper's.", "--small")
    data: Path = option(Path("data"), "Folder of the data at the papers' size.")
    out: Path = option(..., "Folder of its runs; started again, a killed run goes on.", "--out", "-o", decides=False)


@command(app, RunOptions)
def run(given: RunOptions) -> None:
    """Run the command of a table or figure, and keep what it printed in OUT/table.json.

    Example: drawstream papers run bt-table-2 --small -o runs/bt-table-2
    """
    from drawstream.tools.papers import find_table, run_table

    record = run_table(find_table(given.table), given.out, small=given.small, data=given.data)
    finish(record, given.json_path, f"{given.table}: {given.out / 'table.json'}")
