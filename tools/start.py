"""The program `drawstream`: Ctrl-C is heard while the command line is still being imported."""

import sys


def main() -> int:
    """Run the command line; returns its exit status."""
    try:
        from drawstream.tools.cli import main as run

        return run()
    except KeyboardInterrupt:
        print("drawstream: interrupted; start the same command again to go on", file=sys.stderr)
        return 130
