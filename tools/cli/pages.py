"""`drawstream report`, `serve`, `demo`, `papers`: pages about runs, a first run of everything, the papers' tables."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import typer

from drawstream.pipeline.shards import printable
from drawstream.tools.cli.options import DryRunOptions, ResultOptions
from drawstream.tools.runs import FEW, SEED, Options, argument, command, finish, option, write_result


@dataclass(frozen=True, kw_only=True)
class ReportOptions(ResultOptions):
    """Options of `report`."""

    runs: list[Path] = argument("Folder with runs and searches, at any depth; or several, side by side.")
    out: Path | None = option(None, "HTML file; of one folder by default RUN/report.html.", "--out", "-o")
    remote: bool = option(
        False, "Read data on a server that a record names; by default nothing is fetched.", "--remote"
    )
    shots: tuple[int, ...] = option(
        (),
        "Fewest and most training images of a medium-shot class; by default 20,100, or thirds of the classes.",
        within=(1, 10**9),
    )


@dataclass(frozen=True, kw_only=True)
class ServeOptions(Options):
    """Options of `serve`."""

    runs: Path = argument("Folder with runs and searches, at any depth.")
    port: int = option(8000, "Port to listen on; 0 takes a free one.", within=(0, 65535))
    host: str = option("127.0.0.1", "Address to listen on; 0.0.0.0 lets everybody on the network read the page.")


@dataclass(frozen=True, kw_only=True)
class DemoOptions(DryRunOptions):
    """Options of `demo`."""

    data: Literal["digits", "fashion-mnist"] = option("digits", "Data to use: scikit-learn's digits, or Fashion-MNIST.")
    source: Path | None = option(None, "Folder of Fashion-MNIST's IDX files; Debian's by default.")
    noise: float = option(0.4, "Share of training labels to make wrong.", within=FEW)
    seeds: tuple[int, ...] = option((0, 1, 2), "Seeds, comma list.", within=SEED)
    out: Path | None = option(None, "Folder to write; by default runs/demo-DATA.", "--out", "-o")


def report(given: ReportOptions) -> None:
    """Write a self-contained HTML page about the runs and searches of a folder, or compare those of several.

    A record that cannot be read is named there and here, and the exit status is 1.

    Example: drawstream report runs/demo-digits -o report.html

    Two settings side by side: drawstream report runs/lr-0.05 runs/lr-0.1 -o compared.html
    """
    from drawstream.tools.report import write_report

    if given.out is None and len(given.runs) > 1:
        raise ValueError(f"{len(given.runs)} folders: say with --out where their common page is to go")
    page = given.out or given.runs[0] / "report.html"
    if len(given.shots) not in (0, 2):
        raise ValueError(f"--shots must be two numbers, as 20,100, but got {len(given.shots)}: give both")
    shots = (given.shots[0], given.shots[1]) if given.shots else None
    left = write_report(given.runs, page, remote=given.remote, shots=shots)
    for line in left.lines:
        typer.echo(f"left out: {printable(line)}", err=True)
    finish({"report": str(page), "left_out": left.lines}, given.json_path, f"report: {page}")
    if left.damaged:
        raise typer.Exit(1)


def serve(given: ServeOptions) -> None:
    """Follow trainings and searches in the browser: progress, curves, the best so far; Ctrl-C ends it.

    Example: drawstream serve runs
    """
    from drawstream.tools.report import serve_jobs as run

    run(given.runs, given.port, given.host)


def demo(given: DemoOptions) -> None:
    """Run the main job on real data: pack, train uniformly, score, search, train with the sampler, report.

    Example: drawstream demo --data fashion-mnist
    """
    from drawstream.tools import run_demo

    job = (given.data, given.out or Path("runs") / f"demo-{given.data}")
    options: dict[str, Any] = {"source": given.source, "noise": given.noise, "seeds": list(given.seeds)}
    if given.dry_run:
        from drawstream.tools.estimate import estimate_demo, tell

        tell(estimate_demo(*job, **options), given.json_path)
        return
    result = run_demo(*job, **options)
    finish(result, given.json_path, f"report: {result['report']}")


papers_app = typer.Typer(no_args_is_help=False, invoke_without_command=True, rich_markup_mode=None)


@papers_app.callback()
def papers(context: typer.Context) -> None:
    """Every table and figure of the three papers, and the command that makes it.

    Example: drawstream papers; drawstream papers run ss-table-1 --small -o runs/ss-table-1
    """
    if context.invoked_subcommand is None:
        _show_papers(PapersOptions())


@dataclass(frozen=True, kw_only=True)
class PapersOptions(ResultOptions):
    """Options of `papers list`."""

    data: Path = option(Path("data"), "Folder of the data at the papers' size.")


@command(papers_app, PapersOptions, "list")
def list_papers(given: PapersOptions) -> None:
    """Show every table and figure with its two commands: at the paper's size, and for two cores.

    Example: drawstream papers list --data /data
    """
    _show_papers(given)


def _show_papers(given: PapersOptions) -> None:
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
class PaperRunOptions(ResultOptions):
    """Options of `papers run`."""

    table: str = argument("Name of the table or figure, as `drawstream papers list` has it.")
    small: bool = option(False, "Run at a size for two cores, in place of the paper's.", "--small")
    data: Path = option(Path("data"), "Folder of the data at the papers' size.")
    out: Path = option(..., "Folder of its runs; started again, a killed run goes on.", "--out", "-o", decides=False)


@command(papers_app, PaperRunOptions, "run")
def run_paper(given: PaperRunOptions) -> None:
    """Run the command of a table or figure, and keep what it printed in OUT/table.json.

    Example: drawstream papers run bt-table-2 --small -o runs/bt-table-2
    """
    from drawstream.tools.papers import find_table, run_table

    record = run_table(find_table(given.table), given.out, small=given.small, data=given.data)
    finish(record, given.json_path, f"{given.table}: {given.out / 'table.json'}")
