"""The command line: `drawstream …`, also `python -m drawstream.tools.cli`.

Commands open with what they need, call one function, print one summary. Bad input ends with one line and exit 2.
"""

import os
import sys
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

from drawstream.pipeline.shards import printable
from drawstream.tools.cli import bench, doctor, features, fit, pages, search, shards, stream, train
from drawstream.tools.cli.signals import (
    INTERRUPTED,
    open_standard_streams,
    report_stop,
    signals_as_exceptions,
    silence_output,
    system_error_line,
    user_exit_line,
)
from drawstream.tools.runs import RENAMED, ConfigAnywhere, command, read_config
from drawstream.tools.training.checkpoints import Stopped

ABOUT = "Weighted sampling for image training: pack, score, search, train, report."

app = typer.Typer(
    name="drawstream",
    cls=ConfigAnywhere,
    help=ABOUT,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _tell_version(asked: bool) -> None:
    if asked:
        print(f"drawstream {version('drawstream')}")
        raise typer.Exit


@app.callback()
def common(
    context: typer.Context,
    config: Annotated[
        Path | None, typer.Option(help="TOML file with options of commands; it may stand after the command too.")
    ] = None,
    _version: Annotated[
        bool, typer.Option("--version", callback=_tell_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Weighted sampling for image training: pack, score, search, train, report."""
    if config is not None:
        context.default_map = read_config(config, context.command)


command(app, shards.PackOptions)(shards.pack)
command(app, shards.IndexOptions)(shards.index)
command(app, shards.VerifyOptions)(shards.verify)
command(app, doctor.DoctorOptions)(doctor.doctor)
command(app, train.TrainOptions)(train.train)
command(app, fit.FitOptions)(fit.fit)
command(app, fit.SuspectsOptions)(fit.suspects)
command(app, fit.DuplicatesOptions)(fit.duplicates)
app.add_typer(features.app, name="features")
app.add_typer(search.app, name="search")
app.add_typer(stream.app, name="stream")
app.add_typer(bench.app, name="bench")
app.add_typer(pages.papers_app, name="papers")
command(app, pages.ReportOptions)(pages.report)
command(app, pages.ServeOptions)(pages.serve)
command(app, pages.DemoOptions)(pages.demo)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit status: 0 done, 1 damage, 2 bad input, 75 saved, 130 and 143 stopped."""
    # Threads that spin while they wait take the cores from DALI's, or from another job: beside one other busy process
    # on two cores a training step took 129 ms, with this short spin 24; alone 6 both ways. It must be set before torch.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    open_standard_streams()
    try:
        with signals_as_exceptions():
            words = _none_empty(sys.argv[1:] if arguments is None else arguments)
            status = app(args=words, standalone_mode=False)
            if sys.stdout is not None:
                sys.stdout.flush()  # a broken pipe raises here, and not at exit
        return report_stop(status) if isinstance(status, int) else 0
    except SystemExit as ended:
        stand = str(ended) if isinstance(ended, Stopped) else ""
        culprit = None if stand else user_exit_line(ended)
        return _fail(culprit) if culprit else report_stop(ended.code, stand) if isinstance(ended.code, int) else 0
    except typer.TyperException as error:
        if error.format_message().startswith("Usage:"):  # a group without a command: its help
            print(error.format_message(), file=sys.stderr)
            return 2
        return _fail(_of_parser(error))
    except (typer.Abort, KeyboardInterrupt):
        return report_stop(INTERRUPTED)
    except BrokenPipeError:
        silence_output()
        return 1
    except (ValueError, OSError, RuntimeError, ImportError, MemoryError) as error:
        message = _one_line(error)
        if message is None:
            raise
        return _fail(message)
    finally:
        if "torch" in sys.modules:  # commands that train flush denormals; who calls this function gets IEEE floats back
            sys.modules["torch"].set_flush_denormal(False)


def _none_empty(words: list[str]) -> list[str]:
    """The arguments; an empty one, which a path would take for the working folder, is refused."""
    for word in words:
        if not word or (word.startswith("--") and word.endswith("=")):
            raise ValueError(f"argument {word!r} is empty: is a variable of the shell not set?")
    return words


def _of_parser(error: typer.TyperException) -> str:
    """The parser's message, with a value that it leaves out, and with the new name of an old option."""
    message = error.format_message().replace("Value error, ", "")
    wrong = getattr(error.__context__, "errors", None)
    if callable(wrong) and repr(value := wrong()[0]["input"]) not in message:
        return f"{message}, but got {value!r}"
    old, context = getattr(error, "option_name", ""), getattr(error, "ctx", None)
    new = RENAMED.get(old)
    if new and context and any(new in each.opts for each in context.command.params):
        return f"{old} is {new} now"
    return message


def _one_line(error: Exception) -> str | None:
    """Return one line for an error that the user can fix; None for a bug of ours."""
    if isinstance(error, ImportError):  # an extra that is not installed says so itself
        whole = f"{error}: is the installation whole? `drawstream doctor` looks" if error.name else str(error)
        return None if (error.name or "").startswith("drawstream") else whole
    if "no locator available" in str(error):  # Numba's words
        return "no folder for compiled kernels may be written: let NUMBA_CACHE_DIR name one that may"
    if isinstance(error, OSError | MemoryError) or type(error) is RuntimeError:
        return system_error_line(error)
    return str(error)


def _fail(message: str) -> int:
    with suppress(OSError):  # stderr may lie on the disk that is full
        print(f"drawstream: {printable(' '.join(message.split()))}", file=sys.stderr)
    return 2
