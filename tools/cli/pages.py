"""`drawstream report`, `serve` and `demo`: pages about runs, and a first run of everything."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import typer

from drawstream.pipeline.shards import printable
from drawstream.tools.cli.options import DryRunOptions, ResultOptions
from drawstream.tools.runs import FEW, SEED, Options, argument, finish, option


@dataclass(frozen=True, kw_only=True)
class ReportOptions(ResultOptions):
    """Options of `report`."""

    runs: list[Path] = argument("Folder with runs and searches, at any depth; or several, side by side.")
    out: Path | None = option(None, "HTML file; of one folder by default RUN/report.html.", "--out", "-o")
    remote: bool = option(
        False, "Read data on a server that a record names; by default nothing is fetched.", "--remote"
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
    left = write_report(given.runs, page, remote=given.remote)
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
