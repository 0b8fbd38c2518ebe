"""The program `drawstream`: Ctrl-C and SIGTERM are heard while the command line is still being imported."""

from drawstream.tools.ending import INTERRUPTED, signals_as_exceptions, stopped


def main() -> int:
    """Run the command line; returns its exit status."""
    try:
        with signals_as_exceptions():
            from drawstream.tools.cli import main as run

        return run()
    except KeyboardInterrupt:
        return stopped(INTERRUPTED)
    except SystemExit as ended:
        return stopped(ended.code) if isinstance(ended.code, int) else 1
